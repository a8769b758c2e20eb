"""models.d/*.yaml, and the table of all kinds of files with their schemas."""

import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from engine.config.declared import DECLARED
from engine.config.schema_base import (
    Count,
    CountOrNone,
    Name,
    Seconds,
    Strict,
    Texts,
    Traits,
    described,
)
from engine.config.schema_gateway import GatewayFile
from engine.config.schema_names import NamesFile
from engine.config.schema_policy import PolicyFile
from engine.config.schema_price import PriceEntry
from engine.config.schema_provider import ProviderFile
from engine.wire.formats import SECTIONS

CAPABILITIES = (
    "chat", "completions", "embeddings", "tools", "parallel_tools", "vision", "json_schema", "json_mode",
    "reasoning", "audio_input", "audio_output", "pdf", "web_search", "caching",
    "images", "rerank", "moderation", "transcription", "speech",
)  # fmt: skip

ModelName = Annotated[str, Field(pattern=r"^[^\s\x00-\x1f]+$", max_length=200)]


class ModelLimits(Strict):
    context: Count | None = described("tokens that go in and out together", None)
    output: Count | None = described("tokens of the longest answer", None)


class ModelTimeouts(Strict):
    connect_s: Seconds | None = described("until the connection stands", None)
    headers_s: Seconds | None = described("streamed calls: until the response's headers", None)
    first_token_s: Seconds | None = described("streamed calls: until the first content", None)
    idle_s: Seconds | None = described("streamed calls: longest silence", None)
    answer_s: Seconds | None = described("plain calls: until the whole answer", None)
    total_s: Seconds | None = described("the whole call, all attempts together", None)


class TargetEntry(Strict):
    provider: Name = described("the provider that is asked")
    model: ModelName = described("the provider's own name for the model")
    weight: float = described("share of the calls under `strategy: weighted`", 1.0, ge=0)
    prefill: bool | None = described(
        "it continues a trailing assistant message; default: as the model says", None
    )
    price: PriceEntry | None = described("price at this provider; default: the model's", None)
    limits: ModelLimits | None = described("limits at this provider; default: the model's", None)
    traits: Traits = described("traits of the provider's wire that are otherwise for this target", {})


class ModelEntry(Strict):
    """One model: the name callers ask for, and the targets that can answer it."""

    extends: str | None = described("a model whose keys these go over", None)
    aliases: tuple[ModelName, ...] = described("other names for it", ())
    capabilities: Texts = described(f"what it can do: {', '.join(CAPABILITIES)}", ("chat",))
    limits: ModelLimits = described("token limits", ModelLimits())
    price: PriceEntry | None = described("US dollars per 1M tokens, as text", None)
    strategy: Literal["failover", "weighted", "least_latency", "cheapest"] = described(
        "order in which targets are asked", "failover"
    )
    policy: Name | None = described("the policy; default: the one named `default`", None)
    timeouts: ModelTimeouts = described("clocks that differ from the policy's", ModelTimeouts())
    prefill: bool = described("it continues a trailing assistant message", False)
    traits: Traits = described("traits of its providers' wires that are otherwise for this model", {})
    targets: tuple[TargetEntry, ...] = described("who can answer, in order", min_length=1)
    created: CountOrNone = described("seconds since 1970, shown in the list of models", 0)
    owned_by: str | None = described(
        "shown in the list of models; default: the first target's provider", None
    )


class ModelsFile(Strict):
    models: dict[str, ModelEntry] = described("models by name")


_SCHEMAS: dict[str, type[BaseModel]] = {
    "gateway": GatewayFile,
    "provider": ProviderFile,
    "model": ModelsFile,
    "names": NamesFile,
    "policy": PolicyFile,
    **DECLARED,
}
ENTRIES: dict[str, type[BaseModel]] = {
    "provider": ProviderFile,
    "model": ModelEntry,
    "names": NamesFile,
    "policy": PolicyFile,
    **DECLARED,
}


KINDS = (*_SCHEMAS, "format")


def write_json_schema(kind: str) -> str:
    """The JSON Schema of one kind of file, for editors."""
    schema = _describe_format() if kind == "format" else _SCHEMAS[kind].model_json_schema(mode="validation")
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    return json.dumps(schema, indent=2, sort_keys=True) + "\n"


def _describe_format() -> dict[str, Any]:
    """A wire format is checked by compiling it; for editors its sections are named."""
    sections: dict[str, Any] = {name: {"description": text} for name, text in SECTIONS.items()}
    sections["extends"] = {"description": "a format whose leaves these go over", "type": "string"}
    return {
        "title": "FormatFile",
        "type": "object",
        "properties": sections,
        "required": ["format"],
        "additionalProperties": False,
    }

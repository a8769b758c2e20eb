"""providers.d/*.yaml: who is asked, with which credential, on which wire, and what differs from that wire."""

from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    Discriminator,
    Field,
    Tag,
    model_validator,
)
from pydantic_core import PydanticCustomError

from engine.config.schema_auth import AuthEntry, Url, read_auth
from engine.config.schema_base import (
    Name,
    SecretText,
    Strict,
    TextOrUnset,
    Texts,
    Traits,
    described,
    one_or_many,
    word_or_tree,
)
from engine.config.schema_examples import ExampleEntry
from engine.config.schema_price import UnknownPrice
from engine.wire.operations import Operation


class MessagesEntry(Strict):
    """Changes to the messages of a chat, applied in this order."""

    roles: dict[str, str] = described("roles it calls otherwise: {developer: system}", {})
    drop: Texts = described("keys of a message it does not take", ())
    rename: dict[str, str] = described("keys of a message it calls otherwise: {old: new}", {})
    default: dict[str, dict[str, Any]] = described(
        "keys a message of a role must have: {role: {key: value}}", {}
    )
    flatten: Texts = described("roles whose lists of nothing but texts become one text", ())
    call_id_length: int | None = described(
        "ids of tool calls become so many letters and digits, those that fit stay", None, ge=6, le=32
    )
    join: bool = described("neighbours of one role become one message", False)
    tell_schema: str | None = described(
        "words of a first system message that shows the JSON Schema of the answer as {schema}", None
    )


class FixesEntry(Strict):
    """Changes to a request's top-level keys, applied in this order."""

    drop: Texts = described("keys this provider does not take", ())
    rename: dict[str, str] = described("keys it calls otherwise: {old: new}", {})
    clamp: dict[str, tuple[float, float]] = described(
        "numbers it takes in a range only: {key: [low, high]}", {}
    )
    default: dict[str, Any] = described("values for keys that the request leaves out", {})
    force: dict[str, Any] = described("values that replace what the request says", {})
    replace: dict[str, dict[str, Any]] = described(
        "words it calls otherwise: {key: {word: value}}; null leaves the key out", {}
    )
    messages: MessagesEntry | None = described("changes to the messages of a chat", None)

    @model_validator(mode="after")
    def _refuse_empty_ranges(self) -> "FixesEntry":
        for name, (low, high) in self.clamp.items():
            if low > high:
                raise PydanticCustomError(
                    "clamp", "clamp.{name}: the low end is above the high end", {"name": name}
                )
        return self


def _as_said(value: Any) -> Any:
    """`key` or `[key, key]` stand for any value of them."""
    if isinstance(value, dict):
        return {key: one_or_many(values) for key, values in value.items()}
    return dict.fromkeys(one_or_many(value)) if isinstance(value, str | list | tuple) else value


Said = Annotated[
    dict[str, tuple[Any, ...] | None],
    BeforeValidator(_as_said, json_schema_input_type=str | list[str] | dict[str, Any]),
]


class RuleEntry(FixesEntry):
    """Changes for some requests only."""

    models: Texts = described("globs of the provider's model ids it is for; default: all", ())
    when: Said = described("keys the request must have, or {key: value, or several}; `a.b` is b inside a", {})
    unless: Said = described("keys the request must not have, written likewise", {})

    @model_validator(mode="after")
    def _refuse_no_condition(self) -> "RuleEntry":
        if not (self.models or self.when or self.unless):
            raise PydanticCustomError("rule", "a rule needs a condition: models, when or unless")
        return self


class ParamsEntry(FixesEntry):
    """Changes to a request's top-level keys: those that always hold, then the rules, in order."""

    rules: tuple[RuleEntry, ...] = described("changes for some models or requests only", ())


class ListingEntry(Strict):
    """How the provider's own list of models is read."""

    path: str = described("path below base_url, or a whole address", pattern="^(/|https://)")
    items: str = described("JSONPath of the rows", "$.data[*]")
    id: str = described("JSONPath of a row's model id, or a template over `row`", "$.id")
    name: str | None = described("JSONPath of a row's display name", None)
    context_length: str | None = described("JSONPath of a row's context length", None)
    output_length: str | None = described("JSONPath of a row's longest answer", None)


class EndpointEntry(Strict):
    path: str | None = described("path below base_url; default: the format's", None, pattern="^/")
    stream_path: str | None = described(
        "path of streamed calls; default: `path`, and the format's when that is left out", None, pattern="^/"
    )
    format: Name | None = described("wire format; default: the format's sibling for this operation", None)


class PrefillEntry(Strict):
    message: dict[str, Any] = described("keys merged into the assistant message to be continued", {})
    body: dict[str, Any] = described("keys merged into the request's body", {})


class UsageFrom(Strict):
    """Where this provider reports usage, when not where its format says."""

    model_config = {"extra": "allow"}

    from_: Texts | None = described(
        "JSONPath of the usage object, or several tried in order", None, alias="from"
    )


class FormatOverride(Strict):
    """A wire format with leaves of its own: `{extends: openai-chat, ...}`."""

    model_config = {"extra": "allow"}

    extends: Name = described("the wire format that these leaves go over")


Endpoint = Annotated[
    Annotated[EndpointEntry, Tag("tree")] | Annotated[Literal[False], Tag("word")],
    Discriminator(word_or_tree),
]
FormatChoice = Annotated[
    Annotated[FormatOverride, Tag("tree")] | Annotated[Name, Tag("word")], Discriminator(word_or_tree)
]


class ProviderFile(Strict):
    """One provider."""

    provider: Name = described("the provider's name")
    extends: Name | None = described("a provider whose keys these go over", None)
    format: FormatChoice = described("the wire format it speaks, or {extends: FORMAT, ...leaves}")
    base_url: Url = described("where it is; paths go below")
    auth: Annotated[
        AuthEntry, BeforeValidator(read_auth, json_schema_input_type=AuthEntry | Literal["none"])
    ] = described("how a credential is sent", AuthEntry())
    headers: dict[str, Annotated[str | SecretText, Field(union_mode="left_to_right")]] = described(
        "headers sent with every request", {}
    )
    params: ParamsEntry = described("changes to a request's keys", ParamsEntry())
    variables: dict[str, TextOrUnset] = described(
        "names for parts of base_url and paths: `{{ target.variables.NAME }}`", {}
    )
    traits: Traits = described("traits of the wire format that are otherwise here", {})
    endpoints: dict[Operation, Endpoint] = described(
        "endpoints that differ from the format's; false: not there", {}
    )
    also: dict[Name, EndpointEntry] = described(
        "other wire formats that it speaks, taken for clients that speak them, and where they are served", {}
    )
    usage: UsageFrom | None = described("where usage is reported", None)
    errors: dict[str, Any] | None = described("leaves over the format's `errors`", None)
    models: ListingEntry | None = described("how its list of models is read", None)
    stream_usage: Literal["ask", "always", "never"] = described(
        "usage in a stream: ask for it, it comes unasked, or it cannot be had", "ask"
    )
    prefill: PrefillEntry | None = described("how an answer is continued from an assistant message", None)
    allow_private: bool = described("loopback, private and link-local addresses are meant", False)
    passthrough: bool = described("provider/any-model may be asked for", False)
    unknown_price: UnknownPrice | None = described("price of a model nobody listed", None)
    simulator: bool = described("this is the built-in simulator", False)
    http2: bool = described("the provider must be spoken to in HTTP/2", False)
    enabled: bool = described("false: never asked", True)
    reason: str = described("why it is not enabled", "")
    examples: tuple[ExampleEntry, ...] = described("executable examples", ())

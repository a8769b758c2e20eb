"""Each key of a chat goes through a format's request and comes back, or is named as lost."""

from typing import Any

import orjson
import pytest

from tests.wire.formats_at_hand import WILLING, load_format
from tests.wire.pairs.asked import DIALECTS

SAID: dict[str, Any] = {
    "tools": [{"type": "function", "name": "f", "parameters": {"type": "object", "properties": {"a": {}}}}],
    "tool_choice": {"mode": "required"},
    "parallel_tools": False,
    "max_output": 3000,
    "temperature": 0.5,
    "top_p": 0.5,
    "top_k": 5,
    "min_p": 0.1,
    "n": 2,
    "stop": ["END"],
    "seed": 3,
    "frequency_penalty": 0.5,
    "presence_penalty": 0.5,
    "repetition_penalty": 1.1,
    "logit_bias": {"5": 1},
    "logprobs": True,
    "top_logprobs": 3,
    "response_format": {"type": "json_schema", "name": "x", "schema": {"type": "object", "properties": {}}},
    "reasoning": {"effort": "high"},
    "verbosity": "low",
    "modalities": ["text", "audio"],
    "audio": {"voice": "alloy"},
    "prediction": {"type": "content", "content": "x"},
    "web_search": {"search_context_size": "low"},
    "user": "u",
    "metadata": {"a": "b"},
    "service_tier": "priority",
    "store": True,
    "cache_key": "k",
    "cache_retention": "24h",
    "safety_id": "s",
}

# What comes back as something else: a tool of the dialect's own, a key that says the same, a wish of the wire's caller.
TOLD_OTHERWISE = {
    "openai-responses": {"web_search", "store"},
    "anthropic-messages": {"web_search", "safety_id"},
    "gemini": {"web_search"},
}


@pytest.mark.parametrize("key", SAID)
@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_key_of_a_chat_comes_back_or_is_named_as_lost(dialect: str, key: str) -> None:
    form = load_format(dialect)
    willing = {name: value for name, value in WILLING["traits"].items() if name != "issuer"}
    traits = {
        **form.traits,
        **willing,
        "labels": True,
        "thinking": "level" if dialect == "gemini" else "both",
    }
    beside = {"tools": SAID["tools"]} if key in ("tool_choice", "parallel_tools") else {}
    turns = [{"role": "user", "parts": [{"type": "text", "text": "hi"}]}]
    chat = {"model": "up", "turns": turns, "dialect": "another", **beside, key: SAID[key]}
    sent = orjson.loads(
        orjson.dumps(form.write_request(chat, {**WILLING, "traits": traits, "capabilities": []}))
    )
    again = form.read_request({"model": "up", **sent}, {"model": "up"})
    kept = key in again or key in TOLD_OTHERWISE.get(dialect, ())
    assert kept != (key in form.find_loss(chat))

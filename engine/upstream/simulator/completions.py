"""The `openai-completions` wire: prompts continued as plain text."""

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import orjson

from engine.upstream.simulator import errors
from engine.upstream.simulator.chat import FINGERPRINT, end_with, rate_token, write_counts
from engine.upstream.simulator.compose import compose_choices, count_tokens, interleave
from engine.upstream.simulator.dialog import (
    FINISH,
    TOKEN,
    USAGE,
    Ask,
    Choice,
    Counts,
    Event,
    Refused,
    Ticket,
    Turn,
    Wire,
    Written,
    digest_turns,
)
from engine.upstream.simulator.names import Script
from engine.upstream.simulator.reading import (
    check_sampling,
    read_flag,
    read_model,
    read_number,
    read_stops,
    read_usage_flag,
    read_whole,
    refuse_type,
    require,
)
from engine.upstream.simulator.text import count_words

_MANY = 1 << 31


def read(body: Mapping[str, Any]) -> Ask:
    """Validate a completion request."""
    model, stream = read_model(body), read_flag(body, "stream")
    check_sampling(body)
    seed = int(read_number(body, "seed", -_MANY * _MANY, _MANY * _MANY) or 0)
    conversations = [[Turn("prompt", text, counted)] for text, counted in read_inputs(body, "prompt")]
    n = read_whole(body, "n", 1, 128)
    return Ask(
        model,
        conversations,
        stream=stream,
        usage_asked=read_usage_flag(body, stream),
        n=n or 1,
        limit=read_whole(body, "max_tokens", 0, _MANY),
        stops=read_stops(body),
        seed=seed,
        logprobs=read_whole(body, "logprobs", 0, 5),
        echo=read_flag(body, "echo"),
        digest=digest_turns([turns[0] for turns in conversations], seed),
    )


def read_inputs(body: Mapping[str, Any], param: str) -> list[tuple[str, int]]:
    """A string, strings, tokens or lists of tokens, each as text with its count of tokens."""
    given = require(body, param)
    if isinstance(given, str):
        return [(given, count_words(given))]
    if not isinstance(given, list):
        raise refuse_type(param, "a string or an array", given)
    if not given:
        raise Refused(400, f"Invalid '{param}': empty array.", param=param, code="empty_array")
    if all(type(one) is int for one in given):
        return [(" ".join(map(str, given)), len(given))]
    return [_read_input(one, f"{param}[{number}]") for number, one in enumerate(given)]


def _read_input(given: Any, where: str) -> tuple[str, int]:
    if isinstance(given, str):
        return given, count_words(given)
    if isinstance(given, list) and given and all(type(one) is int for one in given):
        return " ".join(map(str, given)), len(given)
    raise refuse_type(where, "a string or an array of integers", given)


def write(ask: Ask, script: Script, ticket: Ticket) -> Written:
    choices = compose_choices(ask, script)
    counts = count_tokens(ask, script, choices)
    return Written(
        counts,
        counts.completion,
        plain=partial(_write_plain, ask, script, _open_reply(ask, ticket), choices, counts),
        events=partial(_write_events, ask, script, _open_reply(ask, ticket), choices, counts),
    )


def _open_reply(ask: Ask, ticket: Ticket) -> dict[str, Any]:
    return {
        "id": f"cmpl-{ticket.number}",
        "object": "text_completion",
        "created": ticket.created,
        "model": ask.model,
        "system_fingerprint": FINGERPRINT,
    }


def _write_plain(
    ask: Ask, script: Script, reply: dict[str, Any], choices: list[Choice], counts: Counts
) -> bytes:
    reply["choices"] = [
        _write_choice(ask, choice.index, [choice.echoed, *choice.text], end_with(choice))
        for choice in choices
    ]
    if "no-usage" not in script.parts:
        reply["usage"] = write_counts(counts)
    return orjson.dumps(reply)


def _write_choice(ask: Ask, index: int, tokens: list[str], finish: str | None) -> dict[str, Any]:
    logprobs = None if ask.logprobs is None else _write_logprobs([one for one in tokens if one], ask.logprobs)
    return {"text": "".join(tokens), "index": index, "logprobs": logprobs, "finish_reason": finish}


def _write_logprobs(tokens: list[str], top: int) -> dict[str, Any]:
    offsets, at = [], 0
    for token in tokens:
        offsets.append(at)
        at += len(token)
    rates = [rate_token(token) for token in tokens]
    ranked = [
        {token if not place else f"{token}{place}": rate - place for place in range(top)}
        for token, rate in zip(tokens, rates, strict=True)
    ]
    return {"tokens": tokens, "token_logprobs": rates, "top_logprobs": ranked, "text_offset": offsets}


def _write_events(
    ask: Ask, script: Script, reply: dict[str, Any], choices: list[Choice], counts: Counts
) -> Iterator[Event]:
    parts = script.parts
    in_finish = "usage-in-finish" in parts
    asked = (ask.usage_asked or "usage-always" in parts) and "no-usage" not in parts
    empty: dict[str, Any] = {"usage": None} if asked and not in_finish else {}
    for choice in choices:
        if choice.echoed:
            yield (
                TOKEN,
                orjson.dumps(
                    {**reply, "choices": [_write_choice(ask, choice.index, [choice.echoed], None)], **empty}
                ),
            )
    for choice, place in interleave(choices):
        yield (
            TOKEN,
            orjson.dumps(
                {**reply, "choices": [_write_choice(ask, choice.index, [choice.text[place]], None)], **empty}
            ),
        )
    for place, choice in enumerate(choices, 1):
        tail = {"usage": write_counts(counts)} if in_finish and place == len(choices) else empty
        yield (
            FINISH,
            orjson.dumps(
                {**reply, "choices": [_write_choice(ask, choice.index, [], end_with(choice))], **tail}
            ),
        )
    if asked and not in_finish:
        yield USAGE, orjson.dumps({**reply, "choices": [], "usage": write_counts(counts)})


BLANK = b'{"id":"","object":"text_completion","created":0,"model":"","choices":[]}'
WIRE = Wire(read, write, errors.write_error, done=b"[DONE]", blank=BLANK)

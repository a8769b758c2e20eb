"""Ids of tool calls on their way: each dialect sees its own alphabet, results find their calls, and ids come back."""

import re
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.wire.call_ids import fit_id, restore_id
from engine.wire.canonical import BlockEnded, BlockStarted, Event, Finished, Started
from engine.wire.kept_state import list_open_calls, name_call
from tests.gateway.speakers import SPEAKERS, Speaker
from tests.wire.formats_at_hand import load_format
from tests.wire.test_opaque import tell

DIALECTS = [speaks.dialect for speaks in SPEAKERS]
ALLOWED = {
    "openai-chat": r"[!-~]{1,40}",
    "anthropic-messages": r"[a-zA-Z0-9_-]{1,64}",
    "bedrock-converse": r"[a-zA-Z0-9_.:-]{1,64}",
    "openai-responses": r"[a-zA-Z0-9_-]{1,64}",
}
LONG = "call_" + "aB3_" * 60
IDS = [
    "toolu_01A09q90qw90lq917835lq9",
    "call_8Kx",
    "D681PevKs",
    "functions.look:0",
    "chatcmpl-tool-9",
    "ça va",
    LONG,
]


def call_twice(id: str) -> list[Event]:
    """An answer with two calls, as any provider's reader states it."""
    events: list[Event] = [Started("answer1", "m", 7)]
    for index, own in enumerate((id, id[::-1] + "2")):
        block = {"type": "tool_call", "id": own, "name": "weather", "arguments": '{"city":"Bern"}'}
        events.append(BlockStarted(0, index, index, "tool_call", block))
        events.append(BlockEnded(0, index, index, "tool_call", block))
    return [*events, Finished(0, "tool_calls")]


def find_ids(node: Any, inside: str = "") -> Iterator[tuple[str, str]]:
    """(call or result, id) wherever a body of any dialect says one."""
    for item in node if isinstance(node, list) else ():
        yield from find_ids(item, inside)
    if not isinstance(node, dict):
        return
    for key, value in node.items():
        if key in ("tool_call_id", "tool_use_id") or (
            inside in ("toolResult", "functionResponse") and key in ("toolUseId", "id")
        ):
            yield "result", value
        elif key == "call_id":
            yield ("result" if node.get("type") == "function_call_output" else "call"), value
        elif key == "toolUseId" or (
            key == "id" and (node.get("type") in ("function", "tool_use") or inside == "functionCall")
        ):
            yield "call", value
        else:
            yield from find_ids(value, key)


@pytest.mark.parametrize("id", IDS)
@pytest.mark.parametrize("provider", DIALECTS)
@pytest.mark.parametrize("speaks", SPEAKERS)
def test_three_turns_of_calls_keep_their_ids_apart_and_in_the_alphabet(
    speaks: type[Speaker], provider: str, id: str
) -> None:
    speaker, surface = speaks(""), load_format(speaks.dialect)
    for turn in range(3):
        speaker.say(f"turn {turn}")
        asked = {"id": "answer1", "model": "m", "created": 7}
        speaker.take(surface.write_reply(call_twice(f"{id}{turn}"), asked))
        speaker.give_results()
    if len(id) <= 60:
        kept = {name_call(own) for turn in range(3) for own in (f"{id}{turn}", f"{id}{turn}"[::-1] + "2")}
        history = surface.read_request(speaker.body("m"), {"model": "m"})
        assert set(list_open_calls(history)) == kept, (
            "what was kept under an id is found by what came back of it"
        )
    for _, shown in find_ids(speaker.history):
        assert re.fullmatch(ALLOWED.get(speaks.dialect, ".+"), shown, re.DOTALL)
    sent = tell(speaks.dialect, provider, speaker.body("m")).body
    found = list(find_ids(sent))
    calls = [own for kind, own in found if kind == "call"]
    results = [own for kind, own in found if kind == "result"]
    assert len(set(calls)) == 6 and sorted(calls) == sorted(results)
    assert all(re.fullmatch(ALLOWED.get(provider, ".+"), own, re.DOTALL) for own in calls)
    if len(id) < 39 and re.fullmatch(ALLOWED.get(provider, ".+"), id):
        assert {f"{id}{turn}" for turn in range(3)} <= set(calls), "they are what they were"


@given(st.text(min_size=1, max_size=300), st.integers(20, 64))
def test_an_id_fits_and_comes_back_where_it_can(id: str, longest: int) -> None:
    fitted = fit_id(id, longest)
    assert re.fullmatch(r"[A-Za-z0-9_-]+", fitted) and len(fitted) <= longest
    assert fit_id(fitted, longest) == fitted == fit_id(id, longest)
    if len(id.encode()) <= 30 and longest == 64 and not id.startswith("fit_"):
        assert restore_id(fitted) == id

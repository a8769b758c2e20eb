"""Provider-private state: it goes out tagged, comes back as it was, and only its issuer ever sees it."""

import base64
from types import SimpleNamespace
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.call import Call
from engine.wire.canonical import BlockAdded, BlockEnded, BlockStarted, Event
from engine.wire.kept_state import CallState, StateNotes, list_open_calls, name_call, put_back
from engine.wire.opaque import FIELDS, TAG, Blob, Tagger, give_blobs_back, holds_tags, read_tag, write_tag
from engine.wire.streams import fold
from engine.wire.translation import Translation, open_translation
from tests.wire.formats_at_hand import load_format

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=80)
BLOBS = st.builds(Blob, issuer=TEXT, field=st.sampled_from(FIELDS), value=TEXT, id=st.none() | TEXT)
CARRIERS = ("anthropic-messages", "gemini", "openai-responses", "bedrock-converse")
ISSUERS = {
    "anthropic-messages": "anthropic",
    "gemini": "google",
    "openai-responses": "openai",
    "bedrock-converse": "anthropic",
}
THINKING = {"type": "reasoning", "text": "Hm, the weather.", "signature": "c2lnbmVk+/=="}
CALL = {"type": "tool_call", "id": "toolu_1", "name": "look", "arguments": '{"city":"Bern"}'}


def make_chat(*parts: dict[str, Any]) -> dict[str, Any]:
    asked = {"role": "user", "parts": [{"type": "text", "text": "hi"}]}
    return {"turns": [asked, {"role": "assistant", "parts": list(parts)}]}


def parts_of(chat: dict[str, Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = chat["turns"][1]["parts"]
    return found


@given(BLOBS)
def test_a_tag_is_base64_and_says_the_blob_again_in_both_alphabets_with_or_without_padding(
    blob: Blob,
) -> None:
    text = write_tag(blob)
    base64.b64decode(text, validate=True)
    for told in (text, text.rstrip("="), text.translate(str.maketrans("+/", "-_"))):
        assert read_tag(told) == blob
    assert holds_tags(orjson.dumps({"signature": text})) and not holds_tags(
        orjson.dumps({"text": f"a {TAG}"})
    )


@given(st.text(max_size=40) | st.binary(max_size=40).map(lambda raw: base64.b64encode(raw).decode()))
def test_what_only_looks_like_a_tag_is_nobodys_blob(rest: str) -> None:
    found = read_tag(TAG + rest)
    assert found is None or write_tag(found) == TAG + rest
    chat, lost = give_blobs_back(
        make_chat({**THINKING, "text": "", "signature": TAG + rest}), "anthropic", "anthropic"
    )
    assert (parts_of(chat) == [] and lost) or found is not None


@given(st.sampled_from(["anthropic", "google"]), st.sampled_from(["anthropic", "google", "openai"]), BLOBS)
def test_only_the_issuer_gets_a_blob(native: str, issuer: str, blob: Blob) -> None:
    tagged = {"type": "reasoning", "text": "t", "signature": write_tag(blob)}
    chat, _ = give_blobs_back(make_chat(tagged, {**CALL, "signature": "raw"}), native, issuer)
    reasoning, call = parts_of(chat)
    wanted = {blob.field: blob.value} if blob.issuer == issuer and blob.value else {}
    assert {field: reasoning[field] for field in FIELDS if reasoning.get(field)} == wanted
    assert ("signature" in call) == (native == issuer)
    assert TAG.encode() not in orjson.dumps(chat)


def test_reasoning_without_its_blob_keeps_its_text_and_loses_its_id() -> None:
    chat, lost = give_blobs_back(make_chat({**THINKING, "id": "rs_1"}, CALL), "openai", "anthropic")
    assert lost and parts_of(chat) == [{"type": "reasoning", "text": THINKING["text"]}, CALL]
    untouched = make_chat(THINKING, CALL)
    assert give_blobs_back(untouched, "anthropic", "anthropic")[0] == untouched


def test_text_that_came_back_apart_from_its_signature_is_joined_to_it() -> None:
    blob = write_tag(Blob("anthropic", "signature", "abc"))
    pieces = [{"type": "reasoning", "text": text} for text in ("Hm, ", "so.")]
    chat, _ = give_blobs_back(
        make_chat(*pieces, {"type": "reasoning", "text": "", "signature": blob}, CALL), "google", "anthropic"
    )
    assert parts_of(chat) == [{"type": "reasoning", "text": "Hm, so.", "signature": "abc"}, CALL]


# --- through the dialects


def tell(surface: str, format: str, body: dict[str, Any], stream: bool = False, **kept: Any) -> Translation:
    form = load_format(format)
    call = SimpleNamespace(
        id="call1",
        started_at=7.5,
        input_estimate=9,
        request={"model": "m", **body},
        as_asked=None,
        chat=None,
        kept_state=kept.get("kept", {}),
        requested_model="m",
        stream=stream,
        usage_asked=False,
    )
    facts = {
        "model": "up",
        "stream": stream,
        "limits": {"output": 9000},
        "capabilities": ["reasoning"],
        "traits": {**form.traits, **kept.get("traits", {})},
    }
    asked: Any = call
    assert isinstance(asked, SimpleNamespace | Call)
    return open_translation(asked, load_format(surface), form, facts)


def answer_with(parts: list[dict[str, Any]]) -> list[Event]:
    """The events of an answer with these parts, as a provider's reader states them."""
    from_parts: list[Event] = []
    for index, part in enumerate(parts):
        kind = part["type"]
        place = (0, index, 0, kind)
        late = {"text", "arguments"} | ({"signature"} if kind != "tool_call" else set())
        from_parts.append(BlockStarted(*place, {name: v for name, v in part.items() if name not in late}))
        from_parts += [
            BlockAdded(*place, name, part[name]) for name in ("text", "arguments") if part.get(name)
        ]
        if kind != "tool_call" and part.get("signature"):
            from_parts.append(BlockAdded(*place, "signature", part["signature"]))
        from_parts.append(BlockEnded(*place, dict(part)))
    return from_parts


@pytest.mark.parametrize("issuer", ["anthropic", "google", "openai"])
@pytest.mark.parametrize("surface", CARRIERS)
def test_reasoning_of_any_issuer_survives_a_turn_in_a_dialect_that_can_carry_it(
    surface: str, issuer: str
) -> None:
    form = load_format(surface)
    native = ISSUERS[surface]
    original = [{**THINKING, "id": "rs_7"} if issuer == "openai" else THINKING, CALL]
    events = answer_with(original)
    told = events if native == issuer else Tagger(issuer).tag(events)
    answer = fold(told)
    answer["choices"][0]["finish"] = {"reason": "tool_calls"}
    reply = form.write_reply({**answer, "id": "x", "model": "m", "created": 1}, {"id": "x", "model": "m"})
    turn = as_history(surface, reply)
    chat = form.read_request({"model": "m", **turn}, {"model": "m", "stream": False})
    back, lost = give_blobs_back(chat, native, issuer)
    assistant = next(turn for turn in back["turns"] if turn["role"] == "assistant")
    reasoning = next(part for part in assistant["parts"] if part["type"] == "reasoning")
    assert (reasoning["text"], reasoning["signature"], lost) == (
        THINKING["text"],
        THINKING["signature"],
        False,
    )
    if issuer == "openai" and native != issuer:
        assert reasoning["id"] == "rs_7"
    for stranger in {"anthropic", "google", "openai"} - {issuer}:
        stripped, _ = give_blobs_back(chat, native, stranger)
        assert THINKING["signature"].encode() not in orjson.dumps(stripped)


def as_history(surface: str, reply: dict[str, Any]) -> dict[str, Any]:
    """A request that goes on from an answer, as clients of the dialect write it."""
    if surface == "anthropic-messages":
        asked = {"role": "user", "content": "hi"}
        return {
            "max_tokens": 9,
            "messages": [asked, {"role": "assistant", "content": reply["content"]}, asked],
        }
    if surface == "gemini":
        asked = {"role": "user", "parts": [{"text": "hi"}]}
        return {"contents": [asked, reply["candidates"][0]["content"], asked]}
    if surface == "bedrock-converse":
        asked = {"role": "user", "content": [{"text": "hi"}]}
        return {"messages": [asked, reply["output"]["message"], asked]}
    return {"input": [{"role": "user", "content": "hi"}, *reply["output"]]}


@pytest.mark.parametrize("surface", CARRIERS)
def test_a_redacted_thought_is_redacted_again(surface: str) -> None:
    form, secret = load_format(surface), "RW1wdHk+/w=="
    events = answer_with([{"type": "reasoning", "redacted": secret}, CALL])
    native = ISSUERS[surface]
    answer = fold(events if native == "anthropic" else Tagger("anthropic").tag(events))
    answer["choices"][0]["finish"] = {"reason": "tool_calls"}
    reply = form.write_reply({**answer, "id": "x", "model": "m", "created": 1}, {"id": "x", "model": "m"})
    chat = form.read_request({"model": "m", **as_history(surface, reply)}, {"model": "m"})
    back, _ = give_blobs_back(chat, native, "anthropic")
    assistant = next(turn for turn in back["turns"] if turn["role"] == "assistant")
    first = assistant["parts"][0]
    assert first["redacted"] == secret and not first.get("signature") and not first.get("text")


def test_a_tagger_tells_the_blob_once_in_a_stream_and_the_same_in_the_whole_block() -> None:
    events = Tagger("anthropic").tag(
        answer_with([THINKING, {"type": "reasoning", "redacted": "abc"}, {**CALL, "signature": "def"}])
    )
    added = [event.value for event in events if isinstance(event, BlockAdded) and event.field == "signature"]
    whole = [event.block["signature"] for event in events if isinstance(event, BlockEnded)]
    begun = [event.block.get("signature") for event in events if isinstance(event, BlockStarted)]
    assert added == whole[:2] and begun == [None, None, whole[2]]
    assert [read_tag(text) for text in whole] == [
        Blob("anthropic", "signature", THINKING["signature"]),
        Blob("anthropic", "redacted", "abc"),
        Blob("anthropic", "signature", "def"),
    ]


# --- kept by tool call


def note(issuer: str, carried: frozenset[str], *parts: dict[str, Any]) -> dict[str, CallState]:
    notes = StateNotes(issuer, carried)
    notes.note(answer_with(list(parts)))
    return notes.list_states()


def test_each_call_is_kept_with_its_signature_and_the_thoughts_since_the_call_before() -> None:
    second = {**CALL, "id": "toolu_2", "signature": "s2"}
    other = {"type": "reasoning", "redacted": "zzz"}
    states = note(
        "anthropic", frozenset(), THINKING, CALL, other, second, {"type": "reasoning", "text": "unsigned"}
    )
    assert states == {
        "toolu_1": CallState("anthropic", None, (THINKING,)),
        "toolu_2": CallState("anthropic", "s2", (other,)),
    }
    assert all(CallState.unpack(state.pack()) == state for state in states.values())
    carried = note("google", frozenset({"reasoning", "tool_call"}), THINKING, {**CALL, "signature": "s"})
    assert carried["toolu_1"].is_empty


@pytest.mark.parametrize("packed", [b"", b"[]", b"{}", b"null", b"\xff"])
def test_state_that_nobody_wrote_is_none(packed: bytes) -> None:
    assert CallState.unpack(packed) is None


def test_what_is_kept_is_put_back_where_it_stood() -> None:
    second = {**CALL, "id": "toolu_2", "signature": "s2"}
    other = {"type": "reasoning", "redacted": "zzz"}
    states = note("anthropic", frozenset(), THINKING, CALL, other, second)
    said = {"type": "text", "text": "I look."}
    bare = {name: value for name, value in second.items() if name != "signature"}
    read_aloud = {"type": "reasoning", "text": THINKING["text"]}
    chat = make_chat(read_aloud, said, CALL, bare)
    assert list_open_calls(chat) == ["toolu_2", "toolu_1"]
    assert parts_of(put_back(chat, states, "anthropic")) == [THINKING, said, CALL, other, second]
    assert put_back(chat, states, "google") is chat


def test_what_the_client_brought_back_itself_is_not_doubled() -> None:
    states = note("anthropic", frozenset(), THINKING, CALL)
    chat = make_chat(THINKING, CALL)
    assert parts_of(put_back(chat, states, "anthropic")) == [THINKING, CALL]
    assert list_open_calls(make_chat(THINKING, {**CALL, "signature": "s"})) == []


@given(st.text(min_size=1, max_size=200))
def test_an_id_and_what_a_dialect_made_of_it_name_the_same_call(id: str) -> None:
    assert name_call(id) == name_call(name_call(id)) and len(name_call(id)) <= 40

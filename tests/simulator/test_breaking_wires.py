"""Every wire that streams breaks in every way: what was sent before is whole, and the end never comes."""

from typing import Any

import pytest

from tests.simulator.launch import Heard, listen_to, make_request

SAID = "hello there"
CHAT = {"messages": [{"role": "user", "content": SAID}], "stream": True, "max_tokens": 900}
CONTENTS = {"contents": [{"role": "user", "parts": [{"text": SAID}]}]}
# path, body, what only a finished stream has in it
WIRES: dict[str, tuple[str, dict[str, Any], bytes]] = {
    "chat": ("/v1/chat/completions", CHAT, b'"finish_reason":"stop"'),
    "messages": ("/v1/messages", CHAT, b'"stop_reason":"end_turn"'),
    "responses": ("/v1/responses", {"input": SAID, "stream": True}, b'"response.completed"'),
    "events": ("/v1beta/models/{}:streamGenerateContent?alt=sse", CONTENTS, b'"finishReason"'),
    "array": ("/v1beta/models/{}:streamGenerateContent", CONTENTS, b'"finishReason"'),
    "converse": ("/model/{}/converse-stream", {"messages": [{"role": "user", "content": [{"text": SAID}]}]},
                 b'"stopReason"'),
    "cohere": ("/v2/chat", CHAT, b'"message-end"'),
    "ollama": ("/api/chat", CHAT, b'"done":true'),
}  # fmt: skip


def _hear(port: int, wire: str, model: str) -> Heard:
    path, body, _ = WIRES[wire]
    named = body if "{}" in path else {**body, "model": model}
    return listen_to(port, make_request(named, path.format(model)))


@pytest.mark.parametrize("wire", WIRES)
def test_a_stream_ends_with_what_only_a_finished_one_has(port: int, wire: str) -> None:
    heard = _hear(port, wire, "sim/tokens@5")
    assert heard.status == 200 and heard.whole
    assert heard.chunks.count(WIRES[wire][2]) == 1


@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize(
    ("fault", "ended"),
    [("cut@3", "fin"), ("cut-rst@3", "reset"), ("cut-in-event@3", "fin"), ("cut-in-chunk@3", "fin"),
     ("stall@3", "open"), ("cut-clean@3", "open"), ("cut@99", "fin")],
)  # fmt: skip
def test_a_broken_stream_says_no_end(port: int, wire: str, fault: str, ended: str) -> None:
    heard = _hear(port, wire, f"sim/{fault}+tokens@8")
    assert heard.ended == ended
    assert WIRES[wire][2] not in heard.raw
    assert heard.whole is (fault == "cut-clean@3")


@pytest.mark.parametrize("wire", WIRES)
def test_a_bad_event_is_one_too_many(port: int, wire: str) -> None:
    good, bad = _hear(port, wire, "sim/tokens@5"), _hear(port, wire, "sim/tokens@5+bad-event@2")
    assert len(bad.chunks) > len(good.chunks)
    assert bad.chunks.count(WIRES[wire][2]) == 1


@pytest.mark.parametrize("wire", WIRES)
def test_an_error_takes_the_place_of_the_rest(port: int, wire: str) -> None:
    heard = _hear(port, wire, "sim/error-in-stream@2+tokens@9")
    assert b"had an error" in heard.chunks
    assert heard.chunks.count(b"had an error") == 1 and heard.whole
    bare = _hear(port, wire, "sim/bare-error@2+tokens@9").chunks
    assert b"had an error" in bare and WIRES[wire][2] not in bare


@pytest.mark.parametrize("wire", WIRES)
def test_refusals_have_the_status_and_pass_when_they_should(port: int, wire: str) -> None:
    assert [_hear(port, wire, "sim/429-then-ok").status for _ in range(2)] == [429, 200]
    plain = _hear(port, wire, "sim/no-stream+tokens@5")
    assert b"content-length" in plain.head and plain.body.startswith(b"{")
    assert _hear(port, wire, "sim/error-200").status == 200


@pytest.mark.parametrize("wire", ["chat", "events", "array"])
def test_a_list_of_answers_can_be_empty_at_first(port: int, wire: str) -> None:
    first = _hear(port, wire, "sim/empty-choices+tokens@5").chunks[:120]
    assert b'"choices":[]' in first or b'"candidates":[]' in first


@pytest.mark.parametrize("wire", ["messages", "responses", "converse", "cohere"])
def test_indexes_can_be_missing(port: int, wire: str) -> None:
    heard = _hear(port, wire, "sim/no-index+tokens@5").chunks
    assert (
        b'"index":' not in heard and b'"contentBlockIndex":' not in heard and b'"output_index":' not in heard
    )

"""Every fault as bytes on a socket."""

import gzip
import json
import socket
import time
import zlib
from typing import Any

import pytest

from tests.simulator.launch import Heard, fetch, listen_to, make_chat, make_request


def stream(
    port: int, model: str, *, quiet_s: float = 0.25, until: bytes | None = b"0\r\n\r\n", **fields: Any
) -> Heard:
    return listen_to(
        port, make_request(make_chat(model, stream=True, **fields)), quiet_s=quiet_s, until=until
    )


def plain(port: int, model: str, *headers: str, quiet_s: float = 0.15) -> Heard:
    return listen_to(port, make_request(make_chat(model), "/v1/chat/completions", *headers), quiet_s=quiet_s)


def last_call(port: int) -> dict[str, Any]:
    calls: list[dict[str, Any]] = fetch(port, "/_sim/calls")["calls"]
    return calls[-1]


def test_429_then_ok_alternates_per_key_model_and_conversation(port: int) -> None:
    statuses = [plain(port, "sim/429-then-ok").status for _ in range(3)]
    assert statuses == [429, 200, 429]
    assert plain(port, "sim/429-then-ok", "authorization: Bearer other").status == 429
    assert b"retry-after: 2\r\n" in plain(port, "sim/429-then-ok", "authorization: Bearer third").raw


@pytest.mark.parametrize("status", [400, 401, 402, 403, 404, 429, 500, 502, 503, 529])
def test_a_status_stays_for_ever_and_has_an_error_body(port: int, status: int) -> None:
    for _ in range(2):
        heard = plain(port, f"sim/{status}", quiet_s=0.05)
        assert heard.status == status
        assert json.loads(heard.body)["error"]["message"]
        assert b"retry-after" not in heard.head
    assert b"retry-after: 5\r\n" in plain(port, f"sim/{status}@5s", quiet_s=0.05).raw


def test_an_error_can_be_an_html_page(port: int) -> None:
    heard = plain(port, "sim/502+html")
    assert b"text/html" in heard.head and b"<h1>502" in heard.body


def test_context_length_and_content_filter_carry_code_and_reason(port: int) -> None:
    assert json.loads(plain(port, "sim/context-length").body)["error"]["code"] == "context_length_exceeded"
    filtered = json.loads(plain(port, "sim/content-filter").body)["error"]
    assert filtered["code"] == "content_filter" and "violence" in filtered["message"]


def test_reset_and_close_come_before_any_header(port: int) -> None:
    heard = plain(port, "sim/reset")
    assert (heard.raw, heard.ended) == (b"", "reset")
    heard = plain(port, "sim/close")
    assert (heard.raw, heard.ended) == (b"", "fin")
    assert plain(port, "sim/reset-then-ok").ended == "reset"
    assert plain(port, "sim/reset-then-ok").status == 200


def test_silent_accepts_and_says_nothing(port: int) -> None:
    heard = plain(port, "sim/silent")
    assert (heard.raw, heard.ended) == (b"", "open")


def test_slow_first_token_sends_headers_and_role_at_once(port: int) -> None:
    heard = stream(port, "sim/slow-first-token@5s", quiet_s=0.2)
    assert heard.status == 200 and heard.ended == "open"
    assert [event["choices"][0]["delta"].get("role") for event in heard.events] == ["assistant"]
    heard = stream(port, "sim/slow-first-token@100ms+tokens@2", quiet_s=1)
    assert heard.whole and heard.seconds >= 0.09


def test_slow_headers_latency_and_slow_hold_back_the_plain_answer(port: int) -> None:
    for model in ("slow-headers@100ms", "latency@100ms", "slow@100ms"):
        assert plain(port, f"sim/{model}", quiet_s=0.05).raw == b""
        heard = plain(port, f"sim/{model}", quiet_s=0.3)
        assert heard.status == 200


def test_slow_spreads_a_streams_tokens(port: int) -> None:
    heard = stream(port, "sim/slow@200ms+tokens@10")
    assert heard.whole and 0.18 <= heard.seconds < 1


def test_chunk_ms_paces_the_tokens(port: int) -> None:
    heard = stream(port, "sim/chunk-ms@20+tokens@10")
    assert heard.whole and 0.18 <= heard.seconds < 1


def test_stall_stops_after_its_tokens_with_the_connection_open(port: int) -> None:
    heard = stream(port, "sim/stall@20")
    assert len(heard.text.split()) == 20 and heard.ended == "open"
    assert b'finish_reason":"stop' not in heard.raw


@pytest.mark.parametrize(
    ("model", "ended"),
    [("cut@40", "fin"), ("cut-rst@40", "reset"), ("cut-in-event@40", "fin"), ("cut-in-chunk@40", "fin")],
)
def test_a_cut_delivers_its_tokens_and_no_end(port: int, model: str, ended: str) -> None:
    whole = stream(port, "sim/tokens@60").text
    heard = stream(port, f"sim/{model}+tokens@60", until=None)
    assert heard.ended == ended
    assert len(heard.text.split()) == 40 and whole.startswith(heard.text)
    assert not heard.whole and b"[DONE]" not in heard.raw
    assert last_call(port)["tokens_sent"] == 40


def test_the_two_inner_cuts_end_where_they_say(port: int) -> None:
    in_event = stream(port, "sim/cut-in-event@3", until=None)
    assert in_event.raw.endswith(b"\r\n") and not in_event.chunks.endswith(b"\n")
    in_chunk = stream(port, "sim/cut-in-chunk@3", until=None)
    assert not in_chunk.raw.endswith(b"\r\n")


def test_a_clean_cut_ends_the_body_without_finish(port: int) -> None:
    heard = stream(port, "sim/cut-clean@5")
    assert heard.whole and len(heard.text.split()) == 5
    assert b"[DONE]" not in heard.raw and b'"finish_reason":"stop"' not in heard.raw


def test_a_cut_beyond_the_text_comes_before_the_finish(port: int) -> None:
    heard = stream(port, "sim/cut@40+tokens@3", until=None)
    assert (
        len(heard.text.split()) == 3 and heard.ended == "fin" and b'"finish_reason":"stop"' not in heard.raw
    )


@pytest.mark.parametrize("model", ["cut@1", "cut-rst@1", "stall@1", "cut-clean@1"])
def test_a_plain_answer_is_cut_in_half(port: int, model: str) -> None:
    heard = plain(port, f"sim/{model}")
    length = int(heard.head.split(b"content-length: ")[1].split(b"\r\n")[0])
    assert len(heard.body) == length // 2


def test_a_cut_in_tool_arguments_leaves_half_a_json_object(port: int) -> None:
    schema = {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}}
    tools = [
        {"type": "function", "function": {"name": name, "parameters": schema}} for name in ("one", "two")
    ]
    heard = stream(port, "sim/cut-in-tool-arguments", until=None, tools=tools)
    deltas = [event["choices"][0]["delta"] for event in heard.events]
    calls = [delta["tool_calls"][0] for delta in deltas if "tool_calls" in delta]
    arguments = "".join(call["function"]["arguments"] for call in calls)
    assert calls[0]["function"]["name"] == "one" and {call["index"] for call in calls} == {0}
    assert arguments.startswith('{"city"') and heard.ended == "fin"
    with pytest.raises(json.JSONDecodeError):
        json.loads(arguments)


def test_a_bad_event_is_one_too_many_and_the_rest_is_whole(port: int) -> None:
    heard = stream(port, "sim/bad-event@10")
    lines = [line[6:] for line in heard.chunks.splitlines() if line.startswith(b"data: {")]
    assert len(lines) - len(heard.events) == 1
    assert heard.text == stream(port, "sim/words").text and b"[DONE]" in heard.raw


def test_no_done_ends_the_body_or_leaves_it_open(port: int) -> None:
    heard = stream(port, "sim/no-done")
    assert heard.whole and b"[DONE]" not in heard.raw and b'"finish_reason":"stop"' in heard.raw
    heard = stream(port, "sim/no-done-open")
    assert heard.ended == "open" and not heard.whole and b"[DONE]" not in heard.raw


@pytest.mark.parametrize(("model", "tokens"), [("error-in-stream", 0), ("error-in-stream@5", 5)])
def test_an_error_in_a_stream_is_a_data_event(port: int, model: str, tokens: int) -> None:
    heard = stream(port, f"sim/{model}")
    assert heard.status == 200 and len(heard.text.split()) == tokens
    assert "error" in heard.events[0 if tokens == 0 else -1]


def test_an_error_can_pretend_to_be_200(port: int) -> None:
    for heard in (plain(port, "sim/error-200"), stream(port, "sim/json-error-in-200-stream")):
        assert heard.status == 200 and b"application/json" in heard.head
        assert json.loads(heard.body)["error"]["type"] == "server_error"


def test_down_is_counted_from_the_first_call_and_passes(port: int) -> None:
    assert plain(port, "sim/down@300ms", quiet_s=0.05).status == 503
    assert plain(port, "sim/down@300ms", quiet_s=0.05).status == 503
    time.sleep(0.3)
    assert plain(port, "sim/down@300ms", quiet_s=0.05).status == 200
    assert [call["attempt"] for call in fetch(port, "/_sim/calls")["calls"]] == [1, 2, 3]
    assert fetch(port, "/_sim/stats")["by_model"] == {"sim/down@300ms": 3}


def test_a_wrong_length_announces_more_than_comes(port: int) -> None:
    heard = plain(port, "sim/wrong-length")
    length = int(heard.head.split(b"content-length: ")[1].split(b"\r\n")[0])
    assert heard.ended == "fin" and length == len(heard.body) + 64


def test_hang_up_closes_after_a_whole_answer_unannounced(port: int) -> None:
    heard = plain(port, "sim/hang-up")
    assert heard.ended == "fin" and b"connection: close" not in heard.head and json.loads(heard.body)
    heard = stream(port, "sim/hang-up", until=None)
    assert heard.ended == "fin" and heard.whole


def test_framing_variants_carry_the_same_text(port: int) -> None:
    whole = stream(port, "sim/words").text
    assert stream(port, "sim/comments").text == whole
    assert b"\r\n\r\n" in stream(port, "sim/crlf").chunks
    assert stream(port, "sim/crlf").text == whole
    assert stream(port, "sim/split@7").text == whole
    assert stream(port, "sim/merged+chunk-ms@1").text == whole
    closed = stream(port, "sim/until-close", until=None)
    assert closed.ended == "fin" and b"transfer-encoding" not in closed.head and b"[DONE]" in closed.body


def test_split_makes_every_byte_a_write_of_its_own(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
        connection.sendall(make_request(make_chat("sim/split+tokens@2", stream=True)))
        reads = 0
        raw = b""
        while not raw.endswith(b"0\r\n\r\n"):
            raw += connection.recv(1)
            reads += 1
    assert reads == len(raw)


def test_comments_go_on_while_a_stream_stalls(port: int) -> None:
    heard = stream(port, "sim/stall@2+comments@50ms", until=b": PROCESSING\n\n\r\ne\r\n: PROCESSING")
    assert heard.raw.count(b": PROCESSING") >= 2


def test_gzip_can_be_read_event_by_event(port: int) -> None:
    assert json.loads(gzip.decompress(plain(port, "sim/gzip").body))["object"] == "chat.completion"
    heard = stream(port, "sim/gzip+stall@3")
    text = zlib.decompressobj(wbits=31).decompress(heard.chunks)
    assert b"content-encoding: gzip" in heard.head and text.count(b"data: ") == 4


def test_interim_answers_come_before_the_real_one(port: int) -> None:
    heard = plain(port, "sim/1xx")
    assert [heard.raw.find(b"HTTP/1.1 %d" % status) >= 0 for status in (102, 103, 200)] == [True] * 3
    assert heard.status == 102


def test_an_early_answer_comes_before_the_body_has_been_sent(port: int) -> None:
    by_name = b'{"model":"sim/early-answer+401","messages":['
    for head, status in ((b"", 401), (b"x-sim: early-answer\r\n", 413)):
        request = b"POST /v1/chat/completions HTTP/1.1\r\nhost: sim\r\n" + head
        heard = listen_to(port, request + b"content-length: 100000\r\n\r\n" + (b"" if head else by_name))
        assert heard.status == status and b"connection: close" in heard.head


def test_no_stream_answers_plain_json(port: int) -> None:
    heard = stream(port, "sim/no-stream")
    assert b"application/json" in heard.head and json.loads(heard.body)["object"] == "chat.completion"


def test_the_x_sim_header_adds_to_the_name(port: int) -> None:
    assert plain(port, "sim/words", "x-sim: 503").status == 503


def test_large_is_as_large_as_it_says(port: int) -> None:
    heard = plain(port, "sim/large@300")
    content = json.loads(heard.body)["choices"][0]["message"]["content"]
    assert 300 * 1024 <= len(content) < 300 * 1024 + 20


@pytest.mark.parametrize(
    "model", ["stall@5", "silent", "slow@60s", "chunk-ms@50", "latency@60s", "large@4000"]
)
def test_a_clients_close_is_noticed_at_once(port: int, model: str) -> None:
    stream(port, f"sim/{model}", quiet_s=0.1, until=b"\n\n")
    deadline = time.monotonic() + 1
    while (call := last_call(port))["outcome"] == "running" and time.monotonic() < deadline:
        time.sleep(0.005)
    assert call["outcome"] == "client_closed"
    assert call["client_closed_after_ms"] < 400
    assert fetch(port, "/_sim/stats")["running"] == 0


def test_the_log_shows_the_request_and_hides_the_key(port: int) -> None:
    plain(port, "sim/tokens@5", "authorization: Bearer sk-secret-9876", "x-team: platform")
    call = last_call(port)
    assert call["authorization"] == "9876" and "sk-secret" not in json.dumps(call)
    assert call["headers"]["x-team"] == "platform" and call["body"]["messages"][0]["content"] == "hello there"
    assert (call["status"], call["outcome"], call["tokens_sent"]) == (200, "finished", 5)
    assert call["usage"]["prompt_tokens"] == 3
    assert fetch(port, f"/_sim/calls?after={call['seq']}")["calls"] == []


def test_requests_on_one_connection_are_answered_in_their_order(port: int) -> None:
    both = make_request(make_chat("sim/tokens@2+latency@50ms")) + make_request(make_chat("sim/404"))
    heard = listen_to(port, both)
    assert heard.raw.index(b"HTTP/1.1 200") < heard.raw.index(b"HTTP/1.1 404")
    first, second = fetch(port, "/_sim/calls")["calls"]
    assert first["connection"] == second["connection"]


def test_what_is_not_ours_is_refused_in_the_dialect(port: int) -> None:
    assert listen_to(port, make_request(b"{", "/v1/chat/completions")).status == 400
    assert listen_to(port, make_request({}, "/v1/nothing")).status == 404
    assert listen_to(port, b"GET /v1/chat/completions HTTP/1.1\r\nhost: x\r\n\r\n").status == 405
    assert listen_to(port, b"nonsense\r\n\r\n").status == 400


def test_a_client_that_asks_to_wait_is_told_to_go_on(port: int) -> None:
    heard = plain(port, "sim/words", "expect: 100-continue")
    assert heard.raw.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK")


def test_http_1_0_gets_a_body_that_ends_with_the_connection(port: int) -> None:
    request = make_request(make_chat("sim/tokens@3", stream=True)).replace(b"HTTP/1.1", b"HTTP/1.0", 1)
    heard = listen_to(port, request)
    assert heard.ended == "fin" and b"chunked" not in heard.head and b"[DONE]" in heard.body

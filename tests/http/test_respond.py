"""The rim: when the headers go out, the signs of life, and how errors look."""

import asyncio
import time
from collections.abc import MutableMapping
from typing import Any

import orjson
import pytest

from engine.call import Attempt, Call
from engine.errors import GatewayError, InvalidRequest, LimitExceeded, NobodyAvailable
from engine.http.respond import Reply
from tests.routing.things import DOOR, make_snapshot


class Wire:
    """What the client got, and when."""

    def __init__(self) -> None:
        self.messages: list[MutableMapping[str, Any]] = []
        self.times: list[float] = []

    async def send(self, message: MutableMapping[str, Any]) -> None:
        self.messages.append(message)
        self.times.append(time.monotonic())

    @property
    def status(self) -> int:
        return int(self.messages[0]["status"])

    @property
    def headers(self) -> dict[str, str]:
        return {name.decode(): value.decode() for name, value in self.messages[0]["headers"]}

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.messages)

    @property
    def ended(self) -> bool:
        return self.messages[-1].get("more_body") is False


def make_reply(*, stream: bool) -> tuple[Reply, Wire, Call]:
    wire = Wire()
    call = Call("call_1", "mine-1", DOOR, 0.0, 0.0, make_snapshot(), stream=stream)
    return Reply(wire.send, call, asyncio.get_running_loop()), wire, call


@pytest.mark.parametrize("stream", [True, False])
async def test_a_head_in_one_piece_says_what_the_headers_say(stream: bool) -> None:
    heads = []
    for ready in (True, False):
        _, wire, call = make_reply(stream=stream)
        reply = Reply(wire.send, call, asyncio.get_running_loop(), ready_head=ready)
        call.requested_model = "m\r\nx-evil: 1"
        call.attempts.append(Attempt("p", "x", "p#0", 0))
        reply.add_headers([(b"x-ratelimit-limit-requests", b"5")])
        await reply.finish(b'{"a":1}', "0.000012")
        start = wire.messages[0]
        if ready:
            lines = [line.split(b": ", 1) for line in start["head"].split(b"\r\n")[:-1]]
            length = start["length"]
            heads.append({name: value for name, value in lines})
            heads[0] |= {} if length is None else {b"content-length": b"%d" % length}
        else:
            heads.append(dict(start["headers"]))
    assert heads[0] == heads[1]
    assert b"x-evil" not in heads[0]


async def test_a_plain_answer_goes_out_whole_with_its_cost() -> None:
    reply, wire, call = make_reply(stream=False)
    call.requested_model = "m"
    call.attempts += [Attempt("p", "x", "p#0", 0), Attempt("q", "y", "q#0", 0)]
    reply.add_headers([(b"x-ratelimit-limit-requests", b"5")])
    await reply.finish(b'{"a":1}', "0.000012")
    assert (wire.status, wire.body, wire.ended, len(wire.messages)) == (200, b'{"a":1}', True, 2)
    assert wire.headers == {
        "content-type": "application/json",
        "content-length": "7",
        "x-cost-usd": "0.000012",
        "x-request-id": "mine-1",
        "x-requested-model": "m",
        "x-provider": "q",
        "x-model": "y",
        "x-attempts": "2",
        "x-config-revision": "0" * 12,
        "x-ratelimit-limit-requests": "5",
    }


async def test_where_the_server_takes_it_a_plain_answer_is_one_message() -> None:
    _, wire, call = make_reply(stream=False)
    reply = Reply(wire.send, call, asyncio.get_running_loop(), ready_head=True)
    await reply.finish(b'{"a":1}', "0.000012")
    (message,) = wire.messages
    assert message["body"] == b'{"a":1}' and message["length"] == 7
    assert b"x-cost-usd: 0.000012\r\n" in message["head"]


async def test_nothing_goes_out_before_the_first_bytes_of_a_stream() -> None:
    reply, wire, _ = make_reply(stream=True)
    reply.promise_life(60)
    await asyncio.sleep(0)
    assert wire.messages == []
    await reply.send(b"data: 1\n\n")
    assert wire.status == 200 and wire.headers["content-type"].startswith("text/event-stream")
    assert "x-cost-usd" not in wire.headers
    await reply.finish(b"data: [DONE]\n\n", "1")
    assert wire.body == b"data: 1\n\ndata: [DONE]\n\n" and wire.ended


async def test_a_silent_stream_shows_life_after_the_time_promised_and_again() -> None:
    reply, wire, _ = make_reply(stream=True)
    began = time.monotonic()
    reply.promise_life(0.1)
    await asyncio.sleep(0.35)
    await reply.finish(b"end", "0")
    assert wire.status == 200
    assert wire.body == b": keep-alive\n\n" * 3 + b"end"
    assert 0.09 < wire.times[0] - began < 0.19
    await asyncio.sleep(0.15)
    assert wire.body.endswith(b"end")


async def test_a_stream_that_speaks_needs_no_sign() -> None:
    reply, wire, _ = make_reply(stream=True)
    reply.promise_life(0.12)
    for _ in range(6):
        await asyncio.sleep(0.05)
        await reply.send(b"x")
    await reply.finish(b"", "0")
    assert wire.body == b"xxxxxx"


@pytest.mark.parametrize(("stream", "keepalive_s"), [(False, 0.05), (True, 0.0)])
async def test_a_plain_answer_gets_no_sign_of_life(stream: bool, keepalive_s: float) -> None:
    reply, wire, _ = make_reply(stream=stream)
    reply.promise_life(keepalive_s)
    await asyncio.sleep(0.15)
    assert wire.messages == []
    await reply.finish(b"{}", "0")
    assert wire.body == b"{}"


async def test_an_error_before_anything_went_out_has_its_status() -> None:
    reply, wire, call = make_reply(stream=True)
    reply.promise_life(60)
    await reply.fail(NobodyAvailable("all are away", retry_after_s=2.2))
    assert (wire.status, call.http_status, wire.headers["retry-after"]) == (503, 503, "3")
    assert orjson.loads(wire.body) == {
        "error": {
            "message": "all are away",
            "type": "overloaded_error",
            "param": None,
            "code": "no_provider_available",
        },
        "request_id": "mine-1",
    }


async def test_an_error_after_a_sign_of_life_is_told_in_band() -> None:
    reply, wire, call = make_reply(stream=True)
    reply.promise_life(0.05)
    await asyncio.sleep(0.08)
    await reply.fail(InvalidRequest("no"))
    assert wire.status == 200 and call.http_status == 200
    alive, event = wire.body.split(b"\n\n", 1)
    assert alive == b": keep-alive" and orjson.loads(event[6:])["error"]["message"] == "no"
    assert b"[DONE]" not in wire.body and wire.ended


async def test_one_answer_has_one_end() -> None:
    reply, wire, _ = make_reply(stream=False)
    await reply.finish(b"{}", "0")
    await reply.fail(InvalidRequest("late"))
    assert wire.body == b"{}" and len(wire.messages) == 2


async def test_a_muted_reply_says_nothing_more() -> None:
    reply, wire, _ = make_reply(stream=True)
    await reply.send(b"a")
    reply.muted = True
    await reply.send(b"b")
    await reply.finish(b"c", "0")
    await reply.fail(InvalidRequest("d"))
    assert wire.body == b"a"


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("a\r\nx: 1", "a%0D%0Ax:%201"),
        ("größer", "gr%C3%B6%C3%9Fer"),
        ("a\x00b", "a%00b"),
        ("a\x7fb", "a%7Fb"),
    ],
)
async def test_no_name_can_write_a_header(name: str, shown: str) -> None:
    reply, wire, call = make_reply(stream=False)
    call.requested_model = name
    call.attempts.append(Attempt(name, name, "p#0", 0))
    await reply.finish(b"{}", "0")
    assert {wire.headers[each] for each in ("x-requested-model", "x-provider", "x-model")} == {shown}


async def test_an_error_brings_its_own_headers() -> None:
    reply, wire, _ = make_reply(stream=False)
    error: GatewayError = LimitExceeded("slower", retry_after_s=0.1)
    await reply.fail(error)
    assert wire.status == 429 and wire.headers["retry-after"] == "1"

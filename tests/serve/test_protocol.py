"""Raw sockets against the protocol, with a small application behind it."""

import asyncio
import contextlib
import gc
import json
import socket
import struct
import weakref
from collections.abc import AsyncIterator

import pytest
from uvicorn.config import Config
from uvicorn.server import ServerState

from engine.serve import protocol as protocol_module
from engine.serve.cycle import DISCONNECT, READY_HEAD
from engine.serve.protocol import ConnectionLimits, bind_limits


class App:
    """Echoes method, path and body length; paths choose odder behaviour."""

    def __init__(self):
        self.events = []
        self.gate = asyncio.Event()

    async def __call__(self, scope, receive, send):
        path = scope["path"]
        self.events.append(path)
        if path == "/early":
            await self.answer(send, 401, b"no")
            return
        if path == "/hold":
            gone = asyncio.get_running_loop().create_future()
            scope["extensions"][DISCONNECT].subscribe(lambda: gone.done() or gone.set_result("gone"))
            release = asyncio.ensure_future(self.gate.wait())
            await asyncio.wait({gone, release}, return_when=asyncio.FIRST_COMPLETED)
            release.cancel()
            self.events.append("gone" if gone.done() else "released")
        if path == "/split":
            await send(
                {"type": "http.response.start", "status": 200, "headers": [(b"x", b"a\r\nset-cookie: b")]}
            )
            return
        if path == "/whole":
            assert scope["extensions"][READY_HEAD]
            start = {"type": "http.response.start", "status": 200, "head": b"x-own: 1\r\n"}
            await send(start | {"length": 4, "body": b"four"})
            return
        if path == "/raise":
            raise ValueError("boom")
        if path == "/cut":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"half", "more_body": True})
            return
        if path == "/stream":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            for _ in range(3):
                await send({"type": "http.response.body", "body": b"x", "more_body": True})
            await send({"type": "http.response.body", "body": b""})
            return
        body = await self.read(receive)
        if body is None:
            self.events.append("disconnect")
            return
        names = sorted(name.decode() for name, _ in scope["headers"])
        document = {"method": scope["method"], "path": path, "size": len(body), "headers": names}
        document["query"] = scope["query_string"].decode()
        await self.answer(send, 200, json.dumps(document).encode())

    async def read(self, receive):
        body = b""
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            body += message["body"]
            if not message["more_body"]:
                return body

    async def answer(self, send, status, body):
        headers = [(b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})


class Door:
    def __init__(self, app, port, state):
        self.app, self.port, self.state = app, port, state

    async def connect(self):
        return await asyncio.open_connection("127.0.0.1", self.port)

    async def say(self, data, within_s=5.0):
        """Send bytes and read until the server closes."""
        reader, writer = await self.connect()
        writer.write(data)
        answer = await asyncio.wait_for(reader.read(), within_s)
        writer.close()
        return answer


@contextlib.asynccontextmanager
async def open_door(**limits) -> AsyncIterator[Door]:
    app, state = App(), ServerState()
    config = Config(
        app, http=bind_limits(ConnectionLimits(**limits)), ws="none", lifespan="off", log_config=None
    )
    config.proxy_headers = False
    config.load()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(
        lambda: config.http_protocol_class(config, state, {}, loop), "127.0.0.1", 0
    )
    try:
        yield Door(app, server.sockets[0].getsockname()[1], state)
    finally:
        app.gate.set()
        server.close()
        for connection in list(state.connections):
            connection.transport.abort()
        await asyncio.sleep(0.01)


@pytest.fixture
async def door():
    async with open_door() as door:
        yield door


async def read_response(reader):
    head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
    length = next(line for line in head.split("\r\n") if line.startswith("content-length"))
    return head, await reader.readexactly(int(length.split(":")[1]))


GET = b"GET /a?b=c HTTP/1.1\r\nHost: x\r\n\r\n"
CLOSE = b"GET /last HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"


async def test_a_connection_serves_request_after_request(door):
    reader, writer = await door.connect()
    for _ in range(3):
        writer.write(GET)
        head, body = await read_response(reader)
        assert head.startswith("http/1.1 200") and json.loads(body)["query"] == "b=c"
    writer.close()


async def test_a_ready_head_with_its_body_is_a_whole_answer_and_the_connection_goes_on(door):
    reader, writer = await door.connect()
    for _ in range(2):
        writer.write(b"GET /whole HTTP/1.1\r\nHost: x\r\n\r\n")
        head, body = await read_response(reader)
        assert "x-own: 1" in head and "content-length: 4" in head and body == b"four"
    writer.close()


async def test_pipelined_requests_are_answered_in_their_order(door):
    post = b"POST /p%d HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc"
    answer = await door.say(b"".join(post % number for number in range(40)) + CLOSE)
    paths = [
        json.loads(part.split(b"\r\n\r\n")[1])["path"] for part in answer.split(b"HTTP/1.1 200 OK\r\n")[1:]
    ]
    assert paths == [f"/p{number}" for number in range(40)] + ["/last"]


async def test_a_request_fed_byte_by_byte_is_whole(door):
    reader, writer = await door.connect()
    for byte in b"POST /slow HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n":
        writer.write(bytes([byte]))
        await asyncio.sleep(0)
    _, body = await read_response(reader)
    assert json.loads(body)["size"] == 3
    writer.close()


@pytest.mark.parametrize("in_pieces", [False, True])
async def test_a_header_over_64_kib_is_431_and_the_connection_ends(door, in_pieces):
    reader, writer = await door.connect()
    start = b"GET / HTTP/1.1\r\nHost: x\r\n"
    if in_pieces:
        writer.write(start + b"X-Big: ")
        with contextlib.suppress(ConnectionError):
            for _ in range(30):
                writer.write(b"a" * 8000)
                await asyncio.sleep(0.001)
    else:
        writer.write(start + b"".join(b"X-%d: %b\r\n" % (n, b"a" * 1000) for n in range(70)) + b"\r\n")
    answer = await asyncio.wait_for(reader.read(), 5)
    assert answer.startswith(b"HTTP/1.1 431") and b"header_too_large" in answer and b"x-request-id" in answer
    assert door.app.events == []
    writer.close()


async def test_a_header_of_60_kib_and_a_large_body_in_the_same_read_are_served(door):
    head = b"POST /ok HTTP/1.1\r\nHost: x\r\nX-Big: %b\r\nContent-Length: 200000\r\n\r\n" % (b"a" * 60_000)
    answer = await door.say(head + b"b" * 200_000 + CLOSE)
    assert answer.count(b"HTTP/1.1 200") == 2 and b'"size": 200000' in answer


async def test_more_than_256_header_lines_are_431(door):
    assert (await door.say(b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 257 + b"\r\n")).startswith(b"HTTP/1.1 431")


async def test_a_url_over_16_kib_is_414(door):
    assert (await door.say(b"GET /" + b"a" * 17_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n")).startswith(
        b"HTTP/1.1 414"
    )


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: +3\r\n\r\nabc",
        b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost : x\r\n\r\n",
        b"GET / HTTP/9.9\r\nHost: x\r\n\r\n",
        b"NONSENSE / HTTP/1.1\r\n\r\n",
        b"GET /\xff\xfe HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"CONNECT example.org:443 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: 3\r\n\r\nabc",
        b"GET / HTTP/1.1\r\nHost: x\r\nX: a\r\n folded: b\r\n\r\n"[:40] + b"\r\n\x00: z\r\n\r\n",
    ],
)
async def test_malformed_and_ambiguous_requests_are_400_and_reach_no_application(door, request_bytes):
    answer = await door.say(request_bytes)
    assert answer.startswith(b"HTTP/1.1 400") and answer.count(b"HTTP/1.1") == 1
    assert json.loads(answer.split(b"\r\n\r\n", 1)[1])["error"]["type"] == "invalid_request_error"
    assert door.app.events == []


async def test_a_broken_chunk_ends_the_request_with_400(door):
    answer = await door.say(b"POST /x HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n")
    assert answer.startswith(b"HTTP/1.1 400") and answer.count(b"HTTP/1.1") == 1
    assert door.app.events in (["/x", "disconnect"], ["/x"])


async def test_garbage_after_a_request_does_not_spoil_its_answer(door):
    answer = await door.say(GET + b"garbage\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 200") and answer.count(b"HTTP/1.1") == 1 and answer.endswith(b"}")


async def test_trailers_reach_neither_this_request_nor_the_next(door):
    head = b"POST /t HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    answer = await door.say(head + b"3\r\nabc\r\n0\r\nx-api-key: evil\r\n\r\n" + CLOSE)
    assert answer.count(b"HTTP/1.1 200") == 2 and b"x-api-key" not in answer


async def test_an_unfinished_header_is_408_after_its_deadline():
    async with open_door(header_s=0.2) as door:
        reader, writer = await door.connect()
        writer.write(b"GET / HTTP/1.1\r\n")
        for _ in range(8):
            await asyncio.sleep(0.04)
            writer.write(b"a: b\r\n")
        answer = await asyncio.wait_for(reader.read(), 5)
        assert answer.startswith(b"HTTP/1.1 408") and door.app.events == []
        writer.close()


async def test_a_silent_connection_is_closed_after_the_header_deadline():
    async with open_door(header_s=0.1) as door:
        assert await door.say(b"", 2) == b""


async def test_an_idle_connection_is_closed_after_keep_alive():
    async with open_door(keep_alive_s=0.3, header_s=0.1) as door:
        reader, writer = await door.connect()
        for _ in range(2):
            writer.write(GET)
            await read_response(reader)
            await asyncio.sleep(0.15)
        writer.write(GET)
        await read_response(reader)
        began = asyncio.get_running_loop().time()
        assert await asyncio.wait_for(reader.read(), 2) == b""
        assert asyncio.get_running_loop().time() - began > 0.25
        writer.close()


async def test_a_body_that_takes_too_long_is_408_and_the_application_sees_a_disconnect():
    async with open_door(body_s=0.2) as door:
        reader, writer = await door.connect()
        writer.write(b"POST /b HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n")
        for _ in range(8):
            await asyncio.sleep(0.04)
            writer.write(b"a")
        answer = await asyncio.wait_for(reader.read(), 5)
        assert answer.startswith(b"HTTP/1.1 408") and door.app.events == ["/b", "disconnect"]
        writer.close()


async def test_a_body_that_stands_still_is_408(monkeypatch):
    monkeypatch.setattr(protocol_module, "BODY_PAUSE_S", 0.15)
    async with open_door(body_s=60) as door:
        answer = await door.say(b"POST /b HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nabc")
        assert answer.startswith(b"HTTP/1.1 408") and door.app.events == ["/b", "disconnect"]


async def test_an_early_answer_reaches_a_client_that_is_still_sending(door):
    reader, writer = await door.connect()
    writer.write(b"POST /early HTTP/1.1\r\nHost: x\r\nContent-Length: 30000000\r\n\r\n")
    for _ in range(50):
        writer.write(b"a" * 100_000)
        await asyncio.sleep(0.002)
    head, body = await read_response(reader)
    assert "401" in head and "connection: close" in head and body == b"no"
    writer.close()


@pytest.mark.parametrize("how", ["fin", "reset"])
async def test_a_disconnect_is_told_at_once(door, how):
    reader, writer = await door.connect()
    writer.write(b"GET /hold HTTP/1.1\r\nHost: x\r\n\r\n")
    await asyncio.sleep(0.05)
    if how == "reset":
        linger = struct.pack("ii", 1, 0)
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    writer.close()
    await asyncio.sleep(0.1)
    assert door.app.events[:2] == ["/hold", "gone"]
    assert not door.state.connections


async def test_a_disconnect_is_told_although_another_request_waits_in_the_pipeline(door):
    _, writer = await door.connect()
    writer.write(b"GET /hold HTTP/1.1\r\nHost: x\r\n\r\n" + GET)
    await asyncio.sleep(0.05)
    writer.close()
    await asyncio.sleep(0.1)
    assert door.app.events == ["/hold", "gone", "disconnect"]


async def test_expect_100_continue_is_answered_when_the_body_is_wanted(door):
    reader, writer = await door.connect()
    writer.write(b"POST /e HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n")
    assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    writer.write(b"ab")
    _, body = await read_response(reader)
    assert json.loads(body)["size"] == 2
    writer.close()


async def test_an_upgrade_without_a_body_is_answered_and_closed(door):
    request = b"GET /ws HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
    answer = await door.say(request)
    assert answer.startswith(b"HTTP/1.1 200") and b"connection: close" in answer


async def test_http_1_0_gets_no_chunks(door):
    answer = await door.say(b"GET /stream HTTP/1.0\r\n\r\n")
    assert answer.endswith(b"\r\n\r\nxxx") and b"chunked" not in answer


async def test_a_stream_is_chunked(door):
    answer = await door.say(b"GET /stream HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert answer.endswith(b"1\r\nx\r\n1\r\nx\r\n1\r\nx\r\n0\r\n\r\n")


async def test_a_header_value_with_a_line_break_is_never_sent(door):
    answer = await door.say(b"GET /split HTTP/1.1\r\nHost: x\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 500") and b"set-cookie" not in answer


async def test_an_application_that_raises_is_500_and_one_that_stops_midway_is_cut(door):
    assert (await door.say(b"GET /raise HTTP/1.1\r\nHost: x\r\n\r\n")).startswith(b"HTTP/1.1 500")
    with contextlib.suppress(ConnectionError):
        answer = await door.say(b"GET /cut HTTP/1.1\r\nHost: x\r\n\r\n")
        assert not answer.endswith(b"0\r\n\r\n")


async def test_a_client_that_takes_nothing_is_dropped(monkeypatch):
    monkeypatch.setattr(protocol_module, "STALL_S", 0.2)
    async with open_door() as door:
        sock = socket.create_connection(("127.0.0.1", door.port))
        sock.setblocking(False)
        sock.sendall(b"GET /hold HTTP/1.1\r\nHost: x\r\n\r\n")
        await asyncio.sleep(0.05)
        connection = next(iter(door.state.connections))
        connection.transport.write(b"z" * 30_000_000)
        await asyncio.sleep(0.6)
        sock.close()
        assert door.app.events[:2] == ["/hold", "gone"]


async def test_a_crowd_of_idle_connections_makes_room():
    """The one that idles longest goes; when every one is at work, the newcomer is told so."""
    async with open_door(max_connections=3) as door:
        idle = []
        for _ in range(3):
            idle.append(await door.connect())
            idle[-1][1].write(GET)
            await read_response(idle[-1][0])
        newcomer, writer = await door.connect()
        writer.write(GET)
        assert "200 ok" in (await read_response(newcomer))[0]
        assert await asyncio.wait_for(idle[0][0].read(), 2) == b""
        for _, each in [*idle, (newcomer, writer)]:
            each.close()


async def test_a_newcomer_among_the_busy_is_told_to_come_again():
    async with open_door(max_connections=2) as door:
        busy = [await door.connect() for _ in range(2)]
        for _, writer in busy:
            writer.write(b"GET /hold HTTP/1.1\r\nHost: x\r\n\r\n")
        await asyncio.sleep(0.1)
        answer = await door.say(GET)
        assert answer.startswith(b"HTTP/1.1 503") and b"too_many_connections" in answer
        for _, writer in busy:
            writer.close()


async def wait_for_connections(door, count):
    while len(door.state.connections) != count:
        await asyncio.sleep(0.001)
    return list(door.state.connections)


async def test_a_connection_that_has_ended_leaves_nothing_to_the_collector(door):
    gc.collect()
    gc.disable()
    try:
        reader, writer = await door.connect()
        writer.write(CLOSE)
        (connection,) = await wait_for_connections(door, 1)
        gone = weakref.ref(connection)
        del connection
        await reader.read()
        writer.close()
        await wait_for_connections(door, 0)
        await asyncio.sleep(0.02)
        assert gone() is None
    finally:
        gc.enable()


async def test_a_request_on_its_way_while_the_worker_shuts_down_is_answered(door):
    late, late_writer = await door.connect()
    silent, silent_writer = await door.connect()
    await asyncio.sleep(0.02)
    for connection in list(door.state.connections):
        connection.shutdown()
    late_writer.write(GET)
    answer = await asyncio.wait_for(late.read(), 2)
    assert answer.startswith(b"HTTP/1.1 200") and b"connection: close" in answer
    assert await asyncio.wait_for(silent.read(), 2) == b""
    for writer in (late_writer, silent_writer):
        writer.close()


async def test_shutdown_closes_idle_connections_and_lets_a_begun_request_finish(door):
    idle, idle_writer = await door.connect()
    idle_writer.write(GET)
    await read_response(idle)
    partial, partial_writer = await door.connect()
    partial_writer.write(GET[:10])
    held, held_writer = await door.connect()
    held_writer.write(b"GET /hold HTTP/1.1\r\nHost: x\r\n\r\n")
    await asyncio.sleep(0.05)
    for connection in list(door.state.connections):
        connection.shutdown()
    assert await asyncio.wait_for(idle.read(), 2) == b""
    partial_writer.write(GET[10:])
    door.app.gate.set()
    for reader in (partial, held):
        answer = await asyncio.wait_for(reader.read(), 2)
        assert answer.startswith(b"HTTP/1.1 200") and b"connection: close" in answer
    for writer in (idle_writer, partial_writer, held_writer):
        writer.close()

"""A fast OpenAI-shaped upstream: the same answers for every system under test, at little cost of its own.

The model's name chooses the answer: `bench-paced-N` streams N chunks at 50 per second, each stamped with the
time it was sent; any other name answers at once, plainly or as 100 chunks, one event per write as a real
server sends them.

    python -m bench.upstream PORT
"""

import asyncio
import re
import sys
import time
from collections import deque
from typing import cast

import httptools
import uvloop

CHUNKS = 100
PACE_S = 0.02
SLOTS = 20

_MODEL = re.compile(rb'"model"\s*:\s*"([^"\\]{1,200})"')
_HEAD_PLAIN = (
    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nx-request-id: up-1\r\ncontent-length: %d\r\n\r\n"
)
_HEAD_STREAM = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ncache-control: no-cache\r\n"
    b"x-request-id: up-1\r\ntransfer-encoding: chunked\r\n\r\n"
)
_NOT_FOUND = b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n"
_WORDS = b" The quick brown fox jumps over the lazy dog and then sleeps.".split()
_USAGE = (
    b'"usage":{"prompt_tokens":19,"completion_tokens":100,"total_tokens":119,"prompt_tokens_details":'
    b'{"cached_tokens":0},"completion_tokens_details":{"reasoning_tokens":0}}'
)
_MODEL_INFO = b'{"model_path":"bench","tokenizer_path":"bench","is_generation":true}'
_SERVER_INFO = b'{"model_path":"bench","served_model_name":"bench","version":"0.5.0","tp_size":1,"dp_size":1}'
_MODEL_ROW = b'{"id":"bench","object":"model","created":1700000000,"owned_by":"bench"}'
_INFO = {
    b"/health": b'{"status":"ok"}',
    b"/health_generate": b'{"status":"ok"}',
    b"/get_model_info": _MODEL_INFO,
    b"/model_info": _MODEL_INFO,
    b"/get_server_info": _SERVER_INFO,
    b"/server_info": _SERVER_INFO,
    b"/v1/models": b'{"object":"list","data":[' + _MODEL_ROW + b"]}",
}


def answer_plain(model: bytes) -> bytes:
    """The whole HTTP response of a plain chat completion of about 600 bytes."""
    text = b" ".join(_WORDS * 3)
    body = (
        b'{"id":"chatcmpl-bench","object":"chat.completion","created":1700000000,"model":"' + model + b'",'
        b'"choices":[{"index":0,"message":{"role":"assistant","content":"' + text + b'","refusal":null},'
        b'"logprobs":null,"finish_reason":"stop"}],' + _USAGE + b',"system_fingerprint":"fp_bench"}'
    )
    return _HEAD_PLAIN % len(body) + body


def as_event(data: bytes) -> bytes:
    """One server-sent event as one HTTP chunk."""
    event = b"data: " + data + b"\n\n"
    return b"%x\r\n%b\r\n" % (len(event), event)


def as_chunk(model: bytes, delta: bytes, finish: bytes = b"null") -> bytes:
    return as_event(
        b'{"id":"chatcmpl-bench","object":"chat.completion.chunk","created":1700000000,"model":"'
        + model
        + b'",'
        b'"system_fingerprint":"fp_bench","choices":[{"index":0,"delta":' + delta + b',"logprobs":null,'
        b'"finish_reason":' + finish + b"}]}"
    )


def as_end(model: bytes, with_usage: bool) -> list[bytes]:
    """The finish chunk, the usage chunk when asked for, and the end of the body."""
    usage = as_event(
        b'{"id":"chatcmpl-bench","object":"chat.completion.chunk","created":1700000000,"model":"'
        + model
        + b'",'
        b'"system_fingerprint":"fp_bench","choices":[],' + _USAGE + b"}"
    )
    done = as_event(b"[DONE]") + b"0\r\n\r\n"
    return [as_chunk(model, b"{}", b'"stop"'), *([usage] if with_usage else []), done]


def answer_stream(model: bytes, with_usage: bool) -> list[bytes]:
    """What is written, in order: head, 100 chunks (role, 98 of text, finish), usage when asked, end."""
    first = as_chunk(model, b'{"role":"assistant","content":"","refusal":null}')
    words = [as_chunk(model, b'{"content":" ' + _WORDS[n % len(_WORDS)] + b'"}') for n in range(CHUNKS - 2)]
    return [_HEAD_STREAM, first, *words, *as_end(model, with_usage)]


def answer_messages(model: bytes) -> bytes:
    """The plain answer of a provider of the Messages wire."""
    text = b" ".join(_WORDS * 3)
    body = (
        b'{"id":"msg_bench","type":"message","role":"assistant","model":"' + model + b'",'
        b'"content":[{"type":"text","text":"' + text + b'"}],"stop_reason":"end_turn","stop_sequence":null,'
        b'"usage":{"input_tokens":19,"output_tokens":100}}'
    )
    return _HEAD_PLAIN % len(body) + body


def stream_messages(model: bytes) -> list[bytes]:
    """The same as a stream: head, start, 98 pieces of text, end."""
    started = (
        b'{"type":"message_start","message":{"id":"msg_bench","type":"message","role":"assistant","model":"'
        + model
        + b'","content":[],"stop_reason":null,"usage":{"input_tokens":19,"output_tokens":1}}}'
    )
    events = [started, b'{"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}']
    for n in range(CHUNKS - 2):
        word = _WORDS[n % len(_WORDS)]
        delta = b'"delta":{"type":"text_delta","text":" ' + word + b'"}'
        events.append(b'{"type":"content_block_delta","index":0,' + delta + b"}")
    events += [
        b'{"type":"content_block_stop","index":0}',
        b'{"type":"message_delta","delta":{"stop_reason":"end_turn"},"usage":{"output_tokens":100}}',
        b'{"type":"message_stop"}',
    ]
    return [_HEAD_STREAM, *map(as_event, events), b"0\r\n\r\n"]


class Pacer:
    """Writes a stamped chunk to every open paced stream 50 times a second, spread over the 20 ms."""

    def __init__(self) -> None:
        self.slots: list[set[Connection]] = [set() for _ in range(SLOTS)]
        self.turn = 0
        self.next_at = 0.0
        self.running = False

    def add(self, stream: "Connection") -> None:
        min(self.slots, key=len).add(stream)
        if not self.running:
            self.running = True
            self.next_at = time.monotonic()
            self.tick()

    def tick(self) -> None:
        """Serve every slot that is due; falling behind is caught up, so the rate holds on average."""
        now = time.monotonic()
        while self.next_at <= now:
            slot = self.slots[self.turn]
            self.turn = (self.turn + 1) % SLOTS
            self.next_at += PACE_S / SLOTS
            for stream in list(slot):
                if not stream.write_paced():
                    slot.discard(stream)
        self.running = any(self.slots)
        if self.running:
            asyncio.get_running_loop().call_later(self.next_at - now, self.tick)


Answers = dict[tuple[bytes, bool, bool, bool], list[bytes]]


class Connection(asyncio.Protocol):
    """One client connection; requests are answered in the order they come."""

    def __init__(self, pacer: Pacer, answers: Answers) -> None:
        self.pacer = pacer
        self.answers = answers
        self.parser = httptools.HttpRequestParser(self)
        self.body: list[bytes] = []
        self.url = b""
        self.pieces: deque[bytes] = deque()
        self.left = 0
        self.model = b""
        self.with_usage = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's class does not derive from it
        self.loop = asyncio.get_running_loop()

    def connection_lost(self, exc: Exception | None) -> None:
        self.pieces.clear()
        self.left = 0

    def data_received(self, data: bytes) -> None:
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserError:
            self.transport.close()

    def on_message_begin(self) -> None:
        self.body.clear()
        self.url = b""

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == b"expect":
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, body: bytes) -> None:
        self.body.append(body)

    def on_message_complete(self) -> None:
        path = self.url.partition(b"?")[0]
        if path.endswith(b"/chat/completions"):
            self.answer_chat(b"".join(self.body))
        elif path.endswith(b"/messages"):
            self.answer_chat(b"".join(self.body), messages=True)
        elif path in _INFO:
            self.transport.write(_HEAD_PLAIN % len(_INFO[path]) + _INFO[path])
        else:
            self.transport.write(_NOT_FOUND)

    def answer_chat(self, body: bytes, *, messages: bool = False) -> None:
        found = _MODEL.search(body, 0, 4096) or _MODEL.search(body, max(0, len(body) - 4096))
        model = found[1] if found else b"bench"
        if len(body) > 65536:  # the flags stand at either end of a large body
            body = body[:4096] + body[-4096:]
        stream = b'"stream":true' in body or b'"stream": true' in body
        with_usage = b'"include_usage":true' in body or b'"include_usage": true' in body
        if stream and model.startswith(b"bench-paced-"):
            self.begin_paced(model, with_usage)
            return
        pieces = self.find_answer(model, stream, with_usage, messages)
        self.pieces.extend(pieces)
        self.write_next()

    def find_answer(self, model: bytes, stream: bool, with_usage: bool, messages: bool) -> list[bytes]:
        """Prebuilt per model, so that the upstream's own cost stays out of the way."""
        key = (model, stream, with_usage, messages)
        pieces = self.answers.get(key)
        if pieces is None:
            if messages:
                pieces = stream_messages(model) if stream else [answer_messages(model)]
            else:
                pieces = answer_stream(model, with_usage) if stream else [answer_plain(model)]
            if len(self.answers) < 64:
                self.answers[key] = pieces
        return pieces

    def write_next(self) -> None:
        """One event per turn of the loop and per system call, as a server that awaits each token."""
        if self.pieces:
            self.transport.write(self.pieces.popleft())
            if self.pieces:
                self.loop.call_soon(self.write_next)

    def begin_paced(self, model: bytes, with_usage: bool) -> None:
        self.model, self.with_usage = model, with_usage
        self.left = int(model.rpartition(b"-")[2])
        self.transport.write(_HEAD_STREAM + as_chunk(model, b'{"role":"assistant","content":""}'))
        self.pacer.add(self)

    def write_paced(self) -> bool:
        """Write one stamped chunk, or the end. False when the stream is over."""
        if self.left <= 0:
            if not self.transport.is_closing():
                self.transport.write(b"".join(as_end(self.model, self.with_usage)))
            return False
        self.left -= 1
        self.transport.write(as_chunk(self.model, b'{"content":"@%d@"}' % time.monotonic_ns()))
        return True


async def serve(port: int) -> None:
    pacer, answers = Pacer(), Answers()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(pacer, answers), "127.0.0.1", port, backlog=2048)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1])))

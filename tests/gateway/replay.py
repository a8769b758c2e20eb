"""An upstream in a thread of its own that answers with exactly the bytes that a test lays down for a model's name."""

import asyncio
import json
import struct
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from socket import SO_LINGER, SOL_SOCKET
from typing import Any
from urllib.parse import unquote

SSE = "text/event-stream"
JSON = "application/json"


@dataclass(frozen=True)
class Script:
    """One answer: `body` is what stands behind the headers, before any transfer coding.

    cut: how many bytes of it are sent before the connection breaks.  pieces: 1 sends byte by byte.
    rest: after how many bytes it waits until they have surely been read.
    """

    body: bytes
    media_type: str = SSE
    status: int = 200
    framing: str = "chunked"
    cut: int | None = None
    reset: bool = False
    pieces: int | None = None
    rest: int | None = None
    gzip: bool = False

    def head(self) -> bytes:
        lines = [f"HTTP/1.1 {self.status} Said", f"content-type: {self.media_type}"]
        if self.gzip:
            lines.append("content-encoding: gzip")
        if self.framing == "chunked":
            lines.append("transfer-encoding: chunked")
        elif self.framing == "length":
            lines.append(f"content-length: {len(self.coded())}")
        else:
            lines.append("connection: close")
        return "\r\n".join(lines).encode() + b"\r\n\r\n"

    def coded(self) -> bytes:
        if not self.gzip:
            return self.body
        packer = zlib.compressobj(wbits=31)
        return packer.compress(self.body) + packer.flush()


class Replay:
    """`scripts` maps a model's name to its answer; `requests` holds what was asked, whole and in order."""

    def __init__(self) -> None:
        self.scripts: dict[str, Script] = {}
        self.requests: list[tuple[bytes, bytes]] = []
        self.port = 0
        self._loop = asyncio.new_event_loop()
        self._listening = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        self._thread.start()
        assert self._listening.wait(5)

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(asyncio.start_server(self._answer_all, "127.0.0.1", 0))
        self.port = server.sockets[0].getsockname()[1]
        self._listening.set()
        self._loop.run_forever()
        server.close()
        tasks = asyncio.all_tasks(self._loop)
        for task in tasks:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        self._loop.close()

    async def _answer_all(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0] or 0)
                body = await reader.readexactly(length)
                self.requests.append((head, body))
                if not await self._answer(head, body, writer):
                    return
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    async def _answer(self, head: bytes, body: bytes, writer: asyncio.StreamWriter) -> bool:
        """Play the script; False when the connection is over."""
        script = self.scripts[read_model(head, body)]
        coded = script.coded()
        sent = coded if script.cut is None else coded[: script.cut]
        size = script.pieces or script.rest or max(len(sent), 1)
        writer.write(script.head())
        for start in range(0, len(sent), size):
            piece = sent[start : start + size]
            writer.write(b"%x\r\n%s\r\n" % (len(piece), piece) if script.framing == "chunked" else piece)
            await writer.drain()
            if script.pieces:
                await asyncio.sleep(0)
            if start + size == script.rest:
                await asyncio.sleep(0.3)
        if script.cut is not None:
            if script.reset:
                await asyncio.sleep(0.005)  # what was sent is to arrive before the reset throws it away
                writer.get_extra_info("socket").setsockopt(SOL_SOCKET, SO_LINGER, struct.pack("ii", 1, 0))
            return False
        if script.framing == "chunked":
            writer.write(b"0\r\n\r\n")
        await writer.drain()
        return script.framing != "close"


def read_model(head: bytes, body: bytes) -> str:
    """The last `model` of the body, as most servers read it; without one, what follows `/model(s)/` in the path."""
    target = head.split(b" ", 2)[1].decode()
    if "/model/" in target:
        return unquote(target.partition("/model/")[2].rpartition("/")[0])
    if "/models/" in target:
        return unquote(target.partition("/models/")[2].partition(":")[0])
    name: str = json.loads(body)["model"]
    return name


@contextmanager
def replaying() -> Iterator[Replay]:
    replay = Replay()
    replay.start()
    try:
        yield replay
    finally:
        replay.stop()


def chunk(delta: dict[str, Any] | None, finish: str | None = None, **more: Any) -> bytes:
    """One event of a chat stream, in a spelling that no serialiser of ours would choose."""
    choices = (
        [] if delta is None else [{"index": 0, "delta": delta, "finish_reason": finish, "logprobs": None}]
    )
    doc = {
        "id": "chatcmpl-Zq9",
        "object": "chat.completion.chunk",
        "created": 1700000001,
        "model": "upstream-name-2025",
        "choices": choices,
        **more,
    }
    return b"data: " + json.dumps(doc, separators=(", ", " : ")).encode() + b"\n\n"


USAGE = {"prompt_tokens": 11, "completion_tokens": 3, "total_tokens": 14}
TEXT = "Nä, so wide."
OPENING = chunk({"role": "assistant", "content": ""})
WORDS = chunk({"content": "Nä,"}) + chunk({"content": " so"}) + chunk({"content": " wide."})
FINISH = chunk({}, "stop")
USAGE_CHUNK = chunk(None, usage=USAGE)
DONE = b"data: [DONE]\n\n"
STREAM = OPENING + WORDS + FINISH + USAGE_CHUNK + DONE
PLAIN = (
    '{"id":"chatcmpl-Zq9",  "object":"chat.completion","created":1.700000001e9,"model":"upstream-name-2025",\n'
    ' "choices":[{"index":0,"message":{"role":"assistant","content":"N\\u00e4, so wide. \\/ ✓"},'
    '"finish_reason":"stop"}],\n\t"usage":{"prompt_tokens":11,"completion_tokens":3,"total_tokens":14},'
    '"x_extra":{"big":12345678901234567890,"f":1.10}}\n'
).encode()

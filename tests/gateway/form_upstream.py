"""An upstream in a thread that reads forms without keeping their files, and answers by the model that they name."""

import asyncio
import re
import threading
from dataclasses import dataclass, field
from typing import Any, Self

_NAME = re.compile(rb'name="([^"]*)"')


@dataclass
class Seen:
    path: str
    length: int | None = None
    fields: dict[str, str] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    whole: bool = False
    gone: bool = False


class FormUpstream:
    """`answers`: status, media type and body for each model. A model that answers an error does so at once."""

    def __init__(self) -> None:
        self.answers: dict[str, tuple[int, str, bytes]] = {}
        self.seen: list[Seen] = []
        self.port = 0
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(5)
        return self

    def __exit__(self, *_: Any) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(asyncio.start_server(self._answer, "127.0.0.1", 0))
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        self._loop.run_forever()
        server.close()
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
        self._loop.run_until_complete(asyncio.sleep(0.05))
        self._loop.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen: Seen | None = None
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            seen = Seen(head.split()[1].decode())
            self.seen.append(seen)
            await self._read_form(head, reader, seen)
            seen.whole = True
        except asyncio.IncompleteReadError:
            if seen is not None:
                seen.gone = True
            writer.close()
            return
        except ConnectionError:
            if seen is not None:
                seen.gone = True
            return
        status, media_type, body = self.answers[seen.fields["model"]]
        writer.write(
            f"HTTP/1.1 {status} Said\r\ncontent-type: {media_type}\r\nconnection: close\r\n"
            f"content-length: {len(body)}\r\n\r\n".encode()
            + body
        )
        await writer.drain()
        writer.close()

    async def _read_form(self, head: bytes, reader: asyncio.StreamReader, seen: Seen) -> None:
        found = re.search(rb"boundary=([^\r\n;]+)", head)
        assert found is not None
        length = re.search(rb"content-length: (\d+)", head.lower())
        seen.length = int(length[1]) if length else None
        pieces = _read_length(reader, seen.length) if seen.length is not None else _read_chunks(reader)
        mark, buffer, name = b"\r\n--" + found[1].strip(b'"'), b"\r\n", ""
        is_file, sizes = False, seen.sizes
        async for piece in pieces:
            buffer += piece
            while True:
                at = buffer.find(mark)
                taken = at if at >= 0 else max(0, len(buffer) - len(mark))
                if name and is_file:
                    sizes[name] = sizes.get(name, 0) + taken
                    buffer, at = buffer[taken:], at - taken if at >= 0 else at
                if at < 0:
                    break
                if name and not is_file:
                    seen.fields[name] = buffer[:at].decode()
                end = buffer.find(b"\r\n\r\n", at)
                if end < 0:
                    name = ""
                    buffer = buffer[at:]
                    break
                part = buffer[at:end]
                matched = _NAME.search(part)
                assert matched is not None
                name, is_file = matched[1].decode(), b"filename" in part
                if is_file:
                    sizes.setdefault(name, 0)
                buffer = buffer[end + 4 :]


async def _read_length(reader: asyncio.StreamReader, length: int) -> Any:
    while length:
        piece = await reader.read(min(65536, length))
        if not piece:
            raise asyncio.IncompleteReadError(b"", length)
        length -= len(piece)
        yield piece


async def _read_chunks(reader: asyncio.StreamReader) -> Any:
    while size := int(await reader.readuntil(b"\r\n"), 16):
        yield (await reader.readexactly(size + 2))[:-2]
    await reader.readexactly(2)

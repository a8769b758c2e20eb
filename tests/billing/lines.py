"""A line to PostgreSQL as bad as networks are: answers get lost, and what was asked arrives when nobody waits."""

import asyncio
import contextlib
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from psycopg.conninfo import conninfo_to_dict, make_conninfo

_CANCEL = struct.pack("!ii", 16, 80877102)
_SOCKET = ".s.PGSQL.5432"


class Line:
    """Whoever asks what is faulted hears nothing and finds the line broken when it wants to cancel; others pass."""

    def __init__(self, server: str) -> None:
        self._server = server
        self._word, self._times = b"", 0
        self._keeps = self._cuts = False
        self._silent: list[asyncio.StreamWriter] = []
        self._kept: list[tuple[bytes, asyncio.StreamWriter, asyncio.Event]] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self.faults = 0

    def lose_answer(self, word: bytes) -> None:
        """The next statement with this word is done, and nobody hears of it."""
        self._word, self._times, self._keeps, self._cuts = word, 1, False, False

    def cut_answers(self, word: bytes, times: int) -> None:
        """The next `times` statements with this word are done, and the line breaks before the answer is there."""
        self._word, self._times, self._keeps, self._cuts = word, times, False, True

    def keep(self, word: bytes) -> None:
        """The next statement with this word is under way until it is delivered."""
        self._word, self._times, self._keeps, self._cuts = word, 1, True, False

    async def deliver(self) -> None:
        """What was kept reaches the database, and is done."""
        for data, server, answered in self._kept:
            server.write(data)
            await answered.wait()
        self._kept.clear()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        answers, server = await asyncio.open_unix_connection(self._server)
        answered, silence = asyncio.Event(), asyncio.Event()
        pump = asyncio.create_task(_pass_answers(answers, writer, answered, silence))
        try:
            await self._pass_questions(reader, writer, server, answered, silence)
            if silence.is_set():  # the server has not noticed that nobody is there
                await answered.wait()
        except ConnectionError:
            pass
        finally:
            pump.cancel()
            for end in (writer, server):
                end.close()

    async def _pass_questions(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        server: asyncio.StreamWriter,
        answered: asyncio.Event,
        silence: asyncio.Event,
    ) -> None:
        while data := await reader.read(1 << 16):
            if data.startswith(_CANCEL) and self._silent:
                self._silent.pop().close()
                return
            if self._times and self._word in data:
                self._times -= 1
                self.faults += 1
                self._silent.append(writer)
                answered.clear()
                silence.set()
                if self._keeps:
                    self._kept.append((data, server, answered))
                    continue
            server.write(data)
            if self._cuts and silence.is_set():
                await answered.wait()
                return

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


async def _pass_answers(
    answers: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    answered: asyncio.Event,
    silence: asyncio.Event,
) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await answers.read(1 << 16):
            if not silence.is_set():
                writer.write(data)
            answered.set()
    answered.set()
    writer.close()


@asynccontextmanager
async def lay_line(url: str, folder: Path) -> AsyncIterator[tuple[Line, str]]:
    """A line to the server of `url`, and the URL of its near end."""
    named = conninfo_to_dict(url)
    line = Line(f"{named['host']}/{_SOCKET}")
    server = await asyncio.start_unix_server(line.serve, folder / _SOCKET)
    try:
        yield line, make_conninfo(url, host=str(folder))
    finally:
        server.close()
        await line.close()

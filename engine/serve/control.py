"""The line between the supervisor and a worker: a socket pair with one JSON object per line, both ways.

`ask` waits for the other side's answer, `tell` does not. A side that ends closes the line, which is how each
learns of the other's death.
"""

import asyncio
import itertools
import logging
import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import orjson

log = logging.getLogger(__name__)

Facts = dict[str, Any]
Answer = Callable[[Facts], Awaitable[Facts]]
MOST_SOCKETS = 2
LINE_BYTES = 1 << 28
"""A manifest of some thousand files is a few hundred kilobytes; this only bounds what a bug could send."""


class LineClosed(Exception):
    """The other process has ended or does not answer."""


class Line:
    """One end. `answers` maps what the other side may ask to the coroutine that answers it."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, answers: Mapping[str, Answer]
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._answers = answers
        self._numbers = itertools.count(1)
        self._asked: dict[int, asyncio.Future[Facts]] = {}
        self._answering: set[asyncio.Task[None]] = set()
        self.closed = asyncio.Event()

    async def ask(self, op: str, within_s: float, **facts: Any) -> Facts:
        """The other side's answer. Raises LineClosed when there is none in time."""
        if self.closed.is_set():
            raise LineClosed(f"{op}: the other process has ended")
        number = next(self._numbers)
        asked = self._asked[number] = asyncio.get_running_loop().create_future()
        try:
            self._write({"op": op, "id": number, **facts})
            async with asyncio.timeout(within_s):
                answer: Facts = await asked
                return answer
        except TimeoutError:
            raise LineClosed(f"{op}: no answer within {within_s:g} s") from None
        finally:
            del self._asked[number]

    def tell(self, op: str, **facts: Any) -> None:
        self._write({"op": op, **facts})

    async def listen(self) -> None:
        """Take what arrives until the other side closes or dies."""
        try:
            while text := await self._reader.readline():
                self._take(orjson.loads(text))
        except (ConnectionError, orjson.JSONDecodeError) as error:
            log.debug("control line broken: %s", error)
        finally:
            self.closed.set()
            self._writer.close()
            for asked in self._asked.values():
                if not asked.done():
                    asked.set_exception(LineClosed("the other process has ended"))

    def _take(self, facts: Facts) -> None:
        if (number := facts.pop("re", None)) is not None:
            asked = self._asked.get(number)
            if asked is not None and not asked.done():
                asked.set_result(facts)
            return
        task = asyncio.get_running_loop().create_task(self._answer(facts))
        self._answering.add(task)
        task.add_done_callback(self._answering.discard)

    async def _answer(self, facts: Facts) -> None:
        op, number = facts.pop("op"), facts.pop("id", None)
        try:
            answer = await self._answers[op](facts)
        except Exception as error:
            # A border: the asking process must hear of any fault, not wait for its deadline.
            log.exception("control line: %s failed", op)
            answer = {"fault": f"{type(error).__name__}: {error}"}
        if number is not None:
            self._write({"re": number, **answer})

    def _write(self, facts: Facts) -> None:
        if not self._writer.is_closing():
            self._writer.write(orjson.dumps(facts) + b"\n")


async def open_line(sock: socket.socket, answers: Mapping[str, Answer]) -> Line:
    """The line over this end of a socket pair. Run `listen` on it."""
    reader, writer = await asyncio.open_unix_connection(sock=sock, limit=LINE_BYTES)
    return Line(reader, writer, answers)


def hand_over_sockets(line_end: socket.socket, listening: Sequence[socket.socket]) -> None:
    """Give a worker the listening sockets, before anything else is said on the line."""
    socket.send_fds(line_end, [b"\n"], [each.fileno() for each in listening])


def receive_sockets(line_end: socket.socket) -> list[socket.socket]:
    """Wait for the listening sockets; none when the supervisor ended first."""
    data, descriptors, _, _ = socket.recv_fds(line_end, 1, MOST_SOCKETS)
    return [socket.socket(fileno=descriptor) for descriptor in descriptors] if data else []

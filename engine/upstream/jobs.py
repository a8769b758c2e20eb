"""Waits for a job that a provider has taken: asks how it stands until it is done, then reads its result.

Every address must be the provider's own (same scheme, host and port), because it is asked with the credential. A job
that nobody waits for any more (the client left, a clock ran out) is ended at the provider.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import urlsplit

import orjson

from engine.errors import UpstreamFailure
from engine.upstream.reply import Origin, Reply
from engine.wire.formats import Format
from engine.wire.jobs import JobPoll

LARGEST_ANSWER = 64 * 1024 * 1024
MOST_FAILED_LOOKS = 3
"""So often in a row a look at the job may fail for reasons of the network or the provider."""
CANCEL_S = 5.0

Ask = Callable[[str, str], Awaitable[Reply]]
"""Method and path (with its query) -> a reply of a good status."""


class WholeReply(Reply):
    """An answer that was read already."""

    __slots__ = ("_body",)

    def __init__(self, body: bytes) -> None:
        self.status = 200
        self.headers = [(b"content-type", b"application/json")]
        self.complete = True
        self.inflater = None
        self._body = body

    def set_clock(self, name: str, within_s: float | None, idle_s: float | None = None) -> None:
        """Nothing is waited for."""

    def close(self) -> None:
        """Nothing is open."""

    async def _read_raw(self) -> bytes:
        body, self._body = self._body, b""
        return body


class JobWaits:
    """The waiting for jobs of one worker; it ends those that were left."""

    def __init__(self) -> None:
        self._ending: set[asyncio.Task[None]] = set()

    async def follow(
        self, reply: Reply, poll: JobPoll, format: Format, origin: Origin, ask: Ask, within_s: float
    ) -> Reply:
        """The result of the job that `reply` tells of. Raises UpstreamFailure."""
        body = await reply.read_all(LARGEST_ANSWER)
        job = parse(body)
        if poll.judge(job) == "failed":
            raise read_failure(format, job)
        status = poll.find_url("status", job)
        if status is None or (poll.judge(job) == "done" and poll.find_url("result", job) is None):
            return WholeReply(body)
        path = keep_home(status, origin)
        try:
            async with asyncio.timeout(min(poll.give_up_s, within_s)):
                return WholeReply(await self._wait(poll, format, origin, ask, path, job))
        except TimeoutError:
            self._end_later(poll, origin, ask, job)
            told = f"the provider's job was not done within {min(poll.give_up_s, within_s):g} s"
            raise UpstreamFailure("timeout", told, clock="answer") from None
        except asyncio.CancelledError:
            self._end_later(poll, origin, ask, job)
            raise

    async def _wait(
        self, poll: JobPoll, format: Format, origin: Origin, ask: Ask, path: str, job: Any
    ) -> bytes:
        failed_looks = 0
        while True:
            await asyncio.sleep(poll.every_s)
            try:
                body = await read(await ask("GET", path))
            except UpstreamFailure as failure:
                failed_looks += 1
                if failed_looks >= MOST_FAILED_LOOKS or (400 <= (failure.status or 0) < 429):
                    raise
                continue
            failed_looks, doc = 0, parse(body)
            state = poll.judge(doc)
            if state == "failed":
                raise read_failure(format, doc)
            if state == "done":
                result = poll.find_url("result", doc, job)
                return body if result is None else await read(await ask("GET", keep_home(result, origin)))

    def _end_later(self, poll: JobPoll, origin: Origin, ask: Ask, job: Any) -> None:
        url = poll.find_url("cancel", job)
        if url is None:
            return
        task = asyncio.get_running_loop().create_task(self._end(poll.cancel_method, url, origin, ask))
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    async def _end(self, method: str, url: str, origin: Origin, ask: Ask) -> None:
        try:
            async with asyncio.timeout(CANCEL_S):
                await read(await ask(method, keep_home(url, origin)))
        except (UpstreamFailure, TimeoutError):
            return  # it was done already, or ends by itself

    async def close(self) -> None:
        """Let the ends that are under way reach their providers."""
        if self._ending:
            await asyncio.wait(self._ending, timeout=CANCEL_S)


async def read(reply: Reply) -> bytes:
    try:
        return await reply.read_all(LARGEST_ANSWER)
    finally:
        reply.close()


def parse(body: bytes) -> Any:
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise UpstreamFailure("broken_stream", "what the provider says of its job is not JSON") from error


def read_failure(format: Format, doc: Any) -> UpstreamFailure:
    facts = format.read_error(502, doc, "")
    kind = format.kind_of_error(502, facts) or "502"
    return UpstreamFailure(kind, facts.message or "the provider's job failed", status=502, error=facts)


def keep_home(url: str, origin: Origin) -> str:
    """Path and query of an address, which must be the provider's."""
    parts = urlsplit(url)
    if parts.scheme or parts.netloc:
        port = parts.port or {"http": 80, "https": 443}.get(parts.scheme)
        if (parts.scheme, parts.hostname, port) != (
            origin.scheme,
            origin.host,
            origin.port,
        ) or parts.username:
            raise UpstreamFailure("broken_stream", f"the provider's job is at another host: {parts.hostname}")
    if not parts.path.startswith("/"):
        raise UpstreamFailure("broken_stream", "the provider's job has no address")
    return parts.path + (f"?{parts.query}" if parts.query else "")

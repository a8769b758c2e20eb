"""Work that is done now and then by one worker of all gateways on a database: renewals, notices, retries.

A chore is a row: the worker that moves `due_at` does it. Dying at it costs the others `takes_s` of waiting, and no
chore may mind to be done twice: what it does must be named by references that are taken once.
"""

import asyncio
import logging
import random
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, LiteralString

import psycopg

from engine.errors import GatewayError
from engine.storage.postgres import Connection, Database, cancel_tasks

log = logging.getLogger(__name__)

_LOOK_EACH_S = 5.0
_CLAIM: LiteralString = (
    "UPDATE chores SET due_at = now() + %(each)s * interval '1 second',"
    " claimed_until = now() + %(takes)s * interval '1 second'"
    " WHERE name = %(name)s AND due_at <= now() AND claimed_until <= now()"
)
_FINISH: LiteralString = (
    "UPDATE chores SET claimed_until = now(), ran_at = now(), error = %(error)s,"
    " failures = CASE WHEN %(error)s = '' THEN 0 ELSE failures + 1 END WHERE name = %(name)s"
)


@dataclass(frozen=True, slots=True)
class Chore:
    """`run` does all that is due and returns; it is cancelled after `takes_s`."""

    name: str
    each_s: float
    run: Callable[[], Coroutine[Any, Any, object]]
    takes_s: float = 300.0


class Chores:
    """Every worker has one and looks every few seconds what is due."""

    def __init__(self, database: Database, look_each_s: float = _LOOK_EACH_S) -> None:
        self._database, self._look_each_s = database, look_each_s
        self._chores: list[Chore] = []
        self._looks: list[Callable[[], Coroutine[Any, Any, object]]] = []
        self._task: asyncio.Task[None] | None = None

    def add(self, *chores: Chore) -> None:
        self._chores += chores

    def add_look(self, look: Callable[[], Coroutine[Any, Any, object]]) -> None:
        """What every worker reads each time that it looks: figures of shared tables, for its metrics."""
        self._looks.append(look)

    def start(self) -> None:
        self._task = asyncio.create_task(self._look_often())

    async def stop(self) -> None:
        if self._task is not None:
            await cancel_tasks(self._task)

    async def do_what_is_due(self) -> list[str]:
        """The names of the chores that this worker did. Raises DependencyAway."""
        done = []
        for chore in self._chores:
            if await self._claim(chore):
                await self._do(chore)
                done.append(chore.name)
        return done

    async def _look_often(self) -> None:
        while True:
            await asyncio.sleep(self._look_each_s * random.uniform(0.5, 1.5))  # nosec B311 # a pause
            try:
                await self.do_what_is_due()
                for look in self._looks:
                    await look()
            except (GatewayError, psycopg.Error) as error:
                log.debug("nobody looked for chores: %s", error)

    async def _claim(self, chore: Chore) -> bool:
        asked = {"name": chore.name, "each": chore.each_s, "takes": chore.takes_s}

        async def claim(connection: Connection) -> bool:
            moved = await connection.execute(_CLAIM, asked)
            if moved.rowcount:
                return True
            await connection.execute(
                "INSERT INTO chores (name) VALUES (%s) ON CONFLICT DO NOTHING", (chore.name,)
            )
            return False

        return await self._database.run(claim)

    async def _do(self, chore: Chore) -> None:
        error = await _find_error(chore)
        if error:
            log.error("the chore %s failed: %s", chore.name, error)

        async def finish(connection: Connection) -> None:
            await connection.execute(_FINISH, {"name": chore.name, "error": error})

        await self._database.run(finish)


async def _find_error(chore: Chore) -> str:
    """Do it as a task of its own, so that not even a mistake in one chore keeps the others from being done."""
    task = asyncio.create_task(chore.run())
    try:
        await asyncio.wait({task}, timeout=chore.takes_s)
    finally:
        if not task.done():
            await cancel_tasks(task)
    if task.cancelled():
        return f"not done within {chore.takes_s:g} s"
    problem = task.exception()
    return "" if problem is None else f"{type(problem).__name__}: {problem}"[:300]

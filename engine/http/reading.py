"""Looking at records: several questions answered as of one moment, with what this worker has settled among them."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from engine.storage.postgres import Connection, Database

Work = Callable[[Connection], Awaitable[Any]]


class Reader:
    """`flush` brings what this worker has settled into the database first."""

    def __init__(self, database: Database, flush: Callable[[], Awaitable[object]]) -> None:
        self._database, self._flush = database, flush

    async def read(self, *works: Work) -> Sequence[Any]:
        async def select(connection: Connection) -> Sequence[Any]:
            async with connection.transaction():
                await connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
                return [await work(connection) for work in works]

        await self._flush()
        return await self._database.run(select)

"""What has expired leaves the database in the background, in bounded pieces."""

import asyncio
import logging
from typing import LiteralString

import psycopg

from engine.errors import DependencyAway
from engine.storage.postgres import Connection, Database

log = logging.getLogger(__name__)

_AT_ONCE = 1000
_SOON_S = 1.0


async def purge_often(database: Database, statement: LiteralString, each_s: float, what: str) -> None:
    """Run `statement` (its one parameter is how many rows at once) every `each_s`, sooner while there is more to do.

    `what` names the rows in the log. Runs until it is cancelled.
    """

    async def purge(connection: Connection) -> int:
        return (await connection.execute(statement, (_AT_ONCE,))).rowcount

    while True:
        purged = 0
        try:
            purged = await database.run(purge)
        except DependencyAway:
            pass
        except psycopg.Error as error:
            log.error("expired %s not purged: %s", what, error)
        await asyncio.sleep(_SOON_S if purged >= _AT_ONCE else each_s)

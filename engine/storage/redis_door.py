"""How a connection to Redis is made: addresses, TLS and passwords are redis-py's. app.py imports this where a Redis is
configured, because a worker is 6 MiB smaller without it.
"""

import contextlib
from typing import Any

from redis.asyncio import ConnectionPool
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from engine.storage.redis import CONNECT_WITHIN_S, Connected, RedisAway


class RedisDoor:
    """Opens connections to one server, or to where it says that it has moved."""

    def __init__(self, url: str) -> None:
        self._url = url

    async def open(self, elsewhere: dict[str, Any]) -> Connected:
        """A connection that is signed in. Raises RedisAway, OSError or TimeoutError."""
        connection = self._make_connection(elsewhere)
        try:
            await connection.connect()  # type: ignore[no-untyped-call]
        except RedisError as error:
            raise RedisAway(f"{type(error).__name__}: {error}") from error
        writer = connection._writer
        assert writer is not None

        async def close() -> None:
            with contextlib.suppress(RedisError, OSError, TimeoutError):
                await connection.disconnect(nowait=True)

        return Connected(writer.transport, close)

    def _make_connection(self, elsewhere: dict[str, Any]) -> AbstractConnection:
        pool = ConnectionPool.from_url(
            self._url,
            protocol=2,
            retry=Retry(NoBackoff(), 0),
            socket_connect_timeout=CONNECT_WITHIN_S,
            socket_timeout=None,
            socket_keepalive=True,
            health_check_interval=0,
            client_name="gatewayz",
            driver_info=None,
        )
        pool.connection_kwargs.update(elsewhere)
        connection: AbstractConnection = pool.make_connection()  # type: ignore[no-untyped-call]
        return connection

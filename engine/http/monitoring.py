"""`/health` (alive, no I/O), `/health/ready` (may serve) and `/metrics` (the whole gateway, rendered elsewhere)."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from engine.http.respond import Send, respond_json

METRICS_TYPE = b"text/plain; version=0.0.4; charset=utf-8"


@dataclass(frozen=True, slots=True)
class Readiness:
    """What `/health/ready` shows. `since` is when the present state began (ISO 8601)."""

    status: str
    """ok, degraded or down"""
    database: str
    """ok or away"""
    redis: str
    """ok, away or none"""
    since: str

    def as_document(self) -> dict[str, str]:
        return {"status": self.status, "database": self.database, "redis": self.redis, "since": self.since}


class Monitoring:
    def __init__(
        self, read_readiness: Callable[[], Readiness], read_metrics: Callable[[], Awaitable[bytes]]
    ) -> None:
        self._read_readiness, self._read_metrics = read_readiness, read_metrics

    async def show_health(self, scope: Any, receive: Any, send: Send) -> None:
        await respond_json(send, 200, {"status": "ok"})

    async def show_readiness(self, scope: Any, receive: Any, send: Send) -> None:
        readiness = self._read_readiness()
        status = 503 if readiness.status == "down" else 200
        headers = [(b"retry-after", b"1")] if status == 503 else []
        await respond_json(send, status, readiness.as_document(), headers)

    async def show_metrics(self, scope: Any, receive: Any, send: Send) -> None:
        body = await self._read_metrics()
        headers = [(b"content-type", METRICS_TYPE), (b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body, "more_body": False})

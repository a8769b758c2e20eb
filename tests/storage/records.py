"""Call records as the gateway writes them, and an outage."""

import asyncio
import secrets
import signal
import time
from typing import Any

from engine.storage.embedded import EmbeddedDatabase


def begin(**given: Any) -> dict[str, Any]:
    call_id = given.pop("id", None) or f"call_{secrets.token_hex(12)}"
    return {
        "id": call_id,
        "request_id": f"req_{call_id[5:]}",
        "started_at": time.time(),
        "key_id": "key_1",
        "user_id": "user_1",
        "surface": "chat",
        "requested_model": "gpt-4o-mini",
        "config_revision": "abc",
        "stream": True,
        "tags": {"team": "search"},
    } | given


def end(begun: dict[str, Any], **given: Any) -> dict[str, Any]:
    return (
        begun
        | {
            "model": "gpt-4o-mini",
            "provider": "openai",
            "attempts": [
                {"provider": "openai", "model": "gpt-4o-mini", "outcome": "ok", "ms": 812.4, "mode": "first"}
            ],
            "status": "ok",
            "http_status": 200,
            "tokens": {"input": 812, "output": 101},
            "usage_source": "reported",
            "cost_usd": "0.000182400001",
            "first_token_ms": 101.5,
            "total_ms": 812.9,
            "error": "",
            "rescued_by": [],
            "damaged": 0,
        }
        | given
    )


async def shut_down(server: EmbeddedDatabase) -> None:
    """End the server while others are connected, as an operator's restart does."""
    assert server._process is not None
    server._process.send_signal(signal.SIGINT)
    while server._process.poll() is None:
        await asyncio.sleep(0.01)

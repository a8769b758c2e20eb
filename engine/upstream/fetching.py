"""Fetches what a provider's answer only points at, for callers who want the bytes themselves.

The address is a stranger's: only public ones are asked (or the provider's own), without a credential, over https,
without following anywhere, and up to a size.
"""

import asyncio
from base64 import b64encode
from collections.abc import Iterable
from typing import Any
from urllib.parse import urlsplit

from engine.errors import UpstreamFailure
from engine.upstream.pools import Upstreams
from engine.upstream.reply import Origin, write_head

LARGEST_FILE = 32 * 1024 * 1024
CONNECT_S, WITHIN_S = 10.0, 60.0


async def fetch_parts(upstreams: Upstreams, parts: Iterable[dict[str, Any]], home: Origin) -> None:
    """Put `data` and `media_type` in place of the `url` of each part. Raises UpstreamFailure."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(_fetch_part(upstreams, part, home)) for part in parts]
    for task in tasks:
        if (failure := task.result()) is not None:
            raise failure


async def _fetch_part(upstreams: Upstreams, part: dict[str, Any], home: Origin) -> UpstreamFailure | None:
    try:
        body, media_type = await fetch(upstreams, part["url"], home)
    except UpstreamFailure as failure:
        return UpstreamFailure(
            "broken_stream", f"an image of the answer cannot be fetched: {failure.message}"
        )
    del part["url"]
    part["data"] = b64encode(body).decode()
    part.setdefault("media_type", media_type)
    return None


async def fetch(upstreams: Upstreams, url: str, home: Origin) -> tuple[bytes, str]:
    origin, path = read_address(url, home)
    head = write_head("GET", origin, path, [("accept", "*/*"), ("user-agent", "gatewayz")])
    reply = await upstreams.send(origin, head, b"", connect_s=CONNECT_S, answer_s=WITHIN_S)
    try:
        if reply.status != 200:
            raise UpstreamFailure(str(reply.status), f"status {reply.status}")
        body = await reply.read_all(LARGEST_FILE)
    finally:
        reply.close()
    media_type = (reply.header(b"content-type") or b"").partition(b";")[0].decode("latin-1")
    return body, media_type or "application/octet-stream"


def read_address(url: str, home: Origin) -> tuple[Origin, str]:
    """Where to ask. Only the provider's own host may be private or spoken to in the clear."""
    parts = urlsplit(url)
    port = parts.port or {"http": 80, "https": 443}.get(parts.scheme, 0)
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    if (parts.scheme, parts.hostname, port) == (home.scheme, home.host, home.port):
        return home, path
    if parts.scheme != "https" or not parts.hostname or parts.username:
        raise UpstreamFailure("connect", "it is not at an https address")
    return Origin("https", parts.hostname, port), path

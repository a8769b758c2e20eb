"""The public keys of identity providers: fetched, kept, and looked for again when a token names one that is not here.

Keys that were fetched stay in use while the provider cannot be reached. Only https is spoken (or what a file allows),
nothing is followed, and an answer may be neither long nor slow.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import inf
from typing import Any

import httpx
import orjson

from engine.errors import DependencyAway, UpstreamFailure
from engine.upstream.pools import Upstreams, control_client

log = logging.getLogger(__name__)

WITHIN_S = 5.0
MOST_BYTES = 256 * 1024
MOST_KEYS = 100
_DISCOVERY = "/.well-known/openid-configuration"
_KINDS = frozenset({"RSA", "EC", "OKP"})
"""Kinds of keys whose public half alone is told."""


@dataclass(frozen=True, slots=True)
class KeySource:
    """Where the keys of an issuer are; without `url` its discovery document says it."""

    issuer: str
    url: str | None
    allow_private: bool = False
    refresh_s: float = 30
    keep_s: float = 3600


@dataclass(slots=True)
class _Kept:
    keys: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    fetched_at: float = -inf
    tried_at: float = -inf
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class KeySets:
    """One per worker."""

    def __init__(self, upstreams: Upstreams, clock: Callable[[], float]) -> None:
        self._upstreams, self._clock = upstreams, clock
        self._kept: dict[KeySource, _Kept] = {}
        self.fetched = 0

    async def find(self, source: KeySource, kid: str | None) -> Mapping[str, Any] | None:
        """The key of this id, or without an id the only one there is; None when there is no such key.

        Raises DependencyAway when no keys were ever fetched and they cannot be now.
        """
        kept = self._kept.setdefault(source, _Kept())
        key, now = _choose(kept.keys, kid), self._clock()
        is_fresh = now - kept.fetched_at < source.keep_s
        if key is not None and (is_fresh or now - kept.tried_at < source.refresh_s):
            return key
        async with kept.lock:  # whoever comes while they are fetched waits for them
            if self._is_due(kept, source, kid):
                await self._refresh(kept, source)
        if not kept.keys:
            raise _say_away()
        return _choose(kept.keys, kid)

    def _is_due(self, kept: _Kept, source: KeySource, kid: str | None) -> bool:
        now = self._clock()
        if now - kept.tried_at < source.refresh_s:
            return False
        return _choose(kept.keys, kid) is None or now - kept.fetched_at >= source.keep_s

    async def _refresh(self, kept: _Kept, source: KeySource) -> None:
        kept.tried_at = self._clock()
        try:
            async with asyncio.timeout(WITHIN_S):
                kept.keys = await self._fetch(source)
        except (httpx.HTTPError, UpstreamFailure, TimeoutError, ValueError) as error:
            log.error("the keys of %s cannot be fetched: %s", source.issuer, error or type(error).__name__)
            return
        kept.fetched_at = self._clock()

    async def _fetch(self, source: KeySource) -> Mapping[str, Mapping[str, Any]]:
        url = source.url
        if url is None:
            found = await self._read(source.issuer.rstrip("/") + _DISCOVERY, source.allow_private)
            if found.get("issuer") != source.issuer:
                raise ValueError("its discovery document is of another issuer")
            url = str(found.get("jwks_uri"))
        keys = (await self._read(url, source.allow_private)).get("keys")
        if not isinstance(keys, list):
            raise ValueError("it has no list of keys")
        usable = [key for key in keys[:MOST_KEYS] if isinstance(key, dict) and _is_usable(key)]
        if not usable:
            raise ValueError("none of its keys can check a signature")
        return {str(key.get("kid", at)): key for at, key in enumerate(usable)}

    async def _read(self, url: str, allow_private: bool) -> dict[str, Any]:
        if not url.startswith("https://") and not (allow_private and url.startswith("http://")):
            raise ValueError("its keys are not at an https address")
        self.fetched += 1
        client = control_client(self._upstreams, allow_private=allow_private, timeout_s=WITHIN_S)
        body = b""
        async with client.stream("GET", url, headers={"accept": "application/json"}) as reply:
            if reply.status_code != 200:
                raise ValueError(f"status {reply.status_code}")
            async for piece in reply.aiter_raw():
                body += piece
                if len(body) > MOST_BYTES:
                    raise ValueError("the answer is too long")
        document = orjson.loads(body)
        if not isinstance(document, dict):
            raise ValueError("the answer is no object")
        return document


def _is_usable(key: Mapping[str, Any]) -> bool:
    return key.get("kty") in _KINDS and key.get("use", "sig") == "sig" and "d" not in key


def _choose(keys: Mapping[str, Mapping[str, Any]], kid: str | None) -> Mapping[str, Any] | None:
    if kid is not None:
        return keys.get(kid)
    return next(iter(keys.values())) if len(keys) == 1 else None


def _say_away() -> DependencyAway:
    return DependencyAway(
        "The identity provider cannot be reached.", code="identity_provider_unavailable", retry_after_s=5
    )

"""Access tokens for service accounts: a key signs an assertion, the token endpoint gives a token for it.

A token is kept for each credential and renewed in the background before it ends, so that no call waits for a renewal;
only the first one has to. However many calls want a token, one request is under way for it. What goes wrong is a
failure of the credential (401) when the endpoint or we refuse the key, and of the connection when nobody answers.
"""

import asyncio
from base64 import urlsafe_b64encode
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import orjson
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from engine.config.snapshot import Credential, ServiceAccount
from engine.errors import UpstreamFailure
from engine.upstream.pools import Upstreams, control_client

GRANT = "urn:ietf:params:oauth:grant-type:jwt-bearer"
ASSERTION_S = 3600
WITHIN_S = 10.0
EARLY_S = 300.0
"""A token is renewed so long before its end, or after half of its time when it is a short one."""
MARGIN_S = 30.0
"""A token is not sent any more so short before its end: the request has to arrive with it."""
PAUSE_S = 15.0
"""After a renewal that failed, while the old token is still good."""
_NEEDED = ("client_email", "private_key", "token_uri")


@dataclass(frozen=True, slots=True)
class Token:
    text: str
    renew_at: float
    ends_at: float


class ServiceAccountTokens:
    """The tokens of one worker. `now` is the wall clock, because assertions carry its time."""

    def __init__(self, upstreams: Upstreams, now: Callable[[], float]) -> None:
        self._upstreams, self._now = upstreams, now
        self._tokens: dict[Credential, Token] = {}
        self._flights: dict[Credential, asyncio.Task[Token]] = {}

    async def find(self, credential: Credential, account: ServiceAccount, *, allow_private: bool) -> str:
        """A token that is good now. Raises UpstreamFailure."""
        token, now = self._tokens.get(credential), self._now()
        if token is not None and now < token.renew_at:
            return token.text
        flight = self._flights.get(credential) or self._start(credential, account, allow_private)
        if token is not None and now < token.ends_at:
            return token.text
        return (await asyncio.shield(flight)).text

    def held(self, credential: Credential) -> str:
        """The token that calls are sent with, "" when there is none."""
        token = self._tokens.get(credential)
        return token.text if token is not None else ""

    def forget(self, credential: Credential) -> None:
        """A token that was refused is not sent again."""
        self._tokens.pop(credential, None)

    async def close(self) -> None:
        flights = list(self._flights.values())
        for flight in flights:
            flight.cancel()
        await asyncio.gather(*flights, return_exceptions=True)

    def _start(
        self, credential: Credential, account: ServiceAccount, allow_private: bool
    ) -> asyncio.Task[Token]:
        flight = asyncio.get_running_loop().create_task(self._fetch(credential, account, allow_private))
        self._flights[credential] = flight
        flight.add_done_callback(lambda done: self._land(credential, done))
        return flight

    def _land(self, credential: Credential, flight: asyncio.Task[Token]) -> None:
        del self._flights[credential]
        if flight.cancelled():
            return
        if flight.exception() is None:
            self._tokens[credential] = flight.result()
        elif (old := self._tokens.get(credential)) is not None:
            self._tokens[credential] = replace(old, renew_at=self._now() + PAUSE_S)

    async def _fetch(self, credential: Credential, account: ServiceAccount, allow_private: bool) -> Token:
        # Reading a file and signing take a millisecond or more, which other calls shall not wait for.
        url, assertion = await asyncio.to_thread(write_assertion, credential, account, self._now())
        form = {"grant_type": GRANT, "assertion": assertion}
        try:
            async with control_client(
                self._upstreams, allow_private=allow_private, timeout_s=WITHIN_S
            ) as client:
                response = await client.post(url, data=form)
        except httpx.HTTPError as error:
            raise UpstreamFailure("connect", f"the token endpoint of {credential.name}: {error}") from error
        return read_token(credential, response.status_code, response.content, self._now())


def write_assertion(credential: Credential, account: ServiceAccount, now: float) -> tuple[str, str]:
    """Where to ask for a token, and the signed claims. Raises UpstreamFailure for a key that is no key."""
    key = read_key(credential, account)
    header = {"alg": "RS256", "typ": "JWT", "kid": key.get("private_key_id")}
    claims = {
        "iss": key["client_email"],
        "scope": account.scope,
        "aud": key["token_uri"],
        "iat": int(now),
        "exp": int(now) + ASSERTION_S,
    }
    signed = _encode(orjson.dumps(header)) + b"." + _encode(orjson.dumps(claims))
    try:
        private_key = serialization.load_pem_private_key(key["private_key"].encode(), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise _refuse(credential, "its private_key cannot be read") from error
    if not isinstance(private_key, rsa.RSAPrivateKey):
        raise _refuse(credential, "its private_key is not an RSA key")
    signature = private_key.sign(signed, padding.PKCS1v15(), hashes.SHA256())
    return key["token_uri"], (signed + b"." + _encode(signature)).decode()


def read_key(credential: Credential, account: ServiceAccount) -> dict[str, Any]:
    """The key's JSON; a file is read each time, so that a changed one is taken with the next token."""
    text = credential.secret.reveal()
    if account.file:
        try:
            text = Path(account.file).read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise _refuse(credential, f"the file {account.file} cannot be read") from error
    try:
        key = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise _refuse(credential, "it is not JSON") from error
    missing = [name for name in _NEEDED if not isinstance(key, dict) or not isinstance(key.get(name), str)]
    if missing:
        raise _refuse(credential, f"it has no {', '.join(missing)}")
    return dict(key)


def read_token(credential: Credential, status: int, body: bytes, now: float) -> Token:
    """The token in an endpoint's answer. Raises UpstreamFailure for anything else."""
    try:
        said = orjson.loads(body)
    except orjson.JSONDecodeError:
        said = None
    answer = said if isinstance(said, dict) else {}
    text, lasts_s = answer.get("access_token"), answer.get("expires_in")
    if status >= 500 or status == 429:
        message = f"the token endpoint of {credential.name} answered with status {status}"
        raise UpstreamFailure(str(status), message, status=status)
    if status != 200 or not isinstance(text, str) or not text.isascii() or not text.isprintable():
        words = answer.get("error_description") or answer.get("error") or f"status {status}"
        raise _refuse(credential, f"the token endpoint does not take it ({words})")
    lasts_s = float(lasts_s) if isinstance(lasts_s, int | float) else float(ASSERTION_S)
    return Token(text, now + lasts_s - min(EARLY_S, lasts_s / 2), now + lasts_s - min(MARGIN_S, lasts_s / 4))


def _refuse(credential: Credential, why: str) -> UpstreamFailure:
    return UpstreamFailure(
        "401", f"the service account key {credential.name} cannot be used: {why}", status=401
    )


def _encode(data: bytes) -> bytes:
    return urlsafe_b64encode(data).rstrip(b"=")

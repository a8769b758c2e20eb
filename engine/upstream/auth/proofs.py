"""What a request needs beyond its constant head to prove who asks: a signature over it, or a token that changes.

The kinds of `Credential.proof` are told apart here and nowhere else.
"""

import time
from collections.abc import Callable

from engine.config.snapshot import Credential, SigningKey
from engine.errors import UpstreamFailure
from engine.upstream.auth.service_accounts import ServiceAccountTokens
from engine.upstream.auth.sigv4 import write_signature_lines
from engine.upstream.pools import Upstreams


class Proofs:
    """One for each worker."""

    def __init__(self, upstreams: Upstreams, now: Callable[[], float] = time.time) -> None:
        self._now = now
        self._tokens = ServiceAccountTokens(upstreams, now)

    async def write_lines(
        self, head: bytes, body: bytes, credential: Credential, *, allow_private: bool
    ) -> bytes:
        """The header lines to add to this head, for this one attempt. Raises UpstreamFailure."""
        proof = credential.proof
        if proof is None:
            return b""
        if isinstance(proof, SigningKey):
            return write_signature_lines(head, body, credential.secret, proof, self._now())
        token = await self._tokens.find(credential, proof, allow_private=allow_private)
        return f"authorization: Bearer {token}\r\n".encode()

    def note_refusal(self, credential: Credential, failure: UpstreamFailure) -> None:
        """A refused token is not used again, and nobody reads it in the provider's words."""
        token = self._tokens.held(credential)
        if not token:
            return
        failure.hide(token)
        if failure.kind == "401":
            self._tokens.forget(credential)

    async def close(self) -> None:
        await self._tokens.close()

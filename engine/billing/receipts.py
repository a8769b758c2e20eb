"""Signed receipts: what one call used and cost, as a JWS that anybody can check with the gateway's public keys.

The signing key comes from the newest entry of the key ring; older receipts are valid while the ring has their entry.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from jwt.algorithms import OKPAlgorithm

from engine.billing.books import write_record
from engine.call import Call
from engine.storage.secrets import KeyRing, RingEntry

ALGORITHM, TYPE, ISSUER = "EdDSA", "receipt+jwt", "gatewayz"
_COPIED = ("status", "requested_model", "provider", "model", "config_revision", "usage_source", "cost_usd")
_PRICING = ("listed", "service", "variant", "book", "unpriced")


class ReceiptSigner:
    """Keys are made when the first receipt is asked for."""

    def __init__(self, ring: KeyRing) -> None:
        self._ring = ring

    @cached_property
    def _key(self) -> Ed25519PrivateKey:
        return make_key(self._ring.newest)

    def sign_call(self, call: Call) -> bytes:
        """The receipt of a call that is settled."""
        return self.sign(write_record(call, 0)).encode()

    def sign(self, record: Mapping[str, Any]) -> str:
        """The receipt of a record, the same whether it comes from the call or from the database."""
        head = {"kid": self._ring.newest.id, "typ": TYPE}
        return jwt.encode(list_claims(record), self._key, algorithm=ALGORITHM, headers=head)

    def list_public_keys(self) -> dict[str, Any]:
        """A JSON Web Key Set, the newest key first."""
        return {"keys": [_describe_key(entry) for entry in self._ring.entries]}


def make_key(entry: RingEntry) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(entry.receipts)


def list_claims(record: Mapping[str, Any]) -> dict[str, Any]:
    at = record["started_at"]
    moment = datetime.fromtimestamp(at, UTC) if isinstance(at, int | float) else datetime.fromisoformat(at)
    pricing = record.get("pricing") or {}
    return {
        "iss": ISSUER,
        "jti": record["id"],
        "iat": int(moment.timestamp()),
        "call_id": record["id"],
        "started_at": moment.astimezone(UTC).isoformat(timespec="milliseconds"),
        **{name: record.get(name) for name in _COPIED},
        "meters": dict(record.get("tokens") or {}),
        "pricing": {name: pricing[name] for name in _PRICING if name in pricing},
    }


def _describe_key(entry: RingEntry) -> dict[str, Any]:
    public: dict[str, Any] = OKPAlgorithm.to_jwk(make_key(entry).public_key(), as_dict=True)
    return {**public, "kid": entry.id, "use": "sig", "alg": ALGORITHM}

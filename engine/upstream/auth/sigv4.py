"""Signature version 4: a request signed with a secret key, over the exact bytes that are sent.

Pure: the time is an argument. The path is encoded once more than it stands on the wire, as all services but object
storage want it, so that a model's name with `%3A` in it is signed as `%253A`. Signed are the host, the content type
and whatever is named `x-amz-...`; what a proxy may change on the way is not.
"""

import hashlib
import hmac
import time
from collections.abc import Iterable
from urllib.parse import quote, unquote

from engine.config.snapshot import SigningKey
from engine.secret import Secret

ALGORITHM = "AWS4-HMAC-SHA256"
_UNRESERVED = "-_.~"
_SIGNED = ("host", "content-type")


def write_signature_lines(head: bytes, body: bytes, secret_key: Secret, key: SigningKey, now: float) -> bytes:
    """The header lines to add to a request head (as `write_head` makes it) that is sent with this body."""
    first, *lines = head.decode("latin-1").split("\r\n")
    method, target, _ = first.split(" ")
    pairs = [(name.lower(), value) for name, _, value in (line.partition(": ") for line in lines if line)]
    moment = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now))
    added = [("x-amz-date", moment)]
    if key.session_token is not None:
        added.append(("x-amz-security-token", key.session_token.reveal()))
    signed = [pair for pair in (*pairs, *added) if pair[0] in _SIGNED or pair[0].startswith("x-amz-")]
    request = write_canonical_request(method, target, signed, body)
    authorization = sign_request(request, secret_key, key, moment)
    added.append(("authorization", authorization))
    return "".join(f"{name}: {value}\r\n" for name, value in added).encode("latin-1")


def sign_request(request: tuple[str, str], secret_key: Secret, key: SigningKey, moment: str) -> str:
    """The value of `authorization`. `moment` is the x-amz-date of the canonical request."""
    names, canonical = request
    scope = f"{moment[:8]}/{key.region}/{key.service}/aws4_request"
    text = "\n".join((ALGORITHM, moment, scope, hashlib.sha256(canonical.encode()).hexdigest()))
    signature = hmac.new(_derive_key(secret_key, scope), text.encode(), hashlib.sha256).hexdigest()
    credential = f"{key.access_key.reveal()}/{scope}"
    return f"{ALGORITHM} Credential={credential}, SignedHeaders={names}, Signature={signature}"


def write_canonical_request(
    method: str, target: str, headers: Iterable[tuple[str, str]], body: bytes
) -> tuple[str, str]:
    """The names of the signed headers, and the text that stands for the request."""
    path, _, query = target.partition("?")
    values: dict[str, list[str]] = {}
    for name, value in headers:
        values.setdefault(name.lower(), []).append(" ".join(value.split()))
    names = ";".join(sorted(values))
    lines = [f"{name}:{','.join(values[name])}\n" for name in sorted(values)]
    digest = hashlib.sha256(body).hexdigest()
    parts = (method, quote(path, safe="/" + _UNRESERVED), _sort_query(query), "".join(lines), names, digest)
    return names, "\n".join(parts)


def _sort_query(query: str) -> str:
    pairs = [pair.partition("=") for pair in query.split("&") if pair]
    encoded = sorted((_encode_again(name), _encode_again(value)) for name, _, value in pairs)
    return "&".join(f"{name}={value}" for name, value in encoded)


def _encode_again(text: str) -> str:
    """One spelling of a query's name or value, however it stands on the wire."""
    return quote(unquote(text), safe=_UNRESERVED)


def _derive_key(secret_key: Secret, scope: str) -> bytes:
    derived = b"AWS4" + secret_key.reveal().encode()
    for step in scope.split("/"):
        derived = hmac.new(derived, step.encode(), hashlib.sha256).digest()
    return derived

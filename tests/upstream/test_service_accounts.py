"""Tokens of service accounts, from a token endpoint that is simulated."""

import asyncio
import json
from base64 import urlsafe_b64decode
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import httpx
import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa

from engine.config.snapshot import Credential, ServiceAccount
from engine.errors import ProviderError, UpstreamFailure
from engine.secret import Secret
from engine.upstream.auth.proofs import Proofs
from engine.upstream.auth.service_accounts import ServiceAccountTokens
from engine.upstream.pools import Upstreams
from engine.upstream.reply import Origin

KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
SCOPE = "https://scopes.example/all"


def write_pem(key: Any) -> str:
    pem: bytes = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return pem.decode()


FILE = {
    "type": "service_account",
    "client_email": "caller@project.example",
    "private_key_id": "kid-1",
    "private_key": write_pem(KEY),
    "token_uri": "https://tokens.example/token",
}


def make_credential(name: str = "p#0", **changes: Any) -> Credential:
    return Credential(name, Secret(json.dumps({**FILE, **changes})), proof=ServiceAccount(SCOPE))


class Endpoint:
    """A token endpoint: counts what it is asked, waits while `gate` is closed, says what `answer` says."""

    def __init__(self) -> None:
        self.asked: list[dict[str, list[str]]] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.answer: tuple[int, Any] | Exception | None = None
        self.now = 1_700_000_000.0

    async def __call__(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(parse_qs(request.content.decode()))
        number = len(self.asked)
        await self.gate.wait()
        if isinstance(self.answer, Exception):
            raise self.answer
        status, body = self.answer or (200, {"access_token": f"token-{number}", "expires_in": 3600})
        return httpx.Response(status, json=body)


@pytest.fixture
async def endpoint() -> Endpoint:
    return Endpoint()


@pytest.fixture
async def tokens(endpoint: Endpoint) -> ServiceAccountTokens:
    upstreams = Upstreams()
    upstreams.mount(Origin("https", "tokens.example", 443), httpx.MockTransport(endpoint))
    return ServiceAccountTokens(upstreams, lambda: endpoint.now)


async def find(tokens: ServiceAccountTokens, credential: Credential) -> str:
    assert isinstance(credential.proof, ServiceAccount)
    return await tokens.find(credential, credential.proof, allow_private=False)


def decode(part: str) -> Any:
    return json.loads(urlsafe_b64decode(part + "=" * (-len(part) % 4)))


async def test_the_assertion_is_signed_with_the_account_s_key(
    tokens: ServiceAccountTokens, endpoint: Endpoint
) -> None:
    assert await find(tokens, make_credential()) == "token-1"
    [form] = endpoint.asked
    assert form["grant_type"] == ["urn:ietf:params:oauth:grant-type:jwt-bearer"]
    head, claims, signature = form["assertion"][0].split(".")
    assert decode(head) == {"alg": "RS256", "typ": "JWT", "kid": "kid-1"}
    assert decode(claims) == {
        "iss": "caller@project.example",
        "scope": SCOPE,
        "aud": "https://tokens.example/token",
        "iat": 1_700_000_000,
        "exp": 1_700_003_600,
    }
    raw = urlsafe_b64decode(signature + "=" * (-len(signature) % 4))
    KEY.public_key().verify(raw, f"{head}.{claims}".encode(), padding.PKCS1v15(), hashes.SHA256())


async def test_many_calls_share_one_request_and_its_token(
    tokens: ServiceAccountTokens, endpoint: Endpoint
) -> None:
    credential = make_credential()
    assert set(await asyncio.gather(*(find(tokens, credential) for _ in range(20)))) == {"token-1"}
    assert await find(tokens, credential) == "token-1"
    assert await find(tokens, make_credential("p#1")) == "token-2"
    assert len(endpoint.asked) == 2


async def test_a_token_is_renewed_in_the_background_while_calls_go_on(
    tokens: ServiceAccountTokens, endpoint: Endpoint
) -> None:
    credential = make_credential()
    await find(tokens, credential)
    endpoint.now += 3400
    endpoint.gate.clear()
    assert await asyncio.wait_for(find(tokens, credential), 1) == "token-1"
    assert await asyncio.wait_for(find(tokens, credential), 1) == "token-1"
    endpoint.gate.set()
    async with asyncio.timeout(5):
        while await find(tokens, credential) == "token-1":
            await asyncio.sleep(0.01)
    assert len(endpoint.asked) == 2


async def test_a_renewal_that_fails_leaves_the_old_token_until_its_end(
    tokens: ServiceAccountTokens, endpoint: Endpoint
) -> None:
    credential = make_credential()
    await find(tokens, credential)
    endpoint.now += 3400
    endpoint.answer = (503, {})
    for _ in range(3):
        assert await find(tokens, credential) == "token-1"
        await asyncio.sleep(0.05)
    assert len(endpoint.asked) == 2  # and not once for every call
    endpoint.now += 200
    with pytest.raises(UpstreamFailure, match="answered with status 503"):
        await find(tokens, credential)


@pytest.mark.parametrize(
    ("answer", "kind", "words"),
    [
        (
            (400, {"error": "invalid_grant", "error_description": "account not found"}),
            "401",
            "account not found",
        ),
        ((200, {"nothing": 1}), "401", "does not take it"),
        ((200, {"access_token": "a\r\nx: y"}), "401", "does not take it"),
        ((500, {}), "500", "status 500"),
        ((429, {}), "429", "status 429"),
        (httpx.ConnectError("no route"), "connect", "no route"),
    ],
)
async def test_what_the_endpoint_refuses_is_a_failure_with_a_sentence(
    tokens: ServiceAccountTokens, endpoint: Endpoint, answer: Any, kind: str, words: str
) -> None:
    endpoint.answer = answer
    with pytest.raises(UpstreamFailure, match=words) as caught:
        await find(tokens, make_credential())
    assert caught.value.kind == kind
    assert "p#0" in caught.value.message
    endpoint.answer = None
    assert await find(tokens, make_credential()) == "token-2"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("not json", "it is not JSON"),
        ("[]", "it has no client_email, private_key, token_uri"),
        (json.dumps({"type": "authorized_user", "client_id": "x"}), "it has no client_email"),
        (json.dumps({**FILE, "private_key": "-----BEGIN"}), "its private_key cannot be read"),
        (
            json.dumps({**FILE, "private_key": write_pem(ec.generate_private_key(ec.SECP256R1()))}),
            "its private_key is not an RSA key",
        ),
    ],
)
async def test_a_key_that_is_none_is_a_failure_of_the_credential(
    tokens: ServiceAccountTokens, endpoint: Endpoint, text: str, words: str
) -> None:
    with pytest.raises(UpstreamFailure, match=words) as caught:
        await find(tokens, Credential("p#0", Secret(text), proof=ServiceAccount(SCOPE)))
    assert caught.value.kind == "401"
    assert not endpoint.asked


async def test_a_key_in_a_file_is_read_again_for_each_token(
    tokens: ServiceAccountTokens, endpoint: Endpoint, tmp_path: Path
) -> None:
    path = tmp_path / "key.json"
    credential = Credential("p#0", Secret(""), proof=ServiceAccount(SCOPE, str(path)))
    with pytest.raises(UpstreamFailure, match="cannot be read"):
        await find(tokens, credential)
    path.write_text(json.dumps(FILE))
    assert await find(tokens, credential) == "token-1"


async def test_a_caller_who_leaves_does_not_end_the_request_of_the_others(
    tokens: ServiceAccountTokens, endpoint: Endpoint
) -> None:
    endpoint.gate.clear()
    credential = make_credential()
    first = asyncio.create_task(find(tokens, credential))
    second = asyncio.create_task(find(tokens, credential))
    async with asyncio.timeout(5):
        while not endpoint.asked:
            await asyncio.sleep(0.01)
    first.cancel()
    endpoint.gate.set()
    assert await second == "token-1"
    assert len(endpoint.asked) == 1


async def test_a_refused_token_is_hidden_and_not_sent_again(endpoint: Endpoint) -> None:
    upstreams = Upstreams()
    upstreams.mount(Origin("https", "tokens.example", 443), httpx.MockTransport(endpoint))
    proofs, credential = Proofs(upstreams, lambda: endpoint.now), make_credential()
    assert (
        await proofs.write_lines(b"", b"", credential, allow_private=False)
        == b"authorization: Bearer token-1\r\n"
    )
    refusal = UpstreamFailure("401", "token-1 is old", error=ProviderError("token-1 is old"))
    proofs.note_refusal(credential, refusal)
    assert "token-1" not in refusal.message + str(refusal.error)
    assert (
        await proofs.write_lines(b"", b"", credential, allow_private=False)
        == b"authorization: Bearer token-2\r\n"
    )


async def test_nothing_is_left_under_way_after_the_end(
    tokens: ServiceAccountTokens, endpoint: Endpoint
) -> None:
    endpoint.gate.clear()
    waiting = asyncio.create_task(find(tokens, make_credential()))
    async with asyncio.timeout(5):
        while not endpoint.asked:
            await asyncio.sleep(0.01)
    await tokens.close()
    with pytest.raises(asyncio.CancelledError):
        await waiting

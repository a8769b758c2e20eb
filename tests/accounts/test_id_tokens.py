"""Identity tokens: what a provider vouches for is believed, whatever else somebody sends is not."""

import asyncio
import base64
import hashlib
import hmac
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import jwt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.config.schema_login import IdentityProviderEntry
from engine.errors import DependencyAway, KeyRefused
from engine.policies.id_tokens import IdTokens, Proven, TokenRefused, read_claims
from engine.secret import Secret
from engine.upstream.key_sets import MOST_BYTES, KeySets
from engine.upstream.pools import Upstreams
from tests.accounts.issuer import AUDIENCE, Issuer


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


class Checker:
    def __init__(self, issuer: Issuer, upstreams: Upstreams) -> None:
        self.clock = Clock()
        self.key_sets = KeySets(upstreams, self.clock)
        self.tokens = IdTokens(self.key_sets)
        self.issuer = issuer
        self.changes: dict[str, Any] = {}

    @property
    def provider(self) -> IdentityProviderEntry:
        entry = {
            "issuer": self.issuer.name,
            "audience": AUDIENCE,
            "jwks_url": f"{self.issuer.url}/jwks.json",
            "algorithms": ["ES256"],
            "allow_private": True,
        }
        return IdentityProviderEntry.model_validate(entry | self.changes)

    async def verify(self, token: str, named: str | None = None) -> Proven:
        return await self.tokens.verify(Secret(token), {"idp": self.provider}, named)


@pytest.fixture
async def checker(issuer: Issuer) -> AsyncIterator[Checker]:
    upstreams = Upstreams()
    yield Checker(issuer, upstreams)
    await upstreams.close()


def encode(*parts: dict[str, Any] | bytes) -> str:
    texts = [part if isinstance(part, bytes) else json.dumps(part).encode() for part in parts]
    return ".".join(base64.urlsafe_b64encode(text).rstrip(b"=").decode() for text in texts)


async def test_a_good_token_proves_subject_address_and_name(checker: Checker, issuer: Issuer) -> None:
    token = issuer.vouch("ada@example.com", "did:1", name=" Ada\n Lovelace ")
    assert await checker.verify(token) == Proven("idp", "did:1", "ada@example.com", "Ada Lovelace")


@pytest.mark.parametrize("verified", [False, None, "yes", 1, "True", [], {"a": True}])
async def test_an_address_that_was_not_checked_is_no_address(
    checker: Checker, issuer: Issuer, verified: Any
) -> None:
    token = issuer.sign(email="ada@example.com", email_verified=verified)
    assert (await checker.verify(token)).email is None


@pytest.mark.parametrize(
    "email", ["ada", "a@b\r\nBcc: x@y", "a@b,c@d", "", 7, None, "a b@c.d", "x" * 300 + "@y"]
)
async def test_an_address_that_is_none_is_no_address(checker: Checker, issuer: Issuer, email: Any) -> None:
    assert (await checker.verify(issuer.sign(email=email, email_verified=True))).email is None


async def list_forged(issuer: Issuer) -> dict[str, str]:
    now, claims = int(time.time()), issuer.claim(email="ada@example.com", email_verified=True)
    pem = issuer.read_public_pem("k1")
    stranger = Issuer()
    head = {"alg": "HS256", "typ": "JWT", "kid": "k1"}
    unsigned = encode(head, claims)
    mac = base64.urlsafe_b64encode(hmac.new(pem, unsigned.encode(), hashlib.sha256).digest()).rstrip(b"=")
    issuer.add("rs", "RS256")
    return {
        "none": encode({"alg": "none", "kid": "k1"}, claims, b""),
        "nOnE": encode({"alg": "nOnE", "kid": "k1"}, claims, b""),
        "no alg": encode({"kid": "k1"}, claims, b""),
        "alg is no text": encode({"alg": ["ES256"], "kid": "k1"}, claims, b""),
        "HS256 with the public key": f"{unsigned}.{mac.decode()}",
        "an algorithm that the file does not name": issuer.sign(kid="rs", algorithm="RS256"),
        "another algorithm than the key's": issuer.sign().replace(
            issuer.sign().partition(".")[0], encode({"alg": "ES384", "kid": "k1"}), 1
        ),
        "a key that is not published": stranger.sign(iss=issuer.name),
        "a kid that is not published": jwt.encode(claims, issuer.keys["k1"], "ES256", headers={"kid": "k9"}),
        "a kid that is no text": encode({"alg": "ES256", "kid": {"a": 1}}, claims, b"x"),
        "a kid that is a path": jwt.encode(
            claims, issuer.keys["k1"], "ES256", headers={"kid": "../../dev/null"}
        ),
        "a key of its own": jwt.encode(
            claims, stranger.keys["k1"], "ES256", headers={"kid": "k1", "jwk": stranger.published[0]}
        ),
        "a key set of its own": jwt.encode(
            claims, stranger.keys["k1"], "ES256", headers={"kid": "k1", "jku": f"{stranger.url}/jwks.json"}
        ),
        "critical": jwt.encode(claims, issuer.keys["k1"], "ES256", headers={"kid": "k1", "crit": ["b64"]}),
        "expired": issuer.sign(exp=now - 3600),
        "never expires": issuer.sign(exp=None),
        "expiry is no number": issuer.sign(exp="soon"),
        "expiry is endless": encode({"alg": "ES256", "kid": "k1"}, b'{"exp":Infinity}', b"x"),
        "not yet": issuer.sign(nbf=now + 3600),
        "issued in the future": issuer.sign(iat=now + 3600),
        "another audience": issuer.sign(aud="app-2"),
        "no audience": issuer.sign(aud=None),
        "for several, and not by us": issuer.sign(aud=[AUDIENCE, "app-2"], azp="app-2"),
        "another issuer": issuer.sign(iss="https://evil.example"),
        "an issuer that begins alike": issuer.sign(iss=issuer.name + "/"),
        "no issuer": issuer.sign(iss=None),
        "no subject": issuer.sign(subject=None),  # type: ignore[arg-type]
        "an empty subject": issuer.sign(""),
        "a huge subject": issuer.sign("s" * 400),
        "huge": issuer.sign(more="x" * 9000),
        "changed": issuer.sign()[:-6] + "AAAAAA",
        "no signature": issuer.sign().rpartition(".")[0] + ".",
        "two parts": issuer.sign().rpartition(".")[0],
        "deep": encode({"alg": "ES256", "kid": "k1"}, b"[" * 3000, b"x"),
        "a number that is too long": encode(
            {"alg": "ES256", "kid": "k1"}, b'{"a":' + b"9" * 5000 + b"}", b"x"
        ),
        "nothing": "...",
    }


async def test_a_token_with_anything_wrong_proves_nothing(checker: Checker, issuer: Issuer) -> None:
    forged = await list_forged(issuer)
    assert len(forged) > 30
    for name, token in forged.items():
        with pytest.raises(KeyRefused) as refused:
            await checker.verify(token)
            pytest.fail(name)
        assert refused.value.status == 401 and token not in refused.value.message
    assert (await checker.verify(issuer.sign())).subject == "sub-1"


@given(
    st.text(max_size=400) | st.from_regex(r"[A-Za-z0-9_-]{0,80}\.[A-Za-z0-9_-]{0,80}\.[A-Za-z0-9_-]{0,80}")
)
async def test_whatever_is_sent_is_refused_and_never_a_bug(text: str) -> None:
    upstreams = Upstreams()
    try:
        with pytest.raises(TokenRefused):
            await Checker(Issuer(), upstreams).verify(text)
    finally:
        await upstreams.close()


async def test_a_clock_may_be_off_by_the_leeway_and_no_more(checker: Checker, issuer: Issuer) -> None:
    now = int(time.time())
    assert await checker.verify(issuer.sign(exp=now - 10, iat=now + 10))
    checker.changes = {"leeway_s": 0}
    with pytest.raises(KeyRefused) as refused:
        await checker.verify(issuer.sign(exp=now - 10))
    assert refused.value.code == "identity_token_expired"


async def test_one_of_several_audiences_is_enough_and_a_named_party_may_be_ours(
    checker: Checker, issuer: Issuer
) -> None:
    checker.changes = {"audience": ["app-0", AUDIENCE]}
    assert await checker.verify(issuer.sign())
    assert await checker.verify(issuer.sign(aud=[AUDIENCE, "other"], azp=AUDIENCE))


async def test_a_provider_without_an_audience_is_not_in_force(checker: Checker, issuer: Issuer) -> None:
    checker.changes = {"audience": ""}
    with pytest.raises(TokenRefused):
        await checker.verify(issuer.sign(aud=""))


async def test_a_token_counts_only_for_the_provider_that_is_named(checker: Checker, issuer: Issuer) -> None:
    assert await checker.verify(issuer.sign(), "idp")
    with pytest.raises(TokenRefused):
        await checker.verify(issuer.sign(), "another")


def read_listed(listed: Any) -> str | None:
    entry = IdentityProviderEntry.model_validate(
        {
            "issuer": "i",
            "audience": "a",
            "jwks_url": "https://k.example",
            "claims": {
                "accounts": {"claim": "linked", "emails": {"email": "address", "google_oauth": "email"}}
            },
        }
    )
    claims = {"sub": "s", "linked": listed, "email": "unproven@example.com", "email_verified": True}
    return read_claims("p", entry, claims).email


@pytest.mark.parametrize(
    ("listed", "email"),
    [
        (
            '[{"type":"google_oauth","email":"g@example.com"},{"type":"email","address":"a@example.com"}]',
            "a@example.com",
        ),
        ([{"type": "google_oauth", "email": "g@example.com"}], "g@example.com"),
        ([{"type": "github_oauth", "email": "x@example.com"}, {"type": "wallet", "address": "0x1"}], None),
        ("[", None),
        ('{"type":"email"}', None),
        ([None, 7, "email", {"type": "email", "address": 7}], None),
        (None, None),
    ],
)
def test_of_listed_accounts_only_the_kinds_of_the_file_prove_an_address(
    listed: Any, email: str | None
) -> None:
    assert read_listed(listed) == email


# --- keys


async def test_keys_are_fetched_once_and_again_for_an_unknown_one(checker: Checker, issuer: Issuer) -> None:
    for _ in range(3):
        await checker.verify(issuer.sign())
    assert issuer.asked == ["/jwks.json"]
    issuer.rotate("k2")
    checker.clock.now += 31
    assert await checker.verify(issuer.sign(kid="k2"))
    assert len(issuer.asked) == 2
    with pytest.raises(TokenRefused):  # the old key is gone
        await checker.verify(issuer.sign(kid="k1"))


async def test_all_who_come_while_keys_are_fetched_get_them(checker: Checker, issuer: Issuer) -> None:
    issuer.delay_s = 0.1
    for kid in ("k1", "k2"):
        issuer.rotate(kid)
        checker.clock.now += 31
        proven = await asyncio.gather(*[checker.verify(issuer.sign(kid=kid)) for _ in range(5)])
        assert len(proven) == 5
    assert len(issuer.asked) == 2


async def test_unknown_keys_are_looked_for_at_most_every_so_often(checker: Checker, issuer: Issuer) -> None:
    await checker.verify(issuer.sign())
    checker.clock.now += 31
    for at in range(5):
        issuer.keys[f"x{at}"] = issuer.keys["k1"]
        with pytest.raises(TokenRefused):
            await checker.verify(issuer.sign(kid=f"x{at}"))
    assert len(issuer.asked) == 2


async def test_keys_stay_in_use_while_the_provider_is_away(checker: Checker, issuer: Issuer) -> None:
    await checker.verify(issuer.sign())
    issuer.status = 500
    checker.clock.now += 4000
    assert await checker.verify(issuer.sign())
    assert len(issuer.asked) == 2
    assert await checker.verify(issuer.sign())
    assert len(issuer.asked) == 2
    issuer.status = 200
    checker.clock.now += 31
    assert await checker.verify(issuer.sign())


@pytest.mark.parametrize(
    "fault",
    [
        {"status": 500},
        {"status": 302, "location": "https://example.com/keys"},
        {"body": b"x" * (MOST_BYTES + 1)},
        {"body": b"not JSON"},
        {"body": b"[]"},
        {"body": b'{"keys": {}}'},
        {"body": b'{"keys": []}'},
        {"body": b'{"keys": [{"kty": "oct", "k": "AAAA", "kid": "k1"}]}'},
        {"body": b'{"keys": [7, {"kty": "EC", "kid": "k1", "d": "AA"}]}'},
    ],
)
async def test_without_keys_nobody_can_tell(checker: Checker, issuer: Issuer, fault: dict[str, Any]) -> None:
    token = issuer.sign()
    for name, value in fault.items():
        setattr(issuer, name, value)
    with pytest.raises(DependencyAway) as away:
        await checker.verify(token)
    assert away.value.code == "identity_provider_unavailable" and away.value.status == 503
    with pytest.raises(DependencyAway):
        await checker.verify(token)
    assert issuer.asked == ["/jwks.json"]


async def test_a_published_key_that_is_none_refuses_the_token(checker: Checker, issuer: Issuer) -> None:
    issuer.published[0]["x"] = "AAAA"
    with pytest.raises(TokenRefused):
        await checker.verify(issuer.sign())


async def test_keys_are_where_the_discovery_document_says(checker: Checker, issuer: Issuer) -> None:
    checker.changes = {"jwks_url": None}
    assert await checker.verify(issuer.sign())
    assert issuer.asked == ["/.well-known/openid-configuration", "/jwks.json"]


async def test_a_discovery_document_of_another_issuer_is_not_believed(
    checker: Checker, issuer: Issuer
) -> None:
    checker.changes = {"jwks_url": None}
    token = issuer.sign()
    provider = {"idp": checker.provider}
    issuer.name = "https://evil.example"
    with pytest.raises(DependencyAway):
        await checker.tokens.verify(Secret(token), provider)


async def test_a_private_address_is_not_asked_unless_the_file_allows_it(upstreams_of: Upstreams) -> None:
    issuer = Issuer()
    entry = {"issuer": "https://127.0.0.1:1", "audience": AUDIENCE, "algorithms": ["ES256"]}
    tokens = IdTokens(KeySets(upstreams_of, time.monotonic))
    provider = IdentityProviderEntry.model_validate(entry)
    with pytest.raises(DependencyAway):
        await tokens.verify(Secret(issuer.sign(iss="https://127.0.0.1:1")), {"idp": provider})


@pytest.fixture
async def upstreams_of() -> AsyncIterator[Upstreams]:
    upstreams = Upstreams()
    yield upstreams
    await upstreams.close()


@pytest.mark.parametrize(
    "changes",
    [
        {"jwks_url": "http://keys.example/jwks.json"},
        {"jwks_url": "file:///etc/passwd"},
        {"issuer": "privy.io", "jwks_url": None},
        {"algorithms": ["HS256"]},
        {"algorithms": ["none"]},
        {"algorithms": []},
        {"leeway_s": 3600},
    ],
)
def test_a_file_cannot_ask_for_what_is_not_safe(changes: dict[str, Any]) -> None:
    entry = {"issuer": "https://i.example", "audience": "a", "jwks_url": "https://i.example/k"}
    IdentityProviderEntry.model_validate(entry)
    with pytest.raises(ValueError):
        IdentityProviderEntry.model_validate(entry | changes)

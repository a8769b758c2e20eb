"""Who is calling, told from the headers alone."""

import hmac
from typing import Any

import pytest

from engine.call import Caller
from engine.errors import KeyRefused, NotAllowed
from engine.policies.identity import Identity, read_key
from engine.secret import Secret
from engine.storage.key_rules import compile_bounds

KEY = "gw_live_" + "k" * 43
ADMIN = "gw_test_" + "a" * 43
KNOWN = Caller("key_1", "user_1")


class Keys:
    """The keys in memory: `known` at once, everything else is asked for."""

    def __init__(self, known: dict[str, Caller] | None = None) -> None:
        self.known = known or {}
        self.fetched: list[str] = []

    def find(self, key_text: str) -> Caller | None:
        return self.known.get(key_text)

    async def fetch(self, key_text: str) -> Caller:
        self.fetched.append(key_text)
        if key_text == KEY:
            return KNOWN
        raise KeyRefused("unknown")


def identity(keys: Keys | None = None) -> Identity:
    return Identity(keys or Keys(), Secret(ADMIN))


@pytest.mark.parametrize(
    "header",
    [
        (b"authorization", f"Bearer {KEY}"),
        (b"authorization", f"bearer   {KEY} "),
        (b"authorization", f"BEARER {KEY}"),
        (b"x-api-key", KEY),
        (
            b"authorization",
            f"AWS4-HMAC-SHA256 Credential={KEY}/2026/r/s/aws4_request, SignedHeaders=a, Signature=0",
        ),
        (b"x-goog-api-key", f" {KEY}"),
    ],
)
async def test_each_header_carries_a_key(header: tuple[bytes, str]) -> None:
    assert await identity().identify([(header[0], header[1].encode())]) is KNOWN


async def test_the_same_key_twice_is_one_key() -> None:
    headers = [(b"authorization", f"Bearer {KEY}".encode()), (b"x-api-key", KEY.encode())]
    assert await identity().identify(headers) is KNOWN


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [(b"cookie", KEY.encode())],
        [(b"authorization", b"")],
        [(b"authorization", b"Bearer")],
        [(b"authorization", KEY.encode())],
        [(b"authorization", f"Basic {KEY}".encode())],
        [(b"authorization", f"Bearer {KEY}".encode()), (b"x-api-key", b"gw_live_" + b"z" * 43)],
        [(b"authorization", f"Bearer {KEY}".encode()), (b"authorization", b"Bearer gw_live_" + b"z" * 43)],
        [(b"x-api-key", b"gw_live_short")],
        [(b"x-api-key", KEY.encode() + b"\n")],
        [(b"x-api-key", b"gw_prod_" + b"k" * 43)],
        [(b"x-api-key", b"gw_live_" + b"k" * 42 + b"\xe9")],
        [(b"x-api-key", b"\xff" * 51)],
    ],
    ids=range(13),
)
async def test_what_is_not_one_key_is_refused_without_asking_anybody(
    headers: list[tuple[bytes, bytes]],
) -> None:
    keys = Keys()
    if headers == [(b"x-api-key", KEY.encode() + b"\n")]:
        assert read_key(headers) == KEY
        return
    with pytest.raises(KeyRefused) as refused:
        await identity(keys).identify(headers)
    assert keys.fetched == [] and KEY not in refused.value.message


async def test_a_known_key_is_not_fetched() -> None:
    keys = Keys({KEY: KNOWN})
    assert await identity(keys).identify([(b"x-api-key", KEY.encode())]) is KNOWN
    assert keys.fetched == []


async def test_the_environments_key_is_an_administrator_without_limits() -> None:
    caller = await identity().identify([(b"x-api-key", ADMIN.encode())])
    assert (caller.role, caller.unlimited, caller.models) == ("admin", True, None)


async def test_the_environments_key_is_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[bytes] = []
    real = hmac.compare_digest

    def compare(one: bytes, other: bytes) -> bool:
        compared.append(other)
        return real(one, other)

    monkeypatch.setattr(hmac, "compare_digest", compare)
    with pytest.raises(KeyRefused):
        await identity().identify([(b"x-api-key", ADMIN[:-1].encode() + b"b")])
    assert compared == [ADMIN.encode()]


async def test_without_an_environment_key_an_empty_one_opens_nothing() -> None:
    with pytest.raises(KeyRefused):
        await Identity(Keys(), None).identify([(b"x-api-key", b"")])
    with pytest.raises(KeyRefused):
        await Identity(Keys(), Secret("")).identify([(b"authorization", b"Bearer ")])


def ask(method: str, path: str, key: str, client: str = "10.0.0.1") -> dict[str, Any]:
    return {
        "method": method,
        "path": path,
        "headers": [(b"x-api-key", key.encode())],
        "client": (client, 1),
    }


async def test_only_administrators_pass_the_administrations_door() -> None:
    with pytest.raises(NotAllowed):
        await identity().admit(ask("GET", "/admin/calls", KEY))
    assert (await identity().admit(ask("GET", "/admin/calls", ADMIN))).role == "admin"


async def test_a_key_is_judged_by_the_address_it_comes_from_on_every_way_in() -> None:
    bound = Caller("k", "u", bounds=compile_bounds({"ip_allowlist": ["192.0.2.0/24"]}))
    house = identity(Keys({KEY: bound}))
    headers = [(b"x-api-key", KEY.encode())]
    assert await house.identify(headers, "192.0.2.1") is bound
    assert await house.admit(ask("GET", "/v1/models", KEY, "192.0.2.1")) is bound
    for refused in (house.identify(headers, "192.0.3.1"), house.admit(ask("GET", "/v1/models", KEY))):
        with pytest.raises(NotAllowed):
            await refused


async def test_a_key_without_the_scope_does_not_infer() -> None:
    reader = Caller("k", "u", scopes=frozenset({"read", "catalog"}))
    with pytest.raises(NotAllowed) as refused:
        await identity(Keys({KEY: reader})).identify([(b"x-api-key", KEY.encode())])
    assert refused.value.code == "scope_missing"

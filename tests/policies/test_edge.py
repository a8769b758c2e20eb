"""Who has no valid key is counted by address and program; who has one is never."""

from dataclasses import replace
from typing import Any

import pytest

from engine.call import Caller
from engine.config.networks import Networks
from engine.config.schema_edge import EdgeFile, VelocityEntry
from engine.config.snapshot import Snapshot
from engine.errors import GatewayError, KeyRefused
from engine.policies.access import FOR_INFERENCE
from engine.policies.edge import Edge, TooManyStrangers, fingerprint
from engine.policies.identity import Identity
from engine.policies.limits import Limiter
from engine.policies.velocity import Velocity, is_failure
from engine.secret import Secret
from tests.harness import ADMIN_KEY
from tests.routing.things import make_snapshot

KNOWN, UNKNOWN = "gw_live_" + "k" * 43, "gw_live_" + "u" * 43
BROWSER = ((b"user-agent", b"Mozilla/5.0"), (b"accept-language", b"en"))


class Keys:
    """One known key; looks others up, and counts how often."""

    def __init__(self) -> None:
        self.asked = 0

    def find(self, key_text: str) -> Caller | None:
        return Caller("key_1", "user_1") if key_text == KNOWN else None

    async def fetch(self, key_text: str) -> Caller:
        self.asked += 1
        raise KeyRefused("This API key is not known.")


class Door:
    """An identity behind an edge, on a clock that stands until it is moved."""

    def __init__(self, **rule: Any) -> None:
        self.now = 1000.0
        edge = EdgeFile.model_validate({"edge": "default", **rule})
        self.snapshot: Snapshot = replace(make_snapshot(), things={"edge": {"default": edge}})
        self.edge = Edge(Limiter(), lambda: self.snapshot, lambda: self.now)
        self.keys = Keys()
        self.identity = Identity(self.keys, Secret(ADMIN_KEY), edge=self.edge)

    async def ask(
        self, key: str = "", address: str = "203.0.113.7", headers: tuple[tuple[bytes, bytes], ...] = BROWSER
    ) -> str:
        """What becomes of a request: its caller, or the code of its refusal."""
        given = [*headers, *([(b"authorization", f"Bearer {key}".encode())] if key else [])]
        try:
            self.identity.turn_away(given, address)
            return (await self.identity.identify(given, address, FOR_INFERENCE)).key_id
        except GatewayError as error:
            return error.code or ""


async def test_refused_keys_of_one_address_are_stopped_before_the_database_is_asked() -> None:
    door = Door(per_address=5)
    assert [await door.ask(UNKNOWN) for _ in range(5)] == ["invalid_api_key"] * 5
    assert [await door.ask(UNKNOWN) for _ in range(20)] == ["ip_limit"] * 20
    assert door.keys.asked == 5
    assert await door.ask("") == "ip_limit"
    assert await door.ask(UNKNOWN, "203.0.113.8") == "invalid_api_key"


async def test_a_known_key_passes_from_an_address_that_is_closed() -> None:
    door = Door(per_address=2)
    for _ in range(10):
        await door.ask("")
    assert await door.ask("") == "ip_limit"
    assert await door.ask(KNOWN) == "key_1"
    assert await door.ask(ADMIN_KEY) == "admin-environment"


async def test_calls_with_known_keys_are_not_counted() -> None:
    door = Door(per_address=2)
    for _ in range(100):
        assert await door.ask(KNOWN) == "key_1"
    assert await door.ask("") == "api_key_missing"
    assert door.edge.closed == {}


async def test_the_refusal_tells_when_to_come_back_and_that_is_true() -> None:
    door = Door(per_address=1)
    await door.ask("")
    door.now += 20
    with pytest.raises(TooManyStrangers) as refused:
        await door.edge.count(BROWSER, "203.0.113.7", refused=True)
    error = refused.value
    assert (error.status, error.type, error.code, error.retry_after_s) == (
        429,
        "security_limit",
        "ip_limit",
        40.0,
    )
    assert error.headers == {
        "ratelimit-limit": "1", "ratelimit-remaining": "0", "ratelimit-reset": "40",
        "x-ratelimit-limit": "1", "x-ratelimit-remaining": "0", "x-ratelimit-reset": "40",
        "x-ratelimit-reason": "ip_limit", "x-ratelimit-mode": "normal",
    }  # fmt: skip
    door.now += 39.5
    assert await door.ask("") == "ip_limit"
    door.now += 1
    assert await door.ask("") == "api_key_missing"


@pytest.mark.parametrize(
    ("headers", "address"),
    [
        (((b"user-agent", b"python-requests/2.32"),), "203.0.113.7"),
        (((b"user-agent", b"Curl/8.5"),), "203.0.113.7"),
        ((*BROWSER, (b"via", b"1.1 proxy")), "203.0.113.7"),
        (BROWSER, "198.51.100.9"),
    ],
)
async def test_scripts_proxies_and_data_centres_get_less(
    headers: tuple[tuple[bytes, bytes], ...], address: str
) -> None:
    door = Door(per_address=10, strict={"per_address": 2, "networks": ["198.51.100.0/24"]})
    codes = [await door.ask("", address, headers) for _ in range(4)]
    assert codes == ["api_key_missing", "api_key_missing", "ip_limit", "ip_limit"]


async def test_a_flood_of_one_program_from_many_addresses_is_stopped() -> None:
    door = Door(per_fingerprint=10)
    codes = [await door.ask(UNKNOWN, f"203.0.113.{number}") for number in range(30)]
    assert codes == ["invalid_api_key"] * 10 + ["fingerprint_limit"] * 20
    other = ((b"user-agent", b"Other/1.0"),)
    assert await door.ask(UNKNOWN, "203.0.113.99", other) == "invalid_api_key"
    assert fingerprint(BROWSER) != fingerprint(other) and len(fingerprint(other)) == 16


async def test_an_ipv6_customer_is_one_address() -> None:
    door = Door(per_address=3)
    codes = [await door.ask("", f"2001:db8:1:2::{number:x}") for number in range(1, 6)]
    assert codes == ["api_key_missing"] * 3 + ["ip_limit"] * 2
    assert await door.ask("", "2001:db8:1:3::1") == "api_key_missing"


@pytest.mark.parametrize("address", ["127.0.0.1", "10.1.2.3", "192.168.0.9", "fd00::1", "::1"])
async def test_as_shipped_nobody_is_counted_from_private_networks(address: str) -> None:
    door = Door(per_address=1, per_fingerprint=1)
    assert {await door.ask(UNKNOWN, address) for _ in range(50)} == {"invalid_api_key"}


async def test_networks_that_administrators_let_in_are_not_counted() -> None:
    door = Door(per_address=1)
    door.edge.allowed = Networks(["203.0.113.0/24"])
    assert {await door.ask("") for _ in range(50)} == {"api_key_missing"}


async def test_switched_off_or_undeclared_it_counts_nobody() -> None:
    door = Door(per_address=1, enabled=False)
    assert {await door.ask("") for _ in range(50)} == {"api_key_missing"}
    door.snapshot = make_snapshot()
    assert {await door.ask("") for _ in range(50)} == {"api_key_missing"}


async def test_a_public_route_is_counted_by_address_and_not_by_program() -> None:
    door = Door(per_address=2, per_fingerprint=1)
    scope = {"headers": BROWSER, "client": ("203.0.113.7", 1), "path": "/plans"}
    for _ in range(2):
        await door.identity.meet(scope)
    with pytest.raises(TooManyStrangers):
        await door.identity.meet(scope)
    await door.identity.meet({**scope, "path": "/health"})
    known = [*BROWSER, (b"authorization", f"Bearer {KNOWN}".encode())]
    await door.identity.meet({**scope, "headers": known})


async def test_while_calls_fail_strangers_get_less() -> None:
    door = Door(per_address=10, velocity={"multiplier": 0.2, "for_s": 180})
    await door.ask("", "203.0.113.50")
    for number in range(100):
        door.edge.note(502 if number % 4 == 0 else 200, 0.1)
    assert door.edge.describe()["mode"] == "velocity"
    assert [await door.ask("") for _ in range(3)] == ["api_key_missing", "api_key_missing", "ip_limit"]
    with pytest.raises(TooManyStrangers) as refused:
        door.edge.check(BROWSER, "203.0.113.7")
    assert refused.value.type == "behavioral_limit"
    assert refused.value.headers["x-ratelimit-reason"] == "velocity_mode_ip_limit"
    door.now += 181
    assert door.edge.describe()["mode"] == "normal"
    assert [await door.ask("") for _ in range(5)] == ["api_key_missing"] * 5


async def test_what_is_remembered_of_closed_addresses_is_bounded() -> None:
    door = Door(per_address=1, per_fingerprint=10**9)
    for number in range(10_500):
        address = f"203.{number >> 8}.{number & 255}.1"
        await door.ask("", address)
        await door.ask("", address)
        assert len(door.edge.closed) <= 10_000


def test_a_failure_is_the_servers_or_a_caller_who_gave_up() -> None:
    assert [is_failure(*facts) for facts in ((500, 0), (503, 0), (499, 6), (499, 1), (429, 9), (200, 99))] == [
        True, True, True, False, False, False,
    ]  # fmt: skip


def test_velocity_goes_by_the_ratio_of_the_last_minute_and_only_of_enough_calls() -> None:
    velocity = Velocity()
    velocity.rule = VelocityEntry()
    assert not any(velocity.note(True, float(second)) for second in range(59))  # fewer than a hundred
    velocity = Velocity()
    assert not any(velocity.note(number % 5 == 0, number * 0.1) for number in range(500))  # a fifth
    assert [velocity.note(True, 50.0) for _ in range(100)].count(True) == 1
    assert velocity.is_on(229.9) and not velocity.is_on(230.1)
    velocity.forget(500.0)
    assert (velocity.total, velocity.failures) == (0, 0)

"""Several keys of one provider, each with a cool-down of its own."""

import random
from collections import Counter
from typing import Any

import pytest

from engine.config.snapshot import Auth, Credential
from engine.errors import UpstreamFailure
from engine.routing.credentials import LEFT_LIMITED_S, CoolDowns
from engine.secret import Secret
from tests.routing.things import make_credentials


def make_auth(*credentials: Credential) -> Auth:
    return Auth("bearer", "authorization", credentials)


def refused(kind: str, retry_after_s: float | None = None) -> UpstreamFailure:
    return UpstreamFailure(kind, "no", status=int(kind), retry_after_s=retry_after_s)


A, B = make_credentials("p", "key-a", "key-b")
BOTH = make_auth(A, B)


def half() -> float:
    return 0.5


def pick(cool_downs: CoolDowns, now: float, auth: Auth = BOTH, **facts: Any) -> str | None:
    found = cool_downs.pick(auth, facts.get("model", "m"), now, half, facts.get("asked", ()))
    return found.secret.reveal() if found else None


def test_credentials_are_drawn_by_weight() -> None:
    heavy = make_auth(Credential("p#0", Secret("a"), weight=3), Credential("p#1", Secret("b"), weight=1))
    chance = random.Random(5)
    drawn = Counter(
        found.name for _ in range(8000) if (found := CoolDowns().pick(heavy, "m", 0, chance.random))
    )
    assert abs(drawn["p#0"] / 8000 - 0.75) < 0.02


def test_a_credential_serves_the_models_it_names() -> None:
    auth = make_auth(
        Credential("p#0", Secret("a"), models=("gpt-*",)), Credential("p#1", Secret("b"), models=("o1",))
    )
    assert pick(CoolDowns(), 0, auth, model="gpt-4o") == "a"
    assert pick(CoolDowns(), 0, auth, model="o1") == "b"
    assert pick(CoolDowns(), 0, auth, model="x") is None
    assert CoolDowns().seconds_until_usable(auth, "x", 0) is None


@pytest.mark.parametrize(("kind", "seconds"), [("401", 60), ("403", 60), ("402", 300)])
def test_a_refused_credential_is_left_alone(kind: str, seconds: float) -> None:
    cool_downs = CoolDowns()
    cool_downs.note_failure(A, refused(kind), None, 0)
    assert {pick(cool_downs, now) for now in (0, 1, seconds - 1)} == {"key-b"}
    assert cool_downs.seconds_until_usable(make_auth(A), "m", 10) == seconds - 10
    assert pick(cool_downs, seconds, make_auth(A)) == "key-a"


@pytest.mark.parametrize(
    ("retry_after_s", "pause_s", "expected_s"),
    [(None, 0.4, 0.4), (2.0, 2.0, 2.0), (30.0, None, 30.0), (None, None, LEFT_LIMITED_S)],
)
def test_a_limited_credential_cools_as_long_as_somebody_would_wait(
    retry_after_s: float | None, pause_s: float | None, expected_s: float
) -> None:
    cool_downs = CoolDowns()
    cool_downs.note_failure(A, refused("429", retry_after_s), pause_s, 100)
    assert cool_downs.seconds_until_usable(make_auth(A), "m", 100) == pytest.approx(expected_s)
    assert pick(cool_downs, 100) == "key-b"


@pytest.mark.parametrize("kind", ["500", "400", "404"])
def test_other_failures_say_nothing_about_the_credential(kind: str) -> None:
    cool_downs = CoolDowns()
    cool_downs.note_failure(A, refused(kind), 5.0, 0)
    assert pick(cool_downs, 0, make_auth(A)) == "key-a"


def test_a_success_ends_the_cool_down() -> None:
    cool_downs = CoolDowns()
    cool_downs.note_failure(A, refused("401"), None, 0)
    cool_downs.note_success(A)
    assert pick(cool_downs, 0, make_auth(A)) == "key-a"


def test_a_credential_that_was_put_right_is_used_at_once() -> None:
    cool_downs = CoolDowns()
    cool_downs.note_failure(A, refused("401"), None, 0)
    assert pick(cool_downs, 1, make_auth(Credential(A.name, Secret("the right one")))) == "the right one"


def test_of_several_none_is_asked_twice_in_one_round() -> None:
    assert pick(CoolDowns(), 0, asked={A.name}) == "key-b"
    assert pick(CoolDowns(), 0, asked={A.name, B.name}) is None

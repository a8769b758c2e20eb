"""Passwords are argon2id hashes, checked with the same work for everybody, and never more than a few at once."""

import asyncio

import pytest

from engine.config.schema_login import PasswordEntry
from engine.errors import DependencyAway, InvalidRequest
from engine.policies.password_rules import refuse_weak
from engine.secret import Secret
from engine.storage.passwords import Passwords, is_outdated
from tests.accounts.house import PASSWORD


@pytest.fixture
def passwords() -> Passwords:
    return Passwords()


async def test_a_hash_names_its_numbers_and_holds_no_password(passwords: Passwords) -> None:
    stored = await passwords.hash(PASSWORD)
    assert stored.startswith("$argon2id$v=19$m=19456,t=2,p=1$")
    assert PASSWORD.reveal() not in stored and not is_outdated(stored)
    assert stored != await passwords.hash(PASSWORD)


async def test_the_right_password_fits_and_no_other(passwords: Passwords) -> None:
    stored = await passwords.hash(PASSWORD)
    assert await passwords.check(PASSWORD, stored)
    assert not await passwords.check(Secret(PASSWORD.reveal() + " "), stored)
    assert not await passwords.check(PASSWORD, "not a hash")


async def test_what_looks_the_same_is_the_same_password(passwords: Passwords) -> None:
    stored = await passwords.hash(Secret("pässwort-is-long"))
    assert await passwords.check(Secret("pa\u0308sswort-is-long"), stored)


async def test_nobodys_password_costs_one_hash_like_somebodys(passwords: Passwords) -> None:
    stored = await passwords.hash(PASSWORD)
    await passwords.check(PASSWORD, None)  # makes nobody's hash
    before = passwords.made
    assert not await passwords.check(PASSWORD, None)
    for_nobody, before = passwords.made - before, passwords.made
    assert not await passwords.check(Secret("wrong"), stored)
    assert for_nobody == passwords.made - before == 1


async def test_a_flood_is_told_to_come_again_and_the_loop_goes_on() -> None:
    passwords = Passwords(at_once=1, most_waiting=3)
    turns = 0

    async def turn() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0.001)
            turns += 1

    turning = asyncio.create_task(turn())
    done = await asyncio.gather(*[passwords.hash(PASSWORD) for _ in range(10)], return_exceptions=True)
    turning.cancel()
    refused = [one for one in done if isinstance(one, DependencyAway)]
    assert len(refused) == 7 and refused[0].code == "sign_in_busy" and refused[0].retry_after_s == 2
    assert turns > 5
    assert await passwords.hash(PASSWORD)


def test_a_hash_with_other_numbers_is_outdated() -> None:
    assert is_outdated("$argon2id$v=19$m=65536,t=3,p=4$c2FsdHNhbHQ$aGFzaA")


@pytest.mark.parametrize(
    ("password", "words"),
    [
        ("short-one", "shorter"),
        ("x" * 129, "longer"),
        ("abababababab", "too few different"),
        ("qwertyuiop", "guessed first"),
        ("Administrator2026!!", "guessed first"),
        ("my-ada.lovelace-pw", "contains the address"),
        ("i-love-example-com", "contains the address"),
        ("ADA.LOVELACE@EXAMPLE.COM", "contains the address"),
    ],
)
def test_a_weak_password_is_refused_with_its_rule(password: str, words: str) -> None:
    rules = PasswordEntry(refuse=("qwertyuiop", "administrator"))
    with pytest.raises(InvalidRequest, match=words) as refused:
        refuse_weak(Secret(password), "Ada.Lovelace@example.com", rules)
    assert refused.value.code == "password_refused" and password not in refused.value.message


@pytest.mark.parametrize("password", ["correct-Pferd-9-battery", "ten-chars!", "пароль-из-слов"])
def test_a_password_that_breaks_no_rule_is_taken(password: str) -> None:
    refuse_weak(Secret(password), "ada@example.com", PasswordEntry(refuse=("qwertyuiop",)))

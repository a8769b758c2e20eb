"""Getting in: nobody gets into somebody else's account, and nobody learns who has one."""

import asyncio
import json
from typing import Any

import pytest
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

from engine.errors import DependencyAway, GatewayError, InvalidRequest, KeyRefused, LimitExceeded, NotAllowed
from engine.policies.welcome import Wishes
from engine.secret import Secret
from engine.storage.account_desk import Entered
from engine.storage.issuing import KeyRequest, issue_key
from engine.storage.postgres import Connection
from tests.accounts.house import EMAIL, NEW_PASSWORD, PASSWORD, House, come_from
from tests.accounts.issuer import Issuer

ATTACKER, VICTIM = "203.0.113.66", "192.0.2.1"
OTHERS = Secret("attackers-Wort-5-choice")


async def register(
    house: House, email: str = EMAIL, password: Secret = PASSWORD, at: str = VICTIM, **wishes: Any
) -> Entered:
    entered = await house.door.register(email, password, come_from(at), Wishes(**wishes))
    assert entered is not None
    return entered


async def show(house: House, issuer: Issuer, token: str, at: str = VICTIM, **wishes: Any) -> Entered:
    """Sign in with a provider's token."""
    return await house.door.enter_with_tokens([Secret(token)], None, come_from(at), Wishes(**wishes))


async def refuse(work: Any, kind: type[GatewayError], code: str) -> GatewayError:
    with pytest.raises(kind) as refused:
        await work
    assert refused.value.code == code
    return refused.value


async def list_events(house: House, action: str) -> list[dict[str, Any]]:
    rows = await house.read("SELECT content FROM audit_log WHERE seq > %s ORDER BY seq", house.first_seq)
    return [event for (text,) in rows if (event := json.loads(text))["action"] == action]


# --- signing up


async def test_a_new_user_gets_an_account_a_key_and_whoever_else_is_told(house: House) -> None:
    entered = await register(house, name="Ada", referral_code="R1", environment="test")
    assert entered.is_new and entered.key is not None and entered.key.key.reveal().startswith("gw_test_")
    [(user_id, facts)] = house.trial.made
    assert (user_id, facts.email, facts.email_verified) == (entered.account.id, EMAIL, False)
    assert (facts.referral_code, facts.environment, facts.address) == ("R1", "test", VICTIM)
    [row] = await house.read("SELECT prepaid, email_verified, name, password_hash FROM users")
    assert row[:3] == (True, False, "Ada") and PASSWORD.reveal() not in row[3]
    assert len(await list_events(house, "auth.sign_up")) == 1
    assert (await house.read("SELECT template, address FROM mail_outbox")) == [("welcome", EMAIL)]


async def test_what_a_listener_raises_undoes_the_account(house: House) -> None:
    house.trial.refuses = True
    with pytest.raises(RuntimeError):
        await register(house)
    assert await house.read("SELECT id FROM users") == []
    assert await house.read("SELECT id FROM api_keys") == []


async def test_of_many_who_register_one_address_at_once_one_gets_it(house: House) -> None:
    tries = [register(house, at=f"192.0.2.{at}") for at in range(6)]
    done = await asyncio.gather(*tries, return_exceptions=True)
    assert sum(isinstance(one, Entered) for one in done) == 1
    assert {one.code for one in done if isinstance(one, GatewayError)} == {"address_refused"}


async def test_a_taken_address_and_an_unwanted_one_are_refused_in_the_same_words(house: House) -> None:
    await register(house)
    taken = await refuse(register(house, email=EMAIL.upper()), NotAllowed, "address_refused")
    unwanted = await refuse(register(house, email="a@mailinator.com"), NotAllowed, "address_refused")
    assert (taken.status, taken.message) == (unwanted.status, unwanted.message)


@pytest.mark.parametrize(
    "domain", ["mailinator.com", "MAILINATOR.com", "deep.below.mailinator.com", "yopmail.com"]
)
async def test_nobody_signs_up_with_an_address_that_is_thrown_away(house: House, domain: str) -> None:
    await refuse(register(house, email=f"ada@{domain}"), NotAllowed, "address_refused")


async def test_a_domain_that_only_ends_alike_is_another(house: House) -> None:
    assert await register(house, email="ada@mynotyopmail.com")


async def test_nobody_signs_up_where_it_is_closed(house: House, issuer: Issuer) -> None:
    house.change(sign_up="closed")
    house.trust(issuer)
    await refuse(register(house), NotAllowed, "sign_up_closed")
    await refuse(show(house, issuer, issuer.vouch(EMAIL)), NotAllowed, "sign_up_closed")


async def test_an_invitation_lets_one_in_and_only_its_address(house: House) -> None:
    house.change(sign_up="invited")
    await refuse(register(house), NotAllowed, "invitation_missing")
    token, _ = await house.door.invite("eve@example.com", come_from())
    await refuse(register(house, invitation=token), NotAllowed, "invitation_missing")
    house.later(3601)
    open_to_all, _ = await house.door.invite(None, come_from())
    assert await register(house, invitation=open_to_all)
    again = register(house, email="x@example.com", invitation=open_to_all)
    await refuse(again, NotAllowed, "invitation_missing")


async def test_a_proven_address_needs_no_invitations_text(house: House, issuer: Issuer) -> None:
    house.change(sign_up="invited")
    house.trust(issuer)
    await refuse(show(house, issuer, issuer.vouch(EMAIL)), NotAllowed, "invitation_missing")
    await house.door.invite(EMAIL, come_from())
    assert (await show(house, issuer, issuer.vouch(EMAIL))).is_new


async def test_where_passwords_are_off_nobody_uses_one(house: House) -> None:
    await register(house)
    house.change(passwords=False)
    await refuse(register(house, email="x@example.com"), NotAllowed, "passwords_off")
    await refuse(house.door.enter_with_password(EMAIL, PASSWORD, come_from()), NotAllowed, "passwords_off")


# --- proving the address first


async def test_an_address_that_is_proven_first_makes_the_account_then(house: House) -> None:
    house.change(verify_address="first")
    assert (
        await house.door.register(EMAIL, PASSWORD, come_from(), Wishes(name="Ada", referral_code="R")) is None
    )
    assert await house.read("SELECT id FROM users") == []
    token = await house.read_token("verify_address")
    entered = await house.door.prove_address(token, PASSWORD, None, come_from())
    assert entered is not None and entered.is_new and entered.account.email_verified
    assert house.trial.made[0][1].referral_code == "R" and entered.account.name == "Ada"
    again = house.door.prove_address(token, PASSWORD, None, come_from())
    await refuse(again, InvalidRequest, "token_invalid")


async def test_registering_again_does_the_same_work_and_writes_to_the_owner(house: House) -> None:
    await register(house)
    house.change(verify_address="first")
    for email, template in ((EMAIL, "password_reset"), ("new@example.com", "verify_address")):
        house.later(3601)
        before = house.passwords.made, await house.count_mails()
        assert await house.door.register(email, OTHERS, come_from(ATTACKER), Wishes()) is None
        assert (house.passwords.made, await house.count_mails()) == (before[0] + 1, before[1] + 1)
        [(last,)] = await house.read("SELECT template FROM mail_outbox ORDER BY id DESC LIMIT 1")
        assert last == template


async def test_the_owner_who_clicks_does_not_prove_an_address_for_somebody_else(house: House) -> None:
    """An attacker registers the victim's address; the victim follows the mail."""
    house.change(verify_address="first")
    await house.door.register(EMAIL, OTHERS, come_from(ATTACKER), Wishes())
    token = await house.read_token("verify_address")
    for password in (None, PASSWORD):
        work = house.door.prove_address(token, password, None, come_from(VICTIM))
        await refuse(work, KeyRefused, "credentials_wrong")
    assert await house.read("SELECT id FROM users") == []


async def test_an_account_made_before_the_proof_is_proven_by_its_own_password_only(house: House) -> None:
    house.can_mail = True
    house.change(verify_address="later")
    attacker = await register(house, password=OTHERS, at=ATTACKER)
    token = await house.read_token("verify_address")
    await refuse(
        house.door.prove_address(token, PASSWORD, None, come_from()), KeyRefused, "credentials_wrong"
    )
    await refuse(
        house.door.prove_address(token, None, "user_of_somebody_else", come_from()),
        KeyRefused,
        "credentials_wrong",
    )
    assert await house.door.prove_address(token, None, attacker.account.id, come_from()) is None
    assert await house.read("SELECT email_verified FROM users") == [(True,)]


# --- signing in with a password


async def test_the_right_password_opens_a_session_and_makes_no_key(house: House) -> None:
    await register(house)
    entered = await house.door.enter_with_password("ADA@example.com", PASSWORD, come_from())
    assert entered.key is None and not entered.is_new and entered.method == "password"
    assert await house.read("SELECT count(*) FROM api_keys") == [(1,)]


async def test_a_key_is_made_for_who_has_none_and_asks_for_one(house: House) -> None:
    entered = await register(house, key=False)
    assert entered.key is None
    asked = await house.door.enter_with_password(EMAIL, PASSWORD, come_from(), Wishes(key=True))
    assert asked.key is not None
    again = await house.door.enter_with_password(EMAIL, PASSWORD, come_from(), Wishes(key=True))
    assert again.key is None


async def test_wrong_passwords_and_unknown_addresses_get_one_answer_for_one_work(house: House) -> None:
    """A wrong password, no such account, an account without a password, and one that was shut out."""
    await register(house)
    await house.read("INSERT INTO users (id, email) VALUES ('user_k', 'made@example.com') RETURNING 1")
    await register(house, email="out@example.com")
    await house.read("UPDATE users SET active = false WHERE email = 'out@example.com' RETURNING 1")
    await house.passwords.check(PASSWORD, None)
    answers, work = set(), set()
    for email in (EMAIL, "nobody@example.com", "made@example.com", "out@example.com"):
        password = OTHERS if email == EMAIL else PASSWORD
        hashes, events = house.passwords.made, len(await list_events(house, "auth.sign_in_failed"))
        with pytest.raises(KeyRefused) as refused:
            await house.door.enter_with_password(email, password, come_from(ATTACKER))
        error = refused.value
        answers.add((error.status, error.type, error.code, error.message, error.param))
        after = len(await list_events(house, "auth.sign_in_failed"))
        work.add((house.passwords.made - hashes, after - events))
    assert len(answers) == 1 and work == {(1, 1)}


async def test_a_failed_sign_in_is_noted_without_the_address_or_password(house: House) -> None:
    with pytest.raises(KeyRefused):
        await house.door.enter_with_password("nobody@example.com", OTHERS, come_from(ATTACKER))
    [event] = await list_events(house, "auth.sign_in_failed")
    assert event["by"]["address"] == ATTACKER and event["subject"].startswith("address:")
    assert "nobody" not in str(event) and OTHERS.reveal() not in str(event)


async def test_a_hash_with_old_numbers_is_made_anew_when_its_password_comes(house: House) -> None:
    await register(house)
    old = "$argon2id$v=19$m=8192,t=1,p=1$" + _hash_weakly()
    await house.read("UPDATE users SET password_hash = %s RETURNING 1", old)
    await house.door.enter_with_password(EMAIL, PASSWORD, come_from())
    [(stored,)] = await house.read("SELECT password_hash FROM users")
    assert "m=19456,t=2,p=1" in stored
    assert await house.passwords.check(PASSWORD, stored)


def _hash_weakly() -> str:
    kdf = Argon2id(salt=b"s" * 16, length=32, iterations=1, lanes=1, memory_cost=8192)
    text: str = kdf.derive_phc_encoded(PASSWORD.reveal().encode())
    return text.partition("p=1$")[2]


# --- how often


async def test_an_address_may_try_ten_times_in_a_quarter_of_an_hour(house: House) -> None:
    await register(house)
    for _ in range(10):
        with pytest.raises(KeyRefused):
            await house.door.enter_with_password(EMAIL, OTHERS, come_from(ATTACKER))
    hashes = house.passwords.made
    limited = await refuse(
        house.door.enter_with_password(EMAIL, PASSWORD, come_from(ATTACKER)),
        LimitExceeded,
        "too_many_attempts",
    )
    assert limited.retry_after_s is not None and 0 < limited.retry_after_s <= 900
    assert house.passwords.made == hashes
    house.later(limited.retry_after_s - 1)
    with pytest.raises(LimitExceeded):
        await house.door.enter_with_password(EMAIL, PASSWORD, come_from(ATTACKER))
    house.later(1)
    assert await house.door.enter_with_password(EMAIL, PASSWORD, come_from(ATTACKER))


async def test_an_ipv6_client_counts_by_its_network(house: House) -> None:
    for at in range(10):
        with pytest.raises(KeyRefused):
            await house.door.enter_with_password(EMAIL, OTHERS, come_from(f"2001:db8:0:7::{at}"))
    for address, kind in (("2001:db8:0:7:ffff::1", LimitExceeded), ("2001:db8:0:8::1", KeyRefused)):
        with pytest.raises(kind):
            await house.door.enter_with_password(EMAIL, OTHERS, come_from(address))


async def test_guessing_from_many_addresses_is_slowed_and_the_owner_is_not_locked_out(house: House) -> None:
    await register(house)
    for at in range(20):
        with pytest.raises(KeyRefused):
            await house.door.enter_with_password(EMAIL, OTHERS, come_from(f"203.0.113.{at}"))
    for at in range(20, 25):  # the right guess would not help any more
        with pytest.raises(LimitExceeded):
            await house.door.enter_with_password(EMAIL, PASSWORD, come_from(f"203.0.113.{at}"))
    assert await house.door.enter_with_password(EMAIL, PASSWORD, come_from(VICTIM))
    house.later(901)
    assert await house.door.enter_with_password(EMAIL, PASSWORD, come_from("198.51.100.1"))


async def test_unknown_accounts_are_slowed_like_known_ones(house: House) -> None:
    for at in range(21):
        kind = KeyRefused if at < 20 else LimitExceeded
        with pytest.raises(kind):
            await house.door.enter_with_password("nobody@example.com", OTHERS, come_from(f"203.0.113.{at}"))


@pytest.mark.parametrize(("what", "most"), [("sign_up", 3), ("password_reset", 3), ("redeem", 10)])
async def test_each_way_has_its_number(house: House, what: str, most: int) -> None:
    async def attempt(at: int) -> None:
        if what == "sign_up":
            await register(house, email=f"a{at}@example.com")
        elif what == "password_reset":
            await house.door.ask_reset(f"a{at}@example.com", come_from())
        else:
            with pytest.raises(InvalidRequest):
                await house.door.reset_password(Secret("gwp_x"), PASSWORD, come_from())

    for at in range(most):
        await attempt(at)
    with pytest.raises(LimitExceeded):
        await attempt(most)
    house.later(3601)
    await attempt(most + 1)


# --- proven identities, and attempts to take accounts over


async def test_a_proven_identity_makes_an_account_once(house: House, issuer: Issuer) -> None:
    house.trust(issuer)
    first = await show(house, issuer, issuer.vouch(EMAIL, name="Ada"))
    second = await show(house, issuer, issuer.vouch(EMAIL))
    assert first.is_new and first.key is not None and not second.is_new and second.key is None
    assert first.account.id == second.account.id and first.account.email_verified
    assert (first.method, first.subject, first.account.name) == ("idp", "sub-1", "Ada")
    assert await house.read("SELECT prepaid, password_hash FROM users") == [(True, None)]


async def test_the_same_identity_many_times_at_once_makes_one_account(house: House, issuer: Issuer) -> None:
    house.trust(issuer)
    token = issuer.vouch(EMAIL)
    entered = await asyncio.gather(*[show(house, issuer, token, f"192.0.2.{at}") for at in range(6)])
    assert len({one.account.id for one in entered}) == 1 and sum(one.is_new for one in entered) == 1


async def test_an_identity_is_linked_with_an_account_whose_address_both_have_proven(
    house: House, issuer: Issuer
) -> None:
    entered = await register(house)
    await house.read("UPDATE users SET email_verified = true RETURNING 1")
    house.trust(issuer)
    linked = await show(house, issuer, issuer.vouch(EMAIL.upper()))
    assert linked.account.id == entered.account.id and not linked.is_new
    assert len(await list_events(house, "auth.link")) == 1


async def test_registering_a_victims_address_first_does_not_get_the_victims_identity(
    house: House, issuer: Issuer
) -> None:
    attacker = await register(house, password=OTHERS, at=ATTACKER)
    house.trust(issuer)
    error = await refuse(show(house, issuer, issuer.vouch(EMAIL)), NotAllowed, "address_not_proven")
    assert "password" in error.message
    assert await house.read("SELECT * FROM identities") == []
    # The victim has the mailbox: a reset proves the address and shuts the attacker out.
    await house.door.ask_reset(EMAIL, come_from())
    await house.door.reset_password(await house.read_token("password_reset"), NEW_PASSWORD, come_from())
    with pytest.raises(KeyRefused):
        await house.door.enter_with_password(EMAIL, OTHERS, come_from(ATTACKER))
    with pytest.raises(KeyRefused):
        await house.door.renew(attacker.session.refresh_token, come_from(ATTACKER))
    assert await house.read("SELECT 1 FROM api_keys WHERE revoked_at IS NULL") == []
    assert (await show(house, issuer, issuer.vouch(EMAIL))).account.id == attacker.account.id


async def test_an_unchecked_address_of_a_token_opens_nobodys_account(house: House, issuer: Issuer) -> None:
    victim = await register(house)
    await house.read("UPDATE users SET email_verified = true RETURNING 1")
    house.trust(issuer, needs_email=False)
    for changes in ({"email_verified": False}, {}, {"email_verified": "yes"}):
        token = issuer.sign("mallory", email=EMAIL, **changes)
        entered = await show(house, issuer, token, ATTACKER)
        assert entered.account.id != victim.account.id and entered.account.email is None


@pytest.mark.parametrize(
    "email", ["ada@evil.example", "ada+x@example.com", "xada@example.com", "ada@example.com.evil.example"]
)
async def test_an_address_that_is_only_like_another_is_another(
    house: House, issuer: Issuer, email: str
) -> None:
    victim = await register(house)
    await house.read("UPDATE users SET email_verified = true RETURNING 1")
    house.trust(issuer)
    assert (await show(house, issuer, issuer.vouch(email, "mallory"))).account.id != victim.account.id


async def test_the_same_subject_of_another_provider_is_somebody_else(house: House, issuer: Issuer) -> None:
    with Issuer().serving() as other:
        house.trust(issuer)
        first = await show(house, issuer, issuer.vouch(EMAIL, "sub-1"))
        entry = house.login.providers["idp"].model_dump()
        second = entry | {"issuer": other.name, "jwks_url": f"{other.url}/jwks.json"}
        house.change(providers={"idp": entry, "other": second})
        stranger = await show(house, other, other.vouch("eve@example.com", "sub-1"), ATTACKER)
    assert stranger.account.id != first.account.id


async def test_tokens_of_two_people_are_refused_together(house: House, issuer: Issuer) -> None:
    house.trust(issuer)
    tokens = [Secret(issuer.sign("mallory")), Secret(issuer.vouch(EMAIL, "ada"))]
    work = house.door.enter_with_tokens(tokens, None, come_from(ATTACKER))
    await refuse(work, KeyRefused, "identity_token_invalid")
    good = [Secret(issuer.sign("ada")), Secret(issuer.vouch(EMAIL, "ada"))]
    assert (await house.door.enter_with_tokens(good, None, come_from())).account.email == EMAIL


async def test_without_a_proven_address_there_is_an_account_only_if_the_file_says_so(
    house: House, issuer: Issuer
) -> None:
    house.trust(issuer)
    await refuse(show(house, issuer, issuer.sign()), NotAllowed, "address_missing")
    house.trust(issuer, needs_email=False)
    entered = await show(house, issuer, issuer.sign())
    assert entered.account.email is None and await house.count_mails() == 0
    proven = await show(house, issuer, issuer.vouch(EMAIL))
    assert (proven.account.id, proven.account.email) == (entered.account.id, EMAIL)


async def test_an_address_that_came_later_is_not_taken_from_who_has_it(house: House, issuer: Issuer) -> None:
    victim = await register(house)
    house.trust(issuer, needs_email=False)
    mine = await show(house, issuer, issuer.sign("mallory"))
    again = await show(house, issuer, issuer.vouch(EMAIL, "mallory"))
    assert again.account.id == mine.account.id != victim.account.id and again.account.email is None


async def test_who_was_shut_out_stays_out_with_an_identity_too(house: House, issuer: Issuer) -> None:
    house.trust(issuer)
    await show(house, issuer, issuer.vouch(EMAIL))
    await house.read("UPDATE users SET active = false RETURNING 1")
    await refuse(show(house, issuer, issuer.vouch(EMAIL)), NotAllowed, "account_inactive")


async def test_a_provider_that_is_away_is_told_and_makes_nothing(house: House, issuer: Issuer) -> None:
    house.trust(issuer)
    issuer.status = 503
    await refuse(show(house, issuer, issuer.vouch(EMAIL)), DependencyAway, "identity_provider_unavailable")
    assert await house.read("SELECT 1 FROM users") == []


# --- lost passwords


async def test_a_reset_sets_a_password_once_and_ends_all_sessions(house: House) -> None:
    entered = await register(house)
    await house.door.ask_reset("Ada@Example.com", come_from())
    token = await house.read_token("password_reset")
    await house.door.reset_password(token, NEW_PASSWORD, come_from())
    assert await house.door.enter_with_password(EMAIL, NEW_PASSWORD, come_from())
    with pytest.raises(KeyRefused):
        await house.door.enter_with_password(EMAIL, PASSWORD, come_from())
    with pytest.raises(KeyRefused):
        await house.door.renew(entered.session.refresh_token, come_from())
    await refuse(house.door.reset_password(token, PASSWORD, come_from()), InvalidRequest, "token_invalid")


async def test_of_several_resets_one_use_ends_the_others(house: House) -> None:
    await register(house)
    tokens = []
    for _ in range(2):
        await house.door.ask_reset(EMAIL, come_from())
        tokens.append(await house.read_token("password_reset"))
    await house.door.reset_password(tokens[1], NEW_PASSWORD, come_from())
    await refuse(house.door.reset_password(tokens[0], OTHERS, come_from()), InvalidRequest, "token_invalid")


async def test_a_reset_that_expired_or_whose_address_changed_opens_nothing(house: House) -> None:
    await register(house)
    for statement in (
        "UPDATE one_time_tokens SET expires_at = now() - interval '1 s' RETURNING 1",
        "UPDATE users SET email = 'moved@example.com' RETURNING 1",
    ):
        await house.door.ask_reset(EMAIL, come_from())
        token = await house.read_token("password_reset")
        await house.read(statement)
        await refuse(
            house.door.reset_password(token, NEW_PASSWORD, come_from()), InvalidRequest, "token_invalid"
        )


async def test_a_weak_new_password_leaves_the_token_good(house: House) -> None:
    await register(house)
    await house.door.ask_reset(EMAIL, come_from())
    token = await house.read_token("password_reset")
    await refuse(
        house.door.reset_password(token, Secret("qwertyuiop"), come_from()),
        InvalidRequest,
        "password_refused",
    )
    await house.door.reset_password(token, NEW_PASSWORD, come_from())


async def test_asking_for_nobodys_reset_runs_the_same_statements_and_leaves_nothing(house: House) -> None:
    await register(house)
    work, left = [], []
    for email in (EMAIL, "nobody@example.com"):
        house.statements.clear()
        mails = await house.count_mails()
        await house.door.ask_reset(email, come_from())
        work.append(list(house.statements)[1:])
        left.append(await house.count_mails() - mails)
    assert work[0] == work[1] and len(work[0]) > 3
    assert left == [1, 0]
    assert await house.read("SELECT count(*) FROM one_time_tokens") == [(1,)]


async def test_a_mailbox_is_not_filled_by_others_who_ask(house: House) -> None:
    await register(house)
    before = await house.count_mails()
    for at in range(9):
        await house.door.ask_reset(EMAIL, come_from(f"203.0.113.{at}"))
    assert await house.count_mails() == before + 3


async def test_a_reset_of_an_account_that_an_administrator_made_keeps_its_keys(house: House) -> None:
    async def make(connection: Connection) -> None:
        await issue_key(connection, house.ring, KeyRequest("k", user=EMAIL))

    await house.database.run(make)
    await house.door.ask_reset(EMAIL, come_from())
    await house.door.reset_password(await house.read_token("password_reset"), NEW_PASSWORD, come_from())
    assert await house.read("SELECT revoked_at FROM api_keys") == [(None,)]
    assert await house.door.enter_with_password(EMAIL, NEW_PASSWORD, come_from())


async def test_no_password_and_no_token_is_in_the_database_in_clear(house: House) -> None:
    entered = await register(house)
    await house.door.ask_reset(EMAIL, come_from())
    token = await house.read_token("password_reset")
    secrets = [PASSWORD, token, entered.session.refresh_token, house.door.sign(entered.session)]
    tables = await house.read("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
    for (table,) in tables:
        rows = str(await house.read(f"SELECT t::text FROM {table} t"))
        assert not [secret for secret in secrets if secret.reveal() in rows], table

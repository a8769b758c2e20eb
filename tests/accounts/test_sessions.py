"""Refresh tokens work once; session tokens are believed only with everything right and a session behind them."""

import asyncio
import base64
import json
import time
from typing import Any

import jwt
import pytest
from cryptography.fernet import Fernet

from engine.call import Caller
from engine.errors import KeyRefused, NotAllowed
from engine.policies.access import Need
from engine.policies.identity import Identity
from engine.policies.session_tokens import SessionTokens
from engine.policies.welcome import Wishes
from engine.secret import Secret
from engine.storage.account_desk import Entered
from engine.storage.one_time_tokens import make_token
from engine.storage.secrets import KeyRing
from tests.accounts.house import EMAIL, PASSWORD, House, come_from


async def sign_up(house: House) -> Entered:
    entered = await house.door.register(EMAIL, PASSWORD, come_from(), Wishes())
    assert entered is not None
    return entered


async def hold(house: House, entered: Entered) -> Caller:
    return await house.sessions.find_holder(house.door.sign(entered.session).reveal())


async def test_a_session_is_its_users_and_opens_no_inference(house: House) -> None:
    entered = await sign_up(house)
    caller = await hold(house, entered)
    assert (caller.user_id, caller.key_id) == (entered.account.id, entered.session.id)
    assert caller.scopes == {"read", "admin", "catalog"} and caller.role == "user"


async def test_a_refresh_token_is_followed_by_the_next(house: House) -> None:
    first = (await sign_up(house)).session
    second = await house.door.renew(first.refresh_token, come_from())
    third = await house.door.renew(second.refresh_token, come_from())
    assert first.id == second.id == third.id
    assert len({one.refresh_token for one in (first, second, third)}) == 3
    assert third.expires_at == first.expires_at


async def test_a_refresh_token_that_comes_twice_ends_the_session_for_both(house: House) -> None:
    entered = await sign_up(house)
    second = await house.door.renew(entered.session.refresh_token, come_from())
    with pytest.raises(KeyRefused):
        await house.door.renew(entered.session.refresh_token, come_from("198.51.100.9"))
    with pytest.raises(KeyRefused):
        await house.door.renew(second.refresh_token, come_from())
    with pytest.raises(KeyRefused, match="ended"):
        await hold(house, entered)
    [(content,)] = await house.read(
        "SELECT content FROM audit_log WHERE content LIKE %s AND content LIKE %s",
        "%session.revoke%",
        f"%{entered.session.id}%",
    )
    assert "refresh token used twice" in content and "198.51.100.9" in content


async def test_of_many_at_once_with_one_token_at_most_one_goes_on(house: House) -> None:
    token = (await sign_up(house)).session.refresh_token
    tries = [house.door.renew(token, come_from()) for _ in range(8)]
    done = await asyncio.gather(*tries, return_exceptions=True)
    went_on = [one for one in done if not isinstance(one, BaseException)]
    assert len(went_on) <= 1 and all(isinstance(one, KeyRefused) for one in done if one not in went_on)
    for one in went_on:
        with pytest.raises(KeyRefused):
            await house.door.renew(one.refresh_token, come_from())


async def test_asking_again_because_the_answer_was_lost_between_us_and_the_database_is_no_reuse(
    house: House,
) -> None:
    token, successor = (await sign_up(house)).session.refresh_token, make_token("gwr")
    first = await house.profiles.renew(token, successor, come_from())
    again = await house.profiles.renew(token, successor, come_from())
    assert first is not None and again is not None and first.refresh_token == again.refresh_token
    assert await house.profiles.renew(successor, make_token("gwr"), come_from()) is not None


async def test_the_database_has_no_refresh_token_in_clear(house: House) -> None:
    token = (await sign_up(house)).session.refresh_token.reveal()
    rows = await house.read("SELECT encode(hash, 'escape') FROM refresh_tokens")
    assert rows and all(token not in row[0] for row in rows)


@pytest.mark.parametrize("everywhere", [False, True])
async def test_signing_out_ends_this_session_or_all(house: House, everywhere: bool) -> None:
    one = await sign_up(house)
    other = await house.door.enter_with_password(EMAIL, PASSWORD, come_from())
    await house.door.leave(one.session.refresh_token, everywhere, come_from())
    with pytest.raises(KeyRefused):
        await hold(house, one)
    if everywhere:
        with pytest.raises(KeyRefused):
            await hold(house, other)
    else:
        assert await hold(house, other)


async def test_signing_out_with_a_token_of_nobody_is_answered_the_same(house: House) -> None:
    await house.door.leave(Secret("gwr_nobody"), True, come_from())


async def test_a_role_and_a_user_who_was_shut_out_count_at_once(house: House) -> None:
    entered = await sign_up(house)
    await house.read("UPDATE users SET role = 'admin' WHERE id = %s RETURNING 1", entered.account.id)
    assert (await hold(house, entered)).role == "admin"
    await house.read("UPDATE users SET active = false WHERE id = %s RETURNING 1", entered.account.id)
    with pytest.raises(KeyRefused):
        await hold(house, entered)
    with pytest.raises(KeyRefused):
        await house.door.renew(entered.session.refresh_token, come_from())


async def test_an_expired_session_is_neither_renewed_nor_believed(house: House) -> None:
    entered = await sign_up(house)
    await house.read(
        "UPDATE sessions SET expires_at = now() - interval '1 s' WHERE id = %s RETURNING 1",
        entered.session.id,
    )
    with pytest.raises(KeyRefused):
        await hold(house, entered)
    with pytest.raises(KeyRefused):
        await house.door.renew(entered.session.refresh_token, come_from())


# --- the token itself


class NoKeys:
    def find(self, key_text: str) -> Caller | None:
        return None

    async def fetch(self, key_text: str) -> Caller:
        raise KeyRefused("unknown")


def encode(head: dict[str, Any], claims: dict[str, Any], signature: bytes = b"") -> str:
    parts = (json.dumps(head).encode(), json.dumps(claims).encode(), signature)
    return ".".join(base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in parts)


async def list_forged(house: House, entered: Entered) -> dict[str, str]:
    good = house.door.sign(entered.session).reveal()
    claims = jwt.decode(good, options={"verify_signature": False})
    head = jwt.get_unverified_header(good)
    entry = house.ring.newest
    stranger = KeyRing(Secret(Fernet.generate_key().decode()))

    def sign(key: bytes, changes: dict[str, Any], algorithm: str = "HS256", **heads: Any) -> str:
        merged = {name: value for name, value in (claims | changes).items() if value is not None}
        return jwt.encode(merged, key, algorithm=algorithm, headers=head | heads)

    return {
        "no signature": encode({**head, "alg": "none"}, claims),
        "None": encode({**head, "alg": "None"}, claims),
        "another algorithm": sign(entry.sessions + entry.sessions, {}, "HS512"),
        "the seal's key": sign(entry.seal, {}),
        "another ring": jwt.encode(claims, stranger.newest.sessions, headers=head),
        "another ring's id": sign(entry.sessions, {}, kid=stranger.newest.id),
        "no kid": jwt.encode(claims, entry.sessions, headers={"typ": "session+jwt"}),
        "another type": sign(entry.sessions, {}, typ="JWT"),
        "critical": sign(entry.sessions, {}, crit=["exp"]),
        "expired": sign(entry.sessions, {"exp": int(time.time()) - 1}),
        "never expires": sign(entry.sessions, {"exp": None}),
        "another audience": sign(entry.sessions, {"aud": "elsewhere"}),
        "another issuer": sign(entry.sessions, {"iss": "elsewhere"}),
        "not yet": sign(entry.sessions, {"iat": int(time.time()) + 900}),
        "no session": sign(entry.sessions, {"sid": None}),
        "another session": sign(entry.sessions, {"sid": "session_0"}),
        "another user": sign(entry.sessions, {"sub": "user_0"}),
        "changed": good[:-4] + ("AAAA" if good[-4:] != "AAAA" else "BBBB"),
        "huge": good + "A" * 3000,
        "nested": encode({"x": 1}, {}).replace(".", "." + "W" * 10, 1),
        "empty": "..",
        "deep": base64.urlsafe_b64encode(b"[" * 1500).decode() + ".e30.AA",
    }


async def test_a_session_token_with_anything_wrong_is_refused_with_401(house: House) -> None:
    entered = await sign_up(house)
    identity = Identity(NoKeys(), None, sessions=house.sessions)
    forged = await list_forged(house, entered)
    assert len(forged) > 20
    for name, text in forged.items():
        with pytest.raises(KeyRefused):
            await identity.identify([(b"authorization", f"Bearer {text}".encode())], need=Need("read"))
            pytest.fail(name)
    good = [(b"authorization", b"Bearer " + house.door.sign(entered.session).reveal().encode())]
    assert (await identity.identify(good, need=Need("read"))).user_id == entered.account.id
    with pytest.raises(NotAllowed):
        await identity.identify(good)


async def test_a_token_of_an_older_ring_entry_is_good_until_the_entry_goes(house: House) -> None:
    entered = await sign_up(house)
    old, new = Fernet.generate_key().decode(), Fernet.generate_key().decode()
    text = SessionTokens(KeyRing(Secret(old))).sign("session_1", entered.account.id, 60).reveal()
    assert SessionTokens(KeyRing(Secret(f"{new},{old}"))).read(text).session_id == "session_1"
    with pytest.raises(KeyRefused):
        SessionTokens(KeyRing(Secret(new))).read(text)

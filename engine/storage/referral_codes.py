"""Codes that people bring others with. Constraints decide who was brought by whom.

Works inside the caller's transaction.
"""

import secrets

import psycopg

from engine.config.schema_commerce import ReferralsFile
from engine.errors import GatewayError, InvalidRequest, NotAllowed, NotFound
from engine.storage.persons import is_one_person
from engine.storage.postgres import Connection
from engine.storage.secrets import KeyRing

ALPHABET = "ABCDEFGHJKMNPQRSTUVWXYZ23456789"
"""Without what looks alike: I, L, O, 0, 1."""
_TRIES = 20


async def get_or_make_code(connection: Connection, user_id: str, rules: ReferralsFile) -> str:
    """The user's code; made at the first call."""
    for _ in range(_TRIES):
        code = "".join(secrets.choice(ALPHABET) for _ in range(rules.code_length))
        await connection.execute(
            "INSERT INTO referral_codes (code, user_id, max_uses) VALUES (%s, %s, %s) ON CONFLICT DO NOTHING",
            (code, user_id, rules.max_uses),
        )
        row = await (
            await connection.execute("SELECT code FROM referral_codes WHERE user_id = %s", (user_id,))
        ).fetchone()
        if row is not None:
            return str(row[0])
    raise InvalidRequest("no code is free: make code_length longer", code="referral_codes_used_up")


async def find_referrer(connection: Connection, code: str, user_id: str | None = None) -> str:
    """Whose code this is, when it may be used (by `user_id`). Raises the reason why it may not."""
    row = await (
        await connection.execute(
            "SELECT c.user_id, c.uses < c.max_uses, u.active FROM referral_codes c"
            " JOIN users u ON u.id = c.user_id WHERE c.code = %s",
            (code.strip().upper(),),
        )
    ).fetchone()
    if row is None or not row[2]:
        raise NotFound("there is no such referral code", code="referral_code_not_found")
    if row[0] == user_id:
        raise _say_oneself()
    if not row[1]:
        raise _say_used_up()
    return str(row[0])


async def note_referral(
    connection: Connection, ring: KeyRing, user_id: str, code: str, rules: ReferralsFile
) -> str:
    """A new user was brought by the owner of a code, who is returned. Constraints decide; raises why not."""
    if not rules.active:
        raise NotAllowed("no referrals are taken at the moment", code="referrals_closed")
    referrer_id = await find_referrer(connection, code, user_id)
    if await is_one_person(connection, ring, user_id, referrer_id):
        raise _say_oneself()
    added = await connection.execute(
        "INSERT INTO referrals (referee_id, referrer_id, code, referrer_bonus_usd, referee_bonus_usd,"
        " min_purchase_usd) VALUES (%s, %s, %s, %s, %s, %s) ON CONFLICT DO NOTHING",
        (
            user_id,
            referrer_id,
            code.strip().upper(),
            rules.referrer_bonus_usd,
            rules.referee_bonus_usd,
            rules.min_purchase_usd,
        ),
    )
    if not added.rowcount:
        raise NotAllowed("this user was brought by somebody already", code="referral_exists")
    try:
        async with connection.transaction():
            await connection.execute(
                "UPDATE referral_codes SET uses = uses + 1 WHERE user_id = %s", (referrer_id,)
            )
    except psycopg.errors.CheckViolation:
        raise _say_used_up() from None
    return referrer_id


def _say_oneself() -> GatewayError:
    return NotAllowed("nobody brings themselves", code="referral_of_oneself")


def _say_used_up() -> GatewayError:
    return NotAllowed("this code has brought as many users as it may", code="referral_code_used_up")

"""A mail is queued once for each reason, with its reason, and what is secret in it is not stored in clear."""

from decimal import Decimal

import pytest

from engine.storage.outbox import TEMPLATES, queue_mail
from engine.storage.postgres import Connection
from engine.storage.secrets import KeyRing


async def read_rows(connection: Connection) -> list[tuple[object, ...]]:
    found = await connection.execute("SELECT ref, template, address, data, sealed, status FROM mail_outbox")
    return await found.fetchall()


async def test_a_repeated_ref_queues_nothing(connection: Connection) -> None:
    amount = {"amount_usd": Decimal("5.10")}
    assert await queue_mail(connection, "credits_added", "a@b.c", amount, ref="payment:1", user_id="user_1")
    assert not await queue_mail(connection, "welcome", "other@b.c", {}, ref="payment:1")
    assert await read_rows(connection) == [
        ("payment:1", "credits_added", "a@b.c", {"amount_usd": "5.10"}, None, "pending")
    ]


async def test_a_mail_goes_with_the_transaction_that_gives_its_reason(connection: Connection) -> None:
    async with connection.transaction(force_rollback=True):
        assert await queue_mail(connection, "welcome", "a@b.c", {}, ref="welcome:user_1")
    assert await read_rows(connection) == []


async def test_what_opens_an_account_is_stored_encrypted(connection: Connection, ring: KeyRing) -> None:
    await queue_mail(connection, "password_reset", "a@b.c", {"link": "/reset?t=hush"}, ref="r1", ring=ring)
    ((_, _, _, data, sealed, _),) = await read_rows(connection)
    assert data is None
    assert isinstance(sealed, bytes) and b"hush" not in sealed
    assert ring.decrypt(sealed).reveal() == '{"link":"/reset?t=hush"}'


async def test_a_secret_is_not_queued_without_the_ring(connection: Connection) -> None:
    with pytest.raises(ValueError, match="key ring"):
        await queue_mail(connection, "password_reset", "a@b.c", {"link": "/reset?t=hush"}, ref="r1")


@pytest.mark.parametrize(
    "address",
    [
        "",
        "nobody",
        "a@b\r\nBcc: c@d.e",
        "a@b.c, d@e.f",
        "A <a@b.c>",
        "a@b@c.d",
        "a b@c.d",
        "a\0@b.c",
        "a" * 250 + "@b.c",
    ],
)
async def test_what_is_no_single_address_gets_no_mail(connection: Connection, address: str) -> None:
    assert not await queue_mail(connection, "welcome", address, {}, ref="w1")
    assert await read_rows(connection) == []


async def test_a_template_that_is_not_there_is_a_mistake_of_ours(connection: Connection) -> None:
    assert len(TEMPLATES) == 16
    with pytest.raises(ValueError, match="no mail template"):
        await queue_mail(connection, "wellcome", "a@b.c", {}, ref="w1")

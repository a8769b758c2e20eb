"""Users: who owns keys and credit. An address is one user, whatever its case."""

import secrets
from decimal import Decimal

from engine.storage.postgres import Connection, count_change


async def get_or_create_user(connection: Connection, email: str) -> str:
    """The id of the user with this address."""
    row = await (
        await connection.execute(
            "INSERT INTO users (id, email) VALUES (%s, %s)"
            " ON CONFLICT (lower(email)) DO UPDATE SET email = users.email RETURNING id",
            (f"user_{secrets.token_hex(8)}", email),
        )
    ).fetchone()
    assert row is not None, "RETURNING gives the row in either case"
    return str(row[0])


async def add_credit(connection: Connection, user_id: str, amount_usd: Decimal) -> None:
    """Give a user credit, seen by every worker within a second."""
    async with connection.transaction():
        n = await count_change(connection)
        await connection.execute(
            "UPDATE users SET credit_usd = credit_usd + %s, changed_n = %s WHERE id = %s",
            (amount_usd, n, user_id),
        )

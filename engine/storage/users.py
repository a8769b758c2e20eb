"""Users: who owns keys. An address is one user, whatever its case."""

import secrets

from engine.storage.postgres import Connection


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

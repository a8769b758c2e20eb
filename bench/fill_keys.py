"""Puts many keys into a gateway's database, hashed as it hashes them, and prints their texts, one per line.

GATEWAYZ_HOME=... python -m bench.fill_keys 100000
"""

import asyncio
import sys

from engine.config.settings import read_settings
from engine.storage.command_line import connect_for_command
from engine.storage.postgres import count_change
from engine.storage.secrets import generate_key, load_keyring
from engine.storage.users import get_or_create_user


async def fill(number: int) -> list[str]:
    """One transaction, COPY; `gatewayz keys create` would take an hour."""
    settings = read_settings()
    texts = [generate_key("live") for _ in range(number)]
    async with connect_for_command(settings) as connection, connection.transaction():
        ring = load_keyring(settings.home, settings.keyring, embedded=settings.database_url is None)
        changed = await count_change(connection)
        user = await get_or_create_user(connection, "bench@localhost")
        async with connection.cursor() as cursor:
            columns = "id, user_id, name, role, hash, ring_id, last4, changed_n"
            async with cursor.copy(f"COPY api_keys ({columns}) FROM STDIN") as copy:
                for place, text in enumerate(texts):
                    row = (f"key_bench{place}", user, "bench", "user", ring.hash_key(text), ring.newest.id)
                    await copy.write_row((*row, text[-4:], changed))
    return texts


if __name__ == "__main__":
    sys.stdout.write("\n".join(asyncio.run(fill(int(sys.argv[1])))) + "\n")

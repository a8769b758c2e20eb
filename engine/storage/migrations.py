"""The numbered .sql files of `migrations/`, applied in order in one transaction that any number may enter
at once.

A file that was applied is never edited: its checksum is recorded and compared.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg

from engine.storage.interfaces import StorageRefused

LOCK_NUMBER = 0x67770001
"""Whoever holds it is the only one who changes the schema."""
_PACKAGE = Path(__file__).resolve().parent.parent
_HISTORY = """
CREATE TABLE IF NOT EXISTS schema_migrations (
    name text PRIMARY KEY,
    checksum text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now()
)
"""


@dataclass(frozen=True, slots=True)
class Migration:
    name: str
    sql: str

    @property
    def checksum(self) -> str:
        return hashlib.sha256(self.sql.encode()).hexdigest()


def list_migrations(folder: Path | None = None) -> list[Migration]:
    """The shipped files in order (inside the wheel, else in the checkout)."""
    shipped = _PACKAGE / "shipped" / "migrations"
    folder = folder or (shipped if shipped.is_dir() else _PACKAGE.parent / "migrations")
    found = [Migration(file.name, file.read_text("utf-8")) for file in sorted(folder.glob("[0-9]*.sql"))]
    if not found:
        raise StorageRefused(f"no migrations in {folder}: the installation is incomplete")
    return found


async def migrate_url(url: str) -> list[str]:
    """Connect, migrate, disconnect; the names of the files applied now."""
    async with await psycopg.AsyncConnection.connect(url, prepare_threshold=None) as connection:
        return await migrate(connection)


async def migrate(
    connection: psycopg.AsyncConnection[Any], files: list[Migration] | None = None
) -> list[str]:
    """Apply what is missing; the names of the files applied now."""
    files = list_migrations() if files is None else files
    async with connection.transaction():
        await connection.execute("SELECT pg_advisory_xact_lock(%s)", (LOCK_NUMBER,))
        await connection.execute(_HISTORY)
        rows = await (await connection.execute("SELECT name, checksum FROM schema_migrations")).fetchall()
        applied = dict(rows)
        _refuse_edited(files, applied)
        missing = [file for file in files if file.name not in applied]
        for file in missing:
            await connection.execute(file.sql.encode())
            await connection.execute(
                "INSERT INTO schema_migrations (name, checksum) VALUES (%s, %s)", (file.name, file.checksum)
            )
    return [file.name for file in missing]


def _refuse_edited(files: list[Migration], applied: dict[str, str]) -> None:
    for file in files:
        if applied.get(file.name, file.checksum) != file.checksum:
            raise StorageRefused(
                f"migration {file.name} was applied with other content: add a new file instead"
            )
    unknown = sorted(set(applied) - {file.name for file in files})
    if unknown:
        raise StorageRefused(f"the database is newer than this gateway: it has {', '.join(unknown)}")

"""The database of tests/storage."""

from tests.storage.conftest import database, database_url, home, ring, server_url

__all__ = ["database", "database_url", "home", "ring", "server_url"]

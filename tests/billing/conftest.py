"""A real database for what is written there (tests/storage/conftest.py)."""

from tests.storage.conftest import connection, database, database_url, home, ring, server_url

__all__ = ["connection", "database", "database_url", "home", "ring", "server_url"]

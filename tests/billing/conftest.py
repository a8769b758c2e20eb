"""A real database for what is written there (tests/storage/conftest.py)."""

from tests.storage.conftest import cluster, connection, database, database_url, home, ring, server_url

__all__ = ["cluster", "connection", "database", "database_url", "home", "ring", "server_url"]

"""The database of tests/storage."""

from tests.storage.conftest import cluster, database, database_url, home, ring, server_url

__all__ = ["cluster", "database", "database_url", "home", "ring", "server_url"]

"""A real database for what is written there (tests/storage/conftest.py), and a folder of configuration files."""

from tests.config.conftest import folder, parsed
from tests.storage.conftest import connection, database, database_url, home, ring, server_url

__all__ = ["connection", "database", "database_url", "folder", "home", "parsed", "ring", "server_url"]

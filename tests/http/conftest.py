"""An embedded server for each module, for gateways that share a database: what a module leaves is nobody else's."""

import asyncio
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.storage.embedded import EmbeddedDatabase
from engine.storage.migrations import migrate_url
from tests.storage.conftest import cluster

__all__ = ["cluster"]


@pytest.fixture(scope="module")
def server_url(cluster: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    home = tmp_path_factory.mktemp("server")
    subprocess.run(["cp", "-a", str(cluster), str(home / "postgres")], check=True)
    server = EmbeddedDatabase(home)
    url = asyncio.run(server.start())
    asyncio.run(migrate_url(url))
    yield url
    asyncio.run(server.stop())

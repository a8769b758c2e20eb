"""The fixtures of tests with accounts."""

from collections.abc import AsyncIterator, Iterator

import pytest

from engine.config.reload import Loader
from engine.config.settings import read_settings
from engine.config.snapshot import Snapshot
from engine.storage.secrets import KeyRing
from engine.upstream.pools import Upstreams
from tests.accounts.house import House, WatchedDatabase
from tests.accounts.issuer import Issuer
from tests.homes import lend_parsed_files
from tests.storage.conftest import database_url, ring, server_url

__all__ = ["database_url", "ring", "server_url"]


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    """What is shipped."""
    folder = tmp_path_factory.mktemp("shipped")
    (folder / "gateway.yaml").write_text("database: embedded\nredis: none\n")
    lend_parsed_files(folder)
    loader = Loader(read_settings(home=folder, config=folder / "gateway.yaml"), {})
    snapshot: Snapshot = loader.prepare(loader.read(), run_examples=False)
    return snapshot


@pytest.fixture
async def house(base: Snapshot, database_url: str, ring: KeyRing) -> AsyncIterator[House]:
    upstreams, database = Upstreams(), WatchedDatabase(database_url)
    await database.open()
    made = House(base, database, ring, upstreams)
    await made.open()
    yield made
    made.passwords.close()
    await upstreams.close()
    await database.close()


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    with Issuer().serving() as serving:
        yield serving

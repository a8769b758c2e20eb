from collections.abc import Iterator

import pytest

from tests.valkey import Valkey, valkey


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkey]:
    with valkey(tmp_path_factory.mktemp("valkey")) as running:
        yield running


@pytest.fixture
def redis(server: Valkey) -> Valkey:
    """The same server, emptied."""
    with server.client as client:
        client.flushall()
    return server

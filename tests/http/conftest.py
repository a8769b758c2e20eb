"""An embedded server for each module, for gateways that share a database: what a module leaves is nobody else's."""

from collections.abc import Iterator

import pytest

from tests.storage.conftest import serve_database


@pytest.fixture(scope="module")
def server_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with serve_database(tmp_path_factory.mktemp("server")) as url:
        yield url

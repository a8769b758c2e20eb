from collections.abc import Iterator

import pytest

from tests.simulator.launch import fetch, run_simulator


@pytest.fixture(scope="session")
def running_port() -> Iterator[int]:
    with run_simulator() as port:
        yield port


@pytest.fixture
def port(running_port: int) -> int:
    """A simulator that remembers nothing of the test before."""
    fetch(running_port, "/_sim/calls", "DELETE")
    return running_port

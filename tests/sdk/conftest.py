"""One gateway before one simulator, for every official SDK."""

import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from tests.harness import ADMIN_KEY, Gateway, Simulator, running, write_files
from tests.sdk.wires import write_providers

PROVIDER = """
provider: up
format: openai-chat
base_url: URL/v1
auth: {bearer: key-of-up}
allow_private: true
passthrough: true
unknown_price: free
"""
POLICY = """
policy: default
extends: default
retry: {max: 0}
breaker: {failures: 1000, min_requests: 1000}
"""
UNPRICED = """
provider: unpriced
extends: up
unknown_price: refuse
"""
# Refused credentials are left alone for a while, so each of these refusals gets a provider of its own.
TIRED = """
provider: NAME
extends: up
"""
DOWN = """
provider: down
format: openai-chat
base_url: http://127.0.0.1:9/v1
auth: {bearer: key-of-down}
allow_private: true
passthrough: true
unknown_price: free
"""
MODELS = """
models:
  story-teller:
    aliases: [teller]
    price: {input: "1", output: "2"}
    targets: [{provider: up, model: sim/tokens@12}]
"""


@pytest.fixture(scope="session")
def simulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Simulator]:
    started = Simulator(tmp_path_factory.mktemp("sdk-simulator"))
    with running(started):
        yield started


@pytest.fixture(scope="session")
def gateway(simulator: Simulator, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    folder = tmp_path_factory.mktemp("sdk")
    files = {
        "providers.d/up.yaml": PROVIDER.replace("URL", simulator.url),
        "providers.d/unpriced.yaml": UNPRICED,
        **{
            f"providers.d/{name}.yaml": TIRED.replace("NAME", name)
            for name in ("refusing", "refusing-too", "limiting")
        },
        "providers.d/down.yaml": DOWN,
        "policies.d/default.yaml": POLICY,
        "models.d/story.yaml": MODELS,
        **write_providers(simulator.url),
    }
    started = Gateway(write_files(folder, files))
    with running(started):
        yield started


@pytest.fixture
def saw(simulator: Simulator) -> Callable[..., dict[str, Any]]:
    """The one call that the upstream saw of a model, once it has what is waited for."""

    def find(model: str, *facts: str, within_s: float = 5.0) -> dict[str, Any]:
        until = time.monotonic() + within_s
        calls: list[dict[str, Any]] = []
        while time.monotonic() < until:
            answer = httpx.get(f"{simulator.url}/_sim/calls", params={"model": model}).json()
            calls = answer["calls"]
            if len(calls) == 1 and all(calls[0].get(fact) is not None for fact in facts):
                found: dict[str, Any] = calls[0]
                return found
            time.sleep(0.02)
        raise AssertionError(f"{model}: {calls}")

    return find


@pytest.fixture(scope="session")
def api_key() -> str:
    return ADMIN_KEY

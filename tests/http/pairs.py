"""Two gateways on one database, for tests of what one does and the other sees."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from cryptography.fernet import Fernet

from tests.harness import ADMIN_KEY, Gateway, running, write_files

CONFIG = "redis: none\n"


@contextmanager
def pair_of_gateways(
    folder: Path, database_url: str, files: dict[str, str] | None = None
) -> Iterator[tuple[Gateway, Gateway]]:
    ring = Fernet.generate_key().decode()
    one, other = (
        Gateway(
            write_files(folder / name, {"gateway.yaml": CONFIG, **(files or {})}),
            DATABASE_URL=database_url,
            GATEWAYZ_KEYRING=ring,
        )
        for name in ("one", "other")
    )
    with running(one, other):
        yield one, other


def connect(gateway: Gateway, key: str = ADMIN_KEY) -> httpx.Client:
    return httpx.Client(base_url=gateway.url, headers={"authorization": f"Bearer {key}"}, timeout=30)


def make_key(gateway: Gateway, user_id: str, **body: Any) -> dict[str, Any]:
    """A key of a user, made by the house."""
    with connect(gateway) as admin:
        answer = admin.post(f"/admin/users/{user_id}/api-keys", json={"key_name": "k", **body})
    assert answer.status_code == 200, answer.text
    made: dict[str, Any] = answer.json()
    return made


def wait_for(condition: Callable[[], bool], within_s: float = 1.0) -> None:
    until = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < until, f"it was not so within {within_s} s"
        time.sleep(0.02)

"""A home left in disorder, and commands that come whenever they like: the gateway starts and knows the keys."""

import asyncio
import contextlib
import os
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tests.chaos.traffic import ask, list_family, run_keys, wait_until
from tests.harness import Gateway


def create_two_at_once(gateway: Gateway) -> list[dict[str, Any]]:
    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(lambda name: run_keys(gateway, "create", "--name", name), ("one", "two")))


def are_known(gateway: Gateway, made: list[dict[str, Any]]) -> bool:
    statuses = {asyncio.run(ask(gateway.port, "sim/echo", key=each["key"])).status for each in made}
    return statuses == {200}


def test_keys_made_two_at_once_while_serving_and_while_stopped_are_known(tmp_path: Path) -> None:
    gateway = Gateway(tmp_path).await_ready()
    made = create_two_at_once(gateway)
    assert are_known(gateway, made)
    assert gateway.stop() == 0
    made += create_two_at_once(gateway)
    assert len({each["id"] for each in made}) == 4
    again = Gateway(tmp_path).await_ready()
    assert are_known(again, made)
    assert again.stop() == 0


def test_after_a_crash_a_pid_file_with_a_foreign_living_pid_is_no_obstacle(tmp_path: Path) -> None:
    gateway = Gateway(tmp_path).await_ready()
    made = [run_keys(gateway, "create", "--name", "before")]
    assert are_known(gateway, made)
    family = list_family(gateway.process.pid)
    for pid in (gateway.process.pid, *family):
        with contextlib.suppress(ProcessLookupError):  # it has followed its parent
            os.kill(pid, signal.SIGKILL)
    gateway.process.wait()
    gateway.log.close()
    pid_file = tmp_path / "home/postgres/postmaster.pid"
    wait_until(pid_file.exists, 2)
    _, rest = pid_file.read_text().split("\n", 1)
    pid_file.write_text(f"{os.getpid()}\n{rest}")
    again = Gateway(tmp_path).await_ready()
    assert are_known(again, made)
    assert again.stop() == 0

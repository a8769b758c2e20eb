"""The supervisor and its workers as real processes, with the embedded database and the simulator."""

import os
import signal
import socket
import subprocess
import threading
import time
from pathlib import Path

import pytest

from tests.serve.gateways import (
    RunningGateway,
    is_alive,
    read_all,
    read_command,
    wait_until,
    write_config,
    write_provider,
)


@pytest.fixture(scope="module")
def made_home(tmp_path_factory) -> Path:
    """A home with a database, so that only one test pays for making it."""
    place = tmp_path_factory.mktemp("made")
    write_config(place / "config")
    gateway = RunningGateway(place / "config", place / "home")
    try:
        gateway.await_ready()
        assert gateway.text.count("admin key: gw_live_") == 1
        gateway.signal(signal.SIGTERM)
        assert gateway.await_exit() == 0
    finally:
        gateway.stop()
    (place / "home" / "stopped").unlink()
    return place / "home"


@pytest.fixture
def home(made_home, tmp_path) -> Path:
    subprocess.run(["cp", "-a", str(made_home), str(tmp_path / "home")], check=True)
    return tmp_path / "home"


@pytest.fixture
def folder(tmp_path) -> Path:
    return write_config(tmp_path / "config").parent


@pytest.fixture
def start(folder, home):
    started = []

    def start(*arguments: str, environ=None) -> RunningGateway:
        gateway = RunningGateway(folder, home, *arguments, environ=environ)
        started.append(gateway)
        return gateway

    yield start
    for gateway in started:
        gateway.stop()


@pytest.fixture(scope="module")
def shared(made_home, tmp_path_factory):
    """A gateway with two workers, for tests that leave it as they found it."""
    place = tmp_path_factory.mktemp("shared")
    subprocess.run(["cp", "-a", str(made_home), str(place / "home")], check=True)
    write_config(place / "config")
    gateway = RunningGateway(place / "config", place / "home", "--workers", "2")
    yield gateway.await_ready()
    gateway.stop()


class Caller:
    """Asks without a pause, on new connections; remembers every answer that was not 200."""

    def __init__(self, gateway: RunningGateway) -> None:
        self.gateway, self.failures, self.answers = gateway, [], 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._ask_on)

    def _ask_on(self) -> None:
        while not self._ended.is_set():
            try:
                status, _ = self.gateway.get("/")
                self.answers += 1
                if status != 200:
                    self.failures.append(status)
            except OSError as error:
                self.failures.append(repr(error))

    def __enter__(self) -> "Caller":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()


@pytest.mark.parametrize("workers", [1, 3])
def test_sighup_changes_every_worker_and_fails_no_request(start, folder, workers):
    gateway = start("--workers", str(workers)).await_ready()
    pids, revision = gateway.worker_pids(), gateway.get()[1]["revision"]
    assert len(pids) == workers and gateway.get()[1]["workers"] == workers
    with Caller(gateway) as caller:
        write_provider(folder, "second")
        gateway.signal(signal.SIGHUP)
        began = time.monotonic()

        def converged() -> bool:
            found = gateway.get("/admin/config")[1]["workers"]
            return len(found) == workers and all(worker["revision"] != revision for worker in found)

        wait_until(converged, 5)
        assert time.monotonic() - began < 2
        wait_until(lambda: caller.answers > 50, 10)
    assert caller.failures == []
    assert gateway.worker_pids() == pids
    assert "second" in gateway.get()[1]["providers"]


def test_a_changed_file_is_live_without_a_signal_and_a_deleted_one_is_gone(shared):
    file = write_provider(shared.folder, "second")
    wait_until(lambda: "second" in shared.get()[1]["providers"], 3)
    file.unlink()
    wait_until(lambda: "second" not in shared.get()[1]["providers"], 3)


def test_a_refused_reload_changes_nothing_and_is_shown_until_it_is_put_right(shared):
    before = shared.get()[1]
    write_provider(shared.folder, "first", "nonsense: 1\n")
    status, document = shared.get("/admin/config/reload", "POST")
    assert status == 422 and document["revision"] == before["revision"]
    (problem,) = document["last_refusal"]["problems"]
    assert problem["file"].endswith("providers.d/first.yaml") and problem["line"] == 5
    assert shared.get("/admin/config")[1]["last_refusal"] == document["last_refusal"]
    assert shared.get()[1]["providers"] == before["providers"]
    wait_until(lambda: "nonsense" in shared.text, 5)
    metrics = shared.get("/metrics")[1]["text"]
    refusals = float(metrics.split("\ngatewayz_config_refusals_total ")[1].split()[0])
    assert refusals >= 1
    write_provider(shared.folder, "first")
    status, document = shared.get("/admin/config/reload", "POST")
    assert status == 200 and document["last_refusal"] is None and document["revision"] == before["revision"]


def test_an_admin_reload_answers_when_all_workers_have_it(shared):
    write_provider(shared.folder, "second")
    status, document = shared.get("/admin/config/reload", "POST")
    assert status == 200
    assert {worker["revision"] for worker in document["workers"]} == {document["revision"]}
    assert len(document["workers"]) == 2
    assert all("second" in shared.get()[1]["providers"] for _ in range(10))


def test_a_change_of_the_server_section_is_told_and_not_taken(start, folder):
    gateway = start().await_ready()
    file = folder / "gateway.yaml"
    file.write_text(file.read_text() + "server: {max_body_mb: 1}\n")
    status, document = gateway.get("/admin/config/reload", "POST")
    assert status == 200 and "needs a restart" in " ".join(document["warnings"])
    assert gateway.get()[1]["max_body_bytes"] == 32 * 1024 * 1024


def test_a_killed_worker_is_replaced_by_one_with_the_current_configuration(shared):
    write_provider(shared.folder, "second")
    shared.get("/admin/config/reload", "POST")
    (victim, other) = shared.worker_pids()
    os.kill(victim, signal.SIGKILL)
    wait_until(lambda: len(shared.worker_pids()) == 2 and victim not in shared.worker_pids(), 10)
    assert other in shared.worker_pids()
    state = shared.get("/admin/config")[1]
    assert {worker["revision"] for worker in state["workers"]} == {state["revision"]}


def test_a_worker_that_takes_no_configuration_is_replaced(start, folder, home):
    gateway = start().await_ready()
    (old,) = gateway.worker_pids()
    (home / "fail-swap").touch()
    write_provider(folder, "second")
    with Caller(gateway) as caller:
        gateway.get("/admin/config/reload", "POST")
        wait_until(lambda: "second" in gateway.get()[1]["providers"], 10)
    assert caller.failures == []
    assert gateway.get()[1]["pid"] != old


def test_a_worker_that_gets_sigterm_finishes_its_calls_and_is_replaced(start):
    gateway = start().await_ready()
    (old,) = gateway.worker_pids()
    with gateway.open_stream():
        os.kill(old, signal.SIGTERM)
        wait_until(lambda: gateway.get()[1]["pid"] != old, 10)
        assert is_alive(old)


def test_the_counters_of_a_dead_worker_stay_in_the_sums(shared):
    for _ in range(5):
        shared.get()

    def count() -> float:
        text = shared.get("/metrics")[1]["text"]
        return float(text.split('gatewayz_calls_total{status="200",surface="chat"} ')[1].split()[0])

    before = count()
    assert before >= 5
    for pid in shared.worker_pids():
        os.kill(pid, signal.SIGKILL)
    time.sleep(1.1)
    assert count() > before


def test_after_kill_9_of_the_supervisor_nothing_is_left_and_another_starts_at_once(start):
    gateway = start("--workers", "2").await_ready()
    below = gateway.children()
    assert len(below) >= 4, "two workers, the simulator and PostgreSQL"
    with gateway.open_stream() as stream:
        os.kill(gateway.pid, signal.SIGKILL)
        began = time.monotonic()
        assert read_all(stream).endswith(b"ended in-band\r\n0\r\n\r\n")
        wait_until(lambda: not any(is_alive(pid) for pid in below), 5, lambda: str(below))
        assert time.monotonic() - began < 5
    start("--port", str(gateway.port)).await_ready()


def test_sigterm_lets_a_stream_finish_in_band_and_exits_0(start, folder, home):
    file = folder / "gateway.yaml"
    file.write_text(file.read_text() + "server: {drain: {announce_s: 0.5, finish_s: 0.5}}\n")
    gateway = start("--workers", "2").await_ready()
    workers, below = gateway.worker_pids(), gateway.children()
    with gateway.open_stream() as stream:
        gateway.signal(signal.SIGTERM)
        time.sleep(0.2)
        assert gateway.get("/health/ready")[0] == 503, "the port stays open while the end is announced"
        time.sleep(0.5)
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", gateway.port))
        assert read_all(stream).endswith(b"ended in-band\r\n0\r\n\r\n")
    assert gateway.await_exit() == 0
    assert {int(pid) for pid in (home / "stopped").read_text().split()} == workers
    assert not any(is_alive(pid) for pid in below)
    assert not (home / "gatewayz.pid").exists()


def test_a_second_sigterm_hurries(start):
    gateway = start().await_ready()
    with gateway.open_stream() as stream:
        gateway.signal(signal.SIGTERM)
        time.sleep(0.3)
        gateway.signal(signal.SIGTERM)
        assert read_all(stream).endswith(b"ended in-band\r\n0\r\n\r\n")
        assert gateway.await_exit(5) == 0


def test_sigterm_during_the_start_leaves_nothing(start):
    gateway = start()
    wait_until(lambda: (gateway.home / "gatewayz.pid").exists(), 10)
    gateway.signal(signal.SIGTERM)
    below = gateway.children()
    assert gateway.await_exit(10) == 0
    wait_until(lambda: not any(is_alive(pid) for pid in below), 5)


def test_a_second_gateway_on_one_home_is_told_the_pid_of_the_first(start):
    first = start().await_ready()
    assert (first.home / "gatewayz.pid").read_text() == f"{first.pid}\n"
    second = start()
    assert second.await_exit() == 1
    assert f"pid {first.pid}" in second.text and "Traceback" not in second.text
    assert first.get()[0] == 200


def test_a_refused_configuration_ends_the_start_with_every_problem(start, folder):
    write_provider(folder, "first", "nonsense: 1\n")
    write_provider(folder, "second", "base_url2: x\n")
    gateway = start()
    assert gateway.await_exit() == 1
    assert "first.yaml:5:1" in gateway.text and "second.yaml:5:1" in gateway.text
    assert "Traceback" not in gateway.text
    assert not gateway.children()


def test_a_port_in_use_ends_the_start_with_a_sentence(start):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        gateway = start("--port", str(taken.getsockname()[1]))
        assert gateway.await_exit() == 1
    assert "cannot be listened on" in gateway.text and "Traceback" not in gateway.text


def test_workers_that_never_start_end_the_start(start, home):
    (home / "fail-start").touch()
    gateway = start()
    assert gateway.await_exit(30) == 1
    assert "no worker became ready" in gateway.text


def test_several_workers_without_redis_need_a_word_about_limits(start, folder):
    file = folder / "gateway.yaml"
    file.write_text(file.read_text().replace("limits: {without_redis: divide}\n", ""))
    (folder / "policies.d").mkdir()
    (folder / "policies.d" / "tight.yaml").write_text(
        "policy: default\nextends: default\nlimits: {key: {concurrency: 5}}\n"
    )
    gateway = start("--workers", "2")
    assert gateway.await_exit() == 1
    assert "without_redis" in gateway.text


def test_a_dead_simulator_comes_back(start):
    gateway = start().await_ready()
    simulator = next(pid for pid in gateway.children() if "simulator" in read_command(pid))
    os.kill(simulator, signal.SIGKILL)
    wait_until(
        lambda: any("simulator" in read_command(pid) and pid != simulator for pid in gateway.children()), 5
    )


def test_without_its_database_an_external_gateway_serves_and_has_no_simulator(start):
    environ = {
        "DATABASE_URL": "postgresql://nobody@127.0.0.1:9/none",
        "GATEWAYZ_KEYRING": "Yp1mVfQ9cVtq0k3e7JxZ2h5uWb8sNnRgLz4oDaTiKyE=",
    }
    gateway = start(environ=environ).await_ready()
    shown = gateway.get()[1]
    assert shown["simulator"] is None and shown["database"] == environ["DATABASE_URL"]
    assert not any("postgres" in read_command(pid) for pid in gateway.children())
    assert "admin key" not in gateway.text and "try: curl" not in gateway.text

import os
import signal
import socket
import subprocess
import sys
import time

from tests.simulator.launch import fetch, run_simulator

COMMAND = [sys.executable, "-m", "engine.upstream.simulator"]


def can_connect(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def test_it_starts_fast_and_leaves_on_sigterm() -> None:
    began = time.monotonic()
    with run_simulator() as port:
        assert fetch(port, "/health") == {"status": "ok"}
        ready_s = time.monotonic() - began
    assert ready_s < 2
    assert not can_connect(port)


def test_it_takes_over_a_listening_socket() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port, number = listener.getsockname()[1], listener.fileno()
        with subprocess.Popen(
            [*COMMAND, "--fd", str(number)], pass_fds=[number], stdout=subprocess.DEVNULL
        ) as process:
            assert fetch(port, "/health") == {"status": "ok"}
            process.terminate()
        assert process.returncode == 0


def test_it_leaves_with_its_parent_and_outlives_the_signals_of_a_terminal() -> None:
    command = [*COMMAND, "--port", "0", "--with-parent"]
    script = (
        f"import subprocess as s; child = s.Popen({command!r}); print(child.pid, flush=True); child.wait()"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        port = int(parent.stdout.readline().split("/v1")[0].rpartition(":")[2])
        for number in (signal.SIGINT, signal.SIGHUP):
            os.kill(child, number)
        assert fetch(port, "/health") == {"status": "ok"}
        parent.kill()
    deadline = time.monotonic() + 3
    while can_connect(port) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not can_connect(port)


def test_a_port_that_is_taken_is_said_in_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        done = subprocess.run([*COMMAND, "--port", str(port)], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith(f"simulate: cannot listen on 127.0.0.1:{port}")

"""The systems under test: how each is installed, configured, started in front of the upstream, and stopped.

Each gets a port, a folder of its own and the upstream's port; each is asked for the model `bench-plain`.
"""

import contextlib
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

from bench.cases import TRANSLATED
from bench.measure import ROOT

VENVS = ROOT / "bench" / ".venvs"
BIN = pathlib.Path(sys.executable).parent


def find_free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def plain_environ() -> dict[str, str]:
    """No provider's key, no database and no proxy of whoever runs the benchmark."""
    return {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ}


class System:
    """A process that answers on `port`. A subclass says how it is installed and what its command line is."""

    name = ""
    title = ""
    requirement = ""
    ready_path = "/health"
    start_s = 60.0
    warm_s = 0.3

    def __init__(self, folder: pathlib.Path, upstream: int) -> None:
        self.folder = folder / self.name
        self.folder.mkdir()
        self.upstream = upstream
        self.port = find_free_port()
        self.key = "none"
        self.process: subprocess.Popen[bytes] | None = None
        self.marker: str | None = None
        self.ready_after_s = 0.0

    @property
    def pid(self) -> int | None:
        return self.process.pid if self.process else None

    def missing(self) -> str | None:
        """Why it cannot run here; None when it can. Installs what can be installed."""
        return None

    def version(self) -> str:
        return ""

    def configure(self) -> tuple[list[str], dict[str, str]]:
        """The command and what is added to the environment."""
        raise NotImplementedError

    def start(self) -> None:
        command, added = self.configure()
        log = (self.folder / "log").open("wb")
        began_at = time.monotonic()
        self.process = subprocess.Popen(
            command,
            cwd=self.folder,
            env=plain_environ() | added,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        while not self.answers():
            if self.process.poll() is not None or time.monotonic() - began_at > self.start_s:
                raise RuntimeError(f"{self.name} did not start:\n{self.read_log()[-4000:]}")
            time.sleep(0.02)
        self.ready_after_s = round(time.monotonic() - began_at, 2)

    def answers(self) -> bool:
        with contextlib.suppress(OSError, urllib.error.URLError):
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{self.ready_path}", timeout=2) as reply:
                return bool(reply.status == 200)
        return False

    def read_log(self) -> str:
        return (self.folder / "log").read_text(errors="replace")

    def stop(self) -> None:
        """Ask it to leave; after ten seconds end its process group, which is ours."""
        if self.process is None or self.process.poll() is not None:
            return
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


class Direct(System):
    """The load goes straight to the upstream: what the others add is measured against it."""

    name = "direct"
    title = "no gateway"

    def start(self) -> None:
        self.port = self.upstream


class Upstream(System):
    name = "upstream"

    def configure(self) -> tuple[list[str], dict[str, str]]:
        return [sys.executable, "-m", "bench.upstream", str(self.port)], {"PYTHONPATH": str(ROOT)}


class Gatewayz(System):
    """Everything on: key check, limits, metering, journal, embedded PostgreSQL, JSON log to a file."""

    name = "gatewayz"
    title = "gatewayz"
    ready_path = "/health/ready"
    models = 1
    keys = 1

    def missing(self) -> str | None:
        return None if (BIN / "gatewayz").exists() else "gatewayz is not installed (make .venv/.runtime)"

    def version(self) -> str:
        git = subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True
        )
        return f"{read_version(sys.executable, 'gatewayz')} ({git.stdout.strip()})"

    def configure(self) -> tuple[list[str], dict[str, str]]:
        self.write_files()
        self.marker = str(self.folder / "home")
        added = {"GATEWAYZ_HOME": self.marker}
        self.key = self.create_key(added)
        command = [str(BIN / "gatewayz"), "serve", "-c", str(self.folder / "gateway.yaml")]
        return [*command, "--port", str(self.port), "--workers", "1"], added

    def write_files(self) -> None:
        for name in ("providers.d", "models.d", "policies.d"):
            (self.folder / name).mkdir(exist_ok=True)
        (self.folder / "gateway.yaml").write_text("server: {max_body_mb: 32}\n")
        (self.folder / "providers.d" / "bench.yaml").write_text(
            "provider: bench\nformat: openai-chat\n"
            f"base_url: http://127.0.0.1:{self.upstream}/v1\n"
            'auth: {bearer: "bench-upstream-key"}\n'
            "allow_private: true\npassthrough: true\n"
            'unknown_price: {input: "0.15", output: "0.60"}\n'
        )
        (self.folder / "providers.d" / "bench-messages.yaml").write_text(
            "provider: bench-messages\nformat: anthropic-messages\n"
            f"base_url: http://127.0.0.1:{self.upstream}\n"
            'auth: {header: {name: x-api-key, value: "bench-upstream-key"}}\n'
            "allow_private: true\n"
        )
        rows = [
            "models:",
            f"  {TRANSLATED}:",
            '    price: {input: "0.15", output: "0.60", cached_input: "0.075"}',
            f"    targets: [{{provider: bench-messages, model: {TRANSLATED}}}]",
        ]
        for name in ["bench-plain", *(f"bench-paced-{n}" for n in (100, 500)), *self.more_models()]:
            rows += [
                f"  {name}:",
                "    capabilities: [chat, tools, vision]",
                "    limits: {context: 128000, output: 16384}",
                '    price: {input: "0.15", output: "0.60", cached_input: "0.075"}',
                f"    targets: [{{provider: bench, model: {name}}}]",
            ]
        (self.folder / "models.d" / "bench.yaml").write_text("\n".join(rows) + "\n")
        # Limits are checked for every call, and set so high that none is reached.
        (self.folder / "policies.d" / "default.yaml").write_text(
            "policy: default\nextends: default\n"
            "limits:\n  key:\n"
            "    requests: {minute: 100000000, hour: 1000000000, day: 10000000000}\n"
            "    tokens: {minute: 100000000000}\n    burst: 100000000\n    concurrency: 100000\n"
        )

    def more_models(self) -> list[str]:
        return [f"bench-extra-{number}" for number in range(self.models - 1)]

    def create_key(self, added: dict[str, str]) -> str:
        """A user's key, as every caller has one; made before the server starts."""
        command = [str(BIN / "gatewayz"), "keys", "create", "--name", "bench", "--role", "user"]
        command += ["--credit", "1000000", "--format", "json"]
        done = subprocess.run(
            command,
            cwd=self.folder,
            env=plain_environ() | added | {"GATEWAYZ_CONFIG": str(self.folder / "gateway.yaml")},
            capture_output=True,
            text=True,
            timeout=60,
        )
        if done.returncode:
            raise RuntimeError(f"gatewayz keys create failed: {done.stderr[-2000:]}")
        key: str = json.loads(done.stdout)["key"]
        return key


class Nginx(System):
    """`proxy_pass` and nothing else: no key, no log, no look at the answer."""

    name = "nginx"
    title = "nginx proxy_pass"
    ready_path = "/v1/models"

    def missing(self) -> str | None:
        return None if self.find() else "nginx is not installed"

    def find(self) -> str | None:
        return shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")

    def version(self) -> str:
        asked = subprocess.run([self.find() or "nginx", "-v"], capture_output=True, text=True)
        return asked.stderr.strip().rpartition("/")[2]

    def configure(self) -> tuple[list[str], dict[str, str]]:
        (self.folder / "nginx.conf").write_text(f"""
daemon off; worker_processes 1; pid {self.folder}/nginx.pid; error_log {self.folder}/error.log;
events {{ worker_connections 4096; }}
http {{
  access_log off; client_max_body_size 64m; client_body_buffer_size 2m; keepalive_requests 1000000000;
  client_body_temp_path {self.folder}/body; proxy_temp_path {self.folder}/proxy;
  fastcgi_temp_path {self.folder}/fastcgi; uwsgi_temp_path {self.folder}/uwsgi;
  scgi_temp_path {self.folder}/scgi;
  upstream up {{ server 127.0.0.1:{self.upstream}; keepalive 1024; keepalive_requests 1000000000; }}
  server {{
    listen 127.0.0.1:{self.port} backlog=2048;
    location / {{
      proxy_pass http://up; proxy_http_version 1.1; proxy_set_header Connection "";
      proxy_buffering off; proxy_request_buffering off;
    }}
  }}
}}
""")
        return [self.find() or "nginx", "-p", str(self.folder), "-c", str(self.folder / "nginx.conf")], {}


class Peer(System):
    """A Python package in a venv of its own under bench/.venvs."""

    package = ""

    @property
    def python(self) -> pathlib.Path:
        return VENVS / self.name / "bin" / "python"

    def missing(self) -> str | None:
        if self.python.exists() and self.version():
            return None
        venv = [sys.executable, "-m", "venv", str(VENVS / self.name)]
        pip = [str(self.python), "-m", "pip", "install", "-q", self.requirement]
        for command in (venv, pip):
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                return f"{self.requirement} could not be installed: {done.stderr[-500:]}"
        return None

    def version(self) -> str:
        return read_version(str(self.python), self.package)


class SglangRouter(Peer):
    """The Rust reference: one worker behind it, round robin, its own retries and breaker at their defaults."""

    name = "sglang-router"
    title = "sglang-router (Rust)"
    package = "sglang-router"
    requirement = "sglang-router==0.3.2"

    def configure(self) -> tuple[list[str], dict[str, str]]:
        command = [str(self.python), "-m", "sglang_router.launch_router", "--host", "127.0.0.1"]
        command += ["--port", str(self.port), "--worker-urls", f"http://127.0.0.1:{self.upstream}"]
        command += ["--policy", "round_robin", "--log-level", "warn"]
        command += ["--prometheus-port", str(find_free_port()), "--worker-startup-check-interval", "1"]
        return command, {}

    def answers(self) -> bool:
        """Ready when the worker behind it is known: the first call comes back."""
        asked = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/v1/chat/completions",
            data=b'{"model":"bench-plain","messages":[{"role":"user","content":"hi"}]}',
            headers={"content-type": "application/json"},
        )
        with contextlib.suppress(OSError, urllib.error.URLError):
            with urllib.request.urlopen(asked, timeout=5) as reply:
                return bool(reply.status == 200)
        return False


class LiteLLM(Peer):
    """The proxy with a master key and one worker; no database, no callbacks."""

    name = "litellm"
    title = "LiteLLM proxy"
    package = "litellm"
    requirement = "litellm[proxy]==1.106.2"
    ready_path = "/health/liveliness"
    start_s = 180.0
    warm_s = 4.0

    def configure(self) -> tuple[list[str], dict[str, str]]:
        self.key = "sk-bench-0123456789"
        (self.folder / "config.yaml").write_text(
            "model_list:\n  - model_name: bench-plain\n    litellm_params:\n"
            "      model: openai/bench-plain\n      api_key: none\n"
            f"      api_base: http://127.0.0.1:{self.upstream}/v1\n"
            f"general_settings: {{master_key: {self.key}}}\n"
            "litellm_settings: {telemetry: false, num_retries: 0}\n"
        )
        command = [str(self.python.parent / "litellm"), "--config", str(self.folder / "config.yaml")]
        command += ["--host", "127.0.0.1", "--port", str(self.port), "--num_workers", "1"]
        added = {"LITELLM_MODE": "PRODUCTION", "LITELLM_LOG": "ERROR", "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
        return command, added


def read_version(python: str, package: str) -> str:
    """The installed version of `package`; empty when it is not there."""
    code = f"import importlib.metadata as m; print(m.version({package!r}))"
    asked = subprocess.run([python, "-c", code], capture_output=True, text=True)
    return asked.stdout.strip()


SYSTEMS: dict[str, type[System]] = {
    kind.name: kind for kind in (Direct, Nginx, SglangRouter, Gatewayz, LiteLLM)
}

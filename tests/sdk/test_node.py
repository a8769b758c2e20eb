"""The official Node SDKs and the AI SDK against the gateway: each case in node/ is reported as a test of its own."""

import os
import re
import shutil
import subprocess
from functools import cache
from hashlib import sha256
from pathlib import Path

import pytest

from tests.harness import Gateway, Simulator
from tests.sdk.wires import WIRES

HERE = Path(__file__).parent / "node"
CASES = ("sdk.test.mjs", "wires.test.mjs")
FILES = ("package.json", "package-lock.json", "talks.mjs", *CASES)


@pytest.fixture(scope="session")
def installed(pytestconfig: pytest.Config) -> Path:
    """A folder with the locked SDK, kept between runs."""
    missing = [command for command in ("node", "npm") if shutil.which(command) is None]
    if missing:
        pytest.skip(f"{' and '.join(missing)} not on this machine: the Node SDK cannot be tried")
    lock = sha256((HERE / "package-lock.json").read_bytes()).hexdigest()[:12]
    folder = pytestconfig.cache.mkdir(f"sdk-node-{lock}")
    for name in FILES:
        shutil.copy(HERE / name, folder / name)
    if not (folder / "node_modules" / "openai").is_dir():
        command = ["npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts"]
        made = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=100, check=False)
        if made.returncode:
            pytest.skip(f"npm could not install the Node SDK: {made.stderr[-500:]}")
    return folder


@pytest.fixture(scope="session")
def report(installed: Path, gateway: Gateway, simulator: Simulator, api_key: str) -> str:
    """What Node's own test runner says of all cases, in TAP."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("OPENAI_")}
    urls = {"GATEWAY_URL": gateway.url, "GATEWAY_KEY": api_key, "SIMULATOR_URL": simulator.url}
    urls["WIRES"] = ",".join(WIRES)
    command = ["node", "--test", "--test-reporter=tap", *CASES]
    ran = subprocess.run(
        command, cwd=installed, env=kept | urls, capture_output=True, text=True, timeout=100, check=False
    )
    return ran.stdout + ran.stderr


@cache
def list_cases() -> list[str]:
    """The names of the cases that stand in the file as plain text, and the beginnings of those made in loops."""
    text = "".join((HERE / name).read_text() for name in CASES)
    return re.findall(r'^\s*test\((?:named\()?(?:"|`)([^"`$]+)', text, re.MULTILINE)


@pytest.mark.parametrize("name", list_cases())
def test_a_node_case(report: str, name: str) -> None:
    lines = [line.strip() for line in report.splitlines()]
    results = [line for line in lines if re.match(rf"(not )?ok \d+ - {re.escape(name)}", line)]
    assert results and not any(line.startswith("not ok") for line in results), report[-12_000:]


def test_every_node_case_has_passed(report: str) -> None:
    assert re.search(r"^# fail 0$", report, re.MULTILINE), report[-12_000:]
    assert re.search(r"^# cancelled 0$", report, re.MULTILINE)
    passed = re.search(r"^# pass (\d+)$", report, re.MULTILINE)
    assert passed and int(passed[1]) > len(list_cases()), "the cases made in loops are among them"


def test_the_lock_file_names_no_registry() -> None:
    assert "resolved" not in (HERE / "package-lock.json").read_text()

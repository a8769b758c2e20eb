"""`gatewayz keys` and `migrate` as processes, on a stopped home, a running one, and two at once."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.fernet import Fernet

from engine.storage.embedded import EmbeddedDatabase
from engine.storage.postmaster import list_server_pids
from tests.homes import lend_parsed_files

ROOT = Path(__file__).parents[2]
RUN = """
import argparse, sys
from engine.storage.commands import register
parser = argparse.ArgumentParser(prog="gatewayz")
register(parser.add_subparsers(required=True))
args = parser.parse_args()
sys.exit(args.run(args))
"""


def start(home: Path, *arguments: str, **variables: str) -> subprocess.Popen[str]:
    kept = {name: os.environ[name] for name in ("PATH", "TMPDIR") if name in os.environ}
    return subprocess.Popen(
        [sys.executable, "-c", RUN, *arguments],
        cwd=ROOT,
        env=kept | {"GATEWAYZ_HOME": str(home)} | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(home: Path, *arguments: str, **variables: str) -> tuple[int, str, str]:
    process = start(home, *arguments, **variables)
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


def test_keys_are_created_listed_and_revoked_without_a_server(ready_home: Path):
    home = ready_home
    code, out, err = run(
        home, "keys", "create", "--name", "laptop", "--user", "a@b.c", "--models", "gpt-*,sim/*"
    )
    assert code == 0, err
    key = out.splitlines()[-1]
    assert re.fullmatch(r"gw_live_[\w-]{43}", key)

    code, out, err = run(home, "keys", "list", "--format", "json")
    (listed,) = [json.loads(line) for line in out.splitlines()]
    assert (listed["name"], listed["user"], listed["models"]) == ("laptop", "a@b.c", ["gpt-*", "sim/*"])
    assert listed["last4"] == key[-4:] and key not in out

    assert run(home, "keys", "revoke", listed["id"])[0] == 0
    code, out, _ = run(home, "keys", "list")
    assert "revoked" in out and listed["id"] in out
    code, out, err = run(home, "keys", "revoke", "key_unknown")
    assert (code, out) == (1, "") and "key_unknown" in err
    assert list_server_pids(home / "postgres") == []


def test_json_is_one_object_with_the_key_once(home: Path):
    code, out, _ = run(
        home, "keys", "create", "--name", "x", "--role", "admin", "--environment", "test", "--format", "json"
    )
    made = json.loads(out)
    assert code == 0 and set(made) == {"id", "key", "name", "role", "last4"}
    assert (
        made["role"] == "admin" and made["key"].startswith("gw_test_") and made["key"].endswith(made["last4"])
    )


async def test_commands_work_beside_a_running_gateway(home: Path):
    server = EmbeddedDatabase(home)
    await server.start()
    assert run(home, "migrate")[1].startswith("applied 0001_first.sql, ")
    assert run(home, "migrate")[1] == "nothing to apply\n"
    assert run(home, "keys", "create", "--name", "beside")[0] == 0
    assert server._process is not None and server._process.poll() is None
    await server.stop()


def test_two_at_once_on_a_fresh_home_both_succeed(home: Path):
    both = [start(home, "keys", "create", "--name", f"n{number}", "--user", "a@b.c") for number in range(3)]
    for process in both:
        out, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
        assert out.startswith("gw_live_")
    assert len(run(home, "keys", "list", "--format", "json")[1].splitlines()) == 3


@pytest.mark.parametrize("amount", ["-1", "NaN", "much", "1e30"])
def test_a_credit_that_is_no_amount_is_refused(home: Path, amount: str):
    code, _, err = run(home, "keys", "create", "--name", "x", f"--credit={amount}")
    assert code == 2 and "credit" in err


def test_a_database_url_is_used_and_needs_a_ring(home: Path, database_url: str):
    code, _, err = run(home, "keys", "create", "--name", "x", DATABASE_URL=database_url)
    assert code == 1 and "GATEWAYZ_KEYRING is required" in err
    ring = Fernet.generate_key().decode()
    given = {"DATABASE_URL": database_url, "GATEWAYZ_KEYRING": ring}
    assert run(home, "keys", "create", "--name", "x", "--credit", "12.50", **given)[0] == 0
    assert json.loads(run(home, "keys", "list", "--format", "json", **given)[1])["name"] == "x"
    assert not (home / "postgres").exists()


def test_a_database_that_is_away_is_one_sentence(home: Path):
    code, out, err = run(home, "keys", "list", DATABASE_URL="postgresql://u:hidden@127.0.0.1:1/x")
    assert (code, out) == (1, "") and "hidden" not in err and "Traceback" not in err


def test_a_key_is_made_with_all_its_rules_and_rotated(ready_home: Path, tmp_path: Path):
    home = ready_home
    limits = tmp_path / "limits.yaml"
    limits.write_text("requests: {minute: 60}\nconcurrency: 2\n")
    rules = ["--scope", "inference", "--scope", "read", "--providers", "openai,sim*", "--expires", "30d"]
    rules += ["--allow-ip", "10.0.0.0/8", "--allow-ip", "2001:db8::/32", "--referrer", "app.example.com"]
    rules += ["--max-requests", "100", "--max-spend", "2.50", "--limits", str(limits)]
    code, out, err = run(home, "keys", "create", "--name", "tight", *rules)
    assert code == 0, err
    (listed,) = [json.loads(line) for line in run(home, "keys", "list", "--format", "json")[1].splitlines()]
    assert (listed["scopes"], listed["providers"]) == (["inference", "read"], ["openai", "sim*"])
    assert listed["ip_allowlist"] == ["10.0.0.0/8", "2001:db8::/32"]
    assert (listed["max_requests"], listed["referrers"]) == (100, ["app.example.com"])
    assert listed["limits"] == {"requests": {"minute": 60}, "concurrency": 2} and listed["expires_at"]

    code, rotated, err = run(home, "keys", "rotate", listed["id"], "--grace", "1h")
    assert code == 0 and listed["id"] in err
    assert re.fullmatch(r"gw_live_[\w-]{43}", rotated.strip()) and rotated.strip() != out.splitlines()[-1]
    assert run(home, "keys", "rotate", "key_unknown")[0] == 1
    assert run(home, "keys", "rotate")[0] == 2


@pytest.mark.parametrize(
    ("option", "value", "told"),
    [
        ("--scope", "everything", "is no scope"),
        ("--allow-ip", "10.0.0.0/33", "is not a network"),
        ("--referrer", "https://x", "is not the name of a host"),
        ("--expires", "soon", "is not 30d"),
        ("--expires", "2027-01-01T00:00:00", "time zone"),
        ("--max-spend", "lots", "max_spend_usd"),
        ("--max-requests", "-1", "max_requests"),
        ("--limits", "/nowhere.yaml", "No such file"),
    ],
)
def test_a_rule_that_is_none_is_refused_before_anything_happens(
    home: Path, option: str, value: str, told: str
):
    code, out, err = run(home, "keys", "create", "--name", "x", f"{option}={value}")
    assert (code, out) == (2, "") and told in err and "Traceback" not in err


def test_a_key_may_have_any_role_that_a_file_declares(ready_home: Path, tmp_path: Path) -> None:
    lend_parsed_files(ready_home)
    (tmp_path / "gateway.yaml").write_text("database: embedded\nredis: none\n")
    (tmp_path / "policies.d").mkdir()
    (tmp_path / "policies.d/auditor.yaml").write_text("role: auditor\npermissions: {audit_logs: read}\n")
    where = {"GATEWAYZ_CONFIG": str(tmp_path / "gateway.yaml")}
    for role in ("developer", "auditor"):
        created = run(
            ready_home, "keys", "create", "--name", "k", "--role", role, "--format", "json", **where
        )
        assert json.loads(created[1])["role"] == role, created[2]
    code, out, err = run(ready_home, "keys", "create", "--name", "k", "--role", "ghost", **where)
    assert (code, out) == (2, "") and "no file declares the role ghost" in err and "auditor" in err

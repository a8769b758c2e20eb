"""Users' own keys at providers: used for their calls alone, told to nobody, and counted against nobody."""

import subprocess
import sys
import time
from collections.abc import Iterator

import httpx
import pytest
from cryptography.fernet import Fernet

from tests.gateway.keyed_upstream import KeyedUpstream, Saying, word_error
from tests.harness import Gateway, clean_environment, running, write_files

OURS, MINE, WRONG, BROKEN = "sk-gateways-own-1", "sk-users-own-key-2", "sk-users-wrong-3", "sk-users-broken-4"
CHAT = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}


@pytest.fixture(scope="module")
def upstream() -> Iterator[KeyedUpstream]:
    rules = {
        WRONG: Saying(401, word_error("wrong key {sent}")),
        BROKEN: Saying(500, word_error("broken")),
    }
    with KeyedUpstream(rules).serving() as made:
        yield made


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory, upstream: KeyedUpstream) -> Iterator[Gateway]:
    files = {
        "gateway.yaml": "database: embedded\nredis: none\n",
        "providers.d/acme.yaml": f"""
provider: acme
format: openai-chat
base_url: {upstream.url}/v1
auth: {{bearer: "{OURS}"}}
allow_private: true
unknown_price: free
""",
        "providers.d/signed.yaml": """
provider: signed
format: openai-chat
base_url: https://signed.example
auth: none
""",
        "models.d/m.yaml": "models: {m: {targets: [{provider: acme, model: m}]}}\n",
        "policies.d/p.yaml": "policy: default\nextends: default\nretry: {max: 0}\nbreaker: {failures: 2}\n",
    }
    ring = Fernet.generate_key().decode()
    made = Gateway(write_files(tmp_path_factory.mktemp("own"), files), GATEWAYZ_KEYRING=ring)
    with running(made):
        yield made


def run(gateway: Gateway, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    given = clean_environment(GATEWAYZ_HOME=str(gateway.folder / "home"), **environ)
    command = [sys.executable, "-m", "engine.cli", *arguments]
    return subprocess.run(command, cwd=gateway.folder, env=given, capture_output=True, text=True)


def ring_of(gateway: Gateway) -> str:
    with open(f"/proc/{gateway.process.pid}/environ") as environ:
        found = [line for line in environ.read().split("\0") if line.startswith("GATEWAYZ_KEYRING=")]
    return found[0].partition("=")[2]


def open_account(gateway: Gateway, email: str) -> httpx.Client:
    arguments = ["keys", "create", "--name", "k", "--user", email, "--scope", "inference", "--scope", "admin"]
    done = run(gateway, *arguments, GATEWAYZ_KEYRING=ring_of(gateway))
    assert done.returncode == 0, done.stderr
    headers = {"authorization": f"Bearer {done.stdout.strip()}"}
    return httpx.Client(base_url=gateway.url, headers=headers, timeout=30)


def bring(client: httpx.Client, upstream: KeyedUpstream, key: str) -> None:
    """Set the key and wait until it is in use."""
    answer = client.post("/user/provider-keys", json={"provider_slug": "acme", "api_key": key})
    assert answer.status_code == 200 and key not in answer.text, answer.text
    until = time.monotonic() + 1.5
    while time.monotonic() < until:
        client.post("/v1/chat/completions", json=CHAT)
        if upstream.keys[-1] == key:
            return
        time.sleep(0.05)
    raise AssertionError("the new key is not used within a second")


def test_a_users_calls_go_with_its_own_key_and_everybody_elses_do_not(
    gateway: Gateway, upstream: KeyedUpstream
) -> None:
    with open_account(gateway, "mine@b.c") as mine, open_account(gateway, "other@b.c") as other:
        bring(mine, upstream, MINE)
        assert other.post("/v1/chat/completions", json=CHAT).status_code == 200
        assert upstream.keys[-1] == OURS
        shown = mine.get("/user/provider-keys")
        assert [key["api_key"] for key in shown.json()["keys"]] == [f"...{MINE[-4:]}"]
        assert other.get("/user/provider-keys").json()["keys"] == []
        assert other.delete("/user/provider-keys/acme").status_code == 404
        logs = mine.get("/user/api-keys/audit-logs", params={"action": "provider_key.set"})
        assert logs.json()["total_logs"] == 1 and MINE not in logs.text
        assert mine.delete("/user/provider-keys/acme").status_code == 200
        until = time.monotonic() + 1.5
        while upstream.keys[-1] != OURS or time.monotonic() < until - 1.4:
            assert time.monotonic() < until, "the deleted key is still used"
            mine.post("/v1/chat/completions", json=CHAT)


@pytest.mark.parametrize("key", [WRONG, BROKEN])
def test_a_key_that_fails_harms_neither_the_provider_nor_the_others(
    gateway: Gateway, upstream: KeyedUpstream, key: str
) -> None:
    with open_account(gateway, f"{key}@b.c") as bad, open_account(gateway, "good@b.c") as good:
        bring(bad, upstream, key)
        answers = [bad.post("/v1/chat/completions", json=CHAT) for _ in range(5)]
        assert good.post("/v1/chat/completions", json=CHAT).status_code == 200
        assert upstream.keys[-1] == OURS
        assert all(key not in answer.text for answer in answers)
        if key == WRONG:
            error = answers[-1].json()["error"]
            assert (answers[-1].status_code, error["code"]) == (403, "provider_key_refused")
    assert key not in gateway.read_log()


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"provider_slug": "nobody", "api_key": "x" * 20},
        {"provider_slug": "signed", "api_key": "x" * 20},
        {"provider_slug": "acme", "api_key": "short"},
        {"provider_slug": "acme", "api_key": "with space in it"},
        {"provider_slug": "acme", "api_key": "line\r\nx-evil: 1 aaaa"},
        {"provider_slug": "acme", "api_key": 5},
        {"provider_slug": "acme", "api_key": "x" * 20, "base_url": "https://evil.example"},
        {"provider_slug": "a\0b", "api_key": "x" * 20},
    ],
    ids=range(9),
)
def test_what_is_no_key_of_a_provider_is_a_400_that_does_not_repeat_it(
    gateway: Gateway, body: dict[str, object]
) -> None:
    with open_account(gateway, "bad@b.c") as client:
        answer = client.post("/user/provider-keys", json=body)
    assert answer.status_code == 400 and "x" * 20 not in answer.text and "evil" not in answer.text


def test_a_key_is_encrypted_at_rest_and_encrypted_anew_under_a_new_entry(
    gateway: Gateway, upstream: KeyedUpstream
) -> None:
    with open_account(gateway, "rest@b.c") as client:
        bring(client, upstream, MINE)
        old, new = ring_of(gateway), Fernet.generate_key().decode()
        done = run(gateway, "keyring", "rotate", GATEWAYZ_KEYRING=f"{new},{old}")
        assert done.returncode == 0 and "API keys need an older entry" in done.stderr, done.stderr
        assert "1 provider keys" in done.stdout or "provider keys" in done.stdout
        again = run(gateway, "keyring", "rotate", GATEWAYZ_KEYRING=new)
        assert again.returncode == 0, "everything is under the new entry alone"
        back = run(gateway, "keyring", "rotate", GATEWAYZ_KEYRING=f"{old},{new}")
        assert back.returncode == 0
    for path in (gateway.folder / "home").rglob("*"):
        if path.is_file():
            assert MINE.encode() not in path.read_bytes(), path

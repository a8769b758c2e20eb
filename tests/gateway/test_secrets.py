"""A canary in every place where a secret goes, good and bad calls, and then a search of everything that came out."""

import asyncio
import itertools
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from cryptography.fernet import Fernet

from engine.storage.embedded import EmbeddedDatabase
from tests.gateway.keyed_upstream import KeyedUpstream, Saying, word_error
from tests.harness import Gateway, Simulator, clean_environment, running, write_files
from tests.homes import lend_database

CHAT = "/v1/chat/completions"
PROMPT: dict[str, Any] = {"messages": [{"role": "user", "content": "Tell me a story."}]}
MARK = "Canary7Zq"
ADMIN = f"gw_live_{MARK}Admin{'x' * 29}"
GATEWAY_FILES = {
    "gateway.yaml": "telemetry: {log_level: debug}\n",
    "models.d/mine.yaml": "models:\n"
    + "".join(
        f"  {name}: {{price: {{input: '1', output: '2'}}, targets: [{targets}]}}\n"
        for name, targets in {
            "good": "{provider: good, model: m}",
            "sent-400": "{provider: said-400, model: m}",
            "sent-401": "{provider: said-401, model: m}",
            "sent-429": "{provider: said-429, model: m}",
            "sent-500": "{provider: said-500, model: m}",
            "sent-200": "{provider: said-200, model: m}",
            "sent-html": "{provider: said-html, model: m}",
            "by-header": "{provider: by-header, model: m}",
            "streamed": "{provider: simulator, model: sim/tokens@20}",
            "cut": "{provider: simulator, model: sim/cut@5+tokens@20}",
            "refused": "{provider: closed, model: m}",
        }.items()
    ),
    "policies.d/default.yaml": """
policy: default
extends: default
retry: {max: 0}
breaker: {failures: 1000, ratio: 1}
""",
}
WRONG_FILES = {
    "providers.d/wrong.yaml": """
provider: wrong
format: openai-chat
base_url: '${SECRET_0}'
auth: {bearer: ['${SECRET_1}', {nothing: '${SECRET_2}'}]}
""",
    "providers.d/worse.yaml": """
provider: worse
format: '${SECRET_3}'
base_url: 'http://x:${SECRET_4}@[bad/'
""",
    "providers.d/worst.yaml": """
provider: worst
format: openai-chat
base_url: '${USERINFO_URL}'
allow_private: true
""",
    "providers.d/bad.yaml": """
provider: bad
format: openai-chat
base_url: http://10.0.0.1
allow_private: true
stream_usage: '${SECRET_0}'
passthrough: '${SECRET_1}'
unknown_price: '${SECRET_2}'
params: {clamp: {top_p: ['${SECRET_3}', 1]}}
headers: {x-extra: '${SECRET_4}\\n'}
auth: {basic: '${SECRET_5}'}
endpoints: {chat: {path: '${SECRET_6}', format: '${SECRET_7}'}}
""",
    "models.d/wrong.yaml": """
models:
  x:
    price: {input: '${SECRET_5}', output: '1'}
    strategy: '${SECRET_6}'
    targets: [{provider: '${SECRET_7}', model: m}]
""",
}
SAYINGS = {
    "400": Saying(400, word_error("you sent {sent}")),
    "401": Saying(401, word_error("Incorrect API key provided: {sent}")),
    "429": Saying(429, word_error("limit of {sent}"), {"retry-after": "0"}),
    "500": Saying(500, word_error("cannot cope with {sent}")),
    "200": Saying(200, word_error("an error in good clothes, {sent}")),
    "html": Saying(502, "<html><body>proxy saw {sent}</body></html>", {"content-type": "text/html"}),
}


def name_secret(number: int) -> str:
    return f"sk.{MARK}.provider.{number}"


def write_providers(simulator: str, keyed: KeyedUpstream) -> tuple[dict[str, str], dict[str, str]]:
    """The provider files, and the environment with their secrets."""
    files: dict[str, str] = {}
    environ = {
        "HEADER_SECRET": f"{MARK}-in-a-header",
        "USERINFO_URL": f"http://user:{MARK}-userinfo@10.0.0.1/v1",
    }
    names = ["good", *(f"said-{status}" for status in SAYINGS), "by-header", "simulator", "closed"]
    for number, name in enumerate(names):
        secret, variable = name_secret(number), f"SECRET_{number}"
        environ[variable] = secret
        if name.startswith("said-"):
            keyed.rules[secret] = SAYINGS[name.removeprefix("said-")]
        url = {"simulator": simulator, "closed": "http://127.0.0.1:9"}.get(name, keyed.url)
        environ[f"URL_{number}"] = url + "/v1"
        auth = (
            f"header: {{name: x-extra, value: '${{{variable}}}'}}"
            if name == "by-header"
            else f"bearer: '${{{variable}}}'"
        )
        extra = "" if name == "by-header" else "headers: {x-extra: '${HEADER_SECRET}'}\n"
        files[f"providers.d/{name}.yaml"] = (
            f"provider: {name}\nformat: openai-chat\nbase_url: '${{URL_{number}}}'\nallow_private: true\n"
            f"auth: {{{auth}}}\n{extra}"
        )
    return files, environ


class Evidence:
    """Everything that came out of the gateway, by where it came from."""

    def __init__(self) -> None:
        self.texts: list[tuple[str, str]] = []

    def add(self, source: str, text: str) -> None:
        self.texts.append((source, text))

    def add_response(self, response: httpx.Response) -> None:
        self.add(f"answer {response.url.path}", f"{response.headers.multi_items()}\n{response.text}")

    def find(self, *secrets: str) -> list[str]:
        return [
            f"{source}: ...{text[max(text.find(secret) - 80, 0) : text.find(secret) + 60]}..."
            for source, text in self.texts
            for secret in secrets
            if secret in text
        ]


def make_bodies() -> list[tuple[bytes, dict[str, str]]]:
    """Good and bad calls: each model, streamed and not, and mistakes of every kind."""
    models = ["good", *(f"sent-{status}" for status in SAYINGS), "by-header", "streamed", "cut", "refused"]
    bodies: list[tuple[bytes, dict[str, str]]] = [
        (json.dumps({"model": model, "stream": stream, **PROMPT}).encode(), {})
        for model, stream in itertools.product(models, (False, True))
    ]
    wrong = [b"{", b"[]", b'{"model": "nobody"}', json.dumps({"model": "good", "messages": []}).encode()]
    good = json.dumps({"model": "good", **PROMPT}).encode()
    keys = [
        {"authorization": f"Bearer {ADMIN[:-1]}y"},
        {"authorization": f"Basic {ADMIN}"},
        {"x-api-key": f"{MARK}short"},
    ]
    return bodies + [(body, {}) for body in wrong] + [(good, headers) for headers in keys]


def make_calls(url: str, keys: list[str], times: int, evidence: Evidence) -> None:
    bodies = make_bodies()

    def ask(number: int) -> httpx.Response:
        body, headers = bodies[number % len(bodies)]
        named = {"content-type": "application/json", "authorization": f"Bearer {keys[number % len(keys)]}"}
        return client.post(url + CHAT, content=body, headers={**named, **headers})

    with httpx.Client(timeout=60) as client, ThreadPoolExecutor(8) as threads:
        for response in threads.map(ask, range(times)):
            assert response.status_code != 500, response.text
            evidence.add_response(response)


def run_command(
    folder: Path, environ: dict[str, str], evidence: Evidence, *words: str, text: str = ""
) -> str:
    ran = subprocess.run(
        [sys.executable, "-m", "engine.cli", *words],
        cwd=folder,
        env=environ,
        input=text,
        capture_output=True,
        text=True,
        check=False,
    )
    evidence.add(" ".join(words), ran.stdout + ran.stderr)
    return ran.stdout


def dump_tables(url: str) -> str:
    with psycopg.connect(url) as connection:
        tables = connection.execute(
            "SELECT table_name FROM information_schema.tables WHERE table_schema = 'public'"
        ).fetchall()
        rows = [
            str(row[0])
            for (table,) in tables
            for row in connection.execute(
                psycopg.sql.SQL("SELECT t::text FROM {} t").format(psycopg.sql.Identifier(table))
            )
        ]
    assert len(rows) > 100
    return "\n".join(rows)


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[EmbeddedDatabase, str]]:
    server = EmbeddedDatabase(lend_database(tmp_path_factory.mktemp("database")))
    url = asyncio.run(server.start())
    yield server, url
    asyncio.run(server.stop())


@pytest.fixture(scope="module")
def found(
    tmp_path_factory: pytest.TempPathFactory, database: tuple[EmbeddedDatabase, str]
) -> Iterator[tuple[Evidence, list[str], int]]:
    """What came out, the secrets to look for, and how many requests the provider saw."""
    server, url = database
    folder, evidence = tmp_path_factory.mktemp("secrets"), Evidence()
    simulator = Simulator(folder)
    ring = Fernet.generate_key().decode()
    with KeyedUpstream({}).serving() as keyed:
        files, environ = write_providers(simulator.url, keyed)
        write_files(folder, GATEWAY_FILES | files)
        joined = "&" if "?" in url else "?"
        environ |= {
            "DATABASE_URL": f"{url}{joined}password={MARK}-database",
            "GATEWAYZ_KEYRING": ring,
            "GATEWAYZ_ADMIN_KEY": ADMIN,
            "GATEWAYZ_LOG_LEVEL": "debug",
        }
        gateway = Gateway(folder, workers=1, port=None, **environ)
        whole = clean_environment(GATEWAYZ_HOME=str(folder / "home"), **environ)
        with running(simulator, gateway):
            keys = [
                json.loads(
                    run_command(
                        folder, whole, Evidence(), "keys", "create", "--name", f"n{n}", "--format", "json"
                    )
                )["key"]
                for n in range(2)
            ]
            make_calls(gateway.url, [ADMIN, *keys], 300, evidence)
            watch(gateway, evidence)
            for words in (
                ["check"],
                ["keys", "list"],
                ["keys", "list", "--format", "json"],
                ["explain", "good"],
            ):
                run_command(folder, whole, evidence, *words)
            for provider in ("good", "by-header"):
                run_command(
                    folder, whole, evidence, "render", provider, "--model", "m", text=json.dumps(PROMPT)
                )
            time.sleep(0.6)
            evidence.add("database", dump_tables(url))
            break_config(gateway, folder, evidence)
            asyncio.run(server.stop())
            make_calls(gateway.url, [ADMIN, *keys], 30, evidence)
            read_home(folder / "home", evidence)
        evidence.add("log", gateway.read_log())
        asked = len(keyed.keys)
    yield evidence, [MARK, ring, *(key.removeprefix("gw_live_") for key in keys)], asked


def watch(gateway: Gateway, evidence: Evidence) -> None:
    headers = {"authorization": f"Bearer {ADMIN}"}
    for path in ("/metrics", "/health/ready", "/v1/models", "/admin/config", "/admin/calls?limit=1000"):
        evidence.add_response(httpx.get(gateway.url + path, headers=headers))


def break_config(gateway: Gateway, folder: Path, evidence: Evidence) -> None:
    """A refused configuration quotes what is wrong with it, but no secret."""
    write_files(folder, WRONG_FILES)
    headers = {"authorization": f"Bearer {ADMIN}"}
    refused = httpx.post(gateway.url + "/admin/config/reload", headers=headers, timeout=30)
    assert refused.status_code == 422
    evidence.add_response(refused)
    evidence.add_response(httpx.get(gateway.url + "/admin/config", headers=headers))
    run_command(folder, gateway_environ(gateway), evidence, "check")
    for name in WRONG_FILES:
        (folder / name).unlink()


def gateway_environ(gateway: Gateway) -> dict[str, str]:
    with open(f"/proc/{gateway.process.pid}/environ", "rb") as file:
        pairs = (entry.decode().partition("=") for entry in file.read().split(b"\0") if entry)
        return {name: value for name, _, value in pairs}


def read_home(home: Path, evidence: Evidence) -> None:
    for path in home.rglob("*"):
        if path.is_file():
            evidence.add(f"file {path.relative_to(home)}", path.read_bytes().decode("utf-8", "replace"))


def test_no_secret_is_anywhere(found: tuple[Evidence, list[str], int]) -> None:
    evidence, secrets, _ = found
    leaks = evidence.find(*secrets)
    assert not leaks, "\n".join(leaks[:20])


def test_the_search_looked_where_secrets_could_be(found: tuple[Evidence, list[str], int]) -> None:
    evidence, _, asked = found
    sources = {source.split()[0] for source, _ in evidence.texts}
    assert sources >= {"answer", "check", "explain", "render", "keys", "file", "database", "log"}
    files = [source for source, _ in evidence.texts if source.startswith("file ")]
    assert any("journal" in source for source in files) and any("keys.cache" in source for source in files)
    assert asked > 100
    log = next(text for source, text in evidence.texts if source == "log")
    assert log.count('"event":') > 300 and "Traceback" not in log


def test_what_a_provider_quoted_is_masked_and_not_dropped(found: tuple[Evidence, list[str], int]) -> None:
    evidence, _, _ = found
    quoted = [text for _, text in evidence.texts if "you sent Bearer ***" in text]
    assert quoted

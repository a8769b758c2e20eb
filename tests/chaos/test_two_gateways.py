"""Two gateways on one Redis and one PostgreSQL, eight callers at once: every limit of every scope holds for both."""

import asyncio
import secrets
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from cryptography.fernet import Fernet

from engine.policies.script_words import write_entries
from engine.policies.shared_limits import BEAT_EVERY_S, SCRIPT, SharedLimiter
from engine.storage.embedded import EmbeddedDatabase
from engine.storage.redis import Redis
from engine.storage.redis_door import RedisDoor
from tests.chaos.traffic import Answer, ask, report, run_keys, wait_until
from tests.harness import ADMIN_KEY, Gateway, Simulator, running, write_files
from tests.homes import lend_database
from tests.valkey import Valkey, valkey

SCOPES = ("key", "user", "team", "model", "ip", "system")
REQUESTS, TOKENS, PLACES = 100, 6000, 4
MONTHLY, SEEDED = 1000, 900
KINDS = {
    "requests": (f"requests: {{hour: {REQUESTS}}}", "sim/tokens@3"),
    "tokens": (f"tokens: {{hour: {TOKENS}}}", "sim/tokens@40"),
    "places": (f"concurrency: {PLACES}", "sim/tokens@60+chunk-ms@50"),
}


@dataclass
class Pair:
    a: Gateway
    b: Gateway
    redis: Valkey
    environ: dict[str, str]

    @property
    def ports(self) -> tuple[int, int]:
        return self.a.port, self.b.port

    def make_key(self, **columns: str) -> dict[str, Any]:
        """A key of a user of its own; `plan` and `team` are what that user and key have."""
        name = secrets.token_hex(4)
        made = run_keys(self.a, "create", "--name", "k", "--user", f"{name}@b.c", **self.environ)
        with psycopg.connect(self.environ["DATABASE_URL"]) as connection:
            row = connection.execute("SELECT user_id FROM api_keys WHERE id = %s", (made["id"],)).fetchone()
            assert row is not None
            made["user_id"] = row[0]
            if "plan" in columns:
                connection.execute("UPDATE users SET plan = %s WHERE id = %s", (columns["plan"], row[0]))
            if "team" in columns:
                connection.execute("INSERT INTO teams (id, name) VALUES (%s, 't')", (f"team_{name}",))
                connection.execute(
                    "UPDATE api_keys SET team_id = %s WHERE id = %s", (f"team_{name}", made["id"])
                )
        for port in self.ports:
            assert asyncio.run(ask(port, "free", key=made["key"])).done
        return made


def write_config(folder: Path, redis: Valkey, simulator: Simulator) -> None:
    files = {
        "gateway.yaml": f"redis: {redis.url}\nsimulator: {{enabled: false}}\ntelemetry: {{log_calls: false}}\n",
        "providers.d/near.yaml": (
            f"provider: near\nformat: openai-chat\nbase_url: {simulator.url}/v1\nallow_private: true\n"
            "auth: {bearer: key-near}\n"
        ),
        "policies.d/seeded.yaml": f"plan: seeded\nlimits: {{requests: {{month: {MONTHLY}}}}}\n",
    }
    models = "models:\n"
    named = {f"{kind}-{scope}": (f"{{{scope}: {{{limit}}}}}", target)
             for kind, (limit, target) in KINDS.items() for scope in SCOPES}  # fmt: skip
    for name, (limits, target) in {**named, "free": ("{}", "sim/tokens@3")}.items():
        files[f"policies.d/{name}.yaml"] = f"policy: {name}\nextends: default\nlimits: {limits}\n"
        models += (
            f"  {name}: {{policy: {name}, price: {{input: '1', output: '2'}}, "
            f"targets: [{{provider: near, model: {target}}}]}}\n"
        )
    write_files(folder, files | {"models.d/m.yaml": models})


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    tmp_path = tmp_path_factory.mktemp("two")
    database = EmbeddedDatabase(lend_database(tmp_path / "database"))
    environ = {
        "DATABASE_URL": asyncio.run(database.start()),
        "GATEWAYZ_KEYRING": Fernet.generate_key().decode(),
    }
    with ExitStack() as stack:
        stack.callback(lambda: asyncio.run(database.stop()))
        (tmp_path / "valkey").mkdir()
        redis = stack.enter_context(valkey(tmp_path / "valkey"))
        simulator = Simulator(tmp_path)
        gateways = []
        for name in "ab":
            write_config(tmp_path / name, redis, simulator)
            gateways.append(Gateway(tmp_path / name, **environ))
        stack.enter_context(running(simulator, *gateways))
        for gateway in gateways:
            wait_until(lambda gateway=gateway: read_redis(gateway) == "ok", 10)
        time.sleep(2 * BEAT_EVERY_S)  # so that each knows of the other
        yield Pair(*gateways, redis, environ)


def read_redis(gateway: Gateway) -> str:
    state: str = httpx.get(gateway.url + "/health/ready", timeout=5).json()["redis"]
    return state


def hammer(pair: Pair, model: str, key: str, until_refused: int) -> list[Answer]:
    """Eight callers, four before each gateway, until so many refusals have come."""
    answers: list[Answer] = []

    async def call(port: int) -> None:
        while sum(answer.status == 429 for answer in answers) < until_refused:
            answers.append(await ask(port, model, key=key, max_tokens=60))

    async def all_of_them() -> None:
        await asyncio.gather(*(call(pair.ports[at % 2]) for at in range(8)))

    asyncio.run(all_of_them())
    assert {answer.status for answer in answers} == {200, 429}
    return answers


def make_key_for(pair: Pair, scope: str) -> str:
    key: str = pair.make_key(**({"team": "yes"} if scope == "team" else {}))["key"]
    return key


@pytest.mark.parametrize("scope", SCOPES)
def test_every_scope_counts_requests_and_tokens_and_places_for_both(pair: Pair, scope: str) -> None:
    key = make_key_for(pair, scope)
    let_in = sum(answer.done for answer in hammer(pair, f"requests-{scope}", key, 24))
    assert REQUESTS * 0.98 <= let_in <= REQUESTS

    answers = hammer(pair, f"tokens-{scope}", key, 100)
    tokens = sum(answer.json()["usage"]["total_tokens"] for answer in answers if answer.done)
    assert TOKENS * 0.98 <= tokens <= TOKENS * 1.02

    async def hold() -> list[Answer]:
        calls = (ask(pair.ports[at % 2], f"places-{scope}", key=key, stream=True) for at in range(16))
        return await asyncio.gather(*calls)

    places = sum(answer.done for answer in asyncio.run(hold()))
    assert places == PLACES
    report(f"two-gateways-{scope}", requests=let_in, tokens=tokens, places=places)


def test_a_plans_month_counts_what_was_used_weeks_ago(pair: Pair) -> None:
    made = pair.make_key(plan="seeded")

    async def seed() -> None:
        limiter = SharedLimiter(
            Redis(
                RedisDoor(
                    pair.redis.url,
                ),
                SCRIPT,
                answer_within_s=2.0,
            ),
            time.monotonic,
            "seed",
            0,
            1,
        )
        limiter.start()
        try:
            while not limiter._redis.available:
                await asyncio.sleep(0.01)
            entries = write_entries([("r2592000", [(20 * 86400.0, SEEDED // 2), (86400.0, SEEDED // 2)])])
            keys = limiter._name_all([f":plan:user:{made['user_id']}"])
            await limiter._redis.run_script(keys, ["restore", 0, entries])
        finally:
            await limiter.stop()

    asyncio.run(seed())
    answers = hammer(pair, "free", made["key"], 24)
    let_in = sum(answer.done for answer in answers)
    assert MONTHLY * 0.98 <= SEEDED + 2 + let_in <= MONTHLY
    refused = next(answer for answer in answers if answer.status == 429)
    assert refused.json()["error"]["code"] == "monthly_quota_exceeded"
    assert refused.json()["error"]["message"].startswith("Monthly request limit exceeded")
    assert 9.9 * 86400 < int(refused.headers["retry-after"]) <= 10 * 86400
    report("two-gateways-plan-month", let_in=let_in, used_before=SEEDED, of=MONTHLY)


def test_a_key_revoked_at_one_is_refused_at_the_other_within_a_second(pair: Pair) -> None:
    made = pair.make_key()
    with httpx.Client(base_url=pair.a.url, headers={"authorization": f"Bearer {ADMIN_KEY}"}) as admin:
        body = {"confirmation": "DELETE_KEY"}
        answer = admin.request("DELETE", f"/admin/api-keys/{made['id']}", json=body)
    assert answer.status_code == 200, answer.text
    began = time.monotonic()
    while asyncio.run(ask(pair.b.port, "free", key=made["key"])).status != 401:
        assert time.monotonic() - began < 1.0
    report("two-gateways-revoked", refused_after_s=time.monotonic() - began)

"""Redis is killed or frozen while every kind of limit is on and used up: nobody waits for it, nothing breaks, and no
limit gives more than its number. Every call is counted for its key, user, team and model; of each kind one number is
tight, and those of the address and of the whole gateway are for calls of one kind alone, which would use up all.
"""

import asyncio
import secrets
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path
from typing import Any

import pytest
from cryptography.fernet import Fernet

from engine.policies.shared_limits import BEAT_EVERY_S
from engine.storage.embedded import EmbeddedDatabase
from tests.chaos.test_two_gateways import Pair, read_redis
from tests.chaos.traffic import Answer, Load, list_simulated, report, wait_until
from tests.harness import Gateway, Simulator, running, write_files
from tests.valkey import Valkey, valkey

SCOPES = ("key", "user", "team", "model", "ip", "system")
NUMBER, PLACES = 50, 3
MOST_LONGER_S = 0.1
WIDE = (
    "{requests: {minute: 100000, day: 1000000}, tokens: {minute: 100000000}, burst: 5000, concurrency: 2000}"
)
TIGHT = "{requests: {minute: 100000, hour: %d, day: 1000000}, tokens: {minute: 100000000}, concurrency: 2000}"
HELD = f"{{requests: {{minute: 100000}}, concurrency: {PLACES}}}"
EDGE = f"""
edge: default
extends: default
per_address: {NUMBER}
per_fingerprint: 100000
strict: {{agents: [], headers: []}}
exempt: {{networks: []}}
"""


def write_config(folder: Path, redis: Valkey, simulator: Simulator) -> None:
    files = {
        "gateway.yaml": f"redis: {redis.url}\nsimulator: {{enabled: false}}\ntelemetry: {{log_calls: false}}\n",
        "providers.d/near.yaml": (
            f"provider: near\nformat: openai-chat\nbase_url: {simulator.url}/v1\nallow_private: true\n"
            "auth: {bearer: key-near}\n"
        ),
        "policies.d/tight.yaml": f"plan: tight\nlimits: {{requests: {{day: {NUMBER}}}}}\n",
        "policies.d/queue.yaml": "queue: default\nextends: default\nactive: 60\n",
        "policies.d/edge.yaml": EDGE,
        "policies.d/free.yaml": "policy: free\nextends: default\nlimits: {}\n",
    }
    models = "models:\n" + write_model("free", "free", "sim/tokens@3")
    for name in (*SCOPES, "plan", "places"):
        limits = dict.fromkeys(SCOPES[:4], WIDE)
        if name in SCOPES:
            limits[name] = TIGHT % NUMBER
        if name == "places":
            limits["key"] = HELD
        written = ", ".join(f"{scope}: {limit}" for scope, limit in limits.items())
        files[f"policies.d/{name}.yaml"] = f"policy: {name}\nextends: default\nlimits: {{{written}}}\n"
        models += write_model(name, name, "sim/tokens@20+chunk-ms@50" if name == "places" else "sim/tokens@3")
    write_files(folder, files | {"models.d/m.yaml": models})


def write_model(name: str, policy: str, target: str) -> str:
    return (
        f"  {name}: {{policy: {policy}, price: {{input: '1', output: '2'}}, "
        f"targets: [{{provider: near, model: {target}}}]}}\n"
    )


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[tuple[Pair, Simulator]]:
    database = EmbeddedDatabase(tmp_path / "database")
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
        yield Pair(*gateways, redis, environ), simulator


def restart(redis: Valkey) -> tuple[Callable[[], None], Callable[[], None]]:
    return redis.kill, redis.start


def freeze(redis: Valkey) -> tuple[Callable[[], None], Callable[[], None]]:
    return redis.freeze, redis.thaw


def make_calls(pair: Pair) -> dict[str, dict[str, Any]]:
    """A call of each kind, each with a key of its own; a stranger has one that nobody made."""
    extra = {"team": {"team": "yes"}, "plan": {"plan": "tight"}}
    calls: dict[str, dict[str, Any]] = {
        name: {"model": name, "key": pair.make_key(**extra.get(name, {}))["key"]}
        for name in (*SCOPES, "plan", "places", "free")
    }
    calls["places"]["stream"] = True
    return calls | {"edge": {"model": "free", "key": f"gw_live_{secrets.token_urlsafe(32)}"}}


async def live_through(
    pair: Pair, calls: dict[str, dict[str, Any]], end: Callable[[], None], heal: Callable[[], None]
) -> tuple[dict[str, list[Answer]], float, float]:
    """The answers of each kind, how long the slowest took before anything happened, and how late one was sent."""
    async with AsyncExitStack() as stack:
        loads = [
            await stack.enter_async_context(Load(port, 4.0 * len(calls), list(calls.values())))
            for port in pair.ports
        ]
        await asyncio.sleep(2.0)
        usual_s = max(
            answer.seconds for load in loads for _, call, answer in load.answers if "stream" not in call
        )
        await asyncio.to_thread(end)
        await asyncio.sleep(3.0)
        seen = [await asyncio.to_thread(read_redis, gateway) for gateway in (pair.a, pair.b)]
        await asyncio.to_thread(heal)
        await asyncio.sleep(4.0)
    assert seen == ["away", "away"]
    names = {call["key"]: name for name, call in calls.items()}
    answers: dict[str, list[Answer]] = {name: [] for name in calls}
    for load in loads:
        for _, call, answer in load.answers:
            answers[names[call["key"]]].append(answer)
    return answers, usual_s, max(load.late_s for load in loads)


def find_most_at_once(simulator: Simulator) -> int:
    """How many answers that take a second the provider was giving at once."""
    calls = [call for call in list_simulated(simulator) if "chunk-ms" in call["model"]]
    began = [call["at"] for call in calls]
    ended = [call["at"] + call["ended_after_ms"] / 1000 for call in calls]
    moments = sorted([(moment, 1) for moment in began] + [(moment, -1) for moment in ended])
    most = now = 0
    for _, change in moments:
        now += change
        most = max(most, now)
    return most


@pytest.mark.timeout(300)
@pytest.mark.parametrize("outage", [restart, freeze])
def test_no_kind_of_limit_holds_anybody_up_or_gives_more_while_redis_is_away(
    pair: tuple[Pair, Simulator],
    outage: Callable[[Valkey], tuple[Callable[[], None], Callable[[], None]]],
) -> None:
    both, simulator = pair
    calls = make_calls(both)
    answers, usual_s, client_late_s = asyncio.run(live_through(both, calls, *outage(both.redis)))

    let_in = {
        name: sum(answer.status == (401 if name == "edge" else 200) for answer in answers[name])
        for name in (*SCOPES, "plan", "edge")
    }
    quick = [answer for name, told in answers.items() if name not in ("free", "places") for answer in told]
    usual_s = max(usual_s, *(answer.seconds for answer in answers["free"]))
    longest_s, places = max(answer.seconds for answer in quick), find_most_at_once(simulator)
    report(
        f"redis-every-limit-{outage.__name__}",
        **let_in, of=NUMBER, places=places, of_places=PLACES, longest_s=longest_s, without_limits_s=usual_s,
        client_late_s=client_late_s,
    )  # fmt: skip
    for name, told in answers.items():
        statuses = Counter(answer.status for answer in told)
        allowed = {"edge": {401, 429}, "free": {200}}.get(name, {200, 429})
        assert set(statuses) == allowed, (name, statuses)
        assert len(told) > NUMBER * 1.2, name
    assert all(count <= NUMBER * 1.02 for count in let_in.values()), let_in
    # All come from one address: of its number the first uses of each key at each gateway have taken the larger part.
    strangers = let_in.pop("edge")
    assert strangers >= NUMBER * 0.2, strangers
    assert all(count >= NUMBER * 0.7 for count in let_in.values()), let_in
    # one gateway may have had more than its part before: what it took in the last moments the others have not heard
    # (docs/decisions.md)
    assert places <= PLACES + PLACES // 2
    assert longest_s <= usual_s + MOST_LONGER_S
    for gateway in (both.a, both.b):
        wait_until(lambda gateway=gateway: read_redis(gateway) == "ok", 10)

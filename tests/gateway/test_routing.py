"""Routing as a user declares it in YAML, seen from outside: who was asked, how often, with which key."""

import json
import re
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from tests.gateway.keyed_upstream import KeyedUpstream, Saying, word_error
from tests.harness import ADMIN_KEY, Gateway, Simulator, clean_environment, read_events, running, write_files

CHAT = "/v1/chat/completions"
PROMPT = {"messages": [{"role": "user", "content": "Tell me a story."}]}
PROVIDER = (
    "provider: {name}\nformat: openai-chat\nbase_url: {url}/v1\nallow_private: true\n"
    "auth: {{bearer: {keys}}}\n{more}"
)
POLICIES = {
    "drain": "on_disconnect: drain",
    "slow-backoff": "retry: {max: 3, backoff: {first_s: 8, factor: 1, jitter: 0, max_s: 8}}",
    "short": "timeouts: {total_s: 1.2}",
    "no-rescue": "rescue: error",
    "never-503": "failover: {never: ['503', content_filter, invalid_request]}\nretry: {max: 0}",
    "impatient": "retry: {honour_retry_after_s: 1}",
    "metered": "limits: {key: {tokens: {minute: 200}}}",
    "free": "billing: {unknown_price: free}",
    "charge-attempts": "billing: {on_error: delivered, markup: '0.5'}",
}
RULES = {
    "ka-unauthorised": Saying(401, word_error("bad key {sent}")),
    "ka-limited": Saying(429, word_error("slow down"), {"retry-after": "30"}),
    "ka-forever": Saying(429, word_error("slow down"), {"retry-after": "1e999"}),
    "ka-broke": Saying(402, word_error("no money")),
}
KEYED = {
    "two-keys-401": ("ka-unauthorised", "kb-good1"),
    "two-keys-429": ("ka-limited", "kb-good2"),
    "two-keys-inf": ("ka-forever", "kb-good3"),
    "two-keys-402": ("ka-broke", "kb-good4"),
}


def write_config(simulator: str, keyed: str) -> dict[str, str]:
    files = {
        f"policies.d/{name}.yaml": f"policy: {name}\nextends: default\n{text}\n"
        for name, text in POLICIES.items()
    }
    for name, keys in KEYED.items():
        text = "[" + ", ".join(keys) + "]"
        files[f"providers.d/{name}.yaml"] = PROVIDER.format(name=name, url=keyed, keys=text, more="")
    extras = {
        "one": "passthrough: true\nunknown_price: refuse\n",
        "two": "passthrough: true\nunknown_price: free\n",
        "three": 'passthrough: true\nunknown_price: {input: "1000000", output: "2000000"}\n',
        "four": "passthrough: true\n",
        "five": "",
        "six": "",
    }
    for name, more in extras.items():
        files[f"providers.d/{name}.yaml"] = PROVIDER.format(
            name=name, url=simulator, keys=f"key-of-{name}", more=more
        )
    files["models.d/mine.yaml"] = "models:\n" + "".join(
        f"  {name}:\n    {facts}\n" for name, facts in list_models().items()
    )
    return files


def list_models() -> dict[str, str]:
    """Each model's entry, in one line of YAML for each key."""

    def entry(*targets: str, **facts: str) -> str:
        price = facts.pop("price", "{input: '1', output: '2'}")
        lines = [f"{name}: {value}" for name, value in facts.items()]
        if price:
            lines.append(f"price: {price}")
        return "\n    ".join([*lines, f"targets: [{', '.join(targets)}]"])

    def at(provider: str, model: str, more: str = "") -> str:
        return f"{{provider: {provider}, model: {model}{more}}}"

    good = "sim/tokens@20"
    models = {
        "plain": entry(at("one", good), aliases="[the/plain, plain-alias]"),
        "gpt-mine": entry(at("one", good)),
        "shared": entry(
            at("one", good, ", weight: 75"), at("two", good, ", weight: 25"), strategy="weighted"
        ),
        "quick": entry(
            at("one", "sim/latency@120ms+tokens@5"), at("two", "sim/tokens@5"), strategy="least_latency"
        ),
        "cheap": entry(
            at("one", good, ", price: {input: '10', output: '1'}"),
            at("two", good, ", price: {input: '1', output: '10'}"),
            strategy="cheapest",
        ),
        "drained": entry(at("one", "sim/chunk-ms@15+tokens@60"), policy="drain"),
        "drained-plain": entry(at("one", "sim/slow@1s+tokens@60"), policy="drain"),
        "cut-off": entry(at("one", "sim/cut@10+tokens@20"), at("two", good), policy="no-rescue"),
        "total": entry(at("one", "sim/silent"), policy="short"),
        "total-stream": entry(at("one", "sim/chunk-ms@100+tokens@100"), policy="short"),
        "final": entry(at("one", "sim/503"), at("two", good), policy="never-503"),
        "impatient": entry(at("six", "sim/429@5s"), at("two", good), policy="impatient"),
        "paused": entry(at("five", "sim/503"), policy="slow-backoff"),
        "unpriced": entry(at("four", good), price=""),
        "unpriced-free": entry(at("four", good), price="", policy="free"),
        "metered": entry(at("two", "sim/chunk-ms@10+tokens@300"), policy="metered"),
        "marked-up": entry(at("one", good), policy="charge-attempts"),
    }
    for name in KEYED:
        models[name] = entry(at(name, "m"))
    return models


@pytest.fixture(scope="module")
def keyed() -> Iterator[KeyedUpstream]:
    with KeyedUpstream(RULES).serving() as upstream:
        yield upstream


@pytest.fixture(scope="module")
def simulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Simulator]:
    process = Simulator(tmp_path_factory.mktemp("simulator"))
    with running(process):
        yield process


@pytest.fixture(scope="module")
def gateway(
    tmp_path_factory: pytest.TempPathFactory, simulator: Simulator, keyed: KeyedUpstream
) -> Iterator[Gateway]:
    folder = tmp_path_factory.mktemp("routing")
    process = Gateway(write_files(folder, write_config(simulator.url, keyed.url)))
    with running(process):
        yield process
        log = process.read_log()
        assert not re.search(r'"event":"(call|route)\.broke"', log), log[-3000:]


def see_calls(simulator: Simulator, last_four: str) -> list[dict[str, Any]]:
    return [call for call in simulator.list_calls() if call["authorization"] == last_four]


@pytest.fixture(autouse=True)
def fresh_log(simulator: Simulator) -> None:
    simulator.reset()


ONE, TWO, FIVE = ("key-of-one"[-4:], "key-of-two"[-4:], "key-of-five"[-4:])


@pytest.mark.parametrize("name", ["plain", "the/plain", "plain-alias"])
def test_every_name_of_a_model_is_answered_with_the_headers_of_the_contract(
    gateway: Gateway, name: str
) -> None:
    response = gateway.chat(name)
    assert response.status_code == 200
    headers = response.headers
    assert (headers["x-provider"], headers["x-model"]) == ("one", "sim/tokens@20")
    assert headers["x-requested-model"] == name and headers["x-attempts"] == "1"
    usage = response.json()["usage"]
    cost = (usage["prompt_tokens"] + 2 * usage["completion_tokens"]) / 1_000_000
    assert float(headers["x-cost-usd"]) == pytest.approx(cost)
    assert re.fullmatch(r"[0-9a-f]{12}", headers["x-config-revision"])


def test_a_markup_goes_over_the_price(gateway: Gateway) -> None:
    plain, marked = (gateway.chat(name).headers["x-cost-usd"] for name in ("plain", "marked-up"))
    assert float(marked) == pytest.approx(1.5 * float(plain))


def test_tags_stand_in_the_record(gateway: Gateway) -> None:
    with gateway.client() as client:
        headers = {"x-tags": "team=search,feature=rag", "x-request-id": "tagged-1"}
        client.post(CHAT, json={"model": "plain", **PROMPT}, headers=headers)
        record = gateway.find_record("tagged-1")
        assert record["tags"] == {"team": "search", "feature": "rag"}
        found = client.get("/admin/calls", params={"tags": "team=search"}).json()["data"]
        assert [each["request_id"] for each in found] == ["tagged-1"]


def test_weights_are_the_shares_of_the_calls(gateway: Gateway) -> None:
    with gateway.client() as client:
        answered = Counter(
            client.post(CHAT, json={"model": "shared", **PROMPT}).headers["x-provider"] for _ in range(200)
        )
    assert 120 <= answered["one"] <= 178 and sum(answered.values()) == 200


def test_the_quicker_target_gets_nearly_all_calls(gateway: Gateway) -> None:
    with gateway.client() as client:
        answered = Counter(
            client.post(CHAT, json={"model": "quick", "stream": True, **PROMPT}).headers["x-provider"]
            for _ in range(60)
        )
    assert answered["two"] >= 48 and answered["one"] >= 1


@pytest.mark.parametrize(("words", "output", "provider"), [(4000, 1, "two"), (1, 4000, "one")])
def test_the_cheapest_target_depends_on_the_call(
    gateway: Gateway, words: int, output: int, provider: str
) -> None:
    messages = [{"role": "user", "content": "word " * words}]
    response = gateway.chat("cheap", messages=messages, max_tokens=output)
    assert response.headers["x-provider"] == provider


@pytest.mark.parametrize("name", ["two-keys-401", "two-keys-429", "two-keys-inf", "two-keys-402"])
def test_a_refused_key_is_left_and_the_other_used_at_once(
    gateway: Gateway, keyed: KeyedUpstream, name: str
) -> None:
    bad, good = KEYED[name]
    began = time.monotonic()
    with gateway.client() as client:
        for _ in range(30):
            response = client.post(CHAT, json={"model": name, **PROMPT})
            assert response.status_code == 200, response.text
    assert time.monotonic() - began < 5
    asked = Counter(keyed.keys)
    assert asked[bad] == 1 and asked[good] == 30


def test_what_is_asked_of_a_key_is_in_the_record_without_the_key(
    gateway: Gateway, keyed: KeyedUpstream
) -> None:
    with gateway.client() as client:
        records = client.get("/admin/calls", params={"requested_model": "two-keys-401"}).json()["data"]
    attempts = [attempt for record in records for attempt in record["attempts"]]
    assert {attempt["credential"] for attempt in attempts} == {"two-keys-401#0", "two-keys-401#1"}
    assert "ka-unauthorised" not in json.dumps(records)


def test_a_retry_after_that_is_too_long_sends_the_call_elsewhere(
    gateway: Gateway, simulator: Simulator
) -> None:
    began = time.monotonic()
    response = gateway.chat("impatient")
    assert response.headers["x-provider"] == "two" and response.headers["x-attempts"] == "2"
    assert time.monotonic() - began < 2


def test_a_failure_that_is_never_to_be_passed_on_is_not(gateway: Gateway, simulator: Simulator) -> None:
    response = gateway.chat("final")
    assert response.status_code == 503
    assert (len(see_calls(simulator, ONE)), len(see_calls(simulator, TWO))) == (1, 0)


def test_a_policy_without_rescue_ends_a_cut_stream_with_an_error(
    gateway: Gateway, simulator: Simulator
) -> None:
    response = gateway.chat("cut-off", stream=True)
    assert response.status_code == 200 and "[DONE]" not in response.text
    assert read_events(response.text)[-1]["error"]["code"] == "stream_broken"
    assert not see_calls(simulator, TWO)


def test_the_whole_call_has_a_clock(gateway: Gateway) -> None:
    for stream in (False, True):
        began = time.monotonic()
        response = gateway.chat("total", stream=stream)
        assert response.status_code == 504 and 1.0 < time.monotonic() - began < 3
        assert response.json()["error"]["type"] == "timeout_error"


def test_a_begun_stream_ends_in_band_when_the_calls_clock_runs_out(gateway: Gateway) -> None:
    began = time.monotonic()
    response = gateway.chat("total-stream", stream=True)
    assert response.status_code == 200 and 1.0 < time.monotonic() - began < 3
    assert read_events(response.text)[-1]["error"] and "[DONE]" not in response.text


@pytest.mark.parametrize(
    ("model", "status", "cost"),
    [
        ("one/sim/tokens@21", 422, None),
        ("two/sim/tokens@21", 200, 0.0),
        ("three/sim/tokens@20", 200, 45.0),
        ("four/sim/tokens@20", 422, None),
        ("five/sim/tokens@20", 404, None),
        ("unpriced", 422, None),
        ("unpriced-free", 200, 0.0),
    ],
)
def test_an_unknown_price_is_refused_or_declared(
    gateway: Gateway, model: str, status: int, cost: float | None
) -> None:
    response = gateway.chat(model)
    assert response.status_code == status, response.text
    if cost is not None:
        usage = response.json()["usage"]
        expected = cost and usage["prompt_tokens"] + 2 * usage["completion_tokens"]
        assert float(response.headers["x-cost-usd"]) == pytest.approx(expected)


def create_key(gateway: Gateway, *options: str) -> str:
    environ = clean_environment(GATEWAYZ_HOME=str(gateway.folder / "home"))
    command = [sys.executable, "-m", "engine.cli", "keys", "create", "--name", "test", *options]
    made = subprocess.run(
        command, cwd=gateway.folder, env=environ, capture_output=True, text=True, check=True
    )
    return made.stdout.strip().splitlines()[-1]


def test_a_key_uses_only_the_models_of_its_globs(gateway: Gateway) -> None:
    key = create_key(gateway, "--models", "gpt-*")
    with httpx.Client(base_url=gateway.url, headers={"x-api-key": key}, timeout=20) as client:
        assert client.post(CHAT, json={"model": "gpt-mine", **PROMPT}).status_code == 200
        for name in ("plain", "the/plain", "two/sim/tokens@20", "two/gpt-x"):
            refused = client.post(CHAT, json={"model": name, **PROMPT})
            assert (refused.status_code, refused.json()["error"]["code"]) == (403, "model_not_allowed")
        unknown = client.post(CHAT, json={"model": "plainn", **PROMPT})
        assert unknown.status_code == 404 and "'plain'" not in unknown.text
        listed = {model["id"] for model in client.get("/v1/models").json()["data"]}
        assert "gpt-mine" in listed and all(name.startswith("gpt-") for name in listed)
        assert client.get("/v1/models/plain").status_code == 404
        for path in ("/admin/config", "/admin/calls"):
            assert client.get(path).status_code == 403
        assert client.post("/admin/config/reload").status_code == 403


def leave_after(
    gateway: Gateway, body: dict[str, Any], ready: Callable[[bytes], bool], key: str = ADMIN_KEY
) -> float:
    """Send a request, wait until `ready` says so of what has come, and go away. The time of going."""
    payload = json.dumps({**PROMPT, **body}).encode()
    head = (
        f"POST {CHAT} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\n"
        f"content-type: application/json\r\ncontent-length: {len(payload)}\r\n\r\n"
    )
    connection = socket.create_connection(("127.0.0.1", gateway.port))
    connection.sendall(head.encode() + payload)
    connection.settimeout(0.02)
    came, until = b"", time.monotonic() + 10
    while not ready(came) and time.monotonic() < until:
        try:
            came += connection.recv(65536)
        except TimeoutError:
            continue
    connection.close()
    return time.time()


def await_end(simulator: Simulator, last_four: str, within_s: float = 5.0) -> dict[str, Any]:
    until = time.monotonic() + within_s
    while time.monotonic() < until:
        calls = see_calls(simulator, last_four)
        if calls and calls[-1]["outcome"] != "running":
            return calls[-1]
        time.sleep(0.02)
    raise AssertionError("the upstream still runs")


def await_idle(gateway: Gateway, within_s: float = 5.0) -> None:
    until = time.monotonic() + within_s
    while time.monotonic() < until:
        text = httpx.get(gateway.url + "/metrics").text
        if re.search(r"^gatewayz_calls_in_progress(\{.*\})? 0(\.0)?$", text, re.MULTILINE):
            return
        time.sleep(0.05)
    raise AssertionError(text)


SLOW = {
    "before-headers": ("two/sim/silent", True, False),
    "before-the-first-token": ("two/sim/slow-first-token@20s", True, False),
    "mid-stream": ("two/sim/chunk-ms@40+tokens@500", True, True),
    "plain": ("two/sim/slow@20s", False, False),
}


@pytest.mark.parametrize("case", SLOW)
def test_a_client_that_leaves_ends_the_upstreams_work(
    gateway: Gateway, simulator: Simulator, case: str
) -> None:
    model, stream, wants_bytes = SLOW[case]

    def is_ready(came: bytes) -> bool:
        return came.count(b"data:") > 3 if wants_bytes else bool(see_calls(simulator, TWO))

    left_at = leave_after(gateway, {"model": model, "stream": stream}, is_ready)
    seen = await_end(simulator, TWO)
    assert seen["outcome"] == "client_closed"
    assert seen["at"] + seen["client_closed_after_ms"] / 1000 - left_at < 0.25
    await_idle(gateway)
    with gateway.client() as client:
        (record,) = client.get("/admin/calls", params={"requested_model": model, "limit": 1}).json()["data"]
    assert (record["status"], len(record["attempts"])) == ("aborted", 1)
    assert record["usage_source"] == ("estimated" if wants_bytes else "none")


def test_a_client_that_leaves_ends_a_back_off(gateway: Gateway, simulator: Simulator) -> None:
    leave_after(gateway, {"model": "paused"}, lambda came: bool(see_calls(simulator, FIVE)))
    began = time.monotonic()
    await_idle(gateway)
    assert time.monotonic() - began < 2
    assert len(see_calls(simulator, FIVE)) == 1
    with gateway.client() as client:
        (record,) = client.get("/admin/calls", params={"requested_model": "paused"}).json()["data"]
    assert record["status"] == "aborted" and record["cost_usd"] == "0"


@pytest.mark.parametrize(("model", "stream"), [("drained", True), ("drained-plain", False)])
def test_a_drained_answer_is_read_on_to_its_usage(
    gateway: Gateway, simulator: Simulator, model: str, stream: bool
) -> None:
    def is_ready(came: bytes) -> bool:
        return came.count(b"data:") > 3 if stream else bool(see_calls(simulator, ONE))

    leave_after(gateway, {"model": model, "stream": stream}, is_ready)
    assert await_end(simulator, ONE)["outcome"] == "finished"
    await_idle(gateway)
    with gateway.client() as client:
        (record,) = client.get("/admin/calls", params={"requested_model": model}).json()["data"]
    assert (record["status"], record["usage_source"]) == ("aborted", "reported")
    assert record["tokens"]["output"] == 60


def test_leaving_early_does_not_escape_the_limits(gateway: Gateway) -> None:
    key, refused = create_key(gateway), b""

    def is_ready(came: bytes) -> bool:
        nonlocal refused
        refused = came if b" 429 " in came[:20] else b""
        return came.count(b"data:") > 40 or bool(refused)

    left = 0
    while left < 8 and not refused:
        leave_after(gateway, {"model": "metered", "stream": True, "max_tokens": 100}, is_ready, key)
        await_idle(gateway)
        left += 1
    assert 2 <= left <= 6 and b"tokens per minute" in refused


def test_health_and_metrics_are_as_the_contract_says(gateway: Gateway) -> None:
    gateway.chat("plain")
    assert httpx.get(gateway.url + "/health").json() == {"status": "ok"}
    ready = httpx.get(gateway.url + "/health/ready").json()
    assert (ready["status"], ready["database"], ready["redis"]) == ("ok", "ok", "none") and ready["since"]
    text = httpx.get(gateway.url + "/metrics").text
    for name in (
        "gatewayz_calls_in_progress",
        'gatewayz_upstream_connections{state="',
        f'gatewayz_calls_total{{status="200",surface="{CHAT}"}}',
        'gatewayz_config_revision_info{revision="',
        "gatewayz_config_refusals_total 0",
        'gatewayz_journal_records{state="',
        'gatewayz_dependency_up{name="database"} 1',
        "gatewayz_stream_events_dropped_total",
    ):
        assert name in text, name


def test_every_call_has_one_record_and_none_waits(gateway: Gateway) -> None:
    await_idle(gateway)
    with gateway.client() as client:
        records = client.get("/admin/calls", params={"limit": 1000}).json()["data"]
    ids = [record["id"] for record in records]
    assert len(ids) == len(set(ids))
    assert {record["status"] for record in records} <= {"ok", "error", "aborted"}

"""Money through a whole gateway: what is held, bounded, refused and charged, as callers and providers see it.

A token that is written costs a cent, the prompt nothing, so that each amount can be worked out by eye.
"""

import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.harness import ADMIN_KEY, Gateway, Simulator, running, write_files
from tests.http.test_keys import client, issue

MESSAGES = [{"role": "user", "content": "Tell me a story."}]
MODELS = {
    "long": ("near", "sim/tokens@1000", "money"),
    "lowered": ("near", "sim/tokens@1000", "lowering"),
    "slow": ("near", "sim/tokens@100+chunk-ms@40", "money"),
    "cut": ("near", "sim/cut@40+tokens@90", "money"),
    "broken": ("near", "sim/500", "money"),
    "claude": ("claude", "sim/tokens@200+chunk-ms@20", "money"),
    "claude-free": ("claude", "sim/tokens@200+chunk-ms@20", "forgiving"),
}
POLICIES = {
    "money": "billing: {hold_wait_s: 0.5}\nrescue: error\nretry: {max: 0}\n",
    "lowering": "billing: {lower_max_tokens: true}\n",
    "forgiving": "billing: {on_abort: never}\n",
}


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    folder = tmp_path_factory.mktemp("money")
    simulator = Simulator(folder)
    head = "allow_private: true\nauth: {bearer: key}\n"
    price = "price: {input: '0', output: '10000'}, limits: {output: 10000}"
    models = "".join(
        f"  {name}: {{{price}, policy: {policy}, targets: [{{provider: {provider}, model: {model}}}]}}\n"
        for name, (provider, model, policy) in MODELS.items()
    )
    models += (
        "  prompted: {price: {input: '10000', output: '0'}, targets: [{provider: claude, model: sim/echo}]}\n"
    )
    files = {
        "gateway.yaml": "database: embedded\nredis: none\nsimulator: {enabled: false}\n",
        "providers.d/near.yaml": f"provider: near\nformat: openai-chat\nbase_url: {simulator.url}/v1\n{head}",
        "providers.d/claude.yaml": "provider: claude\nformat: anthropic-messages\n"
        f"base_url: {simulator.url}/v1\n{head}",
        "models.d/m.yaml": f"models:\n{models}",
    }
    files |= {
        f"policies.d/{name}.yaml": f"policy: {name}\nextends: default\n{text}"
        for name, text in POLICIES.items()
    }
    made = Gateway(write_files(folder, files))
    with running(simulator, made):
        yield made


@pytest.fixture
def pay(gateway: Gateway, request: pytest.FixtureRequest) -> Iterator[Callable[[str], httpx.Client]]:
    """A caller of its own for each test, with so much credit."""
    opened: list[httpx.Client] = []

    def make(credit: str) -> httpx.Client:
        user = f"{request.node.name.partition('[')[0][:50]}-{len(opened)}@b.c"
        given = ("--credit", credit) if credit else ()
        opened.append(client(gateway, issue(gateway, "--user", user, *given)))
        return opened[-1]

    yield make
    for each in opened:
        each.close()


def ask(
    caller: httpx.Client, model: str, headers: dict[str, str] | None = None, **body: Any
) -> httpx.Response:
    given = {"model": model, "messages": MESSAGES, **body}
    return caller.post("/v1/chat/completions", json=given, headers=headers or {})


def read_code(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


def wait_until(condition: Callable[[], bool], within_s: float) -> float:
    """Seconds until it held."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < within_s, "it did not come to be in time"
        time.sleep(0.05)
    return time.monotonic() - began


def test_an_unstated_length_is_what_an_eighth_of_the_credit_buys_and_the_provider_keeps_to_it(
    pay: Callable[[str], httpx.Client],
) -> None:
    answer = ask(pay("40"), "long")
    assert answer.headers["x-max-tokens-set"] == "500"
    assert answer.json()["usage"]["completion_tokens"] == 500
    assert answer.headers["x-cost-usd"] == "5"


def test_a_bound_is_never_below_256_tokens(pay: Callable[[str], httpx.Client]) -> None:
    caller = pay("3")
    answer = ask(caller, "long")
    assert (answer.status_code, answer.headers["x-max-tokens-set"]) == (200, "256")
    assert answer.json()["usage"]["completion_tokens"] == 256
    assert read_code(ask(caller, "long")) == (402, "insufficient_credits")


def test_a_stated_length_is_held_as_it_is_and_lowered_only_where_the_policy_says_so(
    pay: Callable[[str], httpx.Client],
) -> None:
    caller = pay("3")
    assert read_code(ask(caller, "long", max_tokens=400)) == (402, "insufficient_credits")
    answer = ask(caller, "long", max_tokens=20)
    assert "x-max-tokens-set" not in answer.headers and answer.headers["x-cost-usd"] == "0.2"
    answer = ask(caller, "lowered", max_tokens=400)
    assert (answer.headers["x-max-tokens-set"], answer.headers["x-cost-usd"]) == ("256", "2.56")


def test_money_that_a_running_call_holds_is_waited_for_and_then_429_with_a_time_to_come_back(
    pay: Callable[[str], httpx.Client],
) -> None:
    caller = pay("3")
    with ThreadPoolExecutor() as pool:
        running = pool.submit(
            ask, caller, "slow", max_tokens=200, stream=True
        )  # four seconds, two dollars held
        time.sleep(0.7)
        began = time.monotonic()
        refused = ask(caller, "slow", max_tokens=150)
        assert read_code(refused) == (429, "credit_in_use")
        assert 0.4 < time.monotonic() - began < 3 and refused.headers["retry-after"] == "1"
        assert running.result().status_code == 200
    # A dollar was spent, two are left: what was refused for a while is let in, what is too dear is refused for good.
    assert wait_until(lambda: ask(caller, "slow", max_tokens=150).status_code == 200, 10) < 10
    assert read_code(ask(caller, "slow", max_tokens=300)) == (402, "insufficient_credits")


def test_x_max_cost_usd_bounds_an_answer_and_refuses_what_cannot_be_bounded(
    pay: Callable[[str], httpx.Client],
) -> None:
    for caller in (pay("100"), pay("")):
        answer = ask(caller, "long", {"x-max-cost-usd": "3"})
        assert (answer.headers["x-max-tokens-set"], answer.headers["x-cost-usd"]) == ("300", "3")
        assert read_code(ask(caller, "long", {"x-max-cost-usd": "2"})) == (400, "max_cost_exceeded")
        assert read_code(ask(caller, "long", {"x-max-cost-usd": "2"}, max_tokens=201)) == (
            400,
            "max_cost_exceeded",
        )
        assert ask(caller, "long", {"x-max-cost-usd": "2"}, max_tokens=200).headers["x-cost-usd"] == "2"


def test_a_stream_that_its_provider_breaks_off_costs_what_was_delivered(
    gateway: Gateway, pay: Callable[[str], httpx.Client]
) -> None:
    answer = ask(pay("3"), "cut", max_tokens=90, stream=True)
    record = gateway.find_record(answer.headers["x-request-id"])
    assert (record["status"], record["usage_source"]) == ("error", "estimated")
    assert record["tokens"]["output"] == 40 and record["cost_usd"] == "0.4"


def test_a_call_that_brought_nothing_costs_nothing_and_holds_nothing(
    gateway: Gateway, pay: Callable[[str], httpx.Client]
) -> None:
    caller = pay("3")
    for _ in range(5):
        refused = ask(caller, "broken", max_tokens=250)
        assert refused.status_code >= 500
        assert gateway.find_record(refused.headers["x-request-id"])["cost_usd"] == "0"
    assert ask(caller, "slow", max_tokens=300).headers["x-cost-usd"] == "1"


def leave_early(caller: httpx.Client, model: str, after: int) -> str:
    """The id of a call whose caller leaves after so many pieces of text."""
    body = {"model": model, "messages": MESSAGES, "max_tokens": 200, "stream": True}
    with caller.stream("POST", "/v1/messages", json=body) as answer:
        pieces = 0
        for line in answer.iter_lines():
            if line.startswith("data: ") and json.loads(line[6:])["type"] == "content_block_delta":
                pieces += 1
                if pieces >= after:
                    break
        return answer.headers["x-request-id"]


def test_whoever_leaves_an_anthropic_stream_pays_for_what_came_and_not_for_the_count_of_its_beginning(
    gateway: Gateway, pay: Callable[[str], httpx.Client]
) -> None:
    record = gateway.find_record(leave_early(pay("3"), "claude", 30))
    assert (record["status"], record["usage_source"]) == ("aborted", "estimated")
    assert 30 <= record["tokens"]["output"] < 90
    assert float(record["cost_usd"]) == pytest.approx(record["tokens"]["output"] / 100)


def test_whoever_leaves_pays_nothing_where_the_policy_says_so(
    gateway: Gateway, pay: Callable[[str], httpx.Client]
) -> None:
    caller = pay("3")
    record = gateway.find_record(leave_early(caller, "claude-free", 30))
    assert (record["status"], record["cost_usd"]) == ("aborted", "0")
    assert ask(caller, "slow", max_tokens=300).status_code == 200, "nothing of it is held"


def test_counting_tokens_costs_nothing_and_needs_no_credit(
    gateway: Gateway, pay: Callable[[str], httpx.Client]
) -> None:
    caller = pay("0.01")
    assert read_code(ask(caller, "prompted", max_tokens=1)) == (402, "insufficient_credits")
    counted = caller.post("/v1/messages/count_tokens", json={"model": "prompted", "messages": MESSAGES})
    assert counted.status_code == 200 and counted.json()["input_tokens"] > 0
    assert gateway.find_record(counted.headers["x-request-id"])["cost_usd"] == "0"


def test_a_users_budget_is_in_force_within_a_second_of_each_change(
    gateway: Gateway, pay: Callable[[str], httpx.Client]
) -> None:
    caller = pay("")
    record = gateway.find_record(ask(caller, "long", max_tokens=50).headers["x-request-id"])
    route = f"/admin/budgets/users/{record['user_id']}"

    def answers(status: int) -> Callable[[], bool]:
        return lambda: ask(caller, "long", max_tokens=50).status_code == status

    with client(gateway, ADMIN_KEY) as admin:
        for usd, status in (("0.1", 402), ("100", 200), ("0.2", 402)):
            entry = {"every": "day", "usd": usd}
            assert admin.put(route, json={"budgets": [entry]}).status_code == 200
            assert wait_until(answers(status), 5) < 2  # a second, and the time of the calls that find out
        refused = ask(caller, "long", max_tokens=50)
        assert (
            read_code(refused) == (402, "budget_exceeded")
            and "this user" in refused.json()["error"]["message"]
        )
        assert admin.put(route, json={"budgets": []}).status_code == 200
        wait_until(answers(200), 3)


def test_a_keys_own_budget_refuses_what_it_does_not_cover(gateway: Gateway, tmp_path: Path) -> None:
    rules = tmp_path / "rules.json"
    rules.write_text(json.dumps({"budgets": [{"every": "month", "usd": "1"}]}))
    with client(gateway, issue(gateway, "--user", "k@b.c", "--limits", str(rules))) as caller:
        assert ask(caller, "long", max_tokens=60).status_code == 200
        assert read_code(ask(caller, "long", max_tokens=60)) == (402, "budget_exceeded")
        assert ask(caller, "long", max_tokens=40).status_code == 200

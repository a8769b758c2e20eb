"""A primary that misbehaves beside a healthy second target: what the caller gets, and what the upstreams saw.

All cases run at once against one gateway and one simulator, with clocks of ten seconds, because most of them wait.
"""

import asyncio
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.harness import ADMIN_KEY, Gateway, Simulator, join_text, read_events, running, write_files

# The canonical text's length in tokens, short enough that a restart may swallow what was delivered.
PROMPT = {"messages": [{"role": "user", "content": "Tell me a story."}]}
TEN_SECONDS = """
policy: tens
extends: default
timeouts: {connect_s: 5, headers_s: 10, first_token_s: 10, idle_s: 10, answer_s: 10}
"""


@dataclass(frozen=True)
class Case:
    primary: str
    stream: bool = True
    backup: str = "sim/tokens@60"
    prefill: bool = False
    policy: str = "tens"
    backup_model: bool = True
    backup_format: str = "openai-chat"
    context: int | None = None
    capabilities: str = "[chat]"
    body: dict[str, Any] = field(default_factory=dict)


CASES = {
    "whole": Case("sim/tokens@60"),
    "429-once": Case("sim/429-then-ok+tokens@60"),
    "429-once-plain": Case("sim/429-then-ok+tokens@60", stream=False),
    "429-for-ever": Case("sim/429"),
    "429-alone": Case("sim/429", backup_model=False),
    "500-once": Case("sim/500-then-ok+tokens@60"),
    "503-for-ever": Case("sim/503", stream=False),
    "reset": Case("sim/reset"),
    "silent": Case("sim/silent"),
    "silent-plain": Case("sim/silent", stream=False),
    "slow-first-token": Case("sim/slow-first-token@20s+tokens@60"),
    "cut": Case("sim/cut@40+tokens@60"),
    "cut-asking-usage": Case("sim/cut@40+tokens@60", body={"stream_options": {"include_usage": True}}),
    "cut-continued": Case(
        "sim/cut-rst@40+tokens@60", prefill=True, body={"stream_options": {"include_usage": True}}
    ),
    "cut-in-event": Case("sim/cut-in-event@40+tokens@60"),
    "cut-refused": Case("sim/cut@40+tokens@60", backup="sim/no-prefill+tokens@60", prefill=True),
    "cut-long-refused": Case("sim/cut@140+tokens@160", backup="sim/no-prefill+tokens@160", prefill=True),
    "cut-other-text": Case("sim/cut@40+tokens@60", backup="sim/other-text"),
    "cut-other-wire": Case("sim/cut@40+tokens@60", backup_format="other-wire"),
    "cut-alone": Case("sim/cut@40+tokens@60", backup_model=False),
    "cut-plain": Case("sim/cut@40+tokens@60", stream=False),
    "stall": Case("sim/stall@20+tokens@60"),
    "bad-event": Case("sim/bad-event@10+tokens@60"),
    "no-done": Case("sim/no-done+tokens@60"),
    "no-done-open": Case("sim/no-done-open+tokens@60", body={"stream_options": {"include_usage": True}}),
    "context-length": Case("sim/context-length", context=1000),
    "context-length-plain": Case("sim/context-length", context=1000, stream=False),
    "content-filter": Case("sim/content-filter"),
    "error-in-stream": Case("sim/error-in-stream@0+tokens@60"),
    "error-late-in-stream": Case("sim/error-in-stream@5+tokens@60"),
    "json-error-in-200": Case("sim/json-error-in-200-stream"),
    "error-200": Case("sim/error-200", stream=False),
    "unstreamed": Case("sim/no-stream+tokens@60"),
    "cut-in-tool": Case(
        "sim/cut-in-tool-arguments",
        body={
            "tools": [
                {
                    "type": "function",
                    "function": {
                        "name": "look_up",
                        "parameters": {
                            "type": "object",
                            "properties": {"city": {"type": "string"}},
                            "required": ["city"],
                        },
                    },
                }
            ]
        },
    ),
    "html-error": Case("sim/502+html"),
    "unauthorised": Case("sim/401"),
    "ninety-seconds": Case("sim/slow@90s+tokens@60", stream=False, policy="default"),
    "thinks-sixty-seconds": Case(
        "sim/slow-first-token@60s+reasoning@5+tokens@60", policy="default", capabilities="[chat, reasoning]"
    ),
    "down-sixty-seconds": Case("sim/down@60s+tokens@60"),
}


@dataclass
class Outcome:
    status: int
    headers: httpx.Headers
    text: str
    seconds: float
    calls: list[dict[str, Any]]
    """What the primary saw."""
    backup_calls: list[dict[str, Any]]
    record: dict[str, Any]

    @property
    def events(self) -> list[Any]:
        return read_events(self.text)

    @property
    def answer(self) -> str:
        if self.headers["content-type"].startswith("application/json"):
            return str(json.loads(self.text)["choices"][0]["message"]["content"])
        return join_text(self.events)

    @property
    def errors(self) -> list[Any]:
        return [event["error"] for event in self.events if isinstance(event, dict) and event.get("error")]

    @property
    def gaps(self) -> list[float]:
        times = [call["at"] for call in self.calls]
        return [later - earlier for earlier, later in zip(times, times[1:], strict=False)]


def write_config(folder: Path, simulator: str) -> None:
    files = {
        "policies.d/tens.yaml": TEN_SECONDS,
        "providers.d/_formats/other-wire.yaml": "format: other-wire\nextends: openai-chat\n",
    }
    for number, (name, case) in enumerate(CASES.items()):
        for role in ("primary", "backup"):
            format = case.backup_format if role == "backup" else "openai-chat"
            files[f"providers.d/{role}-{name}.yaml"] = (
                f"provider: {role}-{name}\nformat: {format}\n"
                f"base_url: {simulator}/v1\nallow_private: true\n"
                f"auth: {{bearer: key-{role[0]}{number:03}}}\n"
            )
        context = f", limits: {{context: {case.context}}}" if case.context else ""
        targets = f"      - {{provider: primary-{name}, model: {case.primary}{context}}}\n"
        if case.backup_model:
            larger = ", limits: {context: 100000}" if case.context else ""
            prefill = ", prefill: true" if case.prefill else ""
            targets += f"      - {{provider: backup-{name}, model: {case.backup}{prefill}{larger}}}\n"
        files[f"models.d/{name}.yaml"] = (
            f"models:\n  {name}:\n    capabilities: {case.capabilities}\n    policy: {case.policy}\n"
            f"    price: {{input: '1', output: '2'}}\n    targets:\n{targets}"
        )
    write_files(folder, files)


async def run_case(client: httpx.AsyncClient, name: str, case: Case) -> tuple[httpx.Response, float]:
    began = time.monotonic()
    if name == "down-sixty-seconds":
        return await run_outage(client, name), time.monotonic() - began
    request = {"model": name, "stream": case.stream, **PROMPT, **case.body}
    response = await client.post("/v1/chat/completions", json=request)
    return response, time.monotonic() - began


async def run_outage(client: httpx.AsyncClient, name: str) -> httpx.Response:
    """20 calls over the 60 s of the outage and the 30 s after it; the last one's response."""
    began, response = time.monotonic(), None
    for number in range(20):
        await asyncio.sleep(max(0.0, began + number * 4.75 - time.monotonic()))
        response = await client.post("/v1/chat/completions", json={"model": name, "stream": True, **PROMPT})
        assert response.status_code == 200, response.text
        assert join_text(read_events(response.text))
    assert response is not None
    return response


async def run_all(gateway: Gateway) -> dict[str, tuple[httpx.Response, float]]:
    headers = {"authorization": f"Bearer {ADMIN_KEY}"}
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=gateway.url, headers=headers, timeout=200, limits=limits) as client:
        results = await asyncio.gather(*(run_case(client, name, case) for name, case in CASES.items()))
    return dict(zip(CASES, results, strict=True))


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Outcome]]:
    folder = tmp_path_factory.mktemp("faults")
    simulator = Simulator(folder)
    write_config(folder, simulator.url)
    gateway = Gateway(folder)
    with running(simulator, gateway):
        results = asyncio.run(run_all(gateway))
        seen = simulator.list_calls()
        found = {}
        for number, (name, (response, seconds)) in enumerate(results.items()):
            found[name] = Outcome(
                status=response.status_code,
                headers=response.headers,
                text=response.text,
                seconds=seconds,
                calls=[call for call in seen if call["authorization"] == f"p{number:03}"],
                backup_calls=[call for call in seen if call["authorization"] == f"b{number:03}"],
                record=gateway.find_record(response.headers["x-request-id"]),
            )
        yield found


@pytest.fixture(scope="module")
def story(outcomes: dict[str, Outcome]) -> str:
    """The canonical text, as an undisturbed target gives it."""
    return outcomes["whole"].answer


def test_a_healthy_primary_answers_alone(outcomes: dict[str, Outcome], story: str) -> None:
    whole = outcomes["whole"]
    assert len(story.split()) == 60
    assert (len(whole.calls), len(whole.backup_calls)) == (1, 0)
    assert whole.headers["x-provider"] == "primary-whole"
    assert whole.record["tokens"] == {"input": whole.calls[0]["usage"]["prompt_tokens"], "output": 60}


WHOLE_ONCE = [
    name
    for name in CASES
    if name
    not in {
        "429-alone",
        "cut-long-refused",
        "cut-other-text",
        "cut-alone",
        "cut-other-wire",
        "content-filter",
        "cut-in-tool",
    }
]


@pytest.mark.parametrize("name", WHOLE_ONCE)
def test_the_caller_gets_the_whole_answer_once(outcomes: dict[str, Outcome], story: str, name: str) -> None:
    outcome = outcomes[name]
    assert outcome.status == 200, outcome.text
    assert outcome.answer == story
    assert outcome.record["status"] == "ok"
    assert (
        not outcome.headers["content-type"].startswith("text/event-stream") or outcome.events[-1] == "[DONE]"
    )


@pytest.mark.parametrize(
    "name",
    [
        name
        for name in WHOLE_ONCE
        if name not in ("stall", "down-sixty-seconds", "error-late-in-stream") and not name.startswith("cut")
    ],
)
def test_headers_body_and_record_name_who_answered(outcomes: dict[str, Outcome], name: str) -> None:
    outcome, case = outcomes[name], CASES[name]
    served = "backup" if outcome.backup_calls else "primary"
    model = case.backup if served == "backup" else case.primary
    assert outcome.headers["x-provider"] == outcome.record["provider"] == f"{served}-{name}"
    assert outcome.headers["x-model"] == outcome.record["model"] == model
    assert outcome.headers["x-requested-model"] == name
    assert f'"model":"{model}"' in outcome.text.replace(" ", "")


def test_a_429_with_retry_after_is_waited_for(outcomes: dict[str, Outcome]) -> None:
    for name in ("429-once", "429-once-plain"):
        outcome = outcomes[name]
        if not outcome.backup_calls:
            assert len(outcome.calls) == 2
            assert 2.0 <= outcome.gaps[0] < 3.5


def test_a_429_for_ever_is_tried_three_times_with_growing_pauses(outcomes: dict[str, Outcome]) -> None:
    outcome = outcomes["429-for-ever"]
    assert len(outcome.calls) == 3 and len(outcome.backup_calls) == 1
    assert 0.25 < outcome.gaps[0] < outcome.gaps[1] < 3


def test_a_429_with_nobody_else_reaches_the_caller_as_429(outcomes: dict[str, Outcome]) -> None:
    outcome = outcomes["429-alone"]
    assert outcome.status == 429 and int(outcome.headers["retry-after"]) >= 1
    assert outcome.record["status"] == "error" and outcome.record["cost_usd"] == "0"


def test_a_500_once_is_retried_once_on_the_same_target(outcomes: dict[str, Outcome]) -> None:
    outcome = outcomes["500-once"]
    assert [call["status"] for call in outcome.calls] == [500, 200] and not outcome.backup_calls


@pytest.mark.parametrize("name", ["503-for-ever", "reset"])
def test_a_target_that_keeps_failing_is_left_after_three_tries(
    outcomes: dict[str, Outcome], name: str
) -> None:
    tried = [each for each in outcomes[name].record["attempts"] if each["provider"] == f"primary-{name}"]
    assert len(tried) <= 3 and len(outcomes[name].backup_calls) == 1
    assert outcomes[name].seconds < 5


@pytest.mark.parametrize("name", ["silent", "silent-plain", "slow-first-token"])
def test_a_target_that_ran_into_a_clock_is_not_asked_again(outcomes: dict[str, Outcome], name: str) -> None:
    outcome = outcomes[name]
    assert (len(outcome.calls), len(outcome.backup_calls)) == (1, 1)
    assert 9.5 < outcome.seconds < 13
    assert outcome.record["attempts"][0]["outcome"].startswith("timeout:")


@pytest.mark.parametrize(
    "name",
    [
        "cut",
        "cut-asking-usage",
        "cut-continued",
        "cut-in-event",
        "cut-refused",
        "stall",
    ],
)
def test_a_rescued_stream_keeps_its_id_and_names_who_went_on(outcomes: dict[str, Outcome], name: str) -> None:
    outcome = outcomes[name]
    chunks = [event for event in outcome.events if isinstance(event, dict)]
    assert len({chunk["id"] for chunk in chunks}) == 1 and len({chunk["created"] for chunk in chunks}) == 1
    assert chunks[-1]["gateway"]["rescued_by"][-1] == f"backup-{name}/{CASES[name].backup}"
    assert outcome.headers["x-provider"] == f"primary-{name}"
    assert outcome.record["provider"] == f"backup-{name}"
    assert [attempt["provider"] for attempt in outcome.record["attempts"]][0] == f"primary-{name}"
    assert len(outcome.calls) == 1


def test_the_usage_of_a_rescued_stream_counts_the_prompt_once(outcomes: dict[str, Outcome]) -> None:
    prompt = outcomes["whole"].calls[0]["usage"]["prompt_tokens"]
    for name in ("cut-asking-usage", "cut-continued"):
        usage = outcomes[name].events[-2]["usage"]
        assert usage["completion_tokens"] == 60, name
        assert abs(usage["prompt_tokens"] - prompt) <= 1, name


def test_a_rescue_by_prefill_asks_only_for_the_rest(outcomes: dict[str, Outcome], story: str) -> None:
    outcome = outcomes["cut-continued"]
    sent = outcome.backup_calls[0]["body"]["messages"][-1]
    assert sent["role"] == "assistant" and story.startswith(sent["content"])
    assert outcome.backup_calls[0]["usage"]["completion_tokens"] == 20


def test_a_refused_prefill_never_reaches_the_caller(outcomes: dict[str, Outcome]) -> None:
    for name in ("cut-refused", "cut-long-refused"):
        assert "prefill" not in outcomes[name].text.replace("sim/no-prefill", "").lower()
    assert [call["status"] for call in outcomes["cut-refused"].backup_calls] == [400, 200]


@pytest.mark.parametrize(
    "name", ["cut-long-refused", "cut-other-text", "cut-other-wire", "cut-alone", "cut-in-tool"]
)
def test_what_cannot_be_rescued_ends_with_one_in_band_error(
    outcomes: dict[str, Outcome], story: str, name: str
) -> None:
    outcome = outcomes[name]
    assert outcome.status == 200 and len(outcome.errors) == 1
    assert "[DONE]" not in outcome.text
    assert outcome.events[-1].get("error")
    assert outcome.record["status"] == "error"
    if name in ("cut-other-text", "cut-other-wire", "cut-alone"):
        assert story.startswith(outcome.answer)


def test_a_plain_answer_that_is_cut_is_asked_elsewhere(outcomes: dict[str, Outcome]) -> None:
    assert len(outcomes["cut-plain"].backup_calls) == 1


def test_an_invalid_event_is_skipped_and_counted(outcomes: dict[str, Outcome]) -> None:
    outcome = outcomes["bad-event"]
    assert len(outcome.calls) == 1 and not outcome.backup_calls
    assert outcome.record["damaged"] == 1


@pytest.mark.parametrize("name", ["no-done", "no-done-open"])
def test_a_stream_without_done_ends_at_once_with_usage(outcomes: dict[str, Outcome], name: str) -> None:
    assert outcomes[name].seconds < 3
    assert outcomes[name].record["usage_source"] == "reported"
    assert outcomes[name].record["tokens"]["output"] == 60


@pytest.mark.parametrize("name", ["context-length", "context-length-plain"])
def test_a_prompt_that_is_too_long_goes_to_a_larger_model_only(
    outcomes: dict[str, Outcome], name: str
) -> None:
    assert (len(outcomes[name].calls), len(outcomes[name].backup_calls)) == (1, 1)


def test_a_content_filter_is_final_and_keeps_its_reason(outcomes: dict[str, Outcome]) -> None:
    outcome = outcomes["content-filter"]
    assert outcome.status == 400
    assert (len(outcome.calls), len(outcome.backup_calls)) == (1, 0)
    error = httpx.Response(400, text=outcome.text).json()["error"]
    assert error["code"] == "content_filter" and "filter" in error["message"].lower()


@pytest.mark.parametrize("name", ["error-in-stream", "json-error-in-200", "error-200"])
def test_an_error_inside_a_200_is_the_error_it_is(outcomes: dict[str, Outcome], name: str) -> None:
    assert len(outcomes[name].backup_calls) == 1
    assert outcomes[name].record["attempts"][0]["outcome"] not in ("ok", "running")


@pytest.mark.parametrize("name", ["ninety-seconds", "thinks-sixty-seconds"])
def test_slow_answers_arrive_untouched_under_the_default_policy(
    outcomes: dict[str, Outcome], name: str
) -> None:
    outcome = outcomes[name]
    assert (len(outcome.calls), len(outcome.backup_calls)) == (1, 0)
    assert outcome.seconds > 55


def test_a_long_silence_gets_a_sign_of_life(outcomes: dict[str, Outcome]) -> None:
    assert outcomes["thinks-sixty-seconds"].text.startswith(": keep-alive")


def test_an_outage_is_probed_now_and_then_and_left_soon_after_it_ends(outcomes: dict[str, Outcome]) -> None:
    outcome = outcomes["down-sixty-seconds"]
    refused = [call for call in outcome.calls if call["status"] == 503]
    assert len(refused) <= 5 + 5, "five failures open the breaker, then few probes"
    began = outcome.calls[0]["at"]
    first_ok = next(call["at"] for call in outcome.calls if call["status"] == 200)
    assert first_ok - began < 60 + 30
    assert outcome.record["provider"] == "primary-down-sixty-seconds"

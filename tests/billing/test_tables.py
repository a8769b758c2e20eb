"""The billing tables: their sums are right, and the gateway meters and charges what they say."""

import json
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import orjson
import pytest

from engine.billing.pricing import price_usage
from engine.config.prices import build_price
from engine.config.schema_price import PriceEntry
from engine.config.snapshot import Snapshot
from engine.wire.answers import SameWireAnswer, SameWireStream
from engine.wire.canonical import UsageReported
from engine.wire.formats import Format
from engine.wire.usage import CLASSES, Usage
from tests.billing.bills import Case, read_tables, write_plain, write_stream
from tests.config.conftest import Folder, parsed
from tests.gateway.replay import JSON, SSE, Replay, Script, replaying
from tests.harness import Gateway, running, write_files
from tests.wire.formats_at_hand import read_stream

__all__ = ["parsed"]

CASES = list(read_tables())
each_case = pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])


@pytest.fixture(scope="module")
def shipped(parsed: Any, tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    return Folder(tmp_path_factory.mktemp("shipped"), parsed=parsed).load({})


def find_format(snapshot: Snapshot, case: Case) -> Format:
    """The wire as this provider speaks it."""
    return snapshot.providers[case.provider].find_endpoint("chat", case.wire).format


def list_meters(usage: Usage) -> dict[str, Decimal]:
    classes = {name: Decimal(count) for name in CLASSES if (count := getattr(usage, name))}
    return {**classes, **{name: count for name, count in usage.units.items() if count}}


def bill(snapshot: Snapshot, case: Case, usage: Usage | None) -> None:
    """The usage that was read is what the table counts, and costs what it says."""
    assert usage is not None
    client = snapshot.formats["openai-chat"]
    asked = {"service_tier": case.said["asked"]} if "asked" in case.said else {}
    usage = client.add_asked(usage, asked)
    assert list_meters(usage) == {line.meter: line.count for line in case.lines}
    assert price_usage(usage, build_price(PriceEntry.model_validate(case.price))) == case.cost


@each_case
def test_the_sum_is_right(case: Case) -> None:
    for line in case.lines:
        assert line.count * line.rate == line.amount, line.text
    assert sum(line.amount for line in case.lines) == case.cost


@each_case
def test_a_plain_answer_costs_what_the_table_says(case: Case, shipped: Snapshot) -> None:
    form = find_format(shipped, case)
    passed = SameWireAnswer(form)
    passed.feed(write_plain(case))
    passed.close()
    bill(shipped, case, passed.usage)
    translated = [
        event
        for event in form.read_reply(orjson.loads(write_plain(case)))
        if isinstance(event, UsageReported)
    ]
    bill(shipped, case, translated[-1].usage)


@each_case
@pytest.mark.parametrize("pieces", [False, True], ids=["whole", "byte by byte"])
def test_a_stream_costs_what_the_table_says(case: Case, pieces: bool, shipped: Snapshot) -> None:
    form, raw = find_format(shipped, case), write_stream(case)
    cut = [raw[at : at + 1] for at in range(len(raw))] if pieces else [raw]
    reported = [event for event in read_stream(form, cut) if isinstance(event, UsageReported)]
    bill(shipped, case, reported[-1].usage)
    if form.look is not None and case.wire != "bedrock-converse":
        passed = SameWireStream(form, form.look, hide_usage=False)
        for piece in cut:
            passed.feed(piece)
        passed.close()
        bill(shipped, case, passed.usage)


PROVIDER = """
provider: {name}
extends: {name}
base_url: {url}
allow_private: true
"""
KEYS = ("OPENAI_API_KEY", "ANTHROPIC_API_KEY", "GEMINI_API_KEY", "DEEPSEEK_API_KEY", "GROQ_API_KEY")
POLICY = "policy: default\nextends: default\nretry: {max: 0}\nbreaker: {failures: 1000, min_requests: 1000}\n"
WHOLE = [case for case in CASES if case.wire != "openai-responses" and case.provider != "aws-bedrock"]


@pytest.fixture(scope="module")
def upstream() -> Iterator[Replay]:
    with replaying() as replay:
        yield replay


@pytest.fixture(scope="module")
def gateway(upstream: Replay, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    models = {
        f"case-{at}": {"price": case.price, "targets": [{"provider": case.provider, "model": f"m-{at}"}]}
        for at, case in enumerate(WHOLE)
    }
    models["first-cheap"] = {
        "price": {"input": "1", "output": "1"},
        "targets": [
            {"provider": "openai", "model": "away"},
            {"provider": "groq", "model": "dear", "price": {"input": "100", "output": "1000"}},
        ],
    }
    files = {
        f"providers.d/{name}.yaml": PROVIDER.format(name=name, url=upstream.url)
        for name in {case.provider for case in WHOLE}
    }
    written = {
        "policies.d/default.yaml": POLICY,
        "models.d/cases.yaml": json.dumps({"models": models}),
        **files,
    }
    folder = write_files(tmp_path_factory.mktemp("bills"), written)
    with running(started := Gateway(folder, **dict.fromkeys(KEYS, "key"))):
        yield started


def ask(gateway: Gateway, model: str, case: Case | None, *, stream: bool) -> dict[str, Any]:
    """The record of one call by an OpenAI client."""
    asked = {"service_tier": case.said["asked"]} if case is not None and "asked" in case.said else {}
    answer = gateway.chat(model, stream=stream, **asked)
    assert answer.status_code == 200, answer.text
    record: dict[str, Any] = gateway.find_record(answer.headers["x-request-id"])
    return record


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "streamed"])
@pytest.mark.parametrize("at", range(len(WHOLE)), ids=[case.name for case in WHOLE])
def test_a_call_through_the_whole_gateway_costs_what_the_table_says(
    at: int, stream: bool, gateway: Gateway, upstream: Replay
) -> None:
    case = WHOLE[at]
    upstream.scripts[f"m-{at}"] = Script(write_stream(case)) if stream else Script(write_plain(case), JSON)
    record = ask(gateway, f"case-{at}", case, stream=stream)
    assert Decimal(record["cost_usd"]) == case.cost
    assert record["pricing"]["listed"] == f"case-{at}"


def test_a_call_that_fails_over_costs_what_the_dearer_target_costs_and_nothing_for_the_first(
    gateway: Gateway, upstream: Replay
) -> None:
    upstream.scripts["away"] = Script(b'{"error": {"message": "away"}}', JSON, status=500)
    case = next(case for case in WHOLE if case.provider == "groq")
    upstream.scripts["dear"] = Script(write_plain(case), JSON)
    record = ask(gateway, "first-cheap", None, stream=False)
    assert Decimal(record["cost_usd"]) == 1000 * Decimal("0.0001") + 100 * Decimal("0.001")


def test_the_text_of_an_error_in_a_stream_costs_nothing(gateway: Gateway, upstream: Replay) -> None:
    error = {"error": {"message": "a long story about what went wrong " * 100, "type": "server_error"}}
    upstream.scripts["m-0"] = Script(f"data: {json.dumps(error)}\n\ndata: [DONE]\n\n".encode(), SSE)
    answer = gateway.chat("case-0", stream=True)
    record = gateway.find_record(answer.headers["x-request-id"])
    assert (record["status"], record["cost_usd"], record["tokens"]) == ("error", "0", {})

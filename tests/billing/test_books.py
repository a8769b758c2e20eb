"""Each call is settled once: usage, cost, one record."""

from dataclasses import replace
from decimal import Decimal
from typing import Any, cast

import pytest

from engine.billing.books import Books, estimate_input_tokens, format_usd, measure_usage
from engine.call import Attempt, Call, Caller
from engine.wire.answers import AnswerReader
from engine.wire.doors import Door
from engine.wire.formats import compile_format
from engine.wire.usage import Usage
from tests.routing.things import DOOR, make_model, make_policy, make_price, make_snapshot, make_target
from tests.wire.formats_at_hand import load_tree


class Reader:
    """As much of an answer's reader as the books look at."""

    def __init__(
        self,
        usage: Usage | None = None,
        texts: tuple[str, ...] = (),
        *,
        carries: bool = False,
        ended: bool = True,
    ) -> None:
        self.usage, self.texts, self.carries = usage, list(texts), carries
        self.begun = bool(usage or texts or carries)
        self.ended, self.settling = ended, False


class Paper:
    """A journal in memory."""

    def __init__(self) -> None:
        self.begun: list[dict[str, Any]] = []
        self.ended: list[dict[str, Any]] = []

    def append_begun(self, record: dict[str, Any]) -> None:
        self.begun.append(record)

    def append_ended(self, record: dict[str, Any]) -> bytes:
        self.ended.append(record)
        return b"{}"


def make_call(**billing: Any) -> Call:
    target = make_target("p", "real-model")
    model = make_model("m", target, price=make_price("0.001", "0.01"), policy=make_policy(billing=billing))
    call = Call("call_1", "mine-1", DOOR, 1000.0, 5.0, make_snapshot(model))
    call.caller, call.model, call.policy, call.served = Caller("key_1", "user_1"), model, model.policy, target
    call.request = {"messages": [{"role": "user", "content": "x" * 40}]}
    call.tags = {"team": "search"}
    call.attempts.append(Attempt("p", "real-model", "p#0", 0.0, outcome="ok"))
    return call


def settle(call: Call, status: str, reader: Reader | None) -> dict[str, Any]:
    paper = Paper()
    books = Books(paper, lambda: 5.25, ())
    books.settle(call, status, cast("AnswerReader | None", reader))
    (record,) = paper.ended
    return record


REPORTED = Usage(input=100, output=10)


def test_a_good_call_costs_what_was_reported() -> None:
    record = settle(make_call(), "ok", Reader(REPORTED))
    assert record["cost_usd"] == "0.2" and record["usage_source"] == "reported"
    assert record["tokens"] == {"input": 100, "output": 10}
    assert record["total_ms"] == 250 and record["tags"] == {"team": "search"}
    assert (record["provider"], record["model"]) == ("p", "real-model")


def test_a_call_is_settled_once() -> None:
    paper, told, call = Paper(), list[str](), make_call()
    books = Books(paper, lambda: 6.0, (lambda call, record, written: told.append(record["status"]),))
    books.open(call)
    books.settle(call, "ok", cast("AnswerReader", Reader(REPORTED)))
    books.settle(call, "aborted", None)
    books.settle(call, "error", None, error="late")
    assert len(paper.begun) == len(paper.ended) == 1
    assert told == ["ok"] and call.status == "ok" and call.cost == Decimal("0.2")


@pytest.mark.parametrize(
    ("status", "billing", "reader", "cost"),
    [
        ("error", {}, Reader(REPORTED, ("hi",)), "0.2"),
        ("error", {}, Reader(REPORTED), "0"),
        ("error", {}, None, "0"),
        ("error", {"on_error": "never"}, Reader(REPORTED, ("hi",)), "0"),
        ("error", {"on_abort": "never"}, Reader(REPORTED, ("hi",)), "0.2"),
        ("aborted", {}, Reader(REPORTED, ("hi",)), "0.2"),
        ("aborted", {}, Reader(REPORTED), "0"),
        ("aborted", {}, Reader(REPORTED, carries=True), "0.2"),
        ("aborted", {"on_abort": "provider"}, Reader(REPORTED), "0.2"),
        ("aborted", {"on_abort": "never"}, Reader(REPORTED, ("hi",)), "0"),
        ("aborted", {}, None, "0"),
        ("interrupted", {}, Reader(REPORTED, ("hi",)), "0.2"),
        ("interrupted", {"on_abort": "never"}, Reader(REPORTED, ("hi",)), "0"),
        ("ok", {"on_abort": "never", "markup": "0.1"}, Reader(REPORTED), "0.22"),
    ],
)
def test_what_a_call_that_did_not_end_well_costs(
    status: str, billing: dict[str, Any], reader: Reader | None, cost: str
) -> None:
    assert settle(make_call(**billing), status, reader)["cost_usd"] == cost


def test_what_nobody_reported_is_estimated_from_what_was_delivered() -> None:
    record = settle(make_call(), "aborted", Reader(None, ("one ", "two ", "three ")))
    assert record["usage_source"] == "estimated"
    assert record["tokens"] == {"input": 10, "output": 3}
    assert record["cost_usd"] == "0.04"


@pytest.mark.parametrize("status", ["ok", "aborted", "error", "interrupted"])
@pytest.mark.parametrize("billing", [{}, {"fallback_attempts": "provider"}])
def test_zero_output_is_never_charged(status: str, billing: dict[str, Any]) -> None:
    call = make_call(**billing)
    call.attempts.insert(0, Attempt("p", "real-model", "p#0", 0.0, outcome="503", usage=REPORTED))
    call.targets = (cast(Any, call.served),)
    assert settle(call, status, Reader(Usage(input=1_000_000)))["cost_usd"] == "0"


@pytest.mark.parametrize(("rule", "cost", "shown"), [("never", "0.2", None), ("provider", "0.35", "0.15")])
def test_failed_attempts_cost_what_their_provider_reported_and_the_answer_is_charged_once(
    rule: str, cost: str, shown: str | None
) -> None:
    call = make_call(fallback_attempts=rule)
    call.targets = (cast(Any, call.served),)
    failed = Attempt("p", "real-model", "p#0", 0.0, outcome="broken_stream", usage=Usage(input=50, output=10))
    silent = Attempt("p", "real-model", "p#0", 0.0, outcome="connect")
    call.attempts[:0] = [failed, silent]
    record = settle(call, "ok", Reader(REPORTED, ("hi",)))
    assert (record["cost_usd"], record["pricing"].get("attempts_usd")) == (cost, shown)


def test_a_rescued_answer_is_charged_as_one_whatever_its_parts_cost() -> None:
    call = make_call(fallback_attempts="provider")
    call.targets, call.rescued_by = (cast(Any, call.served),), ["p/real-model"]
    call.attempts.insert(0, Attempt("p", "real-model", "p#0", 0.0, outcome="broken_stream", usage=REPORTED))
    assert settle(call, "ok", Reader(REPORTED, ("hi",)))["cost_usd"] == "0.2"


@pytest.mark.parametrize("status", ["aborted", "error", "interrupted"])
def test_of_a_cut_stream_that_had_reported_only_its_beginning_all_that_was_delivered_is_charged(
    status: str,
) -> None:
    reader = Reader(Usage(input=100, output=1), ("a token ",) * 40, ended=False)
    record = settle(make_call(), status, reader)
    assert record["tokens"] == {"input": 100, "output": 40} and record["usage_source"] == "estimated"
    assert record["cost_usd"] == "0.5"


def test_of_a_cut_stream_that_reports_as_it_goes_what_was_reported_is_charged() -> None:
    reader = Reader(Usage(input=100, output=30), ("a token ",) * 40, ended=False)
    record = settle(make_call(), "aborted", reader)
    assert record["tokens"] == {"input": 100, "output": 30} and record["usage_source"] == "reported"


def test_a_whole_answer_costs_what_was_reported_however_much_was_seen() -> None:
    reader = Reader(Usage(input=100, output=1), ("a token ",) * 40)
    assert settle(make_call(), "ok", reader)["cost_usd"] == "0.11"


def test_units_that_the_request_says_are_paid_where_no_answer_reports_them() -> None:
    form = compile_format(
        {**load_tree("openai-chat"), "usage": {"asked": {"characters": {"length": "$.input"}}}}
    )
    call = make_call()
    call.door = Door(form, form.client.serves[0])
    call.model = replace(
        call.model, price=replace(make_price("0", "0"), units={"characters": Decimal("0.01")})
    )  # type: ignore[type-var]
    call.served = replace(call.served, price=None)  # type: ignore[type-var]
    call.request = {"input": "abcde"}
    record = settle(call, "ok", Reader(carries=True))
    assert (record["tokens"]["characters"], record["cost_usd"]) == (5, "0.05")


def test_a_call_without_an_answer_used_nothing() -> None:
    record = settle(make_call(), "error", Reader())
    assert (record["usage_source"], record["tokens"], record["cost_usd"]) == ("none", {}, "0")
    assert measure_usage(make_call(), None) is None


def test_a_refusal_before_a_model_was_found_is_told_but_not_recorded() -> None:
    paper, told, call = Paper(), list[str](), make_call()
    call.model = None
    Books(paper, lambda: 6.0, (lambda call, record, written: told.append(record["status"]),)).settle(
        call, "error"
    )
    assert (paper.ended, told) == ([], ["error"])


@pytest.mark.parametrize(
    ("request_body", "tokens"),
    [
        ({}, 0),
        ({"messages": [{"content": "x" * 9}]}, 3),
        ({"messages": [{"content": [{"type": "text", "text": "x" * 8}, {"type": "image_url"}]}]}, 1002),
        ({"messages": [{"content": None}, {"content": 5}, "odd", None]}, 0),
        ({"messages": [{"content": [None, 5, "abcd", {"text": None}]}]}, 1001),
        ({"messages": "odd"}, 0),
        ({"input": ["abcd", "efgh"]}, 2),
        ({"prompt": "abcde"}, 2),
        ({"input": [7, 8, 9]}, 3),
        ({"input": [[7, 8], [9]]}, 3),
        ({"instructions": "abcd", "input": "abcd"}, 2),
        ({"input": [{"role": "user", "content": "abcd"}, {"arguments": "abcd"}, {"output": "abcd"}]}, 3),
        ({"input": [{"role": "user", "content": [{"text": "abcd"}, {"image_url": "x"}]}]}, 1001),
        ({"query": "abcd", "documents": ["abcd", {"text": "abcd"}]}, 3),
    ],
)
def test_the_input_is_estimated_whatever_its_shape(request_body: dict[str, Any], tokens: int) -> None:
    assert estimate_input_tokens(request_body) == tokens


@pytest.mark.parametrize(
    ("amount", "text"),
    [
        ("0", "0"),
        ("0E-12", "0"),
        ("1E+3", "1000"),
        ("0.000000000123000", "0.000000000123"),
        ("12.50", "12.5"),
    ],
)
def test_amounts_are_plain_digits(amount: str, text: str) -> None:
    assert format_usd(Decimal(amount)) == text

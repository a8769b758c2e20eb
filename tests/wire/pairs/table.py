"""What each pair of dialects carries, found by running it: the cells of docs/pairs.md."""

from dataclasses import dataclass, field
from typing import Any

from tests.wire.pairs.answered import answer
from tests.wire.pairs.answers_read import tell_answer
from tests.wire.pairs.asked import CASES, DIALECTS, ask
from tests.wire.pairs.grammar import REQUESTS, find_misfit, find_misplaced_turn
from tests.wire.pairs.requests_read import tell_request
from tests.wire.pairs.streamed import stream
from tests.wire.pairs.streams_read import join_stream
from tests.wire.pairs.told import answer_in_pieces, answer_plainly, translate, write_sent

Facts = dict[str, Any]
OWN_IDS = ("openai-responses", "anthropic-messages")
"""Dialects whose ids have a prefix that clients look for."""


@dataclass
class Cell:
    """What is lost on the way there, with its pointer, and on the way back."""

    asked: dict[str, tuple[str, ...]] = field(default_factory=dict)
    answered: list[str] = field(default_factory=list)


def find_lost(said: Facts, told: Facts) -> list[str]:
    """Facts that are missing or say something else."""
    return [name for name in said if told.get(name) != said[name]]


def check_request(
    surface: str, provider: str, case: str, *, streamed: bool
) -> tuple[list[str], tuple[str, ...]]:
    """What a case loses on the way to a provider: its facts, and the pointers that the client is told."""
    body = ask(surface, case, stream=streamed)
    translation = translate(surface, provider, body, stream=streamed)
    sent = write_sent(translation)
    assert find_misfit(sent, REQUESTS[provider]) is None
    assert find_misplaced_turn(provider, sent) is None
    assert sent.get("stream", False) == (streamed and provider not in ("gemini", "bedrock-converse"))
    said, told = tell_request(surface, body), tell_request(provider, sent)
    assert set(told) <= set(said)
    return find_lost(said, told), translation.loss


def check_answer(surface: str, provider: str, *, calls: bool) -> list[str]:
    """What the provider's answer loses on the way to the client: the same plain, and as a stream."""
    said = tell_answer(provider, answer(provider, calls=calls))
    plain = answer_plainly(translate(surface, provider, ask(surface, "tools")), answer(provider, calls=calls))
    asked = translate(surface, provider, ask(surface, "tools", stream=True), stream=True)
    raw = answer_in_pieces(asked, b"".join(stream(provider, calls=calls)))
    told, joined = tell_answer(surface, plain), tell_answer(surface, join_stream(surface, raw))
    assert joined == told
    if surface in OWN_IDS:
        assert told["id"].startswith(("resp_", "msg_"))
        said["id"] = told["id"]
    return find_lost(said, told)


def run_pair(surface: str, provider: str) -> Cell:
    cell = Cell()
    for case in CASES:
        for streamed in (False, True):
            lost, pointers = check_request(surface, provider, case, streamed=streamed)
            assert bool(lost) == bool(pointers), (lost, pointers)
            for name in lost:
                cell.asked["image by URL" if name == "images" and "URL" in case else name] = pointers
    for calls in (False, True):
        cell.answered += [n for n in check_answer(surface, provider, calls=calls) if n not in cell.answered]
    return cell


def run_pairs() -> dict[tuple[str, str], Cell]:
    return {(one, other): run_pair(one, other) for one in DIALECTS for other in DIALECTS if one != other}


def render_pairs(cells: dict[tuple[str, str], Cell]) -> str:
    """The text of docs/pairs.md."""
    asked = {
        pair: [f"{name} (`{' '.join(at)}`)" for name, at in cell.asked.items()]
        for pair, cell in cells.items()
    }
    answered = {pair: cell.answered for pair, cell in cells.items()}
    return _TEXT.format(cases=", ".join(CASES), asked=_render_table(asked), answered=_render_table(answered))


def _render_table(lost: dict[tuple[str, str], list[str]]) -> str:
    rows = [f"| client | {' | '.join(DIALECTS)} |", f"|{' --- |' * (len(DIALECTS) + 1)}"]
    for surface in DIALECTS:
        cells = ["bytes" if p == surface else ", ".join(lost[surface, p]) or "all" for p in DIALECTS]
        rows.append(f"| {surface} | {' | '.join(cells)} |")
    return "\n".join(rows)


_TEXT = """# Pairs

Which client's dialect reaches which provider's wire, and what is lost on the way. Written by `scripts/write_pairs.py`
from a run of every pair, plain and streamed; `tests/wire/test_pairs.py` fails when it is out of date.

`bytes`: client and provider speak the same, and nothing is translated. `all`: whatever of the cases the client's
dialect can say arrives.

## Requests

Columns are providers. The cases are {cases}.
What is sent is checked against the provider's grammar. What its dialect has no word for is named with the pointer that
stands in the header `x-loss`. (Converse knows only addresses in its own store, and nobody else knows those.)

{asked}

## Answers

Text, thoughts, two calls at once, their ids, the finish reason, the id, the model and tokens by class come back, as
a stream and plain alike. Named is what the client's dialect has no word for.

{answered}
"""

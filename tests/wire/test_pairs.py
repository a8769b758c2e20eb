"""Every client's dialect before every provider's wire: what is carried, what is lost, and that the client is told."""

from functools import lru_cache
from typing import Any

import orjson
import pytest

from engine.errors import GatewayError, UpstreamFailure
from engine.http.dialects import describe_error, write_stream_error
from tests.wire.formats_at_hand import ROOT, load_format
from tests.wire.pairs.answered import answer
from tests.wire.pairs.answers_read import tell_answer
from tests.wire.pairs.asked import DIALECTS, ask
from tests.wire.pairs.failed import ERRORS, MESSAGE, REFUSALS, fail_inside, read_failure
from tests.wire.pairs.grammar import REQUESTS, find_misfit
from tests.wire.pairs.streamed import stream
from tests.wire.pairs.streams_read import join_stream
from tests.wire.pairs.table import Cell, render_pairs, run_pairs
from tests.wire.pairs.told import translate

PAIRS = [(one, other) for one in DIALECTS for other in DIALECTS if one != other]

# What a dialect has no word for, and so cannot be told in it: of requests, and of answers.
NOT_ASKED: dict[str, set[str]] = {"openai-responses": {"stop"}, "bedrock-converse": {"image by URL"}}
EVERYTHING = {"stop", "image by URL"}
SAYS: dict[str, set[str]] = {"openai-responses": {"image by URL"}}
NOT_ANSWERED: dict[str, set[str]] = {
    "gemini": {"cache writes"},
    "bedrock-converse": {"thinking tokens", "id", "model"},
    "cohere": {"cached tokens", "cache writes", "thinking tokens", "model"},
}


@lru_cache
def run() -> dict[tuple[str, str], Cell]:
    return run_pairs()


@pytest.mark.parametrize("dialect", DIALECTS)
def test_the_cases_are_what_the_dialect_s_own_grammar_allows(dialect: str) -> None:
    for calls in (False, True):
        whole = tell_answer(dialect, answer(dialect, calls=calls))
        assert tell_answer(dialect, join_stream(dialect, b"".join(stream(dialect, calls=calls)))) == whole
    body = {**ask(dialect, "text"), "never_heard_of": 1}
    assert find_misfit(body, REQUESTS[dialect]) is not None


@pytest.mark.parametrize(("surface", "provider"), PAIRS)
def test_a_request_loses_only_what_the_provider_has_no_word_for_and_says_so(
    surface: str, provider: str
) -> None:
    lost = run()[surface, provider].asked
    stored = (
        {"image by URL"} if surface == "bedrock-converse" else set()
    )  # its URLs are of a store of its own
    assert set(lost) == NOT_ASKED.get(provider, set()) & SAYS.get(surface, EVERYTHING) | stored
    assert all(pointers for pointers in lost.values())


@pytest.mark.parametrize(("surface", "provider"), PAIRS)
def test_an_answer_loses_only_what_the_client_has_no_word_for(surface: str, provider: str) -> None:
    assert set(run()[surface, provider].answered) <= NOT_ANSWERED.get(surface, set())


def test_the_table_of_pairs_says_what_a_run_finds() -> None:
    assert (ROOT / "docs" / "pairs.md").read_text() == render_pairs(run()), "run scripts/write_pairs.py"


def read_refusal(provider: str) -> UpstreamFailure:
    form, body = load_format(provider), REFUSALS[provider]
    error = form.read_error(429, body, orjson.dumps(body).decode())
    return UpstreamFailure(form.kind_of_error(429, error) or "429", error.message, status=429, error=error)


@pytest.mark.parametrize(("surface", "provider"), PAIRS)
def test_a_provider_s_refusal_is_told_in_the_client_s_words(surface: str, provider: str) -> None:
    failure = read_refusal(provider)
    assert (failure.kind, failure.message) == ("429", MESSAGE)
    error = GatewayError(failure.message)
    written = load_format(surface).write_error({**describe_error(error, "req_1"), "status": 429})
    assert find_misfit(written, ERRORS[surface]) is None
    assert MESSAGE in orjson.dumps(written).decode()


@pytest.mark.parametrize(("surface", "provider"), PAIRS)
def test_a_provider_that_breaks_off_is_told_inside_the_client_s_stream(surface: str, provider: str) -> None:
    reader = translate(surface, provider, ask(surface, "text", stream=True), stream=True).reader(
        b"text/event-stream"
    )
    frames = stream(provider, calls=False)
    begun = b"".join(frames[: len(frames) // 2])
    out = reader.feed(begun)
    assert reader.begun and out and reader.failure is None
    reader.feed(fail_inside(provider))
    failure: Any = reader.failure
    assert failure is not None and failure.message == MESSAGE
    error = GatewayError(failure.message)
    error.status = 429
    tail = write_stream_error(load_format(surface), error, "req_1", reader.writer)
    assert MESSAGE in read_failure(surface, tail)


@pytest.mark.parametrize(("surface", "provider"), PAIRS)
def test_a_provider_that_fails_at_once_fails_before_the_client_s_first_byte(
    surface: str, provider: str
) -> None:
    reader = translate(surface, provider, ask(surface, "text", stream=True), stream=True).reader(
        b"text/event-stream"
    )
    with pytest.raises(UpstreamFailure, match=MESSAGE):
        reader.feed(fail_inside(provider))

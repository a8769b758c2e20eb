"""On the same wire the client gets the upstream's bytes, the upstream gets the client's, and a cut is never success."""

import gzip
import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import httpx
import pytest

from tests.gateway.replay import (
    DONE,
    FINISH,
    JSON,
    OPENING,
    PLAIN,
    STREAM,
    TEXT,
    USAGE,
    USAGE_CHUNK,
    WORDS,
    Replay,
    Script,
    chunk,
    replaying,
)
from tests.harness import ADMIN_KEY, Gateway, join_text, read_events, running, write_files

PATIENT = """
policy: default
extends: default
retry: {max: 0}
breaker: {failures: 1000000, min_requests: 1000000}
"""
PROVIDER = """
provider: NAME
format: openai-chat
base_url: URL/v1
auth: {bearer: key-of-NAME}
allow_private: true
passthrough: true
unknown_price: free
"""
FIXED = """
params: {drop: [logit_bias], rename: {max_completion_tokens: max_tokens}, clamp: {temperature: [0, 1]},
  force: {store: false}}
"""
MODELS = """
models:
  two:
    price: {input: "1", output: "2"}
    targets: [{provider: first, model: broken}, {provider: second, model: whole}]
  renamed:
    price: {input: "1", output: "2"}
    targets: [{provider: first, model: "other/näme"}]
"""
ASKED = {"stream": True, "stream_options": {"include_usage": True}}


@pytest.fixture(scope="module")
def upstream() -> Iterator[Replay]:
    with replaying() as replay:
        yield replay


@pytest.fixture(scope="module")
def gateway(upstream: Replay, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    folder = tmp_path_factory.mktemp("bytes")
    providers = {
        f"providers.d/{name}.yaml": PROVIDER.replace("NAME", name).replace("URL", upstream.url)
        for name in ("first", "second", "fixed")
    }
    providers["providers.d/fixed.yaml"] += FIXED
    write_files(folder, {**providers, "policies.d/default.yaml": PATIENT, "models.d/two.yaml": MODELS})
    started = Gateway(folder)
    with running(started):
        yield started


@pytest.fixture(scope="module")
def client(gateway: Gateway) -> Iterator[httpx.Client]:
    with gateway.client() as made:
        yield made


class Talk:
    """Asks the gateway for what the upstream was told to say."""

    def __init__(self, upstream: Replay, client: httpx.Client) -> None:
        self.upstream, self.client = upstream, client

    def ask(self, script: Script, **body: Any) -> httpx.Response:
        self.upstream.scripts["said"] = script
        return self.ask_for("first/said", **body)

    def ask_two(self, broken: Script, whole: Script, **body: Any) -> httpx.Response:
        self.upstream.scripts.update(broken=broken, whole=whole)
        return self.ask_for("two", **body)

    def ask_for(self, model: str, **body: Any) -> httpx.Response:
        request = {"model": model, "messages": [{"role": "user", "content": "hi"}], **body}
        return self.client.post("/v1/chat/completions", json=request)

    def send(self, body: bytes) -> bytes:
        """What the upstream receives when a client sends these bytes."""
        self.upstream.requests.clear()
        answer = self.client.post(
            "/v1/chat/completions", content=body, headers={"content-type": "application/json"}
        )
        assert answer.status_code == 200, answer.text
        ((_, received),) = self.upstream.requests
        return received


@pytest.fixture
def talk(upstream: Replay, client: httpx.Client) -> Talk:
    return Talk(upstream, client)


# --- whole answers

COMMENTS = (
    b": PROCESSING\n\n" + OPENING + b": PROCESSING\n\n" + WORDS + FINISH + USAGE_CHUNK + b": bye\n\n" + DONE
)
TOOLS = (
    OPENING
    + chunk(
        {
            "tool_calls": [
                {"index": 0, "id": "a", "type": "function", "function": {"name": "f", "arguments": ""}}
            ]
        }
    )
    + chunk({"tool_calls": [{"index": 0, "function": {"arguments": '{"x": '}}]})
    + chunk({"tool_calls": [{"index": 0, "function": {"arguments": "1}"}}]})
    + chunk({}, "tool_calls")
    + USAGE_CHUNK
    + DONE
)
NAMED = b"".join(
    b"id: %d\nevent: message\nretry: 10\n%s\n\n" % (number, event)
    for number, event in enumerate(STREAM.split(b"\n\n")[:-1])
)
MANY_LINES = STREAM.replace(b"data: {", b"data: {\ndata: ")
STREAMS = {
    "as-most-write-it": STREAM,
    "comments": COMMENTS,
    "tools": TOOLS,
    "named-events": NAMED,
    "several-data-lines": MANY_LINES,
    "no-space-behind-the-colon": STREAM.replace(b"data: ", b"data:"),
    "crlf": STREAM.replace(b"\n", b"\r\n"),
    "crlf-comments": COMMENTS.replace(b"\n", b"\r\n"),
    "blank-lines": b"\n\n" + STREAM.removesuffix(DONE).replace(b"\n\n", b"\n\n\n\n") + DONE,
    "more-after-the-finish": OPENING
    + WORDS
    + FINISH
    + chunk({"content": ""})
    + USAGE_CHUNK
    + b": x\n\n"
    + DONE,
    "reasoning": OPENING + chunk({"reasoning_content": "hm"}) + WORDS + FINISH + USAGE_CHUNK + DONE,
    "nothing-said": OPENING + FINISH + USAGE_CHUNK + DONE,
    "null-usage-everywhere": STREAM.replace(b'"model" :', b'"usage" : null, "model" :'),
}
FRAMINGS = [
    {"framing": "chunked"},
    {"framing": "close"},
    {"framing": "chunked", "pieces": 1},
    {"framing": "close", "pieces": 7},
    {"framing": "length", "gzip": True},
]


@pytest.mark.parametrize("framing", FRAMINGS, ids=str)
@pytest.mark.parametrize("name", STREAMS)
def test_a_stream_with_usage_asked_for_arrives_byte_for_byte(
    talk: Talk, name: str, framing: dict[str, Any]
) -> None:
    answer = talk.ask(Script(STREAMS[name], **framing), **ASKED)
    assert answer.content == STREAMS[name]
    assert answer.headers["content-type"].startswith("text/event-stream")


@pytest.mark.parametrize("framing", FRAMINGS, ids=str)
@pytest.mark.parametrize("name", STREAMS)
def test_a_stream_without_usage_asked_for_lacks_exactly_that_chunk(
    talk: Talk, name: str, framing: dict[str, Any]
) -> None:
    answer = talk.ask(Script(STREAMS[name], **framing), stream=True)
    events = split_events(STREAMS[name])
    kept = [event for event in events if b'"choices" : []' not in event]
    assert len(kept) == len(events) - 1
    assert answer.content == b"".join(kept)


def split_events(stream: bytes) -> list[bytes]:
    """The events of a stream with their ends."""
    end = b"\r\n\r\n" if b"\r" in stream else b"\n\n"
    return [event + end for event in stream.split(end)[:-1]]


def test_usage_that_comes_in_the_finish_stays_there(talk: Talk) -> None:
    stream = OPENING + WORDS + chunk({}, "stop", usage=USAGE) + DONE
    assert talk.ask(Script(stream), stream=True).content == stream
    assert talk.ask(Script(stream), **ASKED).content == stream


def test_a_missing_end_mark_is_added(talk: Talk) -> None:
    for framing in ("chunked", "close"):
        answer = talk.ask(Script(STREAM.removesuffix(DONE), framing=framing), **ASKED)
        assert answer.content == STREAM


def test_an_event_that_is_not_json_is_left_out_and_nothing_else(talk: Talk) -> None:
    bad = b'data: {"choices": [{"index": 0, "delta": {"content": "x"\n\n'
    stream = OPENING + bad + WORDS + FINISH + USAGE_CHUNK + DONE
    assert talk.ask(Script(stream), **ASKED).content == STREAM


BODIES = {
    "spelled-otherwise": PLAIN,
    "pretty": json.dumps(json.loads(PLAIN), indent=4).encode(),
    "large": PLAIN.replace(b"so wide", b"so wide" * 100_000),
    "leading-space": b"  \n" + PLAIN,
}


@pytest.mark.parametrize("framing", [*FRAMINGS, {"framing": "length"}], ids=str)
@pytest.mark.parametrize("name", BODIES)
def test_a_plain_answer_arrives_byte_for_byte(talk: Talk, name: str, framing: dict[str, Any]) -> None:
    if framing.get("pieces") and name == "large":
        framing = {**framing, "pieces": 9_999}
    answer = talk.ask(Script(BODIES[name], JSON, **framing))
    assert answer.content == BODIES[name]
    assert int(answer.headers["content-length"]) == len(BODIES[name])
    assert "x-cost-usd" in answer.headers


def test_the_client_is_never_told_of_a_coding_that_it_does_not_get(talk: Talk) -> None:
    answer = talk.ask(Script(PLAIN, JSON, gzip=True, framing="length"))
    assert "content-encoding" not in answer.headers and gzip.compress(PLAIN)[:2] != answer.content[:2]


# --- cuts

SHORT = OPENING + WORDS + FINISH + USAGE_CHUNK + DONE
FINISHED_AT = len(OPENING + WORDS + FINISH)
CUTS = [
    {"framing": "chunked"},
    {"framing": "close"},
    {"framing": "chunked", "reset": True},
]


def stride(framing: dict[str, Any]) -> int:
    """Every byte where a cut is plainest; the other ways of breaking are tried at fewer places."""
    return 1 if framing == {"framing": "chunked"} else 7 if framing.get("reset") else 3


def judge_cut(answer: httpx.Response, at: int) -> None:
    """The whole answer, or one clear error: never a part that looks whole."""
    if at >= FINISHED_AT:
        assert answer.status_code == 200
        assert join_text(read_events(answer.text)) == TEXT
        assert answer.content.endswith(DONE)
        return
    if answer.status_code != 200:
        assert answer.status_code == 502
        assert answer.json()["error"]["message"]
        return
    events = read_events(answer.text)
    errors = [event for event in events if isinstance(event, dict) and event.get("error")]
    whole = join_text(events) == TEXT and events[-1] == "[DONE]"
    assert whole or (len(errors) == 1 and events[-1] is errors[0])
    assert TEXT.startswith(join_text(events))
    assert whole or DONE not in answer.content


@pytest.mark.parametrize("framing", CUTS, ids=str)
def test_a_stream_cut_at_any_byte_is_whole_or_one_clear_error(talk: Talk, framing: dict[str, Any]) -> None:
    committed = 0
    for at in range(0, len(SHORT), stride(framing)):
        answer = talk.ask(Script(SHORT, cut=at, **framing), **ASKED)
        judge_cut(answer, at)
        committed += answer.status_code == 200
    assert committed


@pytest.mark.parametrize("framing", CUTS, ids=str)
def test_a_stream_cut_at_any_byte_is_whole_with_a_healthy_second_target(
    talk: Talk, framing: dict[str, Any]
) -> None:
    second = SHORT.replace(b"Zq9", b"2nd").replace(b"upstream-name", b"second-name")
    for at in range(0, len(SHORT), stride(framing)):
        answer = talk.ask_two(Script(SHORT, cut=at, **framing), Script(second), **ASKED)
        assert answer.status_code == 200, at
        events = read_events(answer.text)
        assert join_text(events) == TEXT, at
        chunks = [event for event in events if isinstance(event, dict)]
        assert not any("error" in event for event in chunks)
        finishes = [c["finish_reason"] for event in chunks for c in event["choices"] if c["finish_reason"]]
        assert finishes == ["stop"]
        assert events[-1] == "[DONE]" and events.count("[DONE]") == 1
        assert len({event["id"] for event in chunks}) == 1
        if at < FINISHED_AT - len("\n\n"):
            assert chunks[-1]["usage"] == USAGE


def test_a_cut_crlf_stream_goes_on_elsewhere_in_any_line_end(talk: Talk) -> None:
    broken = COMMENTS.replace(b"\n", b"\r\n")
    for at in range(0, len(broken), 11):
        for second in (STREAM, broken):
            answer = talk.ask_two(Script(broken, cut=at), Script(second, pieces=3), **ASKED)
            events = read_events(answer.text.replace("\r\n", "\n"))
            assert join_text(events) == TEXT and events[-1] == "[DONE]"
            assert len({event["id"] for event in events if isinstance(event, dict)}) == 1


def test_a_stream_of_several_choices_is_whole_when_all_have_finished(
    talk: Talk, client: httpx.Client
) -> None:
    def say(index: int, finish: str | None) -> bytes:
        choice = {"index": index, "delta": {"content": "a"}, "text": "a", "finish_reason": finish}
        return chunk(None).replace(b'"choices" : []', b'"choices" : ' + json.dumps([choice]).encode())

    parts = [say(0, None), say(1, None), say(0, "stop"), say(1, "stop"), DONE]
    two_prompts = {"prompt": ["one", "two"], "stream": True, "model": "first/said"}
    for framing in ("chunked", "close"):
        for whole in (2, 3, 4):
            script = Script(b"".join(parts), cut=len(b"".join(parts[:whole])), framing=framing)
            answer = talk.ask(script, n=2, stream=True)
            assert (b"error" in answer.content, DONE in answer.content) == (whole < 4, whole == 4)
            answer = client.post("/v1/completions", json=two_prompts)
            assert (b"error" in answer.content, DONE in answer.content) == (whole < 4, whole == 4)


@pytest.mark.parametrize("framing", [*CUTS, {"framing": "length"}], ids=str)
def test_a_plain_answer_cut_at_any_byte_is_a_true_error_or_asked_elsewhere(
    talk: Talk, framing: dict[str, Any]
) -> None:
    end = len(PLAIN.rstrip())
    for at in range(0, end, 1 if framing == {"framing": "chunked"} else 9):
        answer = talk.ask(Script(PLAIN, JSON, cut=at, **framing))
        assert answer.status_code == 502 and answer.json()["error"]["message"]
        answer = talk.ask_two(Script(PLAIN, JSON, cut=at, **framing), Script(PLAIN, JSON))
        assert (answer.status_code, answer.content) == (200, PLAIN)
        assert answer.headers["x-provider"] == "second" and answer.headers["x-attempts"] == "2"


def test_an_empty_stream_is_not_an_answer(talk: Talk) -> None:
    for empty in (DONE, OPENING + DONE, b": x\n\n" + DONE, b""):
        answer = talk.ask(Script(empty), stream=True)
        assert answer.status_code == 502, empty
        answer = talk.ask_two(Script(empty), Script(STREAM), **ASKED)
        assert answer.content == STREAM


# --- requests


def test_a_request_arrives_byte_for_byte_but_for_the_model(talk: Talk) -> None:
    talk.upstream.scripts["said"] = Script(PLAIN, JSON)
    body = (
        '{ "temperature" : 1.00, "messages":[ {"role":"user","content":"\\u00e9 \\/ \\"model\\" é"} ],\n'
        '  "model" :"first/said", "seed":12345678901234567890,"x_unknown": {"a":[1, 2.50,null]} }\n'
    ).encode()
    assert talk.send(body) == body.replace(b'"first/said"', b'"said"')


def test_a_streamed_request_only_gains_the_wish_for_usage(talk: Talk) -> None:
    talk.upstream.scripts["said"] = Script(STREAM)
    body = (
        b'{"stream": true, "messages": [{"role":"user","content":"hi"}], "model": "first/said", "top_p":0.10}'
    )
    sent = talk.send(body)
    assert sent == body.replace(b"first/", b"")[:-1] + b',"stream_options":{"include_usage":true}}'


def test_a_streamed_request_that_asks_for_usage_is_left_alone(talk: Talk) -> None:
    talk.upstream.scripts["said"] = Script(STREAM)
    body = (
        b'{"stream":true,"stream_options":{ "include_usage":true , "x":1 },'
        b'"messages":[{"role":"user","content":"hi"}],"model":"first/said"}'
    )
    assert talk.send(body) == body.replace(b"first/", b"")


def test_what_the_client_wrote_into_stream_options_stays(talk: Talk) -> None:
    talk.upstream.scripts["said"] = Script(STREAM)
    body = (
        b'{"stream":true,"stream_options":{"include_obfuscation":false},"n":1.0e0,'
        b'"messages":[{"role":"user","content":"hi"}],"model":"first/said"}'
    ).replace(b'"n":1.0e0,', b"")
    sent = talk.send(body)
    assert json.loads(sent)["stream_options"] == {"include_obfuscation": False, "include_usage": True}
    head, tail = body.replace(b"first/", b"").split(b'{"include_obfuscation":false}')
    assert sent.startswith(head) and sent.endswith(tail)


def test_declared_fixes_change_their_members_and_nothing_else(talk: Talk) -> None:
    talk.upstream.scripts["said"] = Script(PLAIN, JSON)
    body = (
        b'{"model":"fixed/said","logit_bias":{"1":2},"messages":[{"role":"user","content":"a  \\u0062"}],'
        b'"max_completion_tokens":7,"temperature":1.70,"top_p":1.50}'
    ).replace(b"\\u0062", b"\\n")
    sent = talk.send(body)
    assert json.loads(sent) == {
        "model": "said",
        "messages": [{"role": "user", "content": "a  \n"}],
        "max_tokens": 7,
        "temperature": 1,
        "top_p": 1.5,
        "store": False,
    }
    assert b'"messages":[{"role":"user","content":"a  \\n"}]' in sent and b'"top_p":1.50' in sent


def test_a_model_named_twice_is_asked_for_once(talk: Talk) -> None:
    talk.upstream.scripts["other/näme"] = Script(PLAIN, JSON)
    body = b'{"model":"dear","messages":[{"role":"user","content":"hi"}],"model":"renamed"}'
    assert json.loads(talk.send(body), object_pairs_hook=list).count(("model", "other/näme")) == 1
    assert talk.send(body).count(b'"model"') == 1


def test_the_clients_headers_and_key_stay_with_the_gateway(talk: Talk, client: httpx.Client) -> None:
    talk.upstream.scripts["said"] = Script(PLAIN, JSON)
    talk.upstream.requests.clear()
    request = {"model": "first/said", "messages": [{"role": "user", "content": "hi"}]}
    client.post("/v1/chat/completions", json=request, headers={"x-private": "p", "cookie": "c=1"})
    ((head, _),) = talk.upstream.requests
    assert b"key-of-first" in head and ADMIN_KEY.encode() not in head
    assert b"x-private" not in head and b"cookie" not in head


def test_script_variants_are_what_they_say() -> None:
    script = Script(STREAM, gzip=True)
    assert gzip.decompress(script.coded()) == STREAM
    assert replace(script, gzip=False).coded() == STREAM

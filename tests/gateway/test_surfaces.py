"""Every dialect at its doors: answers, streams, errors of every kind in its own words; new doors without a restart."""

import json
import re
import threading
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.wire.framing import split_all
from tests.gateway.replay import JSON, Replay, Script
from tests.harness import ADMIN_KEY, Gateway, running, write_files

SAID = [{"role": "user", "content": "Hello you"}]
PARTS = {"contents": [{"role": "user", "parts": [{"text": "Hello you"}]}]}
BLOCKS = {"messages": [{"role": "user", "content": [{"text": "Hello you"}]}]}
# (path of a plain call, path of a streamed one, body without the model, what is added to stream)
DIALECTS: dict[str, tuple[str, str, dict[str, Any], dict[str, Any]]] = {
    "openai-chat": ("/v1/chat/completions", "/v1/chat/completions", {"messages": SAID}, {"stream": True}),
    "anthropic": ("/v1/messages", "/v1/messages", {"messages": SAID, "max_tokens": 99}, {"stream": True}),
    "responses": ("/v1/responses", "/v1/responses", {"input": "Hello you"}, {"stream": True}),
    "cohere": ("/v2/chat", "/v2/chat", {"messages": SAID}, {"stream": True}),
    "gemini": (
        "/v1beta/models/{model}:generateContent",
        "/v1beta/models/{model}:streamGenerateContent?alt=sse",
        PARTS,
        {},
    ),
    "gemini-array": (
        "/v1beta/models/{model}:generateContent",
        "/v1beta/models/{model}:streamGenerateContent",
        PARTS,
        {},
    ),
    "converse": ("/model/{model}/converse", "/model/{model}/converse-stream", BLOCKS, {}),
}
FRAMINGS = {"gemini-array": "json_array", "converse": "eventstream"}
MEDIA = {"json_array": "application/json", "eventstream": "application/vnd.amazon.eventstream"}
PARROT = """
format: parrot
operation: chat
framing: ndjson
stream_flag: {sing: true}
serves: [{path: /parrot}]
keepalive: ""
request: {model: "{{ target.model }}", lines: "{{ chat.turns | text }}"}
read_request:
  model: "{{ body.model }}"
  turns: [{role: user, parts: [{type: text, text: "{{ body.say }}"}]}]
accepts: {model: text!, say: text+}
write_reply: {said: "{{ answer.parts | text }}"}
write_stream: {on: {block_added: {piece: "{{ e.value }}"}}, end: {over: true}}
write_error: {squawk: "{{ error.message }}", where: "{{ error.param }}", id: "{{ error.request_id }}"}
write_error_headers: {x-squawk: "{{ error.status }}"}
"""
OWN = """
provider: {name}
format: {format}
auth: {{bearer: k}}
allow_private: true
passthrough: true
unknown_price: free
base_url: {url}
"""

MODELS = """
models:
  owl/one:
    created: 1700000000
    price: {input: "1"}
    limits: {context: 1000, output: 50}
    targets: [{provider: blocks, model: m}]
"""


@pytest.fixture(scope="module")
def upstream() -> Iterator[Replay]:
    replay = Replay()
    replay.start()
    yield replay
    replay.stop()


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory, upstream: Replay) -> Iterator[Gateway]:
    folder = tmp_path_factory.mktemp("surfaces")
    files = {"gateway.yaml": "telemetry: {log_level: debug}\n"}
    for name, format, url in (
        ("blocks", "anthropic-messages", upstream.url),
        ("parts", "gemini", upstream.url + "/v1beta"),
    ):
        files[f"providers.d/{name}.yaml"] = OWN.format(name=name, format=format, url=url)
    files["models.d/mine.yaml"] = MODELS
    write_files(folder, files)
    server = Gateway(folder)
    with running(server):
        yield server
        log = server.read_log()
        assert "Traceback" not in log and not re.search(r'"event":"(call|route)\.broke"', log)
        assert ADMIN_KEY not in log


@pytest.fixture(scope="module")
def client(gateway: Gateway) -> Iterator[httpx.Client]:
    with gateway.client() as open_client:
        yield open_client


def ask(
    client: httpx.Client, dialect: str, model: str = "sim/echo", *, stream: bool = False, **changes: Any
) -> httpx.Response:
    plain, streamed, body, flag = DIALECTS[dialect]
    path = streamed if stream else plain
    named = {} if "{model}" in path else {"model": model}
    return client.post(
        path.replace("{model}", model), json={**named, **body, **(flag if stream else {}), **changes}
    )


def read_frames(dialect: str, answer: httpx.Response) -> list[Any]:
    frames = split_all(FRAMINGS.get(dialect, "sse"), [answer.content])
    return [json.loads(each.data) for each in frames if each.data and each.data != b"[DONE]"]


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_plain_answer_is_told_in_every_dialect(client: httpx.Client, dialect: str) -> None:
    answer = ask(client, dialect)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/json" and "Hello you" in answer.text


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_stream_is_told_in_every_dialect(client: httpx.Client, dialect: str) -> None:
    answer = ask(client, dialect, stream=True)
    wanted = MEDIA.get(FRAMINGS.get(dialect, ""), "text/event-stream; charset=utf-8")
    assert answer.status_code == 200 and answer.headers["content-type"] == wanted
    frames = read_frames(dialect, answer)
    assert len(frames) > 2 and "Hello" in json.dumps(frames)


def message_of(document: Any) -> str:
    """The sentence of an error, wherever the dialect has it."""
    inner = document.get("error", document.get("exception", document))
    return str(inner["message"])


@pytest.mark.parametrize("dialect", DIALECTS)
def test_errors_before_the_answer_have_the_dialects_shape(client: httpx.Client, dialect: str) -> None:
    plain, *_ = DIALECTS[dialect]
    refusals = {
        401: client.post(
            plain.replace("{model}", "sim/echo"), json={}, headers={"authorization": "Bearer no"}
        ),
        404: ask(client, dialect, "no-such-model"),
        400: ask(client, dialect, **{name: 5 for name in ("messages", "contents", "input")}),
        405: client.get(plain.replace("{model}", "sim/echo")),
    }
    shapes = set()
    for status, answer in refusals.items():
        assert answer.status_code == status, answer.text
        assert message_of(answer.json()) and answer.headers["x-request-id"]
        shapes.add(tuple(sorted(answer.json())))
    assert len(shapes) == 1, shapes


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_field_of_the_wrong_type_is_named(client: httpx.Client, dialect: str) -> None:
    _, _, body, _ = DIALECTS[dialect]
    field = next(name for name in body if name != "max_tokens")
    answer = ask(client, dialect, **{field: 5})
    assert answer.status_code == 400 and field in message_of(answer.json())


@pytest.mark.parametrize("dialect", DIALECTS)
def test_an_error_inside_a_stream_is_told_in_the_dialect(client: httpx.Client, dialect: str) -> None:
    tokens = 20 + list(DIALECTS).index(dialect)  # a model each, for breakers count failures
    answer = ask(client, dialect, f"sim/cut@{tokens}", stream=True)
    assert answer.status_code == 200
    last = read_frames(dialect, answer)[-1]
    assert "broke" in json.dumps(last), last


@pytest.mark.parametrize(
    ("path", "keys"),
    [
        ("/v1/messages/x", {"type", "error", "request_id"}),
        ("/v1beta/nothing", {"error"}),
        ("/model/x/nothing", {"message", "__type"}),
        ("/v2/chat/x", {"id", "message"}),
        ("/v1/nothing", {"error", "request_id"}),
    ],
)
def test_a_wrong_path_is_told_in_the_nearest_dialect(client: httpx.Client, path: str, keys: set[str]) -> None:
    answer = client.post(path, json={})
    assert answer.status_code == 404 and set(answer.json()) == keys


def test_a_key_may_come_in_the_query_where_the_dialect_has_it_there(gateway: Gateway) -> None:
    path = "/v1beta/models/sim/echo:generateContent"
    with httpx.Client(base_url=gateway.url) as stranger:
        assert stranger.post(path, params={"key": ADMIN_KEY}, json=PARTS).status_code == 200
        assert stranger.post(path, headers={"x-goog-api-key": ADMIN_KEY}, json=PARTS).status_code == 200
        assert stranger.post(path, params={"key": "nonsense"}, json=PARTS).status_code == 401
        chat = {"model": "sim/echo", "messages": SAID}
        assert stranger.post("/v1/chat/completions", params={"key": ADMIN_KEY}, json=chat).status_code == 401


@pytest.mark.parametrize("model", ["sim%2Fecho", "sim/echo"])
def test_a_model_in_the_path_may_hold_slashes(client: httpx.Client, model: str) -> None:
    assert client.post(f"/model/{model}/converse", json=BLOCKS).status_code == 200


def test_headers_of_the_dialect_go_on_to_a_provider_of_the_same_wire(
    client: httpx.Client, upstream: Replay
) -> None:
    upstream.scripts["m"] = Script(b'{"content":[],"usage":{}}', JSON, framing="length")
    body = {"model": "blocks/m", "messages": SAID, "max_tokens": 9}
    headers = {"anthropic-beta": "more-2030", "x-other": "stays"}
    answer = client.post("/v1/messages", json=body, headers=headers)
    assert answer.content == b'{"content":[],"usage":{}}'
    head, _ = upstream.requests[-1]
    assert b"anthropic-beta: more-2030" in head and b"x-other" not in head
    assert ADMIN_KEY.encode() not in head


def test_a_model_of_the_path_is_sent_in_the_path_and_not_in_the_body(
    client: httpx.Client, upstream: Replay
) -> None:
    upstream.scripts["m"] = Script(b'{"candidates":[]}', JSON, framing="length")
    client.post("/v1beta/models/parts/m:generateContent", json=PARTS)
    head, sent = upstream.requests[-1]
    assert head.startswith(b"POST /v1beta/models/m:generateContent ") and json.loads(sent) == PARTS


GOOGLE = b'data: {"candidates": [{"content": {"parts": [{"text": "hi"}]}, "finishReason": "STOP", "index": 0}]}\n\n'


@pytest.mark.parametrize("dialect", ["gemini", "gemini-array"])
def test_a_stream_of_the_same_wire_passes_and_is_cut_as_the_client_asked(
    client: httpx.Client, upstream: Replay, dialect: str
) -> None:
    upstream.scripts["m"] = Script(GOOGLE)
    answer = ask(client, dialect, "parts/m", stream=True)
    head, _ = upstream.requests[-1]
    assert head.startswith(b"POST /v1beta/models/m:streamGenerateContent?alt=sse ")
    if dialect == "gemini":
        assert answer.content == GOOGLE
    else:
        assert answer.json() == [json.loads(GOOGLE[6:])]


def test_a_prompt_is_counted_though_no_provider_counts(client: httpx.Client) -> None:
    body = {"model": "sim/echo", "messages": [{"role": "user", "content": "word " * 400}]}
    counted = client.post("/v1/messages/count_tokens", json=body)
    assert counted.status_code == 200 and 490 < counted.json()["input_tokens"] < 520
    told = client.post("/v1beta/models/sim/echo:countTokens", json=PARTS)
    assert told.status_code == 200 and 0 < told.json()["totalTokens"] < 20
    refused = client.post("/v1/messages/count_tokens", json={**body, "model": "nope"})
    assert refused.status_code == 404 and refused.json()["type"] == "error"


def test_a_saved_file_is_a_new_dialect_while_calls_are_running(
    gateway: Gateway, client: httpx.Client
) -> None:
    assert client.post("/parrot", json={}).status_code == 404
    slow: list[httpx.Response] = []
    body = {"model": "sim/tokens@40,pace=50", "messages": SAID, "stream": True}
    running_call = threading.Thread(
        target=lambda: slow.append(client.post("/v1/chat/completions", json=body))
    )
    running_call.start()
    write_files(gateway.folder, {"providers.d/_formats/parrot.yaml": PARROT})
    assert client.post("/admin/config/reload").status_code == 200
    said = client.post("/parrot", json={"model": "sim/echo", "say": "Hello you"})
    assert said.json() == {"said": "Hello you"}
    sung = client.post("/parrot", json={"model": "sim/echo", "say": "Hello you", "sing": True})
    assert sung.headers["content-type"] == "application/x-ndjson"
    assert [json.loads(line) for line in sung.text.splitlines()][-1] == {"over": True}
    refused = client.post("/parrot", json={"model": "sim/echo", "say": ""})
    assert refused.status_code == 400 and refused.headers["x-squawk"] == "400"
    assert refused.json()["where"] == "say" and refused.json()["id"] == refused.headers["x-request-id"]
    running_call.join()
    assert slow[0].status_code in (200, 404)


WORDS = ("role", "content", "parts", "text", "type", "id", "name", "input")
LEAVES = st.none() | st.booleans() | st.integers(-5, 5) | st.floats(-1e9, 1e9) | st.text(max_size=5)
ANY = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(WORDS), inner, max_size=4),
    max_leaves=8,
)
KEYS = st.sampled_from(
    (
        *("messages", "contents", "input", "tools", "system", "max_tokens", "generationConfig", "stop", "n"),
        *("inferenceConfig", "toolConfig", "thinking", "tool_choice", "response_format", "text", "reasoning"),
        *("metadata", "documents", "systemInstruction", "instructions"),
    )
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=st.dictionaries(KEYS, ANY, min_size=1, max_size=4), stream=st.booleans())
@pytest.mark.parametrize("dialect", DIALECTS)
def test_no_body_breaks_a_door(
    client: httpx.Client, dialect: str, changes: dict[str, Any], stream: bool
) -> None:
    answer = ask(client, dialect, stream=stream, **changes)
    assert answer.status_code < 500 or answer.status_code in (502, 503, 504), (answer.text, changes)


def test_an_answer_shows_its_request_where_the_dialect_looks_for_it(client: httpx.Client) -> None:
    began = time.time()
    answer = ask(client, "anthropic")
    assert answer.headers["request-id"] == answer.headers["x-request-id"]
    assert time.time() - began < 30


def test_the_list_of_models_has_the_dialects_shape(gateway: Gateway, client: httpx.Client) -> None:
    listed = client.get("/v1/models", headers={"anthropic-version": "2023-06-01"}).json()
    row = {"type": "model", "id": "owl/one", "display_name": "owl/one", "created_at": "2023-11-14T22:13:20Z"}
    assert row in listed["data"] and listed["has_more"] is False and listed["first_id"]
    assert client.get("/v1/models/owl/one", headers={"anthropic-version": "2023-06-01"}).json() == row
    missing = client.get("/v1/models/no", headers={"anthropic-version": "2023-06-01"})
    assert missing.status_code == 404 and missing.json()["type"] == "error"
    assert client.get("/v1/models").json()["object"] == "list"

    with httpx.Client(base_url=gateway.url) as stranger:
        models = stranger.get("/v1beta/models", params={"key": ADMIN_KEY}).json()["models"]
        refused = stranger.get("/v1beta/models")
    (owl,) = [model for model in models if model["name"] == "models/owl/one"]
    assert (owl["inputTokenLimit"], owl["outputTokenLimit"]) == (1000, 50)
    assert client.get("/v1beta/models/owl/one").json() == owl
    assert refused.status_code == 401 and refused.json()["error"]["code"] == 401

"""What a stranger may send: each mistake gets its status and a clear sentence, and nothing of it breaks the gateway."""

import json
import re
import socket
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.harness import ADMIN_KEY, Gateway, Simulator, running, write_files

CHAT = "/v1/chat/completions"
GOOD: dict[str, Any] = {"model": "sim/echo", "messages": [{"role": "user", "content": "hi"}]}
FILES = {
    "gateway.yaml": "server: {max_body_mb: 1}\ntelemetry: {log_level: debug}\n",
    "models.d/mine.yaml": """
models:
  gpt-rehearsal:
    aliases: [openai/gpt-rehearsal, größer]
    price: {input: "1", output: "2"}
    targets: [{provider: upstream, model: sim/tokens@5}]
""",
}
UPSTREAM = "provider: upstream\nformat: openai-chat\nauth: none\nallow_private: true\nbase_url: {url}/v1\n"


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    folder = tmp_path_factory.mktemp("bad")
    simulator = Simulator(folder)
    write_files(folder, FILES | {"providers.d/upstream.yaml": UPSTREAM.format(url=simulator.url)})
    server = Gateway(folder)
    with running(simulator, server):
        yield server
        log = server.read_log()
        assert "Traceback" not in log
        assert not re.search(r'"event":"(call|route)\.broke"', log)


@pytest.fixture(scope="module")
def client(gateway: Gateway) -> Iterator[httpx.Client]:
    with gateway.client() as open_client:
        yield open_client


def post(client: httpx.Client, content: bytes | str, **headers: str) -> httpx.Response:
    named = {"content-type": "application/json"} | {
        name.replace("_", "-"): value for name, value in headers.items()
    }
    return client.post(CHAT, content=content, headers=named)


def read_error(response: httpx.Response) -> dict[str, Any]:
    """The error of an answer, after what every error has was checked."""
    assert response.headers["content-type"] == "application/json"
    document = response.json()
    assert set(document["error"]) == {"message", "type", "param", "code"}, document
    assert document["error"]["message"]
    assert response.headers["x-request-id"]
    error: dict[str, Any] = document["error"]
    return error


def speak(gateway: Gateway, request: bytes, within_s: float = 5.0) -> bytes:
    """Everything the gateway says to these very bytes until it closes, or is silent for a moment."""
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=within_s) as connection:
        connection.sendall(request)
        connection.settimeout(1.5)
        said = b""
        try:
            while piece := connection.recv(65536):
                said += piece
        except TimeoutError:
            pass
        return said


def head_of(*lines: str, path: str = CHAT) -> bytes:
    fixed = (f"POST {path} HTTP/1.1", "host: x", f"authorization: Bearer {ADMIN_KEY}")
    return "\r\n".join((*fixed, "content-type: application/json", *lines)).encode() + b"\r\n\r\n"


BODY = json.dumps(GOOD).encode()


@pytest.mark.parametrize(
    ("body", "place"),
    [
        (b'{"model": "sim/echo",\n  "messages": [}', "line 2, column 16"),
        (b"", "line 1, column 1"),
        (b"[" * 10_000, "line 1"),
        (b'{"a":' * 10_000, "line 1"),
        (b'{"model": NaN}', "line 1"),
        (b'{"model": Infinity}', "line 1"),
        (b'{"model": "sim/echo", "temperature": 1e999}', "line 1"),
        (b'{"model": "\xff\xfe"}', "UTF-8"),
        (b'{"model": "\\ud800", "messages": [}', "column"),
        (b'{"model": "\\ud800", "temperature": NaN}', "NaN"),
        (b'{"model": "\\ud800", "x": \xff}', "utf-8"),
        (b'{"model": "\\ud800", "x": ' + b"[" * 10_000, "deep"),
        (b'{"model": "a\x00b"}', "line 1"),
        (b"\xef\xbb\xbf{}", "line 1"),
        (b"{} {}", "line 1"),
        (b"'single'", "line 1"),
    ],
    ids=range(16),
)
def test_a_body_that_is_not_json_is_told_where(client: httpx.Client, body: bytes, place: str) -> None:
    response = post(client, body)
    assert response.status_code == 400
    error = read_error(response)
    assert error["code"] == "invalid_json" and place in error["message"]


@pytest.mark.parametrize("body", [b"[]", b'"text"', b"1", b"null", b"true"])
def test_json_that_is_no_object_is_refused(client: httpx.Client, body: bytes) -> None:
    response = post(client, body)
    assert response.status_code == 400 and read_error(response)["code"] == "invalid_json"


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"model": None}, "model"),
        ({"model": 7}, "model"),
        ({"model": ""}, "model"),
        ({"model": ["sim/echo"]}, "model"),
        ({"model": "x" * 5000}, "model"),
        ({"messages": None}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": {}}, "messages"),
        ({"messages": "hi"}, "messages"),
        ({"messages": [1, 2]}, "messages[0]"),
        ({"stream": "yes"}, "stream"),
        ({"stream": 1}, "stream"),
        ({"stream_options": []}, "stream_options"),
        ({"stream_options": "usage"}, "stream_options"),
        ({"n": 0}, "n"),
        ({"n": "2"}, "n"),
        ({"n": True}, "n"),
        ({"n": 1.5}, "n"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"max_completion_tokens": "many"}, "max_completion_tokens"),
        ({"temperature": "hot"}, "temperature"),
        ({"top_p": []}, "top_p"),
        ({"tools": {}}, "tools"),
        ({"response_format": "json"}, "response_format"),
        ({"metadata": [1]}, "metadata"),
    ],
    ids=range(25),
)
def test_a_field_of_the_wrong_type_is_named(client: httpx.Client, change: dict[str, Any], param: str) -> None:
    response = client.post(CHAT, json=GOOD | change)
    assert response.status_code == 400
    error = read_error(response)
    assert error["param"] == param and param in error["message"]
    assert error["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    ("asked", "near"),
    [
        ("gpt-rehersal", "gpt-rehearsal"),
        ("gpt-4o-minj", "gpt-4o-mini"),
        ("nobody/gpt-rehearsal", "gpt-rehearsal"),
    ],
)
def test_an_unknown_model_gets_near_names(client: httpx.Client, asked: str, near: str) -> None:
    response = client.post(CHAT, json=GOOD | {"model": asked})
    assert response.status_code == 404
    error = read_error(response)
    assert error["code"] == "model_not_found" and error["param"] == "model"
    assert near in error["message"]


@pytest.mark.parametrize(
    "name",
    [
        "a\r\nx-evil: 1",
        "日本語モデル",
        "\u202egpt",
        "a\x00b",
        "../../etc/passwd",
        "{{ 7*7 }}",
        "x" * 512,
        "🙂" * 200,
        "/",
        "sim/",
        " sim/echo",
    ],
    ids=range(11),
)
def test_no_model_name_reaches_the_headers_raw(client: httpx.Client, name: str) -> None:
    response = client.post(CHAT, json=GOOD | {"model": name})
    assert response.status_code == 404
    read_error(response)
    assert "x-evil" not in response.headers
    shown = response.headers["x-requested-model"]
    assert shown.isascii() and shown.isprintable() and len(shown) <= 6144


def test_an_alias_with_letters_beyond_ascii_is_served(client: httpx.Client) -> None:
    response = client.post(CHAT, json=GOOD | {"model": "größer"})
    assert response.status_code == 200
    assert response.headers["x-requested-model"] == "gr%C3%B6%C3%9Fer"


def test_absurd_numbers_are_not_our_problem(client: httpx.Client) -> None:
    for change in (
        {"max_tokens": 10**18},
        {"max_tokens": 2**63 - 1},
        {"temperature": -1e308},
        {"seed": 10**30},
        {"n": 10**12, "stream": True},
        {"n": 2**62, "stream": True},
    ):
        began = time.monotonic()
        response = client.post(CHAT, json=GOOD | change)
        assert response.status_code in (200, 400), change
        assert time.monotonic() - began < 5, change


def test_deep_nesting_that_json_allows_is_served(client: httpx.Client) -> None:
    deep: Any = "x"
    for _ in range(900):
        deep = [deep]
    response = client.post(CHAT, json=GOOD | {"metadata": {"deep": deep}})
    assert response.status_code == 200
    renamed = client.post(CHAT, json=GOOD | {"model": "gpt-rehearsal", "metadata": {"deep": deep}})
    assert renamed.status_code == 200


@pytest.mark.parametrize("depth", [300, 900, 1000, 1020])
def test_deep_nesting_that_must_be_rewritten_is_served_or_refused(client: httpx.Client, depth: int) -> None:
    deep = b"[" * depth + b"]" * depth
    start = b'{"mod\\u0065l":"gpt-rehearsal","messages":[{"role":"user","content":"hi"}],'
    response = post(client, start + b'"metadata":{"a":' + deep + b"}}")
    assert response.status_code in (200, 400)
    if response.status_code == 400:
        assert "deep" in read_error(response)["message"]


@pytest.mark.parametrize(
    "model", ["\\ud800", "sim/\\udfff", "sim/echo\\ud83d", "upstream/a\\udc00", "gpt-rehearsal\\ud800"]
)
@pytest.mark.parametrize("stream", [b"true", b"false"])
def test_half_a_surrogate_pair_in_a_models_name_is_refused(
    client: httpx.Client, model: str, stream: bytes
) -> None:
    head = b'{"model":"' + model.encode() + b'","stream":' + stream
    response = post(client, head + b',"messages":[{"role":"user","content":"\\ud83d"}]}')
    assert response.status_code == 400 and read_error(response)["param"] == "model"


def test_half_a_surrogate_pair_beside_an_endless_number_breaks_nothing(client: httpx.Client) -> None:
    for model in ("gpt-rehearsal", "sim/echo"):
        body = b'{"mod\\u0065l":"%b","messages":[{"role":"user","content":"\\ud83d"}],"temperature":1e999}'
        response = post(client, body % model.encode())
        assert response.status_code == 400
        read_error(response)


@pytest.mark.parametrize(
    "body",
    [
        b'{"model":"sim/429","model":"sim/echo","messages":[{"role":"user","content":"hi"}]}',
        b'{"mod\\u0065l":"sim/429","model":"sim/echo","messages":[{"role":"user","content":"hi"}]}',
        b'{"model":"sim/429","messages":[{"role":"user","content":"hi"}],"mod\\u0065l":"sim/echo"}',
    ],
)
def test_the_upstream_never_sees_another_model_than_was_priced(client: httpx.Client, body: bytes) -> None:
    response = post(client, body)
    assert response.status_code == 200
    assert response.headers["x-requested-model"] == "sim/echo"


def test_nul_in_text_is_answered_and_recorded(gateway: Gateway, client: httpx.Client) -> None:
    body = json.dumps(GOOD | {"model": "sim/x\x00y", "user": "a\x00b"})
    response = post(client, body, x_tags="team=a")
    assert response.status_code == 404
    record = gateway.find_record(response.headers["x-request-id"])
    assert record["requested_model"] == "sim/xy"


@pytest.mark.parametrize("media_type", ["text/plain", "application/x-www-form-urlencoded", "image/png", ""])
def test_a_media_type_that_is_not_json_is_415(client: httpx.Client, media_type: str) -> None:
    response = client.post(CHAT, content=BODY, headers={"content-type": media_type} if media_type else {})
    assert response.status_code == 415
    assert "application/json" in read_error(response)["message"]


@pytest.mark.parametrize(
    "media_type", ["application/json; charset=utf-8", "Application/JSON", "application/vnd.x+json"]
)
def test_json_under_another_name_is_taken(client: httpx.Client, media_type: str) -> None:
    assert post(client, BODY, content_type=media_type).status_code == 200


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({}, "api_key_missing"),
        ({"authorization": ""}, "invalid_api_key"),
        ({"authorization": "Bearer"}, "invalid_api_key"),
        ({"authorization": f"Basic {ADMIN_KEY}"}, "invalid_api_key"),
        ({"authorization": f"Bearer {ADMIN_KEY[:-1]}"}, "invalid_api_key"),
        ({"authorization": f"Bearer {ADMIN_KEY}x"}, "invalid_api_key"),
        ({"authorization": "Bearer sk-proj-abc"}, "invalid_api_key"),
        ({"authorization": "Bearer gw_live_" + "A" * 43}, "invalid_api_key"),
        ({"authorization": "Bearer gw_live_" + "é" * 43}, "invalid_api_key"),
        ({"authorization": "Bearer " + "A" * 20_000}, "invalid_api_key"),
        ({"x-api-key": "gw_live_'; DROP TABLE api_keys; --"}, "invalid_api_key"),
        ({"authorization": f"Bearer {ADMIN_KEY}", "x-api-key": "gw_live_" + "A" * 43}, "invalid_api_key"),
    ],
    ids=range(12),
)
def test_a_key_that_is_not_one_is_401(gateway: Gateway, headers: dict[str, str], code: str) -> None:
    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    response = httpx.post(gateway.url + CHAT, json=GOOD, headers=raw)
    assert response.status_code == 401
    error = read_error(response)
    assert error["code"] == code and error["type"] == "authentication_error"
    assert all(value not in response.text for value in headers.values() if len(value) > 10)


@pytest.mark.parametrize("header", ["x-api-key", "x-goog-api-key", "authorization"])
def test_every_header_that_carries_keys_is_read(gateway: Gateway, header: str) -> None:
    value = ADMIN_KEY if header != "authorization" else f"bearer {ADMIN_KEY}"
    assert httpx.post(gateway.url + CHAT, json=GOOD, headers={header: value}).status_code == 200


def test_a_body_over_the_limit_is_refused_by_its_announced_length(gateway: Gateway) -> None:
    answer = speak(gateway, head_of(f"content-length: {2 << 20}"))
    assert answer.startswith(b"HTTP/1.1 413") and b"request_too_large" in answer


def test_a_chunked_body_over_the_limit_is_refused_while_it_is_read(gateway: Gateway) -> None:
    began = time.monotonic()
    answer = speak(
        gateway, head_of("transfer-encoding: chunked") + (b"10000\r\n" + b" " * 65536 + b"\r\n") * 20
    )
    assert answer.startswith(b"HTTP/1.1 413")
    assert time.monotonic() - began < 6


@pytest.mark.parametrize(
    "request_bytes",
    [
        head_of(f"content-length: {len(BODY)}", "transfer-encoding: chunked") + BODY,
        head_of(f"content-length: {len(BODY)}", f"content-length: {len(BODY) + 5}") + BODY,
        head_of("content-length: -1") + BODY,
        head_of("content-length: +5") + BODY,
        head_of("content-length: 99999999999999999999999999") + BODY,
        head_of("transfer-encoding: chunked") + b"ZZ\r\nxx\r\n0\r\n\r\n",
        head_of("transfer-encoding: gzip, chunked, identity") + BODY,
        head_of("x-bad\x00name: 1", "content-length: 0"),
        head_of("x y: 1", "content-length: 0"),
        head_of(" folded: 1", "content-length: 0"),
        b"POST /v1/chat/completions HTTP/9.9\r\nhost: x\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET /\x00 HTTP/1.1\r\nhost: x\r\n\r\n",
        head_of("x-long: " + "a" * 70_000, "content-length: 0"),
        head_of(*(f"x-{number}: 1" for number in range(400)), "content-length: 0"),
        head_of("content-length: 0", path="/" + "a" * 20_000),
    ],
    ids=range(16),
)
def test_bytes_that_could_be_read_in_two_ways_are_refused(gateway: Gateway, request_bytes: bytes) -> None:
    answer = speak(gateway, request_bytes)
    assert re.match(rb"HTTP/1\.1 4\d\d ", answer), answer[:200]
    assert answer.count(b"HTTP/1.1") == 1


def test_a_request_hidden_in_a_body_is_not_answered(gateway: Gateway) -> None:
    hidden = b"GET /admin/config HTTP/1.1\r\nhost: x\r\n\r\n"
    answer = speak(
        gateway, head_of("transfer-encoding: chunked", "content-length: 4") + b"0\r\n\r\n" + hidden
    )
    assert b"revision" not in answer and answer.count(b"HTTP/1.1 ") <= 1


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS"])
def test_another_method_is_405(client: httpx.Client, method: str) -> None:
    response = client.request(method, CHAT)
    assert response.status_code == 405
    assert response.headers["allow"] == "POST"
    if method != "HEAD":
        assert "POST" in read_error(response)["message"]


@pytest.mark.parametrize(
    "path",
    [
        "//v1/chat/completions",
        "/v1/chat/completions/",
        "/v1/chat%2Fcompletions/x",
        "/v1/models/..%2f..%2fadmin%2fconfig",
        "/v1/models/%00",
        "/v1/models/%ff%fe",
        "/v1/models/%0d%0ax-evil:%201",
        "/v1/../admin/config",
        "/V1/CHAT/COMPLETIONS",
        "/nothing",
        "/" + "a/" * 5000,
        "/%",
        "/%zz",
        "/v1/responses/resp_%00",
        "/v1/responses/%00/input_items",
    ],
    ids=range(15),
)
def test_a_path_that_leads_nowhere_is_404(gateway: Gateway, path: str) -> None:
    request = (
        f"GET {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {ADMIN_KEY}\r\nconnection: close\r\n\r\n"
    )
    head, _, body = speak(gateway, request.encode()).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 404"), head[:100]
    assert b"x-evil:" not in head
    assert json.loads(body)["error"]["message"] and b"x-request-id" in head


def test_a_wrong_media_type_is_an_invalid_request_of_messages_too(client: httpx.Client) -> None:
    response = client.post("/v1/messages", content=b"{}", headers={"content-type": "text/plain"})
    assert response.status_code == 415
    assert response.json()["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize("name", [r"\u0000", r"resp_\ud800", r"r\u00e9sp_1"])
def test_an_answer_whose_id_no_answer_can_have_is_not_there(client: httpx.Client, name: str) -> None:
    body = '{"model": "sim/echo", "input": "hi", "previous_response_id": "NAME"}'.replace("NAME", name)
    response = client.post("/v1/responses", content=body, headers={"content-type": "application/json"})
    assert response.status_code == 400
    assert response.json()["error"]["code"] == "previous_response_not_found"


@pytest.mark.parametrize(
    ("path", "headers", "keys"),
    [
        ("/v1/models/nothing", {}, {"error", "request_id"}),
        ("/models/nothing", {}, {"error", "request_id"}),
        ("/v1/models/nothing", {"anthropic-version": "2023-06-01"}, {"type", "error", "request_id"}),
        ("/v1beta/models/nothing", {}, {"error"}),
    ],
)
def test_an_unknown_model_is_told_in_the_dialect_of_the_list(
    client: httpx.Client, path: str, headers: dict[str, str], keys: set[str]
) -> None:
    response = client.get(path, headers=headers)
    assert response.status_code == 404 and set(response.json()) == keys


def test_a_percent_encoded_path_is_the_path_it_means(client: httpx.Client) -> None:
    assert client.post("/v1/%63hat/completions", json=GOOD).status_code == 200


def test_a_wrong_route_gets_near_names(client: httpx.Client) -> None:
    response = client.post("/v1/chat/completion", json=GOOD)
    assert response.status_code == 404 and CHAT in read_error(response)["message"]


@pytest.mark.parametrize("path", ["/v1/batches", "/v1/batches/b_1", "/v1/files", "/v1/realtime", "/mcp"])
def test_what_is_not_built_says_so(client: httpx.Client, path: str) -> None:
    for response in (client.get(path), client.post(path, json={})):
        assert response.status_code == 501
        assert "not built" in read_error(response)["message"]


@pytest.mark.parametrize(
    "query",
    [
        "limit=0",
        "limit=x",
        "limit=%C2%B2",
        "limit=" + "9" * 5000,
        "limit=-1",
        "after=nobody",
        "after=%00",
        "model=%00",
        "tags=abc",
        "tags=a%3D%00",
        "since=yesterday",
        "until=9999999-01-01",
        "nothing=1",
        "user_id=%ff",
    ],
    ids=range(14),
)
def test_a_wrong_filter_is_told(client: httpx.Client, query: str) -> None:
    response = client.get(f"/admin/calls?{query}")
    assert response.status_code in (200, 400), response.text
    if response.status_code == 400:
        read_error(response)


@pytest.mark.parametrize("value", ["team", "=x", "a" * 65 + "=b", "a=" + "b" * 300])
def test_tags_of_another_form_are_refused(client: httpx.Client, value: str) -> None:
    response = post(client, BODY, x_tags=value)
    assert response.status_code == 400 and read_error(response)["param"] == "x-tags"


def test_more_than_twenty_tags_are_refused(client: httpx.Client) -> None:
    value = ",".join(f"t{number}=1" for number in range(21))
    assert post(client, BODY, x_tags=value).status_code == 400


def test_a_request_id_is_taken_only_when_it_is_harmless(client: httpx.Client) -> None:
    assert post(client, BODY, x_request_id="mine-1").headers["x-request-id"] == "mine-1"
    for evil in ("a b", "x" * 200, "<script>", "é"):
        response = client.post(CHAT, json=GOOD, headers={b"x-request-id": evil.encode()})
        assert response.headers["x-request-id"].startswith("call_")


def test_nothing_of_all_this_was_lost(gateway: Gateway, client: httpx.Client) -> None:
    response = client.post(CHAT, json=GOOD)
    assert response.json()["choices"][0]["message"]["content"] == "hi"
    record = gateway.find_record(response.headers["x-request-id"])
    assert (record["status"], record["http_status"]) == ("ok", 200)
    metrics = client.get("/metrics").text
    assert 'gatewayz_journal_records{state="refused"} 0' in metrics
    assert re.search(r"^gatewayz_calls_in_progress(\{.*\})? 0", metrics, re.MULTILINE)

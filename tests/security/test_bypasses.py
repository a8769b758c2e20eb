"""Ways in that others have found elsewhere: smuggled requests, odd spellings, two keys, ids of others."""

import base64
import json
import re
import socket
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import jwt
import pytest

from tests.harness import ADMIN_KEY
from tests.security.seeding import House, keep_house

CHAT = "/v1/chat/completions"
BODY = json.dumps({"model": "sim/echo", "messages": [{"role": "user", "content": "hi"}]}).encode()
MARKS = (b'"revision"', b'"api_key"', b'"total_logs"', b'"workers"')
"""What an administrator's answer would have in it."""


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with keep_house(tmp_path_factory.mktemp("house")) as kept:
        yield kept
        log = kept.gateway.read_log()
        assert "Traceback" not in log and '.broke"' not in log, log[-3000:]


def speak(house: House, request: bytes, within_s: float = 5.0) -> bytes:
    """Everything that is said to these very bytes until the gateway closes, or is silent for a moment."""
    with socket.create_connection(("127.0.0.1", house.gateway.port), timeout=within_s) as connection:
        connection.sendall(request)
        connection.settimeout(1.0)
        said = b""
        try:
            while piece := connection.recv(65536):
                said += piece
        except (TimeoutError, ConnectionResetError):
            pass
        return said


def list_statuses(said: bytes) -> list[int]:
    return [int(found) for found in re.findall(rb"HTTP/1\.1 (\d{3}) ", said)]


def ask_with(house: House, role: str, method: str, path: str, **more: Any) -> httpx.Response:
    headers = {"authorization": f"Bearer {house.keys[role]}", **more.pop("headers", {})}
    return httpx.request(method, house.gateway.url + path, headers=headers, timeout=30, **more)


# --- smuggled requests

HIDDEN = b"GET /admin/config HTTP/1.1\r\nhost: x\r\nauthorization: Bearer " + ADMIN_KEY.encode() + b"\r\n\r\n"


@pytest.mark.parametrize(
    "lines",
    [
        b"content-length: 4\r\ntransfer-encoding: chunked\r\n",
        b"transfer-encoding: chunked\r\ncontent-length: 4\r\n",
        b"content-length: 0\r\ncontent-length: 44\r\n",
        b"content-length: 0\r\nContent-Length : 44\r\n",
        b"content-length: 0, 44\r\n",
        b"content-length: 0x2c\r\n",
        b"content-length: 4 4\r\n",
        b"content-length:\r\n",
        b"transfer-encoding: xchunked\r\n",
        b"transfer-encoding: chunked\r\ntransfer-encoding: identity\r\n",
        b"transfer-encoding : chunked\r\n",
        b"transfer-encoding:\x0bchunked\r\n",
        b"x: y\r\n transfer-encoding: chunked\r\n",
        b"x: y\rtransfer-encoding: chunked\r\n",
        b"x: y\ntransfer-encoding: chunked\r\ncontent-length: 4\r\n",
        b"x\x00y: z\r\n",
        b": nameless\r\n",
    ],
    ids=range(17),
)
def test_a_request_hidden_behind_another_is_never_answered(house: House, lines: bytes) -> None:
    head = (
        b"POST "
        + CHAT.encode()
        + b" HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
        + lines
        + b"\r\n"
    )
    said = speak(house, head + b"0\r\n\r\n" + HIDDEN)
    assert len(list_statuses(said)) <= 1 and 200 not in list_statuses(said)
    assert not any(mark in said for mark in MARKS)


@pytest.mark.parametrize("end", [b"\n\n", b"\r\r", b"\n\r\n"])
def test_lines_end_in_one_way(house: House, end: bytes) -> None:
    said = speak(house, b"GET /admin/config HTTP/1.1" + end[:1] + b"host: x" + end)
    assert not any(mark in said for mark in MARKS) and 200 not in list_statuses(said)


# --- paths

SPELLINGS = (
    "/Admin/config",
    "/ADMIN/CONFIG",
    "//admin/config",
    "///admin//config",
    "/admin//config",
    "/admin/config/",
    "/admin/config/.",
    "/admin/./config",
    "/./admin/config",
    "/v1/../admin/config",
    "/v1/models/../../admin/config",
    "/health/../admin/config",
    "/health/..;/admin/config",
    "/admin/..;/admin/config",
    "/admin;x=1/config",
    "/admin/config;.css",
    "/admin/config%00",
    "/admin/config%20",
    "/admin/config%0a",
    "/admin/config.",
    "/admin/config.json",
    "/admin\\config",
    "/admin%5cconfig",
    "/admin%2fconfig",
    "/admin%252fconfig",
    "/%61dmin/config",
    "/%2561dmin/config",
    "/admin/%63onfig",
    "/%c1%a1dmin/config",
    "/%e0%81%a1dmin/config",
    "/\u0430dmin/config",
    "/\uff41dmin/config",
    "/admin/config?/../../health",
    "/health%2f..%2fadmin%2fconfig",
    "/docs/../admin/config",
    "/metrics/../admin/config",
    "/openapi.json/../admin/config",
    ".admin/config",
    "admin/config",
)


@pytest.mark.parametrize("path", SPELLINGS, ids=range(len(SPELLINGS)))
@pytest.mark.parametrize("role", ["", "user", "developer"])
def test_no_spelling_of_a_path_opens_it(house: House, path: str, role: str) -> None:
    key = f"authorization: Bearer {house.keys[role]}\r\n" if role else ""
    said = speak(house, f"GET {path} HTTP/1.1\r\nhost: x\r\n{key}connection: close\r\n\r\n".encode())
    assert not any(mark in said for mark in MARKS)
    assert list_statuses(said)[0] in (400, 401, 403, 404)


@pytest.mark.parametrize(
    "target", ["http://127.0.0.1/admin/config", "http://localhost:1/admin/config", "https://x/admin/config"]
)
def test_a_whole_address_as_target_is_its_path(house: House, target: str) -> None:
    said = speak(house, f"GET {target} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".encode())
    assert list_statuses(said)[0] in (400, 401, 404)


@pytest.mark.parametrize(
    "line",
    [
        "CONNECT 127.0.0.1:22 HTTP/1.1",
        "OPTIONS * HTTP/1.1",
        "TRACE /health HTTP/1.1",
        "TRACE /admin/config HTTP/1.1",
        "TRACK /health HTTP/1.1",
        "PROPFIND / HTTP/1.1",
        "GET\t/admin/config HTTP/1.1",
        "get /admin/config HTTP/1.1",
        "GET /admin/config HTTP/2.0",
        "GET /admin/config",
        "PRI * HTTP/2.0",
    ],
)
def test_a_rare_method_or_line_opens_nothing(house: House, line: str) -> None:
    secret = "x-mine: echo-me-not"
    said = speak(house, f"{line}\r\nhost: x\r\n{secret}\r\nconnection: close\r\n\r\n".encode())
    assert 200 not in list_statuses(said) and b"echo-me-not" not in said


@pytest.mark.parametrize("name", ["x-http-method-override", "x-http-method", "x-method-override", "_method"])
def test_a_header_changes_no_method(house: House, name: str) -> None:
    for path in ("/user/api-keys", "/v1/models"):
        plain = ask_with(house, "user", "GET", path)
        overridden = ask_with(house, "user", "GET", path, headers={name: "DELETE"})
        assert (plain.status_code, overridden.status_code) == (200, 200)
        assert ask_with(house, "user", "GET", f"{path}?_method=DELETE").status_code in (200, 400)


@pytest.mark.parametrize("method", ["HEAD", "OPTIONS"])
def test_looking_without_a_key_tells_nothing(house: House, method: str) -> None:
    for path in ("/admin/config", "/user/api-keys", CHAT):
        answer = httpx.request(method, house.gateway.url + path)
        assert answer.status_code in (401, 405)


# --- keys


def test_a_key_in_the_query_is_no_key_but_in_the_dialect_that_has_it_there(house: House) -> None:
    key = house.keys["admin"]
    for name in ("key", "api_key", "access_token", "token", "authorization"):
        for path in ("/admin/config", "/user/api-keys", "/v1/models"):
            assert httpx.get(f"{house.gateway.url}{path}?{name}={key}").status_code == 401
        chat = httpx.post(
            f"{house.gateway.url}{CHAT}?{name}={key}",
            content=BODY,
            headers={"content-type": "application/json"},
        )
        assert chat.status_code == 401


def test_two_keys_are_none(house: House) -> None:
    user, admin = house.keys["user"], house.keys["admin"]
    pairs = [
        [("authorization", f"Bearer {user}"), ("authorization", f"Bearer {admin}")],
        [("authorization", f"Bearer {admin}"), ("x-api-key", user)],
        [("x-api-key", user), ("x-goog-api-key", admin)],
        [("authorization", f"Bearer {user}, Bearer {admin}")],
        [("authorization", f"Bearer {user} {admin}")],
    ]
    for headers in pairs:
        for path in ("/admin/config", "/v1/models"):
            assert httpx.get(house.gateway.url + path, headers=headers).status_code == 401, headers


CHANGES: tuple[Callable[[str], str], ...] = (
    lambda key: key.upper(),
    lambda key: key.lower(),
    lambda key: key[:-1],
    lambda key: key + "A",
    lambda key: key + "\x00",
    lambda key: key.replace("_", "\u2017"),
    lambda key: key.replace("g", "\u0261"),
    lambda key: f'"{key}"',
    lambda key: base64.b64encode(key.encode()).decode(),
    lambda key: f"{key}%00",
    lambda key: f"{key},",
    lambda key: key.replace("live", "test"),
    lambda key: "*",
    lambda key: "' OR '1'='1",
    lambda key: key[:20] + "%" * (len(key) - 20),
    lambda key: "null",
    lambda key: "undefined",
)


@pytest.mark.parametrize("change", CHANGES, ids=range(len(CHANGES)))
def test_nothing_that_looks_like_a_key_is_one(house: House, change: Any) -> None:
    text = change(house.keys["admin"])
    said = speak(
        house,
        b"GET /admin/config HTTP/1.1\r\nhost: x\r\nconnection: close\r\nauthorization: Bearer "
        + text.encode()
        + b"\r\n\r\n",
    )
    assert list_statuses(said)[0] in (400, 401) and not any(mark in said for mark in MARKS)


@pytest.mark.parametrize("scheme", ["Basic", "Digest", "Token", "", "bearerx", "Negotiate"])
def test_no_other_scheme_carries_a_key(house: House, scheme: str) -> None:
    answer = httpx.get(
        f"{house.gateway.url}/admin/config", headers={"authorization": f"{scheme} {ADMIN_KEY}".strip()}
    )
    assert answer.status_code == 401


def make_tokens(secret: str) -> Iterator[str]:
    """Session tokens that anybody can write."""
    claims = {"sub": "admin", "user_id": "admin", "role": "admin", "sid": "s", "iss": "gatewayz", "aud": "gatewayz",
        "scope": "admin read inference", "exp": 4_000_000_000, "iat": 1_700_000_000}  # fmt: skip
    for algorithm in ("HS256", "HS384", "HS512"):
        for key in ("", secret, "secret", "gatewayz", "null"):
            yield write_token({"alg": algorithm, "typ": "JWT"}, claims, key, algorithm)
            yield write_token({"alg": algorithm, "kid": "../../../../dev/null"}, claims, key, algorithm)
            yield write_token({"alg": algorithm, "kid": "' UNION SELECT 'x"}, claims, key, algorithm)
    for alg in ("none", "None", "NONE", "nOnE", ""):
        yield f"{encode({'alg': alg, 'typ': 'JWT'})}.{encode(claims)}."
    yield f"{encode({'alg': 'RS256', 'jku': 'https://evil.example/jwks'})}.{encode(claims)}.AAAA"
    yield f"{encode({'alg': 'HS256', 'jwk': {'kty': 'oct', 'k': 'AA'}})}.{encode(claims)}.AAAA"


def write_token(header: dict[str, Any], claims: dict[str, Any], key: str, algorithm: str) -> str:
    head = f"{encode(header)}.{encode(claims)}"
    made = jwt.get_algorithm_by_name(algorithm).sign(head.encode(), key.encode() or b"\0")
    return f"{head}.{base64.urlsafe_b64encode(made).rstrip(b'=').decode()}"


def encode(value: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


def test_no_token_that_somebody_wrote_is_a_session(house: House) -> None:
    tokens = list(make_tokens(house.keys["user"]))
    assert len(tokens) > 50
    with httpx.Client() as client:
        for token in tokens:
            for path in ("/admin/config", "/user/api-keys"):
                answer = client.get(house.gateway.url + path, headers={"authorization": f"Bearer {token}"})
                assert answer.status_code == 401, token


# --- other people's things


def list_named(house: House) -> Iterator[tuple[str, str, dict[str, Any]]]:
    document = httpx.get(f"{house.gateway.url}/openapi.json").json()
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            yield method.upper(), path, operation


def test_every_route_below_admin_is_closed_to_users_whatever_the_id(house: House) -> None:
    """IDOR, from above: each route with each id that is there."""
    ids, asked = house.list_ids(), 0
    for method, path, _operation in list_named(house):
        if not path.startswith(("/admin", "/api/admin")):
            continue
        for url in fill(path, ids):
            body = {"json": {}} if method != "GET" else {}
            assert ask_with(house, "user", method, url, **body).status_code == 403, (method, url)
            asked += 1
    assert asked > 12


def test_every_id_of_somebody_else_is_not_there(house: House) -> None:
    """IDOR, from beside: routes of one's own account, asked for the things of others."""
    ids = house.list_ids()
    own = ask_with(house, "user", "GET", "/user/api-keys").json()["keys"]
    assert len(own) >= 1
    others = {
        name: [one for one in found if one not in {key["id"] for key in own}] for name, found in ids.items()
    }
    before = count_rows(house)
    asked = 0
    for method, path, operation in list_named(house):
        need = operation.get("x-need", {})
        if (
            "{" not in path
            or need.get("role") == "admin"
            or need.get("permission")
            or "inference" in operation["tags"]
        ):
            continue
        for url in fill(path, others):
            if "{" in url or "/provider" in url or "/models/" in url or "/plans" in url or "/check/" in url:
                continue
            body = example_body(operation)
            answer = ask_with(house, "user", method, url, **({"json": body} if body is not None else {}))
            assert answer.status_code in (400, 403, 404, 405, 409), (method, url, answer.text[:300])
            asked += 1
    assert asked >= 8
    assert count_rows(house) == before


def fill(path: str, ids: dict[str, list[str]]) -> Iterator[str]:
    names = re.findall(r"\{(\w+)\}", path)
    if not names:
        yield path
        return
    many = [ids.get(name, [])[:3] or ["1", "x"] for name in names]
    for at in range(max(map(len, many))):
        url = path
        for name, values in zip(names, many, strict=True):
            url = url.replace(f"{{{name}}}", values[at % len(values)])
        yield url


def example_body(operation: dict[str, Any]) -> Any:
    if "requestBody" not in operation:
        return None
    return {"confirmation": "DELETE_KEY"} if "Revoke" in operation["summary"] else {"action": "rotate"}


def count_rows(house: House) -> list[int]:
    """How many keys live: nothing of others was taken away or made."""
    found = ask_with(house, "admin", "GET", "/admin/api-keys?limit=1000").json()["keys"]
    return [len(found), sum(key["is_active"] for key in found)]


def test_what_is_not_there_and_what_is_somebody_elses_are_told_alike(house: House) -> None:
    theirs = next(key["id"] for key in ask_with(house, "admin", "GET", "/user/api-keys").json()["keys"])
    answers = [
        ask_with(house, "user", "GET", f"/user/api-keys/{key_id}") for key_id in (theirs, "key_nowhere")
    ]
    told = [(answer.status_code, answer.json()["error"]) for answer in answers]
    assert told[0] == told[1] and told[0][0] == 404


def test_nobody_makes_a_key_that_may_more_than_its_maker(house: House) -> None:
    for asked in (
        {"key_name": "k", "role": "admin"},
        {"key_name": "k", "user_id": "admin"},
        {"key_name": "k", "unlimited": True},
        {"key_name": "k", "scopes": ["admin"]},
    ):
        assert ask_with(house, "user", "POST", "/user/api-keys", json=asked).status_code == 400
    made = ask_with(
        house,
        "user",
        "POST",
        "/user/api-keys",
        json={"key_name": "k", "scope_permissions": ["admin", "read"]},
    )
    if made.status_code == 200:
        key = made.json()["api_key"]
        answer = httpx.get(f"{house.gateway.url}/admin/config", headers={"authorization": f"Bearer {key}"})
        assert answer.status_code == 403


# --- what is echoed, and what is too large


@pytest.mark.parametrize(
    "evil",
    [
        "a\r\nx-evil: 1",
        "a\nx-evil: 1",
        "a%0d%0ax-evil:%201",
        "a\u560d\u560ax-evil: 1",
        "a\x00b",
        "\u2028x-evil: 1",
    ],
)
def test_nothing_of_a_request_becomes_a_header(house: House, evil: str) -> None:
    body = {"model": evil, "messages": [{"role": "user", "content": "hi"}]}
    answers = [
        ask_with(house, "user", "POST", CHAT, json=body),
        ask_with(house, "user", "POST", CHAT, json={**body, "model": f"sim/echo{evil}"}),
        ask_with(
            house,
            "user",
            "GET",
            "/v1/models/" + httpx.URL("http://x/", params={"q": evil}).query.decode()[2:],
        ),
        ask_with(
            house,
            "user",
            "POST",
            CHAT,
            content=BODY,
            headers={
                "content-type": "application/json",
                "x-request-id": evil.encode("utf-8")
                .replace(b"\r", b"")
                .replace(b"\n", b" ")
                .replace(b"\0", b""),
            },
        ),
    ]
    for answer in answers:
        assert "x-evil" not in answer.headers and answer.status_code != 500


@pytest.mark.parametrize(
    ("method", "path"), [("POST", "/user/api-keys"), ("POST", "/user/provider-keys"), ("POST", CHAT)]
)
def test_everything_has_a_size(house: House, method: str, path: str) -> None:
    deep = b'{"a":' * 100_000
    wide = json.dumps({f"k{number}": 1 for number in range(5000)}).encode()
    long = json.dumps(
        {"key_name": "n" * 60_000, "provider_slug": "p" * 60_000, "model": "m" * 60_000, "messages": []}
    ).encode()
    large = b'{"key_name": "' + b"n" * (40 << 20) + b'"}'
    for content in (deep, wide, long, large):
        answer = ask_with(
            house, "user", method, path, content=content, headers={"content-type": "application/json"}
        )
        assert answer.status_code in (400, 413), (path, answer.status_code)


@pytest.mark.parametrize(
    "number", ["1e400", "-1e400", "1" * 5000, "NaN", "Infinity", "-0", "1e-400", "9223372036854775808"]
)
def test_no_number_breaks_a_body(house: House, number: str) -> None:
    content = f'{{"key_name": "n", "max_requests": {number}, "max_spend_usd": {number}, "expiration_days": {number}}}'
    answer = ask_with(
        house, "user", "POST", "/user/api-keys", content=content, headers={"content-type": "application/json"}
    )
    assert answer.status_code == 400


@pytest.mark.parametrize(
    "twice",
    [
        b'"max_tokens":987654,"max_tokens":1',
        b'"max_tokens":987654,"m\\u0061x_tokens":1',
        b'"m\\u0061x_tokens":987654,"max_tokens":1',
        b'"n":98,"temperature":1,"n":1',
        b'"service_tier":"987654","service_tier":"default"',
    ],
    ids=range(5),
)
def test_what_is_counted_is_what_a_provider_reads_whichever_it_takes(house: House, twice: bytes) -> None:
    house.simulator.reset()
    told = b'{"model":"gpt-rehearsal",' + twice + b',"messages":[{"role":"user","content":"hi"}]}'
    headers = {"content-type": "application/json"}
    answer = ask_with(house, "user", "POST", CHAT, content=told, headers=headers)
    assert answer.status_code == 200, answer.text
    sent = httpx.get(f"{house.simulator.url}/_sim/calls").text
    assert '"hi"' in sent and "987654" not in sent and '"n":98' not in sent


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1:1", "", "a b", "x\ty", "[::1]", "admin"])
def test_the_host_header_decides_nothing(house: House, host: str) -> None:
    said = speak(house, f"GET /health HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n".encode())
    assert list_statuses(said)[0] in (200, 400) and (not host or host.encode() not in said)


def test_a_stranger_is_believed_no_address(house: House) -> None:
    """`X-Forwarded-For` of whoever is no proxy of ours means nothing: a key bound to a network stays bound."""
    made = ask_with(
        house,
        "user",
        "POST",
        "/user/api-keys",
        json={"key_name": "bound", "ip_allowlist": ["203.0.113.0/24"]},
    )
    key = made.json()["api_key"]
    for name in (
        "x-forwarded-for",
        "x-real-ip",
        "forwarded",
        "cf-connecting-ip",
        "true-client-ip",
        "x-client-ip",
    ):
        value = "for=203.0.113.5" if name == "forwarded" else "203.0.113.5"
        answer = httpx.get(
            f"{house.gateway.url}/v1/models", headers={"authorization": f"Bearer {key}", name: value}
        )
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "address_not_allowed")

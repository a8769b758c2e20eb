"""Administration at a port of its own, pages of other origins, and what every answer tells browsers."""

import re
from collections.abc import Iterator, Mapping

import httpx
import pytest

from engine.config.schema_gateway import ServerEntry
from tests.harness import ADMIN_KEY, Gateway, find_free_port, running, write_files

AUTH = {"authorization": f"Bearer {ADMIN_KEY}"}
PAGE = "https://app.example.com"
ADMIN_PATHS = ("/admin/config", "/admin/audit", "/admin/nothing", "/api/admin/x", "/metrics", "/admin")
SAFE = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "content-security-policy": "frame-ancestors 'none'",
    "referrer-policy": "no-referrer",
}


@pytest.fixture(scope="module")
def ports(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Gateway, str]]:
    folder, admin = tmp_path_factory.mktemp("ports"), find_free_port()
    server = "limits: {without_redis: divide}\n" + (
        f"server:\n  hsts_s: 3600\n  admin: {{port: {admin}}}\n"
        f"  cors: {{origins: ['{PAGE}', 'https://*.pages.example.org', 'tauri://localhost'], credentials: true}}\n"
    )
    gateway = Gateway(write_files(folder, {"gateway.yaml": server}), workers=2)
    gateway.ready_path = "/health/ready"
    with running(gateway):
        yield gateway, f"http://127.0.0.1:{admin}"


@pytest.mark.parametrize("path", ADMIN_PATHS)
def test_administration_is_not_at_the_public_port(ports: tuple[Gateway, str], path: str) -> None:
    gateway, _ = ports
    for spelling in (path, path.replace("admin", "%61dmin"), path.replace("m", "%6D", 1), f"{path}?x=1"):
        answer = httpx.get(gateway.url + spelling, headers=AUTH)
        assert answer.status_code == 404 and "revision" not in answer.text, spelling


def test_administration_has_its_port_and_nothing_else_is_there(ports: tuple[Gateway, str]) -> None:
    _, admin = ports
    assert httpx.get(f"{admin}/admin/config", headers=AUTH).status_code == 200
    assert httpx.get(f"{admin}/admin/config").status_code == 401
    assert httpx.get(f"{admin}/metrics").status_code == 200
    assert httpx.get(f"{admin}/health/ready").status_code == 200
    for path in ("/v1/models", "/user/api-keys", "/administration", "/"):
        assert httpx.get(admin + path, headers=AUTH).status_code == 404
    chat = {"model": "sim/echo", "messages": [{"role": "user", "content": "hi"}]}
    assert httpx.post(f"{admin}/v1/chat/completions", json=chat, headers=AUTH).status_code == 404


def test_the_public_port_serves_all_else(ports: tuple[Gateway, str]) -> None:
    gateway, _ = ports
    assert httpx.get(f"{gateway.url}/v1/models", headers=AUTH).status_code == 200
    assert gateway.chat("sim/echo").status_code == 200


def test_one_port_for_both_is_refused() -> None:
    with pytest.raises(ValueError, match="another than server.port"):
        ServerEntry.model_validate({"port": 8000, "admin": {"port": 8000}})


# --- pages of other origins


def preflight(gateway: Gateway, origin: str, method: str = "PATCH") -> httpx.Response:
    headers = {"origin": origin, "access-control-request-method": method}
    return httpx.options(f"{gateway.url}/v1/chat/completions", headers=headers)


@pytest.mark.parametrize(
    "origin", [PAGE, "https://a.pages.example.org", "https://a.b.pages.example.org", "tauri://localhost"]
)
def test_a_preflight_is_answered_without_a_key(ports: tuple[Gateway, str], origin: str) -> None:
    answer = preflight(ports[0], origin)
    assert answer.status_code == 204
    assert answer.headers["access-control-allow-origin"] == origin
    assert answer.headers["access-control-allow-credentials"] == "true"
    assert "PATCH" in answer.headers["access-control-allow-methods"]
    assert "authorization" in answer.headers["access-control-allow-headers"]


@pytest.mark.parametrize(
    "origin",
    [
        "https://evil.example.com",
        "http://app.example.com",
        "https://app.example.com.evil.org",
        "https://app.example.com:8443",
        "https://appXexample.com",
        "https://pages.example.org",
        "https://evil.org/.pages.example.org",
        "https://x@a.pages.example.org",
        "https://evilpages.example.org",
        "HTTPS://APP.EXAMPLE.COM",
        "null",
        "*",
        "",
    ],
)
def test_no_other_origin_is_allowed(ports: tuple[Gateway, str], origin: str) -> None:
    gateway, _ = ports
    for answer in (
        preflight(gateway, origin),
        httpx.get(f"{gateway.url}/v1/models", headers={**AUTH, "origin": origin}),
    ):
        assert not any(name.startswith("access-control-") for name in answer.headers)
        assert answer.status_code != 204


def test_a_stream_has_the_headers_and_its_own_bytes(ports: tuple[Gateway, str]) -> None:
    gateway, _ = ports
    body = {"model": "sim/echo", "stream": True, "messages": [{"role": "user", "content": "hi"}]}
    told = [
        httpx.post(f"{gateway.url}/v1/chat/completions", json=body, headers={**AUTH, **more})
        for more in ({}, {"origin": PAGE})
    ]
    plain, crossing = [re.sub(r'"(id|created)":[^,]+', "", each.text) for each in told]
    assert plain == crossing and plain.endswith("data: [DONE]\n\n")
    assert "access-control-allow-origin" not in told[0].headers
    assert told[1].headers["access-control-allow-origin"] == PAGE and told[1].headers["vary"] == "origin"
    assert "x-request-id" in told[1].headers["access-control-expose-headers"]


def test_errors_are_readable_to_allowed_pages(ports: tuple[Gateway, str]) -> None:
    answer = httpx.get(f"{ports[0].url}/v1/models", headers={"origin": PAGE})
    assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (401, PAGE)


@pytest.mark.parametrize(
    "cors",
    [
        {"origins": []},
        {"origins": ["*"], "credentials": True},
        {"origins": ["app.example.com"]},
        {"origins": ["https://*"]},
        {"origins": ["https://a.*.com"]},
        {"origins": ["https://x.org/path"]},
        {"origins": ["https://x.org\r\nset-cookie: a"]},
        {"origins": ["*"], "headers": ["a\r\nb"]},
    ],
)
def test_a_rule_that_lets_in_whom_nobody_named_is_refused(cors: Mapping[str, object]) -> None:
    with pytest.raises(ValueError, match="cors"):
        ServerEntry.model_validate({"cors": cors})


# --- every answer


def test_every_answer_tells_browsers_to_be_careful(ports: tuple[Gateway, str]) -> None:
    gateway, admin = ports
    answers = [
        httpx.get(f"{gateway.url}/health"),
        httpx.get(f"{gateway.url}/v1/models", headers=AUTH),
        httpx.get(f"{gateway.url}/v1/models"),
        httpx.get(f"{gateway.url}/nothing"),
        httpx.get(f"{gateway.url}/docs"),
        httpx.get(f"{admin}/metrics"),
        httpx.get(f"{gateway.url}/" + "a" * 20_000),
        gateway.chat("sim/echo"),
        gateway.chat("sim/echo", stream=True),
        gateway.chat("nobody"),
        preflight(gateway, PAGE),
    ]
    for answer in answers:
        for name, value in SAFE.items():
            assert value in answer.headers.get_list(name), (answer.url, name)
        assert answer.headers["strict-transport-security"] == "max-age=3600"


def test_nobody_keeps_what_is_said_to_one_caller(ports: tuple[Gateway, str]) -> None:
    gateway, admin = ports
    for answer in (
        httpx.get(f"{admin}/admin/config", headers=AUTH),
        httpx.get(f"{gateway.url}/v1/models", headers=AUTH),
        httpx.get(f"{gateway.url}/user/api-keys", headers=AUTH),
        httpx.get(f"{gateway.url}/v1/models"),
    ):
        assert answer.headers["cache-control"] == "no-store"

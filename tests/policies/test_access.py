"""What a key may do and from where, told from the table of routes and the key's rules."""

from typing import Any

import pytest

from engine.call import Caller
from engine.errors import NotAllowed
from engine.policies.access import FOR_INFERENCE, Need, check_access, find_need
from engine.storage.key_rules import KeyRules, compile_bounds, grant_scopes


def make_caller(*scopes: str, role: str = "user", **rules: Any) -> Caller:
    granted, models = grant_scopes(scopes)
    written = KeyRules.model_validate(rules).model_dump(mode="json", exclude_unset=True)
    return Caller("k", "u", role=role, scopes=granted, scoped_models=models, bounds=compile_bounds(written))


def is_let_in(caller: Caller, method: str, path: str) -> bool:
    try:
        check_access(caller, find_need(method, path), [], "")
    except NotAllowed:
        return False
    return True


@pytest.mark.parametrize(
    ("scopes", "role", "opened"),
    [
        (("inference",), "user", {"GET /v1/models"}),
        (("models:gpt-*",), "user", {"GET /v1/models"}),
        (("read",), "user", {"GET /v1/models", "GET /user/api-keys"}),
        (("admin",), "user", {"GET /v1/models", "GET /user/api-keys", "PUT /user/api-keys/key_1"}),
        ((), "user", set()),
        (("inference",), "admin", {"GET /v1/models"}),
        (("read",), "admin", {"GET /v1/models", "GET /user/api-keys", "GET /admin/calls"}),
    ],
)
def test_a_scope_opens_its_routes_and_no_other(scopes: tuple[str, ...], role: str, opened: set[str]) -> None:
    routes = ["GET /v1/models", "GET /user/api-keys", "PUT /user/api-keys/key_1", "GET /admin/calls"]
    routes += ["POST /admin/config/reload", "GET /nowhere", "GET /administration", "GET /user-x"]
    caller = make_caller(*scopes, role=role)
    assert {route for route in routes if is_let_in(caller, *route.split(" "))} == opened


def test_role_and_scope_of_an_administrator_open_everything() -> None:
    caller = make_caller("admin", "inference", role="admin")
    assert all(
        is_let_in(caller, method, path)
        for method, path in [("POST", "/admin/config/reload"), ("GET", "/admin/calls"), ("GET", "/nowhere")]
    )


@pytest.mark.parametrize("path", ["/forgotten", "/Admin/calls", "/admin2"])
def test_a_route_that_nobody_listed_is_for_administrators(path: str) -> None:
    assert find_need("GET", path) == Need("admin", "admin")


def test_a_scope_of_models_narrows_unless_inference_is_there() -> None:
    assert make_caller("models:gpt-*").scoped_models == ("gpt-*",)
    assert make_caller("models:gpt-*", "inference").scoped_models is None
    assert make_caller("inference").scoped_models is None


@pytest.mark.parametrize(
    ("address", "allowed"),
    [("10.1.2.3", True), ("::ffff:10.1.2.3", True), ("11.0.0.1", False), ("2001:db8::5", True), ("", False)],
)
def test_an_allowlist_of_networks_is_kept(address: str, allowed: bool) -> None:
    caller = make_caller("inference", ip_allowlist=["10.0.0.0/8", "2001:db8::/32"])
    if allowed:
        check_access(caller, FOR_INFERENCE, [], address)
        return
    with pytest.raises(NotAllowed) as refused:
        check_access(caller, FOR_INFERENCE, [], address)
    assert refused.value.code == "address_not_allowed"


@pytest.mark.parametrize(
    ("headers", "allowed"),
    [
        ({"referer": "https://example.com/page?x=1"}, True),
        ({"referer": "https://app.example.com"}, True),
        ({"origin": "https://EXAMPLE.com"}, True),
        ({"referer": "https://example.com", "origin": "https://evil.org"}, False),
        ({"referer": "https://notexample.com"}, False),
        ({"referer": "https://example.com.evil.org"}, False),
        ({"referer": "https://example.com@evil.org"}, False),
        ({"referer": "example.com"}, False),
        ({"referer": "https://[x"}, False),
        ({"origin": "null"}, False),
        ({}, False),
    ],
)
def test_a_key_for_pages_is_taken_from_their_hosts_only(headers: dict[str, str], allowed: bool) -> None:
    caller = make_caller("inference", referrers=["example.com"])
    given = [(name.encode(), value.encode()) for name, value in headers.items()]
    if allowed:
        check_access(caller, FOR_INFERENCE, given, "")
        return
    with pytest.raises(NotAllowed) as refused:
        check_access(caller, FOR_INFERENCE, given, "")
    assert refused.value.code == "referrer_not_allowed"

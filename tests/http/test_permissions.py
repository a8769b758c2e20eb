"""Every declared route before every role: the routes are read from the application, so that none is forgotten."""

import re

import pytest

from engine.app import WorkerApp
from engine.call import Caller
from engine.errors import NotAllowed
from engine.http.endpoints import Route
from engine.policies.access import find_need
from engine.policies.identity import Identity
from tests.http.test_every_route import worker  # noqa: F401 - the fixture

SCOPES = frozenset({"inference", "catalog", "read", "admin"})
OPEN_TO_DEVELOPERS = {"GET /admin/users/growth", "GET /admin/users/count"}
"""Below /admin, the only routes that somebody who is no administrator may use: they tell numbers."""
OWN_ACCOUNT = ("/user/", "/teams")
OF_USERS = (
    *OWN_ACCOUNT,
    "/v1/receipts/",
    "/api/stripe/",
    "/trial/",
    "/partner-trials/",
    "/coupons/",
    "/referral/",
)
"""What else users use; of these, the ones below are for administrators."""
NOT_OF_USERS = {
    "POST /api/stripe/refund",
    "GET /partner-trials/config/{code}",
    "GET /partner-trials/analytics/{code}",
    "POST /partner-trials/expire/{user_id}",
}


class Keys:
    """Each key's text names the role of the key and that of its owner."""

    def find(self, key_text: str) -> Caller | None:
        role, _, owner = key_text.partition("/")
        return Caller("key_1", "user_1", role=role, owner_role=owner, scopes=SCOPES)

    async def fetch(self, key_text: str) -> Caller:
        raise AssertionError


@pytest.fixture
def routes(worker: WorkerApp) -> list[Route]:  # noqa: F811
    declared = worker.asgi
    declared.identity = Identity(Keys(), None, lambda: worker._runtime.snapshot.roles)
    return [route for route in declared.declared if not route.public]


async def is_let_in(route: Route, identity: Identity, key: str) -> bool:
    """Whether the door lets this key through."""
    path = re.sub(r"\{\w+\}", "x", route.path)

    scope = {
        "method": route.method, "path": path, "query_string": b"",
        "headers": [(b"x-api-key", key.encode())], "client": ("192.0.2.1", 1),
    }  # fmt: skip
    try:
        await identity.admit(scope, route.need or find_need(route.method, path))
    except NotAllowed as refusal:
        assert refusal.code == "insufficient_permissions", route.path
        return False
    return True


def name(route: Route) -> str:
    return f"{route.method} {route.path}"


async def list_open(worker: WorkerApp, routes: list[Route], key: str) -> set[str]:  # noqa: F811
    identity = worker.asgi.identity
    assert identity is not None
    return {name(route) for route in routes if await is_let_in(route, identity, key)}


async def test_an_administrator_is_let_in_everywhere(worker: WorkerApp, routes: list[Route]) -> None:  # noqa: F811
    assert await list_open(worker, routes, "admin") == {name(route) for route in routes}


async def test_nobody_else_is_let_in_below_admin_but_to_numbers(
    worker: WorkerApp,  # noqa: F811
    routes: list[Route],
) -> None:
    house = {name(route) for route in routes if route.path.startswith("/admin")}
    assert len(house) > 15
    assert not house & await list_open(worker, routes, "user")
    assert house & await list_open(worker, routes, "developer") <= OPEN_TO_DEVELOPERS


async def test_a_user_is_let_in_to_all_of_the_own_account(worker: WorkerApp, routes: list[Route]) -> None:  # noqa: F811
    own = {name(route) for route in routes if route.path.startswith(OWN_ACCOUNT)}
    opened = await list_open(worker, routes, "user")
    assert len(own) > 8 and own <= opened
    meant = {name(route) for route in routes if route.path.startswith(OF_USERS)}
    assert opened == meant - NOT_OF_USERS
    assert opened <= await list_open(worker, routes, "developer")


async def test_a_role_that_no_file_declares_opens_nothing_that_asks_for_a_permission(
    worker: WorkerApp,  # noqa: F811
    routes: list[Route],
) -> None:
    opened = await list_open(worker, routes, "ghost")
    asks = {name(route) for route in routes if route.need is not None and route.need.permission}
    assert len(asks) > 20 and not opened & asks
    assert not any(route.startswith("/admin") for route in opened)


@pytest.mark.parametrize("key", ["admin/user", "user/admin", "admin/ghost", "ghost/admin"])
async def test_a_key_opens_what_its_role_and_its_owners_role_both_open(
    worker: WorkerApp,  # noqa: F811
    routes: list[Route],
    key: str,
) -> None:
    one, other = key.split("/")
    both = await list_open(worker, routes, one) & await list_open(worker, routes, other)
    assert await list_open(worker, routes, key) == both


def test_every_permission_that_a_route_asks_for_is_a_word(routes: list[Route]) -> None:
    asked = {route.need.permission for route in routes if route.need is not None and route.need.permission}
    assert asked and all(re.fullmatch(r"[a-z_]+:[a-z_]+", word) for word in asked)

"""Every id that a user can put into a path: one of somebody else is answered like one that nobody has.

The routes are read from the application. One that is new is asked without a body, or needs a row here. Those of
payments are there once payments are configured: tests/payments asks them.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import psycopg
import pytest

from engine.app import WorkerApp
from engine.http.endpoints import Route
from tests.harness import Gateway
from tests.http.pairs import connect, make_key, pair_of_gateways
from tests.http.test_every_route import worker  # noqa: F401 - the fixture
from tests.http.test_permissions import NOT_OF_USERS, OF_USERS

ALL = ["inference", "read", "admin"]
BODIES: dict[str, dict[str, Any]] = {
    "PUT /user/api-keys/{key_id}": {"action": "rotate"},
    "DELETE /user/api-keys/{key_id}": {"confirmation": "DELETE_KEY"},
    "PUT /user/rate-limits/{key_id}": {"requests_per_minute": 1},
    "PUT /teams/{team_id}": {"name": "mine"},
    "DELETE /teams/{team_id}": {"confirmation": "DELETE_TEAM"},
    "POST /teams/{team_id}/members": {"email": "eve@foreign.example"},
    "PUT /teams/{team_id}/members/{user_id}": {"role": "member"},
    "POST /teams/{team_id}/api-keys": {"key_name": "k"},
    "PUT /teams/{team_id}/api-keys/{key_id}": {"action": "rotate"},
    "DELETE /teams/{team_id}/api-keys/{key_id}": {"confirmation": "DELETE_KEY"},
}
NO_IDS = {"provider", "code"}
"""Names that are the same for everybody."""


@dataclass
class House:
    eve: httpx.Client
    names: dict[str, str]
    """What belongs to somebody else, by the name that a path has for it."""
    url: str

    def count_changes(self) -> list[Any]:
        """All that one could do to the owner of these."""
        with psycopg.connect(self.url) as connection:
            return connection.execute(
                "SELECT (SELECT array_agg((hash, revoked_at, changed_n)) FROM api_keys WHERE user_id = 'user_owner'),"
                " (SELECT array_agg((name, active)) FROM teams), (SELECT array_agg((user_id, role)) FROM team_members),"
                " (SELECT array_agg((id, ended_at)) FROM sessions), (SELECT count(*) FROM team_invitations)"
            ).fetchall()


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory, server_url: str) -> Iterator[House]:
    with pair_of_gateways(tmp_path_factory.mktemp("foreign"), server_url) as (gateway, _):
        names = seed(server_url, gateway)
        with connect(gateway, make_key(gateway, "user_eve", scope_permissions=ALL)["api_key"]) as eve:
            yield House(eve, names, server_url)


def seed(url: str, gateway: Gateway) -> dict[str, str]:
    """A person with one of each: a key, a team with a key, a session and a call."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(
            "INSERT INTO users (id, email, email_verified) VALUES"
            " ('user_owner', 'owner@foreign.example', true), ('user_eve', 'eve@foreign.example', true)"
        )
        connection.execute(
            "INSERT INTO sessions (id, user_id, method, expires_at)"
            " VALUES ('sess_owner', 'user_owner', 'password', now() + interval '1 day')"
        )
        connection.execute(
            "INSERT INTO call_records (id, request_id, started_at, key_id, user_id, status, cost_usd)"
            " VALUES ('call_owner', 'call_owner', now(), 'key_x', 'user_owner', 'ok', 1)"
        )
    made = make_key(gateway, "user_owner", scope_permissions=ALL)
    with connect(gateway, made["api_key"]) as owner:
        team = owner.post("/teams", json={"name": "theirs"}).json()["team"]["team_id"]
        assert owner.post(f"/teams/{team}/api-keys", json={"key_name": "k"}).status_code == 200
    return {
        "key_id": made["id"], "team_id": team, "user_id": "user_owner", "session_id": "sess_owner",
        "call_id": "call_owner", "id": "2026-11",
    }  # fmt: skip


def list_routes_with_ids(worker: WorkerApp) -> list[Route]:  # noqa: F811
    return [
        route
        for route in worker.asgi.declared
        if not route.public
        and route.path.startswith(OF_USERS)
        and not route.path.startswith("/api/stripe/")
        and f"{route.method} {route.path}" not in NOT_OF_USERS
        and set(route.pattern.groupindex) - NO_IDS
    ]


def test_an_id_of_somebody_else_is_answered_like_one_that_nobody_has(
    house: House,
    worker: WorkerApp,  # noqa: F811
) -> None:
    before, routes = house.count_changes(), list_routes_with_ids(worker)
    assert len(routes) > 15
    for route in routes:
        name = f"{route.method} {route.path}"
        assert route.body is None or name in BODIES, f"{name} needs a body here"
        answers = []
        for names in (house.names, {key: f"{key}_of_nobody" for key in house.names}):
            path = route.path.format(**names, code="x", provider="x")
            answers.append(house.eve.request(route.method, path, json=BODIES.get(name)))
        theirs, nobodys = answers
        assert theirs.status_code == nobodys.status_code == 404, (name, theirs.text, nobodys.text)
        said = [answer.json()["error"] for answer in answers]
        assert said[0]["code"] == said[1]["code"] and said[0]["message"] == said[1]["message"], name
    assert house.count_changes() == before

"""Every id that somebody can put into a path, a query or a body: one of somebody else is answered like one that
nobody has, in the same words. A route that takes an id and has no entry here fails.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx
import psycopg
import pytest

from tests.security.canaries import ADMIN
from tests.security.seeding import House, keep_house

ALL = ["inference", "read", "admin"]
ID_NAMES = re.compile(r"(^|_)(id|ids)$|^(code|conversation|owner)$")
OPEN = (
    *("/v1/models/{id}", "/v1beta/models/{id}", "/plans/{plan_id}", "/partner-trials/check/{code}"),
    *("POST /user/provider-keys", "DELETE /user/provider-keys/{provider}"),
    *(
        "package_id",
        "price_id",
        "product_id",
        "tool_call_id",
        "new_price_id",
        "new_product_id",
        "original_transaction_id",
    ),
)
"""Names of the catalogue and of a caller's own text: the same for everybody, or nobody's."""


@dataclass(frozen=True)
class Entry:
    """How a route is asked: what its ids are filled with is a name of `Street.things`."""

    body: Mapping[str, Any] | None = None
    names: Mapping[str, str] = field(default_factory=dict)
    query: str = ""
    shared: frozenset[str] = frozenset()
    """Names in it that a member of the owner's team may know: `{team_id}` is then that of the caller's own team."""


IN_TEAM = frozenset({"team_id"})
KEY = {"key_id": "team_key_id"}
ENTRIES: dict[str, Entry] = {
    "GET /user/api-keys/{key_id}": Entry(),
    "PUT /user/api-keys/{key_id}": Entry({"action": "rotate"}),
    "DELETE /user/api-keys/{key_id}": Entry({"confirmation": "DELETE_KEY"}),
    "GET /user/api-keys/audit-logs": Entry(query="user_id={user_id}"),
    "GET /user/usage": Entry(query="key_id={key_id}"),
    "GET /user/rate-limits/usage/{key_id}": Entry(),
    "PUT /user/rate-limits/{key_id}": Entry({"requests_per_minute": 1}),
    "POST /user/rate-limits/bulk-update": Entry(
        {"updates": [{"key_id": "{key_id}", "requests_per_minute": 1}]}
    ),
    "DELETE /user/sessions/{session_id}": Entry(),
    "GET /user/invoices/{id}": Entry(names={"id": "invoice_id"}),
    "GET /v1/receipts/{call_id}": Entry(),
    "GET /teams/{team_id}": Entry(),
    "GET /teams/{team_id}/invoices": Entry(),
    "GET /teams/{team_id}/invoices/{id}": Entry(names={"id": "invoice_id"}),
    "PUT /teams/{team_id}": Entry({"name": "mine"}),
    "DELETE /teams/{team_id}": Entry({"confirmation": "DELETE_TEAM"}),
    "GET /teams/{team_id}/members": Entry(),
    "POST /teams/{team_id}/members": Entry({"user_id": "{user_id}"}, shared=IN_TEAM),
    "PUT /teams/{team_id}/members/{user_id}": Entry({"role": "member"}, shared=IN_TEAM),
    "DELETE /teams/{team_id}/members/{user_id}": Entry(shared=IN_TEAM),
    "GET /teams/{team_id}/api-keys": Entry(),
    "POST /teams/{team_id}/api-keys": Entry({"key_name": "k"}),
    "GET /teams/{team_id}/api-keys/{key_id}": Entry(names=KEY, shared=IN_TEAM),
    "PUT /teams/{team_id}/api-keys/{key_id}": Entry({"action": "rotate"}, KEY, shared=IN_TEAM),
    "DELETE /teams/{team_id}/api-keys/{key_id}": Entry({"confirmation": "DELETE_KEY"}, KEY, shared=IN_TEAM),
    "POST /teams/invitations/{team_id}": Entry(),
    "DELETE /teams/invitations/{team_id}": Entry(),
    "GET /api/stripe/checkout-session/{session_id}": Entry(names={"session_id": "checkout_id"}),
    "GET /api/stripe/payment-intent/{payment_intent_id}": Entry(),
    "GET /api/stripe/payments/{payment_id}": Entry(),
    "POST /coupons/redeem": Entry({"code": "{code}"}),
    **{
        f"{method} {prefix}/responses/{{id}}{rest}": Entry(names={"id": "response_id"})
        for prefix in ("", "/v1")
        for method, rest in (("GET", ""), ("DELETE", ""), ("GET", "/input_items"))
    },
    **{
        f"POST {prefix}/responses": Entry(
            {"model": "gpt-rehearsal", "input": "and then?", "previous_response_id": "{response_id}"}
        )
        for prefix in ("", "/v1")
    },
}
"""Of users. Those of administrators are refused whatever is named: see the last test."""


@dataclass
class Street:
    """Who lives here. `things` are the owner's; everybody else is asked for them."""

    house: House
    people: dict[str, httpx.Client] = field(default_factory=dict)
    things: dict[str, str] = field(default_factory=dict)
    own_teams: dict[str, str] = field(default_factory=dict)

    def read_all(self) -> list[Any]:
        """All that one could do to the owner of these."""
        with psycopg.connect(self.house.database_url) as connection:
            return connection.execute(
                "SELECT (SELECT array_agg((id, hash, revoked_at, limits) ORDER BY id) FROM api_keys),"
                " (SELECT array_agg((id, name, active) ORDER BY id) FROM teams),"
                " (SELECT array_agg((team_id, user_id, role) ORDER BY team_id, user_id) FROM team_members),"
                " (SELECT array_agg((id, ended_at) ORDER BY id) FROM sessions),"
                " (SELECT array_agg((team_id, email) ORDER BY team_id, email) FROM team_invitations),"
                " (SELECT count(*) FROM coupon_redemptions), (SELECT count(*) FROM stored_answers)"
            ).fetchall()


@pytest.fixture(scope="module")
def street(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Street]:
    with keep_house(tmp_path_factory.mktemp("street"), GATEWAYZ_ADMIN_KEY=ADMIN) as house:
        street = Street(house)
        with client(house, ADMIN) as admin:
            move_in(street, admin)
            furnish(street, admin)
        yield street
        for person in street.people.values():
            person.close()


def client(house: House, key: str) -> httpx.Client:
    return httpx.Client(base_url=house.gateway.url, headers={"authorization": f"Bearer {key}"}, timeout=30)


def move_in(street: Street, admin: httpx.Client) -> None:
    """The owner; a stranger; somebody with a team of his own; a member of the owner's team without a word in it."""
    for name in ("owner", "stranger", "neighbour", "member"):
        with psycopg.connect(street.house.database_url, autocommit=True) as connection:
            connection.execute(
                "INSERT INTO users (id, email, email_verified) VALUES (%s, %s, true)",
                (f"user_{name}", f"{name}@street.example"),
            )
        made = admin.post(
            f"/admin/users/user_{name}/api-keys", json={"key_name": "k", "scope_permissions": ALL}
        )
        street.people[name] = client(street.house, take(made)["api_key"])
        street.things.setdefault("key_id", take(made)["id"])
    owner = street.people["owner"]
    street.own_teams["neighbour"] = make_team(street.people["neighbour"])
    shared = street.own_teams["member"] = make_team(owner)
    take(owner.post(f"/teams/{shared}/members", json={"email": "member@street.example"}))
    take(street.people["member"].post(f"/teams/invitations/{shared}"))
    street.own_teams["stranger"] = ""


def make_team(whose: httpx.Client) -> str:
    team: str = take(whose.post("/teams", json={"name": "ours"}))["team"]["team_id"]
    take(whose.post(f"/teams/{team}/api-keys", json={"key_name": "k"}))
    return team


def take(answer: httpx.Response) -> dict[str, Any]:
    assert answer.is_success, (answer.request.url, answer.text)
    told: dict[str, Any] = answer.json()
    return told


def furnish(street: Street, admin: httpx.Client) -> None:
    """One of each for the owner; the team of `things` is one that nobody but the owner is in."""
    owner, things = street.people["owner"], street.things
    with psycopg.connect(street.house.database_url, autocommit=True) as connection:
        connection.execute(
            "INSERT INTO sessions (id, user_id, method, expires_at)"
            " VALUES ('sess_0123456789ab', 'user_owner', 'password', now() + interval '1 day')"
        )
        connection.execute(
            "INSERT INTO call_records (id, request_id, started_at, key_id, user_id, status, cost_usd)"
            " VALUES ('call_0123456789ab', 'call_0123456789ab', now(), %s, 'user_owner', 'ok', 1)",
            (things["key_id"],),
        )
    take(admin.post("/credits/add", json={"user_id": "user_owner", "amount": 5, "reason": "for the tests"}))
    team = make_team(owner)
    begun = take(owner.post("/api/stripe/checkout-session", json={"amount": 2000}))
    intended = take(owner.post("/api/stripe/payment-intent", json={"amount": 2000}))
    said = owner.post("/v1/responses", json={"model": "gpt-rehearsal", "input": "hi", "store": True})
    coupon = {"code": "OWNERONLY26", "value_usd": "5", "coupon_scope": "user_specific", "max_uses": 1}
    until = {"assigned_to_user_id": "user_owner", "valid_until": "2030-01-01T00:00:00Z"}
    take(admin.post("/admin/coupons", json={**coupon, **until}))
    things |= {
        "team_id": team,
        "team_key_id": take(owner.get(f"/teams/{team}/api-keys"))["keys"][0]["id"],
        "user_id": "user_owner",
        "session_id": "sess_0123456789ab",
        "call_id": "call_0123456789ab",
        "invoice_id": take(owner.get("/user/invoices"))["data"][0]["id"],
        "checkout_id": begun["session_id"],
        "payment_id": begun["payment_id"],
        "payment_intent_id": intended["payment_intent_id"],
        "response_id": take(said)["id"],
        "code": "OWNERONLY26",
    }


def change_letters(text: str) -> str:
    """An id of the same shape that nobody has."""
    return text[:-6] + "".join(chr(ord(letter) ^ 1) if letter.isalnum() else letter for letter in text[-6:])


def fill(entry: Entry, things: Mapping[str, str], what: Any) -> Any:
    if isinstance(what, Mapping):
        return {name: fill(entry, things, value) for name, value in what.items()}
    if isinstance(what, list):
        return [fill(entry, things, value) for value in what]
    if not isinstance(what, str):
        return what
    return re.sub(r"\{(\w+)\}", lambda name: things[entry.names.get(name[1], name[1])], what)


def ask(who: httpx.Client, route: str, entry: Entry, things: Mapping[str, str]) -> httpx.Response:
    method, _, path = route.partition(" ")
    return who.request(
        method,
        fill(entry, things, path),
        json=fill(entry, things, entry.body),
        params=fill(entry, things, entry.query) or None,
    )


def say(answer: httpx.Response, things: Mapping[str, str]) -> tuple[int, str, list[str]]:
    """Everything that an answer tells, without the ids that the caller named."""
    text = re.sub(r"req_\w+|\d{4}-\d\d-\d\dT[\d:.+]+", "(of this answer)", answer.text)
    for thing in sorted(things.values(), key=len, reverse=True):
        text = text.replace(thing, "(id)")
    names = sorted(set(answer.headers) - {"connection"})
    return answer.status_code, text, names


@pytest.mark.parametrize("route", ENTRIES)
@pytest.mark.parametrize("who", ["stranger", "neighbour", "member"])
def test_an_id_of_somebody_else_is_answered_like_one_that_nobody_has(
    street: Street, who: str, route: str
) -> None:
    entry, before = ENTRIES[route], street.read_all()
    nobodys = {name: change_letters(thing) for name, thing in street.things.items()}
    versions = [(street.things, nobodys)]
    if entry.shared and street.own_teams[who]:  # within a team that knows the caller
        own = {"team_id": street.own_teams[who], "user_id": "user_stranger"}
        versions.append((street.things | own, nobodys | own | {"user_id": "user_of_nobody"}))
    for theirs, missing in versions:
        told = [say(ask(street.people[who], route, entry, things), things) for things in (theirs, missing)]
        assert told[0] == told[1], route
        assert told[0][0] in (400, 403, 404) or (told[0][0], entry.query) == (200, "key_id={key_id}"), told
    assert street.read_all() == before


@pytest.mark.parametrize(
    "route", [route for route in ENTRIES if route.startswith(("PUT /t", "DELETE /teams/{", "POST /teams/{"))]
)
def test_a_member_without_the_right_changes_nothing_in_the_own_team(street: Street, route: str) -> None:
    """That the team is there a member knows, so that the answer may say that the right is missing."""
    entry, team = ENTRIES[route], street.own_teams["member"]
    keys = street.people["member"].get(f"/teams/{team}/api-keys").json()["keys"]
    own = street.things | {"team_id": team, "team_key_id": keys[0]["id"]}
    before = street.read_all()
    answer = ask(street.people["member"], route, entry, own)
    if route == "POST /teams/{team_id}/api-keys":  # members make keys, for their team
        assert answer.status_code == 200
        return
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "team_role_too_low")
    assert street.read_all() == before


# --- that nothing is forgotten


def list_names(
    schema: Mapping[str, Any], all_: Mapping[str, Any], seen: tuple[str, ...] = ()
) -> Iterator[str]:
    """Every name that a body may have, however deep."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        if name not in seen:
            yield from list_names(all_[name], all_, (*seen, name))
        return
    for name, inner in schema.get("properties", {}).items():
        yield name
        yield from list_names(inner, all_, seen)
    for inner in (*schema.get("anyOf", ()), *schema.get("oneOf", ()), *schema.get("allOf", ())):
        yield from list_names(inner, all_, seen)
    if isinstance(schema.get("items"), Mapping):
        yield from list_names(schema["items"], all_, seen)


def list_routes_with_ids(street: Street) -> Iterator[tuple[str, Mapping[str, Any]]]:
    document = street.people["owner"].get("/openapi.json").json()
    schemas = document["components"]["schemas"]
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            if "inference" in operation["tags"] and "/responses" not in path:
                continue  # a call of a model names what is in the call itself
            given = {each["name"] for each in operation.get("parameters", ()) if each["in"] != "header"}
            for content in operation.get("requestBody", {}).get("content", {}).values():
                given |= set(list_names(content.get("schema", {}), schemas))
            named = {name for name in given if ID_NAMES.search(name)} - set(OPEN)
            if named and path not in OPEN and f"{method.upper()} {path}" not in OPEN:
                yield f"{method.upper()} {path}", operation


def is_for_users(operation: Mapping[str, Any], street: Street) -> bool:
    need = operation.get("x-need") or {}
    roles = take(street.people["admin"].get("/admin/roles/permissions/user"))
    return need.get("role") != "admin" and need.get("permission", "") in {"", *roles["permissions"]}


def test_every_route_that_takes_an_id_has_an_entry(street: Street) -> None:
    with client(street.house, ADMIN) as admin:
        street.people["admin"] = admin
        found = {
            route for route, operation in list_routes_with_ids(street) if is_for_users(operation, street)
        }
    assert len(found) > 30
    assert found - set(ENTRIES) == set()
    assert set(ENTRIES) - found == set()


def test_a_route_of_administrators_tells_users_nothing_of_what_is_there(street: Street) -> None:
    asked, before = 0, street.read_all()
    real = street.house.list_ids()
    for route, _ in list_routes_with_ids(street):
        if route in ENTRIES:
            continue
        method, _, path = route.partition(" ")
        names = re.findall(r"\{(\w+)\}", path)
        told = []
        for change in (str, change_letters):
            things = {
                name: change((street.things | {n: v[0] for n, v in real.items() if v}).get(name, "user"))
                for name in names
            }
            answer = street.people["stranger"].request(
                method, path.format(**things), json=None if method == "GET" else {}
            )
            told.append(say(answer, things))
        assert told[0] == told[1] and told[0][0] == 403, (route, told)
        asked += 1
    assert asked > 30 and street.read_all() == before

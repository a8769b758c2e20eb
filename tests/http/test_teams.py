"""Teams over a real gateway: who may what in one, whose keys they are, and that others do not see it."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import psycopg
import pytest

from tests.harness import Gateway
from tests.http.pairs import connect, make_key, pair_of_gateways, wait_for

ALL = ["inference", "read", "admin"]
CHAT = {"model": "no-such-model", "messages": [{"role": "user", "content": "hi"}]}


@dataclass
class Person:
    user_id: str
    email: str
    client: httpx.Client


@pytest.fixture(scope="module")
def gateways(tmp_path_factory: pytest.TempPathFactory, server_url: str) -> Iterator[tuple[Gateway, Gateway]]:
    with pair_of_gateways(tmp_path_factory.mktemp("teams"), server_url) as made:
        yield made


@pytest.fixture(scope="module")
def admin(gateways: tuple[Gateway, Gateway]) -> Iterator[httpx.Client]:
    with connect(gateways[0]) as made:
        yield made


@pytest.fixture(scope="module")
def people(gateways: tuple[Gateway, Gateway], server_url: str) -> Iterator[dict[str, Person]]:
    found = {}
    for name in ("olga", "ada", "max", "eve"):
        user_id, email = f"user_team_{name}", f"{name}@teams.example"
        with psycopg.connect(server_url, autocommit=True) as connection:
            connection.execute(
                "INSERT INTO users (id, email, email_verified) VALUES (%s, %s, true)", (user_id, email)
            )
        key = make_key(gateways[0], user_id, scope_permissions=ALL)["api_key"]
        found[name] = Person(user_id, email, connect(gateways[0], key))
    yield found
    for person in found.values():
        person.client.close()


def make_team(people: dict[str, Person]) -> str:
    """Olga's team, with Ada as an admin and Max as a member; Eve has nothing to do with it."""
    team_id: str = people["olga"].client.post("/teams", json={"name": "T"}).json()["team"]["team_id"]
    for name, role in (("ada", "admin"), ("max", "member")):
        body = {"email": people[name].email.upper(), "role": role}
        assert people["olga"].client.post(f"/teams/{team_id}/members", json=body).status_code == 200
        joined = people[name].client.post(f"/teams/invitations/{team_id}").json()
        assert joined["role"] == role, joined
    return team_id


def is_refused(gateway: Gateway, key: str) -> bool:
    with connect(gateway, key) as caller:
        return caller.post("/v1/chat/completions", json=CHAT).status_code == 401


def test_a_team_is_made_joined_listed_and_left(people: dict[str, Person]) -> None:
    team_id = make_team(people)
    members = people["max"].client.get(f"/teams/{team_id}/members").json()
    assert [(row["user_id"], row["role"]) for row in members["members"]] == [
        (people["olga"].user_id, "owner"),
        (people["ada"].user_id, "admin"),
        (people["max"].user_id, "member"),
    ]
    assert "invited" not in members
    assert team_id in [team["team_id"] for team in people["max"].client.get("/teams").json()["teams"]]
    path = f"/teams/{team_id}/members/{people['max'].user_id}"
    assert people["max"].client.delete(path).status_code == 200
    assert people["max"].client.get(f"/teams/{team_id}").status_code == 404


def test_asking_an_address_does_not_tell_whether_somebody_has_it(people: dict[str, Person]) -> None:
    team_id = make_team(people)
    answers = [
        people["olga"].client.post(f"/teams/{team_id}/members", json={"email": email})
        for email in (people["eve"].email, "nobody@teams.example")
    ]
    assert {answer.text for answer in answers} == {answers[0].text}
    assert answers[0].status_code == 200
    shown = people["olga"].client.get(f"/teams/{team_id}/members").json()
    assert sorted(row["email"] for row in shown["invited"]) == [people["eve"].email, "nobody@teams.example"]
    assert len(shown["members"]) == 3
    assert people["eve"].client.request("DELETE", f"/teams/invitations/{team_id}").json()["joined"] is False
    assert people["eve"].client.post(f"/teams/invitations/{team_id}").status_code == 404


@pytest.mark.parametrize("name", ["eve", "stranger by id"])
def test_what_is_not_ones_own_is_not_there(people: dict[str, Person], admin: httpx.Client, name: str) -> None:
    team_id = make_team(people) if name == "eve" else "team_0000000000000000"
    eve, owner = people["eve"].client, people["olga"]
    key_id = "key_none"
    if name == "eve":
        key_id = owner.client.post(f"/teams/{team_id}/api-keys", json={"key_name": "k"}).json()["id"]
    tries = [
        ("GET", "", None), ("PUT", "", {"name": "mine"}), ("DELETE", "", {"confirmation": "DELETE_TEAM"}),
        ("GET", "/members", None), ("POST", "/members", {"email": "eve@teams.example"}),
        ("PUT", f"/members/{owner.user_id}", {"role": "member"}), ("DELETE", f"/members/{owner.user_id}", None),
        ("GET", "/api-keys", None), ("POST", "/api-keys", {"key_name": "k"}),
        ("GET", f"/api-keys/{key_id}", None), ("PUT", f"/api-keys/{key_id}", {"action": "rotate"}),
        ("DELETE", f"/api-keys/{key_id}", {"confirmation": "DELETE_KEY"}),
    ]  # fmt: skip
    answers = [eve.request(method, f"/teams/{team_id}{path}", json=body) for method, path, body in tries]
    assert {answer.status_code for answer in answers} == {404}
    assert len({answer.json()["error"]["message"] for answer in answers}) == 1
    others = [
        ("GET", f"/user/api-keys/{key_id}", None),
        ("PUT", f"/user/api-keys/{key_id}", {"action": "rotate"}),
    ]
    assert {eve.request(m, path, json=body).status_code for m, path, body in others} == {404}
    assert eve.post(f"/teams/invitations/{team_id}").status_code == 404
    assert eve.get("/admin/teams").status_code == 403
    assert admin.get("/admin/teams").status_code == 200


def test_each_role_of_a_team_may_its_own_and_no_more(people: dict[str, Person]) -> None:
    team_id = make_team(people)
    olga, ada, max_ = (people[name] for name in ("olga", "ada", "max"))
    path = f"/teams/{team_id}"
    denied = [
        max_.client.put(path, json={"name": "x"}),
        max_.client.post(f"{path}/members", json={"email": "a@b.c"}),
        max_.client.delete(f"{path}/members/{ada.user_id}"),
        max_.client.put(f"{path}/members/{max_.user_id}", json={"role": "owner"}),
        ada.client.request("DELETE", path, json={"confirmation": "DELETE_TEAM"}),
        ada.client.put(f"{path}/members/{ada.user_id}", json={"role": "owner"}),
        ada.client.put(f"{path}/members/{max_.user_id}", json={"role": "owner"}),
        ada.client.put(f"{path}/members/{olga.user_id}", json={"role": "member"}),
        ada.client.delete(f"{path}/members/{olga.user_id}"),
    ]
    assert [(answer.status_code, answer.json()["error"]["code"]) for answer in denied] == [
        (403, "team_role_too_low")
    ] * len(denied)
    last = [
        olga.client.put(f"{path}/members/{olga.user_id}", json={"role": "admin"}),
        olga.client.delete(f"{path}/members/{olga.user_id}"),
    ]
    assert [answer.json()["error"]["code"] for answer in last] == ["last_owner"] * 2
    assert ada.client.put(path, json={"name": "renamed"}).json()["team"]["name"] == "renamed"
    assert ada.client.put(f"{path}/members/{max_.user_id}", json={"role": "admin"}).status_code == 200


def make_team_key(person: Person, team_id: str, **body: Any) -> dict[str, Any]:
    answer = person.client.post(f"/teams/{team_id}/api-keys", json={"key_name": "k", **body})
    assert answer.status_code == 200, answer.text
    made: dict[str, Any] = answer.json()
    return made


def test_a_teams_key_opens_nobodys_account(
    gateways: tuple[Gateway, Gateway], people: dict[str, Person]
) -> None:
    team_id = make_team(people)
    made = make_team_key(people["max"], team_id)
    for scopes in (["read"], ["inference", "admin"]):
        answer = people["max"].client.post(
            f"/teams/{team_id}/api-keys", json={"key_name": "k", "scope_permissions": scopes}
        )
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "scope_permissions")
    role = people["olga"].client.post(f"/teams/{team_id}/api-keys", json={"key_name": "k", "role": "admin"})
    assert role.status_code == 400
    with connect(gateways[0], made["api_key"]) as caller:
        assert caller.get("/v1/models").status_code == 200
        assert {caller.get(path).status_code for path in ("/user/api-keys", "/teams", "/admin/calls")} == {
            403
        }
    assert made["id"] not in people["max"].client.get("/user/api-keys").text
    assert (
        people["max"].client.put(f"/user/api-keys/{made['id']}", json={"action": "rotate"}).status_code == 404
    )


def test_a_teams_key_shows_receipts_of_its_own_calls_only(
    gateways: tuple[Gateway, Gateway], people: dict[str, Person], server_url: str
) -> None:
    made = make_team_key(people["max"], make_team(people))
    ids = {f"call_{made['id']}": made["id"], f"call_own_{made['id']}": "key_of_max"}
    with psycopg.connect(server_url, autocommit=True) as connection:
        for call_id, key_id in ids.items():
            connection.execute(
                "INSERT INTO call_records (id, request_id, started_at, key_id, user_id, status, cost_usd)"
                " VALUES (%s, %s, now(), %s, %s, 'ok', 1)",
                (call_id, call_id, key_id, people["max"].user_id),
            )
    with connect(gateways[0], made["api_key"]) as caller:
        assert [caller.get(f"/v1/receipts/{call_id}").status_code for call_id in ids] == [200, 404]


def test_scopes_that_are_written_past_the_routes_open_nothing(
    gateways: tuple[Gateway, Gateway], people: dict[str, Person], server_url: str
) -> None:
    made = make_team_key(people["olga"], make_team(people))
    with psycopg.connect(server_url, autocommit=True) as connection:
        connection.execute(
            "UPDATE api_keys SET scopes = ARRAY['admin', 'read'], role = 'admin' WHERE id = %s", (made["id"],)
        )
    with connect(gateways[0], made["api_key"]) as caller:
        assert {caller.get(path).status_code for path in ("/user/api-keys", "/teams", "/admin/calls")} == {
            403
        }


def test_a_teams_key_survives_who_made_it_and_members_look_after_their_own(
    gateways: tuple[Gateway, Gateway], people: dict[str, Person]
) -> None:
    team_id = make_team(people)
    of_olga, of_max = make_team_key(people["olga"], team_id), make_team_key(people["max"], team_id)
    path = f"/teams/{team_id}/api-keys"
    foreign = people["max"].client.put(f"{path}/{of_olga['id']}", json={"action": "rotate"})
    assert foreign.json()["error"]["code"] == "team_role_too_low"
    rotated = people["max"].client.put(f"{path}/{of_max['id']}", json={"action": "rotate"}).json()
    people["ada"].client.delete(f"/teams/{team_id}/members/{people['max'].user_id}")
    assert people["max"].client.put(f"{path}/{of_max['id']}", json={"action": "rotate"}).status_code == 404
    assert not is_refused(gateways[1], rotated["api_key"])
    gone = people["ada"].client.request(
        "DELETE", f"{path}/{of_max['id']}", json={"confirmation": "DELETE_KEY"}
    )
    assert gone.status_code == 200
    wait_for(lambda: is_refused(gateways[1], rotated["api_key"]))


@pytest.mark.parametrize("choice", ["revoke", "keep"])
def test_the_keys_of_an_ended_team_end_or_wait(
    gateways: tuple[Gateway, Gateway], people: dict[str, Person], admin: httpx.Client, choice: str
) -> None:
    team_id = make_team(people)
    key = make_team_key(people["olga"], team_id)["api_key"]
    assert not is_refused(gateways[1], key)
    body = {"confirmation": "DELETE_TEAM", "keys": choice}
    ended = people["olga"].client.request("DELETE", f"/teams/{team_id}", json=body).json()
    assert ended["revoked_keys"] == (1 if choice == "revoke" else 0)
    wait_for(lambda: is_refused(gateways[1], key))
    assert people["olga"].client.get(f"/teams/{team_id}").status_code == 404
    assert admin.patch(f"/admin/teams/{team_id}", json={"active": True}).status_code == 200
    if choice == "keep":
        wait_for(lambda: not is_refused(gateways[1], key))
    else:
        assert is_refused(gateways[1], key)


def test_administrators_see_and_change_every_team(people: dict[str, Person], admin: httpx.Client) -> None:
    made = admin.post("/admin/teams", json={"name": "given", "owner": people["eve"].user_id}).json()["team"]
    path = f"/admin/teams/{made['team_id']}"
    changed = admin.patch(path, json={"plan": "pro", "prepaid": True}).json()
    assert (changed["team"]["plan"], changed["team"]["prepaid"]) == ("pro", True)
    assert changed["members"][0]["role"] == "owner"
    assert changed["team"]["balance"] == {"credit_usd": "0", "allowance_usd": "0"}
    assert admin.patch(path, json={"plan": ""}).json()["team"]["plan"] == ""
    for bad in ({}, {"plan": "no-such"}, {"active": None}, {"more": 1}):
        assert admin.patch(path, json=bad).status_code == 400
    assert admin.patch("/admin/teams/team_none", json={"active": True}).status_code == 404
    page = admin.get("/admin/teams", params={"limit": 1, "active": True}).json()
    assert len(page["teams"]) == 1 and page["has_more"]


def test_who_has_not_proved_an_address_is_not_asked_to_join(
    gateways: tuple[Gateway, Gateway], people: dict[str, Person], server_url: str
) -> None:
    team_id = make_team(people)
    with psycopg.connect(server_url, autocommit=True) as connection:
        connection.execute("INSERT INTO users (id, email) VALUES ('user_sly', 'sly@teams.example')")
    people["olga"].client.post(f"/teams/{team_id}/members", json={"email": "sly@teams.example"})
    key = make_key(gateways[0], "user_sly", scope_permissions=ALL)["api_key"]
    with connect(gateways[0], key) as sly:
        assert sly.get("/teams/invitations").json()["invitations"] == []
        assert sly.post(f"/teams/invitations/{team_id}").status_code == 404


def test_an_erased_account_leaves_its_teams_the_keys_and_ends_those_with_nobody(
    gateways: tuple[Gateway, Gateway], people: dict[str, Person], server_url: str
) -> None:
    team_id = make_team(people)
    with psycopg.connect(server_url, autocommit=True) as connection:
        connection.execute(
            "INSERT INTO users (id, email, email_verified) VALUES ('user_going', 'going@teams.example', true)"
        )
    people["olga"].client.post(f"/teams/{team_id}/members", json={"email": "going@teams.example"})
    own = make_key(gateways[0], "user_going", scope_permissions=ALL)["api_key"]
    with connect(gateways[0], own) as going:
        assert going.post(f"/teams/invitations/{team_id}").status_code == 200
        shared = going.post(f"/teams/{team_id}/api-keys", json={"key_name": "k"}).json()["api_key"]
        alone = going.post("/teams", json={"name": "alone"}).json()["team"]["team_id"]
        lonely = going.post(f"/teams/{alone}/api-keys", json={"key_name": "k"}).json()["api_key"]
        erased = going.request("DELETE", "/user/account", json={"confirmation": "DELETE_ACCOUNT"})
        assert erased.status_code == 200, erased.text
    for key in (own, lonely):
        wait_for(lambda key=key: is_refused(gateways[1], key))
    assert not is_refused(gateways[1], shared)


BAD: list[tuple[str, dict[str, Any]]] = [
    ("/teams", {}), ("/teams", {"name": ""}), ("/teams", {"name": "a\0"}), ("/teams", {"name": "x", "more": 1}),
    ("/members", {}), ("/members", {"email": "no address"}), ("/members", {"email": "a@b", "role": "owner"}),
    ("/members", {"email": "a@b", "user_id": "u"}), ("/api-keys", {}),
]  # fmt: skip


@pytest.mark.parametrize(("path", "body"), BAD, ids=range(len(BAD)))
def test_bad_input_is_a_400(people: dict[str, Person], path: str, body: dict[str, Any]) -> None:
    olga = people["olga"].client
    whole = path if path == "/teams" else f"/teams/{make_team(people)}{path}"
    assert olga.post(whole, json=body).status_code == 400


def test_a_teams_invoices_are_for_those_who_lead_it(people: dict[str, Person]) -> None:
    team_id = make_team(people)
    told = {name: people[name].client.get(f"/teams/{team_id}/invoices") for name in people}
    assert {name: answer.status_code for name, answer in told.items()} == {
        "olga": 200, "ada": 200, "max": 403, "eve": 404,
    }  # fmt: skip
    assert told["max"].json()["error"]["code"] == "team_role_too_low"

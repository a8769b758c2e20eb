"""Changing users' roles against a real database: who may, who stays, and what is written down."""

import asyncio

import psycopg
import pytest

from engine.config.roles import Roles
from engine.config.schema_role import RoleFile
from engine.errors import NotAllowed, NotFound
from engine.storage.audit import Actor, list_events
from engine.storage.issuing import KeyRequest, issue_first_admin_key, issue_key
from engine.storage.postgres import Connection
from engine.storage.roles import RoleChange, change_role, read_role
from engine.storage.secrets import KeyRing
from engine.storage.users import get_or_create_user

ROLES = Roles({
    "user": RoleFile(role="user", level=1, permissions={"usage": ("read",)}),
    "desk": RoleFile(role="desk", level=2, permissions={"usage": ("read",), "roles": ("update",)}),
    "admin": RoleFile(role="admin", level=3, permissions="*"),
})  # fmt: skip
HOUSE = Actor("admin", "admin-environment")


async def make_user(connection: Connection, email: str, role: str = "user") -> str:
    user_id = await get_or_create_user(connection, email)
    await connection.execute("UPDATE users SET role = %s WHERE id = %s", (role, user_id))
    return user_id


async def change(
    connection: Connection, ring: KeyRing, user_id: str, role: str, by_role: str = "admin", by: Actor = HOUSE
) -> str:
    return await change_role(connection, ring, ROLES, RoleChange(user_id, role, "why", by_role), by)


async def test_a_change_is_written_down_with_before_after_and_reason(
    connection: Connection, ring: KeyRing
) -> None:
    user_id = await make_user(connection, "a@b.c")
    assert await change(connection, ring, user_id, "desk") == "user"
    assert (await read_role(connection, user_id))["role"] == "desk"
    events, _ = await list_events(connection, {"subject": user_id}, 1)
    assert events[0]["action"] == "role.update" and events[0]["by"]["user_id"] == "admin"
    assert (events[0]["before"], events[0]["after"]) == ({"role": "user"}, {"role": "desk", "reason": "why"})


async def test_nobody_raises_himself_and_anybody_may_step_down(connection: Connection, ring: KeyRing) -> None:
    user_id = await make_user(connection, "a@b.c", "desk")
    with pytest.raises(NotAllowed) as refused:
        await change(connection, ring, user_id, "admin", "admin", Actor(user_id))
    assert refused.value.code == "role_too_high"
    await change(connection, ring, user_id, "user", "desk", Actor(user_id))
    assert (await read_role(connection, user_id))["role"] == "user"


@pytest.mark.parametrize(("was", "wanted"), [("user", "admin"), ("admin", "user")])
async def test_a_role_above_ones_own_is_neither_given_nor_taken(
    connection: Connection, ring: KeyRing, was: str, wanted: str
) -> None:
    await make_user(connection, "chief@b.c", "admin")
    user_id = await make_user(connection, "a@b.c", was)
    with pytest.raises(NotAllowed) as refused:
        await change(connection, ring, user_id, wanted, "desk", Actor("user_desk"))
    assert refused.value.code == "role_too_high"
    assert (await read_role(connection, user_id))["role"] == was


async def test_the_last_administrator_stays(connection: Connection, ring: KeyRing) -> None:
    user_id = await make_user(connection, "a@b.c", "admin")
    gone = await make_user(connection, "gone@b.c", "admin")
    await connection.execute("UPDATE users SET active = false WHERE id = %s", (gone,))
    with pytest.raises(NotAllowed) as refused:
        await change(connection, ring, user_id, "user")
    assert refused.value.code == "last_administrator"
    await make_user(connection, "second@b.c", "admin")
    await change(connection, ring, user_id, "user")


async def test_of_two_administrators_who_leave_at_once_one_stays(
    connection: Connection, database_url: str, ring: KeyRing
) -> None:
    ids = [await make_user(connection, f"{name}@b.c", "admin") for name in "ab"]
    async with await psycopg.AsyncConnection.connect(database_url, autocommit=True) as other:
        results = await asyncio.gather(
            change(connection, ring, ids[0], "user"),
            change(other, ring, ids[1], "user"),
            return_exceptions=True,
        )
    assert sorted(type(result).__name__ for result in results) == ["NotAllowed", "str"]


async def test_a_user_who_is_not_there_is_not_found(connection: Connection, ring: KeyRing) -> None:
    with pytest.raises(NotFound):
        await change(connection, ring, "user_none", "user")


async def test_an_administrators_key_makes_its_owner_one(connection: Connection, ring: KeyRing) -> None:
    assert await issue_first_admin_key(connection, ring) is not None
    row = await (await connection.execute("SELECT email, role FROM users")).fetchone()
    assert row == ("owner@localhost", "admin")
    await issue_key(connection, ring, KeyRequest("k", user="x@b.c", role="desk", raises_owner=ROLES))
    await issue_key(connection, ring, KeyRequest("k", user="owner@localhost", raises_owner=ROLES))
    rows = await (await connection.execute("SELECT email, role FROM users ORDER BY email")).fetchall()
    assert rows == [("owner@localhost", "admin"), ("x@b.c", "desk")]

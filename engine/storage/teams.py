"""Teams: who belongs to one and may do what in it. What is no team of theirs is not there for anybody.

    owner    everything, also ending it and naming owners
    admin    its name, its members below him, all of its keys
    member   sees it, makes keys for it and looks after those

The last owner stays. Who is asked to join answers with the account of that address, and until then nobody is told
whether there is one.
"""

from dataclasses import dataclass
from secrets import token_hex
from typing import Any

from psycopg.rows import dict_row

from engine.errors import NotAllowed, NotFound
from engine.storage.audit import Actor, Event, write_event
from engine.storage.ledger import read_balance
from engine.storage.plan_terms import end_plan, put_on_plan, read_subscribed, read_term
from engine.storage.postgres import Connection, count_change
from engine.storage.secrets import KeyRing

RANKS = {"member": 1, "admin": 2, "owner": 3}
MOST_TEAMS = 50
MOST_MEMBERS = 1000
INVITED_FOR_D = 14


@dataclass(frozen=True, slots=True)
class Change:
    """Who does something, for the log of it."""

    ring: KeyRing
    by: Actor
    user_id: str


def make_team_id() -> str:
    return f"team_{token_hex(8)}"


async def find_member(
    connection: Connection, team_id: str, user_id: str, at_least: str = "member", *, ended_too: bool = False
) -> str:
    """The role of a member in a team. Raises NotFound for others and NotAllowed for those with too little."""
    row = await (
        await connection.execute(
            "SELECT m.role FROM team_members m JOIN teams t ON t.id = m.team_id"
            " WHERE m.team_id = %s AND m.user_id = %s AND (t.active OR %s)",
            (team_id, user_id, ended_too),
        )
    ).fetchone()
    if row is None:
        raise NotFound("there is no such team", code="team_not_found")
    role: str = row[0]
    if RANKS[role] < RANKS[at_least]:
        raise NotAllowed(f"this is for a team's {at_least}", code="team_role_too_low")
    return role


async def create_team(connection: Connection, change: Change, team_id: str, name: str, owner: str) -> None:
    async with connection.transaction():
        n = await count_change(connection)
        row = await (
            await connection.execute(
                "SELECT active, (SELECT count(*) FROM team_members m JOIN teams t ON t.id = m.team_id"
                " WHERE m.user_id = u.id AND m.role = 'owner' AND t.active) FROM users u WHERE id = %s",
                (owner,),
            )
        ).fetchone()
        if row is None or not row[0]:
            raise NotFound("there is no such active user", code="user_not_found")
        if row[1] >= MOST_TEAMS:
            raise NotAllowed(f"a user owns {MOST_TEAMS} teams at most", code="too_many_teams")
        await connection.execute(
            "INSERT INTO teams (id, name, changed_n) VALUES (%s, %s, %s) ON CONFLICT DO NOTHING",
            (team_id, name, n),
        )
        await connection.execute(
            "INSERT INTO team_members (team_id, user_id, role) VALUES (%s, %s, 'owner') ON CONFLICT DO NOTHING",
            (team_id, owner),
        )
        event = Event("team.create", team_id, owner, after={"name": name})
        await write_event(connection, change.ring, change.by, event)


async def touch_teams_of(connection: Connection, user_id: str, n: int) -> None:
    """Every worker looks anew at the keys of the teams that a user owns."""
    await connection.execute(
        "UPDATE teams SET changed_n = %s WHERE id IN (SELECT team_id FROM team_members"
        " WHERE user_id = %s AND role = 'owner')",
        (n, user_id),
    )


async def list_teams(connection: Connection, user_id: str) -> list[dict[str, Any]]:
    """The teams of a user, oldest first."""
    async with connection.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(
            "SELECT t.id AS team_id, t.name, m.role, t.plan, t.created_at,"
            " (SELECT count(*) FROM team_members WHERE team_id = t.id) AS member_count"
            " FROM team_members m JOIN teams t ON t.id = m.team_id"
            " WHERE m.user_id = %s AND t.active ORDER BY t.created_at, t.id",
            (user_id,),
        )
        return list(await cursor.fetchall())


async def read_team(connection: Connection, team_id: str) -> dict[str, Any]:
    """A team with what it has to spend, for whoever may see it."""
    async with connection.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(
            "SELECT id AS team_id, name, plan, prepaid, active AS is_active, created_at, updated_at,"
            " (SELECT count(*) FROM team_members WHERE team_id = t.id) AS member_count,"
            " (SELECT count(*) FROM api_keys WHERE team_id = t.id AND revoked_at IS NULL) AS key_count"
            " FROM teams t WHERE id = %s",
            (team_id,),
        )
        row = await cursor.fetchone()
    if row is None:
        raise NotFound("there is no such team", code="team_not_found")
    balance = await read_balance(connection, f"team:{team_id}")
    shown = {"credit_usd": f"{balance.credit_usd:f}", "allowance_usd": f"{balance.allowance_usd:f}"}
    return {**row, "balance": shown}


async def list_all_teams(
    connection: Connection, active: bool | None, limit: int, offset: int
) -> tuple[int, list[dict[str, Any]]]:
    asked = {"active": active, "limit": limit, "offset": offset}
    where = " WHERE %(active)s::boolean IS NULL OR t.active = %(active)s"
    found = await (await connection.execute(f"SELECT count(*) FROM teams t{where}", asked)).fetchone()
    async with connection.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(
            "SELECT t.id AS team_id, t.name, t.plan, t.prepaid, t.active AS is_active, t.created_at,"
            " (SELECT count(*) FROM team_members WHERE team_id = t.id) AS member_count"
            f" FROM teams t{where} ORDER BY t.created_at, t.id LIMIT %(limit)s OFFSET %(offset)s",
            asked,
        )
        return (int(found[0]) if found else 0), list(await cursor.fetchall())


async def update_team(connection: Connection, change: Change, team_id: str, changes: dict[str, Any]) -> None:
    """Set name, plan, prepaid or active; every worker knows within a second."""
    async with connection.transaction():
        n = await count_change(connection)
        async with connection.cursor(row_factory=dict_row) as cursor:
            await cursor.execute("SELECT name, plan, prepaid, active FROM teams WHERE id = %s", (team_id,))
            before = await cursor.fetchone()
        if before is None:
            raise NotFound("there is no such team", code="team_not_found")
        after = {**before, **changes}
        if after["plan"] != before["plan"]:
            await set_plan(connection, f"team:{team_id}", after["plan"])
        await connection.execute(
            "UPDATE teams SET name = %(name)s, prepaid = %(prepaid)s, active = %(active)s,"
            " updated_at = now(), changed_n = %(n)s WHERE id = %(id)s",
            {**after, "n": n, "id": team_id},
        )
        names = [name for name in changes if before[name] != after[name]]
        event = Event(
            "team.update",
            team_id,
            "",
            {name: before[name] for name in names},
            {name: after[name] for name in names},
        )
        await write_event(connection, change.ring, change.by, event)


async def set_plan(connection: Connection, payer: str, plan: str) -> None:
    """Put a payer on a plan by an administrator's word; "" takes away what an administrator gave.

    What is subscribed to is ended by cancelling it, and its allowance is never taken for a gift's sake.
    """
    term = await read_term(connection, payer)
    if term is None or term.source != "stripe":
        await end_plan(connection, payer, ref=f"plan:{payer}:{token_hex(8)}", kind="adjustment")
    if plan:
        await put_on_plan(connection, payer, plan, source="admin")
    elif await read_subscribed(connection, payer) is None:
        await put_on_plan(connection, payer, "", source="admin")
        await connection.execute("DELETE FROM plan_terms WHERE payer = %s", (payer,))


async def end_team(connection: Connection, change: Change, team_id: str, *, revoke_keys: bool) -> int:
    """Deactivate a team; its keys are refused from now on, and with `revoke_keys` for good. How many were revoked."""
    async with connection.transaction():
        n = await count_change(connection)
        await find_member(connection, team_id, change.user_id, "owner")
        await connection.execute(
            "UPDATE teams SET active = false, updated_at = now(), changed_n = %s WHERE id = %s", (n, team_id)
        )
        await connection.execute("DELETE FROM team_invitations WHERE team_id = %s", (team_id,))
        revoked = 0
        if revoke_keys:
            done = await connection.execute(
                "UPDATE api_keys SET revoked_at = now(), updated_at = now(), changed_n = %s"
                " WHERE team_id = %s AND revoked_at IS NULL",
                (n, team_id),
            )
            revoked = done.rowcount
        event = Event("team.deactivate", team_id, change.user_id, after={"revoked_keys": revoked})
        await write_event(connection, change.ring, change.by, event)
    return revoked

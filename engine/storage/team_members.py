"""Who is in a team: asking, joining, changing roles, leaving. Each with its event."""

from typing import Any

from psycopg.rows import dict_row

from engine.errors import NotAllowed, NotFound
from engine.storage.audit import Event, write_event
from engine.storage.postgres import Connection, count_change
from engine.storage.teams import INVITED_FOR_D, MOST_MEMBERS, RANKS, Change, find_member


async def list_members(connection: Connection, team_id: str) -> list[dict[str, Any]]:
    async with connection.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(
            "SELECT m.user_id, u.email, u.name, m.role, m.created_at FROM team_members m"
            " JOIN users u ON u.id = m.user_id WHERE m.team_id = %s ORDER BY m.created_at, m.user_id",
            (team_id,),
        )
        return list(await cursor.fetchall())


async def list_invited(connection: Connection, team_id: str) -> list[dict[str, Any]]:
    async with connection.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(
            "SELECT email, role, created_at, expires_at FROM team_invitations"
            " WHERE team_id = %s AND expires_at > now() ORDER BY created_at, email",
            (team_id,),
        )
        return list(await cursor.fetchall())


async def invite(connection: Connection, change: Change, team_id: str, email: str, role: str) -> None:
    """Ask an address to join. What happens is the same whether or not somebody has it."""
    async with connection.transaction():
        await count_change(connection)
        mine = await find_member(connection, team_id, change.user_id, "admin")
        if RANKS[role] > RANKS[mine]:
            raise NotAllowed("nobody gives a role above his own", code="team_role_too_low")
        row = await (
            await connection.execute(
                "SELECT (SELECT count(*) FROM team_members WHERE team_id = %(id)s)"
                " + (SELECT count(*) FROM team_invitations WHERE team_id = %(id)s)",
                {"id": team_id},
            )
        ).fetchone()
        if row is not None and row[0] >= MOST_MEMBERS:
            raise NotAllowed(f"a team has {MOST_MEMBERS} members at most", code="team_full")
        await connection.execute(
            "INSERT INTO team_invitations (team_id, email, role, invited_by, expires_at)"
            " VALUES (%s, %s, %s, %s, now() + make_interval(days => %s))"
            " ON CONFLICT (team_id, lower(email)) DO UPDATE SET role = excluded.role,"
            " invited_by = excluded.invited_by, expires_at = excluded.expires_at",
            (team_id, email, role, change.user_id, INVITED_FOR_D),
        )
        event = Event("team.invite", team_id, change.user_id, after={"email": email, "role": role})
        await write_event(connection, change.ring, change.by, event)


async def find_address(connection: Connection, user_id: str, asked_by: str) -> str:
    """The address of an active user, for inviting somebody by id: of those only whose address the asker can see,
    being in a team with them. Anybody else is not there."""
    row = await (
        await connection.execute(
            "SELECT u.email FROM users u JOIN team_members theirs ON theirs.user_id = u.id"
            " JOIN team_members mine ON mine.team_id = theirs.team_id AND mine.user_id = %s"
            " JOIN teams t ON t.id = mine.team_id AND t.active WHERE u.id = %s AND u.active LIMIT 1",
            (asked_by, user_id),
        )
    ).fetchone()
    if row is None:
        raise NotFound("there is no such user", code="user_not_found")
    return str(row[0])


_MINE = (
    "FROM team_invitations i JOIN teams t ON t.id = i.team_id AND t.active"
    " JOIN users u ON lower(u.email) = lower(i.email) AND u.active AND u.email_verified"
    " WHERE u.id = %(user_id)s AND i.expires_at > now()"
)


async def list_invitations(connection: Connection, user_id: str) -> list[dict[str, Any]]:
    """The teams that ask a user to join. Only who has proved an address gets what was sent to it."""
    async with connection.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(
            f"SELECT i.team_id, t.name, i.role, i.expires_at {_MINE} ORDER BY i.created_at",
            {"user_id": user_id},
        )
        return list(await cursor.fetchall())


async def answer_invitation(connection: Connection, change: Change, team_id: str, *, join: bool) -> str:
    """Join or decline; the role that was offered."""
    async with connection.transaction():
        await count_change(connection)
        asked = {"user_id": change.user_id, "team_id": team_id}
        row = await (
            await connection.execute(f"SELECT i.role, i.email {_MINE} AND i.team_id = %(team_id)s", asked)
        ).fetchone()
        if row is None:
            raise NotFound("there is no such invitation", code="invitation_not_found")
        role, email = row
        await connection.execute(
            "DELETE FROM team_invitations WHERE team_id = %s AND email = %s", (team_id, email)
        )
        if join:
            await connection.execute(
                "INSERT INTO team_members (team_id, user_id, role) VALUES (%s, %s, %s) ON CONFLICT DO NOTHING",
                (team_id, change.user_id, role),
            )
        event = Event("team.join" if join else "team.decline", team_id, change.user_id, after={"role": role})
        await write_event(connection, change.ring, change.by, event)
    return str(role)


async def set_member(connection: Connection, change: Change, team_id: str, user_id: str, role: str) -> str:
    """Give a member another role in the team; the one before."""
    async with connection.transaction():
        n = await count_change(connection)
        before = await _find_below(connection, change, team_id, user_id)
        mine = await find_member(connection, team_id, change.user_id, "admin")
        if RANKS[role] > RANKS[mine]:
            raise NotAllowed("nobody gives a role above his own", code="team_role_too_low")
        if before == "owner" != role:
            await _keep_an_owner(connection, team_id, user_id)
        await connection.execute(
            "UPDATE team_members SET role = %s WHERE team_id = %s AND user_id = %s", (role, team_id, user_id)
        )
        await connection.execute("UPDATE teams SET changed_n = %s WHERE id = %s", (n, team_id))
        event = Event("team.member_update", team_id, user_id, {"role": before}, {"role": role})
        await write_event(connection, change.ring, change.by, event)
    return before


async def remove_member(connection: Connection, change: Change, team_id: str, user_id: str) -> None:
    """Take somebody out of a team, or leave it. Keys that were made for the team stay with it."""
    async with connection.transaction():
        n = await count_change(connection)
        before = await _find_below(connection, change, team_id, user_id)
        if before == "owner":
            await _keep_an_owner(connection, team_id, user_id)
        await connection.execute(
            "DELETE FROM team_members WHERE team_id = %s AND user_id = %s", (team_id, user_id)
        )
        await connection.execute("UPDATE teams SET changed_n = %s WHERE id = %s", (n, team_id))
        event = Event("team.member_remove", team_id, user_id, {"role": before})
        await write_event(connection, change.ring, change.by, event)


async def _find_below(connection: Connection, change: Change, team_id: str, user_id: str) -> str:
    """The role of a member whom somebody may change: himself, one below him, or anybody for an owner."""
    mine = await find_member(connection, team_id, change.user_id)
    row = await (
        await connection.execute(
            "SELECT role FROM team_members WHERE team_id = %s AND user_id = %s", (team_id, user_id)
        )
    ).fetchone()
    if row is None:
        raise NotFound("there is no such member", code="member_not_found")
    theirs: str = row[0]
    if user_id != change.user_id and mine != "owner" and RANKS[mine] <= max(RANKS[theirs], RANKS["member"]):
        raise NotAllowed("this member is not below you", code="team_role_too_low")
    return theirs


async def _keep_an_owner(connection: Connection, team_id: str, but: str) -> None:
    row = await (
        await connection.execute(
            "SELECT 1 FROM team_members m JOIN users u ON u.id = m.user_id AND u.active"
            " WHERE m.team_id = %s AND m.role = 'owner' AND m.user_id <> %s LIMIT 1",
            (team_id, but),
        )
    ).fetchone()
    if row is None:
        raise NotAllowed("the last owner stays: make another one first, or end the team", code="last_owner")

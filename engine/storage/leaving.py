"""What an account that is erased leaves behind: the last administrator stays, and a team with nobody left in it ends.

A team with others in it keeps the keys that were made for it.
"""

from collections.abc import Callable
from typing import LiteralString

from engine.config.roles import Roles
from engine.storage.postgres import Connection, count_change
from engine.storage.roles import keep_an_administrator, read_role
from engine.storage.teams import touch_teams_of

_ALONE: LiteralString = (
    "SELECT m.team_id FROM team_members m WHERE m.user_id = %(id)s AND NOT EXISTS"
    " (SELECT 1 FROM team_members o WHERE o.team_id = m.team_id AND o.user_id <> %(id)s)"
)


class Leaving:
    """Implements ErasedUserListener."""

    def __init__(self, read_roles: Callable[[], Roles]) -> None:
        self._read_roles = read_roles

    async def user_erased(self, connection: Connection, user_id: str, email: str) -> None:
        """Raises NotAllowed for the last administrator."""
        roles = self._read_roles()
        if (await read_role(connection, user_id))["role"] in roles.administrators:
            await keep_an_administrator(connection, roles, user_id)
        n = await count_change(connection)
        await touch_teams_of(connection, user_id, n)
        rows = await (await connection.execute(_ALONE, {"id": user_id})).fetchall()
        teams = [team_id for (team_id,) in rows]
        await connection.execute(
            "UPDATE teams SET active = false, updated_at = now(), changed_n = %s WHERE id = ANY(%s)",
            (n, teams),
        )
        await connection.execute(
            "UPDATE api_keys SET revoked_at = now(), updated_at = now(), changed_n = %s"
            " WHERE team_id = ANY(%s) AND revoked_at IS NULL",
            (n, teams),
        )
        await connection.execute("DELETE FROM team_invitations WHERE lower(email) = lower(%s)", (email,))

"""What roles may do: told from their files, asked by whoever guards something.

A permission is `resource:action`; a role has it by that word, by `resource:*` or by `*`. A role that no file declares
has none.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass

from engine.config.schema_role import RoleFile

log = logging.getLogger(__name__)

ADMIN, USER = "admin", "user"
EVERYTHING = "*"


@dataclass(frozen=True, slots=True)
class Role:
    name: str
    level: int
    permissions: frozenset[str]

    def allows(self, permission: str) -> bool:
        mine = self.permissions
        return EVERYTHING in mine or permission in mine or f"{permission.partition(':')[0]}:*" in mine

    def covers(self, other: "Role") -> bool:
        """Whether it ranks no lower, and may all that the other may."""
        return self.level >= other.level and all(map(self.allows, other.permissions))


class Roles:
    """All roles of one configuration. Nothing in it changes, but for the names that were warned of."""

    def __init__(self, declared: Mapping[str, RoleFile]) -> None:
        self._roles = {
            name: Role(name, file.level, frozenset(file.list_permissions()))
            for name, file in declared.items()
        }
        self.files = declared
        self.administrators = frozenset(
            name for name, role in self._roles.items() if EVERYTHING in role.permissions
        )
        """The roles that may everything."""
        self._warned: set[str] = set()

    def __contains__(self, name: str) -> bool:
        return name in self._roles

    def find(self, name: str) -> Role:
        """The role of this name; one that no file declares may nothing, and the log says so once."""
        role = self._roles.get(name)
        if role is None:
            if name not in self._warned and len(self._warned) < 100:
                self._warned.add(name)
                log.warning("no file declares the role %r: its holders have no permissions", name[:100])
            return Role(name, 0, frozenset())
        return role

    def allows(self, name: str, permission: str) -> bool:
        return self.find(name).allows(permission)

    def covers(self, name: str, other: str) -> bool:
        return name == other or self.find(name).covers(self.find(other))

    def list_above(self, name: str) -> list[str]:
        """The roles that this one does not cover."""
        return [other for other in self._roles if not self.covers(name, other)]

    def lesser(self, name: str, other: str) -> str:
        """Of two roles the one that may less; "" says nothing."""
        if not other:
            return name
        return name if self.covers(other, name) else other


ONLY_ADMINISTRATORS = Roles(
    {ADMIN: RoleFile(role=ADMIN, level=100, permissions="*"), USER: RoleFile(role=USER, level=1)}
)
"""What is known where no configuration is read."""

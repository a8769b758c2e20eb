"""A role: what its holders may do beyond what every key may, as actions on kinds of things."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, StringConstraints

from engine.config.schema_base import Name, Strict, Texts, described

Word = Annotated[str, StringConstraints(pattern=r"^(\*|[a-z][a-z0-9_]*)$", max_length=60)]


def _check_actions(actions: tuple[str, ...]) -> tuple[str, ...]:
    for action in actions:
        if not (action == "*" or (action.isidentifier() and action.islower())):
            raise ValueError(f"{action[:60]!r} is no action such as read, list or *")
    return actions


Actions = Annotated[Texts, AfterValidator(_check_actions)]


class RoleFile(Strict):
    """One role. What it may is written as `resource:action` elsewhere; here actions stand below their resource."""

    role: Name = described("the role's name")
    extends: Name | None = described("a role whose keys these go over", None)
    level: Annotated[int, Field(ge=0, le=1000)] = described(
        "its rank: nobody gives away a role that is above his own", 0
    )
    description: str = described("a sentence for people", "", max_length=500)
    permissions: Literal["*"] | dict[Word, Actions] = described(
        "actions by resource; `*` stands for every action, and alone for everything", {}
    )

    def list_permissions(self) -> tuple[str, ...]:
        """As `resource:action`, sorted; `*` for everything."""
        if isinstance(self.permissions, str):
            return ("*",)
        words = (f"{thing}:{action}" for thing, actions in self.permissions.items() for action in actions)
        return tuple(sorted(words))

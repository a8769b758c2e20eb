"""What a requested name means when no model has it: the tables of names, compiled. Pure.

A name is looked up among models and aliases first, in one dict that is not here; only a name that is not
found there comes this way. `decide` makes one step: another name, or providers to ask. Who follows the
steps stops after `MAX_STEPS`, so that no pair of tables can turn in a circle.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from engine.config.snapshot import Price

MAX_STEPS = 8
_PLACEHOLDER = re.compile(r"\{(name|[1-9])\}")


@dataclass(frozen=True, slots=True)
class Ask:
    """A provider, its name for the model, and the price where no model lists that target."""

    provider: str
    model: str
    price: "Price | None" = None


@dataclass(frozen=True, slots=True)
class Decision:
    """One step: `use` is another name, or `asks` are who is asked, in order."""

    why: str
    place: str = ""
    use: str = ""
    asks: tuple[Ask, ...] = ()


@dataclass(frozen=True, slots=True)
class Rename:
    """An alias that a table says."""

    use: str
    place: str


@dataclass(frozen=True, slots=True)
class Rule:
    """One row of a table. A glob is kept as the pieces between its stars."""

    globs: tuple[tuple[str, ...], ...]
    use: str
    asks: tuple[Ask, ...]
    ignore_case: bool
    why: str
    place: str

    def decide(self, requested: str, folded: str) -> Decision | None:
        """`folded` is the name without case and spaces, for a table that does not mind them."""
        name, text = (requested.strip(), folded) if self.ignore_case else (requested, requested)
        for pieces in self.globs:
            stars = match_glob(pieces, name, text)
            if stars is not None:
                asks = tuple(replace(ask, model=_fill(ask.model, name, stars)) for ask in self.asks)
                why = f"rule {'*'.join(pieces)}" + (f": {self.why}" if self.why else "")
                return Decision(why, self.place, _fill(self.use, name, stars), asks)
        return None


@dataclass(frozen=True, slots=True, eq=False)
class Naming:
    """All tables in force: the user's before the shipped."""

    renames: Mapping[str, Rename] = field(default_factory=dict)
    """Every alias of a table by its name; those that stand for a model are in the snapshot's names too."""
    folded: Mapping[str, str] = field(default_factory=dict)
    """Lower case -> the known name, when a table says that case does not count."""
    first: tuple[Rule, ...] = ()
    """Rules that go before `provider/model-id`."""
    rules: tuple[Rule, ...] = ()

    def decide(self, name: str, is_open: Callable[[str], bool]) -> Decision | None:
        """What a name stands for that no model has; `is_open`: a provider that answers for any model."""
        if (rename := self.renames.get(name)) is not None:
            return Decision("an alias", rename.place, rename.use)
        known = self.folded.get(name.strip().lower()) if self.folded else None
        if known is not None and known != name:
            return Decision("upper case and spaces do not count", use=known)
        return _ask_rules(self.first, name) or _ask_provider(name, is_open) or _ask_rules(self.rules, name)


def match_glob(pieces: tuple[str, ...], name: str, text: str) -> tuple[str, ...] | None:
    """What each star stands for in `name` when the glob fits all of `text`, which is the name as it is compared;
    the earlier stars as short as can be.
    """
    head, *inner = pieces
    if not inner:
        return () if text == head else None
    tail = inner.pop()
    end = len(text) - len(tail)
    if end < len(head) or not text.startswith(head) or not text.endswith(tail):
        return None
    stars, here = [], len(head)
    for piece in inner:
        found = text.find(piece, here, end)
        if found < 0:
            return None
        stars.append(name[here:found])
        here = found + len(piece)
    return (*stars, name[here:end])


def count_stars(glob: str) -> int:
    return glob.count("*")


def list_placeholders(text: str) -> list[int]:
    """The numbers of the stars that a text names."""
    return [int(word) for word in _PLACEHOLDER.findall(text) if word != "name"]


def _fill(text: str, name: str, stars: tuple[str, ...]) -> str:
    if "{" not in text:
        return text
    return _PLACEHOLDER.sub(lambda found: name if found[1] == "name" else stars[int(found[1]) - 1], text)


def _ask_rules(rules: tuple[Rule, ...], name: str) -> Decision | None:
    stripped = name.strip()
    folded = stripped.lower()
    if len(folded) != len(stripped):  # a letter that becomes two: positions would not fit
        folded = stripped
    for rule in rules:
        if (decision := rule.decide(name, folded)) is not None and decision.use != name:
            return decision
    return None


def _ask_provider(name: str, is_open: Callable[[str], bool]) -> Decision | None:
    provider, _, model_id = name.partition("/")
    if not model_id or not is_open(provider):
        return None
    return Decision("provider/model-id", asks=(Ask(provider, model_id),))

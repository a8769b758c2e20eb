"""Every name a caller may use: models, their aliases, and the tables of names. Checked, pure.

Of two equal names the user's wins over the shipped one; two of one rank are a problem. An alias or a rule
that leads nowhere or in a circle is found here, not by a caller.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from engine.config.describe import TreePath, suggest
from engine.config.entries import Entry
from engine.config.naming import MAX_STEPS, Ask, Naming, Rename, Rule, count_stars, list_placeholders
from engine.config.prices import build_price
from engine.config.schema_names import NamesFile, RuleEntry
from engine.config.snapshot import Model, Provider
from engine.errors import Problem


@dataclass(slots=True)
class NameBook:
    """Takes in models, then tables; `naming` is what the tables say beyond `names`."""

    entries: Mapping[str, Entry]
    """The models' entries by name."""
    providers: Mapping[str, Provider]
    known_providers: Mapping[str, Entry]
    """Every declared provider, the broken ones too."""
    names: dict[str, Model] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    warnings: list[Problem] = field(default_factory=list)
    _owners: dict[str, Entry] = field(default_factory=dict)
    _renames: dict[str, Rename] = field(default_factory=dict)
    _rows: list[tuple[Entry, TreePath, str]] = field(default_factory=list)
    """Whatever must lead somewhere: (table, where it is said, a name that comes that way)."""

    def add_models(self, models: Iterable[Model]) -> None:
        every = list(models)
        for model in every:
            self.names[model.name] = model
            self._owners[model.name] = self.entries[model.name]
        for model in every:
            mine = self.entries[model.name]
            for index, alias in enumerate(model.aliases):
                if self._claim(alias, mine, ("aliases", index)):
                    self.names[alias] = model

    def add_tables(self, tables: Iterable[Entry]) -> Naming:
        """The tables compiled: the user's go first."""
        ordered = sorted(tables, key=lambda entry: entry.thing.shipped)
        for entry in ordered:
            self._take_aliases(entry)
        self._name_aliases()
        rules = [found for entry in ordered for found in self._list_rules(entry)]
        naming = Naming(
            self._renames,
            self._fold_names() if any(entry.spec.ignore_case for entry in ordered) else {},
            tuple(rule for rule, first in rules if first),
            tuple(rule for rule, first in rules if not first),
        )
        for entry, path, name in self._rows:
            self._follow(naming, entry, path, name)
        return naming

    def _claim(self, name: str, mine: Entry, path: TreePath) -> bool:
        """Whether the name is `mine` from now on."""
        first = self._owners.setdefault(name, mine)
        if first is mine:
            return True
        kind = first.thing.kind
        place = f'"{name}" is also a name of {kind} "{first.name}" ({first.thing.place})'
        problem = mine.problem(path, place)
        if mine.thing.shipped == first.thing.shipped:
            self.problems.append(problem)
            return False
        self.warnings.append(problem)
        if mine.thing.shipped:
            return False
        self._owners[name] = mine
        return True

    def _take_aliases(self, entry: Entry) -> None:
        spec: NamesFile = entry.spec
        for name, use in spec.aliases.items():
            path = ("aliases", name)
            if self._claim(name, entry, path):
                self._renames[name] = Rename(use, _place(entry, path))
                self.names.pop(name, None)
                self._rows.append((entry, path, name))

    def _name_aliases(self) -> None:
        """Aliases that stand for a model, over whatever number of steps, are found like the model itself."""
        for name in self._renames:
            here, seen = name, {name}
            while (rename := self._renames.get(here)) is not None and rename.use not in seen:
                here = rename.use
                seen.add(here)
            if rename is None and here in self.names:
                self.names[name] = self.names[here]

    def _fold_names(self) -> dict[str, str]:
        return {name.lower(): name for name in (*self.names, *self._renames)} | {
            name: name for name in self.names if name == name.lower()
        }

    def _list_rules(self, entry: Entry) -> Iterable[tuple[Rule, bool]]:
        spec: NamesFile = entry.spec
        for index, row in enumerate(spec.rules):
            path: TreePath = ("rules", index)
            globs = [glob for glob in row.match if not self._is_taken_back(glob, entry)]
            if self._check_row(entry, path, row) and globs:
                self._rows.append((entry, path, globs[0].replace("*", "x")))
                yield _build_rule(entry, path, row, globs), row.first

    def _is_taken_back(self, glob: str, entry: Entry) -> bool:
        """A provider that the user declares has its own name as a prefix, whatever a shipped rule says."""
        owner = self.known_providers.get(glob.partition("/")[0])
        return entry.thing.shipped and "/" in glob and owner is not None and not owner.thing.shipped

    def _check_row(self, entry: Entry, path: TreePath, row: RuleEntry) -> bool:
        before = len(self.problems)
        stars = min(count_stars(glob) for glob in row.match) if row.match else 0
        for text in (row.use or "", *(ask.model for ask in row.ask)):
            if any(number > stars for number in list_placeholders(text)):
                self.problems.append(entry.problem(path, f'"{text}" names a star that `match` does not have'))
        for index, ask in enumerate(row.ask):
            if ask.provider not in self.known_providers:
                message = f'no provider "{ask.provider}"{suggest(ask.provider, list(self.known_providers))}'
                self.problems.append(entry.problem((*_find_ask(entry, path, index), "provider"), message))
        return len(self.problems) == before

    def _follow(self, naming: Naming, entry: Entry, path: TreePath, name: str) -> None:
        """A row must lead to a model or a provider. What a rule with a star says of an invented name may
        lead nowhere, since the name is nobody's; it must not lead in a circle.
        """
        here, steps = name, [name]
        for _ in range(MAX_STEPS):
            if here in self.names:
                return
            decision = naming.decide(here, self._is_open)
            if decision is None:
                if path[0] == "aliases" or "*" not in "".join(entry.spec.rules[path[1]].match):
                    known = suggest(here, list(self.names))
                    self.problems.append(entry.problem(path, f'leads to "{here}", which no model has{known}'))
                return
            if decision.asks:
                return
            here = decision.use
            steps.append(here)
        self.problems.append(entry.problem(path, f"leads in a circle: {' -> '.join(steps[:4])} ..."))

    def _is_open(self, name: str) -> bool:
        provider = self.providers.get(name)
        return provider is not None and provider.passthrough


def _place(entry: Entry, path: TreePath) -> str:
    found = entry.problem(path, "")
    return f"{found.file}:{found.line}:{found.column}"


def _find_ask(entry: Entry, path: TreePath, index: int) -> TreePath:
    """Where an `ask` is written: a single one needs no list."""
    written = entry.assembled.tree["rules"][path[1]]["ask"]
    return (*path, "ask", index) if isinstance(written, list) else (*path, "ask")


def _build_rule(entry: Entry, path: TreePath, row: RuleEntry, globs: list[str]) -> Rule:
    folds = entry.spec.ignore_case
    return Rule(
        tuple(tuple((glob.lower() if folds else glob).split("*")) for glob in globs),
        row.use or "",
        tuple(Ask(ask.provider, ask.model, build_price(ask.price) if ask.price else None) for ask in row.ask),
        folds,
        row.why or "",
        _place(entry, path),
    )

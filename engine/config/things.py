"""The named things that files declare, and which of them are in force.

The unit is the thing (a provider, a format, a policy, one model), not the file: a user's thing replaces the
shipped one of its name. `extends` puts a thing over another of its kind; inside a thing of the same name it
means the shipped one.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from engine.config.declared import DECLARED, KEPT
from engine.config.describe import TreePath, suggest
from engine.config.files import Source
from engine.config.references import list_references
from engine.config.yamltree import Document, format_path
from engine.errors import Problem
from engine.wire.templates import merge_trees

Kind = str
"""provider, format, policy, model, names, gateway, or one of schema.DECLARED."""
_NAMING_KEYS: tuple[Kind, ...] = ("provider", "policy", "format", "names", *DECLARED)
NOT_INHERITED = frozenset({"extends", "examples", "simulator"})


@dataclass(frozen=True, slots=True, eq=False)
class Thing:
    """One named thing as its file says it; compared by identity, which lasts as long as the content."""

    kind: Kind
    name: str
    tree: dict[str, Any]
    document: Document
    prefix: TreePath
    """Where in its document it is."""
    file: str
    shipped: bool
    refs: tuple[str, ...] = ()
    """The insides of the `${...}` that it may use."""

    @property
    def place(self) -> str:
        line, column, _ = self.find_mark(())
        return f"{self.file}:{line}:{column}"

    def find_mark(self, path: TreePath) -> tuple[int, int, int]:
        """(line, column, how many steps of `path` exist here); the thing itself is where its name is."""
        if not path and self.kind in _NAMING_KEYS:
            return *self.document.find_mark((self.kind,))[:2], 0
        line, column, depth = self.document.find_mark((*self.prefix, *path))
        return line, column, depth - len(self.prefix)

    def problem(self, path: TreePath, message: str) -> Problem:
        line, column, _ = self.find_mark(path)
        return Problem(self.file, line, column, format_path(path), message)


@dataclass(frozen=True, slots=True)
class Assembled:
    """A thing with everything it extends merged below it; `chain` begins with the thing itself."""

    tree: dict[str, Any]
    chain: tuple[Thing, ...]
    problems: tuple[Problem, ...] = ()

    def problem(self, path: TreePath, message: str) -> Problem:
        """A problem at `path`, placed in the file of the chain that says it."""
        for thing in self.chain:
            line, column, depth = thing.find_mark(path)
            if depth == len(path):
                return Problem(thing.file, line, column, format_path(path), message)
        return self.chain[0].problem(path, message)


def list_things(document: Document, source: Source) -> tuple[list[Thing], list[Problem]]:
    """The things of one file, and what is wrong with the file as a whole."""
    problems = [Problem(source.name, *found) for found in document.problems]
    tree = document.tree
    if not tree:
        return [], problems
    for kind in _NAMING_KEYS:
        if kind in tree:
            return _list_one(kind, document, source, problems)
    if "models" in tree:
        return _list_models(document, source, problems)
    message = "this file names nothing; a key that names it is expected, such as provider, models or policy"
    return [], [*problems, Problem(source.name, 1, 1, "", message)]


def _list_one(
    kind: Kind, document: Document, source: Source, problems: list[Problem]
) -> tuple[list[Thing], list[Problem]]:
    name = document.tree[kind]
    shipped = source.rank == "shipped"
    thing = Thing(kind, str(name), document.tree, document, (), source.name, shipped, document.refs)
    if not isinstance(name, str) or not name:
        return [], [*problems, thing.problem((kind,), "a name is expected")]
    return [thing], problems


def _list_models(
    document: Document, source: Source, problems: list[Problem]
) -> tuple[list[Thing], list[Problem]]:
    shipped = source.rank == "shipped"
    whole = Thing("model", "", document.tree, document, (), source.name, shipped)
    for key in document.tree:
        if key != "models" and not key.startswith("x-"):
            problems.append(whole.problem((key,), f"unknown key{suggest(key, ['models'])}"))
    models = document.tree["models"]
    if models is None:
        return [], problems
    if not isinstance(models, dict):
        return [], [*problems, whole.problem(("models",), "a mapping (name: model) is expected")]
    things = []
    for name, tree in models.items():
        if isinstance(tree, dict):
            refs = _list_own_references(document, tree)
            things.append(Thing("model", name, tree, document, ("models", name), source.name, shipped, refs))
        else:
            problems.append(whole.problem(("models", name), "a mapping (key: value) is expected"))
    return things, problems


def _list_own_references(document: Document, tree: dict[str, Any]) -> tuple[str, ...]:
    return tuple(sorted(set(list_references(tree)))) if document.refs else ()


def assemble(chain: tuple[Thing, ...], problem: Problem | None = None) -> Assembled:
    """The first thing of a chain over all that it extends."""
    if problem is not None:
        return Assembled(chain[0].tree, chain[:1], (problem,))
    tree = chain[-1].tree
    for position in reversed(range(len(chain) - 1)):
        over = chain[position]
        below = {key: value for key, value in tree.items() if _is_inherited(key, over, chain[position:])}
        tree = merge_trees(below, over.tree)
    return Assembled(tree, chain)


@dataclass(slots=True)
class Library:
    """All things of all files: the shipped ones, the user's, and the rule which of two is in force."""

    builtin: bool = True
    shipped: dict[tuple[Kind, str], Thing] = field(default_factory=dict)
    user: dict[tuple[Kind, str], Thing] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    def add(self, things: Iterable[Thing]) -> None:
        """Take things in; the same name twice in one rank is a problem with both places."""
        for thing in things:
            shelf = self.shipped if thing.shipped else self.user
            first = shelf.setdefault((thing.kind, thing.name), thing)
            if first is not thing:
                message = f'{thing.kind} "{thing.name}" is declared twice (first at {first.place})'
                self.problems.append(thing.problem((), message))

    def in_force(self, kind: Kind) -> Iterator[Thing]:
        """The things of one kind that exist: the user's, and the shipped ones that nothing replaces."""
        for (its_kind, name), thing in self.shipped.items():
            if its_kind == kind and (kind, name) not in self.user and self._is_kept(thing):
                yield thing
        for (its_kind, _), thing in self.user.items():
            if its_kind == kind:
                yield thing

    def _is_kept(self, thing: Thing) -> bool:
        """Without `include.builtin` the wire formats, roles, everything named `default` and the simulator stay."""
        return (
            self.builtin
            or thing.kind in ("format", *KEPT)
            or (thing.kind in ("policy", *DECLARED) and thing.name == "default")
            or thing.tree.get("simulator") is True
        )

    def follow(self, thing: Thing) -> tuple[tuple[Thing, ...], Problem | None]:
        """The thing, what it extends, what that extends ..., and what is wrong with that chain."""
        if "extends" not in thing.tree:
            return (thing,), None
        chain, problem = self._follow(thing)
        return tuple(chain), problem

    def _follow(self, thing: Thing) -> tuple[list[Thing], Problem | None]:
        chain = [thing]
        while (name := chain[-1].tree.get("extends")) is not None:
            here = chain[-1]
            if not isinstance(name, str):
                return chain, here.problem(("extends",), "a name is expected")
            parent = self._find_parent(here, name)
            if parent is None:
                names = {**self.shipped, **self.user}
                known = [other for kind, other in names if kind == here.kind and other != here.name]
                return chain, here.problem(("extends",), f'no {here.kind} "{name}"{suggest(name, known)}')
            if parent in chain:
                circle = " -> ".join(f"{link.name} ({link.place})" for link in (*chain, parent))
                return chain, thing.problem(("extends",), f"extends itself in a circle: {circle}")
            chain.append(parent)
        return chain, None

    def _find_parent(self, thing: Thing, name: str) -> Thing | None:
        key = (thing.kind, name)
        if name == thing.name:
            return self.shipped.get(key) if not thing.shipped else self.shipped[key]
        if thing.shipped:
            return self.shipped.get(key)
        return self.user.get(key) or self.shipped.get(key)


def _is_inherited(key: str, over: Thing, chain: tuple[Thing, ...]) -> bool:
    """Names and paths belong to one thing: only one over the shipped thing of its own name keeps them."""
    if key in ("aliases", "serves", "common", "catalog"):
        return all(link.name == over.name for link in chain)
    return key not in NOT_INHERITED and key != over.kind

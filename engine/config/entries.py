"""A thing made ready: merged, expanded and validated, or the problems that stand in the way."""

from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ValidationError

from engine.config.describe import TreePath, describe_errors
from engine.config.references import Values, expand_tree
from engine.config.schema import ENTRIES
from engine.config.schema_gateway import DEFAULT_TREE, GatewayFile
from engine.config.things import Assembled, Thing
from engine.errors import Problem
from engine.wire.templates import merge_trees

OPTIONAL_PLACES = frozenset({"auth", "base_url", "variables"})
"""Where a provider may lack a value: it is then loaded as not configured."""
SECRET_PLACES = {
    "provider": frozenset({"auth", "headers"}),
    "gateway": frozenset({"database", "redis", "sinks", "billing"}),
    "mail": frozenset({"headers", "password"}),
}
_NOWHERE: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, eq=False)
class Entry:
    """`spec` is the validated pydantic model (for a format: the plain tree); None when there are problems."""

    assembled: Assembled
    spec: Any
    problems: tuple[Problem, ...] = ()

    @property
    def thing(self) -> Thing:
        return self.assembled.chain[0]

    @property
    def name(self) -> str:
        return self.thing.name

    def problem(self, path: TreePath, message: str) -> Problem:
        return self.assembled.problem(path, message)


def make_entry(assembled: Assembled, values: Values) -> Entry:
    """Expand and validate one assembled thing."""
    if assembled.problems:
        return Entry(assembled, None, assembled.problems)
    kind = assembled.chain[0].kind
    tree, problems = _expand(assembled, kind, values)
    if kind == "format":
        tree.pop("extends", None)
        return Entry(assembled, None if problems else tree, tuple(problems))
    return _validate(assembled, ENTRIES[kind], tree, problems)


def make_gateway_entry(thing: Thing, values: Values, overrides: dict[str, Any]) -> Entry:
    """gateway.yaml with its defaults below it and the command line's values on top."""
    tree = merge_trees(merge_trees(DEFAULT_TREE, thing.tree), overrides)
    assembled = Assembled(tree, (thing,))
    tree, problems = _expand(assembled, "gateway", values)
    return _validate(assembled, GatewayFile, tree, problems)


def _validate(
    assembled: Assembled, schema: type[BaseModel], tree: dict[str, Any], problems: list[Problem]
) -> Entry:
    try:
        spec = schema.model_validate(tree)
    except ValidationError as error:
        broken = {problem.path for problem in problems}
        wrong = [assembled.problem(path, message) for path, message in describe_errors(error, schema, tree)]
        problems += [problem for problem in wrong if problem.path not in broken]
        return Entry(assembled, None, tuple(problems))
    return Entry(assembled, None if problems else spec, tuple(problems))


def _expand(assembled: Assembled, kind: str, values: Values) -> tuple[dict[str, Any], list[Problem]]:
    if kind != "gateway" and not any(link.refs for link in assembled.chain):
        return dict(assembled.tree), []
    secret_places = SECRET_PLACES.get(kind, _NOWHERE)
    examples = assembled.tree.get("examples")
    tree = {key: value for key, value in assembled.tree.items() if key != "examples"}
    expanded, missing = expand_tree(tree, values, lambda path: path[0] in secret_places)
    if examples is not None:
        expanded["examples"] = examples  # they show literal text
    problems = [
        assembled.problem(path, unset.reason)
        for path, unset in missing
        if unset.wrong or kind != "provider" or path[0] not in OPTIONAL_PLACES
    ]
    return expanded, problems

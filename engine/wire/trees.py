"""Writes one YAML tree as the statements of a Python function; templates.py says what the trees mean."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from jinja2 import nodes

from engine.wire.expressions import (
    NULL,
    ExpressionRefused,
    Scope,
    Writer,
    parse_expression,
    parse_leaf,
    parse_loop,
)

Path = tuple[str | int, ...]

DIRECTIVES = frozenset(
    (
        "$each",
        "$item",
        "$if",
        "$then",
        "$else",
        "$switch",
        "$default",
        "$use",
        "$with",
        "$let",
        "$in",
        "$spread",
    )
)
MAX_DEPTH = 60
_OWN = re.compile(r"[dl]\d+")
_MAY_BE_EMPTY = re.compile(r"\((d\d+) or None\)")


class Surroundings(Protocol):
    """What a tree needs of the set of templates that it belongs to."""

    def refuse(self, path: Path, message: str) -> str: ...

    def fresh(self, stem: str) -> str: ...

    def fragment_names(self, name: str) -> tuple[str, ...] | None: ...

    def call_name(self, name: str) -> str: ...

    def makes_mapping(self, name: str) -> bool: ...


class TreeWriter:
    """The statements of one function. Every `write` returns the Python expression of its value (None: dropped)."""

    def __init__(self, templates: Surroundings, writer: Writer) -> None:
        self.templates = templates
        self.writer = writer
        self.lines: list[str] = []
        self.indent = 0

    def say(self, line: str) -> None:
        self.lines.append(" " * self.indent + line)

    def write(self, tree: Any, scope: Scope, path: Path) -> str:
        if len(path) > MAX_DEPTH:
            return self.templates.refuse(path, "nested too deeply")
        if isinstance(tree, Mapping):
            return (
                self.write_directive(tree, scope, path)
                if _directive(tree)
                else self.write_mapping(tree, scope, path)
            )
        if isinstance(tree, list):
            return self.write_list(tree, scope, path)
        if isinstance(tree, str):
            return self.write_leaf(tree, scope, path)
        if tree is None:
            return "NULL"
        if isinstance(tree, bool | int) or (isinstance(tree, float) and math.isfinite(tree)):
            return repr(tree)
        return self.templates.refuse(path, f"a {type(tree).__name__} cannot stand in a template")

    def write_leaf(self, text: str, scope: Scope, path: Path) -> str:
        if "{{" not in text and "{%" not in text:
            return repr(text)
        try:
            pieces = parse_leaf(text.strip())
            if len(pieces) == 1 and not isinstance(pieces[0], nodes.TemplateData):
                return self.writer.write(pieces[0], scope)
            texts = (
                repr(piece.data)
                if isinstance(piece, nodes.TemplateData)
                else f"write_text({self.writer.write(piece, scope)})"
                for piece in parse_leaf(text)
            )
            return f"''.join(({', '.join(texts)},))"
        except ExpressionRefused as error:
            return self.templates.refuse(path, str(error))

    def expression(self, text: Any, scope: Scope, path: Path) -> str:
        if not isinstance(text, str):
            return (
                repr(text)
                if isinstance(text, bool)
                else self.templates.refuse(path, "an expression is expected")
            )
        try:
            return self.writer.write(parse_expression(text), scope)
        except ExpressionRefused as error:
            return self.templates.refuse(path, str(error))

    # --- mappings and lists

    def write_mapping(self, tree: Mapping[Any, Any], scope: Scope, path: Path) -> str:
        target = self.templates.fresh("d")
        self.say(f"{target} = {{}}")
        if self.fill_mapping(target, tree, scope, path) or not tree:
            return target
        return f"({target} or None)"

    def fill_mapping(self, target: str, tree: Mapping[Any, Any], scope: Scope, path: Path) -> bool:
        """Set the keys of `tree` in `target`. True when at least one of them is always there."""
        always = False
        for key, value in tree.items():
            if key == "$spread":
                found = self.templates.fresh("t")
                self.say(f"{found} = {self.expression(value, scope, (*path, key))}")
                self.say(f"if {found}: {target}.update({found})")
            elif isinstance(key, str) and key.startswith("$"):
                self.templates.refuse((*path, key), _unknown_directive(key))
            else:
                always = self.set_key(target, key, value, scope, (*path, key)) or always
        return always

    def set_key(self, target: str, key: Any, value: Any, scope: Scope, path: Path) -> bool:
        name = self.write_leaf(key, scope, path) if isinstance(key, str) else repr(str(key))
        result = self.write(value, scope, path)
        return self.store(result, f"{target}[{name}] = ", "")

    def store(self, result: str, before: str, after: str) -> bool:
        """Say the statement around the result unless it is nothing. True when it always is something."""
        if result == "NULL":
            self.say(f"{before}None{after}")
        elif _is_constant(result):
            self.say(f"{before}{result}{after}")
        elif (built := _MAY_BE_EMPTY.fullmatch(result)) is not None:
            self.say(f"if {built[1]}: {before}{built[1]}{after}")
            return False
        else:
            if not result.isidentifier():
                found = self.templates.fresh("t")
                self.say(f"{found} = {result}")
                result = found
            self.say(f"if {result} is not None: {before}(None if {result} is NULL else {result}){after}")
            return False
        return True

    def write_list(self, tree: list[Any], scope: Scope, path: Path) -> str:
        target = self.templates.fresh("l")
        self.say(f"{target} = []")
        for number, item in enumerate(tree):
            self.add_items(target, item, scope, (*path, number), through=False)
        return target

    def add_items(self, target: str, tree: Any, scope: Scope, path: Path, *, through: bool) -> None:
        """Append what `tree` yields to the list. A list that comes `through` a directive is spliced."""
        if isinstance(tree, list) and through:
            for number, item in enumerate(tree):
                self.add_items(target, item, scope, (*path, number), through=False)
            return
        directive = _directive(tree) if isinstance(tree, Mapping) else None
        if directive in ("$each", "$if", "$switch", "$let"):
            self.branch(tree, directive, scope, path, _Sink(target, into_list=True))
        elif directive == "$use":
            self.say(f"put_result({target}, {self.write_use(tree, scope, path)})")
        else:
            self.store(self.write(tree, scope, path), f"{target}.append(", ")")

    # --- directives

    def write_directive(self, tree: Mapping[Any, Any], scope: Scope, path: Path) -> str:
        directive = _directive(tree)
        if directive == "$use":
            return self.write_use(tree, scope, path)
        target = self.templates.fresh("r")
        if directive == "$each":
            self.write_each_value(tree, scope, path, target)
        else:
            self.say(f"{target} = None")
            self.branch(tree, directive, scope, path, _Sink(target, into_list=False))
        return target

    def write_each_value(self, tree: Mapping[Any, Any], scope: Scope, path: Path, target: str) -> None:
        """A loop outside of a list: a list, or nothing when there is nothing to go over."""
        source = self.loop_source(tree, scope, path)
        self.say(f"{target} = None if {source} is None else []")
        self.write_each(tree, scope, path, _Sink(target, into_list=True), source)

    def branch(
        self, tree: Mapping[Any, Any], directive: str | None, scope: Scope, path: Path, sink: "_Sink"
    ) -> None:
        if directive == "$each":
            self.write_each(tree, scope, path, sink, self.loop_source(tree, scope, path))
        elif directive == "$if":
            self.write_if(tree, scope, path, sink)
        elif directive == "$switch":
            self.write_switch(tree, scope, path, sink)
        else:
            self.write_let(tree, scope, path, sink)

    def put(self, tree: Any, scope: Scope, path: Path, sink: "_Sink") -> None:
        """Put the value of a branch where it goes."""
        before = len(self.lines)
        self.indent += 1
        if sink.into_list:
            self.add_items(sink.name, tree, scope, path, through=True)
        else:
            self.say(f"{sink.name} = {self.write(tree, scope, path)}")
        if len(self.lines) == before:
            self.say("pass")
        self.indent -= 1

    def loop_source(self, tree: Mapping[Any, Any], scope: Scope, path: Path) -> str:
        source = self.templates.fresh("s")
        try:
            self.say(f"{source} = {self.writer.write(parse_loop(str(tree['$each'])).iter, scope)}")
        except ExpressionRefused as error:
            self.templates.refuse((*path, "$each"), str(error))
        return source

    def write_each(
        self, tree: Mapping[Any, Any], scope: Scope, path: Path, sink: "_Sink", source: str
    ) -> None:
        try:
            loop = parse_loop(str(tree["$each"]))
            targets, scope = self.bind_targets(loop.target, scope)
            test = None if loop.test is None else self.writer.write(loop.test, scope)
        except ExpressionRefused as error:
            self.templates.refuse((*path, "$each"), str(error))
            return
        self.say(f"for {targets} in {source} if {source}.__class__ is list else iterate({source}):")
        if test is not None:
            self.indent += 1
            self.say(f"if {test}:")
        rest = _rest(tree, "$each")
        body, where = _taken(rest, "$item", path) or (rest, path)
        self.put(body, scope, where, sink)
        if test is not None:
            self.indent -= 1

    def bind_targets(self, target: nodes.Node, scope: Scope) -> tuple[str, Scope]:
        names = target.items if isinstance(target, nodes.Tuple) else [target]
        python_names = []
        for name in names:
            if not isinstance(name, nodes.Name):
                raise ExpressionRefused("a loop binds plain names")
            python_names.append(self.templates.fresh("v"))
            scope = scope.bind(name.name, python_names[-1])
        return ", ".join(python_names), scope

    def write_if(self, tree: Mapping[Any, Any], scope: Scope, path: Path, sink: "_Sink") -> None:
        self.say(f"if {self.expression(tree['$if'], scope, (*path, '$if'))}:")
        rest = _rest(tree, "$if", "$else")
        then, where = _taken(rest, "$then", path) or (rest, path)
        self.put(then, scope, where, sink)
        if "$else" in tree:
            self.say("else:")
            self.put(tree["$else"], scope, (*path, "$else"), sink)

    def write_switch(self, tree: Mapping[Any, Any], scope: Scope, path: Path, sink: "_Sink") -> None:
        found = self.templates.fresh("t")
        self.say(f"{found} = {self.expression(tree['$switch'], scope, (*path, '$switch'))}")
        word = "if"
        for key, case in _rest(tree, "$switch", "$default").items():
            if isinstance(key, str) and key.startswith("$"):
                self.templates.refuse((*path, key), _unknown_directive(key))
            self.say(f"{word} {found} == {key!r}:")
            self.put(case, scope, (*path, key), sink)
            word = "elif"
        if "$default" in tree:
            self.say("else:" if word == "elif" else "if True:")
            self.put(tree["$default"], scope, (*path, "$default"), sink)

    def write_let(self, tree: Mapping[Any, Any], scope: Scope, path: Path, sink: "_Sink") -> None:
        names = tree["$let"]
        if not isinstance(names, Mapping):
            self.templates.refuse((*path, "$let"), "a mapping of names to expressions is expected")
            return
        for name, text in names.items():
            python_name = self.templates.fresh("v")
            self.say(f"{python_name} = {self.expression(text, scope, (*path, '$let', name))}")
            scope = scope.bind(str(name), python_name)
        self.say("if True:")
        rest = _rest(tree, "$let")
        body, where = _taken(rest, "$in", path) or (rest, path)
        self.put(body, scope, where, sink)

    def write_use(self, tree: Mapping[Any, Any], scope: Scope, path: Path) -> str:
        name = str(tree["$use"])
        names = self.templates.fragment_names(name)
        if names is None:
            return self.templates.refuse((*path, "$use"), f"no fragment named {name!r}")
        bound = tree.get("$with") or {}
        if not isinstance(bound, Mapping):
            return self.templates.refuse((*path, "$with"), "a mapping of names to expressions is expected")
        given = {key: self.expression(text, scope, (*path, "$with", key)) for key, text in bound.items()}
        for needed in names:
            if needed not in given and needed not in scope.names:
                self.templates.refuse(
                    (*path, "$use"), f"the fragment {name!r} uses {needed!r}, which is not known here"
                )
        arguments = [given.get(needed) or scope.names.get(needed, "None") for needed in names]
        call = f"{self.templates.call_name(name)}({', '.join(arguments)})"
        rest = _rest(tree, "$use", "$with")
        if not rest:
            return call
        target = self.templates.fresh("d")
        made = f"{call} or {{}}" if self.templates.makes_mapping(name) else f"dict({call} or ())"
        self.say(f"{target} = {made}")
        self.fill_mapping(target, rest, scope, path)
        return f"({target} or None)"


@dataclass(frozen=True, slots=True)
class _Sink:
    """Where the value of a branch goes: a variable, or the end of a list."""

    name: str
    into_list: bool


def put_result(target: list[Any], result: Any) -> None:
    """Append the result of a fragment to the list around it; a list is spliced, nothing is left out."""
    if result.__class__ is list:
        target.extend(result)
    elif result is not None:
        target.append(None if result is NULL else result)


def is_plain_mapping(tree: Any) -> bool:
    """Whether each run of the tree makes a mapping that nobody else holds, or nothing."""
    return isinstance(tree, Mapping) and _directive(tree) is None


def _directive(tree: Mapping[Any, Any]) -> str | None:
    return next((name for name in ("$each", "$let", "$if", "$switch", "$use") if name in tree), None)


def _rest(tree: Mapping[Any, Any], *taken: str) -> dict[Any, Any]:
    return {key: value for key, value in tree.items() if key not in taken}


def _taken(rest: Mapping[Any, Any], key: str, path: Path) -> tuple[Any, Path] | None:
    """The body that stands under its own key instead of beside the directive."""
    return (rest[key], (*path, key)) if key in rest and len(rest) == 1 else None


def _is_constant(source: str) -> bool:
    """Whether the value can never be missing: a literal, a text, a mapping or list of our own."""
    return source[0] in "'\"-0123456789" or source in ("True", "False") or _OWN.fullmatch(source) is not None


def _unknown_directive(key: str) -> str:
    return f"{key} is misplaced here" if key in DIRECTIVES else f"no directive named {key}"

"""Write the generated parts of docs/ from the code: keys of YAML files, sections of a format, commands, JSON Schemas.

A part stands between `<!-- generated: NAME -->` and `<!-- end -->`. With `--check` nothing is written; the exit code
says whether a file is stale.
"""

import argparse
import pathlib
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from pydantic import BaseModel

from engine.cli import build_parser
from engine.config.declared import DECLARED
from engine.config.schema import KINDS, ModelsFile, write_json_schema
from engine.config.schema_gateway import DEFAULT_TREE, GatewayFile
from engine.config.schema_names import NamesFile
from engine.config.schema_policy import PolicyFile
from engine.config.schema_price import PriceEntry, RatesEntry, ServiceEntry, TierEntry
from engine.config.schema_provider import ProviderFile
from engine.config.yamltree import parse_document
from engine.wire.formats import SECTIONS

ROOT = pathlib.Path(__file__).resolve().parent.parent
DOCS = tuple(
    f"docs/{path.name}"
    for path in sorted((ROOT / "docs").glob("*.md"))
    if "<!-- generated: " in path.read_text()
)
PART = re.compile(r"(<!-- generated: ([\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)

Schema = Mapping[str, Any]
FILES: Mapping[str, type[BaseModel]] = {
    "gateway": GatewayFile,
    "provider": ProviderFile,
    "model": ModelsFile,
    "names": NamesFile,
    "policy": PolicyFile,
    **DECLARED,
}
ELSEWHERE = {PriceEntry.__name__: "models.NAME.price"}
"""Written out in the table of models only."""
OVER = (TierEntry.__name__, ServiceEntry.__name__)
"""They say again what the price around them says; only their own keys are written out."""

VARIABLE = re.compile(r"\$\{(\w+)")
SHORT_NAMES = {
    r"^[A-Za-z0-9][A-Za-z0-9._-]*$": "name",
    r"^[^\s\x00-\x1f]+$": "model name",
    "^/": "path",
}
ARGUMENTS = {
    "--environment": "what the key's text begins with: `gw_live_`, `gw_test_` ...",
    "--format": "`json`: one JSON object on stdout (lists: one in each line)",
    "--operation": "which endpoint is meant",
    "-h": "",
    "ID": "the id that `keys list` shows",
    "kind": "which kind of file",
    "model": "a name that callers ask for",
    "provider": "a provider's name",
}
"""What the arguments mean whose parser says nothing about them."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing, say what is stale")
    files = {ROOT / name: fill_parts((ROOT / name).read_text()) for name in DOCS}
    files |= {ROOT / f"docs/schema/{kind}.json": write_json_schema(kind) for kind in KINDS}
    stale = [path for path, text in files.items() if not path.exists() or path.read_text() != text]
    if parser.parse_args().check:
        sys.stderr.writelines(
            f"{path.relative_to(ROOT)} is stale: run scripts/write_reference.py\n" for path in stale
        )
        return bool(stale)
    for path in stale:
        path.write_text(files[path])
    return 0


def fill_parts(text: str) -> str:
    """The text with every generated part as the code says it now."""
    return PART.sub(lambda found: f"{found[1]}{write_part(found[2])}\n{found[3]}", text)


def write_part(name: str) -> str:
    kind, _, which = name.partition("-")
    return WRITERS[kind](which)


def write_table(header: tuple[str, ...], rows: Iterator[tuple[str, ...]]) -> str:
    lines = [header, ("---",) * len(header), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in lines)


# --- keys of the YAML files, from their JSON Schemas: what an editor shows


def write_keys(kind: str) -> str:
    schema = FILES[kind].model_json_schema(mode="validation")
    lister = KeyLister(schema.get("$defs", {}), {} if kind == "model" else ELSEWHERE)
    return write_table(("key", "type", "default", "meaning"), lister.list_keys(schema, ""))


class KeyLister:
    """Rows for the keys of one file. A model that occurs twice is written out once."""

    def __init__(self, definitions: Mapping[str, Schema], written: Mapping[str, str]) -> None:
        self._definitions = definitions
        self._first = dict(written)

    def list_keys(self, schema: Schema, prefix: str) -> Iterator[tuple[str, ...]]:
        for name, field in schema.get("properties", {}).items():
            path = f"{prefix}{name}"
            inner = self._find_inner(field, path)
            meaning = field.get("description", "").rstrip(".")
            if inner is not None and inner[1] in self._first:
                meaning += f"; keys as in `{self._first[inner[1]]}`"
            elif inner is not None and inner[1] in OVER:
                meaning += "; and the keys around it, where they differ"
            yield f"`{path}`", self.say_type(field), say_default(name, field, schema), meaning
            if inner is not None and inner[1] not in self._first:
                self._first[inner[1]] = path
                yield from self.list_keys(self._list_own(inner[1]), f"{inner[0]}.")

    def _list_own(self, name: str) -> Schema:
        definition = self._definitions[name]
        if name not in OVER:
            return definition
        own = {
            key: field
            for key, field in definition["properties"].items()
            if key not in RatesEntry.model_fields
        }
        return {**definition, "properties": own}

    def _find_inner(self, field: Schema, path: str) -> tuple[str, str] | None:
        """(path, definition) of the mapping with declared keys that a value may be or hold."""
        found = list(self._find_trees(field, path))
        return max(found, key=lambda each: len(each[0])) if found else None

    def _find_trees(self, field: Schema, path: str) -> Iterator[tuple[str, str]]:
        if "$ref" in field:
            name = field["$ref"].rpartition("/")[2]
            if self._definitions[name].get("properties"):
                yield path, name
        for branch in (*field.get("anyOf", ()), *field.get("oneOf", ())):
            yield from self._find_trees(branch, path)
        if isinstance(field.get("items"), dict):
            yield from self._find_trees(field["items"], f"{path}[]")
        if isinstance(field.get("additionalProperties"), dict):
            yield from self._find_trees(field["additionalProperties"], f"{path}.NAME")

    def say_type(self, field: Schema) -> str:
        branches = [
            each for each in (*field.get("anyOf", ()), *field.get("oneOf", ())) if each.get("type") != "null"
        ]
        if branches:
            return say_known_union(branches) or self._say_union(branches)
        if "$ref" in field:
            return "mapping"
        if "enum" in field or "const" in field:
            return ", ".join(f"`{say_value(each)}`" for each in field.get("enum", [field.get("const")]))
        return self._say_plain_type(field)

    def _say_union(self, branches: list[Schema]) -> str:
        """A value that may be one or many is said once."""
        many = [each for each in branches if each.get("type") == "array"]
        words = dict.fromkeys(self.say_type(each) for each in branches if each not in many)
        if len(many) == 1 and words:
            return f"{' or '.join(words)}, or a list"
        return " or ".join(dict.fromkeys(map(self.say_type, branches)))

    def _say_plain_type(self, field: Schema) -> str:
        kind = field.get("type")
        if kind == "array":
            if "prefixItems" in field:
                return "[low, high]"
            return f"list of {self.say_type(field.get('items', {}))}"
        if kind == "object":
            inner = field.get("additionalProperties")
            return f"mapping of {self.say_type(inner)}" if isinstance(inner, dict) else "mapping"
        if kind in ("integer", "number"):
            return f"{kind}{say_range(field)}"
        if kind == "boolean":
            return "`true`, `false`"
        return SHORT_NAMES.get(field.get("pattern", ""), "text") if kind == "string" else "anything"


def say_default(name: str, field: Schema, schema: Schema) -> str:
    """A mapping's default is what its keys say below it."""
    required, default = name in schema.get("required", ()), field.get("default")
    if required:
        return f"`{DEFAULT_TREE[name]}`" if name in DEFAULT_TREE else "**required**"
    if isinstance(default, dict):
        return "" if default else "–"
    if default in (None, "") or default == []:
        return "–"
    if isinstance(default, list):
        return f"`[{', '.join(map(str, default))}]`"
    return f'`"{default}"`' if isinstance(default, str) and default.isdigit() else f"`{say_value(default)}`"


def say_known_union(branches: list[Schema]) -> str:
    """Money and failures are unions of shapes; people know them by one name."""
    if any(str(branch.get("pattern", "")).startswith("^[0-9]*") for branch in branches):
        return "US dollars as text"
    if any(branch.get("minimum") == 100 and branch.get("maximum") == 599 for branch in branches):
        return "failure"
    return ""


def say_range(field: Schema) -> str:
    words = []
    for key, sign in (("minimum", "≥"), ("exclusiveMinimum", ">"), ("maximum", "≤")):
        if key in field and abs(field[key]) < 2**53:
            words.append(f"{sign} {field[key]}")
    return f" {', '.join(words)}" if words else ""


def say_value(value: Any) -> str:
    return (
        str(value).lower()
        if isinstance(value, bool)
        else f"{value:g}"
        if isinstance(value, float)
        else str(value)
    )


# --- the sections of a format


def write_sections(_: str) -> str:
    return write_table(("section", "what it is"), ((f"`{name}`", text) for name, text in SECTIONS.items()))


# --- the commands


def write_commands(_: str) -> str:
    return "\n\n".join(
        write_command(name, parser) for name, parser in list_commands(build_parser(), "gatewayz")
    )


def list_commands(
    parser: argparse.ArgumentParser, name: str
) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """Every command that can be run, by its full name."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for word, child in action.choices.items():
                yield from list_commands(child, f"{name} {word}")
            return
    yield name, parser


def write_command(name: str, parser: argparse.ArgumentParser) -> str:
    head = f"### `{name}`\n\n{find_help(name)}"
    rows = [
        describe_argument(action)
        for action in parser._actions
        if not isinstance(action, argparse._HelpAction)
    ]
    return (
        f"{head}\n\n{write_table(('argument', 'value', 'default', 'meaning'), iter(rows))}" if rows else head
    )


def find_help(name: str) -> str:
    """The sentence that the parser above shows for a command."""
    parser, sentence = build_parser(), ""
    for word in name.split()[1:]:
        action = next(each for each in parser._actions if isinstance(each, argparse._SubParsersAction))
        sentence = next(each.help or "" for each in action._choices_actions if each.dest == word)
        parser = action.choices[word]
    return f"{sentence[:1].upper()}{sentence[1:]}."


def describe_argument(action: argparse.Action) -> tuple[str, ...]:
    names = ", ".join(f"`{name}`" for name in action.option_strings) or f"`{action.metavar or action.dest}`"
    if action.choices is not None:
        value = ", ".join(f"`{choice}`" for choice in action.choices)
    elif action.nargs == 0 or not action.option_strings:
        value = ""
    else:
        value = f"`{action.metavar or action.dest.upper()}`"
    default = (
        "**required**"
        if action.required
        else "–"
        if action.default in (None, False)
        else f"`{action.default}`"
    )
    key = action.option_strings[-1] if action.option_strings else str(action.metavar or action.dest)
    return names, value, default, (action.help or ARGUMENTS[key]) % {"default": action.default}


# --- the shipped providers, from their files


def write_providers(_: str) -> str:
    rows = (describe_provider(path) for path in sorted((ROOT / "providers.d").glob("*.yaml")))
    return write_table(("provider", "wire", "variables"), rows)


def describe_provider(path: pathlib.Path) -> tuple[str, ...]:
    tree = parse_document(path.read_bytes()).tree
    wire = tree["format"] if isinstance(tree["format"], str) else tree["format"]["extends"]
    wires = [wire, *tree.get("also", ())]
    names = [f"`{name}`" for name in dict.fromkeys(VARIABLE.findall(path.read_text()))]
    notes = [] if tree.get("enabled", True) else [f"switched off: {tree['reason']}"]
    return (
        f"`{tree['provider']}`",
        ", ".join(f"`{name}`" for name in wires),
        "; ".join([", ".join(names), *notes]).removeprefix("; "),
    )


WRITERS: Mapping[str, Callable[[str], str]] = {
    "providers": write_providers,
    "keys": write_keys,
    "sections": write_sections,
    "commands": write_commands,
}

if __name__ == "__main__":
    sys.exit(main())

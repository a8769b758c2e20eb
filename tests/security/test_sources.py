"""What can be read off the sources: how SQL is written, secrets are compared, what is never called, what is locked."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted(path for path in (ROOT / "engine").rglob("*.py") if "simulator" not in path.parts)
RUNS_SQL = frozenset({"execute", "executemany", "stream", "copy"})

REVIEWED_SQL = {
    ("engine/storage/row_security.py", "statement"): "names of the catalogue, as sql.Identifier",
    ("engine/storage/migrations.py", "file.sql.encode()"): "the numbered files of the package",
    ("engine/storage/ledger_reading.py", "select"): "a table of the module",
    ("engine/storage/accounts.py", "statement"): "a table of the module",
    ("engine/storage/leases.py", "statement"): "a table of the module",
    (
        "engine/storage/user_listing.py",
        "*(_FILTERS[name] for name in filters)",
    ): "a table of the module: a name that is not in it is a KeyError",
    (
        "engine/storage/own_usage.py",
        "*(_FILTERS[name] for name in filters)",
    ): "a table of the module: a name that is not in it is a KeyError",
    ("engine/storage/own_usage.py", "recent"): "a table of the module",
}
"""Pieces of statements that are not plainly fixed text, each looked at once: (file, expression) -> why it is safe."""

SECRET_WORDS = (
    "secret",
    "token",
    "password",
    "digest",
    "signature",
    "hmac",
    "seal",
    "hash",
    "otp",
    "verifier",
)
REVIEWED_COMPARISONS = {
    (
        "engine/config/build.py",
        "base.first_token_s == _DEFAULT_FIRST_TOKEN_S",
    ): "seconds until a token of text",
    ("engine/config/entries.py", "path[0] in secret_places"): "positions in a file",
    ("engine/config/reload.py", "stat_signature(path) != before"): "size and time of a file",
    (
        "engine/config/reload.py",
        "hash_bytes(read_source(entry['path'], '')[0]) != entry['sha256']",
    ): "of a file",
    ("engine/config/reload.py", "hash_bytes(content) != sha256"): "of a file",
    ("engine/storage/audit.py", "seal == expected"): "the last seal, which its reader has noted and compares",
    (
        "engine/storage/key_cache.py",
        "line[:_HASHED] not in new",
    ): "rows of the own file and of the database, by their hashes: nothing that a caller sent",
    ("engine/storage/outbox.py", "template in WITH_SECRETS"): "names of templates",
    ("engine/wire/expressions.py", "_find_root(node) in MAY_HOLD_SECRETS"): "names of variables",
}
"""Comparisons with `==` that sound like secrets and are none."""


@cache
def read(path: Path) -> ast.Module:
    try:
        return ast.parse(path.read_text())
    except SystemError:  # some versions of Python 3.11 lose count when the collector runs in between
        return ast.parse(path.read_text())


def name_file(path: Path) -> str:
    return str(path.relative_to(ROOT))


# --- SQL


class Fixed:
    """Which expressions of a file are text that stands in the sources, whatever a caller sends."""

    def __init__(self, module: ast.Module) -> None:
        self.values: dict[str, list[ast.expr]] = {}
        self.literal: set[str] = set()
        for node in ast.walk(module):
            if isinstance(node, ast.Assign):
                for target in node.targets:
                    if isinstance(target, ast.Name):
                        self.values.setdefault(target.id, []).append(node.value)
            elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                self._note(node.target.id, node.annotation, node.value)
            elif isinstance(node, ast.arg):
                self._note(node.arg, node.annotation, None)
            elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                self._note(node.name, node.returns, None)
            elif isinstance(node, ast.ImportFrom):
                self.literal |= {each.asname or each.name for each in node.names if each.name.isupper()}

    def _note(self, name: str, annotation: ast.expr | None, value: ast.expr | None) -> None:
        if annotation is not None and "LiteralString" in ast.unparse(annotation):
            self.literal.add(name)
        elif value is not None:
            self.values.setdefault(name, []).append(value)
        elif annotation is not None:
            self.values.setdefault(name, []).append(ast.Name("<argument>"))

    def find_loose(self, node: ast.expr, seen: frozenset[str] = frozenset()) -> list[ast.expr]:
        """The parts that are not fixed."""
        if isinstance(node, ast.Name) and node.id not in seen:
            if node.id in self.literal:
                return []
            parts: list[ast.expr] | None = self.values.get(node.id)
            seen |= {node.id}
        else:
            parts = self._list_parts(node)
        if parts is None:
            return [node]
        return [loose for part in parts for loose in self.find_loose(part, seen)]

    def _list_parts(self, node: ast.expr) -> list[ast.expr] | None:
        """What an expression is made of; None when that cannot be told."""
        match node:
            case ast.Constant():
                return []
            case ast.JoinedStr():
                return [part.value for part in node.values if isinstance(part, ast.FormattedValue)]
            case ast.BinOp():
                return [node.left, node.right]
            case ast.IfExp():
                return [node.body, node.orelse]
            case ast.Subscript():
                return [node.value]
            case ast.List() | ast.Tuple():
                return node.elts
            case ast.ListComp() | ast.GeneratorExp():
                return [node.elt]
            case ast.Call():
                return self._list_arguments(node)
        return None

    def _list_arguments(self, node: ast.Call) -> list[ast.expr] | None:
        text = ast.unparse(node.func)
        if text == "map" and ast.unparse(node.args[0]) in ("sql.Identifier", "sql.Placeholder"):
            return []
        if text in ("sql.Identifier", "sql.Placeholder", "sql.Literal") or text in self.literal:
            return []
        given = [*node.args, *(keyword.value for keyword in node.keywords)]
        if isinstance(node.func, ast.Attribute) and node.func.attr == "join":
            return given
        if text.startswith("sql."):
            inner = node.func.value if isinstance(node.func, ast.Attribute) else None
            return given + ([inner] if isinstance(inner, ast.Call) else [])
        return None


def list_takers(module: ast.Module) -> Iterator[tuple[str, int]]:
    """Functions that take a fixed text, and where: whoever calls them must have one."""
    for node in ast.walk(module):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            for place, each in enumerate(node.args.args):
                if each.annotation is not None and "LiteralString" in ast.unparse(each.annotation):
                    yield node.name, place


def list_loose_sql(path: Path) -> Iterator[tuple[str, str]]:
    module = read(path)
    fixed = Fixed(module)
    takers = dict(list_takers(module))
    for node in ast.walk(module):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.args:
            if node.func.attr in RUNS_SQL and "storage" in path.parts or node.func.attr == "execute":
                for loose in fixed.find_loose(node.args[0]):
                    yield name_file(path), ast.unparse(loose)
        if isinstance(node, ast.Call) and (place := takers.get(ast.unparse(node.func))) is not None:
            for loose in fixed.find_loose(node.args[place]):
                yield name_file(path), ast.unparse(loose)


def test_no_statement_holds_what_a_caller_sent() -> None:
    loose = {found for path in SOURCES for found in list_loose_sql(path)}
    assert not loose - set(REVIEWED_SQL), sorted(loose - set(REVIEWED_SQL))


def test_the_search_for_loose_sql_finds_it(tmp_path: Path) -> None:
    source = """
ORDER = "DESC"
async def find(connection, name: str, kind: str):
    where = f"name = '{name}'"
    await connection.execute(f"SELECT 1 FROM t WHERE {where} ORDER BY x {ORDER}")
    await connection.execute("SELECT 1 FROM " + kind)
    await connection.execute("SELECT %s" % name)
    await connection.execute("SELECT {}".format(kind))
    await connection.execute("SELECT %s", (name,))
"""
    module = ast.parse(source)
    fixed = Fixed(module)
    calls = [
        node
        for node in ast.walk(module)
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "connection.execute"
    ]
    assert [bool(fixed.find_loose(call.args[0])) for call in calls] == [True, True, True, True, False]


# --- comparisons


def list_comparisons(module: ast.Module) -> Iterator[ast.Compare]:
    """Comparisons by `==` and the like of which a side is named like a secret."""
    for node in ast.walk(module):
        if isinstance(node, ast.Compare) and any(
            isinstance(operator, ast.Eq | ast.NotEq | ast.In | ast.NotIn) for operator in node.ops
        ):
            sides = [node.left, *node.comparators]
            if not any(isinstance(side, ast.Constant) for side in sides) and any(map(is_secretive, sides)):
                yield node


def is_secretive(side: ast.expr) -> bool:
    named = (
        each.id if isinstance(each, ast.Name) else each.attr
        for each in ast.walk(side)
        if isinstance(each, ast.Name | ast.Attribute)
    )
    return any(word in name.lower().replace("tokens", "") for name in named for word in SECRET_WORDS)


def test_secrets_are_compared_in_constant_time() -> None:
    found = {
        (name_file(path), ast.unparse(node))
        for path in SOURCES
        if path.name != "secret.py"
        for node in list_comparisons(read(path))
    }
    assert not found - set(REVIEWED_COMPARISONS), sorted(found - set(REVIEWED_COMPARISONS))


def test_the_search_for_comparisons_finds_them() -> None:
    found = "if given_token == stored: pass\nif a.digest() != b: pass\nif key_hash in hashes: pass\n"
    source = found + "if kind == 'token': pass"
    assert len(list(list_comparisons(ast.parse(source)))) == 3


# --- what is never there


@pytest.mark.parametrize("name", ["eval", "exec", "__import__", "breakpoint"])
def test_nothing_runs_text_but_the_compiler_of_templates(name: str) -> None:
    calls = {
        name_file(path)
        for path in SOURCES
        for node in ast.walk(read(path))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == name
    }
    assert calls <= {"engine/wire/templates.py", "engine/wire/expressions.py"}, calls


def test_no_variable_of_the_environment_weakens_anything() -> None:
    """No TESTING, no APP_ENV: what is in force stands in the configuration."""
    for path in SOURCES:
        assert not re.search(r"\b(TESTING|APP_ENV|DEBUG_MODE|SKIP_AUTH|DISABLE_AUTH)\b", path.read_text()), (
            path
        )


def test_templates_are_parsed_by_jinja_and_run_by_nobody_but_us() -> None:
    rendered = [
        name_file(path)
        for path in SOURCES
        if re.search(r"\bfrom jinja2|\bimport jinja2", path.read_text())
        and "SandboxedEnvironment" not in path.read_text()
        and re.search(r"\.(render|from_string|get_template)\(", path.read_text())
    ]
    assert not rendered


# --- what is installed


@pytest.mark.parametrize("lock", sorted(ROOT.glob("requirements*.lock")), ids=lambda path: path.name)
def test_every_locked_package_has_its_hashes(lock: Path) -> None:
    text = lock.read_text().replace("\\\n", " ")
    pins = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    packages = [line for line in pins if not line.startswith("--")]
    assert packages
    for line in packages:
        assert re.match(r"[A-Za-z0-9._-]+(\[[\w,-]+\])?==\S+.*--hash=sha256:[0-9a-f]{64}", line), line[:100]


def test_installing_demands_the_hashes() -> None:
    for name in ("scripts/install", "Dockerfile"):
        text = (ROOT / name).read_text()
        commands = [
            line
            for line in text.splitlines()
            if re.search(r"pip install|pip.* install ", line) and "-r " in line
        ]
        assert all("--require-hashes" in line for line in commands), name

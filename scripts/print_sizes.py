"""Print the size of each part, the largest files and functions, and how many modules no test file mirrors.

Information, not a gate: a file is split because it does two things, not because of a number.
"""

import ast
import collections
import pathlib
import statistics
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent


def main() -> None:
    files = {path: path.read_text() for path in sorted((ROOT / "engine").rglob("*.py"))}
    lines = {path: text.count("\n") for path, text in files.items()}
    parts: collections.Counter[str] = collections.Counter()
    for path, count in lines.items():
        inside = path.relative_to(ROOT / "engine").parts
        parts[inside[0] if len(inside) > 1 else "engine"] += count
    show(
        f"engine: {len(files)} files, {sum(lines.values())} lines; "
        + ", ".join(map("{0[0]} {0[1]}".format, parts.most_common()))
    )
    largest = sorted(lines, key=lambda path: -lines[path])[:5]
    show("largest files: " + ", ".join(f"{path.relative_to(ROOT)} {lines[path]}" for path in largest))
    lengths = sorted(function_lengths(files), reverse=True)
    if lengths:
        median = statistics.median(length for length, _ in lengths)
        show(f"functions: {len(lengths)}, median {median:.0f} lines")
        show("longest: " + ", ".join(f"{name} {length}" for length, name in lengths[:5]))
    rooms = collections.Counter(untested(files))
    named = ", ".join(f"{room} {count}" for room, count in rooms.most_common())
    show(f"modules without a test file of their name: {rooms.total()} ({named})")


def function_lengths(files: dict[pathlib.Path, str]) -> list[tuple[int, str]]:
    """(lines, file:function) of every function."""
    found = []
    for path, text in files.items():
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno:
                found.append((node.end_lineno - node.lineno + 1, f"{path.stem}.{node.name}"))
    return found


def untested(files: dict[pathlib.Path, str]) -> list[str]:
    """The room of each module whose name no test file carries."""
    tests = {path.stem.removeprefix("test_") for path in (ROOT / "tests").rglob("test_*.py")}
    return [path.parent.name for path in files if path.stem != "__init__" and path.stem not in tests]


def show(line: str) -> None:
    sys.stdout.write(line + "\n")


if __name__ == "__main__":
    main()

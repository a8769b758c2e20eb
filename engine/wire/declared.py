"""What the small sections of a format share: values that are one or several, paths; each problem is collected."""

from collections.abc import Mapping
from typing import Any

from engine.wire.paths import Getter, PathRefused, compile_path

Path = tuple[str | int, ...]
Problems = list[tuple[Path, str]]


def as_list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [] if value is None else [value]


def as_scalars(value: Any, where: Path, problems: Problems) -> list[Any]:
    found = [item for item in as_list(value) if isinstance(item, str | int)]
    if len(found) != len(as_list(value)):
        problems.append((where, "a word, a number or a list of them is expected"))
    return found


def as_mapping(value: Any, where: Path, problems: Problems) -> Mapping[str, Any]:
    if value is not None and not isinstance(value, Mapping):
        problems.append((where, "a mapping is expected"))
    return value if isinstance(value, Mapping) else {}


def compile_paths(paths: Any, where: Path, problems: Problems) -> list[Getter]:
    getters = []
    for path in as_list(paths):
        try:
            getters.append(compile_path(path))
        except (PathRefused, TypeError) as error:
            problems.append((where, str(error)))
    return getters

"""What went wrong, read from a wire's documents by declared paths and shapes in common use, and which kind it is."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from engine.errors import ProviderError
from engine.wire.declared import Path, Problems, as_list, as_mapping, as_scalars, compile_paths

# The shapes of error bodies that are in use, whoever sends them; a format's own paths are tried before these.
_SHAPES: Mapping[str, Sequence[str]] = {
    "message": (
        *("$.error.message", "$.error", "$.message", "$.detail.message", "$.detail", "$.detail[0].msg"),
        *("$.errors[0].message", "$.base_resp.status_msg", "$.response.error.message", "$.exception.message"),
        *("$.Message", "$.title", "$.reason"),
    ),
    "type": (
        *(
            "$.error.type",
            "$.error.status",
            "$.exception.type",
            "$.response.error.type",
            "$.type",
            "$.object",
        ),
        "$.reason",
    ),
    "code": (
        *("$.error.code", "$.code", "$.errors[0].code", "$.base_resp.status_code", "$.response.error.code"),
        "$.status_code",
    ),
    "param": ("$.error.param", "$.param", "$.detail[0].loc"),
}
MAX_MESSAGE = 2000
_TAG = re.compile(r"<[^>]*>|\s+")


class ErrorReader:
    """Reads error bodies of any shape, and says which kind of failure one is."""

    def __init__(self, raw: Mapping[str, Any], problems: Problems) -> None:
        self._readers = {
            name: _compile_fact([*as_list(raw.get(name)), *shapes], ("errors", name), problems)
            for name, shapes in _SHAPES.items()
        }
        self._waits = compile_paths(raw.get("retry_after"), ("errors", "retry_after"), problems)
        self._inside = compile_paths(raw.get("inside"), ("errors", "inside"), problems)
        statuses = as_mapping(raw.get("statuses"), ("errors", "statuses"), problems)
        self._statuses = {str(status): str(kind) for status, kind in statuses.items()}
        self._kinds: list[tuple[str, Rule]] = [
            (str(kind), _compile_rule(rule, ("errors", "kinds", kind), problems))
            for kind, rule in as_mapping(raw.get("kinds"), ("errors", "kinds"), problems).items()
        ]

    def read_error(self, status: int, doc: Any, text: str) -> ProviderError:
        """What the body says. `doc` is None when it was not JSON; then `text` is all there is."""
        while isinstance(doc, list) and doc:
            doc = doc[0]
        if not isinstance(doc, dict):
            said = _TAG.sub(" ", text).strip()
            return ProviderError(said[:MAX_MESSAGE] or f"the provider answered with status {status}")
        facts = {name: read(doc) for name, read in self._readers.items()}
        message = facts["message"] or f"the provider answered with status {status}"
        wait_s = next((wait_s for read in self._waits if (wait_s := _as_wait(read(doc))) is not None), None)
        return ProviderError(message[:MAX_MESSAGE], facts["type"], facts["code"], facts["param"], wait_s)

    @property
    def looks_inside(self) -> bool:
        """Whether this wire hides errors in answers that have none where others have it."""
        return bool(self._inside)

    def is_inside(self, doc: Any) -> bool:
        """Whether an answer or an event with a good status holds an error of this wire's own kind."""
        return any(read(doc) for read in self._inside)

    def kind_of_error(self, status: int, error: ProviderError) -> str | None:
        for kind, matches in self._kinds:
            if matches(status, error):
                return kind
        return self._statuses.get(str(status))


_WAIT = re.compile(r"(\d+(?:\.\d+)?)s?")


def _as_wait(value: Any) -> float | None:
    """Seconds of a number, or of a text such as `34.4s`."""
    found = _WAIT.fullmatch(str(value)) if isinstance(value, int | float | str) else None
    return float(found.group(1)) if found is not None else None


def _compile_fact(paths: Sequence[str], where: Path, problems: Problems) -> Callable[[Any], str | None]:
    getters = compile_paths(paths, where, problems)

    def read_fact(doc: Any) -> str | None:
        for read in getters:
            found: Any = read(doc)
            if isinstance(found, str) and found:
                return str(found)
            if isinstance(found, int) and not isinstance(found, bool):
                return str(found)
            if isinstance(found, list) and found and all(isinstance(step, str | int) for step in found):
                return ".".join(map(str, found))
        return None

    return read_fact


Rule = Callable[[int, ProviderError], bool]


def _compile_rule(raw: Any, where: Path, problems: Problems) -> Rule:
    """`{status, code, type, message}`: the status, when given, must fit, and so must one of the others, when given."""
    if not isinstance(raw, Mapping):
        problems.append((where, "a mapping of status, code, type and message is expected"))
        raw = {}
    for name in set(raw) - {"status", "code", "type", "message"}:
        problems.append(((*where, name), "one of status, code, type, message is expected"))
    statuses = frozenset(as_scalars(raw.get("status"), (*where, "status"), problems))
    codes = frozenset(str(code) for code in as_scalars(raw.get("code"), (*where, "code"), problems))
    types = frozenset(as_scalars(raw.get("type"), (*where, "type"), problems))
    patterns = _compile_patterns(as_list(raw.get("message")), (*where, "message"), problems)
    only_status = not (codes or types or patterns)

    def matches(status: int, error: ProviderError) -> bool:
        if statuses and status not in statuses:
            return False
        if only_status or error.code in codes or error.type in types:
            return True
        return any(pattern.search(error.message) for pattern in patterns)

    return matches


def _compile_patterns(texts: Sequence[Any], where: Path, problems: Problems) -> list[re.Pattern[str]]:
    patterns = []
    for text in texts:
        try:
            patterns.append(re.compile(text, re.IGNORECASE))
        except (re.error, TypeError) as error:
            problems.append((where, f"not a regular expression: {error}"))
    return patterns

"""Single facts of a wire's documents, read by declared paths: what was used, what went wrong, which kind it is."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from decimal import Decimal, InvalidOperation
from typing import Any, TypeVar

from engine.errors import ProviderError
from engine.wire.paths import Getter, PathRefused, RowsGetter, compile_path, compile_rows, split_plain_path
from engine.wire.usage import CLASSES, NO_UNITS, UNITS, Usage, split_inclusive_counts

Path = tuple[str | int, ...]
Problems = list[tuple[Path, str]]
Counts = dict[str, Any]
"""Tokens are whole numbers; units are Decimals."""

COUNT_NAMES = ("prompt", "completion", "total", "cache_write_total", *CLASSES[1:5], *CLASSES[6:], *UNITS)
_INPUT_CLASSES = CLASSES[1:5]


class UsageReader:
    """Reads token counts. `outside` names classes that this wire counts beside its totals instead of in them."""

    def __init__(self, raw: Mapping[str, Any], problems: Problems) -> None:
        self._sources = _compile_paths(raw.get("from", "$.usage"), ("usage", "from"), problems)
        self._counts: list[tuple[str, Getter]] = []
        wanted: list[tuple[str, Places]] = []
        for name, paths in _as_mapping(raw.get("counts"), ("usage", "counts"), problems).items():
            if name not in COUNT_NAMES:
                problems.append(
                    (
                        ("usage", "counts", name),
                        f"not a class of tokens or a unit ({', '.join(COUNT_NAMES)})",
                    )
                )
            elif name in UNITS:
                self._counts.append((name, _compile_amount(paths, ("usage", "counts", name), problems)))
            elif (places := find_places(paths)) is not None:
                wanted.append((name, places))
            else:
                self._counts.append((name, _compile_count(paths, ("usage", "counts", name), problems)))
        self._spots, self._inner_spots = arrange_places(wanted)
        self._asked: list[tuple[str, Getter]] = []
        for name, paths in _as_mapping(raw.get("asked"), ("usage", "asked"), problems).items():
            if name not in UNITS:
                problems.append((("usage", "asked", name), f"not a unit ({', '.join(UNITS)})"))
            self._asked.append((name, _compile_amount(paths, ("usage", "asked", name), problems)))
        self._outside = frozenset(_as_scalars(raw.get("outside"), ("usage", "outside"), problems))
        for name in self._outside - set(CLASSES):
            problems.append((("usage", "outside"), f"{name!r} is not a class of tokens"))

    def read_counts(self, doc: Any) -> Counts | None:
        """The counts as this wire gives them; None when the document has none."""
        for read in self._sources:
            found = read(doc)
            if isinstance(found, dict):
                counts = read_places(found, self._spots, self._inner_spots)
                for name, read_count in self._counts:
                    count = read_count(found)
                    if count is not None:
                        counts[name] = count
                if counts:
                    return counts
        return None

    def read_asked(self, body: Any) -> Mapping[str, Decimal]:
        """Units that are known from the request."""
        if not self._asked:
            return NO_UNITS
        found = ((name, read(body)) for name, read in self._asked)
        return {name: amount for name, amount in found if amount is not None}

    def make_usage(self, counts: Mapping[str, Any]) -> Usage:
        """Disjoint classes of the counts."""
        inclusive = dict(counts)
        if "cache_write_total" in counts:
            written = inclusive.pop("cache_write_total") - counts.get("cache_write_1h", 0)
            inclusive["cache_write"] = max(written, 0)
        outside = self._outside
        if _counts_reasoning_apart(counts):
            outside = outside | {"reasoning"}
        for name in outside:
            total = "prompt" if name in _INPUT_CLASSES else "completion"
            inclusive[total] = inclusive.get(total, 0) + inclusive.get(name, 0)
        return split_inclusive_counts(inclusive)

    def read_usage(self, doc: Any) -> Usage | None:
        counts = self.read_counts(doc)
        return None if counts is None else self.make_usage(counts)


Places = tuple[tuple[str | None, str], ...]
"""Where a count may stand, first one first: (key of an inner mapping or None, key)."""


def find_places(paths: Any) -> Places | None:
    """The places that plain paths of one or two keys name; None when a path is anything else."""
    places = []
    for path in [paths] if isinstance(paths, str) else paths if isinstance(paths, list) else [None]:
        steps = split_plain_path(path) if isinstance(path, str) else None
        if steps is None or not 1 <= len(steps) <= 2 or not all(isinstance(step, str) for step in steps):
            return None
        places.append((str(steps[0]) if len(steps) == 2 else None, str(steps[-1])))
    return tuple(places)


Spots = dict[str, list[tuple[str, int]]]
"""key -> the counts it stands for, each with its rank among the places of that count: 0 goes before 1."""


def arrange_places(wanted: Sequence[tuple[str, Places]]) -> tuple[Spots, dict[str, Spots]]:
    """The places by key: those of the object itself, and those of its inner mappings."""
    spots: Spots = {}
    inner_spots: dict[str, Spots] = {}
    for name, places in wanted:
        for rank, (outer, key) in enumerate(places):
            where = spots if outer is None else inner_spots.setdefault(outer, {})
            where.setdefault(key, []).append((name, rank))
    return spots, inner_spots


def read_places(found: dict[str, Any], spots: Spots, inner_spots: Mapping[str, Spots]) -> Counts:
    """The counts that are there. It goes through what is there, because far more might be: this runs for every answer."""
    counts: Counts = {}
    ranks: dict[str, int] = {}
    _note_counts(found, spots, counts, ranks)
    for outer, inner in found.items():
        if inner.__class__ is dict and outer in inner_spots:
            _note_counts(inner, inner_spots[outer], counts, ranks)
    return counts


def _note_counts(found: dict[str, Any], spots: Spots, counts: Counts, ranks: dict[str, int]) -> None:
    for key, value in found.items():
        if key in spots and (count := _as_count(value)) is not None:
            for name, rank in spots[key]:
                if name not in counts or rank < ranks[name]:
                    counts[name], ranks[name] = count, rank


def _counts_reasoning_apart(counts: Mapping[str, Any]) -> bool:
    """Some providers leave the reasoning out of the completion; their grand total tells."""
    reasoning = counts.get("reasoning", 0)
    both = counts.get("prompt", 0) + counts.get("completion", 0)
    return bool(reasoning > 0 and counts.get("total") == both + reasoning)


def _compile_count(paths: Any, where: Path, problems: Problems) -> Getter:
    """A path, several of which the first counts, or `{sum: [paths], less: [paths]}`; `[*]` sums all that are there."""
    if isinstance(paths, Mapping):
        return _compile_sum(paths, where, problems)
    getters = _compile_paths(paths, where, problems)

    def read_count(doc: Any) -> int | None:
        for read in getters:
            count = _as_count(read(doc))
            if count is not None:
                return count
        return None

    return read_count


def _compile_sum(paths: Mapping[str, Any], where: Path, problems: Problems) -> Getter:
    summed = _compile_summands(paths.get("sum", ()), (*where, "sum"), problems)
    taken_off = _compile_paths(paths.get("less", ()), (*where, "less"), problems)

    def read_sum(doc: Any) -> int | None:
        found = _sum(_as_count(value) for read in summed for value in read(doc))
        if found is None or not taken_off:
            return found
        return max(0, found - (_sum(_as_count(read(doc)) for read in taken_off) or 0))

    return read_sum


def _compile_summands(paths: Any, where: Path, problems: Problems) -> list[RowsGetter]:
    rows = [path for path in _as_list(paths) if "[*]" in str(path)]
    getters = _compile_paths([path for path in _as_list(paths) if path not in rows], where, problems)
    single: list[RowsGetter] = [lambda doc, read=read: [read(doc)] for read in getters]  # type: ignore[misc]
    try:
        return [*single, *(compile_rows(path) for path in rows)]
    except PathRefused as refused:
        problems.append((where, str(refused)))
        return single


def _compile_amount(paths: Any, where: Path, problems: Problems) -> Getter:
    """A path or several, `{sum: [paths]}`, `{count: path of a list}` or `{length: path of a text}`."""
    raw = paths if isinstance(paths, Mapping) else {"first": paths}
    for name in set(raw) - {"first", "sum", "count", "length"}:
        problems.append(((*where, name), "one of sum, count, length is expected"))
    summed = _compile_paths(raw.get("sum"), (*where, "sum"), problems)
    getters = _compile_paths(raw.get("first"), where, problems)
    sized = [
        (kind, read)
        for name, kind in (("count", list), ("length", str))
        for read in _compile_paths(raw.get(name), (*where, name), problems)
    ]

    def read_amount(doc: Any) -> Decimal | None:
        if summed:
            return _sum(_as_amount(read(doc)) for read in summed)
        for read in getters:
            if (amount := _as_amount(read(doc))) is not None:
                return amount
        for kind, read in sized:
            if isinstance(found := read(doc), kind):
                return Decimal(len(found))
        return None

    return read_amount


def _as_amount(value: Any) -> Decimal | None:
    """A number of units, exact as it was written; providers write it as text, too."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        amount = Decimal(str(value))
    except InvalidOperation:
        return None
    return amount if amount.is_finite() and 0 <= amount <= MOST_TOKENS else None


Number = TypeVar("Number", int, Decimal)


def _sum(counts: Iterable[Number | None]) -> Number | None:
    """None when there is nothing to add up."""
    found = [count for count in counts if count is not None]
    return sum(found[1:], found[0]) if found else None


MOST_TOKENS = 10**12
"""A larger count is no count: nobody is charged for it."""


def _as_count(value: Any) -> int | None:
    if value.__class__ is int and 0 <= value <= MOST_TOKENS:
        return value
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= MOST_TOKENS:
        return None
    return int(value)


def _compile_paths(paths: Any, where: Path, problems: Problems) -> list[Getter]:
    getters = []
    for path in _as_list(paths):
        try:
            getters.append(compile_path(path))
        except (PathRefused, TypeError) as error:
            problems.append((where, str(error)))
    return getters


# --- errors

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
            name: _compile_fact([*_as_list(raw.get(name)), *shapes], ("errors", name), problems)
            for name, shapes in _SHAPES.items()
        }
        self._waits = _compile_paths(raw.get("retry_after"), ("errors", "retry_after"), problems)
        self._inside = _compile_paths(raw.get("inside"), ("errors", "inside"), problems)
        statuses = _as_mapping(raw.get("statuses"), ("errors", "statuses"), problems)
        self._statuses = {str(status): str(kind) for status, kind in statuses.items()}
        self._kinds: list[tuple[str, Rule]] = [
            (str(kind), _compile_rule(rule, ("errors", "kinds", kind), problems))
            for kind, rule in _as_mapping(raw.get("kinds"), ("errors", "kinds"), problems).items()
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


def _as_list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [] if value is None else [value]


def _as_scalars(value: Any, where: Path, problems: Problems) -> list[Any]:
    found = [item for item in _as_list(value) if isinstance(item, str | int)]
    if len(found) != len(_as_list(value)):
        problems.append((where, "a word, a number or a list of them is expected"))
    return found


def _as_mapping(value: Any, where: Path, problems: Problems) -> Mapping[str, Any]:
    if value is not None and not isinstance(value, Mapping):
        problems.append((where, "a mapping is expected"))
    return value if isinstance(value, Mapping) else {}


def _compile_fact(paths: Sequence[str], where: Path, problems: Problems) -> Callable[[Any], str | None]:
    getters = _compile_paths(paths, where, problems)

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
    statuses = frozenset(_as_scalars(raw.get("status"), (*where, "status"), problems))
    codes = frozenset(str(code) for code in _as_scalars(raw.get("code"), (*where, "code"), problems))
    types = frozenset(_as_scalars(raw.get("type"), (*where, "type"), problems))
    patterns = _compile_patterns(_as_list(raw.get("message")), (*where, "message"), problems)
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

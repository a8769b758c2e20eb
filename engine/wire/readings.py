"""What was used: tokens and units, read from a wire's documents by declared paths."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from decimal import Decimal, InvalidOperation
from typing import Any, TypeVar

from engine.wire.declared import Path, Problems, as_list, as_mapping, as_scalars, compile_paths
from engine.wire.paths import Getter, PathRefused, RowsGetter, compile_rows, split_plain_path
from engine.wire.usage import (
    CLASSES,
    INPUT_CLASSES,
    OUTPUT_CLASSES,
    UNITS,
    Usage,
    split_inclusive_counts,
)

Counts = dict[str, Any]
"""Tokens are whole numbers, units are Decimals, TEXTS are texts."""

COUNT_NAMES = (
    "prompt", "completion", "total", "cache_write_total", *INPUT_CLASSES[1:], *OUTPUT_CLASSES[1:], *UNITS
)  # fmt: skip
TEXTS = ("service", "quality", "size")
"""What is no number and decides on the price: the service tier, and of images how they are made."""
_TEXTS = frozenset(TEXTS)


class UsageReader:
    """Reads token counts. `outside` names classes that this wire counts beside its totals instead of in them."""

    def __init__(self, raw: Mapping[str, Any], problems: Problems) -> None:
        self._sources = compile_paths(raw.get("from", "$.usage"), ("usage", "from"), problems)
        self._counts: list[tuple[str, Getter]] = []
        wanted: list[tuple[str, Places]] = []
        for name, paths in as_mapping(raw.get("counts"), ("usage", "counts"), problems).items():
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
        self._asked = _compile_facts(raw, "asked", problems)
        self._beside = _compile_facts(raw, "beside", problems)
        self._outside = frozenset(as_scalars(raw.get("outside"), ("usage", "outside"), problems))
        for name in self._outside - set(CLASSES):
            problems.append((("usage", "outside"), f"{name!r} is not a class of tokens"))

    def read_counts(self, doc: Any) -> Counts | None:
        """The counts as this wire gives them; None when the document has none."""
        for read in self._sources:
            found = read(doc)
            if isinstance(found, dict) and (counts := self.read_found(found)):
                beside = self._beside.read(doc)
                return {**counts, **beside} if beside else counts
        return None

    def read_beside(self, doc: Any) -> Counts:
        """What stands elsewhere in a document that counts."""
        return self._beside.read(doc)

    def find_counts(self, doc: Any) -> dict[str, Any] | None:
        """Where a document says what was used; `read_found` reads it."""
        for read in self._sources:
            found = read(doc)
            if found and found.__class__ is dict:
                return found
        return None

    def read_found(self, found: dict[str, Any]) -> Counts | None:
        counts = read_places(found, self._spots, self._inner_spots)
        for name, read_count in self._counts:
            count = read_count(found)
            if count is not None:
                counts[name] = count
        return counts or None

    def read_asked(self, body: Any) -> Counts:
        """Units and texts that are known from the request."""
        return self._asked.read(body)

    def make_usage(self, counts: Mapping[str, Any]) -> Usage:
        """Disjoint classes of the counts."""
        if not _TEXTS.isdisjoint(counts):
            numbers = {name: count for name, count in counts.items() if name not in _TEXTS}
            return add_texts(self.make_usage(numbers), counts)
        prompt, completion = counts.get("prompt", 0), counts.get("completion", 0)
        parts = sum(counts.values()) - prompt - completion - counts.get("total", 0)
        if not parts:  # nothing is counted but totals
            return Usage(input=prompt, output=completion)
        inclusive = dict(counts)
        if "cache_write_total" in counts:
            written = inclusive.pop("cache_write_total") - counts.get("cache_write_1h", 0)
            inclusive["cache_write"] = max(written, 0)
        outside = self._outside
        if _counts_reasoning_apart(counts):
            outside = outside | {"reasoning"}
        for name in outside:
            total = "prompt" if name in INPUT_CLASSES else "completion"
            inclusive[total] = inclusive.get(total, 0) + inclusive.get(name, 0)
        return split_inclusive_counts(inclusive)

    def read_usage(self, doc: Any) -> Usage | None:
        counts = self.read_counts(doc)
        return None if counts is None else self.make_usage(counts)


def add_texts(usage: Usage, said: Mapping[str, Any]) -> Usage:
    """The usage with the texts that it does not have yet."""
    variant = (
        "/".join((said.get("quality", ""), said.get("size", "")))
        if "quality" in said or "size" in said
        else ""
    )
    return replace(usage, service=usage.service or said.get("service", ""), variant=usage.variant or variant)


def add_asked(usage: Usage, asked: Counts) -> Usage:
    """The usage with what the request says where no answer does."""
    units = {name: amount for name, amount in asked.items() if name not in _TEXTS}
    return add_texts(replace(usage, units={**units, **usage.units}) if units else usage, asked)


class Facts:
    """Units and texts that stand anywhere in a document. One with none of their keys is looked at only once."""

    __slots__ = ("_getters", "_keys")

    def __init__(self, getters: Sequence[tuple[str, Getter]], keys: frozenset[str] | None) -> None:
        """`keys`: the outermost ones on the way to all facts; None when that cannot be told."""
        self._getters, self._keys = tuple(getters), keys

    def read(self, doc: Any) -> Counts:
        keys = self._keys
        if keys is not None and (doc.__class__ is not dict or keys.isdisjoint(doc)):
            return {}
        found = ((name, read(doc)) for name, read in self._getters)
        return {name: value for name, value in found if value is not None}


def _compile_facts(raw: Mapping[str, Any], key: str, problems: Problems) -> Facts:
    found = []
    declared = as_mapping(raw.get(key), ("usage", key), problems)
    for name, paths in declared.items():
        where = ("usage", key, name)
        if name in _TEXTS:
            found.append((name, _compile_text(paths, where, problems)))
            continue
        if name not in UNITS:
            problems.append((where, f"not a unit ({', '.join(UNITS)}) and none of {', '.join(TEXTS)}"))
        found.append((name, _compile_amount(paths, where, problems)))
    keys = [_find_outer_key(path) for paths in declared.values() for path in _list_paths(paths)]
    return Facts(found, None if None in keys else frozenset(key for key in keys if key is not None))


def _list_paths(paths: Any) -> list[Any]:
    if isinstance(paths, Mapping):
        return [path for name, value in paths.items() if name != "per" for path in _list_paths(value)]
    return as_list(paths)


def _find_outer_key(path: Any) -> str | None:
    steps = split_plain_path(path) if isinstance(path, str) else None
    return steps[0] if steps and isinstance(steps[0], str) else None


def _compile_text(paths: Any, where: Path, problems: Problems) -> Getter:
    getters = compile_paths(paths, where, problems)

    def read_text(doc: Any) -> str | None:
        for read in getters:
            if (found := read(doc)) and isinstance(found, str) and len(found) <= LONGEST_TEXT:
                return found.lower()
        return None

    return read_text


LONGEST_TEXT = 40
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
    """The counts that are there. It goes by what is there, for far more might be: this runs for every answer."""
    counts: Counts = {}
    ranks: dict[str, int] = {}
    _note_counts(found, spots, counts, ranks)
    for outer in inner_spots:
        inner = found.get(outer)
        if inner.__class__ is dict:
            _note_counts(inner, inner_spots[outer], counts, ranks)
    return counts


def _note_counts(found: dict[str, Any], spots: Spots, counts: Counts, ranks: dict[str, int]) -> None:
    for key, value in found.items():
        if key not in spots:
            continue
        count = value if value.__class__ is int and 0 <= value <= MOST_TOKENS else _as_count(value)
        if count is not None:
            for name, rank in spots[key]:
                if name not in counts or rank < ranks[name]:
                    counts[name], ranks[name] = count, rank


def _counts_reasoning_apart(counts: Mapping[str, Any]) -> bool:
    """Some providers leave the reasoning out of the completion; their grand total tells."""
    reasoning = counts.get("reasoning", 0)
    if not reasoning:
        return False
    both = counts.get("prompt", 0) + counts.get("completion", 0)
    return bool(counts.get("total") == both + reasoning)


def _compile_count(paths: Any, where: Path, problems: Problems) -> Getter:
    """A path, several of which the first counts, or `{sum: [paths], less: [paths]}`; `[*]` sums all that are there."""
    if isinstance(paths, Mapping):
        return _compile_sum(paths, where, problems)
    getters = compile_paths(paths, where, problems)

    def read_count(doc: Any) -> int | None:
        for read in getters:
            count = _as_count(read(doc))
            if count is not None:
                return count
        return None

    return read_count


def _compile_sum(paths: Mapping[str, Any], where: Path, problems: Problems) -> Getter:
    summed = _compile_summands(paths.get("sum", ()), (*where, "sum"), problems)
    taken_off = compile_paths(paths.get("less", ()), (*where, "less"), problems)

    def read_sum(doc: Any) -> int | None:
        found = _sum(_as_count(value) for read in summed for value in read(doc))
        if found is None or not taken_off:
            return found
        return max(0, found - (_sum(_as_count(read(doc)) for read in taken_off) or 0))

    return read_sum


def _compile_summands(paths: Any, where: Path, problems: Problems) -> list[RowsGetter]:
    rows = [path for path in as_list(paths) if "[*]" in str(path)]
    getters = compile_paths([path for path in as_list(paths) if path not in rows], where, problems)
    single: list[RowsGetter] = [lambda doc, read=read: [read(doc)] for read in getters]  # type: ignore[misc]
    try:
        return [*single, *(compile_rows(path) for path in rows)]
    except PathRefused as refused:
        problems.append((where, str(refused)))
        return single


def _compile_amount(paths: Any, where: Path, problems: Problems) -> Getter:
    """A path or several (also as `first`, with a divisor `per`), `{sum: [paths]}`, `{count: path of a list}` (what of
    its items counts: `_compile_counted`) or `{length: path of a text}`."""
    raw = paths if isinstance(paths, Mapping) else {"first": paths}
    for name in set(raw) - {"first", "sum", "count", "length", "per", *_COUNTED}:
        problems.append(((*where, name), "one of first, per, sum, count, length is expected"))
    if "count" in raw and not _COUNTED.isdisjoint(raw):
        return _compile_counted(raw, where, problems)
    per = _read_divisor(raw.get("per", 1), (*where, "per"), problems)
    summed = compile_paths(raw.get("sum"), (*where, "sum"), problems)
    getters = compile_paths(raw.get("first"), where, problems)
    sized = [
        (kind, read)
        for name, kind in (("count", list), ("length", str))
        for read in compile_paths(raw.get(name), (*where, name), problems)
    ]

    def read_amount(doc: Any) -> Decimal | None:
        if summed:
            return _sum(_as_amount(read(doc)) for read in summed)
        for read in getters:
            if (amount := _as_amount(read(doc))) is not None:
                return amount if per == 1 else amount / per
        for kind, read in sized:
            if isinstance(found := read(doc), kind):
                return Decimal(len(found))
            if kind is list and found:
                return Decimal(1)
        return None

    return read_amount


_COUNTED = frozenset({"where", "distinct", "most"})


def _compile_counted(raw: Mapping[str, Any], where: Path, problems: Problems) -> Getter:
    """How many items of a list there are: with `where` those whose keys say so, with `distinct` each value once and no
    empty one, with `most` no more than so many. Nothing when there are none."""
    getters = compile_paths(raw["count"], (*where, "count"), problems)
    wanted = raw.get("where") or {}
    if not isinstance(wanted, Mapping):
        problems.append(((*where, "where"), "keys and what they are is expected"))
        wanted = {}
    distinct = bool(raw.get("distinct"))
    most = int(_read_divisor(raw.get("most", MOST_TOKENS), (*where, "most"), problems))

    def count_items(found: list[Any]) -> int:
        if wanted:
            found = [item for item in found if isinstance(item, dict) and wanted.items() <= item.items()]
        return len({str(item) for item in found if item}) if distinct else len(found)

    def read_counted(doc: Any) -> Decimal | None:
        for read in getters:
            if isinstance(found := read(doc), list):
                return Decimal(min(count_items(found), most)) or None
        return None

    return read_counted


def _read_divisor(value: Any, where: Path, problems: Problems) -> Decimal:
    if (divisor := _as_amount(value)) and not isinstance(value, str):
        return divisor
    problems.append((where, "a number above 0 is expected"))
    return Decimal(1)


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

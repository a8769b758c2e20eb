"""Where clients may speak a wire format, as its `serves` rows say it, and which door a request's path leads to.

    serves:
      - {path: /v1/chat/completions}                              # the body says whether it wants a stream
      - {path: "/v1/models/{model}:stream", stream: true, query: {alt: sse}}
      - {path: "/v1/models/{model}:stream", stream: true, framing: json_array}

`{model}` is whatever stands there, slashes included. Of rows with one path the first whose query is there is taken.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

from engine.wire.framing import MEDIA_TYPES
from engine.wire.paths import Getter, PathRefused, compile_first, compile_path, split_plain_path

if TYPE_CHECKING:
    from engine.wire.formats import Format

Path = tuple[str | int, ...]
Problems = list[tuple[Path, str]]
Headers = list[tuple[bytes, bytes]]

MODEL = "{model}"
_PATH = re.compile(r"/[^{}?#\s]*(\{model\}[^{}?#\s]*)?")
_HEADER = re.compile(r"[a-z0-9-]+")
_ROW_KEYS = ("path", "stream", "framing", "query")
_CATALOG_KEYS = ("path", "shared_path", "header", "list", "one")
_CATALOG_WRONG = f"one of {', '.join(_CATALOG_KEYS)} is expected"
_NEEDED = ("read_request", "write_reply", "write_error")
_BELONGS_TO_ROUTING = frozenset(
    ("authorization", "host", "connection", "content-length", "content-type", "transfer-encoding", "accept")
)


@dataclass(frozen=True, slots=True)
class Serving:
    """One row of `serves`. `stream` None: the body says it."""

    path: str
    stream: bool | None
    framing: str
    query: tuple[tuple[str, str], ...]

    @property
    def place(self) -> tuple[str, tuple[tuple[str, str], ...]]:
        """Two rows of the same place cannot be told apart."""
        return self.path, self.query


@dataclass(frozen=True, slots=True)
class ClientSide:
    """What of a format concerns only its clients."""

    serves: tuple[Serving, ...] = ()
    common: bool = False
    stream_key: str | None = None
    """The key of a body that asks for a stream."""
    usage_asked: Getter | None = None
    asked_output: Getter | None = None
    """Reads from a body how many tokens its answer may have."""
    output_places: tuple[tuple[str, ...], ...] = ()
    """Where it does: the keys on the way to each."""
    passes_headers: frozenset[bytes] = frozenset()
    verbatim: frozenset[str] | None = None
    """Keys may be written with underscores, too, except below these; None: there is one spelling."""
    key_parameter: str = ""
    """The query parameter that may carry the API key."""
    request_id_header: bytes = b""
    catalogs: tuple[tuple[str, bytes], ...] = ()
    """Where clients ask for the list of models (one model stands below it), and the header that tells them from
    others who ask at the same path."""


def compile_client_side(tree: Mapping[str, Any], problems: Problems) -> ClientSide:
    flag = tree.get("stream_flag")
    return ClientSide(
        serves=tuple(_compile_servings(tree, problems)),
        common=bool(tree.get("common")),
        stream_key=next(iter(flag), None) if isinstance(flag, Mapping) else None,
        usage_asked=_compile_usage_asked(tree, problems),
        asked_output=_compile_asked_output(tree, problems),
        output_places=tuple(_list_output_places(tree)) if not problems else (),
        passes_headers=frozenset(name.encode() for name in _read_header_names(tree, problems)),
        verbatim=_read_verbatim(tree, problems),
        key_parameter=str(tree.get("key_parameter", "")),
        request_id_header=str(tree.get("request_id_header", "")).lower().encode(),
        catalogs=tuple(_compile_catalogs(tree, problems)),
    )


def _compile_asked_output(tree: Mapping[str, Any], problems: Problems) -> Getter | None:
    texts = tree.get("asked_output")
    try:
        return None if texts is None else compile_first(texts)
    except PathRefused as error:
        problems.append((("asked_output",), str(error)))
        return None


def _list_output_places(tree: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    texts = tree.get("asked_output") or ()
    for text in [texts] if isinstance(texts, str) else texts:
        steps = split_plain_path(text)
        if steps and all(isinstance(step, str) for step in steps):
            yield tuple(map(str, steps))


def _compile_usage_asked(tree: Mapping[str, Any], problems: Problems) -> Getter | None:
    text = tree.get("usage_asked")
    try:
        steps = split_plain_path(text) if text is not None else None
        read = compile_path(text) if steps else None
    except PathRefused as refused:
        problems.append((("usage_asked",), str(refused)))
        return None
    if text is not None and not steps:
        problems.append((("usage_asked",), "a plain path such as $.options.usage is expected"))
    if read is None or not steps:
        return None
    key, find = steps[0], read
    return lambda body: find(body) if key in body else None


def _read_verbatim(tree: Mapping[str, Any], problems: Problems) -> frozenset[str] | None:
    names = tree.get("camel_case_except")
    if names is None or (isinstance(names, list) and all(isinstance(name, str) for name in names)):
        return None if names is None else frozenset(names)
    problems.append((("camel_case_except",), "a list of keys is expected"))
    return None


def _read_header_names(tree: Mapping[str, Any], problems: Problems) -> list[str]:
    names = tree.get("passes_headers", [])
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        problems.append((("passes_headers",), "a list of header names is expected"))
        return []
    for index, name in enumerate(names):
        if not _HEADER.fullmatch(name) or name in _BELONGS_TO_ROUTING:
            problems.append((("passes_headers", index), "not a header that may be handed through"))
    return names


def _compile_catalogs(tree: Mapping[str, Any], problems: Problems) -> Iterable[tuple[str, bytes]]:
    path, shared = (_read_catalog_text(tree, key, problems) for key in ("path", "shared_path"))
    header = _read_catalog_text(tree, "header", problems).lower().encode()
    if path:
        yield path, b"" if shared else header
    if shared:
        yield shared, header


def _read_catalog_text(tree: Mapping[str, Any], key: str, problems: Problems) -> str:
    catalog = tree.get("catalog")
    if not isinstance(catalog, Mapping):
        return ""
    for name in catalog:
        if name not in _CATALOG_KEYS and (found := (("catalog", name), _CATALOG_WRONG)) not in problems:
            problems.append(found)
    text = catalog.get(key, "")
    if not isinstance(text, str) or (text and key != "header" and not _PATH.fullmatch(text)):
        problems.append((("catalog", key), "a path such as /v1/models is expected"))
        return ""
    return text


def _compile_servings(tree: Mapping[str, Any], problems: Problems) -> Iterable[Serving]:
    rows = tree.get("serves") or []
    if not isinstance(rows, list):
        problems.append((("serves",), "a list of rows such as {path: /v1/chat} is expected"))
        return
    if rows and (missing := [name for name in _NEEDED if name not in tree]):
        problems.append((("serves",), f"clients cannot be served without {', '.join(missing)}"))
    for index, row in enumerate(rows):
        wrong = _judge_row(row)
        if wrong is not None:
            problems.append((("serves", index, *wrong[0]), wrong[1]))
            continue
        query = row.get("query") or {}
        framing = row.get("framing") or tree.get("framing", "json")
        yield Serving(row["path"], row.get("stream"), framing, tuple(sorted(query.items())))


def _judge_row(row: Any) -> tuple[Path, str] | None:
    if not isinstance(row, Mapping):
        return (), "a row such as {path: /v1/chat} is expected"
    for key in row:
        if key not in _ROW_KEYS:
            return (key,), f"one of {', '.join(_ROW_KEYS)} is expected"
    path, query = row.get("path"), row.get("query") or {}
    if not isinstance(path, str) or not _PATH.fullmatch(path):
        return ("path",), "a path such as /v1/chat or /models/{model}/chat is expected"
    if row.get("stream") not in (None, True, False):
        return ("stream",), "true or false is expected"
    if "framing" in row and row["framing"] not in MEDIA_TYPES:
        return ("framing",), f"one of {', '.join(MEDIA_TYPES)} is expected"
    if not isinstance(query, Mapping) or not all(isinstance(value, str) for value in query.values()):
        return ("query",), "a mapping of names to texts is expected"
    return None


@dataclass(frozen=True, slots=True, eq=False)
class Door:
    """One way in: a format at a path."""

    format: "Format"
    serving: Serving
    operation: str = field(init=False)
    path: str = field(init=False)
    names_model: bool = field(init=False)
    """The path carries the model's name."""
    stream_head: Headers = field(init=False)
    """The headers that every streamed answer begins with."""

    def __post_init__(self) -> None:
        path, framing = self.serving.path, self.serving.framing
        own = framing == self.format.framing
        media_type = self.format.stream_content_type if own else MEDIA_TYPES[framing]
        object.__setattr__(self, "operation", self.format.operation)
        object.__setattr__(self, "path", path)
        object.__setattr__(self, "names_model", MODEL in path)
        object.__setattr__(self, "stream_head", _write_stream_head(media_type))


def _write_stream_head(media_type: str) -> Headers:
    return [
        (b"content-type", media_type.encode()),
        (b"cache-control", b"no-cache, no-transform"),
        (b"x-accel-buffering", b"no"),
    ]


def open_side_door(format: "Format", path: str) -> Door:
    """A door for requests that come in by no path of the table: examples and commands."""
    return Door(format, Serving(path, None, format.framing, ()))


class DoorTable:
    """All doors. `common` is the format that speaks where no path says which."""

    __slots__ = ("_exact", "_patterns", "common", "doors")

    def __init__(self, doors: Sequence[Door], common: "Format | None") -> None:
        self.doors, self.common = tuple(doors), common
        exact: dict[str, list[Door]] = {}
        patterns: dict[tuple[str, str], list[Door]] = {}
        for door in sorted(doors, key=lambda each: -len(each.serving.query)):
            before, named, after = door.path.partition(MODEL)
            group = patterns.setdefault((before, after), []) if named else exact.setdefault(door.path, [])
            group.append(door)
        self._exact = {path: tuple(group) for path, group in exact.items()}
        longest = sorted(patterns.items(), key=lambda pair: -sum(map(len, pair[0])))
        self._patterns = tuple((before, after, tuple(group)) for (before, after), group in longest)

    def find(self, path: str, query: bytes = b"") -> tuple[Door, str] | None:
        """The door of a path, and the model that the path names ("" when it names none)."""
        group = self._exact.get(path)
        if group is not None:
            door = _choose(group, query)
            return None if door is None else (door, "")
        for before, after, group in self._patterns:
            model = path[len(before) : len(path) - len(after)]
            if model and path.startswith(before) and path.endswith(after):
                door = _choose(group, query)
                return None if door is None else (door, model)
        return None

    def guess_format(self, path: str) -> "Format | None":
        """Whose words an error at a path that leads nowhere is told in: the door's with most of it in common."""
        steps = path.split("/")[1:]
        shared = [(_count_shared(steps, door.path.split("/")[1:]), door.format) for door in self.doors]
        most = max((count for count, _ in shared), default=0)
        nearest = {format for count, format in shared if count == most and most}
        families = {format for format in nearest if format.operation == "chat"} or nearest
        return families.pop() if len(families) == 1 else self.common


def _count_shared(steps: Sequence[str], others: Sequence[str]) -> int:
    count = 0
    for step, other in zip(steps, others, strict=False):
        if step != other:
            break
        count += 1
    return count


def _choose(group: Sequence[Door], query: bytes) -> Door | None:
    """The first door whose query is there."""
    if len(group) == 1 and not group[0].serving.query:
        return group[0]
    given = parse_qsl(query.decode("latin-1"))
    return next((door for door in group if all(pair in given for pair in door.serving.query)), None)

"""Wire formats: one YAML tree compiled into everything that can be done with a dialect, in both directions.

As an upstream's wire it writes requests and reads replies, streams, usage and errors; as a client's it reads requests
and writes replies, streams and errors. `compile_format` finds all problems of a tree before anything is used.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from typing import Any, get_args

from engine.errors import InvalidRequest, ProviderError
from engine.wire.accepts import Accepts, compile_accepts
from engine.wire.canonical import Event, Failed, UsageReported
from engine.wire.doors import ClientSide, compile_client_side
from engine.wire.error_readings import ErrorReader
from engine.wire.event_look import EventLook, compile_event_look
from engine.wire.expressions import TemplateFailed
from engine.wire.framing import FRAME_WRITERS, MEDIA_TYPES, SPLITTERS, Splitter
from engine.wire.jobs import JobPoll, compile_poll
from engine.wire.look import Look, compile_look
from engine.wire.loss import SOURCES, find_lost_kinds, find_words, is_source, leave_out_media
from engine.wire.operations import OPERATIONS
from engine.wire.origins import Places, point_at_losses, trace_request
from engine.wire.paths import Getter, PathRefused, compile_first, compile_path
from engine.wire.readings import UsageReader, add_asked
from engine.wire.secrets import refuse_secrets
from engine.wire.spellings import camel_case_keys
from engine.wire.stored import KEYS as STORED_KEYS
from engine.wire.stored import TEMPLATES as STORED_TEMPLATES
from engine.wire.stored import Stored, compile_stored
from engine.wire.streams import Answer, ReadPlan, StreamReader, StreamWriter, WritePlan, fold, unfold
from engine.wire.templates import Render, Shelf, TemplateRefused, TemplateSet, merge_trees
from engine.wire.turns import fill_call_ids, leave_out_foreign
from engine.wire.usage import Usage

__all__ = ["Format", "FormatRefused", "compile_format", "compile_readings", "merge_trees"]

Path = tuple[str | int, ...]
Problems = list[tuple[Path, str]]

# Each section of a format's tree: what it is.
SECTIONS: Mapping[str, str] = {
    "format": "the name of the format",
    "description": "one sentence for readers",
    "operation": f"one of {', '.join(OPERATIONS)}",
    "framing": "how a stream is cut into events: sse, ndjson, json_array, json, eventstream",
    "path": "where the operation is served, below a provider's base URL",
    "stream_path": "where it is served when streamed, if elsewhere",
    "siblings": "the formats of the other operations on the same wire",
    "traits": "what differs between providers and models on this wire: {name: default}",
    "issuer": "whose opaque state (signatures, encrypted reasoning) is native to this wire",
    "carries": "kinds of parts whose opaque state its clients send back: reasoning, tool_call, text, image ...",
    "serves": "where clients may speak it: a list of {path, stream, framing, query}",
    "common": "true: examples and commands take requests of its operation in this format unless told otherwise",
    "catalog": "how its clients see the list of models: path, shared_path, header, list, one",
    "usage_asked": "JSONPath of what asks for usage in a stream; default: the dialect always shows it",
    "asked_output": "where a body says how long the answer may be: JSONPath, or a list of which the first counts",
    "passes_headers": "headers of a client that go on to a provider of the same wire",
    "camel_case_except": "clients may write keys with underscores, too: the keys below which they stay as they are",
    "key_parameter": "the query parameter in which clients may send their API key",
    "request_id_header": "where clients of the dialect look for the request's id, beside x-request-id",
    "content_type": "of a plain answer",
    "stream_content_type": "of a streamed answer",
    "keepalive": "the bytes that show a waiting client that somebody is there",
    "done": "the data of the event after the last (`[DONE]`)",
    "stream_flag": "merged into a request that wants a stream",
    "ask_usage": "merged into a streamed request so that it reports usage",
    "look": "where same-wire traffic is read",
    "body": "form: clients send multipart/form-data, which is passed on as it arrives; default: json",
    "answers": "types of answers that are no JSON, as globs (audio/*): they are passed as they come",
    "poll": "the request is taken as a job: status, state, done, failed, result, cancel, every_s, give_up_s",
    "usage": "where tokens and units are counted: from, counts, outside, beside, asked",
    "errors": "where errors are: message, type, code, param, their kinds, and marks inside good answers",
    "tables": "named tables for the filters mapped, banded, renamed",
    "fragments": "named trees for $use",
    "media": "from where a request may take parts of a kind: {image: [data, https://]}; default: from everywhere",
    "request": "chat, target -> the request body",
    "reply": "doc -> the plain answer",
    "stream": "event, error, whole, on -> facts",
    "accepts": "what a client's request must look like",
    "stored": "answers that are kept here: wanted, previous, input, answer, output, items, replay, reference, made_in",
    "read_request": "body, asked -> the chat",
    "write_reply": "answer, asked -> the plain answer's body",
    "write_stream": "event, on, end, kinds, number, one_block, one_choice -> the events of a stream",
    "write_error": "error -> the body of an error",
    "write_error_headers": "error -> headers of an error answer",
}
_NOT_SAID = frozenset(("dialect", "extra", "model", "stream", "stream_usage"))
_MAPPINGS = (
    *(
        "media",
        "poll",
        "siblings",
        "traits",
        "stream_flag",
        "ask_usage",
        "look",
        "usage",
        "errors",
        "tables",
        "fragments",
        "accepts",
    ),
    *("stream", "write_stream", "stored"),
)
_EVENT_FIELDS = {event.type: event.template_fields for event in get_args(Event)}
_TEMPLATES: Mapping[str, tuple[str, ...]] = {
    "request": ("chat", "target"),
    "reply": ("doc",),
    "read_request": ("body", "asked"),
    "write_reply": ("answer", "asked"),
    "write_error": ("error",),
    "write_error_headers": ("error",),
}


class FormatRefused(ValueError):
    """A tree that is not a format: all (path, message), for whoever knows the file and the lines."""

    def __init__(self, problems: Sequence[tuple[Path, str]]) -> None:
        super().__init__("; ".join(f"{'.'.join(map(str, path))}: {message}" for path, message in problems))
        self.problems = tuple(problems)


@dataclass(frozen=True, slots=True, eq=False)
class Format:
    """A dialect. Methods for a direction that its tree does not describe raise NotImplementedError."""

    name: str
    operation: str
    framing: str
    path: str
    stream_path: str
    siblings: Mapping[str, str]
    traits: Mapping[str, Any]
    """What templates may read as `target.traits`, with its defaults; `issuer` is always there."""
    carries: frozenset[str]
    """The kinds of parts that have a place for opaque state."""
    client: ClientSide
    content_type: str
    stream_content_type: str
    keepalive: bytes
    done: bytes | None
    stream_flag: Mapping[str, Any]
    usage_request: Mapping[str, Any]
    look: Look | EventLook | None
    takes_form: bool
    poll: JobPoll | None
    """How a job's result is waited for."""
    answers: tuple[str, ...]
    """Globs of media types: such answers are passed as they come."""
    reads: frozenset[str]
    """The keys of a chat that its requests can express."""
    understands: frozenset[str]
    """The keys of a client's body that it has words for."""
    words: frozenset[str]
    """The words that its request template is made of."""
    media: Mapping[str, frozenset[str]]
    """From where it takes parts of a kind, for those kinds that it does not take from everywhere."""
    tells_estimate: bool
    """It tells its clients how long a prompt is, though the provider may say it at the end, or never."""
    stored: Stored | None
    """How answers are kept and gone on from."""
    _places: Places
    """Where a client's body says each key of a chat."""
    _usage: UsageReader
    _errors: ErrorReader
    _templates: Mapping[str, Render]
    _accepts: Accepts
    _read_plan: ReadPlan
    _write_plan: WritePlan

    # --- as an upstream's wire

    def write_request(self, chat: Mapping[str, Any], target: Mapping[str, Any]) -> dict[str, Any]:
        """The body that asks for `chat`. It shares values with the chat: neither may be changed afterwards."""
        refuse_secrets(target)
        if turns := chat.get("turns"):
            chat = {**chat, "turns": leave_out_foreign(turns, self.traits["issuer"])}
        if self.media and chat.get("turns"):
            chat = leave_out_media(chat, self.media)
        return self._render("request", chat, target) or {}

    def find_loss(self, chat: Mapping[str, Any]) -> list[str]:
        """What of the chat this format cannot say: keys, kinds of parts and tools, `extra/` keys without a word."""
        lost = [key for key, value in chat.items() if key not in self.reads and value not in (None, [], {})]
        if chat.get("dialect") != self.name:
            lost += [f"extra/{key}" for key in chat.get("extra") or ()]
        kinds = find_lost_kinds(chat, self.words, self.traits["issuer"], self.media)
        return sorted({*lost, *kinds} - _NOT_SAID)

    def read_reply(self, doc: Any, seed: str = "") -> list[Event]:
        """The events of a plain answer. Never raises for what a provider sends. `seed` makes ids it lacks."""
        if not isinstance(doc, dict) or self._read_plan.find_error(doc):
            error = self.read_error(0, doc, "")
            return [Failed(error, kind=self.kind_of_error(0, error))]
        try:
            events = unfold(self._render("reply", doc) or {"choices": []}, seed)
        except (TemplateFailed, TypeError, AttributeError, ValueError, KeyError) as error:
            return [Failed(ProviderError(f"the provider's answer cannot be read: {error}"))]
        usage = self.read_usage(doc)
        return [*events, UsageReported(usage)] if usage is not None else events

    def new_stream_reader(self, seed: str = "") -> StreamReader:
        return StreamReader(self._read_plan, seed)

    def new_splitter(self) -> Splitter:
        """Cuts the bytes of a stream into frames."""
        return SPLITTERS[self.framing]()

    def read_usage(self, doc: Any) -> Usage | None:
        return self._usage.read_usage(doc)

    def read_counts(self, doc: Any) -> dict[str, Any] | None:
        """What one event of a stream counts; `make_usage` is given the last of each."""
        return self._usage.read_counts(doc)

    def make_usage(self, counts: Mapping[str, Any]) -> Usage:
        return self._usage.make_usage(counts)

    def add_asked(self, usage: Usage, body: Any) -> Usage:
        """The usage with what a client's body itself says: characters to be spoken, the service tier it wants."""
        asked = self._usage.read_asked(body)
        return add_asked(usage, asked) if asked else usage

    def read_asked(self, body: Any) -> Mapping[str, Any]:
        """Units by name, and the service tier, quality and size that a client's body asks for."""
        return self._usage.read_asked(body)

    def read_error(self, status: int, doc: Any, text: str) -> ProviderError:
        return self._errors.read_error(status, doc, text)

    def holds_error(self, doc: Any) -> bool:
        """Whether a document of a good status is an error by this wire's own mark (`errors.inside`)."""
        return self._errors.looks_inside and self._errors.is_inside(doc)

    def kind_of_error(self, status: int, error: ProviderError) -> str | None:
        """context_length_exceeded, content_filter and other kinds that policies name; None when only a status is."""
        return self._errors.kind_of_error(status, error)

    # --- as a client's wire

    def check_outline(self, body: Mapping[str, Any]) -> None:
        """Raises InvalidRequest when the body's own keys are not what the dialect demands."""
        self._accepts.check_outline(body)

    def describe_request(self) -> dict[str, Any]:
        """What the dialect demands, as a JSON Schema."""
        return self._accepts.describe()

    def read_request(self, body: Mapping[str, Any], asked: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The chat that the body asks for. `asked` is what the URL said. Raises InvalidRequest with the field."""
        if self.client.verbatim is not None:
            body = camel_case_keys(body, self.client.verbatim)
        self._accepts.check(body)
        try:
            chat = self._render("read_request", body, asked or {}) or {}
            fill_call_ids(chat.get("turns"))
        except (TemplateFailed, AttributeError, TypeError) as error:
            raise InvalidRequest(f"the request cannot be read as {self.name}: {error}") from error
        chat["dialect"] = self.name
        extra = {key: value for key, value in body.items() if key not in self.understands}
        return {**chat, "extra": extra} if extra else chat

    def point_at(
        self, lost: Iterable[str], chat: Mapping[str, Any], body: Mapping[str, Any]
    ) -> tuple[str, ...]:
        """JSON pointers into a client's body for what another format could not say of its chat."""
        return point_at_losses(lost, chat, body, self._places)

    def write_reply(self, events: Iterable[Event] | Answer, asked: Mapping[str, Any]) -> dict[str, Any]:
        """The plain answer. `asked`: id, created, model as the client is to see them, where the events have none."""
        answer = events if isinstance(events, dict) else fold(events)
        given = {
            key: asked[key] for key in ("id", "created", "model") if key in asked and not answer.get(key)
        }
        return self._render("write_reply", {**answer, **given}, asked) or {}

    def new_stream_writer(self, asked: Mapping[str, Any]) -> StreamWriter:
        self._need("write_stream")
        return StreamWriter(self._write_plan, asked)

    def write_models(self, models: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """The list of models, as the dialect's clients read it."""
        return self._render("catalog.list", list(models)) or {}

    def write_model(self, model: Mapping[str, Any]) -> dict[str, Any]:
        return self._render("catalog.one", model) or {}

    def write_error(self, error: Mapping[str, Any]) -> dict[str, Any]:
        """An error's body. `error`: status, message, type, code, param, request_id."""
        return self._render("write_error", error) or {}

    def write_error_headers(self, error: Mapping[str, Any]) -> dict[str, Any]:
        return (self._render("write_error_headers", error) or {}) if self.has("write_error_headers") else {}

    def has(self, section: str) -> bool:
        """Whether the tree describes this direction."""
        return section in self._templates

    def _render(self, name: str, *values: Any) -> Any:
        self._need(name)
        return self._templates[name](*values)

    def _need(self, name: str) -> None:
        if name not in self._templates:
            raise NotImplementedError(f"the format {self.name} has no {name}")


def compile_format(
    tree: Mapping[str, Any],
    shared: Mapping[str, Mapping[str, Any]] | None = None,
    shelf: Shelf | None = None,
) -> Format:
    """Compile a format's tree. `shared` holds fragments that all formats may use; on the `shelf` may be templates
    that are compiled already. Raises FormatRefused.
    """
    if not isinstance(tree, Mapping):
        raise FormatRefused([((), "a mapping is expected")])
    return _Compiler(tree, shared or {}, shelf).build()


def compile_readings(base: Format, tree: Mapping[str, Any]) -> Format:
    """`base` with the `usage` and `errors` of `tree`: most of what providers have otherwise, and cheap to compile."""
    problems: Problems = []
    usage, errors = (
        UsageReader(tree.get("usage") or {}, problems),
        ErrorReader(tree.get("errors") or {}, problems),
    )
    if problems:
        raise FormatRefused(problems)
    plan = replace(
        base._read_plan,
        find_error=_find_errors(base._read_plan.find_error, errors),
        read_error=errors.read_error,
        kind_of_error=errors.kind_of_error,
        find_counts=usage.find_counts,
        read_counts=usage.read_found,
        read_beside=usage.read_beside,
        make_usage=usage.make_usage,
    )
    return replace(base, _usage=usage, _errors=errors, _read_plan=plan)


def _find_errors(find_error: Getter, errors: ErrorReader) -> Getter:
    if not errors.looks_inside:
        return find_error
    return lambda doc: find_error(doc) or errors.is_inside(doc)


@dataclass(slots=True)
class _Compiler:
    tree: Mapping[str, Any]
    shared: Mapping[str, Any]
    shelf: Shelf | None
    problems: Problems = field(default_factory=list)

    def build(self) -> Format:
        self.check_keys()
        tree, usage = self.tree, UsageReader(self.section("usage"), self.problems)
        errors = ErrorReader(self.section("errors"), self.problems)
        accepts = compile_accepts(self.section("accepts"), self.problems)
        look, media, poll = (
            self.compile_look(),
            self.media(),
            compile_poll(self.section("poll"), self.problems),
        )
        client = compile_client_side(tree, self.problems)
        templates = TemplateSet({**self.shared, **self.section("fragments")}, self.tables(), self.shelf)
        self.add_templates(templates)
        compiled = self.compile_templates(templates)
        read_plan, write_plan = self.read_plan(compiled, usage, errors), self.write_plan(compiled)
        if self.problems:
            raise FormatRefused(self.problems)
        return Format(
            name=tree["format"],
            operation=tree["operation"],
            framing=tree.get("framing", "json"),
            path=tree.get("path", ""),
            stream_path=tree.get("stream_path", tree.get("path", "")),
            siblings=self.section("siblings"),
            traits={"issuer": tree.get("issuer", tree["format"]), **self.section("traits")},
            carries=self.carries(),
            client=client,
            content_type=tree.get("content_type", "application/json"),
            stream_content_type=tree.get("stream_content_type") or MEDIA_TYPES[tree.get("framing", "json")],
            keepalive=str(tree.get("keepalive", "")).encode(),
            done=self.done(),
            stream_flag=self.section("stream_flag"),
            usage_request=self.section("ask_usage"),
            look=look,
            takes_form=self.takes_form(),
            poll=poll,
            answers=self.answers(),
            reads=frozenset(name for root, name in templates.reads if root == "chat"),
            understands=frozenset(name for root, name in templates.reads if root == "body")
            | {str(self.section("stored").get(key)) for key in ("wanted", "previous")},
            stored=self.stored(compiled),
            tells_estimate=("asked", "input_estimate") in templates.reads,
            words=find_words(tree.get("request"), templates.fragments),
            media=media,
            _places=trace_request(tree.get("read_request"), templates.fragments),
            _usage=usage,
            _errors=errors,
            _templates=compiled,
            _accepts=accepts,
            _read_plan=read_plan,
            _write_plan=write_plan,
        )

    def refuse(self, path: Path, message: str) -> None:
        if (path, message) not in self.problems:
            self.problems.append((path, message))

    def section(self, name: str) -> Mapping[str, Any]:
        found = self.tree.get(name)
        if found is not None and not isinstance(found, Mapping):
            self.refuse((name,), "a mapping is expected")
            return {}
        return found or {}

    def check_keys(self) -> None:
        for key in self.tree:
            if key not in SECTIONS:
                near = get_close_matches(str(key), SECTIONS, n=1)
                self.refuse(
                    (key,), f"not a section of a format{f' (did you mean {near[0]!r}?)' if near else ''}"
                )
        if not isinstance(self.tree.get("format"), str):
            self.refuse(("format",), "a format needs a name")
        for name in _MAPPINGS:
            self.section(name)
        if str(self.tree.get("operation")) not in OPERATIONS:
            self.refuse(("operation",), f"one of {', '.join(OPERATIONS)} is expected")
        if str(self.tree.get("framing", "json")) not in SPLITTERS:
            self.refuse(("framing",), f"one of {', '.join(SPLITTERS)} is expected")
        for key in (
            "path",
            "stream_path",
            "content_type",
            "stream_content_type",
            "keepalive",
            "done",
            "issuer",
        ):
            if key in self.tree and not isinstance(self.tree[key], str):
                self.refuse((key,), "a text is expected")

    def stored(self, compiled: Mapping[str, Render]) -> Stored | None:
        self.check_section("stored", (*STORED_KEYS, *STORED_TEMPLATES))
        templates = {
            name: compiled[f"stored.{name}"] for name in STORED_TEMPLATES if f"stored.{name}" in compiled
        }
        return compile_stored(self.section("stored"), str(self.tree.get("framing", "json")), templates)

    def carries(self) -> frozenset[str]:
        kinds = self.tree.get("carries") or []
        if not isinstance(kinds, list) or not all(isinstance(kind, str) for kind in kinds):
            self.refuse(("carries",), "a list of kinds of parts is expected")
            return frozenset()
        return frozenset(kinds)

    def takes_form(self) -> bool:
        body = self.tree.get("body", "json")
        if body not in ("json", "form"):
            self.refuse(("body",), "json or form is expected")
        return bool(body == "form")

    def answers(self) -> tuple[str, ...]:
        globs = self.tree.get("answers") or []
        if not isinstance(globs, list) or not all(isinstance(glob, str) and "/" in glob for glob in globs):
            self.refuse(("answers",), "a list of media types such as audio/* is expected")
            return ()
        return tuple(globs)

    def done(self) -> bytes | None:
        return str(self.tree["done"]).encode() if self.tree.get("done") else None

    def media(self) -> Mapping[str, frozenset[str]]:
        rows = self.section("media")
        for kind, sources in rows.items():
            if not isinstance(sources, list) or not all(is_source(str(source)) for source in sources):
                self.refuse(("media", kind), f"a list of {', '.join(SOURCES)}, https:// is expected")
        return {
            kind: frozenset(map(str, sources)) for kind, sources in rows.items() if isinstance(sources, list)
        }

    def tables(self) -> Mapping[str, Mapping[Any, Any]]:
        tables = self.section("tables")
        for name, table in tables.items():
            if not isinstance(table, Mapping):
                self.refuse(("tables", name), "a mapping is expected")
        return {name: _with_numbers(table) for name, table in tables.items() if isinstance(table, Mapping)}

    def compile_look(self) -> Look | EventLook | None:
        raw = self.section("look")
        try:
            if "event" in raw:
                return compile_event_look(raw)
            return compile_look(raw) if raw else None
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            self.refuse(("look",), f"cannot be compiled: {error!r}")
            return None

    # --- templates

    def add_templates(self, templates: TemplateSet) -> None:
        for name, names in _TEMPLATES.items():
            if name in self.tree:
                templates.add(name, self.tree[name], names, (name,))
        for row, names in (("list", ("models",)), ("one", ("m",))):
            if row in (catalog := self.section("catalog")):
                templates.add(f"catalog.{row}", catalog[row], names, ("catalog", row))
        for row, tree in self.rows("stream").items():
            names = ("e", "name", "kept", "begun")
            templates.add(f"stream.{row}", _skip_known_start(tree), names, ("stream", "on", row))
        for row, tree in self.rows("write_stream").items():
            names, said = ("e", "s", "asked"), {"e": _EVENT_FIELDS[row]} if row in _EVENT_FIELDS else {}
            templates.add(f"write_stream.{row}", tree, names, ("write_stream", "on", row), said)
        for name, names in STORED_TEMPLATES.items():
            if name in self.section("stored"):
                templates.add(f"stored.{name}", self.section("stored")[name], names, ("stored", name))
        writing = self.section("write_stream")
        if "end" in writing:
            templates.add("write_stream.end", writing["end"], ("s", "asked"), ("write_stream", "end"))

    def rows(self, section: str) -> Mapping[str, Any]:
        rows = self.section(section).get("on") or {}
        if not isinstance(rows, Mapping):
            self.refuse((section, "on"), "a mapping of events is expected")
            return {}
        return {str(name): tree for name, tree in rows.items() if tree is not None}

    def compile_templates(self, templates: TemplateSet) -> dict[str, Render]:
        try:
            compiled = templates.build(str(self.tree.get("format")))
        except TemplateRefused as error:
            self.problems.extend(error.problems)
            return {}
        if "write_stream" in self.tree:
            compiled["write_stream"] = lambda *values: None
        return compiled

    def read_plan(self, compiled: Mapping[str, Render], usage: UsageReader, errors: ErrorReader) -> ReadPlan:
        section = self.section("stream")
        self.check_section("stream", ("event", "error", "whole", "on"))
        return ReadPlan(
            rows={
                name.removeprefix("stream."): row
                for name, row in compiled.items()
                if name.startswith("stream.")
            },
            name_of=self.path_of("stream", "event"),
            find_error=_find_errors(
                self.first_of(section.get("error", "$.error"), ("stream", "error")), errors
            ),
            read_error=errors.read_error,
            kind_of_error=errors.kind_of_error,
            find_counts=usage.find_counts,
            read_counts=usage.read_found,
            read_beside=usage.read_beside,
            make_usage=usage.make_usage,
            find_whole=self.path_of("stream", "whole"),
            read_whole=compiled.get("reply"),
        )

    def write_plan(self, compiled: Mapping[str, Render]) -> WritePlan:
        section = self.section("write_stream")
        self.check_section(
            "write_stream", ("event", "on", "end", "kinds", "number", "one_block", "one_choice")
        )
        prefix = "write_stream."
        rows: dict[str, Any] = {
            n.removeprefix(prefix): r for n, r in compiled.items() if n.startswith(prefix)
        }
        if "end" in rows:
            end = rows["end"]
            rows["end"] = lambda _, state, asked: end(state, asked)
        if "failed" not in rows and "write_error" in compiled:
            write_error = compiled["write_error"]
            rows["failed"] = lambda failed, state, asked: write_error(_error_facts(failed, asked))
        kinds = self.kinds(section.get("kinds"))
        done = self.done()
        return WritePlan(
            rows=rows,
            write_frame=FRAME_WRITERS.get(str(self.tree.get("framing", "json")), FRAME_WRITERS["json"]),
            name_of=self.path_of("write_stream", "event"),
            number_key=section.get("number"),
            kinds=kinds,
            one_block=bool(section.get("one_block")),
            one_choice=bool(section.get("one_choice")),
            done=None if done is None else b"data: " + done + b"\n\n",
            issuer=str(self.tree.get("issuer", self.tree.get("format"))),
        )

    def kinds(self, raw: Any) -> Mapping[str, str] | None:
        found = {kind: kind for kind in raw if isinstance(kind, str)} if isinstance(raw, list) else raw
        if found is not None and not isinstance(found, Mapping):
            self.refuse(
                ("write_stream", "kinds"), "a list of kinds, or a mapping of kinds to kinds, is expected"
            )
            return None
        return found

    def check_section(self, name: str, known: Sequence[str]) -> None:
        for key in self.section(name):
            if key not in known:
                self.refuse((name, key), f"one of {', '.join(known)} is expected")

    def path_of(self, section: str, key: str) -> Getter | None:
        text = self.section(section).get(key)
        if text == "$key":
            return _read_only_key
        try:
            return None if text is None else compile_path(text)
        except (PathRefused, TypeError) as error:
            self.refuse((section, key), str(error))
            return None

    def first_of(self, texts: Any, path: Path) -> Getter:
        try:
            return compile_first(texts)
        except (PathRefused, TypeError) as error:
            self.refuse(path, str(error))
            return compile_first("$.error")


def _skip_known_start(tree: Any) -> Any:
    """Many wires say in each event who answers. It is read until it is known."""
    if isinstance(tree, list):
        return [_skip_known_start(item) for item in tree]
    return {"$if": "not begun", **tree} if isinstance(tree, Mapping) and set(tree) == {"started"} else tree


def _with_numbers(table: Mapping[Any, Any]) -> dict[Any, Any]:
    """A file's keys are texts; a table is looked up by statuses and budgets, too."""
    numbers = {int(key): value for key, value in table.items() if isinstance(key, str) and key.isdecimal()}
    return {**table, **numbers}


def _read_only_key(doc: Any) -> Any:
    """`event: $key`: the wire wraps each event in its name."""
    return next(iter(doc), None) if isinstance(doc, dict) else None


def _error_facts(failed: Failed, asked: Mapping[str, Any]) -> dict[str, Any]:
    error = failed.error
    facts = {"message": error.message, "type": error.type, "code": error.code, "param": error.param}
    return {**facts, "status": failed.status, "request_id": asked.get("request_id")}

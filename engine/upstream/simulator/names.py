"""The language of the simulator's model names: `sim/<behaviour>[@<number>[unit]][+<behaviour>...]`.

`BEHAVIOURS` is the whole vocabulary; `GET /v1/models` and docs/simulator.md list exactly this table.
"""

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

PREFIX = "sim/"
ENDLESS = float("inf")
THEN_OK = "-then-ok"
STATUSES = (400, 401, 402, 403, 404, 408, 409, 413, 422, 429, 500, 502, 503, 504, 529)
_PART = re.compile(r"(?P<name>[a-z0-9-]+?)(?:@(?P<number>\d+(?:\.\d+)?)(?P<unit>ms|s|kb|KB)?)?")
_UNITS: Mapping[str, Mapping[str | None, float]] = {
    "": {},
    "count": {None: 1.0},
    "seconds": {None: 1.0, "s": 1.0, "ms": 0.001},
    "ms": {None: 0.001, "ms": 0.001},
    "kb": {None: 1024.0, "kb": 1024.0, "KB": 1024.0},
}


class NameRefused(Exception):
    """The model's name is not one of ours; the sentence says what is wrong with it."""


@dataclass(frozen=True, slots=True)
class Behaviour:
    """One word. `unit` is "" when it takes no number; `default` counts when none is written."""

    name: str
    what: str
    unit: str = ""
    default: float = 0.0
    example: str = ""

    @property
    def fails(self) -> bool:
        """Whether `-then-ok` may follow: wrong on every odd attempt, right on every even one."""
        return self.name in FAILING


ANSWERS = (
    Behaviour("echo", "repeats the text of the last user message"),
    Behaviour("words", "the canonical text, 60 tokens unless told otherwise", "count", 60, "words@12"),
    Behaviour("tokens", "the canonical text, this many tokens", "count", 60, "tokens@60"),
    Behaviour("large", "the canonical text, at least this many KB of it", "kb", 64 * 1024.0, "large@256"),
    Behaviour("other-text", "a text that differs from the canonical one from its first letter on"),
    Behaviour(
        "reasoning", "this many tokens of `reasoning_content` before the text", "count", 20, "reasoning@20"
    ),
    Behaviour(
        "think",
        "this many tokens of thinking, signed where the wire signs; lost signatures are refused",
        "count",
        20,
        "think@20",
    ),
    Behaviour(
        "tools",
        "calls every tool it was given, or this many times; text once a tool's result is in the conversation",
        "count",
        0,
        "tools@2",
    ),
    Behaviour("redact", "thinking, but sealed: a block that cannot be read, where the wire has such blocks"),
    Behaviour("refuse", "the model declines, in the wire's own way"),
    Behaviour("json", "answers JSON, also when no `response_format` asks for it"),
    Behaviour("cached", "this many prompt tokens are reported as cached", "count", 8, "cached@8"),
    Behaviour(
        "cache-write",
        "this many prompt tokens are reported as written to the cache",
        "count",
        8,
        "cache-write@8",
    ),
    Behaviour("usage-always", "reports usage in a stream, asked or not"),
    Behaviour("usage-in-finish", "reports usage in the chunk that carries `finish_reason`, asked or not"),
    Behaviour("no-usage", "never reports usage"),
)
PACE = (
    Behaviour("latency", "waits before the first byte of any answer", "seconds", 0.05, "latency@50ms"),
    Behaviour("chunk-ms", "milliseconds between the tokens of a stream", "ms", 0.02, "chunk-ms@20"),
    Behaviour("slow-headers", "headers come late", "seconds", 20, "slow-headers@20s"),
    Behaviour("slow-first-token", "headers and role at once, the first token late", "seconds", 20,
              "slow-first-token@20s"),
    Behaviour("slow", "a plain answer takes this long; a stream spreads its tokens over it", "seconds", 90,
              "slow@90s"),
    Behaviour("work", "what a queue or a prediction is asked for takes this long", "seconds", 0.15, "work@2s"),
)  # fmt: skip
REFUSALS = (
    *(
        Behaviour(str(status), f"answers {status}; a number is the seconds of `Retry-After`", "seconds", 0.0)
        for status in STATUSES
    ),
    Behaviour("down", "503 for this long after the first call to this name with this key, then healthy",
              "seconds", 60, "down@60s"),
    Behaviour("context-length", "400 `context_length_exceeded`"),
    Behaviour("content-filter", "400 `content_filter` with its reason"),
    Behaviour("no-prefill", "400 when the conversation ends with an assistant message"),
    Behaviour("error-200", "status 200 whose JSON body is an error object"),
    Behaviour("json-error-in-200-stream", "a stream was asked for; 200, `application/json`, an error object"),
    Behaviour("error-in-stream", "an error object as an event after this many tokens (0: the first event)",
              "count", 0, "error-in-stream@5"),
    Behaviour("html", "error bodies are an HTML page, as a proxy in between would send"),
)  # fmt: skip
BREAKS = (
    Behaviour("reset", "TCP reset (RST) before any header"),
    Behaviour("close", "closes (FIN) before any header"),
    Behaviour("silent", "accepts the request and never answers"),
    Behaviour("stall", "stops after this many tokens and keeps the connection open", "count", 20, "stall@20"),
    Behaviour("cut", "closes (FIN) after this many tokens, without the body's end", "count", 40, "cut@40"),
    Behaviour("cut-rst", "resets (RST) after this many tokens", "count", 40, "cut-rst@40"),
    Behaviour("cut-clean", "ends the body properly after this many tokens: no finish, no `[DONE]`", "count",
              40, "cut-clean@40"),
    Behaviour("cut-in-event", "closes in the middle of the event after this many tokens", "count", 40,
              "cut-in-event@40"),
    Behaviour("cut-in-chunk", "closes in the middle of an HTTP chunk after this many tokens", "count",
              40, "cut-in-chunk@40"),
    Behaviour("cut-in-tool-arguments", "calls the tools, closes amid the first one's arguments"),
    Behaviour("bad-event", "one more event after this many tokens, which is not JSON", "count", 10,
              "bad-event@10"),
    Behaviour("bare-error", "a line with a JSON error, without the stream's framing, after this many tokens",
              "count", 5, "bare-error@5"),
    Behaviour("no-index", "the events of a stream say no index"),
    Behaviour("start-twice", "the first event of a stream comes twice"),
    Behaviour("empty-choices", "a stream begins with an event whose list of answers is empty"),
    Behaviour("charset", "the content type names `iso-8859-1`; the bytes are UTF-8 all the same"),
    Behaviour("no-done", "a whole stream without its last event (`[DONE]`, `message_stop`)"),
    Behaviour("no-done-open", "the same, and the connection stays open"),
    Behaviour("wrong-length", "`content-length` announces 64 bytes more than come, then closes"),
    Behaviour("hang-up", "a whole answer, then closes unannounced after this long", "seconds", 0.0,
              "hang-up@1s"),
)  # fmt: skip
FRAMING = (
    Behaviour("no-stream", "answers a plain JSON body although a stream was asked for"),
    Behaviour("comments", "SSE comments (`: PROCESSING`), also while waiting, each this long", "seconds", 1.0,
              "comments@1s"),
    Behaviour("crlf", "the lines of a stream end with CRLF"),
    Behaviour("split", "every so many bytes are a write of their own", "count", 1, "split@1"),
    Behaviour("merged", "headers and all events in one write"),
    Behaviour("gzip", "the body is compressed, whether or not the client can read that"),
    Behaviour("until-close", "neither length nor chunks: the body ends when the connection does"),
    Behaviour("early-answer", "answers before it has read the body (the name must come before the messages)"),
    Behaviour("1xx", "interim answers 102 and 103 come before the real one"),
)  # fmt: skip
BEHAVIOURS: Mapping[str, Behaviour] = {
    behaviour.name: behaviour for behaviour in (*ANSWERS, *PACE, *REFUSALS, *BREAKS, *FRAMING)
}
FAILING = frozenset(
    {behaviour.name for behaviour in (*REFUSALS, *BREAKS)} - {"html", "no-prefill", "down"}
    | {"slow", "slow-headers", "slow-first-token"}
)
BREAKING = ("stall", "cut", "cut-rst", "cut-clean", "cut-in-event", "cut-in-chunk", "cut-in-tool-arguments")


@dataclass(frozen=True, slots=True)
class Script:
    """A parsed name: its behaviours with their numbers (seconds, bytes or counts)."""

    name: str
    parts: Mapping[str, float]
    alternates: bool
    healthy: "Script | None"
    """The script of every even attempt, when a part carried `-then-ok`."""
    status: int | None
    """The status of the refusal, if the name has one."""
    breaks: str
    """The way in which the answer breaks off, or ""."""

    def on_attempt(self, number: int) -> "Script":
        return self.healthy if self.healthy is not None and number % 2 == 0 else self


@lru_cache(maxsize=4096)
def parse_name(name: str) -> Script:
    """Read a model's name; raise NameRefused with the reason when it is not in the language."""
    if not name.startswith(PREFIX):
        raise NameRefused(f"The model '{name}' does not exist or you do not have access to it.")
    failing: dict[str, float] = {}
    lasting: dict[str, float] = {}
    for part in name.removeprefix(PREFIX).split("+"):
        word, value, sometimes = _parse_part(name, part)
        (failing if sometimes else lasting)[word] = value
    healthy = _make_script(name, lasting, None) if failing else None
    return _make_script(name, {**lasting, **failing}, healthy)


def _make_script(name: str, parts: dict[str, float], healthy: Script | None) -> Script:
    status = next((int(word) for word in parts if word.isdigit()), None)
    breaks = next((word for word in BREAKING if word in parts), "")
    return Script(name, parts, healthy is not None, healthy, status, breaks)


def _parse_part(name: str, part: str) -> tuple[str, float, bool]:
    found = _PART.fullmatch(part)
    if found is None:
        raise NameRefused(f"The model '{name}' does not exist: '{part}' is not written name[@number].")
    word, sometimes = found["name"], found["name"].endswith(THEN_OK)
    behaviour = BEHAVIOURS.get(word.removesuffix(THEN_OK))
    if behaviour is None or (sometimes and not behaviour.fails):
        raise NameRefused(f"The model '{name}' does not exist: no behaviour '{word}'{_suggest(word)}.")
    value = _read_number(name, behaviour, found["number"], found["unit"])
    if sometimes and behaviour.name == "429" and found["number"] is None:
        value = 2.0
    return behaviour.name, value, sometimes


def _read_number(name: str, behaviour: Behaviour, number: str | None, unit: str | None) -> float:
    if number is None:
        return behaviour.default
    scale = _UNITS[behaviour.unit].get(unit)
    if scale is None:
        takes = f"takes {behaviour.unit}" if behaviour.unit else "takes no number"
        raise NameRefused(
            f"The model '{name}' does not exist: '{behaviour.name}' {takes}, not '@{number}{unit or ''}'."
        )
    return float(number) * scale


def _suggest(word: str) -> str:
    near = difflib.get_close_matches(word, BEHAVIOURS, n=2)
    return f" (did you mean {' or '.join(near)}?)" if near else " (GET /v1/models lists them)"


def list_names() -> list[tuple[str, str]]:
    """A usable model name and its sentence for every behaviour, in the order of the tables."""
    names = [
        (PREFIX + (behaviour.example or behaviour.name), behaviour.what) for behaviour in BEHAVIOURS.values()
    ]
    names += [
        (PREFIX + name + THEN_OK, f"{BEHAVIOURS[name].what}; on every second attempt healthy")
        for name in ("429", "500", "reset")
    ]
    return names

"""What a request asks and what is answered, whatever the wire: each wire reads into and writes from these."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from engine.upstream.simulator.jobs import Job
from engine.upstream.simulator.names import Script
from engine.upstream.simulator.text import count_words, mix

TOKENS_PER_IMAGE = 85
TOKENS_PER_TOOL = 8

START, TOKEN, FINISH, USAGE, END = "start", "token", "finish", "usage", "end"
Event = tuple[str, bytes]
"""The kind of a stream's event and its payload, not yet framed. END is what `no-done` leaves away."""

JSON = b"application/json"
SSE = b"text/event-stream; charset=utf-8"


class Refused(Exception):
    """The request ends with a status; every wire writes it in its own shape."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        type: str = "invalid_request_error",
        code: str | None = None,
        param: str | None = None,
        details: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.type = type
        self.code = code
        self.param = param
        self.retry_after_s = 0.0
        self.details = details or {}


@dataclass(slots=True)
class Turn:
    """One message. `counted` is everything in it that costs prompt tokens, already counted."""

    role: str
    text: str
    counted: int
    extra: int = 0
    """Digest of what is not text (images, tool calls, tool results)."""
    calls_tools: bool = False


@dataclass(slots=True)
class Tool:
    name: str
    schema: Any


@dataclass(slots=True)
class Mark:
    """A place up to which the client wants the prompt cached: what stands before it, as digest and tokens."""

    digest: int
    tokens: int
    hour: bool = False


@dataclass(slots=True)
class Ask:
    """A request. `conversations` has one entry for a chat and one per prompt for plain completions."""

    model: str
    conversations: list[list[Turn]]
    stream: bool = False
    usage_asked: bool = False
    n: int = 1
    limit: int | None = None
    stops: tuple[str, ...] = ()
    seed: int = 0
    tools: list[Tool] = field(default_factory=list)
    tool_choice: str | None = None
    """none, auto, required, or the name of the one tool to call."""
    parallel: bool = True
    schema: Any = None
    """The JSON Schema that the answer must satisfy, {} for any JSON object."""
    logprobs: int | None = None
    """How many alternatives to list with each token's log probability; None lists nothing."""
    echo: bool = False
    thinks: bool = False
    """Whether the request asks for thinking in the wire's own way."""
    marks: list[Mark] = field(default_factory=list)
    cached: int = 0
    cache_written: int = 0
    raw: Any = None
    """What only its own wire understands."""
    digest: int = 0
    """The same for the same conversation, an assistant's beginning at its end included."""

    @property
    def prefill(self) -> str | None:
        """The beginning of the answer, when the conversation ends with one."""
        last = self.conversations[0][-1] if self.conversations and self.conversations[0] else None
        if last is None or last.role != "assistant" or last.calls_tools:
            return None
        return last.text


@dataclass(slots=True)
class ToolCall:
    id: str
    name: str
    fragments: list[str]

    @property
    def arguments(self) -> str:
        return "".join(self.fragments)


@dataclass(slots=True)
class Choice:
    index: int
    text: list[str]
    reasoning: list[str]
    calls: list[ToolCall]
    finish: str
    echoed: str = ""
    stopped_by: str = ""
    """The stop sequence that ended the text."""
    refused: bool = False
    redacted: bool = False
    """Whether what was thought cannot be read."""

    @property
    def tokens(self) -> int:
        called = sum(1 + len(call.fragments) for call in self.calls)
        return len(self.text) + len(self.reasoning) + called


@dataclass(slots=True)
class Counts:
    """Usage as OpenAI's dialect counts it: prompt and completion include their parts."""

    prompt: int
    completion: int
    cached: int = 0
    reasoning: int = 0
    written: int = 0
    """Prompt tokens written to the cache."""

    @property
    def fresh(self) -> int:
        """Prompt tokens that the cache had no part in."""
        return self.prompt - self.cached - self.written

    def as_record(self) -> dict[str, int]:
        return {
            "prompt_tokens": self.prompt,
            "completion_tokens": self.completion,
            "cached_tokens": self.cached,
            "cache_write_tokens": self.written,
            "reasoning_tokens": self.reasoning,
        }


@dataclass(slots=True)
class Ticket:
    """What names one answer."""

    number: str
    created: int
    host: str = ""
    """Where the client found this server."""
    keep_alive: bool = True
    http_1_0: bool = False


@dataclass(slots=True)
class Written:
    """One answer, ready to be sent either way."""

    counts: Counts
    tokens: int
    plain: Callable[[], bytes]
    events: Callable[[], Iterator[Event]]
    first_call: tuple[int, int] = (0, 0)
    """Tokens before the first tool call, and the pieces of its arguments."""
    media: bytes = JSON
    status: int = 200
    job: Job | None = None
    """What goes on after the answer, to be looked at later."""


def parse_json(body: bytes, _media: str) -> dict[str, Any]:
    """A body that is a JSON object."""
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        message = (
            "We could not parse the JSON body of your request. (HINT: This likely means you aren't using "
            "your HTTP library correctly. The API expects a JSON payload, but what was sent was not valid "
            f"JSON: {error})"
        )
        raise Refused(400, message) from None
    if not isinstance(document, dict):
        raise Refused(400, "Invalid type for the request body: expected an object.")
    return document


def frame_data(payload: bytes, line: bytes, _first: bool) -> bytes:
    """A server-sent event without a name."""
    return b"data: %b%b" % (payload, line * 2)


def no_events() -> Iterator[Event]:
    """The stream of a wire that has none."""
    return iter(())


@dataclass(frozen=True, slots=True)
class Wire:
    """One wire format: reads a request; writes answers, streams and errors."""

    read: Callable[[Mapping[str, Any]], Ask]
    """Validate and read; raise Refused as the wire's real servers would."""
    write: Callable[[Ask, Script, Ticket], Written]
    write_error: Callable[[Refused], bytes]
    write_stream_error: Callable[[Refused], bytes] | None = None
    """An error as an event, where that differs from the body of one."""
    write_error_head: Callable[[Refused], bytes] = lambda _: b""
    statuses: Mapping[int, int] = field(default_factory=dict)
    """Which other status the wire gives what has one elsewhere."""
    parse: Callable[[bytes, str], dict[str, Any]] = parse_json
    frame: Callable[[bytes, bytes, bool], bytes] = frame_data
    """Bytes of an event, from its payload, the line's end and whether it is the first one."""
    done: bytes = b""
    """The last event's payload, or b"" when the wire has none."""
    media: bytes = SSE
    comment: bytes = b": PROCESSING\n\n"
    """What keeps a stream alive, or b"" when the wire has nothing for that."""
    blank: bytes = b""
    """The payload of an event in which the list of answers is empty, where the wire has such a list."""


def digest_turns(turns: list[Turn], seed: int) -> int:
    """A number for a conversation. `developer` is `system`, as providers treat it."""
    number = seed
    for turn in turns:
        role = "system" if turn.role == "developer" else turn.role
        number = mix(turn.text, mix(role, number)) ^ turn.extra
    return number


def count_turn(text: str, images: int = 0) -> int:
    """Prompt tokens of one message: its words, one for its role, 85 for each image."""
    return count_words(text) + 1 + TOKENS_PER_IMAGE * images

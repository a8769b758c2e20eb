"""What a request asks and what is answered, whatever the wire: each wire reads into and writes from these."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from engine.upstream.simulator.names import Script
from engine.upstream.simulator.text import count_words, mix

TOKENS_PER_IMAGE = 85
TOKENS_PER_TOOL = 8

START, TOKEN, FINISH, USAGE = "start", "token", "finish", "usage"
Event = tuple[str, bytes]
"""The kind of a stream's event and its payload, not yet framed."""


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

    def as_record(self) -> dict[str, int]:
        return {
            "prompt_tokens": self.prompt,
            "completion_tokens": self.completion,
            "cached_tokens": self.cached,
            "reasoning_tokens": self.reasoning,
        }


@dataclass(slots=True)
class Ticket:
    """What names one answer."""

    number: str
    created: int
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


class Wire(Protocol):
    """One wire format: reads a request; writes answers, streams and errors. Each is a module like `chat`."""

    done: bytes
    """The last event's payload, or b"" when the wire has none."""

    def read(self, body: Mapping[str, Any]) -> Ask:
        """Validate and read; raise Refused as the wire's real servers would."""

    def write(self, ask: Ask, script: Script, ticket: Ticket) -> Written: ...

    def write_error(self, refused: Refused) -> bytes: ...


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

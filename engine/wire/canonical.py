"""The one form between all dialects: a chat that was asked, and the events of the answer.

THE CHAT is plain JSON data (the TypedDicts below): what a format's `read_request` template yields is what another
format's `request` template reads, golden files show it as it is, and a dict costs a template half of what an object
does. A key that is not there was not said. The conversation is a list of TURNS in the order they came; a turn has a
role (system, developer, user, assistant, tool) and PARTS. System text stays where it stood; a format that has one
place for it takes the `opening` turns there and lets the rest speak as the user (`two_roles`). Results of tools are
parts of turns of role tool, never of the user's, so that a format can write them where it wants them. A tool call's
arguments are TEXT exactly as the model wrote it, because some dialects carry the text and parsing it would lose it;
formats that want an object parse it. A part of type `native` is a block that only its own format understands; the
others leave it out. `signature`, `redacted` and `id` of reasoning are opaque: they go back, byte for byte, to the
issuer.

THE ANSWER is a sequence of events about BLOCKS, in the past tense, because that is the strictest stream that any
dialect demands (one block after another, opened, added to, closed with its whole value) and everything looser can be
told from it:

    started                    who answers: id, model, created
    block_started(kind, index) text, reasoning, tool_call, refusal, audio, image, native ...
    block_added(field, value)  text of it, arguments of it, its signature, a citation, logprobs
    block_ended(block)         the whole part, as it would stand in a turn
    finished(reason)           stop, length, tool_calls, content_filter, pause; once for each choice
    usage_reported(usage)      any number of times, the last one counts
    failed(error)              the end: nothing may follow

`index` counts the blocks of one choice from 0 without gaps, `nth` those of the same kind. Blocks may overlap
(parallel tool calls that a provider interleaves); a writer for a dialect with one open block keeps the later ones
back. A format's reader never opens or closes anything by itself unless its wire says so: it states facts ("text of
choice 0 grew by x"), and the block machine (blocks.py) makes events of them. A plain answer is the fold of its
stream, and a plain upstream answer unfolds into the same events, so that there is one path. Events are objects,
because the corridor matches on their class and a stream makes thousands of them.
"""

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Required, TypedDict

from engine.errors import ProviderError
from engine.wire.usage import Usage

PartType = Literal[
    "text",
    "image",
    "audio",
    "video",
    "document",
    "tool_call",
    "tool_result",
    "reasoning",
    "refusal",
    "embedding",
    "ranking",
    "moderation",
    "native",
]
Reason = Literal["stop", "length", "tool_calls", "content_filter", "pause", "error"]


class Citation(TypedDict, total=False):
    url: str
    title: str
    text: str
    """The cited words."""
    start: int
    end: int
    native: Any
    """The dialect's own object, for its own kind."""
    sources: list[Any]
    """Where the words come from, in dialects that say more of it than a URL."""


class Part(TypedDict, total=False):
    """One piece of a turn. Which keys a part has follows from its type."""

    type: Required[PartType]
    text: str
    citations: list[Citation]
    cache: dict[str, Any]
    """A mark that the prompt is to be cached up to here: {ttl?: 5m | 1h}."""
    url: str
    """image, audio, video, document: where it is. Otherwise `media_type` and `data` (base64), or `file_id`."""
    media_type: str
    data: str
    file_id: str
    detail: str
    format: str
    filename: str
    title: str
    transcript: str
    id: str
    """tool_call and tool_result: the call's id. reasoning, audio: the provider's own id."""
    name: str
    arguments: str
    custom: bool
    """A tool call whose arguments are free text, not JSON."""
    parts: list[Any]
    """tool_result: what the tool answered."""
    error: bool
    signature: str
    redacted: str
    issuer: str
    """native, signatures: the format or model family that alone understands it."""
    block: Any
    """native: the block as it came."""
    logprobs: list[Any]


class Turn(TypedDict, total=False):
    role: Required[Literal["system", "developer", "user", "assistant", "tool"]]
    parts: Required[list[Part]]
    name: str


class Tool(TypedDict, total=False):
    """A function; or `type: custom` (free text input); or `type: native` with the tool as it came in `block`."""

    type: Literal["function", "custom", "native"]
    name: str
    description: str
    parameters: dict[str, Any]
    strict: bool
    cache: dict[str, Any]
    format: Any
    issuer: str
    block: Any


class ToolChoice(TypedDict, total=False):
    mode: Required[Literal["none", "auto", "required", "tool", "allowed"]]
    name: str
    names: list[str]
    force: bool
    """allowed: one of `names` must be called, instead of may."""
    native: Any


class ResponseFormat(TypedDict, total=False):
    type: Required[Literal["text", "json_object", "json_schema"]]
    name: str
    description: str
    schema: dict[str, Any]
    strict: bool


class Reasoning(TypedDict, total=False):
    """How much to think. An effort is a word, a budget is tokens; formats translate by bands."""

    effort: str
    budget: int
    enabled: bool
    show: str
    """Whether and how thoughts are shown: none, auto, concise, detailed."""


class Chat(TypedDict, total=False):
    model: Required[str]
    turns: Required[list[Turn]]
    stream: bool
    stream_usage: bool
    tools: list[Tool]
    tool_choice: ToolChoice
    parallel_tools: bool
    max_output: int
    temperature: float
    top_p: float
    top_k: int
    min_p: float
    n: int
    stop: list[str]
    seed: int
    frequency_penalty: float
    presence_penalty: float
    repetition_penalty: float
    logit_bias: dict[str, float]
    logprobs: bool
    top_logprobs: int
    response_format: ResponseFormat
    reasoning: Reasoning
    verbosity: str
    modalities: list[str]
    audio: dict[str, Any]
    prediction: Any
    web_search: dict[str, Any]
    user: str
    metadata: dict[str, Any]
    service_tier: str
    store: bool
    cache_key: str
    cache_retention: str
    safety_id: str
    suffix: str
    echo: bool
    best_of: int
    inputs: list[Any]
    """embeddings, moderations: texts, or {parts} of text and images."""
    token_inputs: list[Any]
    """embeddings: token ids, or several lists of them; few dialects take them."""
    dimensions: int
    encoding: str
    """float, base64, int8, uint8, binary, ubinary."""
    input_type: str
    """What it is embedded for: query, document, classification, clustering, similarity, image."""
    truncate: str
    """Which end of an input that is too long may be cut: none, start, end."""
    query: str
    documents: list[Any]
    """rerank: texts, or mappings with a text."""
    top_n: int
    return_documents: bool
    max_document: int
    """rerank: tokens of each document that count."""
    prompt: Any
    """completions: prompts that are not one text (several, or token ids). images, speech: the text."""
    size: str
    """images: 1024x1024, auto ..."""
    quality: str
    style: str
    background: str
    media_form: str
    """How images come: url or data."""
    file_format: str
    """images, speech: png, webp, mp3, wav ..."""
    negative_prompt: str
    voice: Any
    instructions: str
    speed: float
    dialect: str
    """The format that it was read from."""
    extra: dict[str, Any]
    """Keys of the client's body that the canonical form has no word for; for the same dialect only."""


@dataclass(slots=True)
class Started:
    """Somebody answers."""

    type: ClassVar[str] = "started"
    template_fields: ClassVar[frozenset[str]] = frozenset(("id", "model", "created", "extra"))
    id: str = ""
    model: str = ""
    created: int | None = None
    extra: dict[str, Any] = field(default_factory=dict)
    """service_tier, system_fingerprint and what else the first event said about the answer."""


@dataclass(slots=True)
class BlockStarted:
    type: ClassVar[str] = "block_started"
    template_fields: ClassVar[frozenset[str]] = frozenset(("choice", "index", "nth", "kind", "block"))
    choice: int
    index: int
    nth: int
    kind: str
    block: dict[str, Any]
    """What is known of the part when it begins: a tool call's id and name."""


@dataclass(slots=True)
class BlockAdded:
    type: ClassVar[str] = "block_added"
    template_fields: ClassVar[frozenset[str]] = frozenset(
        ("choice", "index", "nth", "kind", "field", "value")
    )
    choice: int
    index: int
    nth: int
    kind: str
    field: str
    """text, arguments, data, transcript: a piece to append. citations, logprobs: a list. Others: the value."""
    value: Any


@dataclass(slots=True)
class BlockEnded:
    type: ClassVar[str] = "block_ended"
    template_fields: ClassVar[frozenset[str]] = frozenset(("choice", "index", "nth", "kind", "block"))
    choice: int
    index: int
    nth: int
    kind: str
    block: dict[str, Any]


@dataclass(slots=True)
class Finished:
    type: ClassVar[str] = "finished"
    template_fields: ClassVar[frozenset[str]] = frozenset(("choice", "reason", "stop_sequence", "detail"))
    choice: int
    reason: str
    stop_sequence: str | None = None
    detail: str | None = None
    """The provider's words about it, such as why it refused."""


@dataclass(slots=True)
class UsageReported:
    type: ClassVar[str] = "usage_reported"
    template_fields: ClassVar[frozenset[str]] = frozenset(("usage",))
    usage: Usage


@dataclass(slots=True)
class Failed:
    """The provider failed in-band. `kind` is set when the format knows it (context_length_exceeded, overloaded ...)."""

    type: ClassVar[str] = "failed"
    template_fields: ClassVar[frozenset[str]] = frozenset(
        ("message", "code", "error_type", "param", "status", "kind")
    )
    error: ProviderError
    status: int = 502
    kind: str | None = None

    @property
    def message(self) -> str:
        return self.error.message

    @property
    def code(self) -> str | None:
        return self.error.code

    @property
    def error_type(self) -> str | None:
        return self.error.type

    @property
    def param(self) -> str | None:
        return self.error.param


Event = Started | BlockStarted | BlockAdded | BlockEnded | Finished | UsageReported | Failed

"""What a provider would be sent and what would be read of its answers: the data path's own computations, on values.

Nothing is sent. A credential is shown as `***`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from engine.config.snapshot import Endpoint, Provider, Target
from engine.errors import ProviderError, UpstreamFailure
from engine.wire.answers import SameWireAnswer, SameWireStream, find_failure
from engine.wire.canonical import Event, Failed, UsageReported
from engine.wire.fixes import ask_for_usage, continue_answer
from engine.wire.formats import Format
from engine.wire.json_text import parse_json, write_json
from engine.wire.splice import DROPPED
from engine.wire.streams import fold
from engine.wire.translation import give_state_back
from engine.wire.usage import Usage


@dataclass(frozen=True, slots=True)
class Sent:
    """A request as a provider would get it; secret headers are masked."""

    url: str
    path: str
    body: dict[str, Any]
    headers: dict[str, str]


@dataclass(frozen=True, slots=True)
class Heard:
    """What an answer says: an `answer` as fold() gives it, or the error and its kind."""

    answer: Mapping[str, Any] | None = None
    usage: Usage | None = None
    error: ProviderError | None = None
    kind: str | None = None


@dataclass(frozen=True, slots=True)
class Asked:
    """What a client wants: a body in a dialect, perhaps as a stream, perhaps going on from what was `delivered`."""

    operation: str
    surface: Format
    body: Mapping[str, Any]
    stream: bool
    delivered: str | None = None


def show_sent(target: Target, asked: Asked) -> Sent:
    """The request at `target` for what was asked."""
    provider = target.provider
    endpoint = provider.find_endpoint(asked.operation, asked.surface.name)
    same_wire = endpoint.format.name == asked.surface.name
    sent = dict(asked.body) if same_wire else _translate(target, endpoint, asked)
    edits = provider.params.edits(sent, target.model)
    if asked.stream and provider.stream_usage == "ask":
        edits |= ask_for_usage(sent, endpoint.format.usage_request)
    if asked.delivered is not None:
        edits |= continue_answer(sent, provider.prefill or {}, asked.delivered)
    sent = {name: value for name, value in {**sent, **edits}.items() if value is not DROPPED}
    path = endpoint.path_for(target, stream=asked.stream)
    return Sent(provider.base_url + path, path, sent, _show_headers(provider))


def _translate(target: Target, endpoint: Endpoint, asked: Asked) -> dict[str, Any]:
    facts = {
        "model": target.model,
        "provider": target.provider.name,
        "asks_usage": target.provider.stream_usage == "ask",
        "stream": asked.stream,
        "limits": {"output": target.output, "context": target.context},
        "traits": endpoint.traits_of(target),
    }
    said = asked.surface.read_request(dict(asked.body))
    chat, _ = give_state_back(said, asked.surface, endpoint.format, facts, {})
    written = endpoint.format.write_request({**chat, "model": target.model}, facts)
    return {**written, **endpoint.format.stream_flag} if asked.stream else dict(written)


def _show_headers(provider: Provider) -> dict[str, str]:
    shown = {name.lower(): str(value) for name, value in provider.headers.items()}
    kind = provider.auth.kind
    if kind in ("bearer", "basic"):
        shown["authorization"] = f"{kind.title()} ***"
    elif kind in ("sigv4", "google_service_account"):
        shown["authorization"] = "***"
    elif kind == "header":
        shown[provider.auth.header.lower()] = "***"
    return shown


def hear(format: Format, status: int, body: Any, stream: str | None = None) -> list[Heard]:
    """What is read of an answer: by translation, and as it is read on the caller's own wire where that can differ."""
    if status >= 300:
        return [_hear_refusal(format, status, body)]
    if stream is not None:
        heard = [_hear_stream(format, stream.encode())]
        return [*heard, _hear_same_stream(format, stream.encode())] if format.look is not None else heard
    heard = [_hear_plain(format, body)]
    return [*heard, _hear_same_plain(format, body)] if format.look is not None else heard


def _hear_refusal(format: Format, status: int, body: Any) -> Heard:
    text = body if isinstance(body, str) else ""
    error = format.read_error(status, None if text else body, text)
    return Heard(error=error, kind=format.kind_of_error(status, error) or str(status))


def _hear_failure(failure: UpstreamFailure) -> Heard:
    return Heard(error=failure.error or ProviderError(failure.message), kind=failure.kind)


def _hear_plain(format: Format, doc: Any) -> Heard:
    if isinstance(doc, dict) and (failure := find_failure(format, doc)) is not None:
        return _hear_failure(failure)
    if not format.has("reply"):
        return Heard(usage=format.read_usage(doc))
    events = format.read_reply(doc)
    if any(isinstance(event, Failed) for event in events):
        return Heard(
            usage=format.read_usage(doc)
        )  # no answer at all, but examples may be about its usage only
    return _hear_events(events, format.read_usage(doc))


def _hear_same_plain(format: Format, doc: Any) -> Heard:
    reader = SameWireAnswer(format)
    reader.feed(write_json(doc))
    try:
        reader.close()
    except UpstreamFailure as failure:
        return _hear_failure(failure)
    return Heard(usage=reader.usage)


def _hear_stream(format: Format, data: bytes) -> Heard:
    splitter, reader, events = format.new_splitter(), format.new_stream_reader(), list[Event]()
    for frame in (*splitter.feed(data), *splitter.close()):
        if frame.data is None or (format.done is not None and frame.data.strip() == format.done):
            continue
        try:
            events += reader.feed(parse_json(frame.data), frame.event)
        except ValueError:
            continue  # what is not JSON is left out, as in a call
    return _hear_events([*events, *reader.close(done=True)], None)


def _hear_same_stream(format: Format, data: bytes) -> Heard:
    assert format.look is not None
    reader = SameWireStream(format, format.look, hide_usage=False)
    try:
        reader.feed(data)
        reader.close()
    except UpstreamFailure as failure:
        return _hear_failure(failure)
    if reader.failure is not None:
        return _hear_failure(reader.failure)
    return Heard(usage=reader.usage)


def _hear_events(events: list[Event], usage: Usage | None) -> Heard:
    failed = next((event for event in events if isinstance(event, Failed)), None)
    if failed is not None:
        return Heard(error=failed.error, kind=failed.kind or str(failed.status), usage=usage)
    reported = [event.usage for event in events if isinstance(event, UsageReported)]
    return Heard(answer=fold(events), usage=reported[-1] if reported else usage)

"""What would be sent for a request body, and whether a provider file's executable examples hold.

`show_sent` is the same computation as the data path's, on values; nothing is sent.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from engine.config.describe import TreePath
from engine.config.entries import Entry
from engine.config.schema_provider import ExampleEntry, ProviderFile, ReadEntry, SentEntry
from engine.config.snapshot import Endpoint, Provider, Target
from engine.errors import Problem
from engine.secret import Secret
from engine.wire.formats import Format
from engine.wire.splice import DROPPED

_OPERATION_BY_KEY = {"messages": "chat", "prompt": "completions", "input": "embeddings"}


@dataclass(frozen=True, slots=True)
class Sent:
    """A request as a provider would get it; secret headers are masked."""

    path: str
    body: dict[str, Any]
    headers: dict[str, str]


def tell_operation(body: Mapping[str, Any]) -> str:
    """The operation that a body is for, told from its keys."""
    return next((operation for key, operation in _OPERATION_BY_KEY.items() if key in body), "chat")


def show_sent(provider: Provider, surface: Format, operation: str, body: Mapping[str, Any]) -> Sent:
    """The request for `body` at `provider`. KeyError when the provider does not serve the operation."""
    endpoint = provider.endpoints[operation]
    model = str(body.get("model", ""))
    target = Target(provider, model, 1, False, None, None, None)
    sent = _write_body(endpoint, surface, body, target)
    for name, value in provider.params.edits(sent, model).items():
        if value is DROPPED:
            sent.pop(name, None)
        else:
            sent[name] = value
    if body.get("stream") is True and provider.stream_usage == "ask":
        _ask_usage(sent, endpoint.format.usage_request)
    headers = {name.lower(): str(value) for name, value in provider.headers.items()}
    return Sent(endpoint.path_for(target), sent, headers)


def _write_body(
    endpoint: Endpoint, surface: Format, body: Mapping[str, Any], target: Target
) -> dict[str, Any]:
    format = endpoint.format
    if format.name == surface.name:
        return dict(body)
    limits = {"output": target.output, "context": target.context}
    chat = surface.read_request(dict(body))
    facts = {"model": target.model, "limits": limits, "traits": endpoint.traits_of(target)}
    return dict(format.write_request(chat, facts))


def _ask_usage(body: dict[str, Any], asked: Mapping[str, Any]) -> None:
    for name, value in asked.items():
        there = body.get(name)
        body[name] = {**there, **value} if isinstance(there, dict) and isinstance(value, Mapping) else value


def run_examples(entry: Entry, provider: Provider, surfaces: Mapping[str, Format]) -> list[Problem]:
    """Every example of the provider's file that does not hold."""
    spec: ProviderFile = entry.spec
    problems: list[Problem] = []
    for index, example in enumerate(spec.examples):
        path: TreePath = ("examples", index)
        problems += [entry.problem((*path, *at), said) for at, said in _judge(example, provider, surfaces)]
    return problems


def _judge(
    example: ExampleEntry, provider: Provider, surfaces: Mapping[str, Format]
) -> Iterator[tuple[TreePath, str]]:
    given = example.given
    operation = example.operation or tell_operation(given or {"messages": ()})
    if operation not in provider.endpoints or operation not in surfaces:
        yield ("operation",) if example.operation else (), f"the provider does not serve {operation}"
        return
    if given is not None and example.sends is not None:
        sent = show_sent(provider, surfaces[operation], operation, given)
        yield from _compare_sent(example.sends, sent)
    if example.answers is not None and example.reads is not None:
        format = provider.endpoints[operation].format
        yield from _compare_read(example.reads, format, example.answers.status, example.answers.body)


def _compare_sent(expected: SentEntry, sent: Sent) -> Iterator[tuple[TreePath, str]]:
    if expected.path is not None and expected.path != sent.path:
        yield ("sends", "path"), f"the path is {sent.path}"
    for path, message in list_differences(expected.body, sent.body):
        yield ("sends", "body", *path), message
    for name, value in expected.headers.items():
        if sent.headers.get(name.lower()) != value:
            yield ("sends", "headers", name), f"the header is {sent.headers.get(name.lower())}"


def _compare_read(
    expected: ReadEntry, format: Format, status: int, body: Any
) -> Iterator[tuple[TreePath, str]]:
    if expected.usage is not None:
        usage = format.read_usage(body)
        read = {} if usage is None else usage.as_record()
        for path, message in list_differences(expected.usage, read):
            yield ("reads", "usage", *path), message
    if expected.error is not None:
        error = format.read_error(status, body, "")
        for name, value in expected.error.items():
            found = getattr(error, name, None)
            if found != value:
                yield ("reads", "error", name), f"what is read is {found!r}"


def list_differences(expected: Any, found: Any, path: TreePath = ()) -> Iterator[tuple[TreePath, str]]:
    """Where `found` is not `expected`, each as a path and a sentence about what was found."""
    if isinstance(expected, Mapping) and isinstance(found, Mapping):
        for key in expected.keys() | found.keys():
            if key not in found:
                yield (*path, key), "is not there"
            elif key not in expected:
                yield (*path, key), f"is there too: {_show(found[key])}"
            else:
                yield from list_differences(expected[key], found[key], (*path, key))
    elif isinstance(expected, list) and isinstance(found, list) and len(expected) == len(found):
        for index, (one, other) in enumerate(zip(expected, found, strict=True)):
            yield from list_differences(one, other, (*path, index))
    elif expected != found or isinstance(expected, bool) != isinstance(found, bool):
        yield path, f"is {_show(found)}"


def _show(value: Any) -> str:
    text = "***" if isinstance(value, Secret) else repr(value)
    return text if len(text) <= 120 else text[:117] + "..."


def list_untouched(entry: Entry) -> list[Problem]:
    """Leaves of the provider's file that no example touches, for people who want to know."""
    spec: ProviderFile = entry.spec
    bodies = [example.given for example in spec.examples if example.given is not None]
    untouched = [path for path, name in _list_param_leaves(spec) if not any(name in body for body in bodies)]
    if not bodies:
        untouched += [
            ("params", kind, name) for kind in ("default", "force") for name in getattr(spec.params, kind)
        ]
    reads = any(example.reads is not None and example.reads.usage for example in spec.examples)
    if spec.usage is not None and not reads:
        untouched.append(("usage",))
    return [entry.problem(path, "no example touches this") for path in untouched]


def _list_param_leaves(spec: ProviderFile) -> Iterator[tuple[TreePath, str]]:
    """Leaves that only work when the request has the key."""
    for index, name in enumerate(spec.params.drop):
        yield ("params", "drop", index), name
    for kind in ("rename", "clamp"):
        for name in getattr(spec.params, kind):
            yield ("params", kind, name), name

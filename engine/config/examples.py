"""Whether a provider file's executable examples hold."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from engine.config.describe import TreePath, suggest
from engine.config.entries import Entry
from engine.config.rehearsal import Asked, Heard, Sent, hear, show_sent
from engine.config.schema_examples import ExampleEntry, ReadEntry, SentEntry
from engine.config.schema_provider import ProviderFile
from engine.config.snapshot import Provider, Target
from engine.errors import GatewayError, Problem
from engine.secret import Secret
from engine.wire.formats import Format
from engine.wire.listings import compile_listing

_OPERATION_BY_KEY = {
    "messages": "chat",
    "prompt": "completions",
    "documents": "rerank",
    "input": "embeddings",
}
Said = Iterator[tuple[TreePath, str]]


def tell_operation(body: Mapping[str, Any]) -> str:
    """The operation that a body is for, told from its keys."""
    return next((operation for key, operation in _OPERATION_BY_KEY.items() if key in body), "chat")


@dataclass(frozen=True, slots=True)
class Stage:
    """What examples of one provider need beside it."""

    common: Mapping[str, Format]
    """By operation: the format of requests that name none."""
    formats: Mapping[str, Format]
    fill: Callable[[Mapping[str, str]], Provider | None]
    """The provider with these values for its `variables`."""


def run_examples(entry: Entry, provider: Provider, stage: Stage) -> list[Problem]:
    """Every example of the provider's file that does not hold."""
    spec: ProviderFile = entry.spec
    problems: list[Problem] = []
    for index, example in enumerate(spec.examples):
        path: TreePath = ("examples", index)
        said = _judge(example, provider, stage)
        problems += [entry.problem((*path, *at), message) for at, message in said]
    return problems


def holds(provider: Provider, spec: ProviderFile, stage: Stage) -> bool:
    """Whether every example does."""
    return not any(next(_judge(each, provider, stage), None) for each in spec.examples)


def _judge(example: ExampleEntry, provider: Provider | None, stage: Stage) -> Said:
    if example.variables:
        provider = stage.fill(example.variables)
    if provider is None:
        yield ("variables",), "the provider cannot be built with these"
        return
    for operation in example.lacks:
        if operation in provider.endpoints:
            yield ("lacks",), f"the provider serves {operation}"
    if example.lists is not None and example.answers is not None:
        yield from _judge_listing(example.lists, provider, example.answers.body)
    if example.given is not None or example.reads is not None:
        yield from _judge_exchange(example, provider, stage)


def _judge_exchange(example: ExampleEntry, provider: Provider, stage: Stage) -> Said:
    operation = example.operation or _find_operation(example, provider, stage)
    if operation not in provider.endpoints:
        yield ("operation",) if example.operation else (), f"the provider does not serve {operation}"
        return
    if example.given is not None:
        yield from _judge_request(example, provider, operation, stage)
    if example.reads is not None and example.answers is not None:
        answers = example.answers
        heard = hear(provider.endpoints[operation].format, answers.status, answers.body, answers.stream)
        for number, each in enumerate(heard):
            yield from _compare_heard(example.reads, each, whole=number == 0)


def _find_operation(example: ExampleEntry, provider: Provider, stage: Stage) -> str:
    """As the format of `given` says, else what the body looks like, else the first that the provider serves."""
    if example.as_ is not None and example.as_ in stage.formats:
        return stage.formats[example.as_].operation
    if example.given is not None:
        return tell_operation(example.given)
    return next(iter(provider.endpoints), "chat")


def _judge_request(example: ExampleEntry, provider: Provider, operation: str, stage: Stage) -> Said:
    name, given = example.as_, example.given or {}
    surface = stage.common.get(operation) if name is None else stage.formats.get(name)
    if surface is None:
        yield (
            ("as",),
            f'no wire format "{name or operation}"{suggest(name or operation, list(stage.formats))}',
        )
        return
    model = example.model or str(given.get("model", ""))
    target = Target(provider, model, 1, False, None, None, None, traits=example.traits)
    stream = given.get("stream") is True if example.stream is None else example.stream
    try:
        sent = show_sent(target, Asked(operation, surface, given, stream, example.continues))
    except (GatewayError, NotImplementedError) as error:
        yield ("given",), str(error)
        return
    if example.sends is not None:
        yield from _compare_sent(example.sends, sent)


def _judge_listing(expected: tuple[dict[str, Any], ...], provider: Provider, doc: Any) -> Said:
    if provider.models_listing is None:
        yield ("lists",), "the provider has no `models` that say how"
        return
    read = compile_listing(provider.models_listing)
    for path, message in list_differences(list(expected), read(doc)):
        yield ("lists", *path), message


def _compare_sent(expected: SentEntry, sent: Sent) -> Said:
    if expected.url is not None and expected.url != sent.url:
        yield ("sends", "url"), f"the address is {sent.url}"
    if expected.path is not None and expected.path != sent.path:
        yield ("sends", "path"), f"the path is {sent.path}"
    if expected.body is not None:
        for path, message in list_differences(expected.body, sent.body):
            yield ("sends", "body", *path), message
    for name, value in expected.headers.items():
        if sent.headers.get(name.lower()) != value:
            yield ("sends", "headers", name), f"the header is {sent.headers.get(name.lower())}"


def _compare_heard(expected: ReadEntry, heard: Heard, *, whole: bool) -> Said:
    """`whole`: everything was read of the answer, not only what passing it on needs."""
    if expected.error is None and heard.error is not None:
        yield ("reads",), f"an error is read: {heard.error.message}"
        return
    if expected.error is not None:
        yield from _compare_error(expected.error, heard)
    if expected.usage is not None:
        read = {} if heard.usage is None else heard.usage.as_record()
        for path, message in list_differences(expected.usage, read):
            yield ("reads", "usage", *path), message
    wanted = expected.model_dump(exclude_none=True, exclude={"usage", "error"})
    if whole and wanted:
        if heard.answer is None:
            yield ("reads",), "no answer is read"
            return
        found = _describe_answer(heard.answer)
        for name, value in wanted.items():
            value = [*value] if isinstance(value, tuple) else value
            for path, message in list_differences(value, _only_said(value, found[name])):
                yield ("reads", name, *path), message


def _compare_error(expected: Mapping[str, Any], heard: Heard) -> Said:
    facts = {name: getattr(heard.error, name, None) for name in ("message", "type", "code", "param")}
    facts["kind"] = heard.kind
    for name, value in expected.items():
        if facts.get(name) != value:
            yield ("reads", "error", name), f"what is read is {facts.get(name)!r}"


def _describe_answer(answer: Mapping[str, Any]) -> dict[str, Any]:
    parts = answer.get("parts") or []
    texts = {
        kind: "".join(part.get("text") or "" for part in parts if part.get("type") == kind)
        for kind in ("text", "reasoning")
    }
    calls = [part for part in parts if part.get("type") == "tool_call"]
    return {**texts, "tool_calls": calls, "finish": (answer.get("finish") or {}).get("reason")}


def _only_said(expected: Any, found: Any) -> Any:
    """Of each call what the example speaks of."""
    if not isinstance(expected, list) or not isinstance(found, list) or len(expected) != len(found):
        return found
    return [{name: call.get(name) for name in said} for said, call in zip(expected, found, strict=True)]


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

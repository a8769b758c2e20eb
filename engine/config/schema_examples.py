"""Executable examples in a provider's file: what it is sent, what is read of its answers, what it lists."""

from typing import Any

from pydantic import model_validator
from pydantic_core import PydanticCustomError

from engine.config.schema_base import Name, Strict, Texts, described
from engine.wire.operations import Operation


class SentEntry(Strict):
    path: str | None = described("the path below base_url", None)
    url: str | None = described("the whole address; for examples with `variables`", None)
    body: dict[str, Any] | None = described("the whole body", None)
    headers: dict[str, str] = described(
        "headers that must be among those sent; a credential is shown as `***`", {}
    )


class AnsweredEntry(Strict):
    status: int = described("the status the provider answers", 200, ge=100, le=599)
    body: Any = described("the provider's body", None)
    stream: str | None = described("the bytes of a streamed answer, as text", None)

    @model_validator(mode="after")
    def _refuse_both(self) -> "AnsweredEntry":
        if self.stream is not None and self.body is not None:
            raise PydanticCustomError("example", "an answer has a body or a stream, not both")
        return self


class ReadEntry(Strict):
    text: str | None = described("the text of the answer", None)
    reasoning: str | None = described("the reasoning in it", None)
    tool_calls: tuple[dict[str, Any], ...] | None = described("the calls in it: id, name, arguments", None)
    finish: str | None = described("why it ended, in canonical words", None)
    usage: dict[str, int | float] | None = described("tokens by class, and units, that are read", None)
    error: dict[str, Any] | None = described(
        "what is read of an error: message, type, code, param, kind", None
    )


class ExampleEntry(Strict):
    """An executable example: a provider whose example fails does not load."""

    given: dict[str, Any] | None = described("a request body as a client sends it", None)
    as_: Name | None = described(
        "the wire format of `given`; default: as callers of the operation speak", None, alias="as"
    )
    model: str | None = described("the provider's id of the model; default: the one in `given`", None)
    stream: bool | None = described("whether a stream is asked for; default: what `given` says", None)
    operation: Operation | None = described("default: told from `given`", None)
    traits: dict[str, Any] = described("traits of the model that is asked", {})
    variables: dict[str, str] = described(
        "values for the provider's `variables`, so that they need not be set", {}
    )
    continues: str | None = described(
        "text that was delivered before the stream was cut, for `prefill`", None
    )
    sends: SentEntry | None = described("what the provider is sent for `given`", None)
    answers: AnsweredEntry | None = described("an answer of the provider", None)
    reads: ReadEntry | None = described("what is read of `answers`", None)
    lists: tuple[dict[str, Any], ...] | None = described(
        "the models that are read of `answers`, which is the provider's list of them", None
    )
    lacks: Texts = described("operations that the provider does not serve", ())

    @model_validator(mode="after")
    def _refuse_half_examples(self) -> "ExampleEntry":
        reads = self.reads is not None or self.lists is not None
        if (self.given is None) != (self.sends is None) or (self.answers is None) == reads:
            raise PydanticCustomError(
                "example", "`given` goes with `sends`, and `answers` with `reads` or `lists`"
            )
        if self.given is None and self.answers is None and not self.lacks:
            raise PydanticCustomError(
                "example", "an example needs `given` and `sends`, or `answers` and `reads`"
            )
        return self

"""The most that a call can cost, before it is made: its prompt, and the length that the upstream keeps to.

Pure.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any

import orjson

from engine.billing.pricing import PLAIN, Possible
from engine.billing.tariffs import Tariff, find_tariff
from engine.call import Call
from engine.config.snapshot import Policy, Target
from engine.wire.operations import WRITING
from engine.wire.output_length import read_place, read_stated
from engine.wire.splice import list_names
from engine.wire.usage import Usage

NOTHING = Decimal(0)
_SMALL_BODY = 16 << 10
_BYTES_PER_TOKEN = 3
"""Fewer than any tokenizer needs for prose, and what one sign of most scripts takes."""
_MARGIN = Decimal("1.25")
_SPARE_TOKENS = 32
_ATTACHED = (b"image", b"file", b"document", b"audio", b"video")
"""Words of parts that are more tokens than bytes. One in a text costs the time of an estimate and nothing else."""
_COUNTS = (("n",), ("best_of",), ("generationConfig", "candidateCount"))
_COUNT_KEYS = frozenset(keys[0] for keys in _COUNTS)
_ASSUMED_UNITS = {"seconds": Decimal(60)}
"""Of what is counted only by the answer, such as the length of a recording: something is held, and more may be due."""
_NO_USAGE = Usage()


@dataclass(slots=True)
class Length:
    """How long the answers of a call may be, in tokens."""

    output: int
    """Of one answer."""
    answers: int
    stated: bool
    kept: bool = True
    """The upstream keeps to it without being told."""

    @property
    def total(self) -> int:
        return self.output * self.answers


_NO_LENGTH = Length(0, 1, stated=True)


def bound_input_tokens(call: Call, estimate: int) -> int:
    """No fewer tokens than the prompt has, as far as that can be told without a tokenizer."""
    body = call.body
    if body and len(body) < _SMALL_BODY:
        return max(len(body) // _BYTES_PER_TOKEN, int(estimate * _MARGIN)) + _SPARE_TOKENS
    foreign = 0 if body.isascii() else len(body) - len(body.decode("utf-8", "ignore"))
    tools = call.request.get("tools")
    told = len(orjson.dumps(tools)) // _BYTES_PER_TOKEN if tools else 0
    escaped = body.count(b"\\u") if b"\\" in body else 0  # one letter is found far faster than two
    return int(estimate * _MARGIN) + foreign + escaped + told + _SPARE_TOKENS


def needs_estimate(body: bytes) -> bool:
    """Whether its bytes alone do not bound a prompt: a long one has too many, one with attachments too few."""
    if len(body) >= _SMALL_BODY:
        return True
    for word in _ATTACHED:
        if word in body:
            return True
    return False


def list_lengths(call: Call, targets: Sequence[Target], policy: Policy) -> list[Length]:
    """At each target: what the caller states, else the model's limit, else what the policy assumes."""
    if call.operation not in WRITING:
        return [_NO_LENGTH] * len(targets)
    stated, answers = read_stated(call), count_answers(call.request) * count_prompts(call.request)
    if stated is not None:
        return [Length(stated, answers, stated=True)] * len(targets)
    usual = call.model.output if call.model is not None else None
    limits = (target.output or usual for target in targets)
    return [
        Length(limit or policy.assume_output_tokens, answers, stated=False, kept=limit is not None)
        for limit in limits
    ]


def count_answers(request: Mapping[str, Any]) -> int:
    answers = 1
    if not _COUNT_KEYS & request.keys():
        return answers
    for keys in _COUNTS:
        count = read_place(request, keys)
        if isinstance(count, int) and not isinstance(count, bool) and count > answers:
            answers = min(count, 1024)
    return answers


def count_prompts(request: Mapping[str, Any]) -> int:
    """A list of texts, or of lists of tokens, is answered once for each."""
    prompts = request.get("prompt")
    if not isinstance(prompts, list) or not prompts or isinstance(prompts[0], int):
        return 1
    return len(prompts)


@dataclass(slots=True)
class Ceiling:
    """What a call may cost at the dearest of its targets, by the length of its answers."""

    rates: tuple[tuple[Tariff, Length], ...]
    input: int
    possible: Possible

    @property
    def stated(self) -> bool:
        return all([length.stated for _, length in self.rates])

    @property
    def longest(self) -> int:
        return max((length.output for _, length in self.rates), default=0)

    @property
    def kept(self) -> bool:
        return all(length.kept for _, length in self.rates)

    def at(self, most: int | None = None) -> Decimal:
        """With answers as long as they may be, or no longer than `most`."""
        dearest = NOTHING
        for tariff, length in self.rates:
            tokens = length.total if most is None else min(length.output, most) * length.answers
            cost = tariff.ceiling(self.input, tokens, self.possible)
            if cost > dearest:
                dearest = cost
        return dearest

    def find_length(self, amount: Decimal) -> int:
        """How long each answer may be so that the call costs no more than `amount`; may be below zero."""
        lengths = []
        for tariff, length in self.rates:
            empty, full = (tariff.ceiling(self.input, tokens, self.possible) for tokens in (0, length.total))
            if full > amount:
                lengths.append(int((amount - empty) * length.output / (full - empty)) if full > empty else -1)
        return min(lengths, default=self.longest)


def find_ceiling(call: Call, targets: Sequence[Target], policy: Policy, estimate: int) -> Ceiling:
    """Of the targets that cost anything."""
    assert call.model is not None
    tariffs = [find_tariff(call.snapshot, call.model, target, call.started_at) for target in targets]
    rates = list(zip(tariffs, list_lengths(call, targets, policy), strict=True))
    possible = find_possible(call)
    if call.operation not in WRITING:
        unsaid = {unit for tariff, _ in rates for unit in tariff.price.units} - possible.units.keys()
        if unsaid:
            assumed = {unit: _ASSUMED_UNITS.get(unit, Decimal(1)) for unit in unsaid}
            possible = replace(possible, units={**possible.units, **assumed})
    return Ceiling(tuple(rates), bound_input_tokens(call, estimate), possible)


def find_possible(call: Call) -> Possible:
    """What the request says beside lengths. Words that only stand in its texts make the ceiling higher, never lower."""
    asked = call.door.format.add_asked(_NO_USAGE, call.request)
    said = list_names(call.body)
    media = not said or b"audio" in said or b"image" in said
    caches = not said or b"cache" in said
    if asked is _NO_USAGE and not (media or caches):
        return PLAIN
    return Possible(asked.service, caches, media, asked.units, asked.variant)

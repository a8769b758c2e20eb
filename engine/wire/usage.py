"""What a call consumed: tokens by class, and what is counted in other units.

The classes of tokens are disjoint, so that no token is ever priced twice. Units stand beside them: a provider that
charges for searches reports searches, and its price says what one costs.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any

UNITS: Mapping[str, str] = {
    "images": "per_image",
    "pixels": "per_pixel",
    "seconds": "per_second",
    "characters": "per_character",
    "searches": "per_search",
    "searched_calls": "per_searched_call",
    "fetches": "per_fetch",
    "code_runs": "per_code_run",
    "file_searches": "per_file_search",
}
"""What is counted beside tokens, and the key of a price for one of it."""
NO_UNITS: Mapping[str, Decimal] = {}


@dataclass(slots=True)  # nobody changes one; `frozen` would cost three microseconds a call
class Usage:
    """Tokens by class, and `units` by the names of UNITS (seconds may be a fraction).

    `input` and `output` exclude the other classes of their side. `estimated` is true when no provider reported it.
    """

    input: int = 0
    cached_input: int = 0
    cache_write: int = 0
    cache_write_1h: int = 0
    audio_input: int = 0
    image_input: int = 0
    output: int = 0
    reasoning: int = 0
    audio_output: int = 0
    image_output: int = 0
    estimated: bool = False
    units: Mapping[str, Decimal] = field(default_factory=lambda: NO_UNITS)
    service: str = ""
    """The service tier that was given, as the provider names it; "" when nothing is known of it."""
    variant: str = ""
    """`quality/size` of images."""

    @property
    def has_parts(self) -> bool:
        """Whether anything is counted beside plain input and output. Written out, for it is asked of every call."""
        return bool(
            self.cached_input
            or self.reasoning
            or self.cache_write
            or self.cache_write_1h
            or self.audio_input
            or self.image_input
            or self.audio_output
            or self.image_output
        )

    @property
    def prompt(self) -> int:
        """All tokens read, as OpenAI's `prompt_tokens` counts them."""
        cached = self.cached_input + self.cache_write + self.cache_write_1h
        return self.input + cached + self.audio_input + self.image_input

    @property
    def completion(self) -> int:
        """All tokens written, as OpenAI's `completion_tokens` counts them."""
        return self.output + self.reasoning + self.audio_output + self.image_output

    def as_record(self) -> dict[str, int | float]:
        """Input, output, the other classes that are not zero and the units, for the call record."""
        record: dict[str, int | float] = {"input": self.input, "output": self.output}
        for name, count in (
            ("cached_input", self.cached_input),
            ("cache_write", self.cache_write),
            ("cache_write_1h", self.cache_write_1h),
            ("audio_input", self.audio_input),
            ("image_input", self.image_input),
            ("reasoning", self.reasoning),
            ("audio_output", self.audio_output),
            ("image_output", self.image_output),
        ):
            if count:
                record[name] = count
        return {**record, **show_units(self.units)} if self.units else record


INPUT_CLASSES = ("input", "cached_input", "cache_write", "cache_write_1h", "audio_input", "image_input")
OUTPUT_CLASSES = ("output", "reasoning", "audio_output", "image_output")
CLASSES = INPUT_CLASSES + OUTPUT_CLASSES


def show_units(units: Mapping[str, Decimal]) -> dict[str, int | float]:
    """Units as JSON numbers; nothing is charged by these."""
    return {name: int(n) if n == n.to_integral_value() else float(n) for name, n in units.items()}


def split_inclusive_counts(counts: Mapping[str, Any]) -> Usage:
    """Disjoint classes from inclusive totals.

    `counts` has any of prompt, completion (both inclusive), the CLASSES that are parts of them, and UNITS. A part
    larger than its total is taken as outside of it (some providers count reasoning beside the completion).
    """
    prompt, completion = counts.get("prompt", 0), counts.get("completion", 0)
    if len(counts) == ("prompt" in counts) + ("completion" in counts) + ("total" in counts):
        return Usage(input=prompt, output=completion)
    read = {name: counts[name] for name in INPUT_CLASSES[1:] if name in counts}
    written = {name: counts[name] for name in OUTPUT_CLASSES[1:] if name in counts}
    parts_in, parts_out = sum(read.values()), sum(written.values())
    return Usage(
        input=prompt - parts_in if prompt >= parts_in else prompt,
        output=completion - parts_out if completion >= parts_out else completion,
        units={name: counts[name] for name in UNITS if name in counts} or NO_UNITS,
        **read,
        **written,
    )


def read_record(tokens: Mapping[str, Any]) -> Usage:
    """The usage that `as_record` wrote down."""
    classes: dict[str, Any] = {name: int(tokens[name]) for name in CLASSES if tokens.get(name)}
    units = {name: Decimal(str(tokens[name])) for name in UNITS if tokens.get(name)}
    return replace(Usage(units=units or NO_UNITS), **classes)

"""What a call consumed: tokens by class, and what is counted in other units.

The classes of tokens are disjoint, so that no token is ever priced twice. Units stand beside them: a provider that
charges for searches reports searches, and its price says what one costs.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

UNITS: Mapping[str, str] = {
    "images": "per_image",
    "pixels": "per_pixel",
    "seconds": "per_second",
    "characters": "per_character",
    "searches": "per_search",
}
"""What is counted beside tokens, and the key of a price for one of it."""
NO_UNITS: Mapping[str, Decimal] = {}


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens by class, and `units` by the names of UNITS (seconds may be a fraction).

    `input` excludes `cached_input`, `cache_write`, `cache_write_1h` and `audio_input`; `output` excludes
    `reasoning` and `audio_output`. `estimated` is true when no provider reported it.
    """

    input: int = 0
    cached_input: int = 0
    cache_write: int = 0
    cache_write_1h: int = 0
    audio_input: int = 0
    output: int = 0
    reasoning: int = 0
    audio_output: int = 0
    estimated: bool = False
    units: Mapping[str, Decimal] = field(default_factory=lambda: NO_UNITS)

    @property
    def prompt(self) -> int:
        """All tokens read, as OpenAI's `prompt_tokens` counts them."""
        return self.input + self.cached_input + self.cache_write + self.cache_write_1h + self.audio_input

    @property
    def completion(self) -> int:
        """All tokens written, as OpenAI's `completion_tokens` counts them."""
        return self.output + self.reasoning + self.audio_output

    def as_record(self) -> dict[str, int | float]:
        """Input, output, the other classes that are not zero and the units, for the call record."""
        record: dict[str, int | float] = {"input": self.input, "output": self.output}
        for name, count in (
            ("cached_input", self.cached_input),
            ("cache_write", self.cache_write),
            ("cache_write_1h", self.cache_write_1h),
            ("audio_input", self.audio_input),
            ("reasoning", self.reasoning),
            ("audio_output", self.audio_output),
        ):
            if count:
                record[name] = count
        return {**record, **show_units(self.units)} if self.units else record


CLASSES = (
    "input",
    "cached_input",
    "cache_write",
    "cache_write_1h",
    "audio_input",
    "output",
    "reasoning",
    "audio_output",
)


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
    cached, written = counts.get("cached_input", 0), counts.get("cache_write", 0)
    written_1h, heard = counts.get("cache_write_1h", 0), counts.get("audio_input", 0)
    reasoning, spoken = counts.get("reasoning", 0), counts.get("audio_output", 0)
    parts_in, parts_out = cached + written + written_1h + heard, reasoning + spoken
    return Usage(
        input=prompt - parts_in if prompt >= parts_in else prompt,
        cached_input=cached,
        cache_write=written,
        cache_write_1h=written_1h,
        audio_input=heard,
        output=completion - parts_out if completion >= parts_out else completion,
        reasoning=reasoning,
        audio_output=spoken,
        units={name: counts[name] for name in UNITS if name in counts} or NO_UNITS,
    )

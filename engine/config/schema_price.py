"""What a model costs: rates by class of token and by unit, dearer or cheaper ones for long prompts and for the service
that was given, as YAML says them.
"""

from decimal import Decimal
from typing import Annotated, Literal

from pydantic import Discriminator, Tag, model_validator
from pydantic_core import PydanticCustomError

from engine.config.schema_base import Count, Strict, Usd, described, word_or_tree
from engine.wire.usage import UNITS


class RatesEntry(Strict):
    """What differs from the price around it; a class that neither names costs what its nearest class costs here."""

    input: Usd | None = described("US dollars per 1M input tokens", None)
    output: Usd | None = described("US dollars per 1M output tokens", None)
    cached_input: Usd | None = described("per 1M input tokens read from a cache; default: as input", None)
    cache_write: Usd | None = described("per 1M input tokens written to a cache; default: as input", None)
    cache_write_1h: Usd | None = described("per 1M tokens cached for an hour; default: as cache_write", None)
    reasoning: Usd | None = described("per 1M reasoning tokens; default: as output", None)
    audio_input: Usd | None = described("per 1M audio input tokens; default: as input", None)
    audio_output: Usd | None = described("per 1M audio output tokens; default: as output", None)
    image_input: Usd | None = described("per 1M tokens of images in the prompt; default: as input", None)
    image_output: Usd | None = described("per 1M tokens of images that are made; default: as output", None)
    request: Usd | None = described("US dollars per request, beside the tokens", None)
    per_image: Usd | None = described("US dollars per image that is made", None)
    per_pixel: Usd | None = described("US dollars per pixel that is made", None)
    per_second: Usd | None = described("US dollars per second of audio or video", None)
    per_character: Usd | None = described("US dollars per character that is spoken", None)
    per_search: Usd | None = described("US dollars per search unit or search of the web", None)
    per_searched_call: Usd | None = described(
        "US dollars once for a call that searched the web, however often", None
    )
    per_fetch: Usd | None = described("US dollars per page that a provider's tool fetched", None)
    per_code_run: Usd | None = described("US dollars per run of code by a provider's tool", None)
    per_file_search: Usd | None = described("US dollars per search of files by a provider's tool", None)


class TierEntry(RatesEntry):
    """The whole call costs this when its prompt is longer: every token, and not only those beyond."""

    above: Count = described("more prompt tokens than this, those of caches included")


class ServiceEntry(RatesEntry):
    """What a service tier costs."""

    tiers: tuple[TierEntry, ...] = described("rates for longer prompts; default: the tiers around it", ())

    @model_validator(mode="after")
    def _refuse_disorder(self) -> "ServiceEntry":
        refuse_disorder(self.tiers)
        return self


class PriceEntry(RatesEntry):
    """US dollars per 1M tokens of each class, and for one of each unit, as text. A class left out costs what its
    nearest class costs; a unit left out costs nothing.
    """

    input: Usd = described("US dollars per 1M input tokens; required when no unit has a price", Decimal(0))
    output: Usd = described("US dollars per 1M output tokens", Decimal(0))
    request: Usd = described("US dollars per request, beside the tokens", Decimal(0))
    per_image_of: dict[str, Usd] = described(
        "US dollars per image by quality/size, quality or size: {hd/1024x1024: ...}; default: per_image", {}
    )
    tiers: tuple[TierEntry, ...] = described("rates for longer prompts", ())
    services: dict[str, ServiceEntry] = described(
        "by the service tier that was given (batch, flex, priority ...)",
        {},
    )

    @model_validator(mode="after")
    def _refuse_no_price(self) -> "PriceEntry":
        if not {"input", "request", "per_image_of", *UNITS.values()} & self.model_fields_set:
            raise PydanticCustomError("price", "`input`, `request` or the price of a unit is missing")
        refuse_disorder(self.tiers)
        return self


def refuse_disorder(tiers: tuple[TierEntry, ...]) -> None:
    """Two tiers that begin at one length contradict each other."""
    lengths = [tier.above for tier in tiers]
    if lengths != sorted(set(lengths)):
        raise PydanticCustomError("tiers", "tiers begin at rising numbers of prompt tokens, each once")


UnknownPrice = Annotated[
    Annotated[PriceEntry, Tag("tree")] | Annotated[Literal["refuse", "free"], Tag("word")],
    Discriminator(word_or_tree),
]

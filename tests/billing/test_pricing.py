"""What tokens cost: exact, each token once."""

from dataclasses import replace
from decimal import Decimal
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from engine.billing.pricing import price_usage
from engine.wire.usage import CLASSES, Usage, split_inclusive_counts
from tests.routing.things import make_price

COUNTS = st.integers(0, 10**9)


def make_usage(counts: dict[str, Any]) -> Usage:
    return replace(Usage(), **counts)


def test_every_class_has_its_own_price() -> None:
    amounts = {name: str(10 ** -(index + 1)) for index, name in enumerate(CLASSES)}
    price = make_price(
        **{name: format(Decimal(1).scaleb(-index - 1), "f") for index, name in enumerate(amounts)}
    )
    usage = make_usage(dict.fromkeys(CLASSES, 1))
    assert price_usage(usage, price) == Decimal("0.11111111")


def test_prices_far_below_a_micro_dollar_are_not_rounded() -> None:
    price = make_price("0.000000001", "0.000000000001")
    assert price_usage(Usage(input=1, output=1), price) == Decimal("0.000000001001")


def test_a_request_has_a_price_of_its_own() -> None:
    assert price_usage(Usage(), make_price("1", "1", request="0.002")) == Decimal("0.002")


def test_a_unit_has_a_price_of_its_own_and_may_be_a_fraction() -> None:
    price = replace(make_price("0", "0"), units={"seconds": Decimal("0.0001"), "images": Decimal("0.04")})
    usage = Usage(units={"seconds": Decimal("8.47"), "images": Decimal(2), "searches": Decimal(9)})
    assert price_usage(usage, price) == Decimal("0.080847")


def test_a_markup_goes_over_everything() -> None:
    price = make_price("0.000003", "0.000015", request="0.01")
    assert price_usage(Usage(input=1000, output=100), price, Decimal("0.055")) == Decimal("0.0145") * Decimal(
        "1.055"
    )


@given(st.lists(COUNTS, min_size=8, max_size=8), st.lists(st.integers(0, 10**9), min_size=8, max_size=8))
def test_the_sum_is_exact_for_every_mix(counts: list[int], pico_dollars: list[int]) -> None:
    usage = make_usage(dict(zip(CLASSES, counts, strict=True)))
    amounts = {
        name: format(Decimal(amount).scaleb(-12), "f")
        for name, amount in zip(CLASSES, pico_dollars, strict=True)
    }
    exact = sum(count * amount for count, amount in zip(counts, pico_dollars, strict=True))
    assert price_usage(usage, make_price(**amounts)) == Decimal(exact).scaleb(-12)


@given(prompt=COUNTS, completion=COUNTS, parts=st.lists(COUNTS, min_size=6, max_size=6))
def test_no_token_is_priced_twice(prompt: int, completion: int, parts: list[int]) -> None:
    names = ("cached_input", "cache_write", "cache_write_1h", "audio_input", "reasoning", "audio_output")
    counts = dict(zip(names, parts, strict=True))
    usage = split_inclusive_counts({"prompt": prompt, "completion": completion, **counts})
    parts_in, parts_out = sum(parts[:4]), sum(parts[4:])
    assert usage.prompt == (prompt if prompt >= parts_in else prompt + parts_in)
    assert usage.completion == (completion if completion >= parts_out else completion + parts_out)
    assert all(getattr(usage, name) >= 0 for name in CLASSES)

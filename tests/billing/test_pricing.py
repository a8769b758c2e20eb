"""What tokens cost: exact, each token once."""

from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from engine.billing.pricing import Possible, price_ceiling, price_usage
from engine.config.prices import build_price
from engine.config.schema_price import PriceEntry
from engine.config.snapshot import Price
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
    assert price_usage(usage, price) == Decimal("0.1111111111")


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


@given(
    st.lists(COUNTS, min_size=len(CLASSES), max_size=len(CLASSES)),
    st.lists(st.integers(0, 10**9), min_size=len(CLASSES), max_size=len(CLASSES)),
)
def test_the_sum_is_exact_for_every_mix(counts: list[int], pico_dollars: list[int]) -> None:
    usage = make_usage(dict(zip(CLASSES, counts, strict=True)))
    amounts = {
        name: format(Decimal(amount).scaleb(-12), "f")
        for name, amount in zip(CLASSES, pico_dollars, strict=True)
    }
    exact = sum(count * amount for count, amount in zip(counts, pico_dollars, strict=True))
    assert price_usage(usage, make_price(**amounts)) == Decimal(exact).scaleb(-12)


@given(prompt=COUNTS, completion=COUNTS, parts=st.lists(COUNTS, min_size=8, max_size=8))
def test_no_token_is_priced_twice(prompt: int, completion: int, parts: list[int]) -> None:
    names = [name for name in CLASSES if name not in ("input", "output")]
    counts = dict(zip(names, parts, strict=True))
    usage = split_inclusive_counts({"prompt": prompt, "completion": completion, **counts})
    parts_in, parts_out = sum(parts[:5]), sum(parts[5:])
    assert usage.prompt == (prompt if prompt >= parts_in else prompt + parts_in)
    assert usage.completion == (completion if completion >= parts_out else completion + parts_out)
    assert all(getattr(usage, name) >= 0 for name in CLASSES)


LONG = {
    "input": "1.25",
    "output": "10",
    "cached_input": "0.125",
    "tiers": [
        {"above": 200_000, "input": "2.50", "output": "15", "cached_input": "0.25"},
        {"above": 1_000_000, "input": "5"},
    ],
    "services": {
        "flex": {
            "input": "0.625",
            "output": "5",
            "cached_input": "0.0625",
            "tiers": [{"above": 200_000, "input": "1.3"}],
        },
        "priority": {"input": "2.5", "output": "20"},
    },
}


def declare(**said: Any) -> Price:
    return build_price(PriceEntry.model_validate(said))


def test_a_prompt_of_exactly_the_threshold_is_not_above_it() -> None:
    price = declare(**LONG)
    assert price_usage(Usage(input=200_000), price) == Decimal("0.25")
    assert price_usage(Usage(input=200_001), price) == Decimal("0.5000025")


def test_what_was_read_from_a_cache_counts_towards_the_threshold_and_every_token_costs_what_the_tier_costs() -> (
    None
):
    usage = Usage(input=1_000, cached_input=199_500, output=100)
    assert price_usage(usage, declare(**LONG)) == Decimal("0.0025") + Decimal("0.049875") + Decimal("0.0015")


def test_the_highest_threshold_that_is_passed_decides_and_says_only_what_differs() -> None:
    usage = Usage(input=1_000_001, cached_input=100, output=10)
    expected = Decimal("5.000005") + Decimal("0.0000125") + Decimal("0.0001")
    assert price_usage(usage, declare(**LONG)) == expected


def test_a_service_tier_has_its_own_rates_and_its_own_long_prompts() -> None:
    price = declare(**LONG)
    assert price_usage(Usage(input=1000, output=100, service="flex"), price) == Decimal("0.001125")
    assert price_usage(Usage(input=300_000, output=100, service="flex"), price) == Decimal("0.3905")
    assert price_usage(Usage(input=1000, output=100, service="priority"), price) == Decimal("0.0045")


def test_a_service_without_tiers_of_its_own_has_those_around_it() -> None:
    assert price_usage(Usage(input=300_000, service="priority"), declare(**LONG)) == Decimal("0.75")


def test_a_service_that_nobody_priced_costs_what_the_usual_one_does() -> None:
    assert price_usage(Usage(input=1000, output=100, service="scale"), declare(**LONG)) == Decimal("0.00225")


def test_a_class_that_neither_price_nor_tier_names_costs_what_its_nearest_class_costs_in_the_tier() -> None:
    price = declare(input="1", output="2", tiers=[{"above": 10, "input": "3", "output": "6"}])
    usage = Usage(input=10, cached_input=10, reasoning=10)
    assert price_usage(usage, price) == Decimal("0.00012")


@pytest.mark.parametrize("lengths", [[2, 1], [1, 1]])
def test_tiers_that_do_not_rise_are_refused(lengths: list[int]) -> None:
    with pytest.raises(ValidationError, match="rising numbers"):
        declare(input="1", tiers=[{"above": length, "input": "2"} for length in lengths])


AMOUNTS = st.decimals(0, 100, places=3).map(str)
RATES = st.fixed_dictionaries(
    {"input": AMOUNTS},
    optional={name: AMOUNTS for name in (*CLASSES[1:], "request", "per_image", "per_search")},
)
THRESHOLDS = st.lists(st.integers(1, 2000), unique=True, max_size=3).map(sorted)


@st.composite
def draw_price(draw: st.DrawFn) -> Price:
    def tiers() -> list[dict[str, Any]]:
        return [{"above": length, **draw(RATES)} for length in draw(THRESHOLDS)]

    services = {
        name: {**draw(RATES), "tiers": tiers()}
        for name in draw(st.sets(st.sampled_from(["flex", "priority"])))
    }
    return declare(**draw(RATES), tiers=tiers(), services=services)


@given(
    price=draw_price(),
    counts=st.lists(st.integers(0, 500), min_size=len(CLASSES), max_size=len(CLASSES)),
    asked=st.sampled_from(["", "flex", "priority"]),
    given_usual=st.booleans(),
    spare=st.tuples(st.integers(0, 500), st.integers(0, 500)),
    markup=st.sampled_from([Decimal(0), Decimal("0.055")]),
    units=st.dictionaries(st.sampled_from(["images", "searches"]), st.integers(0, 4).map(Decimal)),
)
def test_no_call_costs_more_than_its_ceiling(
    price: Price,
    counts: list[int],
    asked: str,
    given_usual: bool,
    spare: tuple[int, int],
    markup: Decimal,
    units: dict[str, Decimal],
) -> None:
    usage = replace(make_usage(dict(zip(CLASSES, counts, strict=True))), units=units)
    wrote = bool(usage.cache_write + usage.cache_write_1h)
    media = any(getattr(usage, name) for name in CLASSES if "audio" in name or "image" in name)
    ceiling = price_ceiling(
        usage.prompt + spare[0],
        usage.completion + spare[1],
        price,
        markup,
        Possible(asked, cache_writes=wrote, media=media, units=units),
    )
    assert price_usage(usage, price, markup) <= ceiling


def test_the_ceiling_of_plain_text_is_what_it_costs() -> None:
    price = declare(**LONG, audio_input="100", cache_write="7")
    text = Possible(cache_writes=False, media=False)
    usage = Usage(input=250_000, output=1000)
    assert price_ceiling(250_000, 1000, price, possible=text) == price_usage(usage, price)

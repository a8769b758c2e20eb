"""A row of a price list as models.d says it."""

from typing import Any

import pytest

from engine.catalog.price_list import read_capabilities, read_limits, read_price, read_price_list
from engine.catalog.row_prices import read_image_prices


def row(mode: str = "chat", **facts: str) -> Any:
    pairs = ", ".join(f'"{name}": {value}' for name, value in {"mode": f'"{mode}"', **facts}.items())
    return read_price_list(f'{{"m": {{{pairs}}}}}'.encode())["m"]


@pytest.mark.parametrize(
    ("written", "price"),
    [("1.5e-07", "0.15"), ("3e-06", "3.00"), ("0.0000025", "2.50"), ("1.25e-7", "0.125"), ("1e-05", "10.00")],
)
def test_amounts_per_token_become_exact_text_per_million(written: str, price: str) -> None:
    assert read_price(row(input_cost_per_token=written)) == {"input": price}


def test_every_class_of_tokens_is_read() -> None:
    price = read_price(
        row(
            input_cost_per_token="3e-06",
            output_cost_per_token="1.5e-05",
            cache_read_input_token_cost="3e-07",
            cache_creation_input_token_cost="3.75e-06",
            cache_creation_input_token_cost_above_1hr="6e-06",
            output_cost_per_reasoning_token="2e-05",
            input_cost_per_audio_token="4e-05",
            output_cost_per_audio_token="8e-05",
        )
    )
    assert price == {
        "input": "3.00", "output": "15.00", "cached_input": "0.30", "cache_write": "3.75", "cache_write_1h": "6.00",
        "reasoning": "20.00", "audio_input": "40.00", "audio_output": "80.00",
    }  # fmt: skip


def test_a_class_that_costs_what_its_nearest_one_costs_is_left_out() -> None:
    price = read_price(
        row(input_cost_per_token="1e-06", output_cost_per_token="2e-06", output_cost_per_reasoning_token="2e-06",
            cache_creation_input_token_cost="1e-06", cache_creation_input_token_cost_above_1hr="1e-06")
    )  # fmt: skip
    assert price == {"input": "1.00", "output": "2.00"}


def test_a_zero_is_not_a_price() -> None:
    assert read_price(row(input_cost_per_token="0.0", output_cost_per_token="2e-06")) == {}


@pytest.mark.parametrize(
    ("mode", "facts", "price"),
    [
        ("image_generation", {"output_cost_per_image": "0.04"}, {"per_image": "0.04"}),
        ("image_generation", {"input_cost_per_image": "0.02"}, {"per_image": "0.02"}),
        ("audio_transcription", {"input_cost_per_second": "0.0001", "output_cost_per_second": "0.0001"},
         {"per_second": "0.0001"}),
        ("audio_speech", {"input_cost_per_character": "1.5e-05"}, {"per_character": "0.000015"}),
        ("rerank", {"input_cost_per_query": "0.002", "input_cost_per_token": "0.0"}, {"per_search": "0.002"}),
        ("chat", {"input_cost_per_token": "1e-06", "input_cost_per_image": "0.001"}, {"input": "1.00"}),
    ],
)  # fmt: skip
def test_what_is_not_metered_in_tokens_has_the_price_of_its_unit(
    mode: str, facts: dict[str, str], price: dict[str, str]
) -> None:
    assert read_price(row(mode, **facts)) == price


def test_one_answer_is_never_paid_in_tokens_and_in_units() -> None:
    image = row(
        "image_generation",
        input_cost_per_token="5e-06",
        output_cost_per_token="1e-05",
        output_cost_per_image_token="4e-05",
        output_cost_per_image="0.134",
    )
    assert read_price(image) == {"input": "5.00", "output": "10.00", "image_output": "40.00"}


def test_thresholds_of_the_prompt_become_tiers_that_say_what_differs() -> None:
    price = read_price(
        row(
            input_cost_per_token="1.25e-06",
            output_cost_per_token="1e-05",
            cache_read_input_token_cost="1.25e-07",
            input_cost_per_token_above_200k_tokens="2.5e-06",
            output_cost_per_token_above_200k_tokens="1e-05",
            cache_read_input_token_cost_above_200k_tokens="2.5e-07",
            input_cost_per_token_above_1000k_tokens="5e-06",
        )
    )
    assert price["tiers"] == [
        {"above": 200_000, "input": "2.50", "cached_input": "0.25"},
        {"above": 1_000_000, "input": "5.00"},
    ]


def test_services_have_rates_and_thresholds_of_their_own() -> None:
    price = read_price(
        row(
            input_cost_per_token="2e-06",
            output_cost_per_token="8e-06",
            input_cost_per_token_flex="1e-06",
            output_cost_per_token_flex="4e-06",
            input_cost_per_token_above_272k_tokens_flex="2e-06",
            input_cost_per_token_priority="4e-06",
            output_cost_per_token_priority="8e-06",
            input_cost_per_token_batches="2e-06",
        )
    )
    assert price["services"] == {
        "flex": {"input": "1.00", "output": "4.00", "tiers": [{"above": 272_000, "input": "2.00"}]},
        "priority": {"input": "4.00"},
    }


def test_a_list_of_ranges_becomes_a_price_and_its_tiers() -> None:
    price = read_price(
        row(
            tiered_pricing='[{"range": [0, 32000.0], "input_cost_per_token": 3e-07, "output_cost_per_token": 1.5e-06},'
            ' {"range": [32000.0, 128000.0], "input_cost_per_token": 5e-07, "output_cost_per_token": 2.5e-06}]'
        )
    )
    assert price == {
        "input": "0.30", "output": "1.50", "tiers": [{"above": 32_000, "input": "0.50", "output": "2.50"}]
    }  # fmt: skip


def test_a_search_costs_what_one_of_the_usual_size_costs() -> None:
    sizes = '{"search_context_size_low": 0.005, "search_context_size_medium": 0.01, "search_context_size_high": 0.02}'
    price = read_price(row(input_cost_per_token="1e-06", search_context_cost_per_query=sizes))
    assert price == {"input": "1.00", "per_search": "0.01"}


def test_images_have_prices_by_quality_and_size() -> None:
    rows = read_price_list(
        b'{"x/high/1024-x-1536/m": {"output_cost_per_image": 0.25}, "x/m": {"output_cost_per_image": 0.04},'
        b' "x/low/1024-x-1024/m": {"output_cost_per_image": 0.011}, "x/low/1024-x-1024/other": {}}'
    )
    assert read_image_prices(rows, "x/{model}", "m") == {"high/1024x1536": "0.25", "low/1024x1024": "0.011"}


def test_limits_are_of_what_is_written() -> None:
    assert read_limits(row(max_input_tokens="200000", max_output_tokens="64000")) == {
        "context": 200_000,
        "output": 64_000,
    }
    assert read_limits(row(max_input_tokens="8000", max_output_tokens="16000"))["context"] == 16_000
    assert read_limits(row("embedding", max_input_tokens="8191", max_output_tokens="8191")) == {
        "context": 8191
    }


def test_capabilities_begin_with_the_operation() -> None:
    facts = {"supports_vision": "true", "supports_function_calling": "true", "supports_reasoning": "false"}
    assert read_capabilities(row(**facts)) == ["chat", "tools", "vision"]
    assert read_capabilities(row(cache_read_input_token_cost="1e-7")) == ["chat", "caching"]
    assert read_capabilities(row("embedding", **facts)) == ["embeddings"]

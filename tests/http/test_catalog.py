"""A row of `GET /v1/models`."""

from dataclasses import replace
from decimal import Decimal

from engine.http.catalog import describe_model, describe_price
from tests.routing.things import make_model, make_price, make_target


def test_a_row_has_the_four_fields_of_the_dialect_and_ours() -> None:
    model = make_model("large", make_target("one"), make_target("two"), aliases=("team/large",))
    row = describe_model(replace(model, capabilities=frozenset({"vision", "chat"}), context=1000, output=500))
    assert (row["id"], row["object"], row["aliases"]) == ("large", "model", ["team/large"])
    assert (row["capabilities"], row["providers"]) == (["chat", "vision"], ["one", "two"])
    assert (row["context_length"], row["max_output_tokens"]) == (1000, 500)


def test_prices_are_text_per_token_and_rare_classes_are_shown_where_they_differ() -> None:
    assert describe_price(make_price("0.0000025", "0.00001", cached_input="0.00000125")) == {
        "prompt": "0.0000025",
        "completion": "0.00001",
        "input_cache_read": "0.00000125",
    }
    rich = make_price("1", "2", cache_write="3", reasoning="4", audio_input="5", request="6")
    shown = describe_price(rich)
    assert shown is not None
    assert {
        name: shown[name] for name in ("input_cache_write", "internal_reasoning", "audio", "request")
    } == {
        "input_cache_write": "3",
        "internal_reasoning": "4",
        "audio": "5",
        "request": "6",
    }


def test_a_price_per_unit_is_shown_under_its_unit() -> None:
    price = replace(make_price("0", "0"), units={"images": Decimal("0.04")})
    shown = describe_price(price)
    assert shown is not None and shown["image"] == "0.04"
    assert describe_price(None) is None

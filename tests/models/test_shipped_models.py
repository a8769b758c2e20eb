"""The shipped models: how many, served by whom, and that no price slipped by a unit."""

from collections.abc import Iterator
from decimal import Decimal

import pytest

from engine.config.endpoints import list_traits
from engine.config.schema import CAPABILITIES
from engine.config.snapshot import Model, Price, Snapshot, Target
from tests.config.conftest import Folder, folder, parsed

__all__ = ["folder", "parsed"]

MILLION = Decimal(1_000_000)
BOUNDS = {
    "input": ("0.005", "200"),
    "output": ("0.01", "800"),
    "cached_input": ("0.001", "200"),
    "cache_write": ("0.005", "200"),
    "cache_write_1h": ("0.005", "200"),
    "reasoning": ("0.01", "800"),
    "audio_input": ("0.005", "200"),
    "audio_output": ("0.01", "800"),
    "image_input": ("0.005", "200"),
    "image_output": ("0.01", "800"),
}
"""US dollars per 1M tokens: a price per token or per thousand in this place is far outside."""
UNIT_BOUNDS = {
    "images": ("0.0005", "2"),
    "pixels": ("0.000000001", "0.000001"),
    "seconds": ("0.000001", "0.02"),
    "characters": ("0.000001", "0.0005"),
    "searches": ("0.0001", "0.05"),
    "searched_calls": ("0.0001", "0.05"),
}
FREE = {"moderation"}
"""Capabilities whose models may cost nothing."""


@pytest.fixture
def shipped(folder: Folder) -> Snapshot:
    return folder.load({})


def list_targets(snapshot: Snapshot) -> Iterator[tuple[Model, Target, Price]]:
    for model in snapshot.models.values():
        for target in model.targets:
            assert target.price is not None, target.name
            yield model, target, target.price


def is_free(model: Model) -> bool:
    return bool(model.capabilities & FREE)


def test_there_are_many_models_and_most_have_several_providers(shipped: Snapshot) -> None:
    assert len(shipped.models) >= 150
    several = [
        model for model in shipped.models.values() if len({t.provider.name for t in model.targets}) > 1
    ]
    assert len(several) >= 100


def test_every_price_is_within_the_bounds_of_its_class(shipped: Snapshot) -> None:
    wrong = []
    for model, target, price in list_targets(shipped):
        metered = price.input > 0
        for name, (low, high) in BOUNDS.items() if metered else ():
            amount = getattr(price, name) * MILLION
            if name in ("output", "reasoning", "audio_output", "image_output") and not model.capabilities & {
                "chat",
                "completions",
            }:
                continue
            if not Decimal(low) <= amount <= Decimal(high):
                wrong.append((target.name, name, amount))
        for unit, amount in price.units.items():
            low, high = UNIT_BOUNDS[unit]
            if not Decimal(low) <= amount <= Decimal(high):
                wrong.append((target.name, unit, amount))
    assert wrong == []


def test_nothing_but_moderation_is_free(shipped: Snapshot) -> None:
    free = [
        target.name
        for model, target, price in list_targets(shipped)
        if not (price.input or price.request or any(price.units.values())) and not is_free(model)
    ]
    assert free == []


def test_classes_of_one_price_keep_their_proportions(shipped: Snapshot) -> None:
    wrong = []
    for _, target, price in list_targets(shipped):
        cheaper_when_cached = price.cached_input <= price.input
        dearer_when_written = price.input <= price.cache_write <= price.cache_write_1h <= 3 * price.input
        if not (
            cheaper_when_cached and dearer_when_written and price.output <= 30 * max(price.input, Decimal(1))
        ):
            wrong.append(target.name)
    assert wrong == []


def test_the_same_model_costs_nowhere_a_hundred_times_as_much(shipped: Snapshot) -> None:
    wrong = []
    for model in shipped.models.values():
        amounts = [target.price.input for target in model.targets if target.price and target.price.input]
        if amounts and max(amounts) > 30 * min(amounts):
            wrong.append(model.name)
    assert wrong == []


def test_every_capability_is_a_known_word_and_names_the_operation(shipped: Snapshot) -> None:
    operations = {
        "chat",
        "completions",
        "embeddings",
        "images",
        "rerank",
        "moderation",
        "transcription",
        "speech",
    }
    for model in shipped.models.values():
        assert model.capabilities <= set(CAPABILITIES), model.name
        assert len(model.capabilities & operations) == 1, model.name


def test_models_that_reason_have_time_to_think(shipped: Snapshot) -> None:
    for model in shipped.models.values():
        expected = 120 if "reasoning" in model.capabilities else 30
        assert model.timeouts.first_token_s == expected, model.name


def test_an_answer_fits_into_its_context(shipped: Snapshot) -> None:
    for model, target, _ in list_targets(shipped):
        assert not (target.context and target.output) or target.output <= target.context, (
            model.name,
            target.name,
        )


def test_every_maker_has_models(shipped: Snapshot) -> None:
    makers = {model.owned_by for model in shipped.models.values()}
    assert {
        "openai",
        "anthropic",
        "google",
        "meta",
        "mistral",
        "deepseek",
        "qwen",
        "xai",
        "zai",
        "moonshot",
    } <= makers


def test_every_trait_is_one_of_its_wire(shipped: Snapshot) -> None:
    wrong = []
    for model, target, _ in list_targets(shipped):
        known = list_traits(target.provider.all_endpoints)
        wrong += [(model.name, target.name, trait) for trait in target.traits if trait not in known]
    assert wrong == []

"""Selection and price list -> the text of models.d. Pure: the same input gives the same bytes."""

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from engine.catalog.price_list import read_capabilities, read_limits, read_price
from engine.catalog.row_prices import Row, read_image_prices, write_amount
from engine.catalog.selection import ChosenFile, ChosenModel, ChosenTarget, PricedProviders
from engine.config.build import REASONING_FIRST_TOKEN_S
from engine.config.schema_price import PriceEntry

HEAD = """\
# yaml-language-server: $schema=../docs/schema/model.json
# Written by `gatewayz models import` from catalog/{name}.yaml and a price list; US dollars per 1M tokens.
models:
"""


@dataclass(slots=True)
class ModelWriter:
    """Writes one file of the selection after another; `problems` is empty, or what was written is not whole."""

    rows: Mapping[str, Row]
    providers: PricedProviders
    known: Collection[str]
    """Providers that have a file: a target at another one is left out."""
    problems: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    written: int = 0

    def write_file(self, name: str, chosen: ChosenFile) -> str:
        """The text of models.d/NAME.yaml; without any model: nothing."""
        models = [self._write_model(model, spec, chosen) for model, spec in chosen.models.items()]
        text = "".join(filter(None, models))
        return HEAD.format(name=name) + text if text else ""

    def _write_model(self, name: str, spec: ChosenModel, chosen: ChosenFile) -> str:
        prices = {
            provider: _pay_searches(spec, self._find_price(name, provider, target))
            for provider, target in spec.targets.items()
        }
        price = {"input": "0"} if spec.free else next(filter(None, prices.values()), None)
        row = self._describe(name, spec)
        if row is None or price is None:
            self.problems.append(f"{name}: no row of the price list has a price for it")
            return ""
        targets = [
            self._write_target(provider, target, prices[provider] or price, price, row)
            for provider, target in spec.targets.items()
            if self._is_known(name, provider, target)
        ]
        if not targets:
            return ""
        self.written += 1
        facts = self._list_facts(spec, row, price, chosen)
        lines = [f"  {name}:", *(f"    {key}: {_write(value)}" for key, value in facts.items() if value)]
        return "\n".join([*lines, "    targets:", *(f"      - {target}" for target in targets)]) + "\n"

    def _list_facts(
        self, spec: ChosenModel, row: Row, price: dict[str, Any], chosen: ChosenFile
    ) -> dict[str, Any]:
        capabilities = [word for word in read_capabilities(row) if word not in spec.cannot]
        capabilities += [word for word in spec.can if word not in capabilities]
        prefill = row.get("supports_assistant_prefill") is True if spec.prefill is None else spec.prefill
        return {
            "aliases": list(spec.aliases),
            "capabilities": capabilities,
            "limits": _limit(spec, read_limits(row)),
            "price": price,
            "strategy": spec.strategy,
            "timeouts": {"first_token_s": int(REASONING_FIRST_TOKEN_S)}
            if "reasoning" in capabilities
            else None,
            "prefill": prefill,
            "traits": spec.traits,
            "owned_by": chosen.owned_by,
        }

    def _write_target(
        self, provider: str, target: ChosenTarget, price: dict[str, Any], usual: dict[str, Any], row: Row
    ) -> str:
        facts: dict[str, Any] = {"provider": provider, "model": target.model}
        own = self._find_row(provider, target)
        if own is not None and (limits := _smaller(read_limits(own), read_limits(row))):
            facts["limits"] = limits
        if price != usual:
            facts["price"] = price
        if target.traits:
            facts["traits"] = target.traits
        return _write(facts)

    def _is_known(self, name: str, provider: str, target: ChosenTarget) -> bool:
        if provider in self.known:
            return True
        self.left_out.append(f"{name}: {provider} has no file")
        return False

    def _find_price(self, name: str, provider: str, target: ChosenTarget) -> dict[str, Any] | None:
        """The target's own price; None when it sells at the model's."""
        if target.price is not None:
            return _spell_price(target.price)
        if target.as_model:
            return None
        row = self._find_row(provider, target)
        if row is not None and (price := read_price(row)):
            return self._add_image_prices(price, provider, target)
        if target.listed or self.providers.providers.get(provider, ("",)):
            self.problems.append(f"{name}: no price for {provider}/{target.model}")
        return None

    def _add_image_prices(self, price: dict[str, Any], provider: str, target: ChosenTarget) -> dict[str, Any]:
        if "per_image" not in price:
            return price
        for pattern in self.providers.providers.get(provider, ()):
            if variants := read_image_prices(self.rows, pattern, target.model):
                return {**price, "per_image_of": variants}
        return price

    def _find_row(self, provider: str, target: ChosenTarget) -> Row | None:
        patterns = (target.listed,) if target.listed else self.providers.providers.get(provider, ())
        keys = (pattern.replace("{model}", target.model) for pattern in patterns)
        return next((self.rows[key] for key in keys if key in self.rows), None)

    def _describe(self, name: str, spec: ChosenModel) -> Row | None:
        if spec.listed is not None:
            return self.rows.get(spec.listed)
        found = (self._find_row(provider, target) for provider, target in spec.targets.items())
        return next((row for row in found if row is not None), None)


def _pay_searches(spec: ChosenModel, price: dict[str, Any] | None) -> dict[str, Any] | None:
    """The list has one amount for searches, and does not say what it is of."""
    if price is None or not spec.searches_by_call:
        return price
    return {"per_searched_call" if name == "per_search" else name: rate for name, rate in price.items()}


def _limit(spec: ChosenModel, limits: dict[str, int]) -> dict[str, int]:
    own = {"context": spec.context, "output": spec.output}
    merged = limits | {name: count for name, count in own.items() if count is not None}
    if "context" in merged and merged.get("output", 0) > merged["context"]:
        merged["output"] = merged["context"]
    return merged


def _smaller(own: dict[str, int], usual: dict[str, int]) -> dict[str, int]:
    """Limits of a target that differ from the model's."""
    context, output = own.get("context", 0), own.get("output", usual.get("output", 0))
    if not context or (own.get("output") == usual.get("output") and context == usual.get("context")):
        return {}
    return {"context": context, "output": min(output, context)} if output else {"context": context}


def _spell_price(price: PriceEntry) -> dict[str, Any]:
    said = price.model_dump(exclude_unset=True)
    plain = {name: value for name in said if isinstance(value := getattr(price, name), Decimal)}
    return {**said, **{name: write_amount(amount) for name, amount in plain.items()}}


def _write(value: Any) -> str:
    """Flow YAML; text is quoted where YAML could read something else into it."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_write(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_write, value)) + "]"
    if isinstance(value, str) and _is_plain(value):
        return value
    return json.dumps(value)


def _is_plain(text: str) -> bool:
    """Whether the text is itself in flow YAML: begins with a letter and has nothing that YAML means."""
    return (
        text[:1].isalpha()
        and text == text.strip()
        and not any(mark in text for mark in (": ", " #", ",", "[", "]", "{", "}", '"'))
        and not text.endswith(":")
        and text.lower() not in ("null", "true", "false", "yes", "no", "on", "off")
    )

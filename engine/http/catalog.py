"""`GET /v1/models` and `/v1/models/{id}`: what a key may ask for, in OpenAI's list shape with the facts we have."""

from collections.abc import Callable
from typing import Any

from engine.config.snapshot import Model, Price, Snapshot
from engine.gateway import Rooms
from engine.http.respond import Send, respond_json
from engine.routing.resolve import is_allowed, list_visible, name_unknown_model
from engine.wire.usage import UNITS

UNIT_NAMES = {name: key.removeprefix("per_") for name, key in UNITS.items()}


class ModelCatalog:
    def __init__(self, rooms: Rooms, read_snapshot: Callable[[], Snapshot]) -> None:
        self._rooms, self._read_snapshot = rooms, read_snapshot

    async def list_models(self, scope: Any, receive: Any, send: Send) -> None:
        caller = await self._rooms.identity.identify(scope["headers"])
        models = list_visible(self._read_snapshot(), caller)
        await respond_json(send, 200, {"object": "list", "data": [describe_model(model) for model in models]})

    async def show_model(self, scope: Any, receive: Any, send: Send, name: str) -> None:
        caller = await self._rooms.identity.identify(scope["headers"])
        snapshot = self._read_snapshot()
        model = snapshot.names.get(name)
        if model is None or (caller.models is not None and not is_allowed(caller.models, model, name)):
            raise name_unknown_model(snapshot, caller, name)
        await respond_json(send, 200, describe_model(model))


def describe_model(model: Model) -> dict[str, Any]:
    """One row of the list: OpenAI's four fields, then ours."""
    return {
        "id": model.name,
        "object": "model",
        "created": model.created,
        "owned_by": model.owned_by,
        "aliases": list(model.aliases),
        "capabilities": sorted(model.capabilities),
        "context_length": model.context,
        "max_output_tokens": model.output,
        "pricing": describe_price(model.price),
        "providers": [target.provider.name for target in model.targets],
    }


def describe_price(price: Price | None) -> dict[str, str] | None:
    """US dollars per token or unit as decimal text, the way the field lists prices; of the rarer classes those
    that cost something else.
    """
    if price is None:
        return None
    always = {"prompt": price.input, "completion": price.output, "input_cache_read": price.cached_input}
    others = {
        "input_cache_write": price.cache_write if price.cache_write != price.input else None,
        "internal_reasoning": price.reasoning if price.reasoning != price.output else None,
        "audio": price.audio_input if price.audio_input != price.input else None,
        "request": price.request or None,
        **{UNIT_NAMES[unit]: amount for unit, amount in price.units.items()},
    }
    names = always | {name: amount for name, amount in others.items() if amount is not None}
    return {name: format(amount.normalize(), "f") for name, amount in names.items()}

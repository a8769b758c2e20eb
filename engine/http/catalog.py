"""`GET /v1/models` and `/v1/models/{id}`: what a key may ask for, with all the facts we have about it.

Where a format has a `catalog`, its clients get the list at its path (or with its header) in their own shape.
"""

from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from typing import Any

from engine.call import Caller
from engine.config.snapshot import Model, Price, Snapshot
from engine.errors import GatewayError
from engine.gateway import Rooms
from engine.http.identifiers import make_request_id
from engine.http.inference import add_query_key
from engine.http.respond import Endpoint, Send, respond_error, respond_json
from engine.policies.access import FOR_CATALOG
from engine.routing.resolve import list_visible, may_use, name_unknown_model
from engine.wire.formats import Format
from engine.wire.usage import UNITS

UNIT_NAMES = {name: key.removeprefix("per_") for name, key in UNITS.items()}


class ModelCatalog:
    def __init__(self, rooms: Rooms, read_snapshot: Callable[[], Snapshot]) -> None:
        self._rooms, self._read_snapshot = rooms, read_snapshot

    def find(self, scope: Any) -> Endpoint | None:
        """The endpoint of a dialect's own list, when the path and the headers are of its clients."""
        path: str = scope["path"]
        names = None
        for format in self._read_snapshot().formats.values():
            for at, header in format.client.catalogs:
                if not path.startswith(at) or path[len(at) : len(at) + 1] not in ("", "/"):
                    continue
                names = names or {name for name, _ in scope["headers"]}
                if not header or header in names:
                    return partial(self._show, format, path[len(at) + 1 :])
        return None

    async def _show(self, format: Format, name: str, scope: Any, receive: Any, send: Send) -> None:
        try:
            headers = add_query_key(scope["headers"], format.client.key_parameter, scope)
            caller = await self._rooms.identity.admit({**scope, "headers": headers}, FOR_CATALOG)
            if name:
                body = format.write_model(describe_to_templates(self._find(caller, name)))
            else:
                models = list_visible(self._read_snapshot(), caller)
                body = format.write_models([describe_to_templates(model) for model in models])
        except GatewayError as error:
            await respond_error(send, format, error, make_request_id())
            return
        await respond_json(send, 200, body)

    def _find(self, caller: Caller, name: str) -> Model:
        snapshot = self._read_snapshot()
        model = snapshot.names.get(name)
        if model is None or not may_use(caller, model, name):
            raise name_unknown_model(snapshot, caller, name)
        return model

    async def list_models(self, scope: Any, receive: Any, send: Send) -> None:
        caller = await self._rooms.identity.admit(scope, FOR_CATALOG)
        models = list_visible(self._read_snapshot(), caller)
        await respond_json(send, 200, {"object": "list", "data": [describe_model(model) for model in models]})

    async def show_model(self, scope: Any, receive: Any, send: Send, name: str) -> None:
        caller = await self._rooms.identity.admit(scope, FOR_CATALOG)
        await respond_json(send, 200, describe_model(self._find(caller, name)))


def describe_to_templates(model: Model) -> dict[str, Any]:
    """A model as templates of lists see it: a row of ours, and its day as text."""
    created = datetime.fromtimestamp(model.created, UTC)
    return {**describe_model(model), "created_at": created.strftime("%Y-%m-%dT%H:%M:%SZ")}


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

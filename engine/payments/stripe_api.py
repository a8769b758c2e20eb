"""Stripe's own library behind our road to the network: same TLS, proxies, clocks and guard as for everything else.

This module costs half a second and 30 MiB to import; `app.py` imports it when a key is configured.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Mapping
from typing import Any

import httpx
import orjson
import stripe

from engine.config.schema_payments import StripeEntry
from engine.errors import DependencyAway, InvalidRequest, NotFound
from engine.payments.interfaces import Object, PaymentRefused
from engine.secret import Secret
from engine.telemetry.redaction import mask_text
from engine.upstream.pools import Upstreams, control_client

API_VERSION = "2026-10-28.endive"
"""What the shapes that we read and write were checked with; it does not move with the library."""
MOST_RETRIES = 1
_PLACES = {
    "customers": "customers",
    "checkout sessions": "checkout.sessions",
    "payment intents": "payment_intents",
    "payment methods": "payment_methods",
    "charges": "charges",
    "refunds": "refunds",
    "subscriptions": "subscriptions",
    "subscription schedules": "subscription_schedules",
    "portal sessions": "billing_portal.sessions",
    "invoice payments": "invoice_payments",
    "events": "events",
}


class OurRoad(stripe.HTTPClient):
    """Requests of the library over the gateway's own client."""

    name = "gatewayz"

    def __init__(self, client: httpx.AsyncClient) -> None:  # noqa: TID251 - the type, not a client of its own
        super().__init__()
        self._client = client

    async def request_async(
        self, method: str, url: str, headers: Mapping[str, str], post_data: Any = None
    ) -> tuple[bytes, int, Mapping[str, str]]:
        content = post_data.encode() if isinstance(post_data, str) else post_data
        try:
            answer = await self._client.request(method, url, headers=dict(headers), content=content)
        except httpx.HTTPError as error:
            failed = stripe.APIConnectionError(f"{type(error).__name__}: {error}", should_retry=True)  # type: ignore[no-untyped-call] # theirs
            raise failed from error
        return answer.content, answer.status_code, answer.headers

    def sleep_async(self, secs: float) -> Awaitable[None]:
        return asyncio.sleep(secs)

    async def close_async(self) -> None:
        await self._client.aclose()


class StripeApi:
    def __init__(self, entry: StripeEntry, upstreams: Upstreams) -> None:
        assert isinstance(entry.secret_key, Secret) and isinstance(entry.webhook_secret, Secret)
        self._webhook_secret, self._tolerance_s = entry.webhook_secret, int(entry.signature_tolerance_s)
        own_base = entry.api_base.rstrip("/")
        road = OurRoad(control_client(upstreams, allow_private=bool(own_base), timeout_s=entry.timeout_s))
        self._client = stripe.StripeClient(
            entry.secret_key.reveal(),
            stripe_version=API_VERSION,
            base_addresses={"api": own_base} if own_base else None,
            max_network_retries=MOST_RETRIES,
            http_client=road,
        )
        self._road = road

    async def create(self, what: str, params: Mapping[str, Any], key: str) -> Object:
        return await _ask(
            self._find(what).create_async(params=dict(params), options={"idempotency_key": key})
        )

    async def update(self, what: str, name: str, params: Mapping[str, Any], key: str) -> Object:
        options = {"idempotency_key": key}
        return await _ask(self._find(what).update_async(name, params=dict(params), options=options))

    async def fetch(self, what: str, name: str, params: Mapping[str, Any] | None = None) -> Object:
        return await _ask(self._find(what).retrieve_async(name, params=dict(params or {})))

    async def act(self, what: str, name: str, action: str, params: Mapping[str, Any], key: str) -> Object:
        method = getattr(self._find(what), f"{action}_async")
        return await _ask(method(name, params=dict(params), options={"idempotency_key": key}))

    async def walk(self, what: str, params: Mapping[str, Any]) -> AsyncIterator[Object]:
        after: dict[str, Any] = {}
        while True:
            page = await _ask(self._find(what).list_async(params={"limit": 100, **params, **after}))
            for each in page["data"]:
                yield each
            if not page.get("has_more") or not page["data"]:
                return
            after = {"starting_after": page["data"][-1]["id"]}

    def check_signature(self, raw: bytes, header: str) -> Object:
        try:
            text = raw.decode()
            stripe.WebhookSignature.verify_header(
                text, header, self._webhook_secret.reveal(), self._tolerance_s
            )
            event = orjson.loads(text)
        except (UnicodeDecodeError, orjson.JSONDecodeError):
            raise InvalidRequest("this is no event: no UTF-8 JSON", code="invalid_signature") from None
        except stripe.SignatureVerificationError:
            raise InvalidRequest(
                "the signature does not fit, or is too old", code="invalid_signature"
            ) from None
        if not isinstance(event, dict) or event.get("object") != "event":
            raise InvalidRequest("this is no event of Stripe", code="invalid_signature")
        return event

    async def close(self) -> None:
        await self._road.close_async()

    def _find(self, what: str) -> Any:
        found: Any = self._client.v1
        for name in _PLACES[what].split("."):
            found = getattr(found, name)
        return found


async def _ask(asking: Awaitable[Any]) -> Object:
    """The one border where the library's exceptions become ours; what Stripe says may go to the caller."""
    try:
        answer: Object = (await asking).to_dict()
    except stripe.CardError as error:
        raise PaymentRefused(_word(error), code=error.code or "payment_refused") from error
    except (stripe.AuthenticationError, stripe.PermissionError) as error:
        raise DependencyAway("Stripe refuses our key", code="payments_unavailable") from error
    except stripe.IdempotencyError as error:
        raise InvalidRequest(_word(error), code="payment_changed") from error
    except stripe.InvalidRequestError as error:
        if error.code == "resource_missing":
            raise NotFound(_word(error), code="not_at_stripe", param=error.param or None) from error
        raise InvalidRequest(_word(error), code="refused_by_stripe", param=error.param or None) from error
    except stripe.StripeError as error:
        raise DependencyAway(
            "Stripe cannot be reached", code="payments_unavailable", retry_after_s=5
        ) from error
    return answer


def _word(error: stripe.StripeError) -> str:
    """What Stripe says; were it to quote our key, nobody would see it."""
    return mask_text(error.user_message or "Stripe refused this")

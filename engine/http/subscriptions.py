"""`/api/stripe/subscription...`: taking a plan, changing it, ending it, and Stripe's own page for all of that."""

from collections.abc import Sequence

from engine.http.endpoints import Answer, Ask, Route
from engine.http.payment_bodies import CancelBody, ChangePlanBody, PortalBody, SubscriptionCheckoutBody
from engine.http.payments import CHANGE, LOOK, PREFIX
from engine.payments.subscription_desk import SubscriptionDesk


class SubscriptionRoutes:
    """Declared in any case, as the routes of payments are."""

    _desk: SubscriptionDesk

    def __init__(self, desk: SubscriptionDesk | None) -> None:
        if desk is not None:
            self._desk = desk

    def list(self) -> Sequence[Route]:
        one = f"{PREFIX}/subscription"
        return (
            Route("POST", f"{PREFIX}/subscription-checkout", self.begin, "Take a plan, on a page of Stripe.",
                  body=SubscriptionCheckoutBody, need=CHANGE),
            Route("GET", one, self.show, "Your subscription.", need=LOOK),
            Route("POST", f"{one}/upgrade", self.upgrade, "Take a better plan now.", body=ChangePlanBody, need=CHANGE),
            Route("POST", f"{one}/downgrade", self.downgrade, "Take a smaller plan when the paid period ends.",
                  body=ChangePlanBody, need=CHANGE),
            Route("POST", f"{one}/cancel", self.cancel, "End your subscription.", body=CancelBody, need=CHANGE),
            Route("POST", f"{PREFIX}/portal", self.open_portal, "A link to Stripe's page for your cards and invoices.",
                  body=PortalBody, need=CHANGE),
        )  # fmt: skip

    async def begin(self, ask: Ask) -> Answer:
        body = ask.body
        urls = (body.success_url, body.cancel_url)
        wish = {"email": body.customer_email, "metadata": dict(body.metadata)}
        return Answer(await self._desk.begin(ask.caller, body.price_id, body.product_id, urls, **wish))

    async def show(self, ask: Ask) -> Answer:
        return Answer(await self._desk.show(ask.caller))

    async def upgrade(self, ask: Ask) -> Answer:
        body = ask.body
        return Answer(
            await self._desk.upgrade(
                ask.caller, body.new_price_id, body.new_product_id, body.proration_behavior, ask.by
            )
        )

    async def downgrade(self, ask: Ask) -> Answer:
        body = ask.body
        return Answer(await self._desk.downgrade(ask.caller, body.new_price_id, body.new_product_id, ask.by))

    async def cancel(self, ask: Ask) -> Answer:
        body = ask.body
        return Answer(await self._desk.cancel(ask.caller, body.cancel_at_period_end, body.reason, ask.by))

    async def open_portal(self, ask: Ask) -> Answer:
        return Answer(await self._desk.open_portal(ask.caller, ask.body.return_url))

"""Stripe, as far as the gateway asks it: its published shapes, idempotency keys, and events of what happens.

`answer` takes a request and gives status and document; `transport` puts it behind respx, `asgi` behind a server.
"""

import itertools
import json
import re
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import httpx
import respx
import stripe

Object = dict[str, Any]
SECRET_KEY, WEBHOOK_SECRET = "sk_test_4eC39HqLyjWDarjtT1zdp7dc", "whsec_0123456789abcdef0123456789abcdef"
BASE = "https://stripe.test"
MONTH_S = 30 * 86400


def read_form(text: str) -> Object:
    """`a[b][0][c]=d` as a tree."""
    tree: Object = {}
    for key, value in parse_qsl(text, keep_blank_values=True):
        names = [key.partition("[")[0], *re.findall(r"\[([^\]]*)\]", key)]
        place = tree
        for name in names[:-1]:
            place = place.setdefault(name, {})
        place[names[-1]] = value
    return tree


def sign(event: Object, secret: str = WEBHOOK_SECRET, timestamp: int | None = None) -> tuple[bytes, str]:
    """A body and its header, by the library's own generator."""
    text = json.dumps(event)
    header: str = stripe.WebhookSignature.generate_signature_header(text, secret, timestamp)
    return text.encode(), header


class Refused(Exception):
    def __init__(self, status: int, **error: Any) -> None:
        super().__init__(str(error))
        self.status, self.error = status, error


class StripeStandIn:
    def __init__(self) -> None:
        self.now = 1_795_000_000
        self.objects: dict[str, Object] = {}
        self.events: list[Object] = []
        self.asked: list[tuple[str, str, Object]] = []
        self.keys: dict[str, tuple[Object, int, Object]] = {}
        self.key_list: list[str] = []
        self.fail: Callable[[str, str], Exception | None] = lambda method, path: None
        """Called before a request is done; what it returns is raised or answered."""
        self.fail_after: Callable[[str, str], Exception | None] = lambda method, path: None
        """The same after it: Stripe has done it and the line is cut."""
        self.prices: dict[str, Object] = {}
        self.declines = ""
        self.secret_key = SECRET_KEY
        self._numbers = itertools.count(1)

    # --- the wire

    def answer(self, method: str, url: str, headers: Mapping[str, str], body: str) -> tuple[int, Object]:
        parts = urlsplit(url)
        params = read_form(body) if method == "POST" else read_form(parts.query)
        self.asked.append((method, parts.path, params))
        assert headers["authorization"] == f"Bearer {self.secret_key}"
        assert headers["stripe-version"] == "2026-10-28.endive"
        key = headers.get("idempotency-key", "")
        if method == "POST":
            assert key, "every request that makes something has a key"
            self.key_list.append(key)
        if key in self.keys:
            asked, status, document = self.keys[key]
            if asked != params:
                return 400, {"error": {"type": "idempotency_error", "message": "other parameters"}}
            if (problem := self.fail_after(method, parts.path)) is not None:
                raise problem
            return status, document
        problem = self.fail(method, parts.path)
        if problem is not None and not isinstance(problem, Refused):
            raise problem
        try:
            if problem is not None:
                raise problem
            status, document = 200, self._do(method, parts.path.removeprefix("/v1/"), params)
        except Refused as refused:
            status, document = refused.status, {"error": refused.error}
        if key and status < 500:
            self.keys[key] = (params, status, json.loads(json.dumps(document)))
        if (problem := self.fail_after(method, parts.path)) is not None:
            raise problem
        return status, document

    def transport(self) -> httpx.AsyncBaseTransport:
        router = respx.MockRouter(assert_all_called=False)
        router.route(host="stripe.test").mock(side_effect=self._reply)
        return httpx.MockTransport(router.async_handler)

    def _reply(self, request: httpx.Request) -> httpx.Response:
        headers = {name.lower(): value for name, value in request.headers.items()}
        status, document = self.answer(request.method, str(request.url), headers, request.content.decode())
        return httpx.Response(status, json=document)

    async def asgi(self, scope: Any, receive: Any, send: Any) -> None:
        assert scope["type"] == "http"
        body, more = b"", True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        url = f"{scope['path']}?{scope['query_string'].decode()}"
        status, document = self.answer(scope["method"], url, headers, body.decode())
        content = json.dumps(document).encode()
        head = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(content))]
        await send({"type": "http.response.start", "status": status, "headers": head})
        await send({"type": "http.response.body", "body": content})

    # --- the API

    def _do(self, method: str, path: str, params: Object) -> Object:
        steps = path.split("/")
        if steps[:2] == ["checkout", "sessions"]:
            return self._one_or_new(method, steps[2:], params, self._make_session)
        if steps[:2] == ["billing_portal", "sessions"]:
            return self._keep("bps", "billing_portal.session", url="https://billing.stripe.test/p", **params)
        makers = {
            "customers": lambda asked: self._keep("cus", "customer", invoice_settings={}, **asked),
            "payment_intents": self._make_intent,
            "refunds": self._make_refund,
            "subscription_schedules": self._make_schedule,
        }
        kind, rest = steps[0], steps[1:]
        if not rest and method == "GET":
            return self._list(kind, params)
        if kind == "subscriptions":
            return self._change_subscription(method, rest, params)
        if kind == "subscription_schedules" and rest and method == "POST":
            return self._change_schedule(rest, params)
        return self._one_or_new(method, rest, params, makers.get(kind))

    def _one_or_new(self, method: str, rest: list[str], params: Object, make: Any) -> Object:
        if method == "GET":
            return self._get(rest[0])
        if not rest:
            made: Object = make(params)
            return made
        raise AssertionError(f"nobody asks for {method} {rest}")

    def _get(self, name: str) -> Object:
        if name not in self.objects:
            raise Refused(
                404, type="invalid_request_error", code="resource_missing", message=f"No such object: {name}"
            )
        return self.objects[name]

    def _list(self, kind: str, params: Object) -> Object:
        if kind == "events":
            found = list(reversed(self.events))
        else:
            word: str = {"payment_intents": "payment_intent", "charges": "charge", "payment_methods": "payment_method",
                    "subscriptions": "subscription", "invoice_payments": "invoice_payment"}[kind]  # fmt: skip
            found = [each for each in reversed(self.objects.values()) if each["object"] == word]
        for name in ("customer",):
            if name in params:
                found = [each for each in found if each.get(name) == params[name]]
        if asked := params.get("payment"):
            found = [each for each in found if each["payment"] == asked]
        since = int((params.get("created") or {}).get("gte", 0))
        until = int((params.get("created") or {}).get("lt", 2**40))
        found = [each for each in found if since <= each["created"] < until]
        if types := params.get("types"):
            found = [each for each in found if each["type"] in types.values()]
        if after := params.get("starting_after"):
            found = found[[each["id"] for each in found].index(after) + 1 :]
        limit = int(params.get("limit", 10))
        return {"object": "list", "data": found[:limit], "has_more": len(found) > limit, "url": f"/v1/{kind}"}

    def _keep(self, prefix: str, kind: str, **facts: Any) -> Object:
        made: Object = {
            "id": f"{prefix}_{next(self._numbers):06d}",
            "object": kind,
            "created": self.now,
            "livemode": False,
        }
        self.objects[made["id"]] = made | {"metadata": {}} | facts
        return self.objects[made["id"]]

    def _make_session(self, params: Object) -> Object:
        assert params["mode"] != "payment" or params["payment_intent_data"]["metadata"]["payment_id"]
        self._get(params["customer"])
        line: Object = params["line_items"]["0"]
        price = line.get("price_data")
        session = self._keep(
            "cs_test",
            "checkout.session",
            mode=params["mode"],
            status="open",
            payment_status="unpaid",
            amount_total=int(price["unit_amount"]) if price else self.prices[line["price"]]["unit_amount"],
            currency=price["currency"] if price else "usd",
            customer=params["customer"],
            metadata=params["metadata"],
            payment_intent=None,
            subscription=None,
            expires_at=self.now + 86400,
            url=f"https://checkout.stripe.test/{params['client_reference_id']}",
            success_url=params["success_url"],
            cancel_url=params["cancel_url"],
        )
        session["_asked"] = params
        return session

    def _make_intent(self, params: Object) -> Object:
        intent = self._keep(
            "pi",
            "payment_intent",
            amount=int(params["amount"]),
            amount_received=0,
            currency=params["currency"],
            customer=params["customer"],
            status="requires_payment_method",
            metadata=params["metadata"],
            next_action=None,
            latest_charge=None,
            last_payment_error=None,
        )
        intent["client_secret"] = f"{intent['id']}_secret_x"
        if params.get("confirm") == "true":
            if self.declines:
                self.decline_intent(intent["id"], self.declines)
                raise Refused(402, type="card_error", code="card_declined", decline_code=self.declines,
                              message="Your card was declined.", payment_intent=intent)  # fmt: skip
            self.pay_intent(intent["id"])
        return intent

    def _make_refund(self, params: Object) -> Object:
        intent = self._get(params["payment_intent"])
        charge = self._get(intent["latest_charge"])
        left = charge["amount"] - charge["amount_refunded"]
        amount = int(params.get("amount", left))
        if not left or amount > left:
            raise Refused(
                400, type="invalid_request_error", code="charge_already_refunded", message="too much"
            )
        charge["amount_refunded"] += amount
        charge["refunded"] = charge["amount_refunded"] == charge["amount"]
        refund = self._keep(
            "re", "refund", amount=amount, currency=charge["currency"], status="succeeded", charge=charge["id"],
            payment_intent=intent["id"], metadata=params.get("metadata", {}),
        )  # fmt: skip
        self.tell("charge.refunded", charge)
        return refund | ({"charge": charge} if "expand" in params else {})

    # --- what people do at Stripe

    def tell(self, kind: str, about: Object) -> Object:
        """An event with a snapshot of the thing as it is now."""
        snapshot = json.loads(json.dumps({name: v for name, v in about.items() if not name.startswith("_")}))
        event = {
            "id": f"evt_{next(self._numbers):06d}",
            "object": "event",
            "type": kind,
            "created": self.now,
            "livemode": False,
            "api_version": "2026-10-28.endive",
            "pending_webhooks": 1,
            "data": {"object": snapshot},
        }
        self.events.append(event)
        return event

    def pay_intent(self, intent_id: str) -> Object:
        intent = self.objects[intent_id]
        charge = self._keep(
            "ch", "charge", amount=intent["amount"], amount_refunded=0, refunded=False, paid=True,
            currency=intent["currency"], payment_intent=intent_id, metadata=dict(intent["metadata"]),
            customer=intent["customer"],
        )  # fmt: skip
        intent |= {
            "status": "succeeded", "amount_received": intent["amount"], "latest_charge": charge["id"]
        }  # fmt: skip
        self.tell("charge.succeeded", charge)
        self.tell("payment_intent.succeeded", intent)
        return intent

    def decline_intent(self, intent_id: str, why: str = "insufficient_funds") -> Object:
        intent = self.objects[intent_id]
        intent["last_payment_error"] = {"type": "card_error", "code": "card_declined", "decline_code": why}
        self.tell("payment_intent.payment_failed", intent)
        return intent

    def pay_session(self, session_id: str, cents: int | None = None) -> Object:
        """Somebody pays on the page."""
        session = self.objects[session_id]
        data = session["_asked"]["payment_intent_data"]
        intent = self._keep(
            "pi", "payment_intent", amount=cents or session["amount_total"], amount_received=0,
            currency=session["currency"], customer=session["customer"], status="processing",
            metadata=data["metadata"], next_action=None, latest_charge=None, last_payment_error=None,
        )  # fmt: skip
        session |= {"payment_intent": intent["id"], "amount_total": intent["amount"]}
        session |= {"status": "complete", "payment_status": "paid"}
        self.pay_intent(intent["id"])
        self.tell("checkout.session.completed", session)
        return session

    def expire_session(self, session_id: str) -> None:
        session = self.objects[session_id]
        session["status"] = "expired"
        self.tell("checkout.session.expired", session)

    def cancel_intent(self, intent_id: str) -> None:
        intent = self.objects[intent_id]
        intent |= {"status": "canceled", "cancellation_reason": "abandoned"}
        self.tell("payment_intent.canceled", intent)

    def refund(self, intent_id: str, cents: int) -> None:
        """As from the dashboard: the gateway learns of it by the event alone."""
        charge = self.objects[self.objects[intent_id]["latest_charge"]]
        charge["amount_refunded"] += cents
        charge["refunded"] = charge["amount_refunded"] == charge["amount"]
        self.tell("charge.refunded", charge)

    def dispute(self, intent_id: str, cents: int, end: str | None = None) -> Object:
        charge_id = self.objects[intent_id]["latest_charge"]
        dispute = self._keep(
            "dp", "dispute", amount=cents, charge=charge_id, payment_intent=intent_id, status="needs_response",
            currency="usd", reason="fraudulent",
        )  # fmt: skip
        self.tell("charge.dispute.created", dispute)
        self.tell("charge.dispute.funds_withdrawn", dispute)
        if end is not None:
            self.now += 60
            dispute["status"] = "under_review"
            self.tell("charge.dispute.updated", dispute)
            dispute["status"] = end
            self.tell("charge.dispute.closed", dispute)
            if end == "won":
                self.tell("charge.dispute.funds_reinstated", dispute)
        return dispute

    # --- subscriptions

    def add_price(self, price: str, product: str, cents: int, seconds: int = MONTH_S) -> None:
        self.prices[price] = {"id": price, "product": product, "unit_amount": cents, "seconds": seconds}

    def subscribe(self, customer: str, price: str, metadata: Object | None = None) -> Object:
        """A subscription as a paid checkout makes one."""
        subscription = self._keep(
            "sub", "subscription", customer=customer, status="incomplete", cancel_at_period_end=False,
            cancel_at=None, canceled_at=None, schedule=None, metadata=metadata or {}, pending_update=None,
            items={"object": "list", "data": [self._make_item(price)]},
        )  # fmt: skip
        self.tell("customer.subscription.created", subscription)
        subscription["status"] = "active"
        self.invoice(subscription["id"], "subscription_create")
        self.tell("customer.subscription.updated", subscription)
        return subscription

    def _make_item(self, price: str) -> Object:
        ends = self.now + self.prices[price]["seconds"]
        return {
            "id": f"si_{next(self._numbers):06d}", "object": "subscription_item", "quantity": 1,
            "price": {"id": price, "object": "price", "product": self.prices[price]["product"]},
            "current_period_start": self.now, "current_period_end": ends,
        }  # fmt: skip

    def pay_subscription_session(self, session_id: str) -> Object:
        session = self.objects[session_id]
        asked = session["_asked"]
        subscription = self.subscribe(
            session["customer"],
            asked["line_items"]["0"]["price"],
            asked["subscription_data"]["metadata"],
        )
        session |= {"status": "complete", "payment_status": "paid", "subscription": subscription["id"]}
        self.tell("checkout.session.completed", session)
        return subscription

    def invoice(
        self, subscription_id: str, reason: str, lines: list[Object] | None = None, paid: bool = True
    ) -> Object:
        subscription = self.objects[subscription_id]
        item = subscription["items"]["data"][0]
        if lines is None:
            price = self.prices[item["price"]["id"]]
            begins, ends = item["current_period_start"], item["current_period_end"]
            lines = [self.make_line(price["id"], price["unit_amount"], begins, ends)]
        total = sum(line["amount"] for line in lines)
        invoice = self._keep(
            "in", "invoice", status="draft", billing_reason=reason, amount_paid=0, amount_due=total,
            currency="usd", customer=subscription["customer"],
            parent={"type": "subscription_details", "subscription_details": {"subscription": subscription_id}},
            lines={"object": "list", "data": lines},
        )  # fmt: skip
        self.tell("invoice.created", invoice)
        invoice["status"] = "open"
        self.tell("invoice.finalized", invoice)
        if paid:
            self.pay_invoice(invoice["id"])
        else:
            self.tell("invoice.payment_failed", invoice)
        return invoice

    def pay_invoice(self, invoice_id: str) -> None:
        invoice = self.objects[invoice_id]
        invoice |= {"status": "paid", "amount_paid": invoice["amount_due"]}
        if invoice["amount_due"] > 0:
            self._pay_for(invoice)
        self.tell("invoice.paid", invoice)

    def _pay_for(self, invoice: Object) -> None:
        """A payment intent with its charge, and the object that says for which invoice they are."""
        money = {"currency": "usd", "customer": invoice["customer"]}
        cents = invoice["amount_paid"]
        intent = self._keep(
            "pi", "payment_intent", amount=cents, amount_received=cents, status="succeeded", **money
        )
        charge = self._keep("ch", "charge", amount=cents, amount_refunded=0, refunded=False, paid=True,
                            payment_intent=intent["id"], **money)  # fmt: skip
        intent["latest_charge"] = charge["id"]
        paid = self._keep("inpay", "invoice_payment", invoice=invoice["id"], status="paid", amount_paid=cents,
                          payment={"type": "payment_intent", "payment_intent": intent["id"]})  # fmt: skip
        self.tell("invoice_payment.paid", paid)

    def find_intent_of(self, invoice: Object) -> str:
        """What paid for an invoice."""
        paid = next(each for each in self.objects.values()
                    if each["object"] == "invoice_payment" and each["invoice"] == invoice["id"])  # fmt: skip
        return str(paid["payment"]["payment_intent"])

    def list_invoices(self, subscription_id: str) -> list[Object]:
        return [each for each in self.objects.values() if each["object"] == "invoice"
                and each["parent"]["subscription_details"]["subscription"] == subscription_id]  # fmt: skip

    def make_line(self, price: str, cents: int, begins: int, ends: int, proration: bool = False) -> Object:
        details = {"proration": proration, "subscription_item": "si_x"}
        return {
            "id": f"il_{next(self._numbers):06d}", "object": "line_item", "amount": cents, "currency": "usd",
            "period": {"start": begins, "end": ends},
            "parent": {"type": "subscription_item_details", "subscription_item_details": details},
            "pricing": {
                "type": "price_details",
                "price_details": {"price": price, "product": self.prices[price]["product"]},
            },
        }  # fmt: skip

    def renew(self, subscription_id: str, paid: bool = True) -> Object:
        subscription = self.objects[subscription_id]
        item = subscription["items"]["data"][0]
        self.now = item["current_period_end"]
        schedule = self.objects.get(subscription["schedule"] or "")
        if schedule is not None and len(schedule["phases"]) > 1:
            price = schedule["phases"]["1"]["items"]["0"]["price"]
            item["price"] = {"id": price, "object": "price", "product": self.prices[price]["product"]}
        item["current_period_start"] = self.now
        item["current_period_end"] = self.now + self.prices[item["price"]["id"]]["seconds"]
        if not paid:
            subscription["status"] = "past_due"
        self.tell("customer.subscription.updated", subscription)
        return self.invoice(subscription_id, "subscription_cycle", paid=paid)

    def end_subscription(self, subscription_id: str) -> None:
        subscription = self.objects[subscription_id]
        subscription |= {"status": "canceled", "canceled_at": self.now, "ended_at": self.now}
        self.tell("customer.subscription.deleted", subscription)

    def _change_subscription(self, method: str, rest: list[str], params: Object) -> Object:
        subscription = self._get(rest[0])
        if method == "GET":
            return subscription
        if method == "DELETE":
            self.end_subscription(rest[0])
            return subscription
        if "items" in params:
            self._change_item(subscription, params)
        if "cancel_at_period_end" in params:
            if subscription["schedule"]:
                raise Refused(400, type="invalid_request_error", message="managed by a schedule")
            subscription["cancel_at_period_end"] = params["cancel_at_period_end"] == "true"
            subscription["canceled_at"] = self.now
        self.tell("customer.subscription.updated", subscription)
        return subscription

    def _change_item(self, subscription: Object, params: Object) -> None:
        item, new = subscription["items"]["data"][0], params["items"]["0"]["price"]
        old = item["price"]["id"]
        if self.declines:
            subscription["pending_update"] = {"expires_at": self.now + 82800}
            return
        ends, whole = item["current_period_end"], item["current_period_end"] - item["current_period_start"]
        left = (ends - self.now) / whole
        item["price"] = {"id": new, "object": "price", "product": self.prices[new]["product"]}
        if params["proration_behavior"] == "always_invoice":
            back = -round(self.prices[old]["unit_amount"] * left)
            cents = round(self.prices[new]["unit_amount"] * left)
            lines = [
                self.make_line(old, back, self.now, ends, True),
                self.make_line(new, cents, self.now, ends, True),
            ]
            made = self.invoice(subscription["id"], "subscription_update", lines)
            subscription["latest_invoice"] = made if "expand" in params else made["id"]

    def _make_schedule(self, params: Object) -> Object:
        subscription = self._get(params["from_subscription"])
        item = subscription["items"]["data"][0]
        phase = {
            "start_date": item["current_period_start"], "end_date": item["current_period_end"],
            "items": [{"price": item["price"]["id"], "quantity": 1}],
        }  # fmt: skip
        schedule = self._keep("sub_sched", "subscription_schedule", status="active", phases=[phase],
                              subscription=subscription["id"], current_phase=phase)  # fmt: skip
        subscription["schedule"] = schedule["id"]
        return schedule

    def _change_schedule(self, rest: list[str], params: Object) -> Object:
        schedule = self._get(rest[0])
        if rest[1:] == ["release"]:
            schedule["status"] = "released"
            self.objects[schedule["subscription"]]["schedule"] = None
        else:
            schedule |= {"phases": params["phases"]}
            self.tell("customer.subscription.updated", self.objects[schedule["subscription"]])
        return schedule

"""Whole gateways: without a key everything but payments works; with one, people pay over HTTP and Stripe tells."""

import asyncio
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn

from tests.harness import Gateway, clean_environment, find_free_port, running, write_files
from tests.payments.stand_in import SECRET_KEY, WEBHOOK_SECRET, StripeStandIn, sign

PREFIX = "/api/stripe"
ROUTES = [
    ("POST", "/checkout-session"), ("GET", "/checkout-session/cs_1"), ("POST", "/payment-intent"),
    ("GET", "/payment-intent/pi_1"), ("GET", "/credit-packages"), ("POST", "/refund"), ("GET", "/payments"),
    ("GET", "/payments/pay_1"), ("POST", "/subscription-checkout"), ("GET", "/subscription"),
    ("POST", "/subscription/upgrade"), ("POST", "/subscription/downgrade"), ("POST", "/subscription/cancel"),
    ("POST", "/portal"), ("POST", "/webhook"),
]  # fmt: skip


@pytest.fixture(scope="module")
def stripe() -> Iterator[tuple[StripeStandIn, str]]:
    """The played Stripe behind a real port."""
    played, port = StripeStandIn(), find_free_port()
    played.add_price("price_pro_month", "prod_pro", 800)
    server = uvicorn.Server(
        uvicorn.Config(played.asgi, port=port, interface="asgi3", log_config=None, lifespan="off")
    )
    thread = threading.Thread(target=lambda: asyncio.run(server.serve()), daemon=True)
    thread.start()
    yield played, f"http://127.0.0.1:{port}"
    server.should_exit = True
    thread.join(10)


@pytest.fixture(scope="module")
def paying(stripe: tuple[StripeStandIn, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    gateway_yaml = {
        "limits": {"without_redis": "divide"},
        "billing": {
            "stripe": {
                "secret_key": "${STRIPE_SECRET_KEY}",
                "webhook_secret": "${STRIPE_WEBHOOK_SECRET}",
                "api_base": stripe[1],
                "return_urls": ["https://app.example.org/*"],
                "success_url": "https://app.example.org/done",
                "cancel_url": "https://app.example.org/back",
                "reconcile": {"each_h": 0},
            }
        },
    }
    folder = write_files(tmp_path_factory.mktemp("paying"), {"gateway.yaml": json.dumps(gateway_yaml)})
    gateway = Gateway(
        folder,
        workers=2,
        STRIPE_SECRET_KEY=SECRET_KEY,
        STRIPE_WEBHOOK_SECRET=WEBHOOK_SECRET,
        STRIPE_PRODUCT_PRO="prod_pro",
        STRIPE_PRICE_PRO_MONTH="price_pro_month",
    )
    with running(gateway):
        yield gateway


def make_client(gateway: Gateway, email: str) -> httpx.Client:
    """A user of its own, with a key that may change its account."""
    command = [sys.executable, "-m", "engine.cli", "keys", "create", "--name", "own", "--user", email]
    scopes = ["--scope", "inference", "--scope", "read", "--scope", "admin", "--format", "json"]
    environ = clean_environment(
        GATEWAYZ_HOME=str(gateway.folder / "home"),
        STRIPE_SECRET_KEY=SECRET_KEY,
        STRIPE_WEBHOOK_SECRET=WEBHOOK_SECRET,
    )
    made = subprocess.run(
        [*command, *scopes], cwd=gateway.folder, env=environ, capture_output=True, text=True, check=True
    )
    key = json.loads(made.stdout)["key"]
    return httpx.Client(base_url=gateway.url, headers={"authorization": f"Bearer {key}"}, timeout=30)


def deliver(gateway: Gateway, event: dict[str, Any], **changes: Any) -> httpx.Response:
    raw, header = sign(event)
    raw = changes.get("raw", raw)
    return httpx.post(
        f"{gateway.url}{PREFIX}/webhook",
        content=raw,
        headers={"stripe-signature": changes.get("header", header), "content-type": "application/json"},
        timeout=30,
    )


def test_without_a_key_every_route_says_so_and_the_rest_works(tmp_path: Path) -> None:
    gateway = Gateway(tmp_path)
    with running(gateway), gateway.client() as client:
        for method, path in ROUTES:
            answer = client.request(method, PREFIX + path, json={} if method == "POST" else None)
            assert answer.status_code == 503, (path, answer.text)
            assert answer.json()["error"]["code"] == "payments_not_configured"
            assert "billing.stripe.secret_key" in answer.json()["error"]["message"]
        for method, path in (("GET", "/admin/payments/findings"), ("POST", "/admin/payments/reconcile")):
            assert client.request(method, path, json={} if method == "POST" else None).status_code == 503
        assert gateway.chat("sim/echo").status_code == 200
        pid = next(
            path for path in Path("/proc").iterdir()
            if path.name.isdecimal() and _is_child(path, gateway.process.pid)
        )  # fmt: skip
        assert "stripe" not in (pid / "maps").read_text()


def _is_child(path: Path, parent: int) -> bool:
    try:
        return (path / "stat").read_text().rpartition(")")[2].split()[1] == str(parent)
    except OSError:
        return False


def test_somebody_pays_and_has_credit(paying: Gateway, stripe: tuple[StripeStandIn, str]) -> None:
    played = stripe[0]
    with make_client(paying, "ann@example.org") as ann, make_client(paying, "eve@example.org") as eve:
        packages = ann.get(f"{PREFIX}/credit-packages").json()["packages"]
        assert {each["id"]: (each["credits"], each["price"]) for each in packages} == {
            "starter": ("10", 1000), "professional": ("50", 4500)
        }  # fmt: skip
        begun = ann.post(f"{PREFIX}/checkout-session", json={"package_id": "professional"})
        assert begun.status_code == 200, begun.text
        session_id = begun.json()["session_id"]
        assert set(begun.json()) >= {
            "session_id", "url", "payment_id", "status", "amount", "currency", "expires_at"
        }  # fmt: skip
        played.events.clear()
        played.pay_session(session_id)
        for event in played.events * 3:
            told = deliver(paying, event)
            assert told.status_code == 200, told.text
            assert set(told.json()) == {"success", "event_type", "event_id", "message", "processed_at"}
        (payment,) = ann.get(f"{PREFIX}/payments").json()["payments"]
        assert (payment["status"], payment["credits_granted"]) == ("completed", "50")
        intent_id = payment["stripe_payment_intent_id"]
        shown = ann.get(f"{PREFIX}/checkout-session/{session_id}").json()
        assert (shown["payment_status"], shown["credited"]) == ("paid", True)
        for path in (
            f"payments/{payment['id']}",
            f"checkout-session/{session_id}",
            f"payment-intent/{intent_id}",
        ):
            assert ann.get(f"{PREFIX}/{path}").status_code == 200
            refused = eve.get(f"{PREFIX}/{path}")
            assert (refused.status_code, refused.json()["error"]["code"]) == (404, "payment_not_found")
        assert eve.get(f"{PREFIX}/payments").json()["payments"] == []
        assert eve.post(f"{PREFIX}/refund", json={"payment_intent_id": intent_id}).status_code == 403
    with paying.client() as admin:
        refund = admin.post(f"{PREFIX}/refund", json={"payment_intent_id": intent_id, "amount": 900})
        assert refund.status_code == 200, refund.text
        listed = admin.get("/admin/payments", params={"status": "partially_refunded"}).json()["payments"]
        assert [each["credits_taken_back"] for each in listed] == ["10"]


def test_somebody_takes_a_plan(paying: Gateway, stripe: tuple[StripeStandIn, str]) -> None:
    played = stripe[0]
    with make_client(paying, "bob@example.org") as bob:
        assert bob.get(f"{PREFIX}/subscription").json()["has_subscription"] is False
        begun = bob.post(f"{PREFIX}/subscription-checkout", json={"price_id": "price_pro_month"})
        assert begun.status_code == 200, begun.text
        played.events.clear()
        played.pay_subscription_session(begun.json()["session_id"])
        for event in reversed(played.events):
            assert deliver(paying, event).status_code == 200
        shown = bob.get(f"{PREFIX}/subscription").json()
        assert (shown["has_subscription"], shown["tier"]) == (True, "pro")
        assert bob.post(f"{PREFIX}/portal", json={}).json()["url"].startswith("https://billing.stripe.test/")
        played.events.clear()
        ended = bob.post(f"{PREFIX}/subscription/cancel", json={"cancel_at_period_end": False})
        assert ended.json()["success"] is True
        for event in played.events:
            assert deliver(paying, event).status_code == 200
        assert bob.get(f"{PREFIX}/subscription").json()["has_subscription"] is False


@pytest.mark.parametrize(
    ("raw", "header"),
    [
        (None, ""),
        (None, "t=1,v1=00"),
        (b"\xff\xfe\x00", None),
        (b"{}", None),
        (b"", None),
        (b'{"object": "event"}', None),
    ],
)
def test_what_was_not_signed_is_400(paying: Gateway, raw: bytes | None, header: str | None) -> None:
    event = {"id": "evt_x", "object": "event", "type": "x", "created": 1, "data": {"object": {}}}
    changes = {name: value for name, value in (("raw", raw), ("header", header)) if value is not None}
    answer = deliver(paying, event, **changes)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_signature")


def test_an_event_that_cannot_be_done_is_503(paying: Gateway) -> None:
    event = {"id": "evt_odd", "object": "event", "type": "charge.refunded", "created": 1, "livemode": False,
             "data": {"object": {"id": "ch_1", "payment_intent": "pi_1", "amount_refunded": "many"}}}  # fmt: skip
    answer = deliver(paying, event)
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "event_not_handled")


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("checkout-session", {}, "body"),
        ("checkout-session", {"amount": 49}, "amount"),
        ("checkout-session", {"amount": 10.5}, "amount"),
        ("checkout-session", {"amount": 1000, "credit_value": 3000}, "credit_value"),
        ("checkout-session", {"amount": 1000, "currency": "jpy"}, "currency"),
        ("checkout-session", {"amount": 1000, "success_url": "https://evil.example/"}, "success_url"),
        ("checkout-session", {"amount": 1000, "package_id": "starter"}, "body"),
        ("checkout-session", {"package_id": "gold"}, "package_id"),
        ("checkout-session", {"amount": 1000, "metadata": {"payment_id": "x"}}, "metadata"),
        ("checkout-session", {"amount": 1000, "customer_email": "other@example.org"}, "customer_email"),
        ("payment-intent", {"amount": True}, "amount"),
        ("payment-intent", {"amount": 1000, "success_url": "https://app.example.org/"}, "success_url"),
        ("subscription-checkout", {"price_id": "price_else"}, "price_id"),
        ("portal", {"return_url": "//evil.example"}, "return_url"),
    ],
)
def test_what_cannot_be_meant_is_400_and_names_the_field(
    paying: Gateway, path: str, body: dict[str, Any], param: str
) -> None:
    with make_client(paying, "kim@example.org") as client:
        answer = client.post(f"{PREFIX}/{path}", json=body)
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["param"] == param, answer.text


def test_the_keys_of_stripe_are_never_shown(paying: Gateway) -> None:
    with paying.client() as admin:
        shown = admin.get("/admin/config").text
    assert SECRET_KEY not in shown + paying.read_log() and WEBHOOK_SECRET not in shown + paying.read_log()


def test_the_command_compares_the_books_while_the_gateway_runs(
    paying: Gateway, stripe: tuple[StripeStandIn, str]
) -> None:
    played = stripe[0]
    with make_client(paying, "zoe@example.org") as zoe:
        begun = zoe.post(f"{PREFIX}/checkout-session", json={"amount": 700}).json()
        played.events.clear()
        played.pay_session(begun["session_id"])
        command = [sys.executable, "-m", "engine.cli", "payments", "reconcile", "--since", "2026-11-01"]
        environ = clean_environment(
            GATEWAYZ_HOME=str(paying.folder / "home"),
            STRIPE_SECRET_KEY=SECRET_KEY,
            STRIPE_WEBHOOK_SECRET=WEBHOOK_SECRET,
        )

        def compare(*options: str) -> tuple[int, dict[str, Any]]:
            done = subprocess.run(
                [*command, *options, "--format", "json"],
                cwd=paying.folder,
                env=environ,
                capture_output=True,
                text=True,
            )
            assert done.stdout, done.stderr
            return done.returncode, json.loads(done.stdout)

        code, report = compare()
        missing = {each["kind"] for each in report["findings"]}
        assert code == 3 and {"event_missing", "payment_missing"} <= missing
        assert zoe.get(f"{PREFIX}/payments").json()["payments"][0]["status"] == "pending"
        _, report = compare("--replay")
        assert len(report["replayed"]) == 2
        assert zoe.get(f"{PREFIX}/payments").json()["payments"][0]["credits_granted"] == "7"
    with paying.client() as admin:
        found = admin.get("/admin/payments/findings", params={"resolved": "true"}).json()["findings"]
        assert {each["kind"] for each in found} >= {"event_missing", "payment_missing"}
        again = admin.post("/admin/payments/reconcile", json={"since": "2026-11-01T00:00:00Z"})
        assert again.status_code == 200, again.text
        assert again.json()["replayed"] == []

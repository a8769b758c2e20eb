"""A whole gateway: what users and administrators do with plans, trials, coupons, referrals and credit."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.harness import ADMIN_KEY, Gateway, clean_environment, running, write_files

FILES = {
    "gateway.yaml": "database: embedded\nredis: none\n",
    "policies.d/login.yaml": "login: default\nextends: default\nverify_address: later\n"
    "attempts: {sign_up: {attempts: 100, within_s: 3600}}\n",
    "policies.d/redbeard.yaml": 'trial: redbeard\ncode: REDBEARD\ndays: 14\ncredit_usd: "20"\nday_usd: "5"\n',
}
CHAT = {"model": "sim/echo", "messages": [{"role": "user", "content": "hi"}]}
REASON = "a good customer"


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    made = Gateway(write_files(tmp_path_factory.mktemp("commerce"), FILES))
    with running(made):
        yield made


def issue(gateway: Gateway, name: str) -> httpx.Client:
    """A key of a user of this name that may look and change."""
    environ = clean_environment(GATEWAYZ_HOME=str(gateway.folder / "home"))
    command = [sys.executable, "-m", "engine.cli", "keys", "create", "--name", name, "--user", f"{name}@b.c"]
    for scope in ("inference", "read", "admin"):
        command += ["--scope", scope]
    done = subprocess.run(
        command, cwd=gateway.folder, env=environ, capture_output=True, text=True, check=True
    )
    return open_client(gateway, done.stdout.splitlines()[-1])


def open_client(gateway: Gateway, key: str) -> httpx.Client:
    headers = {"authorization": f"Bearer {key}"}
    return httpx.Client(base_url=gateway.url, headers=headers, timeout=30)


@pytest.fixture(scope="module")
def admin(gateway: Gateway) -> Iterator[httpx.Client]:
    with open_client(gateway, ADMIN_KEY) as made:
        yield made


def find_id(client: httpx.Client) -> str:
    found: str = client.get("/user/api-keys").json()["keys"][0]["user_id"]
    return found


def post(client: httpx.Client, path: str, expected: int = 200, **body: Any) -> dict[str, Any]:
    answer = client.post(path, json=body)
    assert answer.status_code == expected, answer.text
    told: dict[str, Any] = answer.json()
    return told


def test_plans_are_shown_to_everybody(gateway: Gateway) -> None:
    plans = httpx.get(f"{gateway.url}/plans").json()
    assert {"default", "free", "pro", "max", "enterprise"} == {plan["id"] for plan in plans}
    pro = httpx.get(f"{gateway.url}/plans/pro").json()
    assert (pro["price_per_month"], pro["daily_request_limit"], pro["max_concurrent_requests"]) == (
        "8",
        1000,
        10,
    )
    assert httpx.get(f"{gateway.url}/plans/admin").status_code == 404
    tiers = httpx.get(f"{gateway.url}/subscription/plans").json()
    assert tiers["trial_info"]["trial_credits"] == "5" and len(tiers["plans"]) == 5


def test_a_given_plan_is_had_at_once_and_brings_its_allowance(gateway: Gateway, admin: httpx.Client) -> None:
    with issue(gateway, "planned") as user:
        user_id = find_id(user)
        assert user.get("/user/plan").json()["has_plan"] is False
        given = post(admin, "/admin/assign-plan", user_id=user_id, plan_id="pro", duration_months=2)
        assert given["expires_at"] is not None
        own = user.get("/user/plan").json()
        assert (own["plan_id"], own["source"], own["has_plan"]) == ("pro", "admin", True)
        may = user.get("/user/plan/entitlements", params={"feature": "advanced_models"}).json()
        assert may["can_access_feature"] is True and may["monthly_token_limit"] == 3_000_000
        assert user.get("/user/plan/entitlements?feature=x").json()["can_access_feature"] is False
        usage = user.get("/user/plan/usage").json()
        assert usage["limits"]["daily_requests"] == 1000 and usage["remaining"]["daily_requests"] == 1000
        until = time.monotonic() + 90
        while user.get("/user/balance").json()["subscription_allowance"] != "15":
            assert time.monotonic() < until, "the chore gives the month's allowance"
            time.sleep(2)
        assert post(admin, "/admin/assign-plan", 404, user_id="nobody", plan_id="pro")
        assert post(user, "/admin/assign-plan", 403, user_id=user_id, plan_id="max")


def test_credit_by_hand_has_reasons_caps_and_comes_once(gateway: Gateway, admin: httpx.Client) -> None:
    with issue(gateway, "gifted") as user:
        user_id = find_id(user)
        given = post(admin, "/credits/add", user_id=user_id, amount=10.1, reason=REASON)
        assert (given["previous_balance"], given["new_balance"]) == ("0", "10.1")
        again = {"user_id": user_id, "amount": "0.000000000001", "reason": REASON}
        for changed in ("0.000000000001", "0"):
            answer = admin.post("/credits/add", json=again, headers={"idempotency-key": "one"}).json()
            assert answer["amount_changed"] == changed
        taken = post(admin, "/credits/adjust", user_id=user_id, amount=-4, reason=REASON)
        assert taken["new_balance"] == "6.100000000001"
        (row,) = user.get("/user/credit-transactions?transaction_type=admin_debit").json()["transactions"]
        assert (row["amount"], row["balance_after"], row["metadata"]) == ("-4", "6.100000000001", {})
        for amount, status in (("3", 200), ("1.5", 403), ("1", 200)):
            refund = {
                "user_id": user_id,
                "amount": amount,
                "original_transaction_id": row["id"],
                "reason": REASON,
            }
            assert post(admin, "/credits/refund", status, **refund)
        own = {"user_id": user_id, "reason": REASON}
        debit = post(admin, "/credits/adjust", **own, amount="-2")["transaction_id"]
        for amount, status in (("2.5", 403), ("2", 200), ("0.1", 403)):
            assert post(admin, "/credits/refund", status, **own, amount=amount, original_transaction_id=debit)
        assert post(admin, "/credits/refund", 404, **own, amount=1, original_transaction_id="nobody's")
        refusals = {
            "reason_too_short": {"amount": 1, "reason": "short"},
            "grant_too_large": {"amount": "1000.01", "reason": REASON},
            "invalid_value": {"amount": "-1", "reason": REASON},
        }
        for code, body in refusals.items():
            answer = admin.post("/credits/add", json={"user_id": user_id, **body})
            assert (answer.json()["error"]["code"], answer.status_code) in ((code, 400), (code, 403))
        many = post(admin, "/credits/bulk-add", user_ids=[user_id, "nobody"], amount=1, reason=REASON)
        assert (many["successful"], many["failed"], many["total_credits_added"]) == (1, 1, "1")
        too_many = [f"u{number}" for number in range(101)]
        assert post(admin, "/credits/bulk-add", 400, user_ids=too_many, amount=1, reason=REASON)
        key = user.headers["authorization"].removeprefix("Bearer ")
        assert (
            post(admin, "/admin/add_credits", api_key=key, credits=2, reason=REASON)["amount_changed"] == "2"
        )
        summary = admin.get("/credits/summary", params={"user_id": user_id}).json()
        assert summary["balance"] == user.get("/user/balance").json()["credits"] == "13.100000000001"
        listed = admin.get(
            "/credits/transactions", params={"user_id": user_id, "limit": 2, "offset": 1}
        ).json()
        assert len(listed["transactions"]) == 2 and listed["has_more"] is True
        assert admin.get("/admin/credit-transactions").status_code == 200
        assert user.get("/credits/summary").status_code == 403
        events = admin.get("/admin/audit", params={"user_id": user_id, "action": "credit.admin_debit"}).json()
        assert events["total_logs"] == 2


def test_a_day_of_an_administrator_has_an_end(gateway: Gateway, admin: httpx.Client) -> None:
    with issue(gateway, "rich") as user:
        user_id = find_id(user)
        codes = []
        for _ in range(6):
            answer = admin.post("/credits/add", json={"user_id": user_id, "amount": 1000, "reason": REASON})
            codes.append(answer.json().get("error", {}).get("code"))
        assert codes[:4] == [None] * 4 and codes[-1] == "grants_used_up"


def test_balance_may_be_asked_for_sixty_times_a_minute(gateway: Gateway) -> None:
    with issue(gateway, "curious") as user:
        told = [user.get("/user/balance").status_code for _ in range(61)]
        assert told == [200] * 60 + [429]
        told = [user.get("/user/credit-transactions").status_code for _ in range(31)]
        assert told == [200] * 30 + [429]


def test_a_coupon_is_made_redeemed_and_counted(gateway: Gateway, admin: httpx.Client) -> None:
    with issue(gateway, "couponed") as user, issue(gateway, "late") as late:
        coupon = post(admin, "/admin/coupons", 201, code="spring", value_usd="5.5", max_uses=1)
        assert (
            post(admin, "/admin/coupons", 409, code="SPRING", value_usd=1)["error"]["code"] == "COUPON_EXISTS"
        )
        assert [offer["code"] for offer in user.get("/coupons/available").json()] == ["SPRING"]
        redeemed = post(user, "/coupons/redeem", code="spring")
        assert (redeemed["coupon_value"], redeemed["new_balance"], redeemed["error_code"]) == (
            "5.5",
            "5.5",
            None,
        )
        told = post(user, "/coupons/redeem", 409, code="spring")
        assert told["error_code"] == told["error"]["code"] == "ALREADY_REDEEMED" and told["success"] is False
        assert post(late, "/coupons/redeem", 409, code="SPRING")["error_code"] == "MAX_USES_EXCEEDED"
        assert post(late, "/coupons/redeem", 404, code="NONE")["error_code"] == "COUPON_NOT_FOUND"
        history = user.get("/coupons/history").json()
        assert (history["total_redemptions"], history["total_value_redeemed"]) == (1, "5.5")
        path = f"/admin/coupons/{coupon['id']}"
        assert admin.get(f"{path}/analytics").json()["remaining_uses"] == 0
        assert admin.patch(path, json={"max_uses": 3}).json()["remaining_uses"] == 2
        assert admin.patch(path, json={}).status_code == 400
        assert admin.delete(path).json()["is_active"] is False
        assert admin.get(path).json()["times_used"] == 1
        assert admin.get("/admin/coupons", params={"is_active": False}).json()["total"] == 1
        stats = admin.get("/admin/coupons/stats/overview").json()
        assert (stats["total_redemptions"], stats["average_redemption_value"]) == (1, "5.5")
        assert user.get("/admin/coupons").status_code == 403
        for wrong in (
            {"code": "a b"},
            {"code": "ab"},
            {"value_usd": "1000.01"},
            {"coupon_type": "other"},
            {"coupon_scope": "user_specific"},
            {"valid_until": "2020-01-01T00:00:00Z"},
            {"max_uses": 0},
        ):
            body = {"code": "OTHER", "value_usd": 1, **wrong}
            assert admin.post("/admin/coupons", json=body).status_code == 400, wrong


def sign_up(gateway: Gateway, name: str, **more: str) -> dict[str, Any]:
    body = {"username": name, "email": f"{name}@b.c", "password": "correct horse battery", **more}
    answer = httpx.post(f"{gateway.url}/auth/register", json=body)
    assert answer.status_code in (200, 201), answer.text
    told: dict[str, Any] = answer.json()
    return told


def test_who_signs_up_with_a_code_is_brought_by_its_owner(gateway: Gateway) -> None:
    with issue(gateway, "bringer") as bringer:
        own = bringer.get("/referral/code").json()
        assert own["invite_link"].endswith(own["referral_code"]) and own["share_message"]
        assert bringer.post("/referral/generate").json()["referral_code"] == own["referral_code"]
        told = post(bringer, "/referral/validate", referral_code=own["referral_code"])
        assert (told["valid"], told["reason"]) == (False, "referral_of_oneself")
        made = sign_up(gateway, "brought", referral_code=own["referral_code"])
        with open_client(gateway, made["api_key"]) as brought:
            assert brought.get("/referral/stats").status_code in (200, 403)
        stats = bringer.get("/referral/stats").json()
        assert (stats["total_uses"], stats["pending_bonuses"], stats["remaining_uses"]) == (1, 1, 9)
        assert stats["total_earned"] == "0" and len(stats["referrals"]) == 1
        assert "brought" not in json.dumps(stats)


SHAPE_OF_TRIALS = {
    "trial", "is_trial", "trial_start_date", "trial_end_date", "trial_used_tokens", "trial_used_requests",
    "trial_max_tokens", "trial_max_requests", "trial_credits", "trial_used_credits", "trial_converted",
    "subscription_status", "subscription_plan", "trial_active", "trial_expired", "trial_remaining_tokens",
    "trial_remaining_requests", "trial_remaining_credits",
}  # fmt: skip


def test_a_trial_needs_a_proven_person(gateway: Gateway, admin: httpx.Client) -> None:
    with issue(gateway, "trying") as user:
        none = user.get("/trial/status").json()
        assert none["trial_status"]["is_trial"] is False
        assert set(none["trial_status"]) == SHAPE_OF_TRIALS
        assert post(user, "/partner-trials/start", 403)["error"]["code"] == "trial_needs_proof"
        assert httpx.get(f"{gateway.url}/partner-trials/check/redbeard").json()["valid"] is True
        assert admin.get("/partner-trials/config/REDBEARD").json()["daily_usage_limit_usd"] == "5"
        assert post(user, "/partner-trials/start", 404, partner_code="NOBODY")
        assert user.get("/partner-trials/daily-limit").json()["daily_limit_usd"] is None
        assert admin.get("/admin/trial/analytics").json()["analytics"]["total_trials"] == 0
        assert admin.get("/partner-trials/analytics/REDBEARD").json()["analytics"]["total_trials"] == 0
        assert post(admin, f"/partner-trials/expire/{find_id(user)}", 404)


def test_people_say_what_they_want_to_be_told(gateway: Gateway, admin: httpx.Client) -> None:
    with issue(gateway, "told") as user:
        path = "/user/notifications/preferences"
        assert user.get(path).json()["low_balance_threshold"] == "5"
        changed = user.put(path, json={"low_balance_threshold": "2.5", "usage_alerts": False}).json()
        assert (changed["low_balance_threshold"], changed["usage_alerts"]) == ("2.5", False)
        assert user.get(path).json() == changed
        assert user.put(path, json={}).status_code == 400
        for notice in ("test", "send-usage-report", "test"):
            assert user.post(f"/user/notifications/{notice}").json()["success"] is True
        stats = admin.get("/admin/notifications/stats").json()
        assert stats["pending_notifications"] >= 3 and stats["delivery_rate"] is None
        assert admin.post("/admin/notifications/process").json()["status"] == "success"
        assert user.post("/admin/notifications/process").status_code == 403


def test_a_top_up_is_set_within_bounds(gateway: Gateway) -> None:
    with issue(gateway, "topped") as user:
        path, body = "/user/auto-top-up", {"enabled": True, "threshold_usd": 5, "amount_usd": 20}
        assert user.get(path).json() == {"enabled": False}
        set_ = user.put(path, json={**body, "monthly_cap_usd": "100"}).json()
        assert (set_["enabled"], set_["amount_usd"], set_["monthly_cap_usd"]) == (True, "20", "100")
        for wrong in (
            {"amount_usd": "5.001"},
            {"amount_usd": 1},
            {"amount_usd": 5000},
            {"monthly_cap_usd": 10},
        ):
            assert user.put(path, json={**body, "monthly_cap_usd": 100, **wrong}).status_code == 400, wrong

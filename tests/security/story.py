"""People who use every route that changes something, with success, so that each secret goes where it is meant to go."""

import time
from collections.abc import Mapping
from typing import Any

import httpx

from tests.payments.stand_in import Refused, sign
from tests.security.canaries import ADMIN, MARK, SECRETS, CanaryHouse, find_in_mail

PASSWORD, NEW_PASSWORD, LAST_PASSWORD = (f"{MARK}-{which}-password" for which in ("first", "second", "last"))
OWN_KEY = f"sk-{MARK}-of-a-user"
LIMITS = {"requests_per_minute": 5000}


class Teller:
    """Asks, and keeps by name what later requests need: `{team_id}` in a path or a body is what was kept so."""

    def __init__(self, canary: CanaryHouse) -> None:
        self.canary = canary
        self.kept = {"admin": ADMIN}
        self.client = httpx.Client(base_url=canary.url, timeout=30)

    def ask(self, who: str, route: str, body: Any = None, **keeps: str) -> dict[str, Any]:
        method, _, path = route.partition(" ")
        answer = self.client.request(
            method,
            path.format(**self.kept),
            json=self._fill(body),
            headers={"authorization": f"Bearer {self.kept[who]}"} if who else {},
        )
        assert answer.is_success, (route, answer.status_code, answer.text)
        self.canary.found.note(answer)
        self.canary.found.done.add(route)
        document: dict[str, Any] = answer.json() if answer.content else {}
        self.kept |= {name: str(find_word(document, word)) for name, word in keeps.items()}
        return document

    def _fill(self, body: Any) -> Any:
        if isinstance(body, Mapping):
            return {name: self._fill(value) for name, value in body.items()}
        if isinstance(body, list):
            return [self._fill(value) for value in body]
        return body.format(**self.kept) if isinstance(body, str) else body

    def await_mailed(self, link: str, before: set[str]) -> str:
        until = time.monotonic() + 30
        while time.monotonic() < until:
            if fresh := find_in_mail(self.canary.mail, link) - before:
                self.canary.found.secrets |= fresh
                return fresh.pop()
            time.sleep(0.1)
        raise AssertionError(f"no letter with {link} came")


def find_word(document: Any, name: str) -> Any:
    """The value under this name, wherever it is."""
    if isinstance(document, Mapping):
        if name in document:
            return document[name]
        document = list(document.values())
    found = [find_word(each, name) for each in document] if isinstance(document, list) else []
    return next((each for each in found if each is not None), None)


def tell_everything(canary: CanaryHouse) -> dict[str, str]:
    """All that happens; afterwards `session`, `person` and `guest` are what two of the people may enter with."""
    teller = Teller(canary)
    with teller.client:
        sign_up(teller)
        keep_keys(teller)
        pay(teller)
        come_by_token(teller)
        share_in_a_team(teller)
        administer(teller)
        leave(teller)
        forget_the_password(teller)
        be_quoted(teller)
    return {name: teller.kept[name] for name in ("person", "session", "guest")}


def sign_up(teller: Teller) -> None:
    who = {"email": "person@example.org", "password": PASSWORD}
    teller.ask("", "POST /auth/register", who, person="api_key", user_id="user_id")
    verify = teller.await_mailed("verify", set())
    teller.ask("", "POST /auth/login", who, refresh="refresh_token")
    teller.ask(
        "",
        "POST /auth/refresh",
        {"refresh_token": "{refresh}"},
        session="access_token",
        refresh="refresh_token",
    )
    teller.ask("session", "POST /auth/verify-email", {"token": verify})
    teller.ask("session", "PUT /user/profile", {"name": "Person", "preferences": {"theme": "dark"}})
    moved = {"email": "moved@example.org", "current_password": PASSWORD}
    teller.ask("session", "PUT /user/profile", moved)
    token = teller.await_mailed("verify", {verify})
    teller.ask("session", "POST /auth/verify-email", {"token": token})
    change = {"current_password": PASSWORD, "new_password": NEW_PASSWORD}
    teller.ask("session", "POST /user/password", change)


def keep_keys(teller: Teller) -> None:
    key = {"key_name": "second", "scope_permissions": ["inference", "read"]}
    teller.ask("session", "POST /user/api-keys", key, second="api_key", key_id="id")
    changed = {"action": "update", "key_name": "renamed", "ip_allowlist": ["127.0.0.0/8"]}
    teller.ask("session", "PUT /user/api-keys/{key_id}", changed)
    teller.ask("session", "PUT /user/api-keys/{key_id}", {"action": "rotate"})
    teller.ask("session", "PUT /user/rate-limits/{key_id}", LIMITS)
    bulk = {"updates": [{"key_id": "{key_id}", **LIMITS}]}
    teller.ask("session", "POST /user/rate-limits/bulk-update", bulk)
    teller.ask("session", "DELETE /user/api-keys/{key_id}", {"confirmation": "DELETE_KEY"})
    own = {"provider_slug": "upstream", "api_key": OWN_KEY}
    teller.ask("session", "POST /user/provider-keys", own)
    chat = {"model": "gpt-rehearsal", "messages": [{"role": "user", "content": f"My {MARK} prompt"}]}
    teller.ask("person", "POST /v1/chat/completions", chat)
    teller.ask("session", "DELETE /user/provider-keys/{provider}".replace("{provider}", "upstream"))
    teller.canary.found.done.add("DELETE /user/provider-keys/{provider}")
    teller.ask("session", "POST /user/provider-keys", own)
    told = {"model": "gpt-rehearsal", "input": f"My {MARK} input", "store": True}
    teller.ask("person", "POST /v1/responses", told, id="id")
    teller.ask("person", "DELETE /v1/responses/{id}")
    again = {"model": "gpt-rehearsal", "input": f"My other {MARK} input", "store": True}
    teller.ask("person", "POST /v1/responses", again)
    wish = {"low_balance_threshold": "3", "usage_alerts": True}
    teller.ask("session", "PUT /user/notifications/preferences", wish)
    teller.ask("session", "POST /user/notifications/test")
    teller.ask("session", "POST /referral/generate")


def share_in_a_team(teller: Teller) -> None:
    teller.ask("session", "POST /teams", {"name": "ours"}, team_id="team_id")
    teller.ask("session", "PUT /teams/{team_id}", {"name": "still ours"})
    teller.ask("session", "POST /teams/{team_id}/members", {"email": "guest@example.org"})
    key = {"key_name": "of the team"}
    teller.ask("session", "POST /teams/{team_id}/api-keys", key, key_id="id")
    teller.ask("session", "PUT /teams/{team_id}/api-keys/{key_id}", {"action": "rotate"})
    teller.ask("session", "DELETE /teams/{team_id}/api-keys/{key_id}", {"confirmation": "DELETE_KEY"})
    teller.ask("guest_session", "POST /teams/invitations/{team_id}")


def pay(teller: Teller) -> None:
    stripe, begun = teller.canary.house.stripe, "POST /api/stripe/checkout-session"
    teller.ask("session", begun, {"amount": 2000}, session_id="session_id")
    teller.ask("session", "POST /api/stripe/payment-intent", {"amount": 1500})
    stripe.events.clear()
    stripe.pay_session(teller.kept["session_id"])
    for event in stripe.events:
        deliver(teller, event, SECRETS["STRIPE_WEBHOOK"], 200)
        deliver(teller, event, f"whsec_{MARK}-of-somebody-else", 400)
    paid = teller.ask("session", "GET /api/stripe/payments?status=completed")
    teller.kept["intent"] = find_word(paid, "stripe_payment_intent_id")
    teller.ask("admin", "POST /api/stripe/refund", {"payment_intent_id": "{intent}", "amount": 500})
    charged = {"enabled": False, "threshold_usd": "5", "amount_usd": "20", "monthly_cap_usd": "100"}
    teller.ask("session", "PUT /user/auto-top-up", charged)


def deliver(teller: Teller, event: Mapping[str, Any], secret: str, status: int) -> None:
    raw, header = sign(dict(event), secret)
    teller.canary.found.secrets.add(header.partition("v1=")[2])
    answer = teller.client.post(
        "/api/stripe/webhook",
        content=raw,
        headers={"stripe-signature": header, "content-type": "application/json"},
    )
    assert answer.status_code == status, answer.text
    teller.canary.found.note(answer)


def come_by_token(teller: Teller) -> None:
    """With a token of the identity provider that is taken, and with some that are not."""
    issuer, found = teller.canary.issuer, teller.canary.found
    good = issuer.vouch("guest@example.org", "sub-of-a-guest")
    bad = [
        issuer.vouch("guest@example.org", "sub-of-a-guest", exp=int(time.time()) - 4000),
        issuer.vouch("guest@example.org", "sub-of-a-guest", aud="somebody else"),
        issuer.sign("sub-without-an-address"),
        good[:-6] + "AAAAAA",
    ]
    for token in (good, *bad):
        found.secrets |= {token, token.rpartition(".")[2]}
    body = {"token": good, "provider": "idp", "auto_create_api_key": True}
    teller.ask("", "POST /auth", body, guest_session="access_token", guest="api_key", guest_id="user_id")
    for token in bad:
        for path in ("/auth", "/auth/login"):
            answer = teller.client.post(path, json={"token": token, "provider": "idp"})
            assert answer.status_code in (401, 403), answer.text
            found.note(answer)
    answer = teller.client.get("/user/profile", headers={"authorization": f"Bearer {good}"})
    assert answer.status_code == 401  # it is no session
    found.note(answer)


def administer(teller: Teller) -> None:
    def ask(route: str, body: Any = None, **keeps: str) -> None:
        teller.ask("admin", route, body, **keeps)

    ask(
        "POST /admin/users/{user_id}/api-keys", {"key_name": "made by the house"}, key_id="id", made="api_key"
    )
    ask("PUT /admin/api-keys/{key_id}", {"action": "rotate"}, made="new_api_key")
    ask("PUT /admin/rate-limits/update", {"key_id": "{key_id}", **LIMITS})
    ask("DELETE /admin/rate-limits/delete?key_id={key_id}")
    teller.canary.found.done.add("DELETE /admin/rate-limits/delete")
    ask("POST /admin/users/by-api-key", {"api_key": "{person}"})
    ask("POST /admin/add_credits", {"api_key": "{person}", "credits": 5, "reason": "a gift of ours"})
    ask("POST /admin/limit", {"api_key": "{person}", "rate_limits": {"requests_per_minute": 90000}})
    ask("DELETE /admin/api-keys/{key_id}", {"confirmation": "DELETE_KEY"})
    ask("PATCH /admin/users/{user_id}", {"name": "A person"})
    ask("POST /admin/assign-plan", {"user_id": "{user_id}", "plan_id": "pro"})
    ask("POST /admin/roles/update", {"user_id": "{guest_id}", "new_role": "developer", "reason": "asked"})
    ask("PUT /admin/budgets/users/{user_id}", {"budgets": [{"every": "day", "usd": "500"}]})
    ask("PUT /admin/budgets/teams/{team_id}", {"budgets": [{"every": "day", "usd": "500"}]})
    ask("POST /admin/teams", {"name": "of the house", "owner": "{user_id}"}, other_team="team_id")
    ask("PATCH /admin/teams/{team_id}", {"name": "renamed by the house"})
    coupon = {"code": "WELCOME2026", "value_usd": "5", "coupon_type": "promotional", "max_uses": 10}
    ask("POST /admin/coupons", {**coupon, "valid_until": "2030-01-01T00:00:00Z"}, coupon_id="id")
    ask("PATCH /admin/coupons/{coupon_id}", {"description": "for all"})
    teller.ask("session", "POST /coupons/redeem", {"code": "WELCOME2026"})
    ask("DELETE /admin/coupons/{coupon_id}")
    ask("POST /api/admin/ip-whitelist", {"ip_address": "198.51.100.0/24", "reason": "office"}, id="id")
    ask("PATCH /api/admin/ip-whitelist/{id}", {"enabled": False})
    ask("POST /api/admin/ip-whitelist/check", {"ip_address": "198.51.100.7"})
    ask("DELETE /api/admin/ip-whitelist/{id}")
    ask("POST /admin/rate-limits/config", {"requests_per_minute": 90000})
    ask("POST /admin/rate-limits/config/reset")
    gift = {"amount": 3, "reason": "a gift of ours"}
    ask("POST /credits/add", {"user_id": "{user_id}", **gift})
    ask("POST /credits/adjust", {"user_id": "{user_id}", "amount": -1, "reason": "it was too much"})
    ask("POST /credits/bulk-add", {"user_ids": ["{user_id}", "{guest_id}"], **gift})
    ask("POST /credits/refund", {"user_id": "{user_id}", "amount": 1, "reason": "a bad answer"})
    ask("POST /admin/notifications/process")
    ask("POST /admin/config/reload")
    ask("POST /admin/refresh-providers")
    ask("POST /admin/invitations", {"email": "invited@example.org"}, invitation="invitation")
    invited = {"email": "invited@example.org", "password": PASSWORD, "invitation": "{invitation}"}
    teller.ask("", "POST /auth/register", invited, invited="access_token", invited_id="user_id")


def leave(teller: Teller) -> None:
    """What was made goes again."""
    member = "/teams/{team_id}/members/{guest_id}"
    teller.ask("session", f"PUT {member}", {"role": "admin"})
    teller.ask("session", f"DELETE {member}")
    teller.canary.found.done |= {
        f"{method} /teams/{{team_id}}/members/{{user_id}}" for method in ("PUT", "DELETE")
    }
    teller.ask("session", "POST /teams/{team_id}/members", {"email": "guest@example.org"})
    teller.ask("guest_session", "DELETE /teams/invitations/{team_id}")
    teller.ask("session", "DELETE /teams/{team_id}", {"confirmation": "DELETE_TEAM"})
    teller.ask("invited", "DELETE /user/account", {"confirmation": "DELETE_ACCOUNT"})
    other = {"email": "other@gone.example", "password": PASSWORD}
    teller.ask("", "POST /auth/register", other)
    sure = {"confirmation": "DELETE_USERS", "dry_run": False}
    teller.ask("admin", "DELETE /admin/users/by-domain/gone.example", sure)
    teller.canary.found.done.add("DELETE /admin/users/by-domain/{domain}")


def forget_the_password(teller: Teller) -> None:
    who = {"email": "moved@example.org"}
    teller.ask("", "POST /auth/password-reset", who)
    token = teller.await_mailed("reset", set())
    teller.ask("", "POST /auth/reset-password", {"token": token, "password": LAST_PASSWORD})
    who["password"] = LAST_PASSWORD
    teller.ask("", "POST /auth/login", who, session="access_token", refresh="refresh_token")
    teller.ask("", "POST /auth/logout", {"refresh_token": "{refresh}"})
    teller.ask("", "POST /auth/login", who, session="access_token")
    teller.ask("", "POST /auth/login", who, other="access_token")
    sessions = teller.ask("session", "GET /user/sessions")["sessions"]
    ended = next(each for each in sessions if not each.get("current", each.get("is_current")))
    teller.kept["session_id"] = ended.get("id") or ended["session_id"]
    teller.ask("session", "DELETE /user/sessions/{session_id}")


def be_quoted(teller: Teller) -> None:
    """Integrations that quote the key that they refuse, and all of a letter, from now on."""
    mailed = f"{SECRETS['MAIL_KEY']} is no key of ours, Bearer {SECRETS['MAIL_KEY']}"
    teller.canary.mail.answers["POST", "/send"] = [(401, {"error": mailed})]
    teller.ask("", "POST /auth/password-reset", {"email": "guest@example.org"})
    quoted = f"Invalid API Key provided: {SECRETS['STRIPE_KEY']}"
    stripe = teller.canary.house.stripe
    for status in (401, 400, 403, 500):
        stripe.fail = lambda method, path, status=status: Refused(
            status, type="invalid_request_error", message=quoted
        )
        answer = teller.client.post(
            "/api/stripe/checkout-session",
            json={"amount": 2000 + status},
            headers={"authorization": f"Bearer {teller.kept['session']}"},
        )
        assert answer.status_code in (400, 503), answer.text
        teller.canary.found.note(answer)

"""Data for a look at each template (`gatewayz mail preview`), and with it what each template is given."""

from collections.abc import Mapping
from typing import Any

SAMPLES: Mapping[str, Mapping[str, Any]] = {
    "welcome": {"name": "Sample"},
    "verify_address": {"token": "sample-token", "link": "", "valid_for": "24 hours"},  # nosec B105 # shown in previews
    "password_reset": {"token": "sample-token", "link": "", "valid_for": "30 minutes"},  # nosec B105 # likewise
    "low_balance": {"balance_usd": "4.125", "threshold_usd": "5"},
    "trial_expiring": {"ends_at": "2030-01-04"},
    "trial_expired": {"ended_at": "2030-01-04"},
    "subscription_expiring": {"plan": "Pro", "ends_at": "2030-02-01"},
    "subscription_expired": {"plan": "Pro"},
    "payment_failed": {"amount_usd": "25", "reason": "the card was declined"},
    "credits_added": {"amount_usd": "25", "balance_usd": "29.125", "reason": "a purchase"},
    "key_created": {"key_name": "build server", "last4": "x9Qz"},
    "referral_signup": {"code": "K7PW2MXH", "bonus_usd": "10", "minimum_usd": "10"},
    "referral_bonus": {"code": "K7PW2MXH", "bonus_usd": "10", "balance_usd": "39.125"},
    "plan_upgraded": {"plan": "Max", "old_plan": "Pro"},
    "budget_alert": {
        "budget": "key build server, month",
        "percent": 80,
        "spent_usd": "16.01",
        "limit_usd": "20",
        "hard": True,
    },
    "monthly_report": {
        "month": "January 2030",
        "requests": 1200,
        "tokens": 3400000,
        "cost_usd": "12.345678",
        "balance_usd": "17.65",
        "models": [
            {"model": "gpt-4o-mini", "requests": 1100, "cost_usd": "2.345678"},
            {"model": "claude-sonnet-4-5", "requests": 100, "cost_usd": "10"},
        ],
    },
}

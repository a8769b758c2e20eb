"""Mails that are to be sent, queued in the transaction that gives the reason for them.

A mail is there exactly when its reason is, and once: `ref` names the reason. Sending is somebody else's work and comes
later, so nothing here waits for a mail server.
"""

import logging
import re
from collections.abc import Mapping
from typing import Any

import orjson

from engine.secret import Secret
from engine.storage.postgres import Connection
from engine.storage.secrets import KeyRing

log = logging.getLogger(__name__)

WITH_SECRETS = frozenset({"verify_address", "password_reset"})
"""Templates whose data holds what opens an account; it is encrypted while it waits."""
TEMPLATES = WITH_SECRETS | {
    "welcome",
    "low_balance",
    "trial_expiring",
    "trial_expired",
    "subscription_expiring",
    "subscription_expired",
    "payment_failed",
    "credits_added",
    "key_created",
    "referral_signup",
    "referral_bonus",
    "plan_upgraded",
    "budget_alert",
    "monthly_report",
}
_ADDRESS = re.compile(r"[^\s@<>\"(),:;\\\[\]\x00-\x20\x7f]{1,64}@[^\s@<>\"(),:;\\\[\]\x00-\x20\x7f]{1,253}")


def is_address(text: str) -> bool:
    """Whether a mail may be sent there. Nothing that a header or a second address could be made of."""
    return len(text) <= 254 and _ADDRESS.fullmatch(text) is not None


async def queue_mail(  # noqa: PLR0913 - a mail is what, to whom, of what, why and whose
    connection: Connection,
    template: str,
    to: str,
    data: Mapping[str, Any],
    *,
    ref: str,
    user_id: str = "",
    ring: KeyRing | None = None,
) -> bool:
    """Queue a mail in the caller's transaction; False when one with this `ref` is there, or nobody to send it to.

    With `ring` the data is encrypted; templates that hold a secret need it.
    """
    if template not in TEMPLATES:
        raise ValueError(f"there is no mail template {template}")
    if ring is None and template in WITH_SECRETS:
        raise ValueError(f"the mail {template} holds a secret: give the key ring")
    if not is_address(to):
        log.warning("no mail %s for %s: this is no address", template, user_id or "somebody")
        return False
    text = orjson.dumps(dict(data), default=str).decode()
    plain, sealed = (text, None) if ring is None else (None, ring.encrypt(Secret(text)))
    added = await connection.execute(
        "INSERT INTO mail_outbox (ref, user_id, template, address, data, sealed)"
        " VALUES (%s, %s, %s, %s, %s::jsonb, %s) ON CONFLICT (ref) DO NOTHING",
        (ref, user_id, template, to, plain, sealed),
    )
    return added.rowcount == 1

"""What begins with an account: a trial, and a referral when a code was given. None of it keeps anybody out."""

import logging
from collections.abc import Callable, Mapping

from engine.config.schema_commerce import ReferralsFile
from engine.config.schema_trial import TrialFile
from engine.config.snapshot import Snapshot
from engine.errors import GatewayError
from engine.storage.newcomers import NewcomerFacts
from engine.storage.outbox import queue_mail
from engine.storage.postgres import Connection
from engine.storage.referral_codes import note_referral
from engine.storage.secrets import KeyRing
from engine.storage.trials import start_trial

log = logging.getLogger(__name__)


class Gifts:
    """Listens to new users (storage/newcomers.py)."""

    def __init__(self, ring: KeyRing, read_snapshot: Callable[[], Snapshot]) -> None:
        self._ring, self._read_snapshot = ring, read_snapshot

    async def user_made(self, connection: Connection, user_id: str, facts: NewcomerFacts) -> None:
        snapshot = self._read_snapshot()
        trial = choose_trial(snapshot.declared(TrialFile), facts.partner_code)
        if trial is not None:
            await self._begin_trial(connection, user_id, trial)
        if facts.referral_code:
            rules = snapshot.declared(ReferralsFile)["default"]
            await self._note_referral(connection, user_id, facts.referral_code, rules)

    async def _begin_trial(self, connection: Connection, user_id: str, trial: TrialFile) -> None:
        try:
            async with connection.transaction():
                await start_trial(connection, self._ring, user_id, trial)
        except GatewayError as refusal:
            log.info("no trial for %s: %s", user_id, refusal.code)

    async def _note_referral(
        self, connection: Connection, user_id: str, code: str, rules: ReferralsFile
    ) -> None:
        try:
            async with connection.transaction():
                referrer_id = await note_referral(connection, self._ring, user_id, code, rules)
        except GatewayError as refusal:
            log.info("no referral for %s: %s", user_id, refusal.code)
            return
        row = await (
            await connection.execute("SELECT email FROM users WHERE id = %s", (referrer_id,))
        ).fetchone()
        told = {
            "code": code.strip().upper(),
            "bonus_usd": f"{rules.referrer_bonus_usd:f}",
            "minimum_usd": f"{rules.min_purchase_usd:f}",
        }
        if row is not None:
            await queue_mail(
                connection,
                "referral_signup",
                row[0],
                told,
                ref=f"referral_signup:{user_id}",
                user_id=referrer_id,
            )


def choose_trial(trials: Mapping[str, TrialFile], partner_code: str | None) -> TrialFile | None:
    """A partner's with its code, else the one for everybody if it begins with the account."""
    if partner_code:
        wanted = partner_code.strip().upper()
        found = next((trial for trial in trials.values() if trial.code == wanted), None)
        if found is not None:
            return found
    trial = trials.get("default")
    return trial if trial is not None and trial.starts == "sign_up" and trial.active else None

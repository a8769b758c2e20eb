"""What restricts a trial and what ends that. Apart from the rest of trials, because keys, plans and credit need it."""

from collections.abc import Sequence
from dataclasses import astuple
from decimal import Decimal
from typing import Any, LiteralString

from engine.call import TrialTerms
from engine.storage.postgres import Connection, count_change

TRIAL_COLUMNS: LiteralString = (
    "jsonb_build_array(extract(epoch FROM r.started_at)::float8, extract(epoch FROM r.ends_at)::float8,"
    " r.credit_usd::text, r.day_usd::text, r.tokens, r.requests, r.concurrency)"
)
"""The terms of a row of `trials r` in the order of TrialTerms."""


def read_terms(row: Sequence[Any] | None) -> TrialTerms | None:
    if row is None:
        return None
    started_at, ends_at, credit_usd, day_usd, *numbers = row
    day = None if day_usd is None else Decimal(day_usd)
    return TrialTerms(started_at, ends_at, Decimal(credit_usd), day, *numbers)


def write_terms(terms: TrialTerms | None) -> list[Any] | None:
    """As they are kept in files: amounts as text."""
    if terms is None:
        return None
    return [str(value) if isinstance(value, Decimal) else value for value in astuple(terms)]


async def lift_trial(connection: Connection, payer: str, by: str) -> bool:
    """Whoever has paid, or was given money of one's own, is not held to a trial's numbers any more.

    What is left of the trial's credit stays until the trial would have ended. False: there was no trial to lift.
    """
    kind, _, user_id = payer.partition(":")
    if kind != "user":
        return False
    n = await count_change(connection)
    lifted = await connection.execute(
        "UPDATE trials SET lifted_at = now(), lifted_by = %s WHERE user_id = %s AND lifted_at IS NULL",
        (by, user_id),
    )
    if lifted.rowcount:
        await connection.execute("UPDATE users SET changed_n = %s WHERE id = %s", (n, user_id))
    return bool(lifted.rowcount)

"""Trials: begun once for each person, restricted by the numbers of the day they began, ended by time.

A trial's credit is money of the ledger: it lies in the allowance and what is left of it expires with the trial. A
person is known by hashes that stay when the account is erased. Works inside the caller's transaction.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, LiteralString

from psycopg.rows import class_row

from engine.config.schema_trial import TrialFile
from engine.errors import NotAllowed
from engine.storage.gift_mails import tell_credit_added
from engine.storage.ledger import grant, read_balance, set_allowance
from engine.storage.persons import list_marks
from engine.storage.plan_terms import end_plan, put_on_plan, read_term
from engine.storage.postgres import Connection, count_change
from engine.storage.secrets import KeyRing

ZERO = Decimal(0)
_COLUMNS: LiteralString = (
    "user_id, trial, code, started_at, ends_at, credit_usd, day_usd, tokens, requests, concurrency, lifted_at,"
    " closed_at"
)
_ADD: LiteralString = (
    "INSERT INTO trials (user_id, trial, code, ends_at, credit_usd, day_usd, tokens, requests, concurrency)"
    " VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s) ON CONFLICT DO NOTHING"
)
TOKENS: LiteralString = (
    "coalesce(sum(coalesce((tokens->>'input')::bigint, 0) + coalesce((tokens->>'cached_input')::bigint, 0)"
    " + coalesce((tokens->>'cache_write')::bigint, 0) + coalesce((tokens->>'cache_write_1h')::bigint, 0)"
    " + coalesce((tokens->>'audio_input')::bigint, 0) + coalesce((tokens->>'output')::bigint, 0)"
    " + coalesce((tokens->>'reasoning')::bigint, 0) + coalesce((tokens->>'audio_output')::bigint, 0)), 0)::bigint"
)
"""All tokens of call records."""
_USAGE: LiteralString = (
    f"SELECT count(*), {TOKENS}, coalesce(sum(cost_usd), 0)"
    " FROM call_records WHERE user_id = %(user)s AND started_at >= %(since)s AND started_at < %(until)s"
    " AND attempts <> '[]'"
)
_LAST = datetime(9999, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Trial:
    user_id: str
    trial: str
    code: str
    started_at: datetime
    ends_at: datetime
    credit_usd: Decimal
    day_usd: Decimal | None
    tokens: int
    requests: int
    concurrency: int | None
    lifted_at: datetime | None
    """When the person paid: from then on nothing of it restricts anybody."""
    closed_at: datetime | None

    def is_over(self, now: datetime) -> bool:
        return now >= self.ends_at


@dataclass(frozen=True, slots=True)
class Used:
    """What calls came to."""

    requests: int
    tokens: int
    cost_usd: Decimal


async def read_trial(connection: Connection, user_id: str) -> Trial | None:
    async with connection.cursor(row_factory=class_row(Trial)) as cursor:
        await cursor.execute(f"SELECT {_COLUMNS} FROM trials WHERE user_id = %s", (user_id,))
        return await cursor.fetchone()


async def start_trial(connection: Connection, ring: KeyRing, user_id: str, trial: TrialFile) -> Trial:
    """Begin a trial. Raises NotAllowed, and then nothing was changed that the caller's transaction does not undo."""
    if not trial.active:
        raise NotAllowed("this trial cannot be begun any more", code="trial_closed")
    await count_change(connection)
    payer = f"user:{user_id}"
    await _refuse_whoever_needs_none(connection, payer)
    marks = await list_marks(connection, ring, user_id)
    if not marks:
        raise NotAllowed("a trial needs an address or an identity that was proven", code="trial_needs_proof")
    ends_at = datetime.now(UTC) + timedelta(days=trial.days)
    numbers = (trial.credit_usd, trial.day_usd, trial.tokens, trial.requests, trial.concurrency)
    added = await connection.execute(_ADD, (user_id, trial.trial, trial.code or "", ends_at, *numbers))
    marked = await connection.execute(
        "INSERT INTO trial_marks (mark) SELECT unnest(%s::bytea[]) ON CONFLICT DO NOTHING", (sorted(marks),)
    )
    if not added.rowcount or marked.rowcount < len(marks):
        raise NotAllowed("everybody has one trial, and this person had it", code="trial_used")
    await _refuse_too_many(connection, trial)
    await _open(connection, payer, trial, ends_at)
    begun = await read_trial(connection, user_id)
    assert begun is not None, "it was added above"
    return begun


async def _refuse_whoever_needs_none(connection: Connection, payer: str) -> None:
    balance, term = await read_balance(connection, payer), await read_term(connection, payer)
    if balance.credit_usd > 0 or (term is not None and term.allowance_usd > 0):
        raise NotAllowed("who has credit or a paid plan needs no trial", code="trial_not_needed")


async def _refuse_too_many(connection: Connection, trial: TrialFile) -> None:
    if trial.max_persons is None:
        return
    row = await (
        await connection.execute("SELECT count(*) FROM trials WHERE trial = %s", (trial.trial,))
    ).fetchone()
    if row is not None and row[0] > trial.max_persons:
        raise NotAllowed("this trial has been given to as many as may have it", code="trial_closed")


async def _open(connection: Connection, payer: str, trial: TrialFile, ends_at: datetime) -> None:
    if trial.credit_usd:
        ref, user_id = f"trial:{payer}", payer.partition(":")[2]
        balance = await grant(
            connection,
            payer,
            trial.credit_usd,
            ref=ref,
            kind="trial",
            source="house:trials",
            pot="allowance",
            description=trial.title,
            metadata={"trial": trial.trial},
        )
        if balance is not None:
            await tell_credit_added(
                connection, user_id, trial.credit_usd, balance, ref=ref, reason=trial.title
            )
    if trial.on_plan is not None:
        row = await (
            await connection.execute("SELECT plan FROM users WHERE id = %s", (payer.partition(":")[2],))
        ).fetchone()
        before = row[0] if row is not None else ""
        await put_on_plan(
            connection, payer, trial.on_plan, source="trial", ends_at=ends_at, falls_back_to=before
        )
    await touch_user(connection, payer.partition(":")[2])


async def touch_user(connection: Connection, user_id: str) -> None:
    """Every worker reads the user's keys anew within a second."""
    n = await count_change(connection)
    await connection.execute("UPDATE users SET changed_n = %s WHERE id = %s", (n, user_id))


async def end_trial_now(connection: Connection, user_id: str) -> bool:
    """Administrators may end one before its time. False: there is none that runs."""
    await count_change(connection)
    ended = await connection.execute(
        "UPDATE trials SET ends_at = now() WHERE user_id = %s AND ends_at > now()", (user_id,)
    )
    if not ended.rowcount:
        return False
    await touch_user(connection, user_id)
    await close_trial(connection, user_id)
    return True


async def close_ended_trials(connection: Connection, most: int = 200) -> list[str]:
    """Whose trials are over by now; what was left of their credit has expired."""
    rows = await (
        await connection.execute(
            "SELECT user_id FROM trials WHERE closed_at IS NULL AND ends_at <= now() ORDER BY ends_at LIMIT %s",
            (most,),
        )
    ).fetchall()
    closed = []
    for (user_id,) in rows:
        async with connection.transaction():
            if await close_trial(connection, user_id):
                closed.append(user_id)
    return closed


async def close_trial(connection: Connection, user_id: str) -> bool:
    """False: another worker has closed it."""
    await count_change(connection)
    closed = await connection.execute(
        "UPDATE trials SET closed_at = now() WHERE user_id = %s AND closed_at IS NULL AND ends_at <= now()",
        (user_id,),
    )
    if not closed.rowcount:
        return False
    payer = f"user:{user_id}"
    term = await read_term(connection, payer)
    if term is None or not term.allowance_usd:  # a plan's allowance has replaced the trial's already
        await set_allowance(
            connection, payer, ZERO, ref=f"trial_end:{payer}", kind="trial", description="the trial is over"
        )
    if term is not None and term.source == "trial":
        await end_plan(connection, payer, ref=f"trial_plan_end:{payer}", kind="trial")
    return True


async def sum_usage(
    connection: Connection, user_id: str, since: datetime, until: datetime | None = None
) -> Used:
    """What a user's calls came to; only those that asked somebody count."""
    asked: dict[str, Any] = {"user": user_id, "since": since, "until": until or _LAST}
    row = await (await connection.execute(_USAGE, asked)).fetchone()
    assert row is not None, "a sum has one row"
    return Used(*row)

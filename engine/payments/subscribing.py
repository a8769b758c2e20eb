"""Subscriptions: which plan a payer has, and the allowance of each paid period, once for each invoice.

As with payments, subscriptions and invoices are facts in their newest version, and what they come to is settled: the
newest live subscription gives the plan; each paid invoice is booked once. The first invoice of a newer period sets the
allowance, further ones of the same period add to it, and one that comes after its time is booked as given and expired:
so every order of the same events leaves the same accounts.
"""

from collections.abc import Mapping
from decimal import Decimal
from typing import LiteralString

from engine.config.schema_plan import PlanFile
from engine.payments.allowances import find_plan_sold, read_what_it_brings
from engine.payments.handling import DONE, IGNORED, FetchFirst, Handle, Telling
from engine.payments.objects import Invoice, Subscription, read_invoice, read_subscription
from engine.storage.ledger import EXPIRED, grant, set_allowance, take_back
from engine.storage.outbox import queue_mail
from engine.storage.payment_rows import Row, fetch_row, fetch_rows, find_payer, list_people
from engine.storage.plan_terms import end_plan, put_on_plan, read_term
from engine.storage.postgres import Connection

NOTHING = Decimal(0)
LIVE = frozenset({"active", "trialing", "past_due"})
OVER = frozenset({"canceled", "incomplete_expired"})
DELETED, CHANGED, MADE = 2, 1, 0
_STAGES = {"draft": 0, "open": 1, "uncollectible": 2, "void": 2, "paid": 3}
_KEEP: LiteralString = (
    "INSERT INTO stripe_subscriptions (subscription_id, payer, customer_id, status, product_id, price_id, item_id,"
    " period_start, period_end, cancel_at_period_end, canceled_at, schedule_id, started_at, told_at, told_rank,"
    " told_by) VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)"
    " ON CONFLICT (subscription_id) DO UPDATE SET status = excluded.status, product_id = excluded.product_id,"
    " price_id = excluded.price_id, item_id = excluded.item_id, period_start = excluded.period_start,"
    " period_end = excluded.period_end, cancel_at_period_end = excluded.cancel_at_period_end,"
    " canceled_at = excluded.canceled_at, schedule_id = excluded.schedule_id, told_at = excluded.told_at,"
    " told_rank = excluded.told_rank, told_by = excluded.told_by, updated_at = now()"
)
_KEEP_INVOICE: LiteralString = (
    "INSERT INTO stripe_invoices AS i (invoice_id, subscription_id, payer, stage, status, plan, allowance_usd,"
    " period_end, paid_cents, currency, made_at) VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)"
    " ON CONFLICT (invoice_id) DO UPDATE SET stage = excluded.stage, status = excluded.status, plan = excluded.plan,"
    " allowance_usd = excluded.allowance_usd, period_end = excluded.period_end, paid_cents = excluded.paid_cents"
    " WHERE excluded.stage > i.stage"
)
_UNBOOKED: LiteralString = (
    "SELECT * FROM stripe_invoices WHERE payer = %s AND booked = '' AND stage = 3 AND plan <> ''"
    " ORDER BY period_end, made_at, invoice_id"
)


class Subscriber:
    @property
    def handles(self) -> Mapping[str, Handle]:
        told = ("created", "updated", "deleted", "paused", "resumed", "pending_update_applied",
                "pending_update_expired", "trial_will_end")  # fmt: skip
        billed = ("created", "finalized", "finalization_failed", "paid", "payment_action_required",
                  "payment_failed", "payment_succeeded", "updated", "voided", "marked_uncollectible")  # fmt: skip
        return {
            **{f"customer.subscription.{word}": self._note_subscription for word in told},
            **{f"invoice.{word}": self._note_invoice for word in billed},
        }

    async def _note_subscription(self, telling: Telling) -> str:
        told, connection = telling.told, telling.connection
        fetched = telling.fetched.get(told.object_id)
        found = read_subscription(fetched or told.object)
        payer = await find_payer(connection, found.customer_id)
        if not payer:
            return IGNORED
        rank = _rank(told.type, found)
        kept = await fetch_row(
            connection,
            "SELECT * FROM stripe_subscriptions WHERE subscription_id = %s FOR UPDATE",
            (found.subscription_id,),
        )
        if kept is not None and fetched is None:
            if _is_older(kept, told.created, rank):
                return DONE
            if (told.created, rank) == (kept["told_at"], kept["told_rank"]) and rank == CHANGED:
                raise FetchFirst("subscriptions", found.subscription_id)
        await _keep(connection, payer, found, (told.created, rank, told.event_id))
        await settle_standing(connection, payer, telling.books.plans)
        return DONE

    async def _note_invoice(self, telling: Telling) -> str:
        connection, plans = telling.connection, telling.books.plans
        invoice = read_invoice(telling.told.object)
        payer = await find_payer(connection, invoice.customer_id)
        if not payer or not invoice.subscription_id:
            return IGNORED
        brings = read_what_it_brings(invoice, plans)
        stage = _STAGES.get(invoice.status, 0)
        await connection.execute(
            _KEEP_INVOICE,
            (
                invoice.invoice_id,
                invoice.subscription_id,
                payer,
                stage,
                invoice.status,
                brings.plan,
                brings.allowance_usd,
                brings.period_end,
                invoice.paid_cents,
                invoice.currency,
                invoice.made_at,
            ),
        )
        if telling.told.type == "invoice.payment_failed":
            await _tell_failed(connection, payer, invoice, telling.told.object.get("amount_due"))
        if stage == _STAGES["paid"]:
            await settle_standing(connection, payer, plans)
        return DONE


def _rank(kind: str, found: Subscription) -> int:
    if kind.endswith("deleted") or found.status in OVER:
        return DELETED
    return MADE if kind.endswith("created") else CHANGED


def _is_older(kept: Row, created: int, rank: int) -> bool:
    """Nothing comes after an end; otherwise time decides, and within a second what an event is."""
    if (rank == DELETED) != (kept["told_rank"] == DELETED):
        return bool(kept["told_rank"] == DELETED)
    return (created, rank) < (kept["told_at"], kept["told_rank"])


async def _keep(
    connection: Connection, payer: str, found: Subscription, version: tuple[int, int, str]
) -> None:
    await connection.execute(
        _KEEP,
        (
            found.subscription_id,
            payer,
            found.customer_id,
            found.status,
            found.product_id,
            found.price_id,
            found.item_id,
            found.period_start,
            found.period_end,
            found.cancel_at_period_end,
            found.canceled_at,
            found.schedule_id,
            found.started_at,
            *version,
        ),
    )


async def settle_standing(connection: Connection, payer: str, plans: Mapping[str, PlanFile]) -> None:
    """Make plan and allowance what the payer's subscriptions and paid invoices come to."""
    await connection.execute(
        "INSERT INTO stripe_standings (payer) VALUES (%s) ON CONFLICT DO NOTHING", (payer,)
    )
    standing = await fetch_row(
        connection, "SELECT * FROM stripe_standings WHERE payer = %s FOR UPDATE", (payer,)
    )
    assert standing is not None, "it was made above"
    subscriptions = await fetch_rows(
        connection,
        "SELECT * FROM stripe_subscriptions WHERE payer = %s ORDER BY started_at DESC, subscription_id DESC",
        (payer,),
    )
    by_id = {row["subscription_id"]: row for row in subscriptions}
    live = [row for row in subscriptions if row["status"] in LIVE and _find_plan(plans, row) is not None]
    governing = live[0] if live else None
    plan = _find_plan(plans, governing) if governing is not None else None
    await _set_plan(connection, standing, plan, plans)
    standing["plan"] = "" if plan is None else plan.plan
    for invoice in await fetch_rows(connection, _UNBOOKED, (payer,)):
        await _book(connection, standing, invoice, governing, by_id.get(invoice["subscription_id"]))
    if governing is None and standing["subscription_id"]:
        await _forfeit(connection, standing)
    await connection.execute(
        "UPDATE stripe_standings SET plan = %s, subscription_id = %s, period_end = %s WHERE payer = %s",
        (standing["plan"], standing["subscription_id"], standing["period_end"], payer),
    )


def _find_plan(plans: Mapping[str, PlanFile], row: Row) -> PlanFile | None:
    return find_plan_sold(plans, row["product_id"], row["price_id"])


async def _set_plan(
    connection: Connection, standing: Row, plan: PlanFile | None, plans: Mapping[str, PlanFile]
) -> None:
    payer, old = standing["payer"], standing["plan"]
    if plan is not None and plan.plan != old:
        await put_on_plan(connection, payer, plan.plan, source="stripe")
        before = plans.get(old)
        if before is not None and plan.price.month > before.price.month:
            data = {"plan": plan.name_for_people, "old_plan": before.name_for_people}
            await _write(
                connection, payer, "plan_upgraded", data, f"stripe:upgraded:{plan.plan}:{_at(standing)}"
            )
    elif plan is None and old:
        term = await read_term(connection, payer)
        if term is not None and term.source == "stripe":  # what an administrator gave since stays
            ref = f"stripe:ended:{_at(standing)}"
            await end_plan(connection, payer, ref=ref, kind="subscription_cancellation")
        title = plans[old].name_for_people if old in plans else old
        await _write(
            connection, payer, "subscription_expired", {"plan": title}, f"stripe:over:{_at(standing)}"
        )


def _at(standing: Row) -> str:
    return f"{standing['payer']}:{standing['subscription_id']}:{standing['period_end']}"


async def _book(
    connection: Connection, standing: Row, invoice: Row, governing: Row | None, own: Row | None
) -> None:
    """Set, add, or note as late; an invoice whose subscription nobody has told of yet, or that is not live, waits."""
    payer, ref, amount = invoice["payer"], f"stripe:invoice:{invoice['invoice_id']}", invoice["allowance_usd"]
    is_governing = governing is not None and governing["subscription_id"] == invoice["subscription_id"]
    is_first = standing["subscription_id"] != invoice["subscription_id"]
    about = f"allowance of {invoice['plan']}"
    if is_governing and (is_first or invoice["period_end"] > standing["period_end"]):
        booked = "set"
        await set_allowance(
            connection, payer, amount, ref=ref, kind="subscription_renewal", description=about
        )
        standing |= {"subscription_id": invoice["subscription_id"], "period_end": invoice["period_end"]}
    elif is_governing and invoice["period_end"] == standing["period_end"]:
        booked = "added"
        await _add(connection, payer, amount, ref, about)
    elif is_governing or _is_over(own, governing):
        booked = "late"
        await _add(connection, payer, amount, ref, about)
        await take_back(
            connection, payer, amount, ref=f"{ref}:late", kind="subscription_renewal", target=EXPIRED,
            pot="allowance", description="its period was over",
        )  # fmt: skip
    else:
        return
    await connection.execute(
        "UPDATE stripe_invoices SET booked = %s WHERE invoice_id = %s", (booked, invoice["invoice_id"])
    )


def _is_over(own: Row | None, governing: Row | None) -> bool:
    """Whether what the invoice paid for has ended, or another subscription has come after it."""
    if own is None:
        return False
    newer = governing is not None and (governing["started_at"], governing["subscription_id"]) > (
        own["started_at"],
        own["subscription_id"],
    )
    return own["status"] in OVER or newer


async def _add(connection: Connection, payer: str, amount: Decimal, ref: str, about: str) -> None:
    await grant(
        connection, payer, amount, ref=ref, kind="subscription_upgrade", source="house:grants", pot="allowance",
        description=about,
    )  # fmt: skip


async def _forfeit(connection: Connection, standing: Row) -> None:
    await set_allowance(
        connection,
        standing["payer"],
        NOTHING,
        ref=f"stripe:forfeit:{_at(standing)}",
        kind="subscription_cancellation",
        description="the subscription ended",
    )
    standing |= {"subscription_id": "", "period_end": 0}


async def _tell_failed(connection: Connection, payer: str, invoice: Invoice, due: object) -> None:
    paid = await fetch_row(
        connection,
        "SELECT 1 AS paid FROM stripe_invoices WHERE invoice_id = %s AND stage = 3",
        (invoice.invoice_id,),
    )
    if paid is None:
        data = {"amount_usd": str(Decimal(str(due or 0)).scaleb(-2)), "reason": "the subscription's invoice"}
        await _write(connection, payer, "payment_failed", data, f"stripe:failed:{invoice.invoice_id}")


async def _write(
    connection: Connection, payer: str, template: str, data: Mapping[str, str], ref: str
) -> None:
    for user_id, address in await list_people(connection, payer):
        await queue_mail(connection, template, address, data, ref=f"{ref}:{user_id}", user_id=user_id)

"""The standing of a payer: which plan subscriptions give, and the allowance of each paid period, once for each invoice.

The newest live subscription gives the plan; each paid invoice is booked once. The first invoice of a newer period sets
the allowance, further ones of the same period add to it, and one that comes after its time is booked as given and
expired: so every order of the same events leaves the same accounts. The payer's plan term follows in the same
transaction (storage/plan_terms.py).
"""

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import LiteralString

from engine.config.schema_plan import PlanFile
from engine.payments.allowances import find_month_end, find_plan_sold
from engine.payments.invoice_refunds import settle_given_back
from engine.storage.ledger import EXPIRED, grant, read_balance, set_allowance, take_back
from engine.storage.outbox import queue_mail
from engine.storage.payment_rows import Row, fetch_row, fetch_rows, list_people
from engine.storage.plan_terms import follow_subscription, read_term
from engine.storage.postgres import Connection

NOTHING = Decimal(0)
LIVE = frozenset({"active", "trialing", "past_due"})
OVER = frozenset({"canceled", "incomplete_expired"})
_KEEP_STANDING: LiteralString = (
    "UPDATE stripe_standings SET plan = %(plan)s, subscription_id = %(subscription_id)s,"
    " period_end = %(period_end)s, allowance_usd = %(allowance_usd)s, allowance_until = %(allowance_until)s,"
    " ends_at = %(ends_at)s WHERE payer = %(payer)s"
)
_BEGAN: LiteralString = (
    "SELECT min(coalesce(period_start, period_end)) AS began FROM stripe_invoices WHERE payer = %(payer)s"
    " AND subscription_id = %(subscription_id)s AND period_end = %(period_end)s AND booked IN ('set', 'added')"
)
_UNBOOKED: LiteralString = (
    "SELECT * FROM stripe_invoices WHERE payer = %s AND booked = '' AND stage = 3 AND plan <> ''"
    " ORDER BY period_end, made_at, invoice_id"
)


async def settle_standing(connection: Connection, payer: str, plans: Mapping[str, PlanFile]) -> None:
    """Make plan and allowance what the payer's subscriptions and paid invoices come to; the plan term follows."""
    await connection.execute(
        "INSERT INTO stripe_standings (payer) VALUES (%s) ON CONFLICT DO NOTHING", (payer,)
    )
    standing = await fetch_row(
        connection, "SELECT * FROM stripe_standings WHERE payer = %s FOR UPDATE", (payer,)
    )
    assert standing is not None, "it was made above"
    before = dict(standing)
    subscriptions = await fetch_rows(
        connection,
        "SELECT * FROM stripe_subscriptions WHERE payer = %s ORDER BY started_at DESC, subscription_id DESC",
        (payer,),
    )
    live = [row for row in subscriptions if row["status"] in LIVE and _find_plan(plans, row) is not None]
    governing = live[0] if live else None
    plan = _find_plan(plans, governing) if governing is not None else None
    standing["plan"] = "" if plan is None else plan.plan
    standing["ends_at"] = (
        governing["period_end"] if governing is not None and governing["cancel_at_period_end"] else None
    )
    is_new = standing["plan"] not in ("", before["plan"])
    await _book_invoices(connection, standing, subscriptions, governing, is_new=is_new)
    if governing is None:
        standing |= {
            "subscription_id": "",
            "period_end": 0,
            "allowance_usd": NOTHING,
            "allowance_until": None,
        }
    await settle_given_back(connection, standing)
    await connection.execute(_KEEP_STANDING, standing)
    await follow_subscription(connection, payer, ref=f"stripe:ended:{_at(before)}", is_new=is_new)
    await _tell_change(connection, before, plan, plans)


async def _book_invoices(
    connection: Connection,
    standing: Row,
    subscriptions: Sequence[Row],
    governing: Row | None,
    *,
    is_new: bool,
) -> None:
    payer = standing["payer"]
    by_id = {row["subscription_id"]: row for row in subscriptions}
    term = await read_term(connection, payer)
    least = NOTHING
    if term is not None and term.source == "admin" and not is_new:  # what was given beside it does not expire
        least = (await read_balance(connection, payer)).allowance_usd
    for invoice in await fetch_rows(connection, _UNBOOKED, (payer,)):
        own = by_id.get(invoice["subscription_id"])
        await _book(connection, standing, invoice, governing, own, least)
    standing["allowance_until"] = await _find_allowance_until(connection, standing)


async def _find_allowance_until(connection: Connection, standing: Row) -> int | None:
    """The end of the month that an allowance is for; later months of a year are set beside the events."""
    row = await fetch_row(connection, _BEGAN, standing)
    if row is None or row["began"] is None:
        return None
    first = find_month_end(row["began"], standing["period_end"])
    return max(standing["allowance_until"] or first, first)


def _find_plan(plans: Mapping[str, PlanFile], row: Row) -> PlanFile | None:
    return find_plan_sold(plans, row["product_id"], row["price_id"])


async def _tell_change(
    connection: Connection, before: Row, plan: PlanFile | None, plans: Mapping[str, PlanFile]
) -> None:
    payer, old = before["payer"], plans.get(before["plan"])
    if plan is None and before["plan"]:
        title = old.name_for_people if old is not None else before["plan"]
        await write_people(
            connection, payer, "subscription_expired", {"plan": title}, f"stripe:over:{_at(before)}"
        )
    elif plan is not None and old is not None and plan.price.month > old.price.month:
        data = {"plan": plan.name_for_people, "old_plan": old.name_for_people}
        await write_people(
            connection, payer, "plan_upgraded", data, f"stripe:upgraded:{plan.plan}:{_at(before)}"
        )


def _at(standing: Row) -> str:
    return f"{standing['payer']}:{standing['subscription_id']}:{standing['period_end']}"


async def _book(
    connection: Connection,
    standing: Row,
    invoice: Row,
    governing: Row | None,
    own: Row | None,
    least: Decimal,
) -> None:
    """Set, add, or note as late; an invoice whose subscription nobody has told of yet, or that is not live, waits."""
    payer, ref, amount = invoice["payer"], f"stripe:invoice:{invoice['invoice_id']}", invoice["allowance_usd"]
    is_governing = governing is not None and governing["subscription_id"] == invoice["subscription_id"]
    is_first = standing["subscription_id"] != invoice["subscription_id"]
    about = f"allowance of {invoice['plan']}"
    if is_governing and (is_first or invoice["period_end"] > standing["period_end"]):
        booked = "set"
        await set_allowance(
            connection,
            payer,
            max(amount, least),
            ref=ref,
            kind="subscription_renewal",
            description=about,
        )
        standing |= {
            "subscription_id": invoice["subscription_id"],
            "period_end": invoice["period_end"],
            "allowance_usd": amount,
            "allowance_until": None,
        }
    elif is_governing and invoice["period_end"] == standing["period_end"]:
        booked = "added"
        await _add(connection, payer, amount, ref, about)
        standing["allowance_usd"] += amount
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


async def write_people(
    connection: Connection, payer: str, template: str, data: Mapping[str, str], ref: str
) -> None:
    for user_id, address in await list_people(connection, payer):
        await queue_mail(connection, template, address, data, ref=f"{ref}:{user_id}", user_id=user_id)

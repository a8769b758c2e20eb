"""Everything of payments, put together where a key is configured."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from engine.config.schema_commerce import PackageFile
from engine.config.schema_payments import PaymentsFile, ReconcileEntry, StripeEntry
from engine.config.schema_plan import PlanFile
from engine.config.snapshot import Snapshot
from engine.payments.crediting import PurchaseMade, Settler, TopUpBooked
from engine.payments.desk import PaymentDesk
from engine.payments.handling import EventHandler
from engine.payments.inbox import Inbox
from engine.payments.interfaces import Stripe
from engine.payments.off_session import OffSessionCharges
from engine.payments.offers import Books
from engine.payments.reconciling import Reconciler
from engine.payments.subscribing import Subscriber
from engine.payments.subscription_desk import SubscriptionDesk
from engine.payments.yearly import renew_yearly
from engine.secret import Secret
from engine.storage.chores import Chore
from engine.storage.postgres import Database
from engine.storage.secrets import KeyRing

_YEARLY_EACH_S = 600.0
_COMPARE_WITHIN_S = 3600.0


def read_books(snapshot: Snapshot) -> Books:
    return Books(
        snapshot.declared(PaymentsFile)["default"],
        snapshot.declared(PlanFile),
        snapshot.declared(PackageFile),
    )


@dataclass(frozen=True, slots=True)
class Payments:
    """The rooms of payments that others are handed, and what they counted."""

    stripe: Stripe
    desk: PaymentDesk
    subscriptions: SubscriptionDesk
    inbox: Inbox
    handler: EventHandler
    flags: Mapping[str, int]
    charges: OffSessionCharges
    reconciler: Reconciler


@dataclass(frozen=True, slots=True)
class Hooks:
    """Who else is told of what is booked, in its transaction."""

    purchase_made: PurchaseMade | None = None
    top_up_booked: TopUpBooked | None = None


NO_HOOKS = Hooks()


def build_payments(
    database: Database,
    ring: KeyRing,
    stripe: Stripe,
    read: Callable[[], Books],
    entry: StripeEntry,
    hooks: Hooks = NO_HOOKS,
) -> Payments:
    flags: dict[str, int] = {}

    def count_flag(flag: str) -> None:
        flags[flag] = flags.get(flag, 0) + 1

    handler = EventHandler(stripe, Settler(hooks.purchase_made, count_flag, hooks.top_up_booked))
    subscriber = Subscriber()
    handler.add(subscriber.handles, subscriber.settle_intent)
    inbox = Inbox(database, ring, handler, read, live=is_live(entry))
    desk = PaymentDesk(database, ring, stripe, handler, read, entry)
    return Payments(
        stripe,
        desk,
        SubscriptionDesk(desk),
        inbox,
        handler,
        flags,
        OffSessionCharges(database, stripe, handler, read),
        Reconciler(database, stripe, inbox, handler),
    )


def list_payment_chores(
    payments: Payments, database: Database, read: Callable[[], Books], entry: ReconcileEntry
) -> Sequence[Chore]:
    """What is done now and then where payments are configured."""

    async def compare() -> None:
        await payments.reconciler.forget_payloads()
        since = int(time.time() - entry.days * 86400)
        await payments.reconciler.compare(since, replay=entry.replay)

    async def renew() -> None:
        await renew_yearly(database, read, int(time.time()))

    yearly = Chore("payments.yearly", _YEARLY_EACH_S, renew)
    if not entry.each_h:
        return (yearly,)
    return (yearly, Chore("payments.reconcile", entry.each_h * 3600, compare, takes_s=_COMPARE_WITHIN_S))


def is_live(entry: StripeEntry) -> bool:
    """Whether the key moves real money: events of the other kind are not believed."""
    return isinstance(entry.secret_key, Secret) and "_live_" in entry.secret_key.reveal()[:9]

"""Everything of payments, put together where a key is configured."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from engine.config.schema_commerce import PackageFile
from engine.config.schema_payments import PaymentsFile, StripeEntry
from engine.config.schema_plan import PlanFile
from engine.config.snapshot import Snapshot
from engine.payments.crediting import PurchaseMade, Settler
from engine.payments.desk import PaymentDesk
from engine.payments.handling import EventHandler
from engine.payments.inbox import Inbox
from engine.payments.interfaces import Stripe
from engine.payments.offers import Books
from engine.payments.subscribing import Subscriber
from engine.payments.subscription_desk import SubscriptionDesk
from engine.secret import Secret
from engine.storage.postgres import Database
from engine.storage.secrets import KeyRing


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


def build_payments(
    database: Database,
    ring: KeyRing,
    stripe: Stripe,
    read: Callable[[], Books],
    entry: StripeEntry,
    purchase_made: PurchaseMade | None = None,
) -> Payments:
    flags: dict[str, int] = {}

    def count_flag(flag: str) -> None:
        flags[flag] = flags.get(flag, 0) + 1

    handler = EventHandler(stripe, Settler(purchase_made, count_flag))
    handler.add(Subscriber().handles)
    inbox = Inbox(database, ring, stripe, handler, read, live=is_live(entry))
    desk = PaymentDesk(database, ring, stripe, handler, read, entry)
    return Payments(stripe, desk, SubscriptionDesk(desk), inbox, handler, flags)


def is_live(entry: StripeEntry) -> bool:
    """Whether the key moves real money: events of the other kind are not believed."""
    return isinstance(entry.secret_key, Secret) and "_live_" in entry.secret_key.reveal()[:9]

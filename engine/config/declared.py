"""Kinds of things that need no compiling: a file is checked against its schema, and that is what rooms read.

A kind is one row here. Its files lie in `policies.d/`, are named by the key of the kind (`plan: pro`), and are read
with `snapshot.declared(PlanFile)`, by name. `extends`, replacing shipped things, and problems with file, line and
column come with it.
"""

from collections.abc import Mapping

from engine.config.schema_anonymous import AnonymousFile
from engine.config.schema_base import Strict
from engine.config.schema_commerce import (
    CouponsFile,
    CreditsFile,
    NoticesFile,
    PackageFile,
    ReferralsFile,
    TopUpsFile,
)
from engine.config.schema_edge import EdgeFile
from engine.config.schema_login import LoginFile, MailDomainsFile
from engine.config.schema_mail import MailFile
from engine.config.schema_payments import PaymentsFile
from engine.config.schema_plan import PlanFile
from engine.config.schema_prices import PricesFile
from engine.config.schema_queue import QueueFile
from engine.config.schema_role import RoleFile
from engine.config.schema_trial import TrialFile

DECLARED: Mapping[str, type[Strict]] = {
    "anonymous": AnonymousFile,
    "edge": EdgeFile,
    "mail": MailFile,
    "login": LoginFile,
    "mail_domains": MailDomainsFile,
    "plan": PlanFile,
    "prices": PricesFile,
    "queue": QueueFile,
    "trial": TrialFile,
    "package": PackageFile,
    "coupons": CouponsFile,
    "referrals": ReferralsFile,
    "credits": CreditsFile,
    "notices": NoticesFile,
    "top_ups": TopUpsFile,
    "payments": PaymentsFile,
    "role": RoleFile,
}
"""The key that names a thing of the kind, and its schema."""

KEPT = frozenset({"role"})
"""Kinds whose shipped things stay without `include.builtin`: nobody would be an administrator."""

REFERENCES: tuple[tuple[str, tuple[str, ...], str], ...] = (
    ("login", ("new_user", "plan"), "plan"),
    ("login", ("refuse_mail_domains",), "mail_domains"),
)
"""Kind, a key of it, and the kind of the things that are named there, each of which must exist."""

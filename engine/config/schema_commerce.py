"""policies.d/commerce/*.yaml: packages of credit, and the rules of coupons, referrals, grants, notices and top-ups.

Every default is the shipped file's. Of each kind of rules the one named `default` is in force.
"""

from decimal import Decimal
from typing import Annotated

from pydantic import Field, StringConstraints

from engine.config.schema_base import Count, Name, Seconds, Strict, Usd, described

Days = Annotated[int, Field(ge=0, le=365)]
Word = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]*$", max_length=50)]


class PackageFile(Strict):
    """Credit that is sold in one piece."""

    package: Name = described("the package's name")
    extends: Name | None = described("a package whose keys these go over", None)
    title: str = described("its name for people", "", max_length=100)
    description: str = described("a sentence for people", "", max_length=500)
    price_usd: Usd = described("what it costs, US dollars")
    credit_usd: Usd = described("what it brings, US dollars")
    popular: bool = described("shown as the one that most take", False)
    active: bool = described("whether it is sold", True)


class CouponsFile(Strict):
    """What coupons may be."""

    coupons: Name = described("the name of these rules")
    extends: Name | None = described("rules whose keys these go over", None)
    min_length: Count = described("fewest letters of a code", 3, le=50)
    max_length: Count = described("most letters of a code", 50, le=50)
    max_value_usd: Usd = described("most that one is worth, US dollars", Decimal(1000))
    max_uses: Count = described("most uses of one", 100_000, le=2**31 - 1)
    types: tuple[Word, ...] = described(
        "what they may be for", ("promotional", "referral", "compensation", "partnership"), min_length=1
    )
    tries_per_hour: Count = described("codes that a user may try in an hour", 30)


class ReferralsFile(Strict):
    """What is promised to who brings somebody, and to who is brought."""

    referrals: Name = described("the name of these rules")
    extends: Name | None = described("rules whose keys these go over", None)
    active: bool = described("whether new referrals are taken", True)
    code_length: Annotated[int, Field(ge=6, le=32)] = described("letters of a code", 8)
    max_uses: Count = described("users that one code may bring", 10, le=2**31 - 1)
    referrer_bonus_usd: Usd = described("US dollars for who brought somebody", Decimal(10))
    referee_bonus_usd: Usd = described("US dollars for who was brought", Decimal(10))
    min_purchase_usd: Usd = described(
        "both are given with the first purchase of the new user of at least so much", Decimal(10)
    )
    invite_link: str = described(
        "page that people are sent to; `{code}` stands for the code", "/register?ref={code}", max_length=300
    )
    share_message: str = described(
        "what to say to a friend; `{code}` and `{link}` stand for code and page",
        "Join me: with my code {code} we both get credit. {link}",
        max_length=500,
    )


class CreditsFile(Strict):
    """What administrators may give, and how often accounts may be read."""

    credits: Name = described("the name of these rules")
    extends: Name | None = described("rules whose keys these go over", None)
    max_grant_usd: Usd = described("most that one administrator gives one user at once", Decimal(1000))
    max_day_usd: Usd = described("most that one administrator gives in any 24 hours", Decimal(5000))
    min_reason: Count = described("fewest letters of a reason", 10, le=500)
    max_users: Count = described("most users of one grant in bulk", 100, le=1000)
    balance_per_minute: Count = described("`GET /user/balance` a minute, each user", 60)
    transactions_per_minute: Count = described("`GET /user/credit-transactions` a minute, each user", 30)


class NoticesFile(Strict):
    """When people are told what, where they did not say otherwise."""

    notices: Name = described("the name of these rules")
    extends: Name | None = described("rules whose keys these go over", None)
    low_balance_usd: Usd = described("a balance below this is low", Decimal(5))
    again_after_h: Annotated[float, Field(gt=0, le=8760)] = described(
        "hours until the same is told again", 24
    )
    trial_days: Days = described("days before its end that a trial is reminded of", 1)
    plan_days: Days = described("days before its end that a plan is reminded of", 5)
    usage_alerts: bool = described("whether people get a report each month", True)
    each_s: Seconds = described("how often is looked whom to tell, seconds", 60, ge=1)


class TopUpsFile(Strict):
    """Bounds of automatic top-ups, and what is done when a charge fails."""

    top_ups: Name = described("the name of these rules")
    extends: Name | None = described("rules whose keys these go over", None)
    min_amount_usd: Usd = described("least that is charged", Decimal(5))
    max_amount_usd: Usd = described("most that is charged at once", Decimal(1000))
    max_month_usd: Usd = described("most that a user may allow for a calendar month", Decimal(10_000))
    max_failures: Count = described("failures in a row that switch a top-up off", 3, le=100)
    retry_after_s: Seconds = described("pause after the first failure; each more doubles it", 900)
    lost_after_s: Seconds = described(
        "a charge that nobody answered for is asked for again, under the same reference", 120, ge=30
    )
    each_s: Seconds = described("how often is looked whose balance is low, seconds", 15, ge=1)

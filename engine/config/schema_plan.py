"""policies.d/plans/*.yaml: what a plan costs, allows and brings. Who has which plan stands in the database."""

from decimal import Decimal
from typing import Literal

from engine.config.schema_base import Name, Share, Strict, Usd, described
from engine.config.schema_policy import ScopeLimitEntry


class PlanPrice(Strict):
    month: Usd = described("US dollars for a month, as text", Decimal(0))
    year: Usd | None = described("US dollars for a year, as text; nothing: not sold by the year", None)


class PlanStripe(Strict):
    product: str = described("the id of its product at Stripe; empty: not sold there", "", max_length=100)
    month: str = described("the id of the price of a month", "", max_length=100)
    year: str = described("the id of the price of a year", "", max_length=100)

    @property
    def is_sold(self) -> bool:
        return bool(self.product or self.month or self.year)


class PlanFile(Strict):
    """One plan. The one named `default` is that of everybody who has none."""

    plan: Name = described("the plan's name")
    extends: Name | None = described("a plan whose keys these go over", None)
    title: str = described("its name for people; default: as `plan`", "", max_length=100)
    description: str = described("a sentence for people", "", max_length=500)
    plan_type: Literal["free", "dev", "team", "customize"] = described("how it is sorted in lists", "free")
    price: PlanPrice = described("what it costs", PlanPrice())
    pay_as_you_go: bool = described("calls beyond the allowance are paid from credit", True)
    allowance_usd: Usd = described(
        "US dollars of usage it brings each month; what is left of them does not stay", Decimal(0)
    )
    limits: ScopeLimitEntry = described("quotas of a payer, all keys together", ScopeLimitEntry())
    environments: Share = described("share of the quotas for test, staging and development keys", 0.5)
    priority: Literal["critical", "high", "medium", "low", "background"] = described(
        "whose calls go first when places are few", "medium"
    )
    features: tuple[str, ...] = described("names that programs ask for; `*`: all", ())
    stripe: PlanStripe = described("where Stripe sells it", PlanStripe())
    active: bool = described("shown and given; who has it keeps it", True)

    @property
    def name_for_people(self) -> str:
        return self.title or self.plan

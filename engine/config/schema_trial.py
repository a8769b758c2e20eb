"""policies.d/trials/*.yaml: what a person may try before paying, once."""

from decimal import Decimal
from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from engine.config.schema_base import Count, Name, Strict, Usd, described

PartnerCode = Annotated[str, StringConstraints(pattern=r"^[A-Z0-9_-]{3,50}$")]


class TrialFile(Strict):
    """One trial. The one named `default` is everybody's; one with a `code` belongs to a partner."""

    trial: Name = described("the trial's name")
    extends: Name | None = described("a trial whose keys these go over", None)
    code: PartnerCode | None = described("the partner's code, in capitals; nothing: it needs none", None)
    title: str = described("its name for people", "Trial", max_length=100)
    starts: Literal["sign_up", "request"] = described(
        "when it begins: with the account of a proven person, or when it is asked for", "sign_up"
    )
    days: Annotated[float, Field(gt=0, le=3660)] = described("how long it lasts", 3)
    credit_usd: Usd = described("US dollars of usage; what is left of them ends with it", Decimal(5))
    day_usd: Usd | None = described("US dollars of usage in a day (UTC)", None)
    tokens: Count = described("tokens, in and out", 1_000_000)
    requests: Count = described("calls", 10_000)
    concurrency: Count | None = described("calls in progress at once", 5)
    on_plan: Name | None = described("plan whose quotas and features it has", None)
    max_persons: Count | None = described("how many may have it", None)
    active: bool = described("whether it can be begun; who has it keeps it", True)

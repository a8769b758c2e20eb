"""What clients say about limits: the predecessor's flat fields, and what of a policy's shape they mean."""

from collections.abc import Mapping
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, AwareDatetime, Field, StringConstraints, model_validator
from pydantic_core import PydanticCustomError

from engine.config.networks import read_network
from engine.config.schema_base import Count, Strict
from engine.storage.key_rules import Text

Id = Annotated[Text, StringConstraints(min_length=1, max_length=100)]
Words = Annotated[Text, StringConstraints(max_length=500)]
SPANS = ("minute", "hour", "day", "month")
FLAT: Mapping[str, tuple[str, ...]] = {
    **{f"{kind}_per_{span}": (kind, span) for kind in ("requests", "tokens") for span in SPANS},
    "burst_limit": ("burst",),
    "concurrency_limit": ("concurrency",),
}
"""A flat field, and where it is in a limit."""
WINDOW_SIZE_S = 60


class RateLimits(Strict):
    """Numbers of one key or user. What is left out is not limited by this; null takes a number away."""

    requests_per_minute: Count | None = None
    requests_per_hour: Count | None = None
    requests_per_day: Count | None = None
    requests_per_month: Count | None = None
    tokens_per_minute: Count | None = None
    tokens_per_hour: Count | None = None
    tokens_per_day: Count | None = None
    tokens_per_month: Count | None = None
    burst_limit: Count | None = None
    concurrency_limit: Count | None = None
    window_size_seconds: Annotated[int, Field(ge=60, le=60)] = WINDOW_SIZE_S

    @model_validator(mode="after")
    def _refuse_nothing(self) -> "RateLimits":
        if not self.model_fields_set & set(FLAT):
            raise PydanticCustomError("limits", "at least one number is expected")
        return self


class KeyLimits(RateLimits):
    """The same for the key of this id."""

    key_id: Id


class ManyLimits(Strict):
    """POST /user/rate-limits/bulk-update"""

    updates: Annotated[tuple[KeyLimits, ...], Field(min_length=1, max_length=100)]


Owner = TypeVar("Owner", "OwnerLimits", "OwnerQuery")


class OwnerLimits(RateLimits):
    """PUT /admin/rate-limits/update: of one key or of one user."""

    key_id: Id | None = None
    user_id: Id | None = None

    @model_validator(mode="after")
    def _refuse_both(self) -> "OwnerLimits":
        return _check_one(self)


class LimitByText(Strict):
    """POST /admin/limit. In the body: what stands in an address stands in logs."""

    api_key: Annotated[Text, StringConstraints(min_length=1, max_length=300)]
    rate_limits: RateLimits


class OwnerQuery(Strict):
    """DELETE /admin/rate-limits/delete"""

    key_id: Id | None = None
    user_id: Id | None = None

    @model_validator(mode="after")
    def _refuse_both(self) -> "OwnerQuery":
        return _check_one(self)


def _check_one(asked: "Owner") -> "Owner":
    if (asked.key_id is None) == (asked.user_id is None):
        raise PydanticCustomError("owner", "either key_id or user_id is expected")
    return asked


class AlertsQuery(Strict):
    limit: Annotated[int, Field(ge=1, le=1000)] = 100
    before: Annotated[int, Field(ge=1, le=2**62)] | None = None
    key_id: Id | None = None


class UsersQuery(Strict):
    limit: Annotated[int, Field(ge=1, le=1000)] = 100


def write_limits(asked: RateLimits, stored: Mapping[str, Any]) -> dict[str, Any]:
    """What is stored, with the numbers that `asked` names."""
    made: dict[str, Any] = {
        name: dict(value) if isinstance(value, dict) else value for name, value in stored.items()
    }
    for name in asked.model_fields_set & set(FLAT):
        *above, last = FLAT[name]
        place = made.setdefault(above[0], {}) if above else made
        if (number := getattr(asked, name)) is None:
            place.pop(last, None)
        else:
            place[last] = number
    return {name: value for name, value in made.items() if value not in ({}, None)}


def show_limits(stored: Mapping[str, Any]) -> dict[str, Any]:
    """As flat fields; null where there is no number."""
    shown: dict[str, Any] = {}
    for name, path in FLAT.items():
        value: Any = stored
        for step in path:
            value = (value or {}).get(step)
        shown[name] = value
    return {**shown, "window_size_seconds": WINDOW_SIZE_S}


def _check_network(text: str) -> str:
    return str(read_network(text))


Network = Annotated[str, StringConstraints(max_length=64), AfterValidator(_check_network)]
Label = Annotated[Text, StringConstraints(max_length=100)]
Metadata = Annotated[dict[Label, Words | int | bool | None], Field(max_length=50)]


class AllowAddress(Strict):
    """POST /api/admin/ip-whitelist"""

    ip_address: Network
    reason: Words = ""
    user_id: Id | None = None
    expires_at: AwareDatetime | None = None
    enabled: bool = True
    metadata: Metadata = {}


class ChangeAllowed(Strict):
    """PATCH /api/admin/ip-whitelist/{id}"""

    ip_address: Network | None = None
    reason: Words | None = None
    user_id: Id | None = None
    expires_at: AwareDatetime | None = None
    enabled: bool | None = None
    metadata: Metadata | None = None

    @model_validator(mode="after")
    def _refuse_nothing(self) -> "ChangeAllowed":
        named = self.model_fields_set
        if not named:
            raise PydanticCustomError("change", "at least one field is expected")
        if any(getattr(self, name) is None for name in named - {"user_id", "expires_at"}):
            raise PydanticCustomError("change", "only user_id and expires_at can be null")
        return self


class CheckAddress(Strict):
    """POST /api/admin/ip-whitelist/check"""

    ip_address: Annotated[Text, StringConstraints(min_length=1, max_length=64)]


class AllowedQuery(Strict):
    limit: Annotated[int, Field(ge=1, le=1000)] = 100
    after: Id | None = None

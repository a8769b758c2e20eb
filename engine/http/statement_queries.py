"""What may be asked of statements: spans of time, groups, filters."""

from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, StringConstraints

from engine.config.schema_base import Strict
from engine.errors import InvalidRequest
from engine.storage.usage_sums import GROUPS, MOST_GROUPS, Span

LONGEST_SPAN = timedelta(days=400)
_DAYS = 30
_FIRST_YEAR, _LAST_YEAR = 1970, 9000


def _refuse_nul(text: str) -> str:
    if "\0" in text:
        raise ValueError("text must not hold a NUL character")
    return text


Text = Annotated[str, StringConstraints(max_length=200), AfterValidator(_refuse_nul)]


def read_moment(value: object) -> datetime:
    """A day begins at midnight in UTC; a moment says its time zone."""
    if not isinstance(value, str):
        raise ValueError("a day or a moment is expected")
    try:
        moment = datetime.fromisoformat(value)
    except ValueError:
        raise ValueError(
            "neither a day such as 2026-01-31 nor a moment such as 2026-01-31T12:00:00Z"
        ) from None
    if not _FIRST_YEAR <= moment.year <= _LAST_YEAR:
        raise ValueError(f"a year from {_FIRST_YEAR} to {_LAST_YEAR} is expected")
    if moment.tzinfo is None and len(value) > len("2026-01-31"):
        raise ValueError("a moment says its time zone: 2026-01-31T12:00:00Z")
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


Moment = Annotated[datetime, BeforeValidator(read_moment, json_schema_input_type=str)]
Shape = Literal["json", "csv"]


class SpanQuery(Strict):
    """A span of time; the last thirty days unless told."""

    from_: Moment | None = Field(None, alias="from", description="first moment or day (UTC)")
    until: Moment | None = Field(None, description="the moment, or the day, before which it ends")

    def find_span(self, **where: Any) -> Span:
        """Raises InvalidRequest."""
        until = self.until or datetime.now(UTC)
        since = self.from_ or until - timedelta(days=_DAYS)
        if since >= until:
            raise InvalidRequest("from is not before until", param="from")
        if until - since > LONGEST_SPAN:
            raise InvalidRequest("a statement is of 400 days at most", param="from")
        return Span(since, until, {name: value for name, value in where.items() if value is not None})


class UsageQuery(SpanQuery):
    group_by: Text = Field(
        "day", description="up to three of day, month, model, key, provider, status, by commas"
    )
    key_id: Text | None = None
    model: Text | None = None
    tags: Text | None = Field(None, description="name:value, by commas: calls that have all of them")
    format: Shape | None = None
    limit: Annotated[int, Field(ge=1, le=10_000)] = 1000

    def find_groups(self, allowed: frozenset[str]) -> list[str]:
        groups = [name.strip() for name in self.group_by.split(",") if name.strip()]
        wrong = next((name for name in groups if name not in allowed), None)
        if wrong is not None or len(set(groups)) != len(groups) or len(groups) > MOST_GROUPS:
            raise InvalidRequest(
                f"group_by is up to {MOST_GROUPS} of {', '.join(sorted(allowed))}, by commas",
                param="group_by",
            )
        return groups

    def find_tags(self) -> dict[str, str] | None:
        if self.tags is None:
            return None
        pairs = [tag.partition(":") for tag in self.tags.split(",")]
        if not all(colon for _, colon, _ in pairs):
            raise InvalidRequest("tags are name:value, by commas", param="tags")
        return {name.strip(): value.strip() for name, _, value in pairs}


class AnyUsageQuery(UsageQuery):
    user_id: Text | None = None
    team_id: Text | None = None


class AnalyticsQuery(SpanQuery):
    format: Shape | None = None
    limit: Annotated[int, Field(ge=1, le=1000)] = 100


class InvoiceQuery(Strict):
    format: Shape | None = None


OWN_GROUPS = frozenset(GROUPS) - {"user", "team"}
ALL_GROUPS = frozenset(GROUPS)

"""What every room of commerce works with, and how money and amounts look in JSON: exact decimals as text."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BeforeValidator, Field, StringConstraints, WithJsonSchema

from engine.config.schema_base import Strict
from engine.config.schema_login import AttemptEntry
from engine.config.schema_plan import PlanFile
from engine.config.schema_trial import TrialFile
from engine.config.snapshot import Snapshot
from engine.errors import InvalidRequest
from engine.http.endpoints import Ask
from engine.policies.attempts import Attempts
from engine.storage.key_rules import Text
from engine.storage.postgres import Connection, Database
from engine.storage.secrets import KeyRing

T = TypeVar("T")
Rules = TypeVar("Rules", bound=Strict)
_MOST_USD = Decimal(10**9)
_PLACES = 12


@dataclass(frozen=True, slots=True)
class Till:
    """The database, the key ring, the files in force, and who counts how often is asked."""

    database: Database
    ring: KeyRing
    read_snapshot: Callable[[], Snapshot]
    attempts: Attempts

    async def run(self, work: Callable[[Connection], Awaitable[T]]) -> T:
        """Do `work` in one transaction."""

        async def transact(connection: Connection) -> T:
            async with connection.transaction():
                return await work(connection)

        return await self.database.run(transact)

    async def count(self, what: str, who: str, most: int, within_s: int) -> None:
        """Raises LimitExceeded when somebody has asked so often lately."""
        await self.attempts.count(what, who, AttemptEntry(attempts=most, within_s=within_s))

    def find_rules(self, kind: type[Rules]) -> Rules:
        """The file of this kind that is in force."""
        return self.read_snapshot().declared(kind)["default"]

    @property
    def plans(self) -> Mapping[str, PlanFile]:
        return self.read_snapshot().declared(PlanFile)

    @property
    def trials(self) -> Mapping[str, TrialFile]:
        return self.read_snapshot().declared(TrialFile)


def show_usd(amount: Decimal) -> str:
    """All digits and none that say nothing."""
    return f"{amount.normalize():f}" if amount else "0"


def _read_amount(value: Any) -> Any:
    """A number of a JSON body means the digits that were written."""
    if isinstance(value, bool) or not isinstance(value, str | int | float | Decimal):
        raise ValueError("an amount of US dollars is expected")
    try:
        amount = Decimal(str(value))
    except InvalidOperation:
        raise ValueError("an amount of US dollars is expected") from None
    if not amount.is_finite() or abs(amount) > _MOST_USD:
        raise ValueError("an amount of this size cannot be meant")
    exponent = amount.as_tuple().exponent
    if isinstance(exponent, int) and -exponent > _PLACES:
        raise ValueError("an amount has at most 12 decimal places")
    return amount


def _refuse_nothing(amount: Decimal) -> Decimal:
    if not amount:
        raise ValueError("an amount of nothing changes nothing")
    return amount


def _refuse_negative(amount: Decimal) -> Decimal:
    if amount < 0:
        raise ValueError("an amount here is positive")
    return amount


_AMOUNT_SCHEMA = {"anyOf": [{"type": "string", "pattern": r"^-?[0-9]*\.?[0-9]+$"}, {"type": "number"}]}
Usd = Annotated[Decimal, BeforeValidator(_read_amount), WithJsonSchema(_AMOUNT_SCHEMA)]
AnyAmount = Annotated[Usd, AfterValidator(_refuse_nothing)]
NotNegative = Annotated[Usd, AfterValidator(_refuse_negative)]
Amount = Annotated[AnyAmount, AfterValidator(_refuse_negative)]
UserId = Annotated[Text, StringConstraints(min_length=1, max_length=100)]
Line = Annotated[Text, StringConstraints(max_length=500)]
Code = Annotated[Text, StringConstraints(strip_whitespace=True, to_upper=True, min_length=1, max_length=60)]
Most = Annotated[int, Field(ge=1, le=1000)]
Skip = Annotated[int, Field(ge=0, le=10_000)]


class PageQuery(Strict):
    limit: Most = 100
    offset: Skip = 0


def read_idempotency_key(ask: Ask) -> str:
    """What makes a repeat of this request known as one; "" when the client does not say."""
    key = ask.find_header(b"idempotency-key").strip()
    if len(key) > 200 or not key.isprintable():
        raise InvalidRequest("idempotency-key has at most 200 visible characters", code="invalid_value")
    return key

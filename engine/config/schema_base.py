"""What the schemas of all files share: strict models, money, secrets, and lists of failure kinds."""

from decimal import Decimal, InvalidOperation
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    PlainValidator,
    WithJsonSchema,
)
from pydantic_core import PydanticCustomError

from engine.config.references import Unset
from engine.secret import Secret


class Strict(BaseModel):
    """Unknown keys are refused, values never change, every number is finite."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        allow_inf_nan=False,
        arbitrary_types_allowed=True,
        populate_by_name=True,
        hide_input_in_errors=True,
        defer_build=True,
    )


def described(text: str, default: Any = ..., **limits: Any) -> Any:
    """A field with its sentence for editors; required when no default is given."""
    return Field(default, description=text, **limits)


def _read_money(value: Any) -> Decimal:
    if isinstance(value, float):
        raise PydanticCustomError("money", 'write money as text, such as "0.15", so that no digit is lost')
    if isinstance(value, bool) or not isinstance(value, str | int | Decimal):
        raise PydanticCustomError("money", 'an amount of US dollars as text is expected, such as "0.15"')
    try:
        amount = Decimal(value)
    except InvalidOperation:
        raise PydanticCustomError(
            "money", 'an amount of US dollars as text is expected, such as "0.15"'
        ) from None
    if not amount.is_finite() or amount < 0:
        raise PydanticCustomError("money", "an amount must be finite and not negative")
    if abs(amount.adjusted()) > 15 and amount:
        raise PydanticCustomError("money", "an amount of this size cannot be meant")
    return amount


def _read_secret(value: Any) -> Any:
    if isinstance(value, Secret | Unset):
        return value
    if isinstance(value, str) or isinstance(value, int) and not isinstance(value, bool):
        return Secret(str(value))
    raise PydanticCustomError("secret", "text is expected, such as ${NAME_OF_A_VARIABLE}")


def _read_plain_text(value: Any) -> Any:
    if isinstance(value, str | Unset):
        return value
    raise PydanticCustomError("text", "text is expected")


def _read_kind(value: Any) -> Any:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


_TEXT_SCHEMA = {"type": "string"}
_MONEY_SCHEMA = {
    "anyOf": [{"type": "string", "pattern": r"^[0-9]*\.?[0-9]+$"}, {"type": "integer", "minimum": 0}]
}

Usd = Annotated[Decimal, PlainValidator(_read_money), PlainSerializer(str), WithJsonSchema(_MONEY_SCHEMA)]
SecretText = Annotated[Secret | Unset, PlainValidator(_read_secret), WithJsonSchema(_TEXT_SCHEMA)]
TextOrUnset = Annotated[str | Unset, PlainValidator(_read_plain_text), WithJsonSchema(_TEXT_SCHEMA)]
Seconds = Annotated[float, Field(gt=0, le=604_800)]
SecondsOrNone = Annotated[float, Field(ge=0, le=604_800)]
Count = Annotated[int, Field(gt=0, le=2**53)]
CountOrNone = Annotated[int, Field(ge=0, le=2**53)]
Share = Annotated[float, Field(ge=0, le=1)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100)]

Traits = dict[str, str | int | float | bool | list[Any] | dict[str, Any] | None]
"""Values for the traits of a wire format."""

FailureWord = Literal[
    "connect",
    "reset",
    "timeout",
    "broken_stream",
    "context_length_exceeded",
    "content_filter",
    "invalid_request",
    "4xx",
    "5xx",
]
_FAILURE_WORDS: tuple[str, ...] = get_args(FailureWord)


def _read_failure(value: Any) -> str:
    text = _read_kind(value)
    if isinstance(text, str) and (text in _FAILURE_WORDS or text.isdecimal() and 100 <= int(text) <= 599):
        return text
    raise PydanticCustomError("failure", "expected an HTTP status (429), 4xx, 5xx, or one of {words}", {
        "words": ", ".join(_FAILURE_WORDS[:-2])
    })  # fmt: skip


FailureKind = Annotated[
    str,
    PlainValidator(_read_failure),
    WithJsonSchema(
        {"anyOf": [{"type": "integer", "minimum": 100, "maximum": 599}, {"enum": list(_FAILURE_WORDS)}]}
    ),
]


def one_or_many(value: Any) -> Any:
    """A single value stands for a list of one."""
    return value if isinstance(value, list | tuple) else [value]


Texts = Annotated[tuple[str, ...], BeforeValidator(one_or_many, json_schema_input_type=str | list[str])]


def word_or_tree(value: Any) -> str:
    """Tells a union's branches apart by shape, so that a mistake is reported in the branch that was meant."""
    return "tree" if isinstance(value, dict | BaseModel) else "word"

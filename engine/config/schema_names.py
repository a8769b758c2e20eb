"""The tables of names: what a name that no model has means, as data."""

from typing import Annotated

from pydantic import BeforeValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from engine.config.schema_base import Name, Strict, Texts, described, one_or_many
from engine.config.schema_price import PriceEntry

NameText = Annotated[str, Field(pattern=r"^[^\s\x00-\x1f]+$", max_length=200)]


class AskEntry(Strict):
    provider: Name = described("the provider that is asked")
    model: NameText = described(
        "its name for the model; `{name}`: the requested name, `{1}` ... `{9}`: what each `*` stands for",
        "{name}",
    )
    price: PriceEntry | None = described("its price where no model lists it at this provider", None)


class RuleEntry(Strict):
    """Names of one shape and what they mean: another name, or providers that are asked in order."""

    match: Texts = described("globs, of which one must fit the whole name; `*` stands for any text")
    use: NameText | None = described("the name it stands for; placeholders as in `ask`", None)
    ask: Annotated[
        tuple[AskEntry, ...],
        BeforeValidator(one_or_many, json_schema_input_type=AskEntry | list[AskEntry]),
    ] = described("who is asked for it, in order; those that are not configured are left out", ())
    first: bool = described("it goes before `provider/model-id`, not after it", False)
    why: str | None = described("one sentence that `gatewayz explain` shows", None)

    @model_validator(mode="after")
    def _says_one_thing(self) -> "RuleEntry":
        if (self.use is None) == (not self.ask):
            raise PydanticCustomError("rule", "one of `use` and `ask` is expected")
        return self


class NamesFile(Strict):
    """One table of names. A table of yours is asked before the shipped ones."""

    names: Name = described("the table's name; one of a shipped table's name replaces it")
    extends: Name | None = described("a table whose keys these go over", None)
    ignore_case: bool = described("upper case and spaces around a name do not count", False)
    aliases: dict[NameText, NameText] = described("other names: what it stands for", {})
    rules: tuple[RuleEntry, ...] = described("shapes of names, in order; the first that fits decides", ())

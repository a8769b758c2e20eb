"""policies.d/prices/*.yaml: price books. What is charged from a day on, over what providers cost."""

from datetime import date

from pydantic import model_validator
from pydantic_core import PydanticCustomError

from engine.config.schema_base import Name, Strict, Usd, described
from engine.config.schema_price import PriceEntry


class BookEntry(Strict):
    price: PriceEntry | None = described("what is charged; default: what the target costs", None)
    markup: Usd | None = described('share added to it: "0.05" is five per cent; default: the book\'s', None)
    margin: Usd | None = described(
        "the charge is at least what the provider costs and this share more; default: the book's", None
    )


class PricesFile(Strict):
    """One price book. Of several that are in force the one that began last decides, for what it says anything about."""

    prices: Name = described("the book's name")
    extends: Name | None = described("a book whose keys these go over", None)
    title: str = described("its name for people", "", max_length=100)
    from_: date | None = described(
        "the first day (UTC) on which it is in force; default: always", None, alias="from"
    )
    until: date | None = described("the first day on which it is not any more; default: for ever", None)
    markup: Usd | None = described("share added to every price of it; default: the policy's", None)
    margin: Usd | None = described("share above what the provider costs that every charge has at least", None)
    models: dict[str, BookEntry] = described(
        "by provider/model, a model's name, or a glob over both: the first of these kinds that fits", {}
    )

    @model_validator(mode="after")
    def _refuse_no_time(self) -> "PricesFile":
        if self.from_ is not None and self.until is not None and self.from_ >= self.until:
            raise PydanticCustomError("prices", "`from` is not before `until`")
        return self

"""What price books charge, from which day on, and never less than the provider's cost and its margin."""

from datetime import UTC, datetime
from decimal import Decimal

from hypothesis import given
from hypothesis import strategies as st

from engine.billing.pricing import PLAIN, Possible
from engine.billing.tariffs import Tariff, find_tariff
from engine.config.prices import build_price
from engine.config.schema_price import PriceEntry
from engine.config.snapshot import Snapshot
from engine.wire.usage import Usage
from tests.config.conftest import Folder, folder, parsed, provider

__all__ = ["folder", "parsed"]

MODELS = """
models:
  small:
    price: {input: "1", output: "2"}
    targets: [{provider: alpha, model: s}, {provider: alpha, model: t, price: {input: "3", output: "6"}}]
  large:
    price: {input: "10", output: "20"}
    targets: [{provider: alpha, model: l}]
"""
MILLION = Usage(input=1_000_000, output=1_000_000)


COST, PRICE = (
    build_price(PriceEntry.model_validate(said))
    for said in ({"input": "3", "output": "15", "cached_input": "0.3"}, {"input": "2", "output": "20"})
)


def load(folder: Folder, **books: str) -> Snapshot:
    files = {f"policies.d/prices/{name}.yaml": f"prices: {name}\n{text}" for name, text in books.items()}
    return folder.load({"providers.d/a.yaml": provider(), "models.d/m.yaml": MODELS, **files})


def at(day: str) -> float:
    return datetime.fromisoformat(day).replace(tzinfo=UTC).timestamp()


def charge(snapshot: Snapshot, model: str, day: str = "2026-06-01", target: int = 0) -> tuple[Decimal, str]:
    found = snapshot.models[model]
    tariff = find_tariff(snapshot, found, found.targets[target], at(day))
    return tariff.charge(MILLION).cost, tariff.book.partition("@")[0]


def test_without_a_book_a_call_costs_what_its_target_costs(folder: Folder) -> None:
    snapshot = load(folder)
    assert charge(snapshot, "small") == (Decimal(3), "")
    assert charge(snapshot, "small", target=1) == (Decimal(9), "")


def test_a_book_is_in_force_from_the_first_moment_of_its_first_day_until_the_first_of_its_last(
    folder: Folder,
) -> None:
    snapshot = load(
        folder, summer='from: 2026-06-01\nuntil: 2026-09-01\nmodels: {small: {price: {input: "7"}}}\n'
    )
    assert charge(snapshot, "small", "2026-05-31T23:59:59.999") == (Decimal(3), "")
    assert charge(snapshot, "small", "2026-06-01T00:00:00") == (Decimal(7), "summer")
    assert charge(snapshot, "small", "2026-08-31T23:59:59") == (Decimal(7), "summer")
    assert charge(snapshot, "small", "2026-09-01T00:00:00") == (Decimal(3), "")
    assert charge(snapshot, "large") == (Decimal(30), "")


def test_of_two_books_the_one_that_began_last_decides_for_what_it_says(folder: Folder) -> None:
    snapshot = load(
        folder,
        old='from: 2026-01-01\nmodels: {small: {price: {input: "7"}}, large: {price: {input: "9"}}}\n',
        new='from: 2026-03-01\nmodels: {small: {price: {input: "8"}}}\n',
    )
    assert charge(snapshot, "small") == (Decimal(8), "new")
    assert charge(snapshot, "large") == (Decimal(9), "old")
    assert charge(snapshot, "small", "2026-02-01") == (Decimal(7), "old")


def test_a_target_goes_before_a_model_and_a_name_before_a_glob(folder: Folder) -> None:
    snapshot = load(
        folder,
        book='models: {"*": {price: {input: "1"}}, "alpha/*": {price: {input: "2"}}, small: {price: {input: "3"}},'
        ' alpha/t: {price: {input: "4"}}}\n',
    )
    assert charge(snapshot, "small")[0] == 3
    assert charge(snapshot, "small", target=1)[0] == 4
    assert charge(snapshot, "large")[0] == 1


def test_markup_goes_over_a_price_and_margin_keeps_it_above_the_cost(folder: Folder) -> None:
    snapshot = load(
        folder,
        book='margin: "0.20"\n'
        'models: {small: {price: {input: "1", output: "1"}, markup: "0.5"}, large: {markup: "0.01"}}\n',
    )
    assert charge(snapshot, "small")[0] == Decimal("3.6")  # max(2 x 1.5, 3 x 1.2)
    assert charge(snapshot, "small", target=1)[0] == Decimal("10.8")  # 9 x 1.2: the dearer target
    assert charge(snapshot, "large")[0] == Decimal("36")  # 30 x 1.2 and not 30 x 1.01


def test_what_is_charged_and_what_the_provider_bills_are_both_told(folder: Folder) -> None:
    snapshot = load(folder, book='markup: "0.1"\n')
    model = snapshot.models["small"]
    told = find_tariff(snapshot, model, model.targets[0], at("2026-06-01")).charge(MILLION)
    assert (told.cost, told.provider_cost) == (Decimal("3.3"), Decimal(3))


def test_the_revision_of_a_book_is_that_of_its_content(folder: Folder) -> None:
    def find_book(text: str) -> str:
        model = (snapshot := load(folder, book=text)).models["small"]
        return find_tariff(snapshot, model, model.targets[0], 0).book

    assert find_book('markup: "0.1"\n') == find_book('# said otherwise\nmarkup: "0.1"\n')
    assert find_book('markup: "0.1"\n') != find_book('markup: "0.2"\n')


def test_a_book_that_ends_before_it_begins_is_refused(folder: Folder) -> None:
    refused = folder.refuse({"policies.d/prices/b.yaml": "prices: b\nfrom: 2026-02-01\nuntil: 2026-02-01\n"})
    assert any("`from` is not before `until`" in problem for problem in refused)


@given(
    counts=st.tuples(*[st.integers(0, 10**6)] * 4),
    margin=st.none() | st.decimals(0, 2, places=3),
    markup=st.decimals(0, 2, places=3),
    spare=st.integers(0, 1000),
)
def test_no_charge_is_above_its_ceiling_or_below_the_cost_and_its_margin(
    counts: tuple[int, ...], margin: Decimal | None, markup: Decimal, spare: int
) -> None:
    usage = Usage(input=counts[0], cached_input=counts[1], output=counts[2], reasoning=counts[3])
    each = Tariff(COST, PRICE, markup, margin)
    charge = each.charge(usage)
    assert charge.cost <= each.ceiling(usage.prompt + spare, usage.completion, Possible(media=False))
    assert charge.cost >= charge.provider_cost * (1 + (margin or 0)) or margin is None


@given(
    tokens=st.tuples(*[st.integers(0, 10**7)] * 2),
    rates=st.tuples(*[st.decimals(0, 1, places=12)] * 4),
    markup=st.decimals(0, 2, places=3),
    margin=st.none() | st.decimals(0, 2, places=3),
)
def test_the_line_of_a_tariff_is_its_ceiling(
    tokens: tuple[int, int], rates: tuple[Decimal, ...], markup: Decimal, margin: Decimal | None
) -> None:
    names = ("input", "output", "cached_input", "request")
    price = build_price(
        PriceEntry.model_validate({name: f"{rate:f}" for name, rate in zip(names, rates, strict=True)})
    )
    each = Tariff(COST, price, markup, margin)
    assert (each.line is None) == (margin is not None)
    worked_out = Possible(cache_writes=False, media=False)
    assert worked_out is not PLAIN and each.ceiling(*tokens, PLAIN) == each.ceiling(*tokens, worked_out)


def test_a_price_with_tiers_has_no_line() -> None:
    tiers = {"above": 1000, "input": "9", "output": "9"}
    price = build_price(PriceEntry.model_validate({"input": "1", "output": "2", "tiers": [tiers]}))
    assert Tariff(price, price, Decimal(0)).line is None
    assert Tariff(COST, COST, Decimal(0)).line is not None

"""What plans say, and what the shipped ones are."""

from decimal import Decimal

from engine.config.schema_plan import PlanFile
from tests.config.conftest import Folder


def test_the_shipped_plans_are_there_and_the_default_limits_nobody(folder: Folder) -> None:
    plans = folder.load({}).declared(PlanFile)
    assert set(plans) == {"default", "free", "pro", "max", "enterprise", "admin"}
    assert plans["default"].limits == PlanFile(plan="x").limits
    assert plans["pro"].allowance_usd == Decimal(15)
    assert plans["pro"].limits.requests.month == 30_000
    assert plans["enterprise"].limits == plans["max"].limits
    assert plans["pro"].stripe.product == ""


def test_a_plan_is_sold_where_the_environment_says(folder: Folder) -> None:
    folder.environ["STRIPE_PRODUCT_PRO"] = "prod_1"
    assert folder.load({}).declared(PlanFile)["pro"].stripe.product == "prod_1"


def test_a_plan_of_ones_own_changes_a_part_of_the_shipped_one(folder: Folder) -> None:
    mine = 'plan: pro\nextends: pro\nallowance_usd: "20"\nlimits: {tokens: {day: 5}}\n'
    plan = folder.load({"policies.d/mine.yaml": mine}).declared(PlanFile)["pro"]
    assert (plan.allowance_usd, plan.limits.tokens.day, plan.limits.concurrency) == (Decimal(20), 5, 10)


def test_without_the_shipped_things_the_default_plan_stays(folder: Folder) -> None:
    loaded = folder.load({"gateway.yaml": "include: {builtin: false}\n"})
    assert set(loaded.declared(PlanFile)) == {"default"}

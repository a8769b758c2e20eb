"""Statements over a whole gateway: own usage and everybody's, as JSON and CSV, and what prices are audited for."""

import csv
import io
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import httpx
import pytest

from tests.harness import ADMIN_KEY, Gateway, Simulator, running, write_files
from tests.http.test_keys import client, issue

MODELS = """
models:
  fable: {price: {input: "1", output: "2"}, targets: [{provider: near, model: sim/echo}]}
  poem: {price: {input: "10", output: "20"}, targets: [{provider: near, model: sim/tools}]}
  nothing: {targets: [{provider: near, model: sim/echo-2}]}
"""
BOOK = """
prices: cheap
from: 2020-01-01
models: {fable: {price: {input: "0.5", output: "4"}}}
"""


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    folder = tmp_path_factory.mktemp("statements")
    simulator = Simulator(folder)
    near = (
        f"provider: near\nformat: openai-chat\nbase_url: {simulator.url}/v1\nallow_private: true\n"
        "auth: {bearer: key-near}\nunknown_price: free\n"
    )
    files = {
        "gateway.yaml": "database: embedded\nredis: none\n",
        "providers.d/near.yaml": near,
        "models.d/m.yaml": MODELS,
        "policies.d/prices/cheap.yaml": BOOK,
    }
    with running(simulator, made := Gateway(write_files(folder, files))):
        yield made


@pytest.fixture(scope="module")
def keys(gateway: Gateway) -> dict[str, str]:
    found = {}
    for name in ("ann", "bob"):
        found[name] = issue(gateway, "--user", f"{name}@b.c", "--scope", "inference", "--scope", "read")
    for name, models in (("ann", ["fable", "fable", "poem"]), ("bob", ["poem"])):
        with client(gateway, found[name]) as asking:
            for model in models:
                body = {
                    "model": model,
                    "messages": [{"role": "user", "content": "hi"}],
                    "metadata": {"team": name},
                }
                assert asking.post("/v1/chat/completions", json=body).status_code == 200
    return found


@pytest.fixture
def ann(gateway: Gateway, keys: dict[str, str]) -> Iterator[httpx.Client]:
    with client(gateway, keys["ann"]) as made:
        yield made


@pytest.fixture
def admin(gateway: Gateway, keys: dict[str, str]) -> Iterator[httpx.Client]:
    with client(gateway, ADMIN_KEY) as made:
        yield made


def find_costs(admin: httpx.Client) -> dict[str, list[Decimal]]:
    """What the records of this test's calls cost, by our model."""
    costs: dict[str, list[Decimal]] = {}
    for record in admin.get("/admin/calls", params={"limit": 1000}).json()["data"]:
        costs.setdefault(record["pricing"].get("listed", ""), []).append(Decimal(record["cost_usd"]))
    return costs


def test_everybody_sees_the_own_usage_only_and_sums_are_those_of_the_records(
    ann: httpx.Client, admin: httpx.Client
) -> None:
    shown = ann.get("/user/usage", params={"group_by": "model"}).json()
    rows = {row["model"]: row for row in shown["data"]}
    assert {name: row["calls"] for name, row in rows.items()} == {"fable": 2, "poem": 1}
    costs = find_costs(admin)
    assert Decimal(rows["fable"]["cost_usd"]) == sum(costs["fable"]) > 0
    assert shown["total"]["calls"] == 3
    assert Decimal(shown["total"]["cost_usd"]) == sum(Decimal(row["cost_usd"]) for row in rows.values())


def test_a_statement_is_csv_when_asked_either_way(ann: httpx.Client) -> None:
    by_name = ann.get("/user/usage", params={"group_by": "day,model", "format": "csv"})
    by_type = ann.get("/user/usage", params={"group_by": "day,model"}, headers={"accept": "text/csv"})
    assert by_name.headers["content-type"].startswith("text/csv") and by_name.text == by_type.text
    rows = list(csv.DictReader(io.StringIO(by_name.text)))
    assert [row["model"] for row in rows] == ["fable", "poem"]
    assert [row["calls"] for row in rows] == ["2", "1"]


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ({"group_by": "user"}, "group_by"),
        ({"group_by": "day,day"}, "group_by"),
        ({"group_by": "day,model,key,provider"}, "group_by"),
        ({"from": "2026-02-01", "until": "2026-01-01"}, "from"),
        ({"from": "2020-01-01", "until": "2026-01-01"}, "from"),
        ({"from": "yesterday"}, "from"),
        ({"tags": "team"}, "tags"),
        ({"user_id": "x"}, "user_id"),
        ({"format": "xml"}, "format"),
    ],
)
def test_a_wrong_question_is_named(ann: httpx.Client, query: dict[str, str], param: str) -> None:
    refused = ann.get("/user/usage", params=query)
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == param


def test_tags_and_models_narrow_a_statement(ann: httpx.Client) -> None:
    assert ann.get("/user/usage", params={"model": "poem"}).json()["total"]["calls"] == 1
    assert ann.get("/user/usage", params={"tags": "team:nobody"}).json()["total"]["calls"] == 0


def test_administrators_see_everybody_and_others_do_not(ann: httpx.Client, admin: httpx.Client) -> None:
    rows: list[Any] = admin.get("/admin/usage", params={"group_by": "user"}).json()["data"]
    assert len(rows) == 2
    one = admin.get("/admin/usage", params={"group_by": "model", "user_id": rows[0]["user_id"]}).json()
    assert one["total"]["calls"] == rows[0]["calls"]
    for path in ("/admin/usage", "/admin/analytics", "/admin/model-usage-analytics", "/admin/pricing-audit"):
        assert ann.get(path).status_code == 403, path


def test_analytics_show_what_is_charged_above_what_providers_bill(admin: httpx.Client) -> None:
    shown = admin.get("/admin/analytics").json()
    total = shown["total"]
    assert (
        Decimal(total["margin_usd"]) == Decimal(total["cost_usd"]) - Decimal(total["provider_cost_usd"]) != 0
    )
    assert sum(row["calls"] for row in shown["days"]) == total["calls"]
    models = {row["model"]: row for row in admin.get("/admin/model-usage-analytics").json()["data"]}
    assert models["poem"]["provider"] == "near" and models["poem"]["margin_usd"] == "0"


def test_the_audit_names_what_has_no_price_and_what_is_charged_below_cost(admin: httpx.Client) -> None:
    audit = admin.get("/admin/pricing-audit").json()
    assert {"model": "nothing", "provider": "near", "sent": "sim/echo-2"} in audit["without_price"]
    assert [book["name"] for book in audit["books"]] == ["cheap"]
    assert {(row["model"], row["class"]) for row in audit["below_cost"]} == {
        ("fable", "input"),
        ("fable", "cached_input"),
    }
    assert {row["model"]: row["book"].partition("@")[0] for row in audit["used"]} == {
        "fable": "cheap",
        "poem": "",
    }


def test_an_invoice_goes_by_number_or_month_and_is_nobody_elses(
    gateway: Gateway, ann: httpx.Client, admin: httpx.Client
) -> None:
    rich = issue(gateway, "--user", "rich@b.c", "--credit", "5", "--scope", "inference", "--scope", "read")
    with client(gateway, rich) as owner:
        (listed,) = owner.get("/user/invoices").json()["data"]
        invoice = owner.get(f"/user/invoices/{listed['id']}").json()
        assert invoice == owner.get(f"/user/invoices/{listed['month']}").json()
        assert (invoice["opening_usd"], invoice["closing_usd"]) == ("0.000000", "5.000000")
        assert listed["status"] == "open"
        text = owner.get(f"/user/invoices/{listed['id']}", params={"format": "csv"}).text
        assert "balance,closing,,5.000000,5" in text
    refused = ann.get(f"/user/invoices/{listed['id']}")
    assert (refused.status_code, refused.json()["error"]["code"]) == (404, "invoice_not_found")


@pytest.fixture(scope="module")
def lead(gateway: Gateway) -> Iterator[httpx.Client]:
    scopes = ("--scope", "inference", "--scope", "read", "--scope", "admin")
    with client(gateway, issue(gateway, "--user", "lead@b.c", *scopes)) as made:
        yield made


def test_a_teams_invoice_has_what_the_team_pays_and_its_members_have_none_of_it(
    gateway: Gateway, lead: httpx.Client, ann: httpx.Client
) -> None:
    team_id = lead.post("/teams", json={"name": "Payers"}).json()["team"]["team_id"]
    made = lead.post(f"/teams/{team_id}/api-keys", json={"key_name": "shared"})
    with client(gateway, made.json()["api_key"]) as asking:
        for model in ("fable", "poem"):
            body = {"model": model, "messages": [{"role": "user", "content": "hi"}]}
            assert asking.post("/v1/chat/completions", json=body).status_code == 200
        refused = asking.get(f"/teams/{team_id}/invoices")
        assert refused.status_code == 403
    (listed,) = lead.get(f"/teams/{team_id}/invoices").json()["data"]
    invoice = lead.get(f"/teams/{team_id}/invoices/{listed['id']}").json()
    assert invoice == lead.get(f"/teams/{team_id}/invoices/{listed['month']}").json()
    assert invoice["payer"] == f"team:{team_id}"
    assert {line["model"]: line["calls"] for line in invoice["lines"]} == {"fable": 1, "poem": 1}
    costs = sum(Decimal(line["exact_usd"]) for line in invoice["lines"])
    assert Decimal(invoice["exact"]["closing_usd"]) == -costs < 0
    assert lead.get("/user/invoices").json()["data"] == []
    for path in (f"/teams/{team_id}/invoices", f"/teams/{team_id}/invoices/{listed['id']}"):
        assert ann.get(path).status_code == 404
    assert lead.get(f"/user/invoices/{listed['id']}").status_code == 404
    assert "balance,closing" in lead.get(f"/teams/{team_id}/invoices/{listed['id']}?format=csv").text


def test_an_owner_sees_the_invoices_of_a_team_that_ended(lead: httpx.Client) -> None:
    team_id = lead.post("/teams", json={"name": "Ending"}).json()["team"]["team_id"]
    ended = lead.request("DELETE", f"/teams/{team_id}", json={"confirmation": "DELETE_TEAM"})
    assert ended.status_code == 200
    assert lead.get(f"/teams/{team_id}/invoices").json()["data"] == []

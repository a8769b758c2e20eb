"""Where people may be sent to, and what amounts buy."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from engine.config.schema_payments import PaymentsFile, StripeEntry
from engine.errors import InvalidRequest
from engine.payments.offers import check_amount, check_return_url, find_package, share_of, show_packages
from tests.payments.conftest import BOOKS, TERMS

PATTERNS = ("https://app.example.org/billing/*", "http://localhost:3000/done")


@pytest.mark.parametrize(
    "url",
    [
        "https://app.example.org/billing/done?session_id={CHECKOUT_SESSION_ID}",
        "https://app.example.org/billing/",
        "https://APP.example.org/billing/a/b#c",
        "http://localhost:3000/done?x=1",
    ],
)
def test_addresses_below_a_pattern_are_allowed(url: str) -> None:
    assert check_return_url(PATTERNS, url, "success_url") == url


@pytest.mark.parametrize(
    "url",
    [
        "",
        "/billing/done",
        "http://app.example.org/billing/done",
        "https://app.example.org.evil.com/billing/done",
        "https://evil.com/billing/done",
        "https://app.example.org@evil.com/billing/done",
        "https://user@app.example.org/billing/done",
        "https://app.example.org:444/billing/done",
        "https://app.example.org/billing/../evil",
        "https://app.example.org/billing/%2e%2e/evil",
        "https://app.example.org/billingevil",
        "https://app.example.org\\@evil.com/billing/x",
        "https://app.example.org/billing/\r\nx: y",
        "https://app.example.org:port/billing/x",
        "javascript:alert(1)//app.example.org/billing/",
        "https://[::1/billing/x",
        "https://app.example.org/billing/ü",
        "http://localhost:3000/done/more",
    ],
)
def test_everything_else_is_refused(url: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        check_return_url(PATTERNS, url, "success_url")
    assert (refused.value.code, refused.value.param) == ("url_not_allowed", "success_url")


@pytest.mark.parametrize(
    "pattern", ["*", "https://*", "https://*.example.org/x", "ftp://a/b", "https://a.org"]
)
def test_a_pattern_names_its_host(pattern: str) -> None:
    with pytest.raises(ValidationError):
        StripeEntry.model_validate({"return_urls": [pattern]})


def test_a_key_without_a_webhook_secret_is_refused() -> None:
    with pytest.raises(ValidationError, match="webhook_secret"):
        StripeEntry.model_validate({"secret_key": "sk_live_x"})
    assert not StripeEntry.model_validate({"secret_key": ""}).is_configured


@given(paid=st.integers(1, 10**7), parts=st.lists(st.integers(1, 10**6), max_size=6))
def test_shares_never_add_up_to_more_than_the_whole_and_the_whole_is_exact(
    paid: int, parts: list[int]
) -> None:
    credit = Decimal(paid).scaleb(-2) * Decimal("1.05")
    taken, step = Decimal(0), 0
    for part in parts:
        step += part
        share = share_of(credit, step, paid)
        assert taken <= share <= credit
        taken = share
    assert share_of(credit, paid, paid) == credit


@given(asked=st.integers(50, 10**8), paid=st.integers(0, 10**8))
def test_nobody_is_credited_more_than_was_asked_for_or_paid(asked: int, paid: int) -> None:
    credit = Decimal(asked).scaleb(-2)
    earned = check_amount(TERMS, asked, paid, credit, True)
    assert 0 <= earned.credit_usd <= credit
    if not earned.flag:
        assert abs(asked - paid) <= max(50, asked / 100)
    if paid < asked - max(50, asked / 100):
        assert earned.credit_usd <= Decimal(paid).scaleb(-2)


def test_the_shipped_packages_say_what_they_bring() -> None:
    (shown,) = show_packages(BOOKS)
    assert (shown["id"], shown["credits"], shown["price"], shown["discount_percentage"]) == (
        "professional", "50", 4500, 10.0
    )  # fmt: skip
    assert find_package(BOOKS, "professional").credit_usd == 50
    with pytest.raises(InvalidRequest):
        find_package(BOOKS, "other")


@pytest.mark.parametrize(
    "wrong", [{"rates": {"usd": "0"}}, {"least_cents": 900, "most_cents": 800}, {"rates": {"jpy": "1"}}]
)
def test_terms_that_cannot_be_meant_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        PaymentsFile.model_validate({"payments": "default", **wrong})

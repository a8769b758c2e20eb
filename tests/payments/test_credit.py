"""Buying credit: once for what was paid, whatever tells of it and how often; taken back for what was given back."""

import asyncio
import itertools
from dataclasses import replace
from decimal import Decimal
from typing import Any

import httpx
import pytest

from engine.errors import DependencyAway, GatewayError, InvalidRequest, NotFound
from engine.payments.inbox import EventNotHandled
from engine.storage.audit import Actor
from engine.storage.ledger import take_back
from engine.storage.postgres import Connection
from tests.payments.conftest import House
from tests.payments.stand_in import StripeStandIn, sign

BY = Actor("user_admin", "key_admin")


async def buy(house: House, cents: int = 1000) -> dict[str, Any]:
    """A paid checkout whose events nobody has been told yet."""
    caller = await house.add_user("ann")
    begun = await house.begin(caller, cents)
    return house.stripe.pay_session(begun["session_id"])


async def test_a_checkout_that_both_events_tell_of_is_credited_once(house: House) -> None:
    await buy(house)
    kinds = [event["type"] for event in house.stripe.events]
    assert {"checkout.session.completed", "payment_intent.succeeded"} <= set(kinds)
    await house.tell_all()
    await house.tell_all()
    assert (await house.balance("user:ann")).credit_usd == 10
    (row,) = await house.rows("SELECT * FROM payments")
    assert (row["status"], row["paid_cents"], row["granted_usd"]) == ("completed", 1000, 10)
    (mail,) = await house.rows("SELECT * FROM mail_outbox")
    assert (mail["template"], mail["address"]) == ("credits_added", "ann@example.org")


async def test_the_row_is_there_before_stripe_is_asked_and_names_the_request(house: House) -> None:
    caller = await house.add_user("ann")
    begun = await house.begin(caller)
    row = await house.row("SELECT * FROM payments")
    assert row is not None and row["id"] == begun["payment_id"] and row["session_id"] == begun["session_id"]
    assert row["id"] in house.stripe.key_list
    session = house.stripe.objects[begun["session_id"]]
    assert session["metadata"]["payment_id"] == row["id"]
    assert session["_asked"]["line_items"]["0"]["price_data"]["unit_amount"] == "1000"


async def test_a_line_that_is_cut_after_stripe_did_it_is_asked_again_under_the_same_key(house: House) -> None:
    caller = await house.add_user("ann")
    cuts = itertools.chain([ConnectionError("cut")], itertools.repeat(None))

    def cut(method: str, path: str) -> Exception | None:
        return httpx.ReadError("cut") if "sessions" in path and next(cuts) is not None else None

    house.stripe.fail_after = cut
    begun = await house.begin(caller)
    made = [name for name in house.stripe.objects if name.startswith("cs_")]
    assert made == [begun["session_id"]]


async def test_stripe_away_is_503_and_what_it_may_have_begun_stays_open(house: House) -> None:
    caller = await house.add_user("ann")
    house.stripe.fail = lambda method, path: httpx.ConnectError("away")
    with pytest.raises(DependencyAway) as away:
        await house.begin(caller)
    assert away.value.code == "payments_unavailable"
    assert await house.rows("SELECT status FROM payments") == []  # nobody could name the customer
    house.stripe.fail = lambda method, path: httpx.ConnectError("away") if "sessions" in path else None
    with pytest.raises(DependencyAway):
        await house.begin(caller)
    assert [row["status"] for row in await house.rows("SELECT status FROM payments")] == ["pending"]


@pytest.mark.parametrize(
    ("paid", "credit", "flag"),
    [
        (1000, "10", ""),
        (990, "10", ""),
        (949, "9.49", "underpaid"),
        (500, "5", "underpaid"),
        (1050, "10", ""),
        (1051, "10", "amount"),
        (1101, "10", "overpaid"),
    ],
)
async def test_what_was_paid_is_compared_with_what_was_asked(
    house: House, paid: int, credit: str, flag: str
) -> None:
    caller = await house.add_user("ann")
    begun = await house.begin(caller)
    house.stripe.pay_session(begun["session_id"], paid)
    await house.tell_all()
    assert (await house.balance("user:ann")).credit_usd == Decimal(credit)
    (row,) = await house.rows("SELECT flag FROM payments")
    assert row["flag"] == flag
    assert house.payments.flags == ({flag: 1} if flag else {})


async def test_another_currency_than_asked_brings_nothing_and_is_flagged(house: House) -> None:
    await buy(house)
    for event in house.stripe.events:
        event["data"]["object"]["currency"] = "eur"
    await house.tell_all()
    assert (await house.balance("user:ann")).credit_usd == 0
    (row,) = await house.rows("SELECT flag, granted_usd FROM payments")
    assert (row["flag"], row["granted_usd"]) == ("currency", 0)


async def test_a_currency_with_a_rate_buys_dollars_at_that_rate(house: House) -> None:
    caller = await house.add_user("ann")
    begun = await house.begin(caller, 1000, currency="eur")
    house.stripe.pay_session(begun["session_id"])
    await house.tell_all()
    assert (await house.balance("user:ann")).credit_usd == Decimal("10.50")


async def test_the_client_chooses_a_package_and_never_a_number(house: House) -> None:
    caller = await house.add_user("ann")
    begun = await house.begin(caller, 4500, credit_usd=Decimal(50))
    assert begun["credits"] == "50"
    for cents, credit in ((4500, 51), (1000, 30), (1000, 9)):
        with pytest.raises(InvalidRequest) as refused:
            await house.begin(caller, cents, credit_usd=Decimal(credit))
        assert refused.value.param == "credit_value"


async def test_a_refund_by_an_administrator_takes_its_credit_back_once(house: House) -> None:
    session = await buy(house)
    await house.tell_all()
    refund = await house.payments.desk.refund(session["payment_intent"], 400, "asked", {}, BY)
    assert (refund["amount"], refund["status"]) == (400, "succeeded")
    assert (await house.balance("user:ann")).credit_usd == 6
    await house.tell_all()
    assert (await house.balance("user:ann")).credit_usd == 6
    (row,) = await house.rows("SELECT status, taken_usd FROM payments")
    assert (row["status"], row["taken_usd"]) == ("partially_refunded", 4)
    (noted,) = await house.rows("SELECT content FROM audit_log WHERE content LIKE '%%payment.refund%%'"
                                " AND content LIKE %s", f"%{refund['refund_id']}%")  # fmt: skip
    assert "user_admin" in noted["content"]


async def test_a_refund_whose_answer_was_lost_is_the_same_refund_when_asked_again(house: House) -> None:
    session = await buy(house)
    await house.tell_all()
    house.stripe.fail_after = lambda method, path: httpx.ReadError("cut") if "refunds" in path else None
    with pytest.raises(DependencyAway):
        await house.payments.desk.refund(session["payment_intent"], 400, "asked", {}, BY)
    house.stripe.fail_after = lambda method, path: None
    await house.payments.desk.refund(session["payment_intent"], 400, "asked", {}, BY)
    assert [name for name in house.stripe.objects if name.startswith("re_")].__len__() == 1
    assert (await house.balance("user:ann")).credit_usd == 6


async def test_a_refund_beyond_what_is_left_is_refused_in_stripes_words(house: House) -> None:
    session = await buy(house)
    await house.tell_all()
    await house.payments.desk.refund(session["payment_intent"], None, "all", {}, BY)
    with pytest.raises(InvalidRequest) as refused:
        await house.payments.desk.refund(session["payment_intent"], None, "again", {}, BY)
    assert refused.value.code == "refused_by_stripe"
    assert (await house.balance("user:ann")).credit_usd == 0


async def spend(house: House, payer: str, amount: str) -> None:
    async def work(connection: Connection) -> None:
        async with connection.transaction():
            await take_back(
                connection,
                payer,
                Decimal(amount),
                ref=f"spent:{amount}",
                kind="api_usage",
                target="house:usage",
            )

    await house.run(work)


async def test_of_a_refund_what_was_spent_is_the_houses_loss_and_nobody_goes_below_zero(house: House) -> None:
    session = await buy(house)
    await house.tell_all()
    await spend(house, "user:ann", "7")
    house.stripe.refund(session["payment_intent"], 1000)
    await house.tell_all()
    end = await house.read_end()
    assert end["accounts"].get("credit:user:ann", 0) == 0
    assert end["accounts"]["house:written_off"] == -7
    assert end["accounts"]["house:refunds"] == 10


async def test_a_dispute_that_is_won_gives_back_what_had_really_been_taken(house: House) -> None:
    session = await buy(house)
    await house.tell_all()
    await spend(house, "user:ann", "7")
    house.stripe.dispute(session["payment_intent"], 1000)
    await house.tell_all()
    assert (await house.balance("user:ann")).credit_usd == 0
    house.stripe.dispute(session["payment_intent"], 0, "lost")
    first = next(each for each in house.stripe.objects.values() if each["object"] == "dispute")
    house.stripe.now += 10
    first["status"] = "won"
    house.stripe.tell("charge.dispute.closed", first)
    await house.tell_all()
    end = await house.read_end()
    assert (await house.balance("user:ann")).credit_usd == 3
    assert end["accounts"].get("house:refunds", 0) == 0
    assert end["accounts"]["house:written_off"] + end["accounts"]["house:spent_before_refund"] == 0


async def test_a_refund_that_failed_at_the_bank_gives_the_credit_back(house: House) -> None:
    session = await buy(house)
    await house.tell_all()
    await house.payments.desk.refund(session["payment_intent"], 400, "asked", {}, BY)
    charge = next(each for each in house.stripe.objects.values() if each["object"] == "charge")
    refund = next(each for each in house.stripe.objects.values() if each["object"] == "refund")
    charge["amount_refunded"] = 0
    house.stripe.now += 86400
    house.stripe.tell("refund.failed", refund | {"status": "failed", "charge": charge["id"]})
    await house.tell_all()
    assert (await house.balance("user:ann")).credit_usd == 10


async def test_ways_of_not_paying_are_told_and_paying_goes_over_them(house: House) -> None:
    caller = await house.add_user("ann")
    first, second = await house.begin(caller), await house.begin(caller)
    house.stripe.expire_session(first["session_id"])
    await house.tell_all()
    by_session = {row["session_id"]: row for row in await house.rows("SELECT * FROM payments")}
    assert by_session[first["session_id"]]["status"] == "expired"
    house.stripe.pay_session(second["session_id"])
    intent = house.stripe.objects[house.stripe.objects[second["session_id"]]["payment_intent"]]
    house.stripe.decline_intent(intent["id"])
    await house.tell_all()
    rows = {row["session_id"]: row for row in await house.rows("SELECT * FROM payments")}
    assert rows[second["session_id"]]["status"] == "completed"
    assert rows[second["session_id"]]["failure"] == "insufficient_funds"
    assert (await house.balance("user:ann")).credit_usd == 10


async def test_fifty_tellings_at_once_are_one_credit(house: House) -> None:
    await buy(house)
    paid = [event for event in house.stripe.events if event["type"].endswith(("succeeded", "completed"))]
    outcomes = await asyncio.gather(*(house.payments.inbox.take(event) for event in paid * 16))
    assert (await house.balance("user:ann")).credit_usd == 10
    assert sorted(outcomes).count("done") == 2


async def test_what_is_not_ours_changes_nothing_and_what_nobody_knows_is_kept(house: House) -> None:
    await buy(house)
    stranger = house.stripe.tell("payment_intent.succeeded", {"id": "pi_else", "object": "payment_intent",
                                 "amount_received": 5000, "currency": "usd", "metadata": {}})  # fmt: skip
    unknown = house.stripe.tell("radar.early_fraud_warning.created", {"id": "issfr_1", "object": "x"})
    live = house.stripe.tell("payment_intent.succeeded", house.stripe.events[1]["data"]["object"])
    live["livemode"] = True
    other = house.stripe.tell("payment_intent.succeeded", house.stripe.events[1]["data"]["object"])
    other["account"] = "acct_1"
    assert await house.tell(stranger, unknown, live, other) == ["ignored", "stored", "ignored", "ignored"]
    assert (await house.balance("user:ann")).credit_usd == 0
    kept = await house.row("SELECT sealed FROM stripe_events WHERE event_id = %s", unknown["id"])
    assert kept is not None and b"issfr_1" not in bytes(kept["sealed"])


async def test_a_failure_takes_the_claim_along_and_the_repeat_does_it(house: House) -> None:
    await buy(house)
    event = next(each for each in house.stripe.events if each["type"] == "payment_intent.succeeded")
    broken = {**event, "data": {"object": {**event["data"]["object"], "amount_received": None}}}
    with pytest.raises(EventNotHandled) as problem:
        await house.payments.inbox.take(broken)
    assert problem.value.status == 503
    assert await house.rows("SELECT * FROM stripe_events") == []
    (failure,) = await house.rows("SELECT * FROM stripe_event_failures")
    assert failure["event_id"] == event["id"]
    assert await house.tell(event) == ["done"]
    assert await house.rows("SELECT * FROM stripe_event_failures") == []
    assert (await house.balance("user:ann")).credit_usd == 10


async def test_signatures_are_checked_over_the_bytes(house: House) -> None:
    stripe_api = house.payments.stripe
    event = {"id": "evt_1", "object": "event", "type": "x", "created": 1, "data": {"object": {}}}
    raw, header = sign(event)
    assert stripe_api.check_signature(raw, header)["id"] == "evt_1"
    for body, signature in (
        (raw + b" ", header),
        (raw, ""),
        (raw, "t=1,v1="),
        (raw, sign(event, "whsec_other")[1]),
        (raw, sign(event, timestamp=1_600_000_000)[1]),
        (b"\xff\xfe", header),
        (b"", sign(event)[1]),
    ):
        with pytest.raises(InvalidRequest) as refused:
            stripe_api.check_signature(body, signature)
        assert refused.value.code == "invalid_signature"


async def test_everybody_sees_only_their_own(house: House) -> None:
    session = await buy(house)
    await house.tell_all()
    eve = await house.add_user("eve")
    (row,) = await house.rows("SELECT * FROM payments")
    for name in (row["id"], session["id"], session["payment_intent"]):
        for look in (
            house.payments.desk.find_own,
            house.payments.desk.show_session,
            house.payments.desk.show_intent,
        ):
            with pytest.raises(NotFound):
                await look(eve, name)
    assert await house.payments.desk.list_own(eve, 10, 0, None) == []


async def test_a_teams_money_is_moved_by_who_leads_it(house: House) -> None:
    ann, bob = await house.add_user("ann"), await house.add_user("bob")

    async def work(connection: Connection) -> None:
        await connection.execute("INSERT INTO teams (id, name) VALUES ('t1', 'One')")
        await connection.execute(
            "INSERT INTO team_members (team_id, user_id, role) VALUES ('t1', 'ann', 'owner'), ('t1', 'bob', 'member')"
        )

    await house.run(work)
    begun = await house.begin(replace(ann, team_id="t1"))
    house.stripe.pay_session(begun["session_id"])
    await house.tell_all()
    assert (await house.balance("team:t1")).credit_usd == 10
    with pytest.raises(GatewayError) as refused:
        await house.begin(replace(bob, team_id="t1"))
    assert refused.value.code == "not_team_admin"


async def test_metadata_of_the_caller_never_goes_over_ours(house: House, stripe: StripeStandIn) -> None:
    caller = await house.add_user("ann")
    begun = await house.begin(caller, metadata={"payment_id": "pay_other", "order": "7"})
    session = stripe.objects[begun["session_id"]]
    assert session["metadata"]["payment_id"] == begun["payment_id"]
    assert session["metadata"]["order"] == "7"

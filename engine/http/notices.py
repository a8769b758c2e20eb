"""`/user/notifications` and `/admin/notifications`: what people want to be told, and telling it now."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any
from uuid import uuid4

from pydantic import Field

from engine.config.schema_base import Strict
from engine.config.schema_commerce import NoticesFile
from engine.errors import InvalidRequest, NotFound
from engine.http.endpoints import Answer, Ask, Route
from engine.http.keys import find_owner
from engine.http.till import NotNegative, Till, show_usd
from engine.policies.access import to_change, to_look
from engine.storage import notices
from engine.storage.notices import Month
from engine.storage.outbox import is_address, queue_mail
from engine.storage.postgres import Connection

_PER_HOUR = 5
Days = Annotated[int, Field(ge=0, le=365)]
_COLUMNS = {
    "low_balance_threshold": "low_balance_usd",
    "trial_expiry_reminder_days": "trial_days",
    "plan_expiry_reminder_days": "plan_days",
}


class Preferences(Strict):
    """What is left out stays as it is."""

    email_notifications: bool | None = None
    low_balance_threshold: NotNegative | None = None
    trial_expiry_reminder_days: Days | None = None
    plan_expiry_reminder_days: Days | None = None
    usage_alerts: bool | None = None


class NoticeRoutes:
    def __init__(self, till: Till) -> None:
        self._till = till

    def list(self) -> Sequence[Route]:
        own, all_ = "/user/notifications", "/admin/notifications"
        return (
            Route("GET", f"{own}/preferences", self.show, "What you want to be told."),
            Route("PUT", f"{own}/preferences", self.change, "Say what you want to be told.", body=Preferences),
            Route("POST", f"{own}/test", self.test, "Have a notice sent to you, to see that it comes."),
            Route("POST", f"{own}/send-usage-report", self.report, "Have this month's report sent to you."),
            Route("GET", f"{all_}/stats", self.show_stats, "How many notices were sent.",
                  need=to_look("notifications:read")),
            Route("POST", f"{all_}/process", self.process, "Look now whom to tell what.",
                  need=to_change("notifications:process")),
        )  # fmt: skip

    async def show(self, ask: Ask) -> Answer:
        return Answer(await self._read(find_owner(ask.caller)))

    async def change(self, ask: Ask) -> Answer:
        owner = find_owner(ask.caller)
        said = {
            _COLUMNS.get(name, name): value
            for name in ask.body.model_fields_set
            if (value := getattr(ask.body, name)) is not None
        }
        if not said:
            raise InvalidRequest("a change names at least one field", code="invalid_value")

        async def work(connection: Connection) -> None:
            await notices.write_preferences(connection, owner, said)

        await self._till.run(work)
        return Answer(await self._read(owner))

    async def test(self, ask: Ask) -> Answer:
        owner, rules = find_owner(ask.caller), self._rules
        await self._till.count("notice", owner, _PER_HOUR, 3600)
        data = {
            "balance_usd": show_usd(rules.low_balance_usd),
            "threshold_usd": show_usd(rules.low_balance_usd),
        }

        async def work(connection: Connection) -> bool:
            email = await find_email(connection, owner)
            ref = f"notice_test:{uuid4().hex}"
            return await queue_mail(connection, "low_balance", email, data, ref=ref, user_id=owner)

        return Answer({"success": await self._till.run(work), "message": "the notice is queued"})

    async def report(self, ask: Ask) -> Answer:
        owner, now = find_owner(ask.caller), datetime.now(UTC)
        await self._till.count("notice", owner, _PER_HOUR, 3600)
        month = Month(begin_month(now), now)

        async def work(connection: Connection) -> bool:
            email = await find_email(connection, owner)
            ref = f"usage_report:{uuid4().hex}"
            return await notices.send_report(connection, owner, email, month, ref)

        return Answer({"success": await self._till.run(work), "message": "the report is queued"})

    async def show_stats(self, ask: Ask) -> Answer:
        counts = await self._till.run(notices.count_notices)
        ended = counts["sent"] + counts["failed"]
        return Answer(
            {
                "total_notifications": counts["total"],
                "sent_notifications": counts["sent"],
                "failed_notifications": counts["failed"],
                "pending_notifications": counts["pending"],
                "delivery_rate": round(counts["sent"] / ended, 4) if ended else None,
                "last_24h_notifications": counts["last_24h"],
            }
        )

    async def process(self, ask: Ask) -> Answer:
        return Answer({"status": "success", **await tell_all(self._till)})

    async def _read(self, owner: str) -> dict[str, Any]:
        async def work(connection: Connection) -> dict[str, Any]:
            return await notices.read_preferences(connection, owner, self._rules)

        said = await self._till.run(work)
        return {
            "user_id": owner,
            "email_notifications": said["email_notifications"],
            "low_balance_threshold": show_usd(said["low_balance_usd"]),
            "trial_expiry_reminder_days": said["trial_days"],
            "plan_expiry_reminder_days": said["plan_days"],
            "usage_alerts": said["usage_alerts"],
        }

    @property
    def _rules(self) -> NoticesFile:
        return self._till.find_rules(NoticesFile)


async def tell_all(till: Till) -> dict[str, int]:
    """Tell everybody what is due; how many of each kind."""
    rules, this_month = till.find_rules(NoticesFile), begin_month(datetime.now(UTC))
    month = Month(begin_month(this_month - timedelta(days=1)), this_month)

    async def tell(connection: Connection) -> dict[str, int]:
        return {
            "balances": await notices.tell_balances(connection, rules),
            "ends": await notices.tell_ends(connection, rules),
            "reports": await notices.send_reports(connection, rules, month),
        }

    return await till.database.run(tell)


def begin_month(moment: datetime) -> datetime:
    return moment.replace(day=1, hour=0, minute=0, second=0, microsecond=0)


async def find_email(connection: Connection, user_id: str) -> str:
    row = await (await connection.execute("SELECT email FROM users WHERE id = %s", (user_id,))).fetchone()
    if row is None or not is_address(str(row[0])):
        raise NotFound("this account has no address to write to", code="address_missing")
    return str(row[0])

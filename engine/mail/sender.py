"""Sends what waits in the outbox, by any worker: whoever claims a mail sends it, and no two do.

A mail is tried until it is taken, refused for good, or too old. What a sink may have taken without saying so is sent
again only where the sink knows the mail's key (`when_unsure: retry`).
"""

import asyncio
import hashlib
import logging
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import psycopg

from engine.config.schema_mail import MailFile
from engine.config.snapshot import Snapshot
from engine.errors import DependencyAway
from engine.mail.letters import LetterRefused, LetterWriter
from engine.mail.sinks import Outcome, send_letter
from engine.storage.outgoing import Claimed, claim_mails, count_mails, note_failed, note_sent
from engine.storage.postgres import Database, cancel_tasks
from engine.storage.secrets import KeyRing
from engine.upstream.pools import Upstreams

log = logging.getLogger(__name__)

LOOK_EACH_S = 5.0
AT_ONCE = 8


class MailSender:
    """`folder` is where gateway.yaml lies: a folder of own templates is beside it."""

    def __init__(
        self,
        database: Database,
        ring: KeyRing,
        upstreams: Upstreams,
        read_snapshot: Callable[[], Snapshot],
        folder: Path,
    ) -> None:
        self._database, self._ring, self._upstreams = database, ring, upstreams
        self._read_snapshot, self._folder = read_snapshot, folder
        self._writers: dict[str, LetterWriter] = {}
        self._task: asyncio.Task[None] | None = None
        self.counts = {"sent": 0, "failed": 0, "given_up": 0}
        """Tries of this worker by what came of them."""

    def start(self) -> None:
        self._task = asyncio.create_task(self._send_often())

    async def stop(self) -> None:
        if self._task is not None:
            await cancel_tasks(self._task)

    async def send_waiting(self) -> int:
        """Send what is due now; how many mails were claimed. Raises DependencyAway."""
        mail = self._read_snapshot().declared(MailFile)["default"]
        if mail.sink == "none":
            return 0
        claimed = await self._database.run(partial(claim_mails, ring=self._ring, most=AT_ONCE))
        await asyncio.gather(*(self._send(one, mail) for one in claimed))
        return len(claimed)

    async def count_states(self) -> Mapping[str, int]:
        return await self._database.run(count_mails)

    async def _send(self, claimed: Claimed, mail: MailFile) -> None:
        outcome = self._judge_before(claimed, mail) or await self._try(claimed, mail)
        if outcome.kind == "taken":
            self.counts["sent"] += 1
            await self._database.run(partial(note_sent, mail=claimed, sink_id=outcome.sink_id))
            return
        again_in_s = plan_retry(claimed, outcome, mail)
        self.counts["failed" if again_in_s is not None else "given_up"] += 1
        log.warning(
            "mail %s (%s) was not sent, %s: %s",
            claimed.template,
            claimed.ref,
            "given up" if again_in_s is None else f"again in {again_in_s:.0f} s",
            outcome.words,
        )
        await self._database.run(
            partial(note_failed, mail=claimed, problem=outcome.words, again_in_s=again_in_s)
        )

    def _judge_before(self, claimed: Claimed, mail: MailFile) -> Outcome | None:
        """What need not be tried at all."""
        if claimed.data is None:
            return Outcome("refused", "no entry of the key ring opens its data", is_final=True)
        if claimed.age_s > mail.give_up_after_h * 3600:
            return Outcome("refused", "it is too old to be of use", is_final=True)
        if claimed.was_claimed and mail.when_unsure == "give_up":
            return Outcome("unsure", "an earlier try ended without a word; it may have been sent")
        return None

    async def _try(self, claimed: Claimed, mail: MailFile) -> Outcome:
        writer = self._writers.get(mail.templates)
        if writer is None:
            own = self._folder / mail.templates if mail.templates else None
            writer = self._writers[mail.templates] = LetterWriter(own)
        try:
            letter = writer.write(claimed.template, claimed.data or {}, mail)
        except LetterRefused as error:
            return Outcome("refused", str(error), is_final=True)
        return await send_letter(letter, claimed.address, write_key(claimed.ref), mail, self._upstreams)

    async def _send_often(self) -> None:
        while True:
            pause_s = LOOK_EACH_S
            try:
                if await self.send_waiting() == AT_ONCE:
                    pause_s = 0.0
            except DependencyAway:
                pass
            except psycopg.Error as error:
                log.error("the outbox cannot be read: %s", error)
            await asyncio.sleep(pause_s)


def plan_retry(claimed: Claimed, outcome: Outcome, mail: MailFile) -> float | None:
    """In how many seconds it is tried again; None: never."""
    if outcome.is_final or (outcome.kind == "unsure" and mail.when_unsure == "give_up"):
        return None
    wait_s = min(mail.first_retry_s * 2.0 ** min(claimed.attempts - 1, 30), mail.longest_retry_s)
    return wait_s if claimed.age_s + wait_s <= mail.give_up_after_h * 3600 else None


def write_key(ref: str) -> str:
    """The mail's own key towards the sink: the same at every try, and nothing that a ref may tell."""
    return hashlib.sha256(f"gatewayz mail {ref}".encode()).hexdigest()[:40]

"""Where one worker's money is: the journal it writes, the flusher that posts it, and its leases on what others have.

The three belong together: a lease ends when the journal that spent it is posted wholly, and not before.
"""

import asyncio
from collections.abc import Callable
from pathlib import Path

from engine.billing.holds import HoldStage
from engine.billing.purses import PurseDesk
from engine.config.snapshot import Snapshot
from engine.storage.flusher import Flusher
from engine.storage.journal import Journal
from engine.storage.leases import LeaseBank
from engine.storage.postgres import Database, cancel_tasks


class Cashbox:
    def __init__(self, home: Path, database: Database, fsync_ms: int, clock: Callable[[], float]) -> None:
        self.journal = Journal(home, fsync_ms=fsync_ms)
        self.flusher = Flusher(home, self.journal, database)
        self.purses = PurseDesk(LeaseBank(database), self.journal.id, clock)
        self.stage = HoldStage(self.purses, clock)
        self._leasing: asyncio.Task[None] | None = None

    def follow(self, snapshot: Snapshot) -> None:
        """What the configuration says of balances that calls take below zero."""
        self.flusher.grace_usd = self.purses.grace_usd = snapshot.settings.billing.grace_usd

    def start(self) -> None:
        self.journal.open()
        self.flusher.start()
        self._leasing = asyncio.create_task(self.purses.run())

    async def stop(self) -> None:
        """Post what is written, then let go of what is leased. What cannot be posted keeps its lease."""
        if self._leasing is not None:
            await cancel_tasks(self._leasing)
        if await self.flusher.stop():
            await self.purses.leave()

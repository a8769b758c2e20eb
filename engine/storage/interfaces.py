"""What the rooms above rely on from storage, and the errors that storage has of its own."""

from typing import TYPE_CHECKING, Any, Protocol

from engine.errors import DependencyAway

if TYPE_CHECKING:
    from engine.call import Caller


class StorageRefused(Exception):
    """The gateway or a command cannot work with this home or database; the message is one sentence for a
    person.
    """


class HomeTaken(StorageRefused):
    """Another gateway runs on this GATEWAYZ_HOME."""

    def __init__(self, message: str, pid: int) -> None:
        super().__init__(message)
        self.pid = pid


class JournalAway(DependencyAway):
    """The journal cannot be written (disk full, broken): nothing may be asked upstream that could not be
    recorded.
    """

    code = "journal_unavailable"


class KeyLookup(Protocol):
    """Who a key belongs to."""

    def find(self, key_text: str) -> "Caller | None":
        """The caller when this process knows the key already; never waits. Raises KeyRefused once it expired."""

    async def fetch(self, key_text: str) -> "Caller":
        """The caller from the database. Raises KeyRefused for an unknown key, DependencyAway when nobody
        can tell.
        """


class CallJournal(Protocol):
    """Where calls are written down before and after they happen."""

    def append_begun(self, record: dict[str, Any]) -> None:
        """Note that the upstream will be asked. Raises JournalAway."""

    def append_ended(self, record: dict[str, Any]) -> None:
        """Note how a call ended. Never raises: what the disk does not take now is kept and tried again."""

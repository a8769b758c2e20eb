"""What every SDK can do: say, show, answer, hand over results, keep to a schema. Tests know only this."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from pydantic import BaseModel

SYSTEM = "Be brief."
RESULT = "It is fine."
MAX_OUTPUT = 4000
THINKING_BUDGET = 2000
_DESCRIBED = {"weather": {"city": {"type": "string"}, "days": {"type": "integer"}}, "clock": {}}


class Plan(BaseModel):
    title: str
    steps: list[str]
    done: bool


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is asked beside the words."""

    tools: bool = False
    thoughts: bool = False
    limit: int = MAX_OUTPUT
    stops: tuple[str, ...] = ()


@dataclass(slots=True)
class Told:
    """An answer in words that all SDKs share. `read` and `written` are tokens, thoughts included."""

    text: str = ""
    thoughts: str = ""
    calls: list[tuple[str, Any]] = field(default_factory=list)
    finish: str = ""
    read: int = 0
    written: int = 0


class Talk(ABC):
    """One conversation. `answer` puts the answer into it, so that the next question goes on from there.

    All conversations of an SDK share one client, as those of an application do.
    """

    error: ClassVar[type[Exception]]
    errors: ClassVar[Mapping[int, type[Exception]]] = {}
    broken: ClassVar[type[Exception]]
    """What an error inside a stream is, or what the application makes of it."""

    shows_thoughts: ClassVar[bool] = True
    has_stops: ClassVar[bool] = True

    def __init__(self, client: Any, model: str, wanted: Wanted) -> None:
        self.client, self.model, self.wanted = client, model, wanted
        self.turns: list[Any] = []
        self.calls: list[Any] = []
        self.open()

    @classmethod
    @abstractmethod
    def connect(cls, url: str, key: str) -> Any:
        """The SDK's client; `disconnect` is called with it at the end."""

    @classmethod
    def disconnect(cls, client: Any) -> None:
        client.close()

    def open(self) -> None:  # noqa: B027 - most have nothing to do
        """Before anything was said."""

    @abstractmethod
    def say(self, text: str, image: bytes | None = None) -> None: ...

    @abstractmethod
    def answer(self, *, stream: bool) -> Told: ...

    @abstractmethod
    def give_results(self) -> None:
        """Every call of the last answer has RESULT as its result."""

    @abstractmethod
    def parse(self) -> Plan:
        """Ask what was said, and take the answer as a Plan by the SDK's own means."""

    @abstractmethod
    def find_request_id(self, error: Any) -> str | None: ...

    def find_error(self, status: int) -> type[Exception]:
        """The SDK's class for an answer of this status."""
        return self.errors.get(status, self.error)

    def read_status(self, error: Any) -> int:
        return int(error.status_code)


def describe_tools() -> list[tuple[str, dict[str, Any]]]:
    return [
        (name, {"type": "object", "properties": properties, "required": list(properties)})
        for name, properties in _DESCRIBED.items()
    ]

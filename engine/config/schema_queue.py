"""policies.d/queue.yaml: how many calls run at once, and who goes first when more want to."""

from typing import Literal

from engine.config.schema_base import Count, Name, Seconds, Strict, described

Priority = Literal["critical", "high", "medium", "low", "background"]


class QueueFile(Strict):
    """The queue in front of everything that a call takes. The one named `default` is in force."""

    queue: Name = described("the queue's name; `default` is the one in force")
    extends: Name | None = described("a queue whose keys these go over", None)
    active: Count | None = described(
        "calls of one gateway that run at once, all workers together; without it nobody waits", None
    )
    queued: Count = described("calls that may wait; when it is full the key with most in it gives way", 50)
    wait_s: Seconds = described("a call that has waited for so long is refused", 10)
    age_s: Seconds = described("a call that has waited for so long goes one class up", 3)
    priority: Priority = described("the class of callers whose plan names none", "medium")
    fast_models: tuple[str, ...] = described(
        "globs of small, fast models, whose calls go one class up, as streamed ones do",
        ("*mini*", "*nano*", "*flash*", "*haiku*", "*lite*", "*-8b*", "*-7b*", "*-3b*", "*-1b*"),
    )

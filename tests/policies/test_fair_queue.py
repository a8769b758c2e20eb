"""Turns are fair, nobody starves, and whoever leaves leaves nothing behind."""

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from engine.policies.fair_queue import CLASSES, WEIGHTS, FairQueue, Waiter
from engine.policies.turns import Turns

NEVER_S = 1e9
MEDIUM = CLASSES.index("medium")


def serve(
    queue: FairQueue[int], turns: int, backlog: dict[str, int], age_s: float = NEVER_S
) -> list[Waiter[int]]:
    """So many turns while each key of `backlog` (key -> class) always has two calls waiting."""
    served, now = [], 0.0
    waiting: Counter[str] = Counter(waiter.key for waiter in queue)
    for _ in range(turns):
        for key, level in backlog.items():
            while waiting[key] < 2:
                queue.join(0, key, level, now)
                waiting[key] += 1
        waiter = queue.take(now, age_s)
        assert waiter is not None
        waiting[waiter.key] -= 1
        served.append(waiter)
        now += 1.0
    return served


@given(
    st.dictionaries(st.text("abcdefgh", min_size=1, max_size=3), st.integers(0, 4), min_size=1, max_size=12)
)
@settings(max_examples=60, deadline=None)
def test_classes_get_turns_by_their_weight_and_keys_of_a_class_alike(backlog: dict[str, int]) -> None:
    turns = 600
    served = serve(FairQueue(), turns, backlog)
    classes = Counter(backlog[waiter.key] for waiter in served)
    whole = sum(WEIGHTS[level] for level in set(backlog.values()))
    for level in set(backlog.values()):
        share = turns * WEIGHTS[level] / whole
        assert abs(classes[level] - share) <= len(classes) + 1
        keys = [key for key in backlog if backlog[key] == level]
        counts = [sum(waiter.key == key for waiter in served) for key in keys]
        assert max(counts) - min(counts) <= 1


def test_one_who_comes_after_a_while_goes_ahead_of_a_crowd_of_others_but_is_not_paid_for_the_time() -> None:
    queue: FairQueue[int] = FairQueue()
    for _ in range(50):
        queue.join(0, "crowd", MEDIUM, 0.0)
    for _ in range(20):
        queue.take(0.0, NEVER_S)
    for _ in range(5):
        queue.join(0, "late", MEDIUM, 0.0)
    order = [waiter.key for _ in range(10) if (waiter := queue.take(0.0, NEVER_S))]
    assert order[0] == "late" or order[1] == "late"
    assert abs(order.count("late") - order.count("crowd")) <= 1


def test_a_call_of_the_lowest_class_is_critical_in_the_end() -> None:
    queue: FairQueue[int] = FairQueue()
    old = queue.join(0, "old", 4, 0.0)
    now = 0.0
    for _ in range(10_000):  # three fresh critical keys for every turn: more than there are turns
        for number in range(3):
            queue.join(0, f"fresh-{now}-{number}", 0, now)
        now += 1.0
        if queue.take(now, 5.0) is old:
            break
    assert now <= 30


def test_who_waited_goes_one_class_up_at_a_time() -> None:
    queue: FairQueue[int] = FairQueue()
    waiter = queue.join(0, "k", 4, 0.0)
    for step in range(1, 7):
        other = queue.join(0, "other", 0, step * 2.0)
        assert queue.take(step * 2.0, 2.0) in (waiter, other)
        if not waiter.waits:
            break
        assert waiter.level == max(0, 4 - step)
    assert not waiter.waits


def test_a_full_queue_puts_out_the_newest_call_of_whoever_has_most() -> None:
    queue: FairQueue[int] = FairQueue()
    greedy = [queue.join(number, "greedy", MEDIUM, 0.0) for number in range(5)]
    lowest = queue.join(5, "greedy", 4, 0.0)
    queue.join(6, "modest", MEDIUM, 0.0)
    assert queue.find_giving_way("greedy") is None
    assert queue.find_giving_way("new") is lowest
    queue.leave(lowest)
    assert queue.find_giving_way("modest") is greedy[-1]
    for waiter in greedy[2:]:
        queue.leave(waiter)
    assert queue.find_giving_way("modest") is None, "two against one with this call: nobody has more"


class QueueLife(RuleBasedStateMachine):
    """Whatever order calls come, leave and are let in: everybody is in the queue exactly once, and then not at all."""

    def __init__(self) -> None:
        super().__init__()
        self.queue: FairQueue[int] = FairQueue()
        self.waiting: list[Waiter[int]] = []
        self.now = 0.0

    @rule(key=st.sampled_from("abcde"), level=st.integers(0, 4))
    def join(self, key: str, level: int) -> None:
        self.waiting.append(self.queue.join(len(self.waiting), key, level, self.now))

    @rule(seconds=st.floats(0, 3))
    def pass_time(self, seconds: float) -> None:
        self.now += seconds

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        waiter = self.waiting.pop(data.draw(st.integers(0, len(self.waiting) - 1)))
        self.queue.leave(waiter)
        self.queue.leave(waiter)

    @precondition(lambda self: self.waiting)
    @rule()
    def take(self) -> None:
        waiter = self.queue.take(self.now, 1.0)
        assert waiter is not None, "somebody waits: a turn is never lost"
        mine = [other for other in self.waiting if other.key == waiter.key and other.level == waiter.level]
        assert all(other.caller >= waiter.caller or other.raised_at >= waiter.raised_at for other in mine)
        self.waiting.remove(waiter)
        self.queue.leave(waiter)

    @invariant()
    def everybody_is_there_once(self) -> None:
        assert len(self.queue) == len(self.waiting)
        assert set(self.queue) == set(self.waiting)
        if not self.waiting:
            assert self.queue.take(self.now, 1.0) is None
            assert not self.queue._counts and not self.queue._turns._wanting and not self.queue._turns._behind
            for each in self.queue._classes:
                assert not (each.lines or each.arrivals or each.turns._wanting or each.turns._heap)


TestQueueLife = QueueLife.TestCase
TestQueueLife.settings = settings(max_examples=60, stateful_step_count=60, deadline=None)


def test_what_is_remembered_of_members_that_come_and_go_stays_small() -> None:
    turns: Turns[str] = Turns()
    turns.want("stays")
    for number in range(5000):
        turns.want(f"m{number}")
        turns.leave(f"m{number}")
        assert len(turns._heap) <= 64
    for number in range(5000):
        turns.want(f"m{number}")
        turns.want("stays")
        turns.take()
        turns.rest()
        turns.leave(f"m{number}")
        assert len(turns._behind) <= 64

"""A `poll` section says what a job's answers mean; a wrong one is refused where it is wrong."""

from engine.wire.declared import Problems
from engine.wire.jobs import compile_poll

POLL = {"status": "$.urls.get", "state": "$.status", "done": "ok", "failed": ["bad", 3], "result": "$.to"}


def test_states_and_addresses_are_read_from_the_first_document_that_has_them() -> None:
    problems: Problems = []
    poll = compile_poll(POLL, problems)
    assert poll is not None and not problems
    assert [poll.judge({"status": state}) for state in ("ok", "bad", 3, "waiting", None)] == [
        "done",
        "failed",
        "failed",
        "open",
        "open",
    ]
    assert poll.find_url("result", {"to": ""}, {"to": "/there"}) == "/there"
    assert poll.find_url("cancel", {"to": "/there"}) is None
    assert (poll.every_s, poll.give_up_s, poll.cancel_method) == (1.0, 300.0, "POST")


def test_a_format_without_the_section_has_no_jobs() -> None:
    assert compile_poll({}, []) is None


def test_a_wrong_section_is_refused_where_it_is_wrong() -> None:
    problems: Problems = []
    wrong = {
        "state": "$.status[",
        "done": {},
        "every_s": 0,
        "give_up_s": "long",
        "cancel_method": "EAT",
        "if": 1,
    }
    compile_poll(wrong, problems)
    assert {path for path, _ in problems} == {
        ("poll",),
        ("poll", "state"),
        ("poll", "done"),
        ("poll", "every_s"),
        ("poll", "give_up_s"),
        ("poll", "cancel_method"),
        ("poll", "if"),
    }

"""The line between two processes, with both ends in this one."""

import asyncio
import contextlib
import socket

import pytest

from engine.serve.control import LineClosed, hand_over_sockets, open_line, receive_sockets


@contextlib.asynccontextmanager
async def open_pair(answers):
    """(the asking line, the answering line, the task that listens for the answering one)"""
    ours, theirs = socket.socketpair()
    asking, answering = await open_line(ours, {}), await open_line(theirs, answers)
    tasks = [asyncio.create_task(line.listen()) for line in (asking, answering)]
    try:
        yield asking, answering, tasks[1]
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def echo(facts):
    return {"heard": facts}


async def test_an_answer_reaches_the_one_who_asked_although_a_later_question_was_answered_first():
    gate = asyncio.Event()

    async def wait(_):
        await gate.wait()
        return {"late": True}

    async with open_pair({"wait": wait, "echo": echo}) as (asking, _, _):
        late = asyncio.create_task(asking.ask("wait", 5))
        assert await asking.ask("echo", 5, text="a\nb") == {"heard": {"text": "a\nb"}}
        gate.set()
        assert await late == {"late": True}


async def test_a_large_question_arrives_whole():
    async with open_pair({"echo": echo}) as (asking, _, _):
        assert len((await asking.ask("echo", 5, text="x" * 3_000_000))["heard"]["text"]) == 3_000_000


async def test_a_question_without_an_answer_in_time_is_given_up_and_the_line_goes_on():
    async def sleep(_):
        await asyncio.sleep(60)

    async with open_pair({"sleep": sleep, "echo": echo}) as (asking, _, _):
        with pytest.raises(LineClosed, match=r"within 0\.05 s"):
            await asking.ask("sleep", 0.05)
        assert await asking.ask("echo", 5) == {"heard": {}}


async def test_the_end_of_the_other_side_ends_every_question():
    async def sleep(_):
        await asyncio.sleep(60)

    async with open_pair({"sleep": sleep}) as (asking, _, listening):
        question = asyncio.create_task(asking.ask("sleep", 60))
        await asyncio.sleep(0.01)
        listening.cancel()
        with pytest.raises(LineClosed):
            await question
        await asyncio.wait_for(asking.closed.wait(), 5)
        with pytest.raises(LineClosed):
            await asking.ask("sleep", 60)


async def test_a_fault_of_the_other_side_is_told():
    async def fail(_):
        raise ValueError("no")

    async with open_pair({"fail": fail}) as (asking, _, _):
        assert await asking.ask("fail", 5) == {"fault": "ValueError: no"}
        assert "fault" in await asking.ask("unknown", 5)


def test_sockets_are_handed_over_and_an_ended_supervisor_is_noticed():
    ours, theirs = socket.socketpair()
    with ours, theirs, socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        hand_over_sockets(ours, [listening, listening])
        received = receive_sockets(theirs)
        assert [each.getsockname() for each in received] == [listening.getsockname()] * 2
        for each in received:
            each.close()
        ours.close()
        assert receive_sockets(theirs) == []

"""Whoever answers calls goes before the embedded database."""

import ctypes
import os
import platform
import struct
from pathlib import Path

import psycopg
import pytest

from engine.storage.embedded import EmbeddedDatabase
from engine.storage.time_slices import lengthen_slices

READ_ATTRIBUTES = {"x86_64": 315, "aarch64": 275}


def read_slice_s(pid: int) -> float:
    """What sched_getattr(2) says of a process."""
    attributes = ctypes.create_string_buffer(48)
    assert ctypes.CDLL(None).syscall(READ_ATTRIBUTES[platform.machine()], pid, attributes, 48, 0) == 0
    return float(struct.unpack("IIQiIQQQ", attributes.raw)[5]) / 1e9


def has_slices() -> bool:
    release = tuple(int(part) for part in platform.release().split("-")[0].split(".")[:2])
    return platform.system() == "Linux" and platform.machine() in READ_ATTRIBUTES and release >= (6, 12)


@pytest.mark.skipif(not has_slices(), reason="slices of one's own came with Linux 6.12")
async def test_the_server_and_each_of_its_processes_ask_for_longer_slices_than_a_worker_has(ready_home: Path):
    server = EmbeddedDatabase(ready_home)
    url = await server.start()
    try:
        async with await psycopg.AsyncConnection.connect(url) as connection:
            rows = await connection.execute("SELECT pid FROM pg_stat_activity")
            pids = [server.pid, *[pid for (pid,) in await rows.fetchall()]]
        assert len(pids) > 3
        assert {read_slice_s(pid) for pid in pids} == {0.02} and read_slice_s(os.getpid()) < 0.02
    finally:
        await server.stop()


@pytest.mark.skipif(platform.system() != "Linux", reason="policies of scheduling are Linux's")
async def test_a_process_of_another_policy_keeps_it():
    child = os.posix_spawn("/bin/sleep", ["sleep", "5"], {})
    try:
        os.sched_setscheduler(child, os.SCHED_IDLE, os.sched_param(0))
        assert not lengthen_slices(child, 0.02)
        assert os.sched_getscheduler(child) == os.SCHED_IDLE
    finally:
        os.kill(child, 9)
        os.waitpid(child, 0)

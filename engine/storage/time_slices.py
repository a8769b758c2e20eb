"""How the embedded database shares the processors with those who answer calls.

It writes records in bursts. With slices as long as theirs it keeps its processor until the next tick of the kernel
(4 ms at 250 Hz) while a call waits; who asks for longer slices gives way at once to all who ask for shorter ones,
and its share of the time stays what it was.
"""

import ctypes
import os
import platform
import struct
import sys

_SET_ATTRIBUTES = {"x86_64": 314, "aarch64": 274}
"""The number of sched_setattr(2), which C libraries have had only since 2025."""


def lengthen_slices(pid: int, slice_s: float) -> bool:
    """Ask for slices of `slice_s` for a process and all that it starts from now on. False: this system knows no such
    wish (before Linux 6.12 it takes and ignores it) or does not grant it."""
    number = _SET_ATTRIBUTES.get(platform.machine())
    if sys.platform != "linux" or number is None or struct.calcsize("P") != 8:
        return False
    policy = os.sched_getscheduler(pid)
    if policy not in (os.SCHED_OTHER, os.SCHED_BATCH):
        return False
    nice = os.getpriority(os.PRIO_PROCESS, pid)
    attributes = struct.pack("IIQiIQQQ", 48, policy, 0, nice, 0, int(slice_s * 1e9), 0, 0)
    return bool(ctypes.CDLL(None).syscall(number, pid, attributes, 0) == 0)

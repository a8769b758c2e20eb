"""What a worker does with its memory, seen in a process of its own."""

import subprocess
import sys

import pytest

FAULTS = """
import resource, sys
from engine.serve.memory import settle_memory
if sys.argv[1] == "settled":
    settle_memory()
pieces = [b"x" * 65536] * 16

def gather():
    body = bytearray()
    for piece in pieces:
        body += piece
    return bytes(body)

gather()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(100):
    gather()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def count_page_faults(how: str) -> int:
    done = subprocess.run([sys.executable, "-c", FAULTS, how], capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="it is glibc that is told")
def test_a_large_body_is_gathered_in_the_memory_of_the_one_before() -> None:
    assert count_page_faults("settled") < 1000 < count_page_faults("not") // 10

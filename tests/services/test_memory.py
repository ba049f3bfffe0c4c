import ctypes
import subprocess
import sys

import pytest

from provserver.services import memory

HELD = """
import asyncio
from pathlib import Path
from provserver.services import memory
from provserver.services.passwords import Passwords

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

async def main():
    passwords = Passwords()
    before = resident()
    await asyncio.gather(*(passwords.hash("plum pudding 7") for _ in range(8)))
    print((resident() - before) >> 20)
    passwords.close()

{settle}
asyncio.run(main())
"""


def held(settle: str) -> int:
    """MB that a process holds after it has hashed passwords."""
    run = [sys.executable, "-c", HELD.format(settle=settle)]
    return int(subprocess.run(run, capture_output=True, check=True, text=True).stdout)


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="another libc")
def test_a_process_that_has_settled_holds_no_memory_of_passwords() -> None:
    assert held("memory.settle()") < 8 < held("")


def test_where_there_is_another_libc_nothing_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    class Other:
        """Has none of it."""

    memory._libc.cache_clear()
    with monkeypatch.context() as patched:
        patched.setattr(ctypes, "CDLL", lambda _: Other())
        memory.settle()
        memory.give_back()
    memory._libc.cache_clear()

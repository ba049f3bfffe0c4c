"""The lock on a data directory."""

import os
import signal
import subprocess
import sys
from pathlib import Path

from provserver.store.lock import DataDirLock, Holder

HOLD = """
import sys
from pathlib import Path
from provserver.store.lock import DataDirLock, Holder
lock = DataDirLock(Path(sys.argv[1]))
assert lock.take()
lock.record(Holder(1234, "serve", "/tmp/provserver-x"))
print("held", flush=True)
sys.stdin.read()
"""


def test_one_at_a_time_and_again_after_release(tmp_path: Path) -> None:
    first, second = DataDirLock(tmp_path / "lock"), DataDirLock(tmp_path / "lock")
    assert first.take()
    assert first.held
    assert not second.take()
    first.release()
    first.release()
    assert not first.held
    assert second.take()
    second.release()


def test_it_says_who_has_it_and_ends_with_its_process(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLD, str(tmp_path / "lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        lock = DataDirLock(tmp_path / "lock")
        assert not lock.take()
        holder = lock.holder()
        assert holder == Holder(1234, "serve", "/tmp/provserver-x")
        assert str(holder) == "`provserver serve` (pid 1234)"
        os.kill(process.pid, signal.SIGKILL)
    assert lock.take()
    assert lock.holder() == holder, "what is left behind can be cleared by whoever comes next"
    lock.record(None)
    assert lock.holder() is None
    lock.release()


def test_the_file_is_its_owners_alone(tmp_path: Path) -> None:
    lock = DataDirLock(tmp_path / "lock")
    lock.take()
    lock.release()
    assert (tmp_path / "lock").stat().st_mode & 0o777 == 0o600

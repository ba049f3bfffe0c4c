"""The supervisor in a process of its own, with real children."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.server import LIMIT, until

SCRIPT = """
import json, os, signal, sys, time
from provserver.supervisor import NotReady, Supervisor

def say(**members):
    sys.stdout.write(json.dumps(members) + "\\n")
    sys.stdout.flush()

def child(name, deaf=False):
    def run(report):
        stop, supervising = [], os.getppid()
        signal.signal(signal.SIGTERM, signal.SIG_IGN if deaf else lambda *_: stop.append(1))
        say(child=name, pid=os.getpid())
        report({"name": name})
        while not stop and not (deaf and os.getppid() != supervising):  # or it would stay when a test fails
            time.sleep(0.01)
        say(ended=name)
    return run

def failing(report):
    raise SystemExit(7)

def die(number):
    pid = supervisor._children[number].pid
    os.kill(pid, signal.SIGKILL)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)  # it is dead, and still the supervisor's to reap

def told_to_stop():
    os.kill(os.getpid(), signal.SIGTERM)

meanwhile = []  # what happens while the next child is forked

def happen():
    while meanwhile:
        meanwhile.pop(0)()

os.register_at_fork(after_in_parent=happen)

with Supervisor(stop_timeout=STOP_TIMEOUT) as supervisor:
    try:
        BODY
    except NotReady as fault:
        say(not_ready=fault.code)
        sys.exit(9)
say(code=code)
"""


class Run:
    """A process under test; `next` reads what it or a child says."""

    def __init__(self, body: str, stop_timeout: float = 30) -> None:
        script = SCRIPT.replace("STOP_TIMEOUT", str(stop_timeout))
        script = script.replace("BODY", textwrap.indent(textwrap.dedent(body).strip(), " " * 8).lstrip())
        self.process = subprocess.Popen(
            [sys.executable, "-c", script],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            process_group=0,
        )
        self._limit = threading.Timer(LIMIT, self.process.kill)  # its children end, and so does what they say
        self._limit.start()

    def next(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, self.process.stderr.read() if self.process.stderr else ""
        said: dict[str, Any] = json.loads(line)
        return said

    def pid_of(self, name: str) -> int:
        """The pid of the child that says its name next."""
        said = self.next()
        assert said["child"] == name
        pid: int = said["pid"]
        return pid

    def end(self) -> None:
        self._limit.cancel()
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()
        self._limit.join()


TWO = """
    first = supervisor.start("first", child("first"), vital=VITAL)
    second = supervisor.start("second", child("second"))
    say(ready=[first, second])
    code = supervisor.watch()
"""


@pytest.fixture
def run() -> Iterator[Any]:
    runs: list[Run] = []

    def start(body: str, **options: Any) -> Run:
        runs.append(Run(body, **options))
        return runs[-1]

    yield start
    for each in runs:
        each.end()


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_all_run_until_they_are_told_to_stop(run: Any, number: signal.Signals) -> None:
    two = run(TWO.replace("VITAL", "True"))
    pids = [two.pid_of("first"), two.pid_of("second")]
    assert two.next() == {"ready": [{"name": "first"}, {"name": "second"}]}

    os.killpg(two.process.pid, number)  # as Ctrl-C does: the order is the supervisor's all the same

    assert [two.next(), two.next(), two.next()] == [{"ended": "second"}, {"ended": "first"}, {"code": 0}]
    assert two.process.wait() == 0
    assert all(map(gone, pids))


def test_a_dead_child_is_started_again(run: Any) -> None:
    two = run(TWO.replace("VITAL", "True"))
    pids = {"first": two.pid_of("first"), "second": two.pid_of("second")}
    assert "ready" in two.next()

    for _ in range(3):
        os.kill(pids["second"], signal.SIGKILL)
        again = two.pid_of("second")
        assert again != pids["second"]
        pids["second"] = again

    two.process.send_signal(signal.SIGTERM)
    assert [two.next(), two.next(), two.next()] == [{"ended": "second"}, {"ended": "first"}, {"code": 0}]


def test_what_cannot_be_started_again_now_is_later(run: Any) -> None:
    body = """
    fork, faults = os.fork, [BlockingIOError(11, "Resource temporarily unavailable")] * 2
    supervisor.start("first", child("first"))
    supervisor.start("second", child("second"))
    before = len(os.listdir("/proc/self/fd"))
    def forking():
        if faults:
            raise faults.pop()
        say(descriptors=len(os.listdir("/proc/self/fd")) - before)
        return fork()
    os.fork = forking
    say(ready=1)
    code = supervisor.watch()
    """
    two = run(body)
    pids = {"first": two.pid_of("first"), "second": two.pid_of("second")}
    assert two.next() == {"ready": 1}

    os.kill(pids["second"], signal.SIGKILL)

    assert two.next() == {"descriptors": 1}  # the dead one's pipe is closed, and the new one's two ends are there
    assert two.pid_of("second") != pids["second"]
    two.process.send_signal(signal.SIGTERM)
    assert sorted(two.next()["ended"] for _ in pids) == ["first", "second"]
    assert two.next() == {"code": 0}


def test_without_a_vital_child_all_ends(run: Any) -> None:
    two = run(TWO.replace("VITAL", "True"))
    first, second = two.pid_of("first"), two.pid_of("second")
    assert "ready" in two.next()

    os.kill(first, signal.SIGKILL)

    assert [two.next(), two.next()] == [{"ended": "second"}, {"code": 1}]
    assert gone(second)


def test_a_child_that_cannot_start_ends_all_with_its_exit_code(run: Any) -> None:
    two = run('supervisor.start("first", child("first"))\nsupervisor.start("second", failing)\ncode = 0')
    first = two.pid_of("first")

    assert [two.next(), two.next()] == [{"not_ready": 7}, {"ended": "first"}]
    assert two.process.wait() == 9
    assert gone(first)


def test_a_child_that_does_not_end_is_killed(run: Any) -> None:
    one = run(
        'supervisor.start("deaf", child("deaf", deaf=True))\nsay(ready=1)\ncode = supervisor.watch()', stop_timeout=0
    )
    pid = one.pid_of("deaf")
    assert one.next() == {"ready": 1}

    one.process.send_signal(signal.SIGTERM)

    assert one.next() == {"code": 0}
    assert gone(pid)


def test_children_end_with_their_supervisor(run: Any) -> None:
    two = run(TWO.replace("VITAL", "False"))
    pids = [two.pid_of("first"), two.pid_of("second")]
    assert "ready" in two.next()

    two.process.kill()

    assert {two.next()["ended"], two.next()["ended"]} == {"first", "second"}
    until(lambda: all(map(gone, pids)), "they end with their supervisor")


def test_who_is_late_ends_after_the_others(run: Any) -> None:
    body = """
    supervisor.start("watching", child("watching"), late=True)
    supervisor.start("working", child("working"))
    supervisor._stop(0, None)
    code = supervisor.watch()
    """
    running = run(body)

    said = [running.next() for _ in range(4)]

    assert [each.get("ended") for each in said[2:]] == ["working", "watching"]
    assert running.process.wait(60) == 0


def test_it_beats_while_it_watches(run: Any) -> None:
    body = """
    beats = []
    supervisor._beat, supervisor._period = lambda: beats.append(1) or len(beats) < 3 or supervisor._stop(0, None), 0.001
    supervisor.start("working", child("working"))
    code = supervisor.watch()
    say(beats=len(beats))
    """
    running = run(body)

    assert running.next()["child"] == "working"
    assert running.next() == {"beats": 3}
    assert running.next() == {"ended": "working"}
    assert running.next() == {"code": 0}
    assert running.process.wait(60) == 0


def test_a_child_that_dies_while_a_later_one_starts_is_started_again(run: Any) -> None:
    body = """
    supervisor.start("first", child("first"))
    meanwhile.append(lambda: die(0))
    supervisor.start("second", child("second"))
    code = supervisor.watch()
    """
    two = run(body)
    first = two.pid_of("first")
    two.pid_of("second")

    assert two.pid_of("first") != first

    two.process.send_signal(signal.SIGTERM)
    assert {two.next()["ended"], two.next()["ended"]} == {"first", "second"}
    assert two.next() == {"code": 0}


def test_all_ends_when_a_vital_child_dies_while_a_later_one_starts(run: Any) -> None:
    body = """
    supervisor.start("first", child("first"), vital=True)
    meanwhile.append(lambda: die(0))
    supervisor.start("second", child("second"))
    code = supervisor.watch()
    """
    two = run(body)
    two.pid_of("first")
    two.pid_of("second")

    assert [two.next(), two.next()] == [{"ended": "second"}, {"code": 1}]


def test_a_child_that_dies_while_another_is_started_again_is_too(run: Any) -> None:
    body = """
    supervisor.start("first", child("first"))
    supervisor.start("second", child("second"))
    meanwhile.append(lambda: die(0))
    say(ready=1)
    code = supervisor.watch()
    """
    two = run(body)
    pids = {"first": two.pid_of("first"), "second": two.pid_of("second")}
    assert two.next() == {"ready": 1}

    os.kill(pids["second"], signal.SIGKILL)

    again = {each["child"]: each["pid"] for each in (two.next(), two.next())}
    assert again.keys() == pids.keys()
    assert not set(again.values()) & set(pids.values())


def test_a_child_that_dies_as_all_is_told_to_stop_does_not_keep_the_others_from_ending_in_order(run: Any) -> None:
    body = """
    both = [told_to_stop, lambda: die(1)]
    supervisor._beat, supervisor._period = lambda: [both.pop()() for _ in both[:]], 0.001
    supervisor.start("database", child("database"), vital=True)
    supervisor.start("first", child("first"))
    supervisor.start("second", child("second"))
    code = supervisor.watch()
    """
    running = run(body)
    pids = [running.pid_of(name) for name in ("database", "first", "second")]

    assert [running.next() for _ in range(3)] == [{"ended": "second"}, {"ended": "database"}, {"code": 0}]
    assert running.process.wait() == 0
    assert all(map(gone, pids))


def test_so_does_one_that_is_found_dead_after_all_was_told_to_stop(run: Any) -> None:
    body = """
    supervisor.start("database", child("database"), vital=True)
    supervisor.start("first", child("first"))
    supervisor.start("second", child("second"))
    supervisor.start("third", child("third"))
    meanwhile += [lambda: die(2), told_to_stop]
    say(ready=1)
    code = supervisor.watch()
    """
    running = run(body)
    database, first, second, third = (running.pid_of(name) for name in ("database", "first", "second", "third"))
    assert running.next() == {"ready": 1}

    os.kill(first, signal.SIGKILL)  # the next one is looked at right after this one was started again

    said = [running.next()]
    while "code" not in said[-1]:
        said.append(running.next())
    assert [each["ended"] for each in said if each.get("ended") in ("database", "third")] == ["third", "database"]
    assert said[-1] == {"code": 0}
    assert running.process.wait() == 0
    assert all(map(gone, (database, first, second, third)))


def test_a_child_that_is_told_to_stop_while_it_is_forked_ends(run: Any) -> None:
    body = """
    os.register_at_fork(after_in_child=told_to_stop)
    supervisor.start("first", child("first"))
    code = supervisor.watch()
    """
    one = run(body)

    assert one.next() == {"not_ready": -signal.SIGTERM}


def test_nobody_is_started_once_all_is_told_to_stop(run: Any) -> None:
    body = """
    supervisor.start("first", child("first"))
    told_to_stop()
    say(second=supervisor.start("second", child("second")))
    with open(f"/proc/self/task/{os.getpid()}/children") as children:
        say(children=[int(pid) for pid in children.read().split()])
    code = supervisor.watch()
    """
    one = run(body)
    first = one.pid_of("first")

    assert [one.next() for _ in range(4)] == [{"second": None}, {"children": [first]}, {"ended": "first"}, {"code": 0}]

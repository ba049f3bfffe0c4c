"""Several processes of one server: forks them, starts a dead one again, stops them all.

No event loop runs here, so that children can be forked at any time, with what they share made before: sockets, TLS
contexts. Each child says once that it is ready, by a line of JSON.
"""

import ctypes
import json
import logging
import os
import select
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from types import FrameType
from typing import Any, NoReturn, Self

log = logging.getLogger("provserver.supervisor")

Report = Callable[[object], None]
Run = Callable[[Report], None]
"""What a child does: it reports a JSON value once it is ready, and returns when SIGTERM has come."""

_FIRST_PAUSE, _LAST_PAUSE = 0.1, 10.0
"""Seconds until a dead child is started again; longer each time that it did not live for a minute."""

_LIVED = 60.0
_PR_SET_PDEATHSIG = 1


class NotReady(Exception):  # noqa: N818
    """A child ended before it was ready, and has said why. code: its exit code."""

    def __init__(self, name: str, code: int) -> None:
        super().__init__(f"{name} ended with exit code {code} before it was ready")
        self.code = code


@dataclass(eq=False)
class Child:
    """A process of ours. vital: without it the others are worth nothing. late: it ends after those that are not.

    pid: until it is reaped; 0: there is none.
    """

    name: str
    run: Run
    vital: bool
    late: bool
    pid: int = 0
    pipe: int = -1
    started: float = 0.0
    pause: float = _FIRST_PAUSE
    due: float | None = None
    said: bytes = field(default=b"", repr=False)


class Supervisor:
    """Runs children until it is told to stop. stop_timeout: seconds in which they must end themselves.

    beat: called while it watches, every `period` seconds.
    """

    def __init__(
        self, *, stop_timeout: float, beat: Callable[[], None] | None = None, period: float | None = None
    ) -> None:
        self._stop_timeout = stop_timeout
        self._beat = beat
        self._period = period
        self._children: list[Child] = []
        self._stopping = False
        self._wakeup = (-1, -1)
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> Self:
        self._wakeup = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(self._wakeup[1])
        for number in (signal.SIGTERM, signal.SIGINT):
            self._previous[number] = signal.signal(number, self._stop)
        self._previous[signal.SIGCHLD] = signal.signal(signal.SIGCHLD, _noted)
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        signal.set_wakeup_fd(-1)
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        for end in self._wakeup:
            os.close(end)

    @property
    def stopping(self) -> bool:
        """Whether SIGTERM or SIGINT has come."""
        return self._stopping

    def start(self, name: str, run: Run, *, vital: bool = False, late: bool = False) -> Any:
        """Fork a child; returns what it reports when it is ready, or None when all is to stop. Raises NotReady."""
        if self._stopping:
            return None
        child = Child(name, run, vital, late or vital)
        self._children.append(child)
        self._fork(child)
        while b"\n" not in child.said and not self._stopping:
            if not self._hear(child):
                raise NotReady(name, self._reap(child))
        return json.loads(child.said) if b"\n" in child.said else None

    def watch(self) -> int:
        """Start dead children again until all is to stop; returns an exit code: not 0 if a vital one has died."""
        beaten = time.monotonic()
        while not self._stopping:
            for child in self._children:  # before the first wait: the signal of a death may have come before `watch`
                pid = child.pid
                if pid and (code := self._ended(child)) is not None:
                    if self._stopping:
                        return 0
                    log.error("%s (pid %d) has ended, exit code %d", child.name, pid, code)
                    if child.vital:
                        return 1
                    self._postpone(child)
                elif child.due is not None and child.due <= time.monotonic():
                    child.due = None
                    try:
                        self._fork(child)
                    except OSError as fault:  # the others go on meanwhile
                        log.error("%s could not be started again: %s", child.name, fault.strerror)  # noqa: TRY400
                        self._postpone(child)
                    else:
                        log.warning("%s was started again (pid %d)", child.name, child.pid)
            due = self._next_due()
            if self._beat is not None and self._period is not None:
                if time.monotonic() >= beaten + self._period:
                    beaten = time.monotonic()
                    self._beat()
                due = min(due or beaten + self._period, beaten + self._period)
            self._wait(due)
        return 0

    def stop(self) -> None:
        """End all, those that are late at the end. Who does not end in time is killed. Again is harmless."""
        self._stopping = True
        for late in (False, True):
            running = [child for child in self._children if child.late is late and child.pid]
            for child in running:
                os.kill(child.pid, signal.SIGTERM)
            end = time.monotonic() + self._stop_timeout
            while (left := [child for child in running if self._ended(child) is None]) and time.monotonic() < end:
                self._wait(end)
            for child in left:
                log.error("%s (pid %d) did not end in time and is killed", child.name, child.pid)
                os.kill(child.pid, signal.SIGKILL)
                self._reap(child)

    def _fork(self, child: Child) -> None:
        """Raises OSError: no process is to be had, or no descriptor."""
        parent = os.getpid()
        child.started = time.monotonic()
        child.pipe, writing = os.pipe2(os.O_CLOEXEC)
        child.said = b""
        sys.stdout.flush()
        sys.stderr.flush()
        # Until the child has let go of our handlers, they would take for us a SIGTERM that is meant for it.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, self._previous)
        try:
            child.pid = os.fork()
            if child.pid == 0:
                self._become(child, parent, writing, mask)
        except OSError:
            self._forget(child)
            raise
        finally:
            os.close(writing)
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)

    def _become(self, child: Child, parent: int, writing: int, mask: set[int | signal.Signals]) -> NoReturn:
        code = 1
        try:
            os.setsid()  # what comes to the whole group, such as Ctrl-C, is ours alone: who ends first matters
            signal.set_wakeup_fd(-1)
            for number in self._previous:
                signal.signal(number, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            for other in self._children:
                if other.pipe >= 0:
                    os.close(other.pipe)
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
            if os.getppid() == parent:
                child.run(lambda value: _report(writing, value))
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1
        except KeyboardInterrupt:
            code = 130
        except BaseException:
            log.exception("%s has failed", child.name)
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)

    def _hear(self, child: Child) -> bool:
        """Take what a child reports; False when it has ended instead."""
        readable, _, _ = select.select([child.pipe, self._wakeup[0]], [], [])
        self._drain()
        if child.pipe in readable:
            part = os.read(child.pipe, 65_536)
            child.said += part
            return bool(part)
        return True

    def _wait(self, until: float | None) -> None:
        """Until a signal comes, or it is time."""
        timeout = None if until is None else max(until - time.monotonic(), 0)
        select.select([self._wakeup[0]], [], [], timeout)
        self._drain()

    def _drain(self) -> None:
        try:
            while os.read(self._wakeup[0], 4096):
                pass
        except BlockingIOError:
            pass

    def _next_due(self) -> float | None:
        return min((child.due for child in self._children if child.due is not None), default=None)

    def _postpone(self, child: Child) -> None:
        now = time.monotonic()
        child.pause = _FIRST_PAUSE if now - child.started > _LIVED else min(child.pause * 2, _LAST_PAUSE)
        child.due = now + child.pause

    def _ended(self, child: Child) -> int | None:
        """A child's exit code, once it is reaped, 0 when it was before; None while it runs."""
        if not child.pid:
            return 0
        pid, status = os.waitpid(child.pid, os.WNOHANG)
        if not pid:
            return None
        self._forget(child)
        return os.waitstatus_to_exitcode(status)

    def _reap(self, child: Child) -> int:
        _, status = os.waitpid(child.pid, 0)
        self._forget(child)
        return os.waitstatus_to_exitcode(status)

    def _forget(self, child: Child) -> None:
        child.pid = 0
        if child.pipe >= 0:
            os.close(child.pipe)
            child.pipe = -1

    def _stop(self, _number: int, _frame: FrameType | None) -> None:
        self._stopping = True


def _noted(_number: int, _frame: FrameType | None) -> None:
    """Nothing: that the signal came wakes the loop."""


def _report(pipe: int, value: object) -> None:
    os.write(pipe, json.dumps(value).encode() + b"\n")

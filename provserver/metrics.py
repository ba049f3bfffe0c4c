"""What is counted, and how processes add it up.

Every family stands in the list below, with all the values that its labels can have: nothing that a peer sends becomes
one. Counting is `cell.value += 1` on a plain number of this process; once a second a process writes its numbers into
its slot of a page that all processes share (`Page`), and who shows them adds the slots up. A process that is killed
loses what it counted since then; its successor goes on from the slot.
"""

import asyncio
import os
import struct
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import product
from mmap import mmap
from typing import Generic, NamedTuple, TypeVar

from provserver.core.authentication import Denial
from provserver.core.decision import Reason
from provserver.core.model import Transport
from provserver.errors import Outcome

PERIOD = 1.0
"""Seconds between two writes of a process' numbers."""

_counting = ContextVar("counting", default=True)


def counting() -> bool:
    """Whether what happens here is for the numbers that are shown."""
    return _counting.get()


@contextmanager
def uncounted() -> Iterator[None]:
    """Have what is found and counted inside, and by tasks that begin there, go to cells that nobody shows."""
    token = _counting.set(False)
    try:
        yield
    finally:
        _counting.reset(token)


class Cell:
    """One number. `cell.value += 1` counts; of a gauge, `cell.value = x` says how it stands."""

    __slots__ = ("value",)
    size = 1

    def __init__(self) -> None:
        self.value: float = 0

    def numbers(self) -> Sequence[float]:
        """What is written of it."""
        return (self.value,)

    def resume(self, numbers: Sequence[float]) -> None:
        """Go on from what was written."""
        (self.value,) = numbers


class Gauge(Cell):
    """A number that goes up and down. One of a process that has ended stands for nothing any more."""

    __slots__ = ("_reads",)

    def __init__(self) -> None:
        super().__init__()
        self._reads: list[Callable[[], float]] = []

    def follow(self, read: Callable[[], float]) -> Callable[[], None]:
        """Have it be what `read` returns once a second, until the returned function is called; of several, the sum."""
        self._reads.append(read)

        def unfollow() -> None:
            if read in self._reads:
                self._reads.remove(read)
                self.value = 0

        return unfollow

    def numbers(self) -> Sequence[float]:
        """What is written of it."""
        if self._reads:
            self.value = sum(read() for read in self._reads)
        return (self.value,)

    def resume(self, numbers: Sequence[float]) -> None:
        """Nothing: whoever was before has taken it with him."""


BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Upper bounds of the buckets that seconds are sorted into."""

SIZES = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0)
"""Upper bounds of the buckets that group sizes are sorted into."""


class Distribution:
    """How often a measured value fell between which bounds, and the sum of all."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0.0] * (len(bounds) + 1)
        self.total = 0.0

    @property
    def size(self) -> int:
        """How many numbers it is."""
        return len(self.counts) + 1

    def observe(self, value: float) -> None:
        """Count one value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def numbers(self) -> Sequence[float]:
        """What is written of it."""
        return (*self.counts, self.total)

    def resume(self, numbers: Sequence[float]) -> None:
        """Go on from what was written."""
        *self.counts, self.total = numbers


Kept = TypeVar("Kept", Cell, Gauge, Distribution)


class Family(Generic[Kept]):
    """A name with labels: a cell for each combination of their values.

    kind: as Prometheus calls it. combine: how the numbers of several processes become one. bounds: of a histogram.
    """

    def __init__(
        self,
        kind: str,
        name: str,
        help_: str,
        make: Callable[[], Kept],
        labels: Mapping[str, Sequence[str]],
        combine: Callable[[Iterable[float]], float] = sum,
        bounds: Sequence[float] = (),
    ) -> None:
        self.kind = kind
        self.name = name
        self.help = help_
        self.labels = tuple(labels)
        self.combine = combine
        self.bounds = tuple(map(float, bounds))
        self._make: Callable[[], Kept] = make
        self.cells: dict[tuple[str, ...], Kept] = {values: make() for values in product(*labels.values())}
        FAMILIES.append(self)

    def cell(self, *values: str) -> Kept:
        """The cell of these label values, in the order of the labels: found once, and kept by who counts."""
        cell = self.cells[values]
        return cell if _counting.get() else self._make()


FAMILIES: list["Family[Cell] | Family[Gauge] | Family[Distribution]"] = []


def counter(name: str, help_: str, **labels: Iterable[str]) -> Family[Cell]:
    """A family of numbers that only grow. name: ends in `_total`."""
    return Family("counter", name, help_, Cell, {label: tuple(values) for label, values in labels.items()})


def gauge(
    name: str, help_: str, *, combine: Callable[[Iterable[float]], float] = sum, **labels: Iterable[str]
) -> Family[Gauge]:
    """A family of numbers that go up and down. combine: `max` where every process tells of the same thing."""
    return Family("gauge", name, help_, Gauge, {label: tuple(values) for label, values in labels.items()}, combine)


def histogram(
    name: str, help_: str, *, bounds: Sequence[float] = BOUNDS, **labels: Iterable[str]
) -> Family[Distribution]:
    """A family of distributions. name: ends in its unit."""
    fixed = {label: tuple(values) for label, values in labels.items()}
    return Family("histogram", name, help_, lambda: Distribution(bounds), fixed, bounds=bounds)


# --- the families ----------------------------------------------------------------------------------------------------

TRANSPORTS = tuple(transport.value for transport in Transport)
OUTCOMES = tuple(outcome.value for outcome in Outcome if outcome is not Outcome.TOO_LARGE)  # which is never read
REASONS = (*(reason.name for reason in Reason), "INVALID", "UNDECODABLE")
GROUPS = (
    "provision",
    "provision-key",
    "request-key",
    "enroll",
    "access",
    "identity",
    "session-open",
    "session-close",
    "data",
    "attempt",
    "other",
)
"""Names of `Grouper`s (`services/grouping.py`); one that is not here is "other"."""

ACCEPTED, UNAVAILABLE = "accepted", "unavailable"
RESULTS = (ACCEPTED, *(denial.name.lower() for denial in Denial), UNAVAILABLE)
LIMITS = ("address", "lockout", "provision_key", "name", "organization", "device", "connections")

PROVISIONS = counter(
    "provserver_provisions_total", "Provision requests that were answered.", transport=TRANSPORTS, outcome=OUTCOMES
)
REFUSALS = counter(
    "provserver_provision_refusals_total", "Refused provision requests, by the operator's reason.", reason=REASONS
)
PROVISION_SECONDS = histogram(
    "provserver_provision_seconds", "From a provision request to its answer: of the first of each group, the slowest."
)
ATTEMPTS_LOST = counter("provserver_attempts_lost_total", "Refusals whose attempt was not recorded.")
AUTHENTICATIONS = counter(
    "provserver_authentications_total",
    "Devices that presented credentials, by what became of it.",
    transport=TRANSPORTS,
    result=RESULTS,
)
LISTENERS = gauge("provserver_listeners", "Addresses on which devices are served, each counted in every process.")
SESSIONS = gauge("provserver_sessions", "Live sessions of devices.")
CONNECTIONS = gauge("provserver_connections", "Connections of devices.", transport=TRANSPORTS)
HANDSHAKES = counter(
    "provserver_handshakes_total",
    "TLS and DTLS handshakes.",
    protocol=("tls", "dtls"),
    result=("completed", "failed"),
)
GROUP_ITEMS = histogram(
    "provserver_group_items", "Items that were worked on together by one group.", bounds=SIZES, group=GROUPS
)
GROUP_SECONDS = histogram("provserver_group_seconds", "How long one group was worked on.", group=GROUPS)
GROUP_WAITING = gauge("provserver_group_waiting", "Items that have no result yet, waiting or worked on.", group=GROUPS)
GROUP_REFUSED = counter("provserver_group_refused_total", "Items refused as too many waited.", group=GROUPS)
DATABASE_AWAY = counter("provserver_database_away_total", "Times that Postgres could not be used when it was wanted.")
SINK_QUEUED = counter("provserver_sink_queued_total", "Messages queued for the sink.")
SINK_SENT = counter("provserver_sink_sent_total", "Messages that the sink has acknowledged.")
SINK_DROPPED = counter("provserver_sink_dropped_total", "Messages for the sink that found no room.")
SINK_REFUSED = counter("provserver_sink_refused_total", "Messages that the sink has refused for good.")
SINK_WAITING = gauge("provserver_sink_waiting", "Messages that wait for the sink, as last seen.", combine=max)
UPLINKS = counter(
    "provserver_uplinks_total",
    "Uplinks and joins that LoRaWAN networks have told of.",
    result=("taken", "unknown", "invalid"),
)
LIMITED = counter("provserver_limited_total", "What was refused as there was too much of it.", limit=LIMITS)
JOBS = counter("provserver_jobs_total", "Jobs that have ended.", result=("done", "failed", "cancelled"))
JOB_TRIES = counter(
    "provserver_job_retries_total", "Tries of durable jobs that others follow.", result=("later", "fault")
)
JOBS_RUNNING = gauge("provserver_jobs_running", "Durable jobs that are run.")
JOBS_WAITING = gauge("provserver_jobs_waiting", "Durable jobs that wait, as last seen.", combine=max)
JOBS_LAG = gauge(
    "provserver_jobs_lag_seconds", "For how long the first durable job that waits has been due.", combine=max
)
OUTBOX_WAITING = gauge("provserver_outbox_waiting", "Events that wait for delivery, as last seen.", combine=max)
OUTBOX_LAG = gauge("provserver_outbox_lag_seconds", "Age of the oldest event that waits for delivery.", combine=max)
AUDIT_FAULT = gauge(
    "provserver_audit_fault",
    "What keeps the audit from being chained: 1 while it does.",
    combine=max,
    fault=("broken", "head_file", "failed"),
)
WEBHOOKS = counter(
    "provserver_webhook_deliveries_total", "Tries to deliver to a webhook.", result=("delivered", "failed", "dead")
)

# --- between processes -----------------------------------------------------------------------------------------------

_NUMBER = 8  # bytes; a double holds counts up to 2**53


class Process(NamedTuple):
    """A process that counts. pid: 0 while it has not begun."""

    name: str
    pid: int


class Totals(NamedTuple):
    """All processes together. values: by family, then by label values; of a distribution its counts, then its sum."""

    processes: tuple[Process, ...]
    values: list[dict[tuple[str, ...], tuple[float, ...]]]

    def value(self, family: "Family[Cell] | Family[Gauge]", *labels: str) -> float:
        """One number."""
        return self.values[FAMILIES.index(family)][labels][0]


class Page:
    """Memory for the numbers of all processes, made before they are forked. names: of the processes, each once."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = tuple(names)
        count = sum(cell.size for cell in _cells())
        self._format = struct.Struct(f"={1 + count}d")
        self._memory = mmap(-1, self._format.size * len(self._names))

    def join(self, name: str) -> "Slot":
        """Count as this process from now on, and go on from what one of its name has left."""
        slot = Slot(self._memory, self._format, self._format.size * self._names.index(name))
        slot.resume()
        return slot

    def totals(self, alive: Callable[[int], bool] | None = None) -> Totals:
        """What all processes have written, as one. alive: whether a pid is; of who is not, gauges count no more."""
        size = self._format.size
        slots = [self._format.unpack_from(self._memory, size * n) for n in range(len(self._names))]
        processes = tuple(Process(name, int(slot[0])) for name, slot in zip(self._names, slots, strict=True))
        living = [slot for slot, each in zip(slots, processes, strict=True) if each.pid and (alive or _runs)(each.pid)]
        values: list[dict[tuple[str, ...], tuple[float, ...]]] = []
        at = 1
        for family in FAMILIES:
            counted = living if family.kind == "gauge" else slots
            combined = {}
            for labels, cell in family.cells.items():
                end = at + cell.size
                columns = zip(*(slot[at:end] for slot in counted), strict=True)
                combined[labels] = tuple(family.combine(column) for column in columns) or (0.0,) * (end - at)
                at = end
            values.append(combined)
        return Totals(processes, values)


class Slot:
    """Where this process writes its numbers."""

    def __init__(self, memory: mmap, format_: struct.Struct, offset: int) -> None:
        self._memory = memory
        self._format = format_
        self._offset = offset
        self._timer: asyncio.TimerHandle | None = None

    def resume(self) -> None:
        """Go on from what stands there, as this process."""
        _, *numbers = self._format.unpack_from(self._memory, self._offset)
        at = 0
        for cell in _cells():
            end = at + cell.size
            cell.resume(numbers[at:end])
            at = end
        self.publish()

    def publish(self) -> None:
        """Write the numbers as they are now."""
        numbers: list[float] = [os.getpid()]
        for cell in _cells():
            numbers += cell.numbers()
        # Not `pack_into`, which fills all with zeros first: who looks just then would see every counter begin anew.
        self._memory[self._offset : self._offset + self._format.size] = self._format.pack(*numbers)

    def start(self) -> None:
        """Write once a second, on the running loop."""
        self._timer = asyncio.get_running_loop().call_later(PERIOD, self.start)
        self.publish()

    def stop(self) -> None:
        """Write a last time."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self.publish()


def _cells() -> Iterator[Cell | Gauge | Distribution]:
    for family in FAMILIES:
        yield from family.cells.values()


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except PermissionError:
        pass
    except ProcessLookupError:
        return False
    return True

"""What became of a fleet: counts, latencies, failures by reason, devices that share what must be unique."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
from rich.console import Group, RenderableType
from rich.table import Table

from firmware_sim import histogram
from firmware_sim.device import Provisioned
from firmware_sim.errors import SimulatorError

QUANTILES = {"p50": 0.50, "p90": 0.90, "p99": 0.99, "max": 1.0}

DUPLICATE_EXIT_CODE = 4

PROVISIONING, CONNECTIONS = "provisioning", "connections"
"""What latencies are of."""


def percentiles(seconds: Sequence[float]) -> dict[str, float] | None:
    """Nearest-rank p50, p90, p99 and max in milliseconds; None of nothing."""
    if not seconds:
        return None
    ordered = sorted(seconds)
    return {
        name: round(ordered[math.ceil(quantile * len(ordered)) - 1] * 1000, 3) for name, quantile in QUANTILES.items()
    }


def summary(seconds: Sequence[float]) -> str:
    """The same for people."""
    quantiles = percentiles(seconds) or {}
    return ", ".join(f"{name} {milliseconds:.1f} ms" for name, milliseconds in quantiles.items())


@dataclass(slots=True)
class Tally:
    """The devices of one transport. latencies (seconds) and retries: of those provisioned in this run."""

    started: int = 0
    provisioned: int = 0
    retries: int = 0
    latencies: list[float] = field(default_factory=list)


@dataclass(slots=True)
class Links:
    """The connections that provisioned devices make, on one transport.

    latencies (seconds): of each that was let in. per_device: how many devices ended with how many, tried ones
    included. failures: of devices that ended without one, or lost theirs for good.
    """

    latencies: list[float] = field(default_factory=list)
    messages: int = 0
    per_device: Counter[int] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)


@dataclass(slots=True)
class Report:
    """Filled while the fleet boots; may be read at any time.

    provisioned counts devices that hold credentials of their own, from_flash those that had them before.
    A device handed credentials or an id that another one holds is a failure.
    """

    run: str
    count: int
    seconds: float = 0.0
    from_flash: int = 0
    duplicates: int = 0
    transports: dict[str, Tally] = field(default_factory=dict)
    failures: Counter[str] = field(default_factory=Counter)
    links: dict[str, Links] = field(default_factory=dict)
    _exit_codes: set[int] = field(default_factory=set)
    _granted: set[bytes] = field(default_factory=set, repr=False)

    def started(self, transport: str) -> None:
        """A device was switched on."""
        self.transports.setdefault(transport, Tally()).started += 1

    def succeeded(self, transport: str, outcome: Provisioned, latency: float) -> None:
        """A device ended its boot with credentials. latency: seconds."""
        tally = self.transports[transport]
        tally.retries += max(0, outcome.attempts - 1)
        if self._handed_out_twice(outcome):
            self.duplicates += 1
            self.failures["handed out twice"] += 1
            self._exit_codes.add(DUPLICATE_EXIT_CODE)
            return
        tally.provisioned += 1
        if outcome.attempts:
            tally.latencies.append(latency)
        else:
            self.from_flash += 1

    def failed(self, transport: str, error: SimulatorError) -> None:
        """A device ended its boot without."""
        self.failures[f"{transport}: {error.status}: {error}"] += 1
        self._exit_codes.add(error.exit_code)

    def let_in(self, transport: str, latency: float) -> None:
        """A connection with the device's own credentials was accepted. latency: seconds."""
        self._links(transport).latencies.append(latency)

    def done(self, transport: str, attempts: int, messages: int, error: SimulatorError | None = None) -> None:
        """A device that was to connect has ended, after so many connections, tried ones included."""
        links = self._links(transport)
        links.per_device[attempts] += 1
        links.messages += messages
        if error:
            links.failures[f"{error.status}: {error}"] += 1
            self._exit_codes.add(error.exit_code)

    @property
    def latencies(self) -> dict[str, list[float]]:
        """Seconds: of provisioning, and of each connection that was let in."""
        return {
            PROVISIONING: [seconds for tally in self.transports.values() for seconds in tally.latencies],
            CONNECTIONS: [seconds for links in self.links.values() for seconds in links.latencies],
        }

    @property
    def linked(self) -> int:
        """Devices that were to connect, and have ended."""
        return sum(links.per_device.total() for links in self.links.values())

    @property
    def link_failures(self) -> int:
        """Devices of those that ended otherwise than they should."""
        return sum(links.failures.total() for links in self.links.values())

    @property
    def boot_failures(self) -> int:
        """Devices whose boot ended without."""
        return self.failures.total()

    @property
    def provisioned(self) -> int:
        """Devices that hold credentials of their own."""
        return sum(tally.provisioned for tally in self.transports.values())

    @property
    def finished(self) -> int:
        """Devices whose boot ended, well or not."""
        return self.provisioned + self.failures.total()

    @property
    def exit_code(self) -> int:
        """0 only if every device got its credentials, and in; else the least code among the failures."""
        if self.provisioned == self.count and not self.link_failures:
            return 0
        return min(self._exit_codes, default=130)

    def to_json(self) -> dict[str, Any]:
        """The object that `--json` prints; latencies in milliseconds, rate in devices per second."""
        summary = {
            "run": self.run,
            "count": self.count,
            "provisioned": self.provisioned,
            "fromFlash": self.from_flash,
            "failed": self.failures.total(),
            "duplicates": self.duplicates,
            "seconds": round(self.seconds, 3),
            "rate": round(self.finished / self.seconds, 1) if self.seconds else 0.0,
            "transports": {
                name: {
                    "count": tally.started,
                    "provisioned": tally.provisioned,
                    "retries": tally.retries,
                    "latencyMs": percentiles(tally.latencies),
                }
                for name, tally in sorted(self.transports.items())
            },
            "failures": dict(self.failures.most_common()),
            "exitCode": self.exit_code,
        }
        if self.links:
            summary["links"] = {
                name: {
                    "devices": links.per_device.total(),
                    "connections": sum(number * devices for number, devices in links.per_device.items()),
                    "connectionsPerDevice": {str(n): devices for n, devices in sorted(links.per_device.items())},
                    "messages": links.messages,
                    "latencyMs": percentiles(links.latencies),
                    "failures": dict(links.failures.most_common()),
                }
                for name, links in sorted(self.links.items())
            }
        return summary

    def to_table(self) -> RenderableType:
        """The same for people."""
        summary = self.to_json()
        title = f"{self.provisioned}/{self.count} provisioned in {self.seconds:.2f} s, {summary['rate']:g}/s"
        table = Table("transport", title=title, title_justify="left")
        for heading in ("devices", "ok", "retries", *(f"{name} ms" for name in QUANTILES)):
            table.add_column(heading, justify="right")
        for name, row in summary["transports"].items():
            table.add_row(name, *_cells(row, "count", "provisioned", "retries"))
        parts: list[RenderableType] = [table]
        if self.links:
            table = Table("transport", title="connections", title_justify="left")
            for heading in ("devices", "tries", "messages", *(f"{name} ms" for name in QUANTILES)):
                table.add_column(heading, justify="right")
            for name, row in summary["links"].items():
                table.add_row(name, *_cells(row, "devices", "connections", "messages"))
            parts.append(table)
        failures = self.failures + sum(
            (
                Counter({f"{name} connection: {why}": n for why, n in links.failures.items()})
                for name, links in self.links.items()
            ),
            Counter(),
        )
        if failures:
            reasons = Table("devices", "failure", title="failures", title_justify="left")
            for reason, devices in failures.most_common():
                reasons.add_row(str(devices), reason)
            parts.append(reasons)
        return Group(*parts)

    def to_svg(self) -> str:
        """The histograms of all latencies, as a picture."""
        return picture(f"{self.count} devices", self.latencies)

    def _links(self, transport: str) -> Links:
        return self.links.setdefault(transport, Links())

    def _handed_out_twice(self, outcome: Provisioned) -> bool:
        credentials = outcome.credentials
        unique = {msgspec.json.encode([credentials.credentials_type, credentials.credentials_value])}
        if credentials.device_id:
            unique.add(msgspec.json.encode(["deviceId", credentials.device_id]))
        twice = not self._granted.isdisjoint(unique)
        self._granted |= unique
        return twice


def picture(title: str, latencies: Mapping[str, Sequence[float]]) -> str:
    """Histograms (SVG) with their percentiles."""
    return histogram.svg(title, latencies, {name: summary(seconds) for name, seconds in latencies.items()})


def _cells(row: Mapping[str, Any], *counts: str) -> list[str]:
    latencies = row["latencyMs"] or {}
    return [
        *(str(row[count]) for count in counts),
        *(f"{latencies[name]:.1f}" if name in latencies else "" for name in QUANTILES),
    ]

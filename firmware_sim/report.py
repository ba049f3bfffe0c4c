"""What became of a fleet: counts, latencies, failures by reason, devices that share what must be unique."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
from rich.console import Group, RenderableType
from rich.table import Table

from firmware_sim.device import Provisioned
from firmware_sim.errors import SimulatorError

QUANTILES = {"p50": 0.50, "p90": 0.90, "p99": 0.99, "max": 1.0}

DUPLICATE_EXIT_CODE = 4


def percentiles(seconds: Sequence[float]) -> dict[str, float] | None:
    """Nearest-rank p50, p90, p99 and max in milliseconds; None of nothing."""
    if not seconds:
        return None
    ordered = sorted(seconds)
    return {
        name: round(ordered[math.ceil(quantile * len(ordered)) - 1] * 1000, 3) for name, quantile in QUANTILES.items()
    }


@dataclass(slots=True)
class Tally:
    """The devices of one transport. latencies (seconds) and retries: of those provisioned in this run."""

    started: int = 0
    provisioned: int = 0
    retries: int = 0
    latencies: list[float] = field(default_factory=list)


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
        """0 only if every device of the fleet got its credentials, else the least code among the failures."""
        if self.provisioned == self.count:
            return 0
        return min(self._exit_codes, default=130)

    def to_json(self) -> dict[str, Any]:
        """The object that `--json` prints; latencies in milliseconds, rate in devices per second."""
        return {
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

    def to_table(self) -> RenderableType:
        """The same for people."""
        summary = self.to_json()
        title = f"{self.provisioned}/{self.count} provisioned in {self.seconds:.2f} s, {summary['rate']:g}/s"
        table = Table("transport", title=title, title_justify="left")
        for heading in ("devices", "ok", "retries", *(f"{name} ms" for name in QUANTILES)):
            table.add_column(heading, justify="right")
        for name, row in summary["transports"].items():
            table.add_row(name, *_cells(row))
        if not self.failures:
            return table
        reasons = Table("devices", "failure", title="failures", title_justify="left")
        for reason, devices in self.failures.most_common():
            reasons.add_row(str(devices), reason)
        return Group(table, reasons)

    def _handed_out_twice(self, outcome: Provisioned) -> bool:
        credentials = outcome.credentials
        unique = {msgspec.json.encode([credentials.credentials_type, credentials.credentials_value])}
        if credentials.device_id:
            unique.add(msgspec.json.encode(["deviceId", credentials.device_id]))
        twice = not self._granted.isdisjoint(unique)
        self._granted |= unique
        return twice


def _cells(row: Mapping[str, Any]) -> list[str]:
    latencies = row["latencyMs"] or {}
    return [
        str(row["count"]),
        str(row["provisioned"]),
        str(row["retries"]),
        *(f"{latencies[name]:.1f}" if name in latencies else "" for name in QUANTILES),
    ]

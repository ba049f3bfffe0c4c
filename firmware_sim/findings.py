"""What became of a scenario: each group's devices, each attack, the network, and whether that is within the limits."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec
from rich.console import Group as Lines
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from firmware_sim import histogram
from firmware_sim.hostile import HELD, LET_IN, REFUSED, TURNED_AWAY
from firmware_sim.report import CONNECTIONS, PROVISIONING, Report, percentiles, picture, summary
from firmware_sim.scenario import Crime, Scenario

LIMIT_EXIT_CODE = 8


@dataclass(frozen=True, slots=True)
class Verdict:
    """One limit. measured None: there was nothing to measure, which no limit on it allows."""

    name: str
    limit: float
    measured: float | None

    @property
    def met(self) -> bool:
        """Whether it holds."""
        if self.measured is None:
            return False
        return self.measured >= self.limit if self.name.endswith("_min") else self.measured <= self.limit


@dataclass(slots=True)
class Findings:
    """Filled while the scenario is played; may be read at any time.

    groups, attacks: by name; an attack's outcomes, and what kind it is of. network: what the proxies did. power_cuts:
    devices that lost their power while they did something.
    """

    scenario: Scenario
    groups: dict[str, Report] = field(default_factory=dict)
    attacks: dict[str, Counter[str]] = field(default_factory=dict)
    network: Counter[str] = field(default_factory=Counter)
    power_cuts: int = 0
    seconds: float = 0.0

    @property
    def count(self) -> int:
        """Devices that there are to be."""
        return sum(group.count for group in self.scenario.group)

    @property
    def finished(self) -> int:
        """Devices whose boot ended, well or not."""
        return sum(report.finished for report in self.groups.values())

    @property
    def boot_failures(self) -> int:
        """Those of them that it ended badly for."""
        return sum(report.boot_failures for report in self.groups.values())

    @property
    def linked(self) -> int:
        """Devices that were to connect, and have ended."""
        return sum(report.linked for report in self.groups.values())

    @property
    def link_failures(self) -> int:
        """Devices of those that ended otherwise than they should."""
        return sum(report.link_failures for report in self.groups.values())

    @property
    def latencies(self) -> dict[str, list[float]]:
        """Seconds: of provisioning, and of being let in."""
        reports = [report.latencies for report in self.groups.values()]
        return {name: [s for each in reports for s in each[name]] for name in (PROVISIONING, CONNECTIONS)}

    def measured(self) -> dict[str, float | None]:
        """What each limit is about, by its name."""
        latencies = self.latencies
        provisioning = percentiles(latencies[PROVISIONING]) or {}
        provisioned = sum(report.provisioned for report in self.groups.values())
        attacks = {attack.title: attack.kind for attack in self.scenario.attack}
        return {
            "failures": self.boot_failures + self.link_failures + self._missing(),
            "duplicates": sum(report.duplicates for report in self.groups.values()),
            "breaches": self._count(attacks, (Crime.GUESS, Crime.IMPERSONATE), LET_IN),
            "held": self._count(attacks, (Crime.SLOW_LORIS,), HELD),
            **{f"{name}_ms": provisioning.get(name) for name in ("p50", "p90", "p99", "max")},
            "connect_p99_ms": (percentiles(latencies[CONNECTIONS]) or {}).get("p99"),
            "provisioned_min": provisioned,
            "messages_min": sum(links.messages for each in self.groups.values() for links in each.links.values()),
            "connections_min": len(latencies[CONNECTIONS]),
            "power_cuts_min": self.power_cuts,
            "refused_guesses_min": self._count(attacks, (Crime.GUESS,), REFUSED, TURNED_AWAY),
            "rate_min": provisioned / self.seconds if self.seconds else None,
        }

    def verdicts(self) -> list[Verdict]:
        """Each limit that the scenario has."""
        measured = self.measured()
        limits: Mapping[str, float | None] = msgspec.structs.asdict(self.scenario.limits)
        return [Verdict(name, limit, measured[name]) for name, limit in limits.items() if limit is not None]

    @property
    def exit_code(self) -> int:
        """0 if all limits hold."""
        return 0 if all(verdict.met for verdict in self.verdicts()) else LIMIT_EXIT_CODE

    def to_json(self) -> dict[str, Any]:
        """The object that `--json` prints; latencies in milliseconds."""
        return {
            "scenario": self.scenario.name,
            "seconds": round(self.seconds, 3),
            "groups": {name: _without_exit_code(report) for name, report in self.groups.items()},
            "attacks": {name: dict(outcomes) for name, outcomes in self.attacks.items()},
            "network": dict(self.network),
            "powerCuts": self.power_cuts,
            "latencyMs": {name: percentiles(latencies) for name, latencies in self.latencies.items()},
            "histogram": {
                name: [{"fromMs": each.low, "toMs": each.high, "count": each.count} for each in histogram.buckets(some)]
                for name, some in self.latencies.items()
            },
            "limits": [
                {"name": each.name, "limit": each.limit, "measured": _rounded(each.measured), "met": each.met}
                for each in self.verdicts()
            ],
            "exitCode": self.exit_code,
        }

    def to_table(self) -> RenderableType:
        """The same for people."""
        parts: list[RenderableType] = [self._outcomes()]
        if failures := self._failures():
            reasons = Table("devices", "group", "failure", title="failures", title_justify="left")
            for (group, reason), devices in failures.most_common():
                reasons.add_row(str(devices), group, reason)
            parts.append(reasons)
        if any(self.attacks.values()):
            attacks = Table("attack", "tries", "outcome", title="attacks", title_justify="left")
            for name, outcomes in self.attacks.items():
                for outcome, tries in outcomes.most_common():
                    attacks.add_row(name, str(tries), outcome)
            parts.append(attacks)
        if self.network or self.power_cuts:
            befell = self.network + Counter({"devices without power": self.power_cuts})
            parts.append(Text("\nwhat befell them: " + _listed(befell)))
        for name, latencies in self.latencies.items():
            if latencies:
                parts.append(Text(f"\n{name}, {summary(latencies)}"))
                parts.extend(Text(line) for line in histogram.text(latencies))
        limits = Table("limit", "", "measured", "", title="\nlimits", title_justify="left")
        for verdict in self.verdicts():
            sign, style = ("holds", "") if verdict.met else ("does not hold", "bold red")
            least = "≥" if verdict.name.endswith("_min") else "≤"
            measured = "nothing" if verdict.measured is None else f"{_rounded(verdict.measured):g}"
            limits.add_row(verdict.name, f"{least} {verdict.limit:g}", measured, Text(sign, style=style))
        return Lines(*parts, limits)

    def to_svg(self) -> str:
        """The histograms as a picture."""
        return picture(self.scenario.name, self.latencies)

    def _outcomes(self) -> Table:
        provisioned = f"{self.finished - self.boot_failures}/{self.count} provisioned"
        title = f"{self.scenario.name}: {provisioned} in {self.seconds:.2f} s"
        table = Table("group", "transport", title=title, title_justify="left")
        for heading in ("devices", "provisioned", "retries", "connections", "messages", "lost"):
            table.add_column(heading, justify="right")
        for name, report in self.groups.items():
            rows = report.to_json()
            for transport in sorted({*report.transports, *report.links}):
                boots, links = rows["transports"].get(transport), rows.get("links", {}).get(transport)
                cells = [str(boots[key]) if boots else "" for key in ("count", "provisioned", "retries")]
                cells += [str(links[key]) if links else "" for key in ("connections", "messages")]
                lost = str(sum(links["failures"].values())) if links else ""
                table.add_row(name, transport, *cells, lost)
        return table

    def _failures(self) -> Counter[tuple[str, str]]:
        failures: Counter[tuple[str, str]] = Counter()
        for name, report in self.groups.items():
            failures.update({(name, reason): devices for reason, devices in report.failures.items()})
            for transport, links in report.links.items():
                failures.update({(name, f"{transport} connection: {why}"): n for why, n in links.failures.items()})
        return failures

    def _missing(self) -> int:
        """Devices of which the end was never heard."""
        missing = 0
        for group in self.scenario.group:
            report = self.groups.get(group.name)
            ended = 0
            if report:
                ended = report.linked + report.boot_failures if group.connects else report.finished
            missing += max(0, group.count - ended)
        return missing

    def _count(self, attacks: Mapping[str, Crime], kinds: Iterable[Crime], *outcomes: str) -> int:
        return sum(
            found[outcome] for name, found in self.attacks.items() if attacks[name] in kinds for outcome in outcomes
        )


def _without_exit_code(report: Report) -> dict[str, Any]:
    members = report.to_json()
    del members["exitCode"]  # the limits decide
    return members


def _listed(counts: Counter[str]) -> str:
    return ", ".join(f"{number} {what}" for what, number in counts.most_common() if number)


def _rounded(number: float | None) -> float | None:
    return None if number is None else round(number, 3)

"""Where a scenario is played: its groups of devices, what befalls them, and its attacks, all at once."""

import asyncio
import secrets
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from random import Random
from typing import Any

from firmware_sim.address import Address
from firmware_sim.credentials import Kind
from firmware_sim.findings import Findings
from firmware_sim.fleet import Fleet, Life
from firmware_sim.hostile import Gang, Loot
from firmware_sim.links import Line
from firmware_sim.phone import Phone
from firmware_sim.pki import DEVICE_PREFIX, Factory
from firmware_sim.power import Grid
from firmware_sim.proxy import Conditions, Proxy, before, judged, unharmed
from firmware_sim.retry import Retry
from firmware_sim.scenario import Attack, Brought, Group, NetworkCut, PowerCut, Scenario
from firmware_sim.tls import Trust
from firmware_sim.transports import TransportName, connect, provision_security

Part = Callable[[], Coroutine[Any, Any, None]]


@dataclass(frozen=True, slots=True)
class Stage:
    """What a scenario needs of the world.

    servers: of each transport that it names. factory: for certificates of its own. phone: for groups that come over
    WiFi. time_scale: of the pauses between tries; the scenario's own times have it already.
    """

    scenario: Scenario
    servers: Mapping[TransportName, Address]
    key: str = field(default="", repr=False)
    secret: str = field(default="", repr=False)
    trust: Trust = field(default_factory=Trust)
    by_key: bool = True
    factory: Factory | None = None
    phone: Phone | None = None
    name_prefix: str | None = None
    time_scale: float = 1.0
    chance: Random = field(default_factory=Random)

    async def play(self, findings: Findings, progress: Callable[[Findings], None] = lambda _: None) -> None:
        """From the first device to the end of all devices and attacks, calling `progress` now and then."""
        play = _Play(self, findings, progress)
        async with AsyncExitStack() as stack:
            groups = [await play.group(stack, group) for group in self.scenario.group]
            attacks = [await play.attack(stack, attack) for attack in self.scenario.attack]
            cuts = [
                *(partial(play.power_cut, cut) for cut in self.scenario.power_cut),
                *(partial(play.network_cut, cut) for cut in self.scenario.network_cut),
            ]
            await self._load()
            play.begin = time.monotonic()
            async with asyncio.TaskGroup() as tasks:
                befalls = [tasks.create_task(cut()) for cut in cuts]
                parts = [tasks.create_task(part()) for part in (*groups, *attacks)]
                await asyncio.wait(parts)
                for befall in befalls:
                    befall.cancel()
            play.told()

    async def _load(self) -> None:
        """Have the libraries of all protocols in memory before the clock runs: loading them takes its time."""
        for name in {way for group in self.scenario.group if group.credentials.kind for way in group.transports}:
            security = provision_security(name, self.key, self.secret, self.trust, by_key=self.by_key)
            async with connect(name, self.servers[name], security=security):
                pass


class _Play:
    """One performance. Devices of a group share a grid and their proxies."""

    def __init__(self, stage: Stage, findings: Findings, progress: Callable[[Findings], None]) -> None:
        self.stage = stage
        self.findings = findings
        self.begin = time.monotonic()
        self._progress = progress
        self._run = secrets.token_hex(3)
        self._grids: dict[str, Grid] = {}
        self._loot: dict[str, Loot] = {}
        self._proxies: dict[str, list[Proxy]] = {}

    async def group(self, stack: AsyncExitStack, group: Group) -> Part:
        """What a group does."""
        stage, scenario = self.stage, self.stage.scenario
        ways = {*group.transports, *((group.connect,) if group.connect else ())}
        cut_off = any(not cut.groups or group.name in cut.groups for cut in scenario.network_cut)
        servers, proxies = await self._around(stack, ways, scenario.network, group.address, always=cut_off)
        self._proxies[group.name] = proxies
        dark = any(not cut.groups or group.name in cut.groups for cut in scenario.power_cut)
        grid = self._grids[group.name] = Grid()
        loot = self._loot[group.name] = Loot()
        chain = group.credentials is Brought.CHAIN
        prefix = stage.name_prefix or (DEVICE_PREFIX if chain else f"sim-{self._run}")
        life = None
        if group.connects:
            telemetry = group.telemetry if group.telemetry is not None else 1
            life = Life(group.connect, servers, telemetry, group.interval, group.clock_skew)
        fleet = Fleet(
            stage.key,
            stage.secret,
            {name: servers[name] for name in group.transports},
            group.count,
            group.rate,
            scenario.concurrency,
            group.credentials.kind or Kind.GENERATED,
            f"{prefix}-{group.name}",
            mqtt_version=group.mqtt_version,
            retry=self._retry(),
            timeout=scenario.timeout,
            trust=stage.trust,
            by_key=stage.by_key,
            life=life,
            factory=stage.factory if chain else None,
            phone=self._phone(group) if group.credentials is Brought.WIFI else None,
            ramp=group.ramp,
            grid=grid if dark else None,
            granted=loot.take,
        )
        report = self.findings.groups[group.name] = fleet.report()

        async def run() -> None:
            await asyncio.sleep(group.at)
            try:
                await fleet.run(report, lambda _: self.told())
            finally:
                loot.close()

        return run

    async def attack(self, stack: AsyncExitStack, attack: Attack) -> Part:
        """What an attack does. It does not suffer from the network."""
        stage, scenario = self.stage, self.stage.scenario
        servers, _ = await self._around(stack, attack.transports, Conditions(), attack.address)
        lines = {
            name: Line(name, servers[name], stage.trust, stage.by_key, timeout=scenario.timeout)
            for name in attack.transports
        }
        outcomes = self.findings.attacks[attack.title] = Counter()
        loot = self._loot[attack.victims] if attack.victims else None
        gang = Gang(attack, lines, stage.key, stage.secret, loot, outcomes, self.told)

        async def run() -> None:
            await asyncio.sleep(attack.at)
            await gang.run()

        return run

    async def power_cut(self, cut: PowerCut) -> None:
        """In all its groups at once."""
        await asyncio.sleep(cut.at)
        async with asyncio.TaskGroup() as districts:
            for name in self._named(cut.groups):
                grid = self._grids[name]
                districts.create_task(grid.cut(cut.seconds, cut.share, cut.spread, self.stage.chance))

    async def network_cut(self, cut: NetworkCut) -> None:
        """In all its groups at once."""
        await asyncio.sleep(cut.at)
        proxies = [proxy for name in self._named(cut.groups) for proxy in self._proxies[name]]
        for proxy in proxies:
            await proxy.cut()
        try:
            await asyncio.sleep(cut.seconds)
        finally:
            for proxy in proxies:
                await proxy.restore()

    def told(self) -> None:
        """Something has changed."""
        findings = self.findings
        findings.seconds = time.monotonic() - self.begin
        findings.power_cuts = sum(grid.cuts for grid in self._grids.values())
        findings.network = sum(
            (proxy.counts for proxies in self._proxies.values() for proxy in proxies), start=Counter()
        )
        self._progress(findings)

    async def _around(
        self,
        stack: AsyncExitStack,
        ways: Iterable[TransportName],
        conditions: Conditions,
        source: str | None,
        *,
        always: bool = False,
    ) -> tuple[dict[TransportName, Address], list[Proxy]]:
        """Where to reach the server, and the proxies in between, if any are needed."""
        stage = self.stage
        if not (always or source or conditions != Conditions()):
            return {name: stage.servers[name] for name in ways}, []
        proxies: dict[TransportName, Proxy] = {}
        for name in ways:
            judge = judged(name, conditions, stage.chance) if conditions != Conditions() else unharmed
            proxies[name] = await stack.enter_async_context(before(name, stage.servers[name], judge, source))
        return {name: proxy.address for name, proxy in proxies.items()}, list(proxies.values())

    def _phone(self, group: Group) -> Phone | None:
        phone = self.stage.phone
        return phone and replace(phone, mistakes=group.mistakes, time_scale=self.stage.time_scale)

    def _named(self, groups: tuple[str, ...]) -> Iterable[str]:
        return groups or tuple(self._grids)

    def _retry(self) -> Retry:
        usual, scale = Retry(), self.stage.time_scale
        return Retry(self.stage.scenario.attempts, base=usual.base * scale, cap=usual.cap * scale)

"""Many devices at once: switches them on at a given rate and counts what becomes of them."""

import asyncio
import contextlib
import random
import secrets
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

from firmware_sim.address import Address
from firmware_sim.credentials import Kind
from firmware_sim.device import Device, Firmware, Provisioned, factory_outcome
from firmware_sim.errors import SimulatorError
from firmware_sim.flash import FileFlash, Flash, VolatileFlash
from firmware_sim.links import Line, Login
from firmware_sim.links.cloud import Cloud
from firmware_sim.log import SerialLog
from firmware_sim.pace import Pace
from firmware_sim.phone import Owner, Phone
from firmware_sim.pki import Factory
from firmware_sim.power import Grid, Outlet, PowerCut
from firmware_sim.report import Report
from firmware_sim.retry import Retry
from firmware_sim.session import Session
from firmware_sim.tls import Trust
from firmware_sim.transports import MqttVersion, Transport, TransportName, connect, provision_security

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Life:
    """What devices do once they are provisioned.

    on: by which transport they connect, None for the one that provisioned them. servers: where, if not at the same.
    telemetry: messages each. interval: seconds between two. clock_skew: seconds by which their clocks are wrong, at
    least and at most; None: they have no clock, and their messages no time.
    """

    on: TransportName | None = None
    servers: Mapping[TransportName, Address] = field(default_factory=dict)
    telemetry: int = 0
    interval: float = 1.0
    clock_skew: tuple[float, float] | None = None

    def clock(self) -> Callable[[], float] | None:
        """One device's."""
        if self.clock_skew is None:
            return None
        skew = random.uniform(*self.clock_skew)  # noqa: S311
        return lambda: time.time() + skew


@dataclass(frozen=True, slots=True)
class Fleet:
    """servers: one per transport to use, taken in turn. rate: devices per second, 0 for no pause.

    name_prefix None: a new one for each run. flash_dir None: flash in memory. concurrency: requests under way
    at once, on all transports together. life None: devices end once provisioned. factory: gives each device a
    certificate of the factory's, with which it connects at once, to be provisioned by that; `kind` is without
    meaning then. phone: brings WiFi devices online, which have no key either. ramp: seconds in which the rate is
    reached. grid: where devices lose their power, and boot again from their flash. granted: told what each device was
    given, and by which transport.
    """

    key: str = field(repr=False)
    secret: str = field(repr=False)
    servers: Mapping[TransportName, Address]
    count: int
    rate: float = 0.0
    concurrency: int = 64
    kind: Kind = Kind.GENERATED
    name_prefix: str | None = None
    flash_dir: Path | None = None
    mqtt_version: MqttVersion = MqttVersion.V311
    retry: Retry = field(default_factory=Retry)
    timeout: float = 10.0
    trust: Trust = field(default_factory=Trust)
    by_key: bool = True
    life: Life | None = None
    factory: Factory | None = None
    phone: Phone | None = None
    ramp: float = 0.0
    grid: Grid | None = None
    granted: Callable[[TransportName, Provisioned], None] = lambda _name, _outcome: None

    def report(self) -> Report:
        """An empty report for `run` to fill."""
        return Report(run=secrets.token_hex(3), count=self.count)

    async def run(self, report: Report, progress: Callable[[Report], None] = lambda _: None) -> None:
        """Boot every device, calling `progress` after each, and again after each that was to connect.

        A latency counts from the moment a device was due, so that a fleet held up by a slow server shows it;
        with rate 0 a device is due when there is room for one more request.
        """
        run = _Run(self, report, progress)
        async with AsyncExitStack() as stack:
            transports: dict[TransportName, Transport] = {}
            if not (self.factory or self.phone):
                for name in self.servers:
                    transports[name] = await stack.enter_async_context(self._transport(name))
            ways = list(self.servers)
            run.begin = time.monotonic()
            numbers = await stack.enter_async_context(contextlib.aclosing(Pace(self.rate, self.ramp).each(self.count)))
            async with asyncio.TaskGroup() as devices:
                async for number, due in numbers:
                    await run.room.acquire()
                    device = f"{self.name_prefix or f'sim-{report.run}'}-{number + 1:06}"
                    way, begin = ways[number % len(ways)], due or time.monotonic()
                    if self.factory:
                        devices.create_task(run.enroll(device, way, begin, self.factory))
                    elif self.phone:
                        devices.create_task(run.onboard(way, begin, self.phone))
                    else:
                        devices.create_task(run.boot(device, transports[way], begin))

    def _transport(self, name: TransportName) -> AbstractAsyncContextManager[Transport]:
        security = provision_security(name, self.key, self.secret, self.trust, by_key=self.by_key)
        return connect(name, self.servers[name], self.concurrency, self.mqtt_version, security)

    def line(self, name: TransportName) -> Line:
        """How a provisioned device connects."""
        servers = {**self.servers, **(self.life.servers if self.life else {})}
        return Line(name, servers[name], self.trust, self.by_key, self.mqtt_version, self.timeout)


class _Run:
    """What the devices of one run share. Each takes a place in the `room`, which the caller has acquired for it."""

    def __init__(self, fleet: Fleet, report: Report, progress: Callable[[Report], None]) -> None:
        self.fleet = fleet
        self.report = report
        self.room = asyncio.Semaphore(fleet.concurrency)
        self.begin = time.monotonic()
        self._progress = progress

    async def boot(self, name: str, transport: Transport, due: float) -> None:
        """A device that asks for credentials, and connects with them if it is to."""
        fleet = self.fleet
        flash: Flash = VolatileFlash()
        if fleet.flash_dir:
            flash = FileFlash(fleet.flash_dir / f"{quote(name, safe='')}.json")
        firmware = Firmware(fleet.key, fleet.secret, name, fleet.kind)
        device = Device(firmware, flash, transport, SerialLog(None), self._retry(), fleet.timeout)
        await self._begin(TransportName(transport.name), due, device.boot, flash)

    async def onboard(self, transport: TransportName, due: float, phone: Phone) -> None:
        """A WiFi device whose owner brings it online; then it is as any other."""
        fleet = self.fleet
        cloud = Cloud(transport, fleet.servers[transport], fleet.trust, fleet.timeout)
        await self._begin(transport, due, Owner(phone, cloud, self._retry()).bring_online, VolatileFlash())

    async def _begin(
        self,
        transport: TransportName,
        due: float,
        provision: Callable[[], Coroutine[Any, Any, Provisioned]],
        flash: Flash,
    ) -> None:
        """A device from its first power-on. provision: from any power-on until it has credentials."""
        fleet = self.fleet
        self.report.started(transport)
        with self._plugged_in() as outlet:
            try:
                outcome = await self._powered(outlet, provision, self._outside)
            except SimulatorError as error:
                self.report.failed(transport, error)
                return
            else:
                self.report.succeeded(transport, outcome, time.monotonic() - due)
                fleet.granted(transport, outcome)
            finally:
                self.room.release()
                self._ended()
            if fleet.life:
                line = fleet.line(fleet.life.on or transport)
                try:
                    login = line.login(outcome.credentials, outcome.private_key)
                except SimulatorError as error:
                    self.report.done(line.name, 0, 0, error)
                else:
                    await self._live(self._session(line, login, flash), line.name, outlet)
                self._ended()

    async def enroll(self, name: str, transport: TransportName, due: float, factory: Factory) -> None:
        """A device with a certificate of the factory's: its first connection provisions it."""
        self.report.started(transport)
        try:
            certificate = factory.device(name)
        except SimulatorError as error:
            self.report.failed(transport, error)
            self._ended()
            return
        finally:
            self.room.release()
        session = self._session(self.fleet.line(transport), Login(certificate=certificate), VolatileFlash())

        def enrolled() -> None:
            outcome = factory_outcome(name, certificate, session.attempts)
            self.report.succeeded(transport, outcome, time.monotonic() - due)
            self.fleet.granted(transport, outcome)
            self._ended()

        with self._plugged_in() as outlet:
            failure = await self._live(session, transport, outlet, enrolled)
        if failure and not session.connections:
            self.report.failed(transport, failure)
        self._ended()

    async def _live(
        self,
        session: Session,
        transport: TransportName,
        outlet: Outlet | None,
        enrolled: Callable[[], None] | None = None,
    ) -> SimulatorError | None:
        """A device's connections, from first to last; why it ended, if not as it should.

        enrolled: called when the first one is let in, if that is what provisions the device.
        """
        provisioned = enrolled is None

        def accepted(latency: float) -> None:
            self.report.let_in(transport, latency)
            if enrolled and session.connections == 1:
                enrolled()

        session.accepted = accepted
        failure: SimulatorError | None = None
        try:
            await self._powered(outlet, session.run, _as_it_is)
        except SimulatorError as error:
            failure = error
        lost = failure if provisioned or session.connections else None  # else it is one of provisioning
        self.report.done(transport, session.attempts, session.sent, lost)
        return failure

    def _session(self, line: Line, login: Login, flash: Flash) -> Session:
        life = self.fleet.life or Life()
        return Session(
            lambda: line.open(login, flash),
            line.name,
            SerialLog(None),
            self.fleet.retry,
            life.telemetry,
            life.interval,
            room=self.room,
            clock=life.clock(),
        )

    @contextlib.contextmanager
    def _plugged_in(self) -> Iterator[Outlet | None]:
        grid = self.fleet.grid
        outlet = grid.plug_in() if grid else None
        try:
            yield outlet
        finally:
            if grid and outlet:
                grid.unplug(outlet)

    async def _powered(
        self,
        outlet: Outlet | None,
        life: Callable[[], Coroutine[Any, Any, T]],
        dark: Callable[[Awaitable[None]], Awaitable[None]],
    ) -> T:
        """A part of a device's life, from its beginning after each power cut. dark: awaits power."""
        if outlet is None:
            return await life()
        while True:
            try:
                return await outlet.run(life)
            except PowerCut:
                await dark(outlet.restored())

    def _retry(self) -> Retry:
        """The fleet's, for who holds a place in the room."""
        return replace(self.fleet.retry, sleep=lambda seconds: self._outside(asyncio.sleep(seconds)))

    async def _outside(self, waiting: Awaitable[None]) -> None:
        """A device that waits makes room for others meanwhile."""
        self.room.release()
        try:
            await waiting
        finally:
            await self.room.acquire()

    def _ended(self) -> None:
        self.report.seconds = time.monotonic() - self.begin
        self._progress(self.report)


async def _as_it_is(waiting: Awaitable[None]) -> None:
    await waiting

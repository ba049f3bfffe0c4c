"""Many devices at once: switches them on at a given rate and counts what becomes of them."""

import asyncio
import secrets
import time
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import quote

from firmware_sim.address import Address
from firmware_sim.credentials import Kind
from firmware_sim.device import Device, Firmware
from firmware_sim.errors import SimulatorError
from firmware_sim.flash import FileFlash, Flash, VolatileFlash
from firmware_sim.log import SerialLog
from firmware_sim.report import Report
from firmware_sim.retry import Retry
from firmware_sim.transports import MqttVersion, Transport, TransportName, connect


@dataclass(frozen=True, slots=True)
class Fleet:
    """servers: one per transport to use, taken in turn. rate: devices per second, 0 for no pause.

    name_prefix None: a new one for each run. flash_dir None: flash in memory. concurrency: requests under way
    at once, on all transports together.
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

    def report(self) -> Report:
        """An empty report for `run` to fill."""
        return Report(run=secrets.token_hex(3), count=self.count)

    async def run(self, report: Report, progress: Callable[[Report], None] = lambda _: None) -> None:
        """Boot every device, calling `progress` after each.

        A latency counts from the moment a device was due, so that a fleet held up by a slow server shows it;
        with rate 0 a device is due when there is room for one more request.
        """
        prefix = self.name_prefix or f"sim-{report.run}"
        room = asyncio.Semaphore(self.concurrency)

        async def sleep_outside(seconds: float) -> None:
            """A device that waits to ask again makes room for others meanwhile."""
            room.release()
            try:
                await asyncio.sleep(seconds)
            finally:
                await room.acquire()

        retry = replace(self.retry, sleep=sleep_outside)

        async def boot(device: Device, begin: float, due: float) -> None:
            try:
                outcome = await device.boot()
            except SimulatorError as error:
                report.failed(device.transport.name, error)
            else:
                report.succeeded(device.transport.name, outcome, time.monotonic() - due)
            finally:
                room.release()
            report.seconds = time.monotonic() - begin
            progress(report)

        async with AsyncExitStack() as stack:
            transports = [
                await stack.enter_async_context(connect(name, server, self.concurrency, self.mqtt_version))
                for name, server in self.servers.items()
            ]
            begin = time.monotonic()
            async with asyncio.TaskGroup() as boots:
                for number in range(self.count):
                    due = begin + number / self.rate if self.rate else None
                    if due and (wait := due - time.monotonic()) > 0:
                        await asyncio.sleep(wait)
                    await room.acquire()
                    transport = transports[number % len(transports)]
                    device = self._device(f"{prefix}-{number + 1:06}", transport, retry)
                    report.started(transport.name)
                    boots.create_task(boot(device, begin, due or time.monotonic()))

    def _device(self, name: str, transport: Transport, retry: Retry) -> Device:
        flash: Flash = VolatileFlash()
        if self.flash_dir:
            flash = FileFlash(self.flash_dir / f"{quote(name, safe='')}.json")
        firmware = Firmware(self.key, self.secret, name, self.kind)
        return Device(firmware, flash, transport, SerialLog(None), retry, self.timeout)

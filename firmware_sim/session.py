"""A provisioned device's life: it connects, sends telemetry, follows its attributes, and comes back when cut off."""

import asyncio
import contextlib
import math
import random
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any

import msgspec

from firmware_sim.errors import NoAnswer, Unauthorized
from firmware_sim.links import Link
from firmware_sim.log import SerialLog
from firmware_sim.retry import Retry

INTERVAL_ATTRIBUTE = "telemetryInterval"
SHORTEST_INTERVAL, LONGEST_INTERVAL = 0.01, 86_400.0

REFUSALS = 3
"""In a row, after which a device gives up, for a person to look at it."""

Room = AbstractAsyncContextManager[Any]


@dataclass(slots=True)
class Session:
    """A device from its first connection to its last.

    connect: a new link. telemetry: messages to send, None without end. interval: seconds between two. stay: do not
    end after the last message, nor while the server is away. room: held while connecting. accepted: told of each
    connection that was let in, with the seconds it took. clock: seconds since 1970, as far as the device knows; None:
    it does not, and its messages say no time.
    """

    connect: Callable[[], AbstractAsyncContextManager[Link]]
    tag: str
    log: SerialLog
    retry: Retry = field(default_factory=Retry)
    telemetry: int | None = 0
    interval: float = 1.0
    stay: bool = False
    room: Room = field(default_factory=contextlib.nullcontext)
    accepted: Callable[[float], None] = lambda _: None
    clock: Callable[[], float] | None = None

    sent: int = 0
    attempts: int = 0
    connections: int = 0
    attributes: dict[str, Any] = field(default_factory=dict)
    _interval_changed: asyncio.Event = field(default_factory=asyncio.Event)
    _last_sent: float = -math.inf

    async def run(self) -> None:
        """Live until the telemetry is sent; to the end of the task with `stay`.

        Raises Unauthorized after several refusals in a row, NoAnswer when the retries are used up, and whatever
        else asking again does not mend.
        """
        failures = refusals = 0
        while True:
            sent, connections, begin = self.sent, self.connections, time.monotonic()
            try:
                await self._connected()
            except Unauthorized as refusal:
                refusals += 1
                failures += 1
                if refusals >= REFUSALS:
                    self.log.failure(self.tag, f"{refusal}, {refusals} times in a row; credentials kept, giving up")
                    raise
                delay = self.retry.delay(failures, None)
                # A server that is being repaired may refuse good credentials; without them the device is lost.
                self.log.warning(self.tag, f"{refusal}; credentials kept, trying again in {delay:.1f} s")
            except NoAnswer as loss:
                refusals = 0
                # A connection that was good for something ended by chance; one that was not is one more failure.
                connected = self.connections > connections
                useful = self.sent > sent or (connected and time.monotonic() - begin > self.retry.cap)
                failures = 1 if useful else failures + 1
                if not self.stay and failures >= self.retry.attempts:
                    raise
                if not self.stay and (loss.retry_after or 0.0) > self.retry.patience:
                    raise
                delay = self.retry.delay(failures, loss.retry_after)
                state = "connection lost" if connected else "no connection"
                self.log.warning(self.tag, f"{state}: {loss}; connecting again in {delay:.1f} s")
            else:
                return
            await self.retry.sleep(delay)

    async def _connected(self) -> None:
        """One connection, from beginning to end."""
        async with contextlib.AsyncExitStack() as stack:
            async with self.room:
                begin = time.monotonic()
                self.attempts += 1
                link = await stack.enter_async_context(self.connect())
            self.connections += 1
            self.log.info(self.tag, "connected" if self.connections == 1 else "connected again")
            self.accepted(time.monotonic() - begin)
            await self._serve(link)
        self.log.info(self.tag, "disconnected")

    async def _serve(self, link: Link) -> None:
        if not self.stay and self.telemetry in (0, 1):  # no time for news
            await self._send(link)
            return
        listening = asyncio.create_task(self._listen(link))
        sending = asyncio.create_task(self._send(link))
        tasks = {listening, sending}
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if sending in done and sending.exception() is None and self.stay:
                done = {listening}
                await asyncio.wait(done)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _send(self, link: Link) -> None:
        while self.telemetry is None or self.sent < self.telemetry:
            await self._until_due()
            await link.telemetry(self._measure())  # a message that is not acknowledged is sent again
            self._last_sent = time.monotonic()
            self.sent += 1
            total = "" if self.telemetry is None else f"/{self.telemetry}"
            self.log.info("telemetry", f"message {self.sent}{total} sent")

    async def _until_due(self) -> None:
        while (wait := self._last_sent + self.interval - time.monotonic()) > 0:
            self._interval_changed.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    await self._interval_changed.wait()

    def _measure(self) -> bytes:
        temperature = round(20 + random.uniform(-5, 5), 1)  # noqa: S311
        values = {"temperature": temperature, "sequence": self.sent + 1}
        if self.clock is None:
            return msgspec.json.encode(values)
        return msgspec.json.encode({"ts": round(self.clock() * 1000), "values": values})

    async def _listen(self, link: Link) -> None:
        async with contextlib.aclosing(link.updates()) as updates:
            async for values in updates:
                self._apply(values)

    def _apply(self, values: Mapping[str, Any]) -> None:
        for name, value in values.items():
            if name == "deleted" and isinstance(value, list):
                for gone in value:
                    if self.attributes.pop(gone, None) is not None:
                        self.log.info("attributes", f"{gone} deleted")
            elif self.attributes.get(name) != value:
                self.attributes[name] = value
                self.log.info("attributes", f"{name} = {msgspec.json.encode(value).decode()}")
                if name == INTERVAL_ATTRIBUTE:
                    self._set_interval(value)

    def _set_interval(self, value: object) -> None:
        if isinstance(value, bool) or not isinstance(value, int | float):
            self.log.warning("attributes", f"{INTERVAL_ATTRIBUTE} is no number of seconds; {self.interval:g} s kept")
            return
        self.interval = min(max(float(value), SHORTEST_INTERVAL), LONGEST_INTERVAL)
        self.log.info("telemetry", f"every {self.interval:g} s from now on")
        self._interval_changed.set()

"""Devices that ask without pause over all three transports, and what they were told."""

import asyncio
import itertools
import json
import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import aiocoap
import aiohttp
import aiomqtt

from tests.server import Server

LOST = "LOST"
"""What a device notes that got no answer."""


class Device(aiomqtt.Client):
    """Sees that its connection broke when it connects or subscribes, too, where aiomqtt waits until its time is up."""

    def _on_disconnect(self, *what: Any) -> None:
        expected: list[asyncio.Future[Any]] = [self._connected, *self._pending_subscribes.values()]
        for each in expected:
            if not each.done():
                each.set_exception(aiomqtt.MqttError("the connection broke"))
        super()._on_disconnect(*what)
        if self._disconnected.done():
            self._disconnected.exception()  # seen, whether or not somebody waits for it


@dataclass
class Load:
    """`workers` devices at a time on each transport; every name asks once.

    patience: seconds that a device waits for its answer. told: name -> the access token of its SUCCESS. outcomes: how
    often each status was heard, LOST included.
    """

    server: Server
    key: str
    secret: str
    workers: int = 4
    prefix: str = "load"
    patience: float = 15
    told: dict[str, str] = field(default_factory=dict)
    outcomes: Counter[str] = field(default_factory=Counter)

    async def __aenter__(self) -> Self:
        self._numbers = itertools.count(1)
        self._changed = asyncio.Condition()
        self._ending = False
        self._http = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=2 * self.patience))
        self._coap = await aiocoap.Context.create_client_context(transports=["udp6"])
        asks: list[Callable[[bytes], Any]] = [self._ask_http, self._ask_mqtt, self._ask_coap]
        self._tasks = [
            asyncio.create_task(self._work(ask), name=ask.__name__) for ask in asks for _ in range(self.workers)
        ]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ending = True  # aiomqtt may answer a cancellation with an error of its own, which is then noted as LOST
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._http.close()
        await self._coap.shutdown()

    async def until(self, condition: Callable[[], bool], limit: float = 120) -> None:
        """Wait for answers until the condition holds."""
        try:
            async with asyncio.timeout(limit), self._changed:
                await self._changed.wait_for(lambda: condition() or any(task.done() for task in self._tasks))
        except TimeoutError as fault:
            raise TimeoutError(f"not after {limit:.0f} s; heard were {dict(self.outcomes)}") from fault
        self.check()

    def check(self) -> None:
        """Raise what has ended a device, if something has."""
        for task in self._tasks:
            if task.done():
                task.result()

    async def finish(self, limit: float = 120) -> None:
        """Let everybody hear the answer that he waits for, or that there is none, and ask no more."""
        self._ending = True
        _, waiting = await asyncio.wait(self._tasks, timeout=limit, return_when=asyncio.FIRST_EXCEPTION)
        self.check()
        if waiting:
            names = sorted(task.get_name() for task in waiting)
            raise TimeoutError(f"after {limit:.0f} s {names} still wait; heard were {dict(self.outcomes)}")

    async def _work(self, ask: Callable[[bytes], Any]) -> None:
        while not self._ending:
            name = f"{self.prefix}-{next(self._numbers)}"
            body = {"deviceName": name, "provisionDeviceKey": self.key, "provisionDeviceSecret": self.secret}
            try:
                async with asyncio.timeout(self.patience):
                    answer = json.loads(await ask(json.dumps(body).encode()))
            except (OSError, TimeoutError, aiohttp.ClientError, aiomqtt.MqttError, aiocoap.error.Error):
                answer = {"status": LOST}
                await asyncio.sleep(0.02)  # not to spin while nobody listens
            if answer["status"] == "SUCCESS":
                self.told[name] = answer["credentialsValue"]
            self.outcomes[answer["status"]] += 1
            async with self._changed:
                self._changed.notify_all()

    async def _ask_http(self, body: bytes) -> bytes:
        async with self._http.post(f"http://{self.server.http}/api/v1/provision", data=body) as response:
            return await response.read()

    async def _ask_mqtt(self, body: bytes) -> bytes:
        host, port = self.server.mqtt.split(":")
        quiet = logging.getLogger("load.mqtt")
        quiet.setLevel(logging.CRITICAL)
        async with Device(host, int(port), username="provision", timeout=self.patience, logger=quiet) as client:
            await client.subscribe("/provision/response")
            await client.publish("/provision/request", body)
            async for message in client.messages:
                return bytes(message.payload)
        raise ConnectionError

    async def _ask_coap(self, body: bytes) -> bytes:
        uri = f"coap://{self.server.coap}/api/v1/provision"
        response = await self._coap.request(aiocoap.Message(code=aiocoap.POST, uri=uri, payload=body)).response
        return bytes(response.payload)

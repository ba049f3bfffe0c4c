"""A device of Particle's: it takes its token from a ledger, and publishes events that a webhook sends on with it.

Real ones speak with Particle's device service in a protocol of its own; this one speaks HTTP with a stand-in for that
service: `GET /device-service/{device}/ledgers/{ledger}` and `POST /device-service/{device}/events`.
"""

import asyncio
import json
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import aiohttp

from firmware_sim.errors import BadReply, NoAnswer, Refused
from firmware_sim.log import SerialLog
from firmware_sim.retry import Retry
from firmware_sim.transports.http import TEMPORARY, describe, failure, parse_retry_after

KEY = "blynk_token"
LEDGER = "blynk-tokens-c2d"
EVENT = "blynk_https_get"

BUFFER = 128
"""Bytes that the published firmware has for an event's data, with the NUL at the end."""


class ParticleDevice:
    """One device. cloud: URL of the stand-in. clock: of the time since power-on."""

    def __init__(
        self,
        cloud: str,
        device: str,
        ledger: str,
        log: SerialLog,
        retry: Retry,
        timeout: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._url = f"{cloud.rstrip('/')}/device-service/{quote(device, safe='')}"
        self._ledger = ledger
        self._log = log
        self._retry = retry
        self._timeout = aiohttp.ClientTimeout(total=timeout)
        self._clock = clock
        self._power_on = clock()
        self._token = ""

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(timeout=self._timeout, cookie_jar=aiohttp.DummyCookieJar())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()

    async def sync(self) -> None:
        """Have the ledger's token, once it is there. Raises NoAnswer when it is not in the end, Refused, BadReply."""

        async def ask(_: int) -> str:
            answer = await self._ask("GET", f"/ledgers/{quote(self._ledger, safe='')}")
            token = answer.get("data", {}).get(KEY)
            if token is not None and not isinstance(token, str):
                raise BadReply(f"the ledger's {KEY} is no text")
            if not token:
                raise NoAnswer(f"the ledger has no {KEY} yet")
            return token

        self._token = await self._retry.run(ask, self._waiting)
        self._log.info("ledger", f"{self._ledger} synchronised, token {self._log.secret(self._token)}")

    async def run(self, messages: int, interval: float) -> None:
        """Publish so many events. interval: seconds between two."""
        for number in range(messages):
            if number:
                await asyncio.sleep(interval)
            await self._publish(number)

    async def _publish(self, number: int) -> None:
        millis = int((self._clock() - self._power_on) * 1000)
        values = {"t": self._token, "v14": str(millis), "v15": f"{20 + number / 10:f}", "v16": "1", "v17": "0"}
        data = json.dumps(values, separators=(",", ":"))
        if len(data.encode()) >= BUFFER:
            raise BadReply("the token does not fit into the firmware's buffer")

        async def ask(_: int) -> None:
            await self._ask("POST", "/events", {"name": EVENT, "data": data})

        await self._retry.run(ask, self._waiting)
        self._log.info("publish", f"{EVENT}: v15 {values['v15']}")

    async def _ask(self, method: str, path: str, body: object = None) -> dict[str, Any]:
        try:
            async with self._session.request(method, self._url + path, json=body, allow_redirects=False) as response:
                content, status = await response.read(), response.status
                retry_after = parse_retry_after(response.headers.get("Retry-After"))
        except (aiohttp.ClientError, OSError) as error:
            raise failure(error, self._timeout.total or 0) from error
        if status in TEMPORARY:
            raise NoAnswer(describe(status), retry_after)
        if status != 200:
            raise Refused(describe(status))
        try:
            answer = json.loads(content)
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            raise BadReply("the answer is no JSON object")
        return answer

    def _waiting(self, failure_: NoAnswer, delay: float) -> None:
        self._log.warning("cloud", f"{failure_}; asking again in {delay:.1f} s")

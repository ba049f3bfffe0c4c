"""Who brings a WiFi device online: a person whose phone has a token of the server's API, and the rest of the device's
access point.
"""

import asyncio
import json
import random
import secrets
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from typing import Any

import aiohttp
import msgspec

from firmware_sim.address import Address
from firmware_sim.board import Board
from firmware_sim.config_store import VolatileStore
from firmware_sim.device import Provisioned
from firmware_sim.edgent_state import State
from firmware_sim.errors import BadReply, NoAnswer, Refused
from firmware_sim.flash import Credentials
from firmware_sim.links.cloud import Cloud
from firmware_sim.log import SerialLog
from firmware_sim.reply import snippet
from firmware_sim.retry import Retry
from firmware_sim.transports.http import TEMPORARY, describe, failure, open_session, parse_retry_after
from firmware_sim.wifi_device import WifiDevice
from firmware_sim.wifi_networks import Network, Networks

CLIENT = "fleet"
"""What the server's list of sessions says of who asked."""

TEMPLATE_NAME = "Sensor"

_LOOKS = 20  # for an access point

HOME = Network("Home", password="correct horse")  # noqa: S106 - of a network that is made up


class WifiSession(msgspec.Struct, frozen=True, rename="camel"):
    """One try to bring a device online. token: what the device is given."""

    id: str
    token: str
    device_id: str

    def __repr__(self) -> str:
        return f"WifiSession({self.id!r})"


@dataclass(frozen=True, slots=True)
class Phone:
    """api: the server's admin API, as people have it. key: an API key. template: of the devices, `TMPL…`.

    mistakes: the chance (0 to 1) that the WiFi password is wrong when it is typed for the first time. time_scale: of
    what firmware waits for.
    """

    api: Address
    key: str = field(repr=False)
    template: str
    mistakes: float = 0.0
    time_scale: float = 1.0

    async def request(self, timeout: float) -> WifiSession:
        """A session for one more device. Raises NoAnswer, Refused, BadReply."""
        content = await self._post("wifi-sessions", {"template": self.template, "client": CLIENT}, timeout)
        try:
            return msgspec.json.decode(content, type=WifiSession)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            raise BadReply(f"no WiFi session: {snippet(content)}") from None

    async def _post(self, resource: str, body: Any, timeout: float) -> bytes:
        status, content, retry_after = await _exchange(
            "POST",
            f"http://{self.api}/api/admin/{resource}",
            timeout,
            json=body,
            headers={"Authorization": f"Bearer {self.key}"},
        )
        if status in TEMPORARY:
            raise NoAnswer(describe(status), parse_retry_after(retry_after))
        if status not in (HTTPStatus.OK, HTTPStatus.CREATED):
            raise Refused(f"the server's API: {describe(status)}")
        return content


class Owner:
    """Of one device, which comes out of its box. attempts: how often he told it the network."""

    def __init__(self, phone: Phone, cloud: Cloud, retry: Retry) -> None:
        """cloud: how the device speaks with its server. retry: how often both try."""
        self.attempts = 0
        self._phone = phone
        self._cloud = cloud
        self._retry = retry
        self._board = Board(secrets.token_bytes(6), phone.template, TEMPLATE_NAME)
        self._flash = VolatileStore()
        self._session: WifiSession | None = None

    async def bring_online(self) -> Provisioned:
        """From power-on until the device has logged in for the first time; what it has then. Raises a SimulatorError.

        After a power cut he goes on with the same token.
        """
        device = WifiDevice(
            self._board,
            self._flash,
            Networks([HOME]),
            self._cloud,
            SerialLog(None),
            self._phone.time_scale,
            Address("127.0.0.1", 0),
        )
        living = asyncio.create_task(device.run())
        guiding = asyncio.create_task(self._guide(device))
        try:
            await asyncio.wait({living, guiding}, return_when=asyncio.FIRST_COMPLETED)
            if living.done():
                living.result()
            session = await guiding
        finally:
            living.cancel()
            guiding.cancel()
            await asyncio.wait({living, guiding})
        credentials = Credentials("ACCESS_TOKEN", session.token, None, session.device_id)
        return Provisioned(credentials, None, self.attempts)

    async def _guide(self, device: WifiDevice) -> WifiSession:
        while True:
            await device.wait(State.WAIT_CONFIG, State.RUNNING)
            if device.state is State.RUNNING and self._session:
                return self._session
            if self.attempts >= self._retry.attempts:
                raise NoAnswer(f"the device is at its access point again, last error {device.last_error}")
            self.attempts += 1
            assert device.access_point  # noqa: S101 - it was made with one
            await self._configure(device.access_point)

    async def _configure(self, access_point: Address) -> None:
        """What the phone does on the access point; meanwhile it has the server over its mobile network."""
        # The access point is there a moment later than the device begins to wait for it.
        looking = replace(self._retry, attempts=_LOOKS)
        asked = await looking.run(lambda _: self._get(access_point, "board_info.json"), _patient)
        try:
            board = json.loads(asked)
        except ValueError:
            raise BadReply("the access point's board_info.json is no JSON") from None
        if board["tmpl_id"] != self._phone.template:
            raise BadReply("the access point is another device's")
        await self._get(access_point, "wifi_scan.json")
        if self._session is None:
            timeout = self._cloud.timeout
            self._session = await self._retry.run(lambda _: self._phone.request(timeout), _patient)
        mistaken = self.attempts == 1 and random.random() < self._phone.mistakes  # noqa: S311
        server = self._cloud.server or self._phone.api
        await self._get(
            access_point,
            "config",
            ssid=HOME.ssid,
            **{"pass": HOME.password.upper() if mistaken else HOME.password},
            blynk=self._session.token,
            host=server.host,
            port_ssl=str(server.port),
        )

    async def _get(self, access_point: Address, resource: str, **query: str) -> bytes:
        url = f"http://{access_point}/{resource}"
        status, content, _ = await _exchange("GET", url, self._cloud.timeout, params=query)
        if status != HTTPStatus.OK:
            raise Refused(f"the access point, {resource}: {describe(status)}")
        return content


def _patient(_error: NoAnswer, _seconds: float) -> None:
    """Says nothing."""


async def _exchange(method: str, url: str, timeout: float, **options: Any) -> tuple[int, bytes, str | None]:
    """Status, body and Retry-After. Raises NoAnswer."""
    limit = aiohttp.ClientTimeout(total=timeout)
    try:
        async with (
            open_session(1, None, keep=False) as session,
            session.request(method, url, timeout=limit, allow_redirects=False, **options) as response,
        ):
            return response.status, await response.read(), response.headers.get("Retry-After")
    except (aiohttp.ClientError, OSError) as error:
        raise failure(error, timeout) from error

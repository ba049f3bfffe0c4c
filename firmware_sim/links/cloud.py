"""How WiFi firmware speaks with its server: in Blynk's words, on the protocol that it was built for."""

import asyncio
import secrets
from collections.abc import AsyncGenerator, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, aclosing
from dataclasses import dataclass, field
from http import HTTPStatus
from types import TracebackType
from typing import Protocol, Self

import aiohttp
import msgspec

from firmware_sim import power
from firmware_sim.address import Address
from firmware_sim.errors import NoAnswer, Refused, Unauthorized, WrongUsage
from firmware_sim.links import Login
from firmware_sim.tls import Security, Trust
from firmware_sim.transports import MqttVersion, TransportName
from firmware_sim.transports.http import TEMPORARY, describe, failure, open_session, parse_retry_after
from firmware_sim.transports.mqtt import connected, failures, new_client

_DOWNLINK = "downlink/"
_SUBACK_FAILURE = 0x80
_INFO = ("tmpl", "ver", "build", "type", "rxbuff")


class CloudLink(Protocol):
    """A login. `async with` raises Unauthorized when the token is unknown, and no other time; else SimulatorError."""

    async def info(self, values: Mapping[str, str]) -> None:
        """Say what firmware this is: `tmpl`, `ver`, `build`, `type`. As `async with`, it may be the login."""

    async def meta(self, name: str, value: str) -> None:
        """Set a metadata field. Raises a SimulatorError."""

    def downlinks(self) -> AsyncGenerator[tuple[str, bytes], None]:
        """Commands and their payloads (`reconfigure`, `reboot`, `ota`, `ds/…`) until the link is lost.

        Ends with a SimulatorError, and no other way.
        """


@dataclass(frozen=True, slots=True)
class Cloud:
    """Where and how. server None: where the device was told. poll: seconds between two looks of those who must ask."""

    transport: TransportName = TransportName.MQTT
    server: Address | None = None
    trust: Trust = field(default_factory=Trust)
    timeout: float = 10.0
    poll: float = 10.0

    def open(self, token: str, host: str, port: int) -> AbstractAsyncContextManager[CloudLink]:
        """A connection, to use inside `async with`. Raises WrongUsage."""
        server = self.server or Address(host, port)
        security = Security(self.trust) if self.transport.over_tls else None
        match self.transport:
            case TransportName.MQTT | TransportName.MQTTS:
                return MqttCloud(server, token, security, self.timeout)
            case TransportName.HTTP | TransportName.HTTPS:
                return HttpCloud(server, token, security, self.timeout, self.poll)
            case TransportName.COAP:
                return CoapCloud(server, token, self.timeout)
            case TransportName.BLYNK | TransportName.BLYNKS:
                from firmware_sim.links.blynk import BlynkLink

                return BlynkLink(server, Login(token), security, self.timeout)
            case _:
                raise WrongUsage(f"WiFi firmware does not speak {self.transport}: mqtt, http, coap or blynk")


class MqttCloud:
    """User name `device`, the token as password; commands come below `downlink/`."""

    def __init__(self, server: Address, token: str, security: Security | None, timeout: float) -> None:
        self._timeout = timeout
        name = f"sim-{secrets.token_hex(8)}"
        self._client = new_client(server, MqttVersion.V311, security, timeout, name, "device", token)
        self._stack = AsyncExitStack()
        self._subscribed = False

    async def __aenter__(self) -> Self:
        with failures(self._timeout):
            await self._stack.enter_async_context(connected(self._client))
        try:
            await self._subscribe()
        except BaseException:
            await self._close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._close()

    async def info(self, values: Mapping[str, str]) -> None:
        """`info/mcu`, with QoS 1."""
        members = {name: value for name, value in values.items() if name in _INFO}
        with failures(self._timeout):
            await self._client.publish("info/mcu", msgspec.json.encode(members), qos=1)
        if not self._subscribed:  # a server may want to know who it is first
            await self._subscribe()

    async def meta(self, name: str, value: str) -> None:
        """`meta/NAME`, with QoS 1."""
        with failures(self._timeout):
            await self._client.publish(f"meta/{name}", value.encode(errors="replace"), qos=1)

    async def downlinks(self) -> AsyncGenerator[tuple[str, bytes], None]:
        """What is published below `downlink/`."""
        with failures(self._timeout):
            async for message in self._client.messages:
                if message.topic.value.startswith(_DOWNLINK) and isinstance(message.payload, bytes):
                    yield message.topic.value.removeprefix(_DOWNLINK), message.payload
        raise NoAnswer("the server closed the connection")

    async def _subscribe(self) -> None:
        with failures(self._timeout):
            codes = await self._client.subscribe(f"{_DOWNLINK}#", qos=0)
        self._subscribed = all((c if isinstance(c, int) else c.value) < _SUBACK_FAILURE for c in codes)

    async def _close(self) -> None:
        try:
            with failures(self._timeout):
                await self._stack.aclose()
        except (NoAnswer, Refused):
            pass


class HttpCloud:
    """Requests with the token in them; `provision` says who it is, and now and then it asks whether it is known."""

    def __init__(self, server: Address, token: str, security: Security | None, timeout: float, poll: float) -> None:
        self._url = f"{'https' if security else 'http'}://{server}/external/api"
        self._token = token
        self._security = security
        self._timeout = timeout
        self._poll = poll

    async def __aenter__(self) -> Self:
        self._session = open_session(1, self._security)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()

    async def info(self, values: Mapping[str, str]) -> None:
        """`provision`."""
        others = {name: value for name, value in values.items() if name in ("build", "ver", "type")}
        await self._get("provision", templateId=values.get("tmpl", ""), **others)

    async def meta(self, name: str, value: str) -> None:
        """`device/meta/update`."""
        await self._get("device/meta/update", metaFieldName=name, value=value.encode(errors="replace").decode())

    async def downlinks(self) -> AsyncGenerator[tuple[str, bytes], None]:
        """None comes by HTTP; it ends when the token is not known any more."""
        while True:
            await asyncio.sleep(self._poll)
            if await self._get("isHardwareConnected") is None:
                yield "", b""

    async def _get(self, resource: str, **query: str) -> bytes:
        limit = aiohttp.ClientTimeout(total=self._timeout)
        try:
            async with self._session.get(
                f"{self._url}/{resource}",
                params={"token": self._token} | query,
                timeout=limit,
                allow_redirects=False,
            ) as response:
                content = await response.read()
                status, retry_after = response.status, response.headers.get("Retry-After")
        except (aiohttp.ClientError, OSError) as error:
            raise failure(error, self._timeout) from error
        if status == HTTPStatus.OK:
            return content
        if status in TEMPORARY:
            raise NoAnswer(describe(status), parse_retry_after(retry_after))
        if status == HTTPStatus.BAD_REQUEST and b"invalid token" in content.lower():
            raise Unauthorized("Invalid token.")
        raise Refused(describe(status))


class CoapCloud:
    """CoAP has no words of Blynk's: the token alone must tell the server what device it is."""

    def __init__(self, server: Address, token: str, timeout: float) -> None:
        from firmware_sim.links.coap import CoapLink

        self._link = CoapLink(f"coap://{server}{Login(token).path}", timeout)

    async def __aenter__(self) -> Self:
        await self._link.__aenter__()
        power.reached("connected")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._link.__aexit__(kind, error, trace)

    async def info(self, values: Mapping[str, str]) -> None:
        """Nothing that could be said."""

    async def meta(self, name: str, value: str) -> None:
        """As an attribute of the device: telemetry of one value."""
        await self._link.telemetry(msgspec.json.encode({name: value.encode(errors="replace").decode()}))

    async def downlinks(self) -> AsyncGenerator[tuple[str, bytes], None]:
        """The names of shared attributes that change."""
        async with aclosing(self._link.updates()) as updates:
            async for values in updates:
                for name in values:
                    yield f"attribute/{name}", b""

"""MQTT: telemetry with QoS 1, attributes on ThingsBoard's topics."""

import asyncio
import contextlib
import secrets
from collections.abc import AsyncGenerator, Mapping
from types import TracebackType
from typing import Any, Self

import msgspec

from firmware_sim.address import Address
from firmware_sim.errors import BadReply, NoAnswer, Refused
from firmware_sim.links import SHARED_KEYS, Login
from firmware_sim.reply import snippet
from firmware_sim.tls import Security
from firmware_sim.transports import MqttVersion
from firmware_sim.transports.mqtt import connected, failures, new_client

TELEMETRY = "v1/devices/me/telemetry"
ATTRIBUTES = "v1/devices/me/attributes"
REQUEST = "v1/devices/me/attributes/request/1"
RESPONSES = "v1/devices/me/attributes/response/+"
RESPONSE = "v1/devices/me/attributes/response/1"
CREDENTIALS_REQUEST = "v1/devices/me/credentials/request/1"
CREDENTIALS_RESPONSE = "v1/devices/me/credentials/response/1"

_FAILURE = 0x80  # SUBACK: this and above


class MqttLink:
    """One connection with a clean session."""

    def __init__(
        self, server: Address, version: MqttVersion, login: Login, security: Security | None, timeout: float
    ) -> None:
        basic = login.basic or {}
        self._timeout = timeout
        self._client = new_client(
            server,
            version,
            security,
            timeout,
            basic.get("clientId") or f"sim-{secrets.token_hex(8)}",
            login.token or basic.get("userName") or None,
            basic.get("password"),
        )
        self._stack = contextlib.AsyncExitStack()

    async def __aenter__(self) -> Self:
        with failures(self._timeout):
            await self._stack.enter_async_context(connected(self._client))
        try:
            with failures(self._timeout):
                for topic in (ATTRIBUTES, RESPONSES):
                    codes = await self._client.subscribe(topic, qos=1)
                    if any((code if isinstance(code, int) else code.value) >= _FAILURE for code in codes):
                        raise Refused(f"MQTT subscription to {topic} refused")
                await self._client.publish(REQUEST, msgspec.json.encode({"sharedKeys": ",".join(SHARED_KEYS)}), qos=1)
        except BaseException:
            await self._close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._close()

    async def telemetry(self, body: bytes) -> None:
        """PUBLISH with QoS 1, and wait for the PUBACK."""
        with failures(self._timeout):
            await self._client.publish(TELEMETRY, body, qos=1)

    async def rotate(self, body: bytes) -> bytes:
        """PUBLISH with QoS 1, and wait for the response; before `updates`, as they share what comes in."""
        with failures(self._timeout):
            await self._client.subscribe(CREDENTIALS_RESPONSE, qos=1)
            await self._client.publish(CREDENTIALS_REQUEST, body, qos=1)
            async with asyncio.timeout(self._timeout):
                async for message in self._client.messages:
                    if message.topic.value == CREDENTIALS_RESPONSE and isinstance(message.payload, bytes):
                        return message.payload
        raise NoAnswer("the server closed the connection")

    async def updates(self) -> AsyncGenerator[Mapping[str, Any], None]:
        """The response to the request, and what is pushed."""
        with failures(self._timeout):
            async for message in self._client.messages:
                values = _values(message.payload)
                if message.topic.value == RESPONSE:
                    yield values.get("shared") or {}
                elif message.topic.value == ATTRIBUTES:
                    yield values
        raise NoAnswer("the server closed the connection")

    async def _close(self) -> None:
        with contextlib.suppress(NoAnswer, Refused), failures(self._timeout):
            await self._stack.aclose()


def _values(payload: object) -> Mapping[str, Any]:
    content = payload if isinstance(payload, bytes) else b""
    try:
        return msgspec.json.decode(content, type=dict[str, Any])
    except (msgspec.MsgspecError, UnicodeDecodeError):
        raise BadReply(f"no attributes: {snippet(content)}") from None

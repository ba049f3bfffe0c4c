"""MQTT: user name `provision`, one connection per request, as a device has it."""

import asyncio
import secrets
from types import TracebackType
from typing import Self

import aiomqtt
from paho.mqtt.reasoncodes import ReasonCode

from firmware_sim.address import Address
from firmware_sim.errors import NoAnswer, Refused
from firmware_sim.transports import MqttVersion

REQUEST_TOPIC = "/provision/request"
RESPONSE_TOPIC = "/provision/response"

_PROTOCOLS = {MqttVersion.V311: aiomqtt.ProtocolVersion.V311, MqttVersion.V5: aiomqtt.ProtocolVersion.V5}

# MQTT 5 §2.4. paho translates the 3.1.1 CONNACK code 3 into 0x88.
_UNSPECIFIED = 0x80
_SERVER_UNAVAILABLE, _SERVER_BUSY, _SHUTTING_DOWN, _QUOTA, _RATE = 0x88, 0x89, 0x8B, 0x97, 0x9F
_TEMPORARY = {_SERVER_UNAVAILABLE, _SERVER_BUSY, _SHUTTING_DOWN, _QUOTA, _RATE}


class MqttTransport:
    """Connects, subscribes, publishes with QoS 0 as the device SDKs do, waits for the reply, disconnects."""

    name = "mqtt"

    def __init__(self, server: Address, version: MqttVersion) -> None:
        self.url = f"mqtt://{server}{REQUEST_TOPIC}"
        self._server = server
        self._protocol = _PROTOCOLS[version]

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    async def provision(self, body: bytes, timeout: float) -> bytes:
        """Every verdict is a reply; MQTT itself can only refuse or lose the connection."""
        client = aiomqtt.Client(
            self._server.host,
            self._server.port,
            username="provision",
            identifier=f"sim-{secrets.token_hex(8)}",
            protocol=self._protocol,
            timeout=timeout,
        )
        deadline = asyncio.get_running_loop().time() + timeout
        try:
            async with client, asyncio.timeout_at(deadline):
                await client.subscribe(RESPONSE_TOPIC)
                await client.publish(REQUEST_TOPIC, body)
                async for message in client.messages:
                    if message.topic.value == RESPONSE_TOPIC and isinstance(message.payload, bytes):
                        return message.payload
        except aiomqtt.MqttError as error:
            raise _failure(error, timeout) from error
        except OSError as error:
            raise NoAnswer.because(error, timeout) from error
        finally:
            # aiomqtt leaves the socket open when it gives up waiting for CONNACK.
            client._client.disconnect()  # noqa: SLF001
        raise NoAnswer("the connection ended without a reply")


def _failure(error: aiomqtt.MqttError, timeout: float) -> NoAnswer | Refused:
    if isinstance(error.__context__, OSError):  # what aiomqtt was handling; it keeps the text alone
        return NoAnswer.because(error.__context__, timeout)
    cause = error if isinstance(error, aiomqtt.MqttCodeError) else error.__cause__
    code = cause.rc if isinstance(cause, aiomqtt.MqttCodeError) else None
    if not isinstance(code, ReasonCode):
        return NoAnswer(str(error))
    said = f"MQTT 0x{code.value:02x} {code}"
    if isinstance(error, aiomqtt.exceptions.MqttConnectError):
        return NoAnswer(said) if code.value in _TEMPORARY else Refused(said)
    if code.value == _UNSPECIFIED:  # what paho says of a connection that ended without DISCONNECT
        return NoAnswer("the server closed the connection")
    return NoAnswer(said)

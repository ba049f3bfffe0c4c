"""MQTT and MQTTS: user name `provision`, one connection per request, as a device has it."""

import asyncio
import contextlib
import secrets
import socket
import ssl
from collections.abc import AsyncIterator
from functools import partial
from types import TracebackType
from typing import Any, Self

import aiomqtt
from paho.mqtt.reasoncodes import ReasonCode

from firmware_sim import power, tls
from firmware_sim.address import Address
from firmware_sim.errors import NoAnswer, Refused, SimulatorError, Unauthorized
from firmware_sim.tls import Security
from firmware_sim.transports import MqttVersion

REQUEST_TOPIC = "/provision/request"
RESPONSE_TOPIC = "/provision/response"

_PROTOCOLS = {MqttVersion.V311: aiomqtt.ProtocolVersion.V311, MqttVersion.V5: aiomqtt.ProtocolVersion.V5}

# MQTT 5 §2.4. paho translates the CONNACK codes of 3.1.1: 2 into 0x85, 3 into 0x88, 4 into 0x86, 5 into 0x87.
_UNSPECIFIED = 0x80
_SERVER_UNAVAILABLE, _SERVER_BUSY, _SHUTTING_DOWN, _QUOTA, _RATE = 0x88, 0x89, 0x8B, 0x97, 0x9F
_TEMPORARY = {_SERVER_UNAVAILABLE, _SERVER_BUSY, _SHUTTING_DOWN, _QUOTA, _RATE}
_CLIENT_ID, _USER_NAME, _NOT_AUTHORIZED, _BANNED = 0x85, 0x86, 0x87, 0x8A
UNAUTHORIZED = {_CLIENT_ID, _USER_NAME, _NOT_AUTHORIZED, _BANNED}


class MqttTransport:
    """Connects, subscribes, publishes with QoS 0 as the device SDKs do, waits for the reply, disconnects."""

    def __init__(self, server: Address, version: MqttVersion, security: Security | None = None) -> None:
        self.name = "mqtts" if security else "mqtt"
        self.url = f"{self.name}://{server}{REQUEST_TOPIC}"
        self._server = server
        self._version = version
        self._security = security

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    async def provision(self, body: bytes, timeout: float) -> bytes:
        """Every verdict is a reply; MQTT itself can only refuse or lose the connection."""
        client = new_client(
            self._server, self._version, self._security, timeout, f"sim-{secrets.token_hex(8)}", "provision"
        )
        deadline = asyncio.get_running_loop().time() + timeout
        with failures(timeout):
            async with connected(client), asyncio.timeout_at(deadline):
                power.reached("connected")
                await client.subscribe(RESPONSE_TOPIC)
                power.reached("subscribed")
                await client.publish(REQUEST_TOPIC, body)
                power.reached("published")
                async for message in client.messages:
                    if message.topic.value == RESPONSE_TOPIC and isinstance(message.payload, bytes):
                        power.reached("answer read")
                        return message.payload
        raise NoAnswer("the connection ended without a reply")


class Client(aiomqtt.Client):
    """aiomqtt's, which would wait for a CONNACK from a server that has hung up."""

    def _on_disconnect(self, client: Any, userdata: Any, flags: Any, reason_code: Any, properties: Any = None) -> None:
        if self._lock.locked() and not self._connected.done():
            self._connected.set_exception(aiomqtt.MqttCodeError(reason_code, "no CONNACK"))
            return
        super()._on_disconnect(client, userdata, flags, reason_code, properties)


def new_client(
    server: Address,
    version: MqttVersion,
    security: Security | None,
    timeout: float,
    client_id: str,
    user_name: str | None = None,
    password: str | None = None,
) -> Client:
    """A client that has not connected yet. security: for MQTTS. Raises WrongUsage."""
    context = tls.client_context(security) if security else None
    client = Client(
        server.host,
        server.port,
        username=user_name,
        password=password,
        identifier=client_id,
        protocol=_PROTOCOLS[version],
        tls_context=context,
        timeout=timeout,
        socket_options=[(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)],  # latencies are the server's, not Nagle's
    )
    client._client.connect_timeout = timeout  # noqa: SLF001 - aiomqtt has no way to say so

    if context:
        shake_hands = partial(_shake_hands, context, server.host, timeout)
        client._client._ssl_wrap_socket = shake_hands  # type: ignore[method-assign] # noqa: SLF001
    return client


def _shake_hands(context: ssl.SSLContext, host: str, timeout: float, tcp: socket.socket) -> ssl.SSLSocket:
    """What paho does, but for a socket that it leaves open when the handshake fails."""
    sock = context.wrap_socket(tcp, server_hostname=host, do_handshake_on_connect=False)
    try:
        sock.settimeout(timeout)
        sock.do_handshake()
    except OSError:
        sock.close()
        raise
    return sock


@contextlib.asynccontextmanager
async def connected(client: Client) -> AsyncIterator[Client]:
    """Inside, the client is connected; afterwards its socket is closed, come what may."""
    try:
        async with client:
            yield client
    finally:
        # aiomqtt leaves the socket open when it gives up waiting for CONNACK.
        client._client.disconnect()  # noqa: SLF001


@contextlib.contextmanager
def failures(timeout: float) -> Any:
    """Turn what aiomqtt raises into a SimulatorError."""
    try:
        yield
    except aiomqtt.MqttError as error:
        raise _failure(error, timeout) from error
    except OSError as error:
        raise NoAnswer.because(error, timeout) from error


def _failure(error: aiomqtt.MqttError, timeout: float) -> SimulatorError:
    context = error.__context__  # what aiomqtt was handling; it keeps the text alone
    if isinstance(context, ssl.SSLError):
        return tls.failure(context)
    if isinstance(context, OSError):
        return NoAnswer.because(context, timeout)
    cause = error if isinstance(error, aiomqtt.MqttCodeError) else error.__cause__
    code = cause.rc if isinstance(cause, aiomqtt.MqttCodeError) else None
    if not isinstance(code, ReasonCode):
        return NoAnswer(str(error))
    said = f"MQTT 0x{code.value:02x} {code}"
    if isinstance(error, aiomqtt.exceptions.MqttConnectError):
        if code.value in UNAUTHORIZED:
            return Unauthorized(said)
        return NoAnswer(said) if code.value in _TEMPORARY else Refused(said)
    if code.value == _UNSPECIFIED:  # what paho says of a connection that ended without DISCONNECT
        return NoAnswer("the server closed the connection")
    return NoAnswer(said)

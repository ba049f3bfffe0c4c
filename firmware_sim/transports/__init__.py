"""The ways to be provisioned: one module per protocol, one small interface."""

from contextlib import AbstractAsyncContextManager
from enum import StrEnum
from typing import Protocol

from firmware_sim.address import Address
from firmware_sim.errors import WrongUsage
from firmware_sim.tls import PreSharedKey, Security, Trust


class Transport(Protocol):
    """An open way to one server; many devices may use it at the same time."""

    @property
    def name(self) -> str:
        """A `TransportName`."""

    @property
    def url(self) -> str:
        """What is asked, for people to read."""

    async def provision(self, body: bytes, timeout: float) -> bytes:
        """Send one request and return the reply, a verdict of any kind, within about `timeout` seconds.

        Raises NoAnswer when asking again may help, Refused when the protocol itself said no, Unauthorized when the
        channel did, Untrusted when the server is not the one to ask.
        """


class TransportName(StrEnum):
    """The device side's protocols, and what secures them."""

    HTTP = "http"
    MQTT = "mqtt"
    COAP = "coap"
    HTTPS = "https"
    MQTTS = "mqtts"
    COAPS = "coaps"
    OSCORE = "coap+oscore"
    BLYNK = "blynk"  # Blynk's native protocol: for devices that have a token
    BLYNKS = "blynks"

    @property
    def over_tls(self) -> bool:
        """TLS or DTLS: whether the server's certificate is checked."""
        return self.by_certificate or self is TransportName.BLYNKS

    @property
    def by_certificate(self) -> bool:
        """Whether a device may show one."""
        return self in (TransportName.HTTPS, TransportName.MQTTS, TransportName.COAPS)


class MqttVersion(StrEnum):
    """The protocol levels a server must speak."""

    V311 = "3.1.1"
    V5 = "5"


DEFAULT_PORTS = {
    TransportName.HTTP: 8080,
    TransportName.MQTT: 1883,
    TransportName.COAP: 5683,
    TransportName.HTTPS: 8443,
    TransportName.MQTTS: 8883,
    TransportName.COAPS: 5684,
    TransportName.OSCORE: 5683,
    TransportName.BLYNK: 8442,
    TransportName.BLYNKS: 8441,
}


def provision_security(name: TransportName, key: str, secret: str, trust: Trust, *, by_key: bool) -> Security:
    """What a device without credentials makes a channel with. by_key: CoAPS by provision key and secret."""
    if name is TransportName.OSCORE or (name is TransportName.COAPS and by_key):
        return Security(trust, key=PreSharedKey(key, secret.encode()))
    return Security(trust)


def connect(
    name: TransportName,
    server: Address,
    concurrency: int = 1,
    mqtt_version: MqttVersion = MqttVersion.V311,
    security: Security = Security(),  # noqa: B008 - immutable
) -> AbstractAsyncContextManager[Transport]:
    """A transport to use inside `async with`. Nothing is sent before the first request.

    concurrency: the most requests that will be under way at once. security: needed by those that are secured; a
    pre-shared key stands for the provision key and secret. Raises WrongUsage.
    """
    match name:  # a device loads the one protocol library that it uses
        case TransportName.HTTP | TransportName.HTTPS:
            from firmware_sim.transports.http import HttpTransport

            return HttpTransport(server, concurrency, security if name.over_tls else None)
        case TransportName.MQTT | TransportName.MQTTS:
            from firmware_sim.transports.mqtt import MqttTransport

            return MqttTransport(server, mqtt_version, security if name.over_tls else None)
        case TransportName.COAP:
            from firmware_sim.transports.coap import CoapTransport

            return CoapTransport(server)
        case TransportName.COAPS:
            from firmware_sim.transports.coap import CoapsTransport

            return CoapsTransport(server, security)
        case TransportName.OSCORE:
            from firmware_sim.transports.coap import OscoreTransport

            if security.key is None:
                raise WrongUsage("OSCORE needs a provision key and secret")
            return OscoreTransport(server, security.key)
        case TransportName.BLYNK | TransportName.BLYNKS:
            raise WrongUsage(
                f"{name} provisions nobody: provision by another --transport, then --connect-transport {name};"
                " or --credentials static --token"
            )

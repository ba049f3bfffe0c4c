"""The ways to the server: one module per protocol, one small interface."""

from contextlib import AbstractAsyncContextManager
from enum import StrEnum
from typing import Protocol

from firmware_sim.address import Address


class Transport(Protocol):
    """An open way to one server; many devices may use it at the same time."""

    @property
    def name(self) -> str:
        """http, mqtt or coap."""

    @property
    def url(self) -> str:
        """What is asked, for people to read."""

    async def provision(self, body: bytes, timeout: float) -> bytes:
        """Send one request and return the reply, a verdict of any kind, within about `timeout` seconds.

        Raises NoAnswer when asking again may help, Refused when the protocol itself said no.
        """


class TransportName(StrEnum):
    """The device side's protocols."""

    HTTP = "http"
    MQTT = "mqtt"
    COAP = "coap"


class MqttVersion(StrEnum):
    """The protocol levels a server must speak."""

    V311 = "3.1.1"
    V5 = "5"


DEFAULT_PORTS = {TransportName.HTTP: 8080, TransportName.MQTT: 1883, TransportName.COAP: 5683}


def connect(
    name: TransportName, server: Address, concurrency: int = 1, mqtt_version: MqttVersion = MqttVersion.V311
) -> AbstractAsyncContextManager[Transport]:
    """A transport to use inside `async with`. Nothing is sent before the first request.

    concurrency: the most requests that will be under way at once.
    """
    match name:  # a device loads the one protocol library that it uses
        case TransportName.HTTP:
            from firmware_sim.transports.http import HttpTransport

            return HttpTransport(server, concurrency)
        case TransportName.MQTT:
            from firmware_sim.transports.mqtt import MqttTransport

            return MqttTransport(server, mqtt_version)
        case TransportName.COAP:
            from firmware_sim.transports.coap import CoapTransport

            return CoapTransport(server)

"""A device's own connection, once it has credentials: one module per protocol, one small interface."""

from collections.abc import AsyncGenerator, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol
from urllib.parse import quote

from firmware_sim.address import Address
from firmware_sim.credentials import as_pem
from firmware_sim.errors import WrongUsage
from firmware_sim.flash import Credentials, Flash
from firmware_sim.tls import ClientCertificate, PreSharedKey, Security, Trust
from firmware_sim.transports import MqttVersion, TransportName

SHARED_KEYS = ("telemetryInterval",)
"""The shared attributes that a device asks for when it connects."""


class Link(Protocol):
    """An authenticated connection. `async with` connects: it raises Unauthorized, NoAnswer, Untrusted or Refused."""

    async def telemetry(self, body: bytes) -> None:
        """Send a JSON object; returns once the server has it. Raises a SimulatorError."""

    async def rotate(self, body: bytes) -> bytes:
        """Ask for the next credentials; the reply, a verdict of any kind. Raises a SimulatorError."""

    def updates(self) -> AsyncGenerator[Mapping[str, Any], None]:
        """The shared attributes, then their changes (`deleted`: names of those gone), until the link is lost.

        Ends with an exception, a SimulatorError, and no other way.
        """


@dataclass(frozen=True, slots=True)
class Login:
    """What a device shows: a token, user name and password, a certificate, or a pre-shared key."""

    token: str | None = field(default=None, repr=False)
    basic: Mapping[str, str | None] | None = field(default=None, repr=False)
    certificate: ClientCertificate | None = None
    key: PreSharedKey | None = None

    @property
    def path(self) -> str:
        """Where HTTP and CoAP resources are."""
        return f"/api/v1/{quote(self.token, safe='')}" if self.token else "/api/v1"


@dataclass(frozen=True, slots=True)
class Line:
    """How to reach the server, before it is known as whom.

    by_key: CoAPS with the token as a pre-shared key. template: what a device says it is of, by blynk.
    """

    name: TransportName
    server: Address
    trust: Trust = field(default_factory=Trust)
    by_key: bool = True
    mqtt_version: MqttVersion = MqttVersion.V311
    timeout: float = 10.0
    template: str = ""

    def login(self, credentials: Credentials, private_key: str | None) -> Login:
        """What the credentials are here. Raises WrongUsage for those of another protocol."""
        value = credentials.credentials_value
        match credentials.credentials_type:
            case "MQTT_BASIC" if isinstance(value, dict):
                if self.name in (TransportName.MQTT, TransportName.MQTTS):
                    return Login(basic=value)
                raise WrongUsage(f"MQTT_BASIC credentials open no {self.name} connection; connect by mqtt or mqtts")
            case "X509_CERTIFICATE" if isinstance(value, str):
                if self.name.by_certificate and private_key:
                    return Login(certificate=ClientCertificate(as_pem(value), private_key.encode()))
                raise WrongUsage(f"a certificate opens no {self.name} connection; connect by mqtts, https or coaps")
            case _:
                token = str(value)
        if self.name is TransportName.OSCORE or (self.name is TransportName.COAPS and self.by_key):
            if not credentials.device_id:
                raise WrongUsage(f"the server did not tell the device id, without which {self.name} knows no key")
            return Login(key=PreSharedKey(credentials.device_id, token.encode()))
        return Login(token)

    def open(self, login: Login, flash: Flash) -> AbstractAsyncContextManager[Link]:
        """A new connection, to use inside `async with`. flash: where OSCORE keeps its sequence numbers."""
        security = Security(self.trust, login.certificate, login.key)
        scheme = "coap" if self.name is TransportName.OSCORE else self.name
        url = f"{scheme}://{self.server}{login.path}"
        match self.name:
            case TransportName.HTTP | TransportName.HTTPS:
                from firmware_sim.links.http import HttpLink

                return HttpLink(url, security if self.name.over_tls else None, self.timeout)
            case TransportName.MQTT | TransportName.MQTTS:
                from firmware_sim.links.mqtt import MqttLink

                over_tls = security if self.name.over_tls else None
                return MqttLink(self.server, self.mqtt_version, login, over_tls, self.timeout)
            case TransportName.COAP:
                from firmware_sim.links.coap import CoapLink

                return CoapLink(url, self.timeout)
            case TransportName.COAPS:
                from firmware_sim.links.coap import CoapsLink

                return CoapsLink(url, self.server, security, self.timeout)
            case TransportName.OSCORE:
                from firmware_sim.links.coap import OscoreLink

                if login.key is None:
                    raise WrongUsage("OSCORE needs a token")
                return OscoreLink(url, login.key, flash, self.timeout)
            case TransportName.BLYNK | TransportName.BLYNKS:
                from firmware_sim.links.blynk import BlynkLink

                over_tls = security if self.name.over_tls else None
                return BlynkLink(self.server, login, over_tls, self.timeout, self.template)

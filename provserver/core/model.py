"""The nouns of provisioning: profiles, devices, credentials, and the enumerations they are made of."""

from dataclasses import dataclass, field
from enum import StrEnum
from uuid import UUID

RESERVED_IDS = frozenset({"provision", "device", "mgmt_device"})
"""Can never be a token, user name or client id of a device: they mean something at CONNECT."""

PROVISION_STATE = "provisionState"
PROVISIONED = "provisioned"


class Transport(StrEnum):
    """The device side's protocols."""

    HTTP = "HTTP"
    MQTT = "MQTT"
    COAP = "COAP"


@dataclass(frozen=True, slots=True)
class Peer:
    """Who asked: the transport it came by, and its address without the port."""

    transport: Transport
    address: str

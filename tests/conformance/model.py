"""What conformance cases are made of: data that `play.py` carries out.

Text may hold placeholders, filled in for each run of a case (`values.py`): «tag» (letters and digits of that run
alone, the usual device name), «number», «key» and «secret» of the case's profile, «other.key» and «other.secret» of
another, «extra.key» and «extra.secret» of a second pair, «pem» (a certificate of about 4 KB) and «body» (the same
without header, footer and line ends), «short.pem» and «short.body».
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from tests.conformance.clients import mqtt
from tests.conformance.clients.protobuf import Proto


class Transport(StrEnum):
    """The columns of the matrix."""

    HTTP = "HTTP"
    MQTT3 = "MQTT 3.1.1"
    MQTT5 = "MQTT 5"
    COAP = "CoAP"


ALLOW_CREATE = "ALLOW_CREATE_NEW_DEVICES"
CHECK_PRE = "CHECK_PRE_PROVISIONED_DEVICES"
X509_CHAIN = "X509_CERTIFICATE_CHAIN"
DISABLED = "DISABLED"


Payload = str | bytes | Proto


# What a request is answered with.


@dataclass(frozen=True, slots=True, kw_only=True)
class Granted:
    """SUCCESS, with a device stored as the reply says.

    value: the credentials; None for a generated token. same_as, other_than: the numbers of earlier replies of the
    case whose credentials these are, or are not. name: None for a generated one. other: the device is one of the
    other profile.
    """

    type: str = "ACCESS_TOKEN"
    value: str | Mapping[str, str] | None = None
    name: str | None = "«tag»"
    same_as: int | None = None
    other_than: int | None = None
    other: bool = False
    protobuf: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """A reply with another status. error: the whole `errorMsg`, or what it names.

    retry_after: in seconds; up to twice that, as it is drawn. stage: its `provisionDeviceStatus`, if not its status.
    """

    status: str
    error: str
    retry_after: int | None = None
    stage: str | None = None
    invalid: bool = False
    protobuf: bool = False


@dataclass(frozen=True, slots=True)
class Undecodable:
    """Neither JSON nor protobuf: no reply of ThingsBoard's."""


@dataclass(frozen=True, slots=True)
class TooLarge:
    """More than the server takes."""


Expected = Granted | Refused | Undecodable | TooLarge

NOT_FOUND = Refused(status="NOT_FOUND", error="Provision data was not found!")
FAILURE = Refused(status="FAILURE", error="Failed to provision device!")
UNDECODABLE = Undecodable()
TOO_LARGE = TooLarge()


def invalid(member: str) -> Refused:
    """FAILURE with an `errorMsg` that names a member."""
    return Refused(status="FAILURE", error=member, invalid=True)


# What is done, step by step. First on every transport alike.


@dataclass(frozen=True, slots=True)
class Ask:
    """One request, as the transport is ordinarily used: MQTT subscribes and publishes at QoS 1.

    on: what differs on a transport.
    """

    payload: Payload
    expect: Expected
    on: Mapping[Transport, Expected] = field(default_factory=dict)

    def expected(self, transport: Transport) -> Expected:
        return self.on.get(transport, self.expect)


@dataclass(frozen=True, slots=True)
class Rush:
    """Many requests at once: so many get SUCCESS, the others FAILURE. «n» is the number of each."""

    payload: str
    count: int
    granted: int


@dataclass(frozen=True, slots=True)
class Stored:
    """What the database has of a device."""

    name: str = "«tag»"
    state: str | None = "provisioned"
    gateway: bool = False
    credentials_id: str | None = None
    credentials: int = 1


@dataclass(frozen=True, slots=True)
class Devices:
    """How many devices the case's profile has."""

    count: int


@dataclass(frozen=True, slots=True)
class Attempted:
    """The reason the operator can read of the profile's latest attempt; None after a success."""

    reason: str | None


@dataclass(frozen=True, slots=True)
class Recorded:
    """What attempts and events say of this run's devices: so many rows, and none of these texts."""

    attempts: int
    events: int
    without: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Rearm:
    """The operator lets a device provision itself again."""

    name: str = "«tag»"


@dataclass(frozen=True, slots=True)
class Delete:
    """The operator removes a device."""

    name: str = "«tag»"


@dataclass(frozen=True, slots=True)
class Use:
    """The device authenticates with the token of an earlier reply of the case, for the first time."""

    reply: int = 0


@dataclass(frozen=True, slots=True)
class State:
    """`provisionState` becomes this; None: it is removed."""

    value: str | None
    name: str = "«tag»"


@dataclass(frozen=True, slots=True)
class Strategy:
    """The operator changes the profile's strategy."""

    strategy: str


@dataclass(frozen=True, slots=True)
class DropKey:
    """The operator removes a provision key."""

    key: str


@dataclass(frozen=True, slots=True)
class Approve:
    """The operator decides on a request that waits."""

    name: str = "«tag»"
    accept: bool = True


@dataclass(frozen=True, slots=True)
class Quarantine:
    """The operator puts a device into quarantine; over: releases it."""

    name: str = "«tag»"
    over: bool = False


# On MQTT, packet by packet.


@dataclass(frozen=True, slots=True)
class Send:
    """Packets in one write; the first one to a link opens it."""

    packets: tuple[mqtt.ClientPacket, ...]
    link: str = ""


@dataclass(frozen=True, slots=True)
class Reply:
    """PUBLISH on the response topic: not retained, no duplicate."""

    expect: Granted | Refused
    qos: int = 1
    packet_id: int = 1
    correlation: bytes | None = None


@dataclass(frozen=True, slots=True)
class Get:
    """The packets that come next, and no other between them."""

    packets: "tuple[mqtt.ServerPacket | Reply, ...]"
    link: str = ""


@dataclass(frozen=True, slots=True)
class Silence:
    """The client sends nothing for so long."""

    seconds: float


# On HTTP and CoAP, message by message.


@dataclass(frozen=True, slots=True, kw_only=True)
class Http:
    """An HTTP request. status: where it is not what the outcome has. has: headers of the response."""

    payload: Payload = b""
    expect: Expected | None = None
    method: str = "POST"
    path: str = "/api/v1/provision"
    headers: Mapping[str, str] = field(default_factory=dict)
    status: int | None = None
    has: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Coap:
    """A CoAP request in one datagram, from one socket for the whole case.

    Blocks are (number, more, exponent). part: the bytes of the payload that go. times: how often the datagram is
    sent in all, the first `burst` of them without waiting.
    """

    payload: Payload = b""
    expect: Expected | None = None
    code: str | None = None
    method: str = "POST"
    path: tuple[str, ...] = ("api", "v1", "provision")
    content_format: int | None = None
    accept: int | None = None
    format: int | None = None
    confirmable: bool = True
    piggybacked: bool = False
    part: slice | None = None
    block1: tuple[int, bool, int] | None = None
    block2: tuple[int, bool, int] | None = None
    gets_block2: tuple[int, bool, int] | None = None
    times: int = 1
    burst: int = 1


Step = (
    Ask | Rush | Stored | Devices | Attempted | Recorded | Rearm | Delete | Use | State | Strategy | DropKey
    | Approve | Quarantine | Send | Get | Silence | Http | Coap
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """A device that an operator made beforehand; without credentials a token is generated for it."""

    name: str = "«tag»"
    token: str = ""
    client_id: str = ""
    username: str = ""
    password: str = ""
    certificate: str = ""
    other: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One case. steps: the same on every transport, or those of each that it concerns.

    cites: the rows it shows, separated by blanks. key: the profile's provision key, where it matters. other: the
    strategy of another profile. extra: a second pair of key and secret. approval: an operator is to approve devices.
    """

    id: str
    says: str
    cites: str
    steps: tuple[Step, ...] | Mapping[Transport, tuple[Step, ...]]
    strategy: str | None = ALLOW_CREATE
    policy: str = "deny"
    devices: tuple[Device, ...] = ()
    other: str = ""
    extra: bool = False
    key: str = ""
    approval: bool = False

    @property
    def rows(self) -> tuple[str, ...]:
        """The ids of the rows it cites."""
        return tuple(self.cites.split())

    @property
    def transports(self) -> tuple[Transport, ...]:
        """Where it runs."""
        return tuple(Transport) if isinstance(self.steps, tuple) else tuple(self.steps)

    def on(self, transport: Transport) -> tuple[Step, ...]:
        """Its steps on one transport."""
        return self.steps if isinstance(self.steps, tuple) else self.steps[transport]

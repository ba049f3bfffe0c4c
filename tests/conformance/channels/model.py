"""What the cases of devices that come back are made of: data that `play.py` carries out.

Text may hold placeholders (`values.py`): «tag» (letters and digits of one run alone, and the usual device's name),
«token», «id» (of the usual device), «key» and «secret» (of the case's profile), «template», and for each reply to
`Provision` by its name «name.token», «name.id».
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum, StrEnum, auto
from pathlib import Path
from typing import Any, Protocol

from provserver.core.model import NameSource
from tests.pki import Authority


class Channel(StrEnum):
    """The columns of the matrix. MQTTS carries MQTT 5; a device on CoAPS-X.509 has a certificate, unless a case says
    otherwise, all others have a token.
    """

    HTTP = "HTTP"
    HTTPS = "HTTPS"
    MQTT3 = "MQTT 3.1.1"
    MQTT5 = "MQTT 5"
    MQTTS = "MQTTS"
    COAP = "CoAP"
    PSK = "CoAPS-PSK"
    X509 = "CoAPS-X.509"
    OSCORE = "CoAP+OSCORE"


HTTP = (Channel.HTTP, Channel.HTTPS)
MQTT = (Channel.MQTT3, Channel.MQTT5, Channel.MQTTS)
COAP = (Channel.COAP, Channel.PSK, Channel.X509, Channel.OSCORE)
CERTIFICATE = (Channel.HTTPS, Channel.MQTTS, Channel.X509)
"""Where a device can show a certificate."""
KEYED = (Channel.PSK, Channel.OSCORE)
"""Where the token, or the provision secret, is the channel's key."""
TOKEN_IN_PATH = (*HTTP, Channel.COAP, Channel.X509)
ALL = tuple(Channel)
PLAIN = (Channel.HTTP, Channel.MQTT3, Channel.MQTT5, Channel.COAP)
"""For what is the same whatever the channel protects: how a payload is read."""


class Verdict(Enum):
    """What becomes of a device, or of its message; `rendering.py` has how each channel says it."""

    LET_IN = auto()
    DONE = auto()
    INVALID = auto()  # the message will never be taken
    TOO_LARGE = auto()
    NO_TOPIC = auto()
    CREDENTIALS = auto()
    CLIENT_ID = auto()
    NOTHING = auto()
    CERTIFICATE = auto()
    KEY = auto()  # wrong, or of nobody: for channels that are keyed
    GONE = auto()  # credentials that were good
    UNAVAILABLE = auto()
    TAKEN_OVER = auto()
    REVOKED = auto()
    NO_HANDSHAKE = auto()


@dataclass(frozen=True, slots=True, kw_only=True)
class Login:
    """What a device presents; what is empty is not.

    token: in the path, or as user name. certificate: the name of one of the case's PKI. identity and key: of PSK and
    OSCORE. gnutls: the client is the one on GnuTLS. weak: it shows whatever certificate it has; stubborn: and whatever
    chain.
    """

    token: str = ""
    client_id: str = ""
    username: str = ""
    password: str = ""
    certificate: str = ""
    identity: str = ""
    key: str = ""
    gnutls: bool = False
    weak: bool = False
    stubborn: bool = False


class Certified(Protocol):
    """A device with a certificate, or what passes for one."""

    def write(self, directory: Path, stem: str) -> tuple[Path, Path]:
        """Files for a client: the chain and the key."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pki:
    """What is issued for one run of a case, by name. crls: DER."""

    devices: Mapping[str, Certified]
    authorities: Mapping[str, Authority] = field(default_factory=dict)
    crls: Mapping[str, bytes] = field(default_factory=dict)


# What a device does, as its channel's program does it.


@dataclass(frozen=True, slots=True, kw_only=True)
class Come:
    """It comes back: CONNECT, or a request that needs no more than to be let in.

    tries: how often it may have to, a second apart.
    """

    login: Login | None = None
    expect: Verdict = Verdict.LET_IN
    tries: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Send:
    """One message: telemetry, attributes, claim. says: what a refusal names, where the channel can say so."""

    payload: str | bytes
    feature: str = "telemetry"
    expect: Verdict = Verdict.DONE
    login: Login | None = None
    says: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """A request for attributes; None: not asked for. gets: nothing at all where it is empty."""

    gets: Mapping[str, Any]
    client: str | None = None
    shared: str | None = None
    login: Login | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Provision:
    """A provision request on this channel. members: beside key, secret and name; status: of the reply."""

    name: str = ""
    members: Mapping[str, str] = field(default_factory=dict)
    status: str = "SUCCESS"
    login: Login | None = None


@dataclass(frozen=True, slots=True)
class Listen:
    """It begins to hear of changed shared attributes. knows: what it is told at once where the channel does that."""

    knows: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Hear:
    """The next change it is told of."""

    told: Mapping[str, Any]


# One MQTT session, or several by name, packet by packet.


@dataclass(frozen=True, slots=True, kw_only=True)
class Open:
    """CONNECT; the session stays."""

    session: str = ""
    login: Login | None = None
    expect: Verdict = Verdict.LET_IN


@dataclass(frozen=True, slots=True, kw_only=True)
class Publish:
    """PUBLISH, and at QoS 1 its acknowledgement."""

    topic: str
    payload: str | bytes = ""
    qos: int = 1
    retain: bool = False
    expect: Verdict = Verdict.DONE
    session: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Subscribe:
    """SUBSCRIBE to one filter; granted: the QoS, or None where it is refused."""

    filter: str
    qos: int = 1
    granted: int | None = 1
    session: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """A PUBLISH from the server comes next: JSON, or a text; `...`: any."""

    topic: str
    payload: Any = ...
    session: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """The server ends the session. or_: or so, as both come at once."""

    expect: Verdict
    or_: Verdict | None = None
    session: str = ""


# Requests that only one protocol has. expect: status or code. body: JSON, a text, or `...` for any.


@dataclass(frozen=True, slots=True, kw_only=True)
class Http:
    """An HTTP request as curl sends it."""

    path: str
    expect: int
    method: str = "GET"
    payload: str | bytes | None = None
    headers: tuple[str, ...] = ()
    body: Any = ...
    login: Login | None = None
    certificate: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Coap:
    """A CoAP request as coap-client sends it."""

    path: str
    expect: str
    method: str = "post"
    payload: str | bytes = ""
    body: Any = ...


# What the operator does and sees.


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """`device update`."""

    shared: Mapping[str, str] = field(default_factory=dict)
    server: Mapping[str, str] = field(default_factory=dict)
    delete_shared: tuple[str, ...] = ()
    name: str = "«tag»"


class Act(Enum):
    """What the operator does to the usual device."""

    REVOKE = "revoke"
    DELETE = "delete"
    REARM = "rearm"
    DELETE_ROW = "delete the row of its credentials"


@dataclass(frozen=True, slots=True)
class Do:
    """An act."""

    act: Act


@dataclass(frozen=True, slots=True, kw_only=True)
class Trust:
    """`profile update` with CAs and CRLs of the case's PKI. refused: what the operator reads where it is not done."""

    authorities: tuple[str, ...] | None = None
    crls: tuple[str, ...] | None = None
    pattern: str | None = None
    refused: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """What the server keeps of a device. None: not looked at."""

    telemetry: Mapping[str, Any] | None = None
    client: Mapping[str, Any] | None = None
    shared: Mapping[str, Any] | None = None
    credentials: tuple[str, ...] | None = None
    state: str | None = ""
    online: bool | None = None
    name: str = "«tag»"


@dataclass(frozen=True, slots=True)
class Claimable:
    """Whether somebody can claim the device, with this secret, for so many seconds from about now."""

    secret: str
    seconds: int


@dataclass(frozen=True, slots=True)
class Attempted:
    """The reason that the operator reads of what was refused last; None: nothing was."""

    reason: str | None


@dataclass(frozen=True, slots=True)
class Enrolled:
    """So many successful attempts, and as many events, the profile has seen."""

    count: int


@dataclass(frozen=True, slots=True)
class Devices:
    """How many devices the case's profile has."""

    count: int


@dataclass(frozen=True, slots=True)
class Absent:
    """The profile has no device of this name."""

    name: str


@dataclass(frozen=True, slots=True)
class Bystander:
    """A neighbour on the same channel is served as if nothing had happened."""


Step = (
    Come | Send | Ask | Provision | Listen | Hear | Open | Publish | Subscribe | Message | Ended | Http | Coap
    | Change | Do | Trust | Kept | Claimable | Attempted | Enrolled | Devices | Absent | Bystander
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """The usual device, made beforehand by an operator.

    certificate: the name of one of the case's PKI. Without credentials it has those that the channel is made for: a
    certificate of its own on CoAPS-X.509, a token on all others. generated: a token that the server makes.
    """

    name: str = "«tag»"
    token: str = ""
    client_id: str = ""
    username: str = ""
    password: str = ""
    certificate: str = ""
    generated: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """The case's profile. datastreams: NAME:PIN:TYPE[:MIN:MAX]. trusts, crls: names in the case's PKI."""

    strategy: str = "ALLOW_CREATE_NEW_DEVICES"
    policy: str = "deny"
    datastreams: tuple[str, ...] = ()
    metadata: tuple[str, ...] = ()
    trusts: tuple[str, ...] = ()
    crls: tuple[str, ...] = ()
    name_from: NameSource | None = None
    name_pattern: str | None = None
    allow_create: bool | None = None

    @property
    def sharable(self) -> bool:
        """Whether cases with a profile like this one may have it together: it has nothing of a run's PKI."""
        return not self.trusts


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One case.

    cites: the rows it shows, separated by blanks. steps: the same on each of `channels`, or those of each that it
    concerns. profile: None for the one that all share, which trusts the CAs of `tests/chains.py`. device: None for a
    case that makes its own. pki: makes it for one run, given its tag.
    """

    id: str
    says: str
    cites: str
    steps: tuple[Step, ...] | Mapping[Channel, tuple[Step, ...]]
    channels: tuple[Channel, ...] = ALL
    profile: Profile | None = Profile()
    device: Device | None = Device()
    pki: Callable[[str], Pki] | None = None

    @property
    def rows(self) -> tuple[str, ...]:
        """The ids of the rows it cites."""
        return tuple(self.cites.split())

    @property
    def columns(self) -> tuple[Channel, ...]:
        """Where it runs."""
        return self.channels if isinstance(self.steps, tuple) else tuple(self.steps)

    def on(self, channel: Channel) -> tuple[Step, ...]:
        """Its steps on one channel."""
        return self.steps if isinstance(self.steps, tuple) else self.steps[channel]

"""The MQTT control packets and what they are made of: versions, reason codes, properties.

`§` is a section of MQTT 5.0, "3.1 §" and "3.1.1 §" one of the older standards.
"""

from enum import IntEnum
from typing import TypedDict

from msgspec import Struct


class Version(IntEnum):
    """Protocol Version byte of CONNECT (§3.1.2.2)."""

    V3_1 = 3
    V3_1_1 = 4
    V5 = 5


class ReasonCode(IntEnum):
    """The Reason Codes (§2.4) that this server sends."""

    SUCCESS = 0x00
    NO_SUBSCRIPTION_EXISTED = 0x11
    UNSPECIFIED_ERROR = 0x80
    MALFORMED_PACKET = 0x81
    PROTOCOL_ERROR = 0x82
    IMPLEMENTATION_SPECIFIC_ERROR = 0x83
    UNSUPPORTED_PROTOCOL_VERSION = 0x84
    CLIENT_IDENTIFIER_NOT_VALID = 0x85
    NOT_AUTHORIZED = 0x87
    SERVER_UNAVAILABLE = 0x88
    SERVER_BUSY = 0x89
    SERVER_SHUTTING_DOWN = 0x8B
    BAD_AUTHENTICATION_METHOD = 0x8C
    KEEP_ALIVE_TIMEOUT = 0x8D
    SESSION_TAKEN_OVER = 0x8E
    TOPIC_FILTER_INVALID = 0x8F
    TOPIC_NAME_INVALID = 0x90
    TOPIC_ALIAS_INVALID = 0x94
    PACKET_TOO_LARGE = 0x95
    QUOTA_EXCEEDED = 0x97
    ADMINISTRATIVE_ACTION = 0x98
    PAYLOAD_FORMAT_INVALID = 0x99
    QOS_NOT_SUPPORTED = 0x9B
    CONNECTION_RATE_EXCEEDED = 0x9F
    SUBSCRIPTION_IDENTIFIERS_NOT_SUPPORTED = 0xA1


class Properties(TypedDict, total=False):
    """MQTT 5 properties by name (§2.2.2.2); empty in 3.1 and 3.1.1."""

    payload_format_indicator: int
    message_expiry_interval: int
    content_type: str
    response_topic: str
    correlation_data: bytes
    subscription_identifier: int
    session_expiry_interval: int
    assigned_client_identifier: str
    server_keep_alive: int
    authentication_method: str
    authentication_data: bytes
    request_problem_information: int
    will_delay_interval: int
    request_response_information: int
    response_information: str
    server_reference: str
    reason_string: str
    receive_maximum: int
    topic_alias_maximum: int
    topic_alias: int
    maximum_qos: int
    retain_available: int
    user_property: list[tuple[str, str]]
    maximum_packet_size: int
    wildcard_subscription_available: int
    subscription_identifier_available: int
    shared_subscription_available: int


class Will(Struct):
    """The Will Message of a CONNECT (§3.1.2.5)."""

    topic: str
    payload: bytes
    qos: int
    retain: bool
    properties: Properties = {}  # msgspec makes one for each

    def __repr__(self) -> str:
        return f"<Will of {len(self.payload)} bytes>"


class Connect(Struct):
    """CONNECT (§3.1). `clean_start` is Clean Session in 3.1 and 3.1.1. Its repr shows no credential."""

    version: Version
    client_id: str
    clean_start: bool
    keep_alive: int
    username: str | None = None
    password: bytes | None = None
    will: Will | None = None
    properties: Properties = {}

    def __repr__(self) -> str:
        return f"<Connect {self.version.name}>"


class Connack(Struct):
    """CONNACK (§3.2), Session Present 0. In 3.1 and 3.1.1 the code is a return code (3.1.1 §3.2.2.3)."""

    reason_code: int
    properties: Properties = {}


class Publish(Struct):
    """PUBLISH (§3.3), either way. The packet id is 0 when the QoS is."""

    topic: str
    payload: bytes
    qos: int = 0
    packet_id: int = 0
    retain: bool = False
    dup: bool = False
    properties: Properties = {}

    def __repr__(self) -> str:
        return f"<Publish to {self.topic} of {len(self.payload)} bytes, QoS {self.qos}>"


class Puback(Struct):
    """PUBACK (§3.4), either way; the base of the other three acknowledgements, which look alike."""

    packet_id: int
    reason_code: int = 0
    properties: Properties = {}


class Pubrec(Puback):
    """PUBREC (§3.5)."""


class Pubrel(Puback):
    """PUBREL (§3.6)."""


class Pubcomp(Puback):
    """PUBCOMP (§3.7)."""


class Subscribe(Struct):
    """SUBSCRIBE (§3.8): topic filters with their Subscription Options (§3.8.3.1; QoS = the low two bits)."""

    packet_id: int
    subscriptions: list[tuple[str, int]]
    properties: Properties = {}


class Suback(Struct):
    """SUBACK (§3.9): one code per topic filter, in their order."""

    packet_id: int
    reason_codes: list[int]
    properties: Properties = {}


class Unsubscribe(Struct):
    """UNSUBSCRIBE (§3.10)."""

    packet_id: int
    topic_filters: list[str]
    properties: Properties = {}


class Unsuback(Struct):
    """UNSUBACK (§3.11); its codes are not sent in 3.1 and 3.1.1 (3.1.1 §3.11)."""

    packet_id: int
    reason_codes: list[int]
    properties: Properties = {}


class Pingreq(Struct):
    """PINGREQ (§3.12)."""


class Pingresp(Struct):
    """PINGRESP (§3.13)."""


class Disconnect(Struct):
    """DISCONNECT (§3.14), either way; a server sends it in MQTT 5 only."""

    reason_code: int = 0
    properties: Properties = {}


class Auth(Struct):
    """AUTH (§3.15), MQTT 5 only."""

    reason_code: int = 0
    properties: Properties = {}


ClientPacket = Connect | Publish | Puback | Subscribe | Unsubscribe | Pingreq | Disconnect | Auth
"""What a client can send; `Pubrec`, `Pubrel` and `Pubcomp` are kinds of `Puback`."""

ServerPacket = Connack | Publish | Puback | Suback | Unsuback | Pingresp | Disconnect
"""What a server can send."""

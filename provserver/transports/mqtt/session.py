"""One connection without I/O: bytes and the time go in; bytes, events and a deadline come out.

`Session` is what every connection has: CONNECT, keep alive, errors, the end. What the client may do once it
is connected is a `Behaviour`: `ProvisionBehaviour` is that of a client that came to be provisioned,
`device.DeviceBehaviour` that of a device with credentials of its own.
"""

import sys
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from typing import Any, ClassVar, Final, Generic, TypeVar

from msgspec import Struct

from provserver.errors import RENDERINGS, Outcome
from provserver.services.limits import retry_after
from provserver.services.provisioning import Answer
from provserver.transports.mqtt.codec import Decoder, MalformedPacket, encode, encode_publish, encode_suback
from provserver.transports.mqtt.packets import (
    Auth,
    ClientPacket,
    Connack,
    Connect,
    Disconnect,
    Pingreq,
    Pingresp,
    Properties,
    Puback,
    Pubcomp,
    Publish,
    Pubrec,
    Pubrel,
    ReasonCode,
    ServerPacket,
    Suback,
    Subscribe,
    Unsuback,
    Unsubscribe,
    Version,
)

PROVISION: Final = "provision"
"""The user name or client id of a client that came to be provisioned."""

REQUEST_TOPIC: Final = "/provision/request"
RESPONSE_TOPIC: Final = "/provision/response"

MAXIMUM_QOS: Final = 1

# Members of an Enum are slow to look up.
_V5: Final = Version.V5
_V3_1_1: Final = Version.V3_1_1
_SUCCESS: Final = Outcome.SUCCESS
_RESPONSE_FIELD: Final = len(RESPONSE_TOPIC).to_bytes(2) + RESPONSE_TOPIC.encode()
_NO_PROPERTIES: Final = Properties()
_ACCEPTED: Final = encode(Connack(ReasonCode.SUCCESS), _V3_1_1)
_PINGRESP: Final = encode(Pingresp(), _V3_1_1)

MAX_SUBSCRIPTIONS: Final = 32
MAX_TOPIC_FILTER: Final = 256
MAX_UNRELEASED: Final = 256

_RETURN_CODES: Final[dict[int, int]] = {
    ReasonCode.UNSUPPORTED_PROTOCOL_VERSION: 1,
    ReasonCode.CLIENT_IDENTIFIER_NOT_VALID: 2,
    ReasonCode.SERVER_UNAVAILABLE: 3,
    ReasonCode.CONNECTION_RATE_EXCEEDED: 3,
}
"""How 3.1 and 3.1.1 say a refusal (3.1.1 §3.2.2.3); for others they have no code and are just closed."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one connection may take. Times are in seconds.

    max_packet_size: of a client's packet, in bytes, fixed header included.
    connect_timeout: from the connection to the answered CONNECT.
    keep_alive_floor: the least time a client may be silent, however short its Keep Alive: some ask for 10 s
        and never ping.
    idle_limit: the most time a client may be silent: in a provision session whatever its Keep Alive, in a device's
        if it asked for none.
    first_verdict: a provision session ends so long after its CONNECT if it had no verdict, ping as it may.
    after_verdict: a provision session ends so long after its last verdict.
    in_flight: requests of one session; while so many are being decided, no more is read.
    """

    max_packet_size: int = 65_536
    connect_timeout: float = 10
    keep_alive_floor: float = 60
    idle_limit: float = 120
    first_verdict: float = 600
    after_verdict: float = 60
    in_flight: int = 8


AnswerT = TypeVar("AnswerT")


class Request(Struct, Generic[AnswerT], eq=False):
    """A PUBLISH that wants an answer: give it to `Session.answer`. answer: None if it could not be decided."""

    payload: bytes
    qos: int
    packet_id: int
    correlation_data: bytes | None = None
    answered: bool = False
    answer: AnswerT | None = None

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {len(self.payload)} bytes, QoS {self.qos}>"


class ProvisionRequested(Request[Answer], eq=False):
    """A provision request."""


class AuthenticationRequested(Struct, eq=False):
    """A CONNECT that is not for provisioning wants a decision: nothing is read until `Session.accept` or `refuse`."""

    connect: Connect


Event = Request[Any] | AuthenticationRequested


class Session:
    """The server's end of one connection.

    After each call the driver takes what is in `events`, writes what is in `output`, then ends the connection if
    `closing`; it reads only while `reading`, and calls `expire` once `deadline` has passed.

    reading: whether more bytes are wanted; while not, those received are kept.
    closing: nothing more is sent or read. close_reason: why, in words for a log. left: the client said DISCONNECT.
    version: the client's; 3.1.1 while it is not known.
    crowded: there is no room for it: its CONNECT is refused, and it is told when to come back.
    """

    __slots__ = (
        "_assign_client_id",
        "_authenticating",
        "_behaviour",
        "_client_maximum_packet_size",
        "_decoder",
        "_draining",
        "_end_at",
        "_idle",
        "_idle_at",
        "_problem_information",
        "close_reason",
        "closing",
        "crowded",
        "deadline",
        "events",
        "left",
        "limits",
        "output",
        "reading",
        "version",
    )

    def __init__(self, limits: Limits, now: float, assign_client_id: Callable[[], str]) -> None:
        self.limits = limits
        self.version = _V3_1_1
        self.closing = self.left = self.crowded = self._authenticating = self._draining = False
        self.reading = self._problem_information = True
        self.close_reason = ""
        self.deadline = now + limits.connect_timeout
        self.events: list[Event] = []
        self.output: list[bytes] = []
        self._assign_client_id = assign_client_id
        self._decoder = Decoder(limits.max_packet_size)
        self._behaviour: Behaviour[Any] | None = None
        self._idle = self._idle_at = self._end_at = self._client_maximum_packet_size = inf

    @property
    def busy(self) -> bool:
        """Whether an answer is owed."""
        return self._behaviour is not None and bool(self._behaviour.requests)

    def receive(self, data: bytes, now: float) -> None:
        """Take what the client sent."""
        if self.closing:
            return
        decoder = self._decoder
        if self.reading and (packet := decoder.plain(data)) is not None:
            self._idle_at = now + self._idle
            self._receive(packet, now)
            self._settle()
        else:
            decoder.feed(data)
            self._proceed(now)

    def receive_eof(self) -> None:
        """The client sends no more: whatever it was still owed is dropped."""
        self.close("the client closed the connection")

    def expire(self, now: float) -> None:
        """Close if `deadline` has passed."""
        if now < self.deadline:
            return
        if self._behaviour is None:
            self.close("no CONNECT in time")
        elif now >= self._idle_at:
            self.disconnect(ReasonCode.KEEP_ALIVE_TIMEOUT, "nothing was received in time")
        else:
            self.disconnect(ReasonCode.ADMINISTRATIVE_ACTION, "the provision session is over")

    def answer(self, request: Request[AnswerT], answer: AnswerT | None, now: float) -> None:
        """Answer a request; None if it could not be decided. What is sent keeps the order of the requests."""
        request.answered, request.answer = True, answer
        if self._behaviour is None:
            return  # closed meanwhile
        self._idle_at = now + self._idle
        if self._behaviour.answered():
            self._end_at = now + self.limits.after_verdict
        if self._draining and not self.busy:
            self.shut_down()
        self._settle()
        if self._decoder.buffered:
            self._proceed(now)

    def accept(self, connect: Connect, behaviour: "Behaviour[Any]", now: float, until: float = inf) -> None:
        """Accept the CONNECT (§3.2), and go on with what came behind it. until: when it ends, unless it `stays`."""
        if self.closing:
            return
        self._authenticating = False
        self._begin(connect, behaviour, now)
        self._end_at = until
        self._settle()
        self._proceed(now)

    def dismiss(self, connect: Connect, behaviour: "Behaviour[Any]", now: float, code: ReasonCode, reason: str) -> None:
        """Accept the CONNECT, and disconnect: the session was taken over before the client heard of it (§3.1.4)."""
        if not self.closing:
            self._begin(connect, behaviour, now)
            self.disconnect(code, reason)

    def stay(self) -> None:
        """It goes on for as long as the client likes."""
        self._end_at = inf

    def refuse(self, reason_code: int, reason: str, return_code: int | None = None) -> None:
        """Refuse the CONNECT (§3.2.2.2). return_code: how to say it before MQTT 5."""
        if self.closing:
            return
        if self.version is Version.V5:
            self.send(Connack(reason_code, self.reason(reason)))
        elif (code := return_code or _RETURN_CODES.get(reason_code)) is not None:
            self.send(Connack(code))
        self.close(reason)

    def drain(self) -> None:
        """Read no more, and shut down when nothing is owed."""
        self._draining, self.reading = True, False
        if not self.busy:
            self.shut_down()

    def shut_down(self) -> None:
        """Disconnect because the server ends."""
        self.disconnect(ReasonCode.SERVER_SHUTTING_DOWN, "the server is shutting down")

    # What follows is for behaviours.

    def send(self, packet: ServerPacket) -> bool:
        """Queue a packet, unless it is larger than the client takes (§3.1.2.11.4); whether it was queued."""
        data = encode(packet, self.version)
        if len(data) > self._client_maximum_packet_size:
            return False
        self.output.append(data)
        return True

    def emit(self, event: Event) -> None:
        """Tell the driver."""
        self.events.append(event)

    def reason(self, text: str) -> Properties:
        """A Reason String, if the client may get one (§3.1.2.11.7) and has room for it."""
        if self._problem_information and len(text) + 16 <= self._client_maximum_packet_size:
            return {"reason_string": text}
        return {}

    def disconnect(self, reason_code: ReasonCode, reason: str) -> None:
        """Close; a client of MQTT 5 whose CONNECT was accepted is told why (§4.13)."""
        if self._behaviour is not None and self.version is _V5:
            self.send(Disconnect(reason_code, self.reason(reason)))
        self.close(reason)

    def close(self, reason: str) -> None:
        """Close without a word."""
        if not self.closing:
            self.closing, self.reading, self.close_reason = True, False, reason
            self.deadline = inf
            self._behaviour = None

    def _proceed(self, now: float) -> None:
        """Handle the packets there are, as far as may be read."""
        try:
            if self.reading:
                for packet in self._decoder:
                    self._idle_at = now + self._idle
                    self._receive(packet, now)
                    self._settle()
                    if not self.reading:
                        break
        except MalformedPacket as error:
            if self._behaviour is not None:
                self.disconnect(error.reason_code, str(error))
            elif self._decoder.version is not None:
                self.version = self._decoder.version
                self.refuse(error.reason_code, str(error))
            else:
                self.close(str(error))

    def _settle(self) -> None:
        """What is in flight decides about more and about the end."""
        behaviour = self._behaviour
        if behaviour is None:
            return
        if behaviour.requests:
            # A request in flight outlives the end: its verdict sets a new one.
            self.deadline = self._idle_at
            self.reading = len(behaviour.requests) < self.limits.in_flight and not self._draining
        else:
            self.deadline = min(self._idle_at, self._end_at)
            self.reading = not self._draining

    def _receive(self, packet: ClientPacket, now: float) -> None:
        behaviour = self._behaviour
        if behaviour is None:
            if isinstance(packet, Connect):
                self._connect(packet, now)
        elif isinstance(packet, Publish):
            if packet.qos == 2 and self.version is _V5:
                self.disconnect(ReasonCode.QOS_NOT_SUPPORTED, "the Maximum QoS is 1")
            elif packet.properties and "topic_alias" in packet.properties:
                self.disconnect(ReasonCode.TOPIC_ALIAS_INVALID, "the Topic Alias Maximum is 0")
            elif packet.dup:
                behaviour.repeated(packet)
            else:
                behaviour.publish(packet)
        elif isinstance(packet, Disconnect):
            self.left = True
            self.close("the client disconnected")
        elif isinstance(packet, Subscribe):
            behaviour.subscribe(packet)
        elif isinstance(packet, Pingreq):
            self.output.append(_PINGRESP)
        elif isinstance(packet, Auth):
            self.disconnect(ReasonCode.BAD_AUTHENTICATION_METHOD, "no authentication method is known")
        else:
            behaviour.receive(packet)

    def _connect(self, connect: Connect, now: float) -> None:
        asked = connect.properties
        self.version = connect.version
        if asked:
            self._problem_information = bool(asked.get("request_problem_information", 1))
            self._client_maximum_packet_size = asked.get("maximum_packet_size", inf)
        if self.crowded:
            self.refuse(ReasonCode.CONNECTION_RATE_EXCEEDED, later("too many connect just now"))
        elif "authentication_method" in asked:
            self.refuse(ReasonCode.BAD_AUTHENTICATION_METHOD, "no authentication method is known")
        elif not connect.client_id and (
            connect.version is Version.V3_1 or (connect.version is _V3_1_1 and not connect.clean_start)
        ):
            self.refuse(ReasonCode.CLIENT_IDENTIFIER_NOT_VALID, "the client id is empty")
        elif connect.username == PROVISION or connect.client_id == PROVISION:
            self._begin(connect, ProvisionBehaviour(self, connect), now)
            self._end_at = now + self.limits.first_verdict
        else:
            self._authenticating, self.reading = True, False
            self.events.append(AuthenticationRequested(connect))

    def _begin(self, connect: Connect, behaviour: "Behaviour[Any]", now: float) -> None:
        self._behaviour = behaviour
        silence = 1.5 * connect.keep_alive or inf
        self._idle = behaviour.patience(silence)
        self._idle_at = now + self._idle
        if connect.version is _V5:
            self.send(Connack(ReasonCode.SUCCESS, self._granted(connect, behaviour, silence)))
        else:
            self.output.append(_ACCEPTED)

    def _granted(self, connect: Connect, behaviour: "Behaviour[Any]", silence: float) -> Properties:
        """What a client of MQTT 5 is told of this server (§3.2.2.3)."""
        limits = self.limits
        granted: Properties = {
            "receive_maximum": limits.in_flight,
            "maximum_qos": MAXIMUM_QOS,
            "retain_available": behaviour.RETAIN_AVAILABLE,
            "maximum_packet_size": limits.max_packet_size,
            "wildcard_subscription_available": behaviour.WILDCARDS_AVAILABLE,
            "subscription_identifier_available": 0,
            "shared_subscription_available": 0,
        }
        if connect.properties.get("session_expiry_interval"):
            granted["session_expiry_interval"] = 0
        if not connect.client_id:
            granted["assigned_client_identifier"] = self._assign_client_id()
        if silence > self._idle:
            granted["server_keep_alive"] = min(max(int(self._idle / 1.5), 1), 0xFFFF)
        return granted


RequestT = TypeVar("RequestT", bound=Request[Any])


def later(reason: str) -> str:
    """A reason that passes, and when to come back: MQTT has no other place for it."""
    return f"{reason}, try again in {retry_after()} s"


class Behaviour(ABC, Generic[RequestT]):
    """What a connected client may do: publish to some topics, subscribe to some, and get answers.

    requests: those in flight, in their order; so are their answers (§4.6).
    _unreleased: packet ids of QoS 2 that had their PUBREC and no PUBREL yet, the oldest first (3.1.1 §4.3.3).
    """

    RETAIN_AVAILABLE: ClassVar[int]
    WILDCARDS_AVAILABLE: ClassVar[int]

    __slots__ = ("_last_packet_id", "_quota", "_session", "_subscriptions", "_unreleased", "requests")

    def __init__(self, session: Session, connect: Connect) -> None:
        self.requests: list[RequestT] = []
        self._session = session
        self._subscriptions: dict[str, int] | None = None  # granted QoS by topic filter
        self._unreleased: dict[int, None] | None = None
        self._last_packet_id = 0
        self._quota = connect.properties.get("receive_maximum", 0xFFFF)

    @abstractmethod
    def patience(self, silence: float) -> float:
        """Seconds the client may be silent that promised not to be for longer than `silence`, maybe infinite."""

    @abstractmethod
    def subscribable(self, topic_filter: str) -> bool:
        """Whether a subscription is granted."""

    @abstractmethod
    def publish(self, packet: Publish) -> None:
        """Handle what the client publishes; one that is a repetition of a request in flight does not come here."""

    @abstractmethod
    def reply(self, request: RequestT) -> bool:
        """Send the answer of a request; true if it was a verdict."""

    def repeated(self, packet: Publish) -> None:
        """Handle a PUBLISH with DUP."""
        if packet.qos and any(each.packet_id == packet.packet_id for each in self.requests):
            pass  # 3.1.1 §4.4: repeated for want of the PUBACK that is still to come
        elif packet.qos == 2 and self._unreleased and packet.packet_id in self._unreleased:
            self.acknowledge(packet, ReasonCode.SUCCESS)
        else:
            self.publish(packet)

    def receive(self, packet: ClientPacket) -> None:
        """Handle the other packets of the connected client."""
        match packet:
            case Unsubscribe():
                self._unsubscribe(packet)
            case Pubrel() if self._session.version is not Version.V5:
                if self._unreleased:
                    self._unreleased.pop(packet.packet_id, None)
                self._session.send(Pubcomp(packet.packet_id))
            case Puback() if type(packet) is Puback:
                self._quota += 1
            case _:
                pass

    def answered(self) -> bool:
        """Send the answers that are next in order; true if a verdict was among them."""
        verdict, requests = False, self.requests
        while requests and requests[0].answered and not self._session.closing:
            verdict |= self.reply(requests.pop(0))
        return verdict

    def acknowledge(self, request: Publish | Request[Any], code: ReasonCode, reason: str = "") -> None:
        """PUBACK, or PUBREC for the QoS 2 that 3.1 and 3.1.1 have no way to refuse."""
        if request.qos:
            acknowledgement = Puback if request.qos == 1 else Pubrec
            properties = self._session.reason(reason) if reason else Properties()
            self._session.send(acknowledgement(request.packet_id, code, properties))
        if request.qos == 2:
            self._unreleased = self._unreleased or {}
            self._unreleased[request.packet_id] = None
            if len(self._unreleased) > MAX_UNRELEASED:
                del self._unreleased[next(iter(self._unreleased))]

    def granted_qos(self, topic: str) -> int | None:
        """The highest QoS of the subscriptions that a topic matches; None when none does."""
        if not self._subscriptions:
            return None
        return max((qos for each, qos in self._subscriptions.items() if matches(each, topic)), default=None)

    def send(self, topic: str, payload: bytes, qos: int, correlation_data: bytes | None = None) -> None:
        """Publish to the client."""
        if qos and not self._quota:
            qos = 0  # the client's Receive Maximum is used up [MQTT-3.3.4-9]
        packet_id = 0
        if qos:
            packet_id = self._last_packet_id = self._last_packet_id % 0xFFFF + 1
        properties: Properties = {}
        if correlation_data is not None:
            properties["correlation_data"] = correlation_data
        if self._session.send(Publish(topic, payload, qos, packet_id, properties=properties)) and qos:
            self._quota -= 1

    def subscribe(self, packet: Subscribe) -> None:
        """Grant or refuse subscriptions."""
        v5 = self._session.version is _V5
        codes: list[int] = []
        for topic_filter, options in packet.subscriptions:
            if packet.properties and "subscription_identifier" in packet.properties:
                codes.append(ReasonCode.SUBSCRIPTION_IDENTIFIERS_NOT_SUPPORTED)
            elif len(topic_filter) > MAX_TOPIC_FILTER or not self.subscribable(topic_filter):
                codes.append(ReasonCode.TOPIC_FILTER_INVALID if v5 else ReasonCode.UNSPECIFIED_ERROR)
            else:
                code = self._granted(topic_filter, MAXIMUM_QOS if options & 3 else 0)
                codes.append(code if v5 or code <= MAXIMUM_QOS else ReasonCode.UNSPECIFIED_ERROR)
        if v5:
            self._session.send(Suback(packet.packet_id, codes))
        else:
            self._session.output.append(encode_suback(packet.packet_id, codes))

    def _granted(self, topic_filter: str, qos: int) -> int:
        if self._subscriptions is None:
            self._subscriptions = {}
        if len(self._subscriptions) >= MAX_SUBSCRIPTIONS and topic_filter not in self._subscriptions:
            return ReasonCode.QUOTA_EXCEEDED
        self._subscriptions[sys.intern(topic_filter)] = qos  # a fleet's devices have the same few
        return qos

    def _unsubscribe(self, packet: Unsubscribe) -> None:
        codes: list[int] = []
        for topic_filter in packet.topic_filters:
            if self._subscriptions and self._subscriptions.pop(topic_filter, None) is not None:
                codes.append(ReasonCode.SUCCESS)
            elif self.subscribable(topic_filter):
                codes.append(ReasonCode.NO_SUBSCRIPTION_EXISTED)
            else:
                codes.append(ReasonCode.TOPIC_FILTER_INVALID)
        self._session.send(Unsuback(packet.packet_id, codes))


class ProvisionBehaviour(Behaviour[ProvisionRequested]):
    """Provision requests, answered on their own connection alone; there is no other topic."""

    RETAIN_AVAILABLE = 0
    WILDCARDS_AVAILABLE = 0

    __slots__ = ()

    def patience(self, silence: float) -> float:
        """As `Limits` has it."""
        limits = self._session.limits
        return min(max(silence, limits.keep_alive_floor), limits.idle_limit)

    def subscribable(self, topic_filter: str) -> bool:
        """The topic of the replies alone."""
        return topic_filter == RESPONSE_TOPIC

    def publish(self, packet: Publish) -> None:
        """Take a request; anything else ends the session."""
        if packet.topic != REQUEST_TOPIC:
            self.acknowledge(packet, ReasonCode.TOPIC_NAME_INVALID, "no such topic")
            self._session.disconnect(ReasonCode.TOPIC_NAME_INVALID, "no such topic")
            return
        correlation_data = packet.properties.get("correlation_data") if packet.properties else None
        request = ProvisionRequested(packet.payload, packet.qos, packet.packet_id, correlation_data)
        self.requests.append(request)
        self._session.events.append(request)

    def reply(self, request: ProvisionRequested) -> bool:
        """Publish the verdict, or say that there is none."""
        session, answer = self._session, request.answer
        if answer is None:
            code, reason = ReasonCode.IMPLEMENTATION_SPECIFIC_ERROR, "the request could not be decided"
            if session.version is Version.V5:
                self.acknowledge(request, code, reason)
            session.disconnect(code, reason)
            return False
        if (
            answer.outcome is _SUCCESS
            and not request.qos
            and session.version is not _V5
            and self._subscriptions
            and not self._subscriptions[RESPONSE_TOPIC]
        ):  # as most are
            session.output.append(encode_publish(_RESPONSE_FIELD, answer.body))
            return True
        rendering = RENDERINGS[answer.outcome]
        code, reason = ReasonCode(rendering.mqtt), rendering.error or ""
        if rendering.status is not None:  # there is a reply
            if session.version is not _V5:
                code = ReasonCode.SUCCESS  # which is all that can be said
            self.acknowledge(request, code, reason if code else "")
            qos = self.granted_qos(RESPONSE_TOPIC)
            self.send(RESPONSE_TOPIC, answer.body, MAXIMUM_QOS if qos is None else qos, request.correlation_data)
            return True
        if session.version is not Version.V5:
            session.close(reason)
        elif request.qos and code is not ReasonCode.PACKET_TOO_LARGE:  # which no PUBACK may say (§3.4.2.1)
            self.acknowledge(request, code, reason)
        else:
            session.disconnect(code, reason)
        return False


def matches(topic_filter: str, topic: str) -> bool:
    """Whether a topic matches a topic filter (§4.7)."""
    if topic_filter == topic:
        return True
    levels, names = topic_filter.split("/"), topic.split("/")
    for level, name in zip(levels, names, strict=False):
        if level == "#":
            return True
        if level not in ("+", name):
            return False
    return len(levels) == len(names) or levels[len(names) :] == ["#"]

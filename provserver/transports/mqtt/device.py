"""A device with credentials of its own: ThingsBoard's topics and Blynk's, without I/O.

What it publishes becomes a `DeviceRequested`, answered when its service has committed, so that a PUBACK means that
nothing is lost. What cannot be done now is not acknowledged: a device of QoS 1 sends it again.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import Any, Final

import msgspec

from provserver.core import telemetry
from provserver.core.model import Authenticated
from provserver.core.telemetry import InvalidData
from provserver.services.datastreams import Datastreams
from provserver.transports.mqtt import topics
from provserver.transports.mqtt.packets import Connect, Publish, ReasonCode, Version
from provserver.transports.mqtt.session import MAXIMUM_QOS, Behaviour, Request, Session, later
from provserver.transports.mqtt.topics import Feature

MAX_DATASTREAM_MESSAGE: Final = 1024
"""Bytes of a message in Blynk's topics (spec blynk-device-api C.2)."""

DIAGNOSIS_TOPIC: Final = "downlink/diag"
"""Where a Blynk device reads, subscribed or not, what was wrong with its message."""

RECONFIGURE_TOPIC: Final = "downlink/reconfigure"
"""Where a Blynk device is told to open its access point (spec wifi-inject B.1)."""

INFO_TOPIC: Final = "info/mcu"
"""Where a Blynk device says what it is."""

UNBOUND: Final = "The device has to say of which template it is first."

Messages = Sequence[tuple[str, bytes]]
"""Topics and payloads."""


@dataclass(frozen=True, slots=True)
class DeviceAnswer:
    """What became of a request: done, with messages to publish, or not done because of a reason.

    reason_code: SUCCESS; PAYLOAD_FORMAT_INVALID and TOPIC_NAME_INVALID: it never will be done; any other: it may
    be another time.
    """

    reason_code: ReasonCode = ReasonCode.SUCCESS
    reason: str = ""
    messages: Messages = field(default=(), repr=False)


DONE: Final = DeviceAnswer()
UNAVAILABLE: Final = DeviceAnswer(ReasonCode.SERVER_BUSY, "temporarily unavailable")
_FAILED: Final = DeviceAnswer(ReasonCode.IMPLEMENTATION_SPECIFIC_ERROR, "the message could not be handled")
_NO_SUCH_TOPIC: Final = DeviceAnswer(ReasonCode.TOPIC_NAME_INVALID, "no such topic")
_PROTOBUF: Final = DeviceAnswer(ReasonCode.PAYLOAD_FORMAT_INVALID, "protobuf is not read here")


def invalid(reason: str) -> DeviceAnswer:
    """The message is refused for good."""
    return DeviceAnswer(ReasonCode.PAYLOAD_FORMAT_INVALID, reason)


def encoded(value: object) -> bytes:
    """A message's payload."""
    return msgspec.json.encode(value)


class DeviceRequested(Request[DeviceAnswer], eq=False, kw_only=True):
    """Something that a device has published. feature: None if its topic is not known."""

    feature: Feature | None
    topic: str


class DeviceBehaviour(Behaviour[DeviceRequested]):
    """What a device may do. device: who it is; None while it has not said of which template it is."""

    # Retained messages are taken as any others (Blynk's firmware sends some), and nobody else could get them.
    RETAIN_AVAILABLE = 1
    WILDCARDS_AVAILABLE = 1

    __slots__ = ("_datastreams", "device")

    def __init__(
        self, session: Session, connect: Connect, device: Authenticated | None, datastreams: Datastreams | None = None
    ) -> None:
        super().__init__(session, connect)
        self.device = device
        self._datastreams = datastreams

    @property
    def awaits_updates(self) -> bool:
        """Whether it wants to hear of changes of its shared attributes."""
        return any(self.granted_qos(topic) is not None for topic in topics.UPDATES)

    def patience(self, silence: float) -> float:
        """As `Limits` has it."""
        limits = self._session.limits
        return max(silence, limits.keep_alive_floor) if silence < inf else limits.idle_limit

    def subscribable(self, topic_filter: str) -> bool:
        """ThingsBoard's topics for a device, and Blynk's below `downlink/`."""
        return topics.subscribable(topic_filter) or (
            self._datastreams is not None and self._datastreams.subscribable(topic_filter)
        )

    def publish(self, packet: Publish) -> None:
        """Ask for what it means, or refuse it at once, but in its turn."""
        feature = topics.feature(packet.topic)
        if feature is None and self._datastreams is not None and self._datastreams.handles(packet.topic):
            feature = Feature.DATASTREAM
        request = DeviceRequested(
            payload=packet.payload,
            qos=packet.qos,
            packet_id=packet.packet_id,
            correlation_data=packet.properties.get("correlation_data"),
            feature=feature,
            topic=packet.topic,
        )
        self.requests.append(request)
        request.answer = self._answer_at_once(request)
        if request.answer is None:
            self._session.emit(request)
        else:
            request.answered = True
            self.answered()

    def reply(self, request: DeviceRequested) -> bool:
        """Acknowledge what was done or never will be, with what there is to say; never a verdict that ends it all."""
        answer = request.answer or _FAILED
        session, code = self._session, answer.reason_code
        match code:
            case ReasonCode.SUCCESS:
                self.acknowledge(request, code)
                for topic, payload in answer.messages:
                    self._send(topic, payload, request.correlation_data)
            case ReasonCode.TOPIC_NAME_INVALID:
                self.acknowledge(request, code, answer.reason)
            case ReasonCode.PAYLOAD_FORMAT_INVALID if request.feature is Feature.DATASTREAM:
                self.acknowledge(request, code, answer.reason)
                self._send(DIAGNOSIS_TOPIC, answer.reason.encode())
            case ReasonCode.PAYLOAD_FORMAT_INVALID if session.version is Version.V5 and request.qos:
                self.acknowledge(request, code, answer.reason)
            case ReasonCode.PAYLOAD_FORMAT_INVALID:
                session.disconnect(code, answer.reason)
            case _ if request.qos:
                session.disconnect(code, later(answer.reason))
            case _:
                pass  # at QoS 0 nobody sends it again: the session need not end
        return False

    def reconfigure(self) -> None:
        """Have the device open its access point."""
        self._send(RECONFIGURE_TOPIC, b"")

    def update_attributes(self, changes: Mapping[str, object]) -> None:
        """Tell the device of changes of its shared attributes, where it has subscribed."""
        if self._session.closing:
            return
        payload = encoded(changes)
        for topic in topics.UPDATES:
            if (qos := self.granted_qos(topic)) is not None:
                self.send(topic, payload, qos)

    def _answer_at_once(self, request: DeviceRequested) -> DeviceAnswer | None:
        match request.feature:
            case None:
                return _NO_SUCH_TOPIC
            case Feature.PROTOBUF:
                return _PROTOBUF
            case Feature.RPC_REQUEST:
                return self._call(request)
            case Feature.DATASTREAM if len(request.payload) > MAX_DATASTREAM_MESSAGE:
                return invalid(f"A message may have {MAX_DATASTREAM_MESSAGE} bytes.")
            case _:
                return None

    def _call(self, request: DeviceRequested) -> DeviceAnswer:
        """A call of the server: ThingsBoard's SDK asks for its limits behind every CONNECT, and there is no other."""
        try:
            call = telemetry.read(request.payload)
        except InvalidData as error:
            return invalid(str(error))
        if not isinstance(call, dict) or call.get("method") != "getSessionLimits":
            return _NO_SUCH_TOPIC
        limits: dict[str, Any] = {
            "maxPayloadSize": self._session.limits.max_packet_size,
            "maxInflightMessages": self._session.limits.in_flight,
            "rateLimits": dict.fromkeys(("messages", "telemetryMessages", "telemetryDataPoints")),
        }
        return DeviceAnswer(messages=[(topics.reply_topic(request.topic), encoded(limits))])

    def _send(self, topic: str, payload: bytes, correlation_data: bytes | None = None) -> None:
        """Publish at the QoS that was granted; ThingsBoard answers without a subscription too, Blynk at QoS 0."""
        qos = self.granted_qos(topic)
        if qos is None:
            qos = 0 if topic.startswith("downlink/") else MAXIMUM_QOS
        self.send(topic, payload, qos, correlation_data)

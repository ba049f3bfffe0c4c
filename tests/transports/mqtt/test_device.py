"""Conversations with a device that has credentials of its own, bytes against bytes."""

import json
import re
from collections.abc import Callable
from datetime import UTC, datetime
from math import inf
from typing import Final, cast
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from provserver.core.model import Authenticated
from provserver.services.datastreams import Datastreams
from provserver.transports.mqtt.device import DONE, UNAVAILABLE, DeviceAnswer, DeviceBehaviour, DeviceRequested, invalid
from provserver.transports.mqtt.packets import ReasonCode
from provserver.transports.mqtt.session import MAX_SUBSCRIPTIONS, MAX_TOPIC_FILTER, MAX_UNRELEASED, Limits
from provserver.transports.mqtt.topics import Feature
from tests.transports.mqtt.talk import Client, connack, disconnect
from tests.transports.mqtt.wire import ALL, DISCONNECT, PINGREQ, PINGRESP, V3, V5, V311, Wire, packet, string, whole

ME: Final = "v1/devices/me/"
UNDEFINED: Final = UUID(int=0)
DEVICE: Final = Authenticated(UNDEFINED, "sensor", UNDEFINED, UNDEFINED, 1, False, b"digest", datetime.now(UTC))
GRANTED: Final = (
    b"\x21\0\x08"  # Receive Maximum 8
    b"\x24\x01\x25\x01"  # Maximum QoS 1, Retain Available
    b"\x27\0\x01\0\0"  # Maximum Packet Size 65536
    b"\x28\x01\x29\x00\x2a\x00"  # wildcards; no subscription identifiers, no shared subscriptions
)

each_version = pytest.mark.parametrize("wire", ALL, ids=str)
before_5 = pytest.mark.parametrize("wire", V3, ids=str)
each_qos = pytest.mark.parametrize("qos", [0, 1])


class Blynk:
    """What of `Datastreams` asks nobody."""

    def handles(self, topic: str) -> bool:
        return topic.startswith("ds/") or topic == "get/ds"

    def subscribable(self, topic_filter: str) -> bool:
        return topic_filter.startswith("downlink/") and "+" not in topic_filter


class Device(Client):
    """A client whose CONNECT was accepted as a device's."""

    def __init__(self, wire: Wire, limits: Limits | None = None, *, pipelined: bytes = b"", **options: object) -> None:
        super().__init__(wire, limits)
        connect = wire.connect(**({"username": "token"} | options))  # type: ignore[arg-type]
        assert self.send(connect + pipelined) == []
        (asked,) = self.authentications
        self.behaviour = DeviceBehaviour(self.session, asked.connect, DEVICE, cast("Datastreams", Blynk()))
        self.session.accept(asked.connect, self.behaviour, self.now)
        self.connack, *self.answers = self.received()

    def settle(self, answer: DeviceAnswer | None = DONE, request: int = 0) -> list[bytes]:
        self.session.answer(self.requests.pop(request), answer, self.now)
        return self.received()

    def update(self, changes: dict[str, object]) -> list[bytes]:
        self.behaviour.update_attributes(changes)
        return self.received()

    @property
    def asked(self) -> list[tuple[Feature | None, bytes]]:
        assert all(isinstance(request, DeviceRequested) for request in self.requests)
        return [(request.feature, request.payload) for request in cast("list[DeviceRequested]", self.requests)]


def puback(wire: Wire, packet_id: int, code: int = 0) -> bytes:
    """The server's, without a Reason String."""
    return packet(0x40, packet_id.to_bytes(2, "big") + (bytes((code,)) if wire.v5 and code else b""))


def suback(wire: Wire, *codes: int) -> bytes:
    return packet(0x90, b"\0\x0a" + wire.properties(b"") + bytes(codes))


# CONNECT


@each_version
@pytest.mark.parametrize("clean", [False, True])
def test_accepted(wire: Wire, clean: bool) -> None:
    device = Device(wire, clean=clean)
    assert (device.connack, device.answers) == (connack(wire, 0, GRANTED), [])
    assert not device.closing
    assert device.session.reading


@each_version
def test_what_came_behind_the_connect_is_kept(wire: Wire) -> None:
    device = Device(wire, pipelined=wire.subscribe(("v2/a", 1)) + wire.publish(b"1", "v2/t") + PINGREQ)
    assert device.answers == [suback(wire, 1), PINGRESP]
    assert device.asked == [(Feature.TELEMETRY, b"1")]


@each_version
def test_a_device_that_left_behind_its_message(wire: Wire) -> None:
    device = Device(wire, pipelined=wire.publish(b"1", "v2/t") + DISCONNECT)
    assert device.asked == [(Feature.TELEMETRY, b"1")]
    assert device.closing
    assert device.settle() == []


@each_version
def test_accepted_too_late(wire: Wire) -> None:
    client = Client(wire)
    client.send(wire.connect(username="token"))
    client.wait(10)
    (asked,) = client.authentications
    client.session.accept(asked.connect, DeviceBehaviour(client.session, asked.connect, DEVICE), client.now)
    assert client.received() == []
    assert client.session.deadline == inf


def test_assigned_client_id_and_no_session_to_keep() -> None:
    device = Device(V5, client_id="", properties=b"\x17\x00\x11\0\0\x0e\x10")
    assert device.connack == connack(V5, 0, GRANTED + b"\x11\0\0\0\0" + b"\x12" + string("assigned"))


@each_version
@pytest.mark.parametrize(
    ("keep_alive", "seconds", "server_keep_alive"), [(0, 120, 80), (10, 60, None), (60, 90, None), (3600, 5400, None)]
)
def test_keep_alive(wire: Wire, keep_alive: int, seconds: float, server_keep_alive: int | None) -> None:
    device = Device(wire, keep_alive=keep_alive)
    told = b"" if server_keep_alive is None else b"\x13" + server_keep_alive.to_bytes(2, "big")
    assert device.connack == connack(wire, 0, GRANTED + told)
    for _ in range(20):
        device.wait(seconds - 0.1)
        assert device.send(PINGREQ) == [PINGRESP]
    assert device.wait(seconds) == [disconnect(0x8D)] * wire.v5
    assert device.closing


# Publishing


@each_version
@each_qos
@pytest.mark.parametrize(
    ("topic", "feature"),
    [
        (ME + "telemetry", Feature.TELEMETRY),
        ("v2/t/j", Feature.TELEMETRY),
        (ME + "attributes", Feature.ATTRIBUTES),
        ("v2/a", Feature.ATTRIBUTES),
        (ME + "claim", Feature.CLAIM),
        ("ds/temperature", Feature.DATASTREAM),
    ],
)
def test_acknowledged_when_done(wire: Wire, qos: int, topic: str, feature: Feature) -> None:
    device = Device(wire)
    assert device.send(wire.publish(b"{}", topic, qos, 7, retain=True)) == []
    assert device.asked == [(feature, b"{}")]
    assert device.settle() == [puback(wire, 7)] * qos
    assert not device.closing


@before_5
def test_qos_2_before_5(wire: Wire) -> None:
    device = Device(wire)
    assert device.send(wire.publish(b"1", "v2/t", 2, 9), wire.publish(b"1", "v2/t", 2, 9, dup=True)) == []
    assert device.settle() == [wire.pubrec(9)]
    assert device.send(wire.pubrel(9)) == [wire.pubcomp(9)]
    assert not device.requests


@before_5
def test_qos_2_is_handled_once_until_it_is_released(wire: Wire) -> None:
    """3.1.1 §4.3.3: repeated for want of the PUBREC, which was sent."""
    device = Device(wire)
    again = wire.publish(b"1", "v2/t", 2, 9, dup=True)
    device.send(wire.publish(b"1", "v2/t", 2, 9))
    assert device.settle() == [wire.pubrec(9)]
    assert device.send(again, again) == [wire.pubrec(9)] * 2
    assert device.send(wire.pubrel(9), wire.pubrel(9)) == [wire.pubcomp(9)] * 2
    assert not device.requests
    assert device.send(again) == []
    assert device.settle() == [wire.pubrec(9)]


def test_what_is_not_released_is_bounded() -> None:
    device = Device(V311)
    for packet_id in range(1, MAX_UNRELEASED + 2):
        device.send(V311.publish(b"1", "v2/t", 2, packet_id))
        device.settle()
    assert device.send(V311.publish(b"1", "v2/t", 2, 2, dup=True)) == [V311.pubrec(2)]
    assert device.send(V311.publish(b"1", "v2/t", 2, 1, dup=True)) == []


def test_qos_2_in_5() -> None:
    device = Device(V5)
    assert device.send(V5.publish(b"1", "v2/t", 2)) == [disconnect(0x9B)]


@each_version
def test_acknowledgements_keep_their_order(wire: Wire) -> None:
    device = Device(wire)
    publish = [(topic, packet_id) for packet_id, topic in enumerate(("v2/t", "nowhere", "v2/t", "v2/t"), 1)]
    assert device.send(*(wire.publish(b"1", topic, 1, packet_id) for topic, packet_id in publish)) == []
    assert device.settle(request=1) == []
    assert device.settle() == [puback(wire, 1), puback(wire, 2, 0x90), puback(wire, 3)]
    assert device.settle() == [puback(wire, 4)]


@each_version
def test_a_message_sent_again_while_it_is_worked_on(wire: Wire) -> None:
    device = Device(wire)
    device.send(wire.publish(b"1", "v2/t", 1, 5), wire.publish(b"1", "v2/t", 1, 5, dup=True))
    assert len(device.requests) == 1
    assert device.settle() == [puback(wire, 5)]


@each_version
def test_back_pressure(wire: Wire) -> None:
    device = Device(wire, Limits(in_flight=2))
    device.send(*(wire.publish(b"%d" % number, "v2/t") for number in range(5)))
    assert [payload for _, payload in device.asked] == [b"0", b"1"]
    assert not device.session.reading
    device.settle()
    assert [payload for _, payload in device.asked] == [b"1", b"2"]


@each_version
@each_qos
@pytest.mark.parametrize(
    "topic", ["a", ME + "rpc/response/1", ME + "attributes/response/1", "v1/gateway/telemetry", "downlink/ds/x"]
)
def test_unknown_topic(wire: Wire, qos: int, topic: str) -> None:
    device = Device(wire)
    assert device.send(wire.publish(b"{}", topic, qos, 9), PINGREQ) == [puback(wire, 9, 0x90)] * qos + [PINGRESP]
    assert not device.closing
    assert not device.requests


@each_qos
def test_invalid_in_5(qos: int) -> None:
    device = Device(V5)
    device.send(V5.publish(b"?", "v2/t", qos, 9))
    assert device.settle(invalid("no")) == [puback(V5, 9, 0x99) if qos else disconnect(0x99)]
    assert device.closing is (not qos)


@each_qos
@pytest.mark.parametrize("topic", ["v2/t/p", "v2/a/p", "v2/a/req/p/1"])
def test_protobuf_is_invalid(qos: int, topic: str) -> None:
    device = Device(V5)
    assert device.send(V5.publish(b"?", topic, qos, 9)) == [puback(V5, 9, 0x99) if qos else disconnect(0x99)]


@before_5
@pytest.mark.parametrize("qos", [0, 1, 2])
def test_invalid_before_5(wire: Wire, qos: int) -> None:
    device = Device(wire)
    device.send(wire.publish(b"?", "v2/t", qos))
    assert device.settle(invalid("no")) == []
    assert device.closing


def test_reason_strings() -> None:
    device = Device(V5, properties=b"")
    device.send(V5.publish(b"?", "v2/t", 1, 9))
    reason = b"\x1f" + string("ts must be a number")
    assert device.settle(invalid("ts must be a number")) == [
        packet(0x40, b"\0\x09\x99" + bytes((len(reason),)) + reason)
    ]


@each_version
@pytest.mark.parametrize(("answer", "code"), [(UNAVAILABLE, 0x89), (None, 0x83)])
def test_what_was_not_done_is_not_acknowledged(wire: Wire, answer: DeviceAnswer | None, code: int) -> None:
    device = Device(wire)
    device.send(wire.publish(b"1", "v2/t", 1, 1), wire.publish(b"2", "v2/t", 1, 2))
    assert device.settle(answer) == [disconnect(code)] * wire.v5
    assert device.closing
    assert device.settle() == []


def test_who_is_to_come_back_is_told_when() -> None:
    device = Device(V5, properties=b"")
    device.send(V5.publish(b"1", "v2/t", 1, 1))
    (told,) = device.settle(UNAVAILABLE)
    assert told[:1] == b"\xe0"
    assert re.fullmatch(rb".\x89.\x1f..temporarily unavailable, try again in ([5-9]|10) s", told[1:], re.DOTALL)


@each_version
@pytest.mark.parametrize("answer", [UNAVAILABLE, None])
def test_at_qos_0_the_session_goes_on(wire: Wire, answer: DeviceAnswer | None) -> None:
    device = Device(wire)
    device.send(wire.publish(b"1", "v2/t"), wire.publish(b"2", "v2/t", 1, 2))
    assert device.settle(answer) == []
    assert device.settle() == [puback(wire, 2)]


# Attributes


@each_version
@each_qos
@pytest.mark.parametrize("granted", [None, 0, 1])
@pytest.mark.parametrize("topic", [ME + "attributes/re{}/5", "v2/a/re{}/5", "v2/a/re{}/j/5"])
def test_attribute_request(wire: Wire, qos: int, granted: int | None, topic: str) -> None:
    short = topic.startswith("v2")
    asked, answered = topic.format("q" if short else "quest"), topic.format("s" if short else "sponse")
    device = Device(wire)
    if granted is not None:
        device.send(wire.subscribe((answered[:-1] + "+", granted)))
    device.send(wire.publish(b"{}", asked, qos, 3))
    assert device.asked == [(Feature.ATTRIBUTE_REQUEST, b"{}")]
    reply = wire.publish(b"{1}", answered, 1 if granted is None else granted, 1)
    assert device.settle(DeviceAnswer(messages=[(answered, b"{1}")])) == [puback(wire, 3)] * qos + [reply]


def test_correlation_data_comes_back() -> None:
    device = Device(V5)
    device.send(V5.publish(b"{}", "v2/a/req/1", properties=b"\x09" + string(b"\0id")))
    assert device.settle(DeviceAnswer(messages=[("v2/a/res/1", b"{}")])) == [
        V5.publish(b"{}", "v2/a/res/1", 1, 1, properties=b"\x09" + string(b"\0id"))
    ]


@each_version
@each_qos
def test_updates_go_where_they_are_subscribed_to(wire: Wire, qos: int) -> None:
    device = Device(wire)
    assert not device.behaviour.awaits_updates
    assert device.update({"a": 1}) == []
    device.send(wire.subscribe((ME + "attributes", qos), ("v2/a/j", 0)))
    assert device.behaviour.awaits_updates
    body = b'{"a":1,"deleted":["b"]}'
    assert device.update({"a": 1, "deleted": ["b"]}) == [
        wire.publish(body, ME + "attributes", qos, 1),
        wire.publish(body, "v2/a/j", 0),
    ]
    device.send(wire.unsubscribe(ME + "attributes", "v2/a/j"))
    assert device.update({"a": 1}) == []


def test_receive_maximum_of_the_device_is_kept() -> None:
    device = Device(V5, properties=b"\x17\x00\x21\0\x01")
    device.send(V5.subscribe(("v2/a", 1)))
    assert device.update({}) == [V5.publish(b"{}", "v2/a", 1, 1)]
    assert device.update({}) == [V5.publish(b"{}", "v2/a", 0)]
    device.send(V5.puback(1))
    assert device.update({}) == [V5.publish(b"{}", "v2/a", 1, 2)]


def test_what_is_too_large_for_the_device_counts_for_nothing() -> None:
    device = Device(V5, properties=b"\x17\x00\x21\0\x01\x27\0\0\0\x20")
    device.send(V5.subscribe(("v2/a", 1)))
    assert device.update({"a": "x" * 64}) == []
    assert device.update({}) == [V5.publish(b"{}", "v2/a", 1, 2)]


def test_an_update_behind_the_end_is_dropped() -> None:
    device = Device(V311)
    device.send(V311.subscribe(("v2/a", 1)), DISCONNECT)
    assert device.update({}) == []


# Calls


@each_version
@each_qos
def test_session_limits(wire: Wire, qos: int) -> None:
    """As ThingsBoard's SDK asks behind every CONNECT, and waits for."""
    device = Device(wire)
    device.send(wire.subscribe((ME + "rpc/response/+", 0)))
    call = b'{"method":"getSessionLimits","params":{"timeout":5000}}'
    *acknowledged, reply = device.send(wire.publish(call, ME + "rpc/request/1", qos, 4))
    assert acknowledged == [puback(wire, 4)] * qos
    limits = json.loads(reply[reply.index(b"{") :])
    assert limits == {
        "maxPayloadSize": 65536,
        "maxInflightMessages": 8,
        "rateLimits": {"messages": None, "telemetryMessages": None, "telemetryDataPoints": None},
    }
    assert reply[0] == 0x30
    assert string(ME + "rpc/response/1") in reply


@each_version
@pytest.mark.parametrize(("call", "code"), [(b'{"method":"reboot"}', 0x90), (b"[]", 0x90), (b"{", 0x99)])
def test_any_other_call(wire: Wire, call: bytes, code: int) -> None:
    device = Device(wire)
    sent = device.send(wire.publish(call, ME + "rpc/request/1", 1, 4))
    if code == 0x99 and not wire.v5:
        assert (sent, device.closing) == ([], True)
    else:
        assert (sent, device.closing) == ([puback(wire, 4, code)], False)


# Blynk's topics


@each_version
@each_qos
@pytest.mark.parametrize("granted", [None, 0, 1])
def test_downlink(wire: Wire, qos: int, granted: int | None) -> None:
    device = Device(wire)
    if granted is not None:
        assert device.send(wire.subscribe(("downlink/#", granted))) == [suback(wire, granted)]
    device.send(wire.publish(b"a,b", "get/ds", qos, 2))
    assert device.settle(DeviceAnswer(messages=[("downlink/ds/a", b"1"), ("downlink/ds/b", b"2")])) == [
        *[puback(wire, 2)] * qos,
        wire.publish(b"1", "downlink/ds/a", granted or 0, 1),
        wire.publish(b"2", "downlink/ds/b", granted or 0, 2),
    ]


@each_version
@each_qos
def test_what_is_wrong_with_a_value_is_told(wire: Wire, qos: int) -> None:
    device = Device(wire)
    device.send(wire.publish(b"abc", "ds/temperature", qos, 2))
    told = wire.publish(b"no number", "downlink/diag")
    assert device.settle(invalid("no number")) == [puback(wire, 2, 0x99)] * qos + [told]
    assert not device.closing


@each_version
@pytest.mark.parametrize(("size", "taken"), [(1024, True), (1025, False)])
def test_size_of_a_message(wire: Wire, size: int, taken: bool) -> None:
    device = Device(wire)
    sent = device.send(wire.publish(b"x" * size, "ds/text", 1, 2))
    assert len(device.requests) == taken
    assert [each[0] >> 4 for each in sent] == ([] if taken else [4, 3])
    assert not device.closing


def test_without_blynk() -> None:
    client = Client(V5)
    client.send(V5.connect(username="token"))
    (asked,) = client.authentications
    client.session.accept(asked.connect, DeviceBehaviour(client.session, asked.connect, DEVICE), client.now)
    client.received()
    assert client.send(V5.publish(b"1", "ds/x", 1, 2)) == [puback(V5, 2, 0x90)]
    assert client.send(V5.subscribe(("downlink/#", 0))) == [suback(V5, 0x8F)]


# Subscriptions


@each_version
def test_subscribe_has_one_code_for_each_filter(wire: Wire) -> None:
    device = Device(wire)
    filters = ["#", "v2/a", "v1/devices/+/attributes", ME + "rpc/request/+", "downlink/#", "downlink/+", "v2/a/p"]
    no = 0x8F if wire.v5 else 0x80
    assert device.send(wire.subscribe(*((each, 2) for each in filters))) == [suback(wire, no, 1, no, 1, 1, no, no)]
    assert not device.closing


def test_subscription_identifiers_are_refused() -> None:
    device = Device(V5)
    assert device.send(V5.subscribe(("v2/a", 1), properties=b"\x0b\x01")) == [suback(V5, 0xA1)]
    assert device.update({}) == []


@each_version
def test_subscriptions_are_bounded(wire: Wire) -> None:
    device = Device(wire)
    filters = [f"v2/a/res/{number}" for number in range(MAX_SUBSCRIPTIONS + 1)]
    no = 0x97 if wire.v5 else 0x80
    (answer,) = device.send(wire.subscribe(*((each, 1) for each in filters)))
    assert answer[-2:] == bytes((1, no))
    assert device.send(wire.subscribe((filters[0], 0))) == [suback(wire, 0)]
    long = "downlink/" + "x" * MAX_TOPIC_FILTER
    assert device.send(wire.subscribe((long, 0))) == [suback(wire, 0x8F if wire.v5 else 0x80)]


@each_version
def test_unsubscribe(wire: Wire) -> None:
    device = Device(wire)
    device.send(wire.subscribe(("v2/a", 0)))
    answers = device.send(wire.unsubscribe("v2/a", "v2/a", "#"))
    assert answers == [packet(0xB0, b"\0\x0b" + (b"\0\x00\x11\x8f" if wire.v5 else b""))]


# The end


@each_version
def test_drain_finishes_what_was_begun(wire: Wire) -> None:
    device = Device(wire)
    device.send(wire.publish(b"1", "v2/t", 1, 1), wire.publish(b"2", "v2/t", 1, 2))
    device.session.drain()
    assert device.received() == []
    assert device.settle() == [puback(wire, 1)]
    assert device.settle() == [puback(wire, 2)] + [disconnect(0x8B)] * wire.v5
    assert device.closing


@each_version
@pytest.mark.parametrize("code", [ReasonCode.SESSION_TAKEN_OVER, ReasonCode.ADMINISTRATIVE_ACTION])
def test_ended_from_outside(wire: Wire, code: ReasonCode) -> None:
    device = Device(wire)
    device.send(wire.publish(b"1", "v2/t", 1, 1))
    device.session.disconnect(code, "why")
    assert device.received() == [disconnect(code)] * wire.v5
    assert device.settle() == []


# Whatever happens

TOPICS = st.sampled_from(
    [ME + "telemetry", "v2/t/p", ME + "attributes/request/1", "ds/x", "get/ds", "nowhere", ME + "rpc/request/2", "v2/a"]
)
FILTERS = st.sampled_from(["v2/a", ME + "attributes", ME + "attributes/response/+", "downlink/#", "#", "v2/a/p"])
ANSWERS = st.sampled_from(
    [DONE, DeviceAnswer(messages=[("downlink/ds/x", b"1")]), invalid("no"), UNAVAILABLE, None, DONE, DONE]
)


class Conversation(RuleBasedStateMachine):
    """Every message of QoS 1 that was done is acknowledged once, in order, and none that was not."""

    wire: Wire

    def __init__(self) -> None:
        super().__init__()
        self.device = Device(self.wire, Limits(in_flight=3))
        self.next_id = 0
        self.owed: list[int] = []  # in the order they were published
        self.done: set[int] = set()
        self.downlink: list[int] = []

    def took(self, sent: list[bytes], *, before: bool) -> None:
        assert not (before and sent)
        for each in sent:
            assert whole(each) == len(each)
            kind = each[0] >> 4
            assert kind in (3, 4, 9, 11, 13) or (kind == 14 and self.wire.v5 and each is sent[-1])
            if kind == 4:
                packet_id = int.from_bytes(each[2:4], "big")
                assert self.owed.pop(0) == packet_id
                assert packet_id in self.done or not self.wire.v5 or each[1] > 2
            if kind == 3 and each[0] & 6:
                size = int.from_bytes(each[2:4], "big")
                self.downlink.append(int.from_bytes(each[4 + size : 6 + size], "big"))
        if self.device.closing:
            self.owed.clear()

    @rule(topic=TOPICS, payload=st.binary(max_size=8), qos=st.integers(0, 1), dup=st.booleans())
    def publish(self, topic: str, payload: bytes, qos: int, dup: bool) -> None:
        closed = self.device.closing
        self.next_id += 1
        if qos and not closed:
            self.owed.append(self.next_id)
        self.took(
            self.device.send(self.wire.publish(payload, topic, qos, self.next_id, dup=dup and bool(qos))), before=closed
        )

    @rule(topic=FILTERS, qos=st.integers(0, 2), on=st.booleans())
    def subscribe(self, topic: str, qos: int, on: bool) -> None:
        closed = self.device.closing
        data = self.wire.subscribe((topic, qos)) if on else self.wire.unsubscribe(topic)
        self.took(self.device.send(data), before=closed)

    @precondition(lambda self: self.device.requests)
    @rule(answer=ANSWERS, at=st.integers(0, 3))
    def answer(self, answer: DeviceAnswer | None, at: int) -> None:
        closed = self.device.closing
        request = self.device.requests[at % len(self.device.requests)]
        if answer is not None and answer is not UNAVAILABLE:
            self.done.add(request.packet_id)
        self.took(self.device.settle(answer, at % len(self.device.requests)), before=closed)

    @rule()
    def push(self) -> None:
        closed = self.device.closing
        self.took(self.device.update({"a": 1}), before=closed)

    @precondition(lambda self: self.downlink)
    @rule()
    def acknowledge(self) -> None:
        closed = self.device.closing
        self.took(self.device.send(self.wire.puback(self.downlink.pop(0))), before=closed)

    @rule(seconds=st.floats(0, 70), ping=st.booleans())
    def wait(self, seconds: float, ping: bool) -> None:
        closed = self.device.closing
        self.took(self.device.wait(seconds), before=closed)
        closed = self.device.closing
        self.took(self.device.send(PINGREQ * ping), before=closed)

    @rule(how=st.sampled_from(["drain", "disconnect", "eof", "cut"]))
    def end(self, how: str) -> None:
        closed = self.device.closing
        session = self.device.session
        ends: dict[str, Callable[[], None]] = {
            "drain": session.drain,
            "disconnect": lambda: session.receive(DISCONNECT, self.device.now),
            "eof": session.receive_eof,
            "cut": lambda: session.disconnect(ReasonCode.SESSION_TAKEN_OVER, "why"),
        }
        ends[how]()
        self.took(self.device.received(), before=closed)

    @invariant()
    def bounds(self) -> None:
        session = self.device.session
        assert (session.deadline == inf) is session.closing
        assert session.deadline >= self.device.now
        assert session.closing or len(self.device.requests) <= 3
        assert session.closing or not self.owed or self.device.requests or not session.reading


def _test_case(wire_: Wire) -> type:
    machine = type(f"Conversation{wire_.level}", (Conversation,), {"wire": wire_})
    case: type = machine.TestCase  # type: ignore[attr-defined]
    case.settings = settings(max_examples=60, stateful_step_count=30)  # type: ignore[attr-defined]
    return case


TestConversation311 = _test_case(V311)
TestConversation5 = _test_case(V5)


@given(st.lists(st.binary(max_size=40), max_size=10))
def test_no_bytes_upset_a_device_session(chunks: list[bytes]) -> None:
    device = Device(V5)
    for chunk in chunks:
        device.send(chunk)


@each_version
def test_a_device_is_told_to_open_its_access_point_subscribed_or_not(wire: Wire) -> None:
    device = Device(wire)
    device.behaviour.reconfigure()
    assert device.received() == [wire.publish(b"", topic="downlink/reconfigure")]
    device.send(wire.subscribe(("downlink/#", 1)))
    device.behaviour.reconfigure()
    assert device.received() == [wire.publish(b"", "downlink/reconfigure", 1)]


@each_version
def test_who_has_not_said_what_it_is_has_so_long_for_it(wire: Wire) -> None:
    for stays in (False, True):
        client = Client(wire, Limits(first_verdict=600, idle_limit=10_000))
        assert client.send(wire.connect(username="token", keep_alive=0)) == []
        (asked,) = client.authentications
        behaviour = DeviceBehaviour(client.session, asked.connect, None, cast("Datastreams", Blynk()))
        client.session.accept(asked.connect, behaviour, client.now, client.now + 600)
        client.received()
        if stays:
            client.session.stay()
        client.wait(599)
        client.send(PINGREQ)
        client.wait(2)
        assert client.closing is not stays

"""Whole conversations, bytes against bytes: CONNECT, provisioning, errors and time, on every version of MQTT."""

from collections.abc import Callable
from functools import cache
from math import inf
from typing import Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from provserver.errors import RENDERINGS, Outcome
from provserver.transports.mqtt.packets import ReasonCode
from provserver.transports.mqtt.session import Limits, matches
from tests.transports.mqtt.talk import Client, connack, disconnect
from tests.transports.mqtt.wire import (
    ALL,
    DISCONNECT,
    PINGREQ,
    PINGRESP,
    V3,
    V5,
    V31,
    V311,
    Wire,
    packet,
    string,
)

GRANTED: Final = (
    b"\x21\0\x08"  # Receive Maximum 8
    b"\x24\x01\x25\x00"  # Maximum QoS 1, Retain Available 0
    b"\x27\0\x01\0\0"  # Maximum Packet Size 65536
    b"\x28\x00\x29\x00\x2a\x00"  # wildcards, subscription identifiers, shared subscriptions: 0
)
REPLIED = sorted((each for each in Outcome if RENDERINGS[each].status), key=lambda each: each.value)

each_version = pytest.mark.parametrize("wire", ALL, ids=str)
before_5 = pytest.mark.parametrize("wire", V3, ids=str)


def connected(wire: Wire, limits: Limits | None = None, **options: int | bytes) -> Client:
    client = Client(wire, limits)
    (answer,) = client.send(wire.connect(**options))  # type: ignore[arg-type]
    assert answer[3] == 0
    assert not client.closing
    return client


# CONNECT


@each_version
@pytest.mark.parametrize(
    ("client_id", "username"),
    [
        ("dev", "provision"),
        ("provision", None),
        ("provision", "provision"),
        ("provision", "x"),
        ("x" * 60, "provision"),
    ],
)
@pytest.mark.parametrize("password", [None, b"", b"\xff"])
def test_provision_session(wire: Wire, client_id: str, username: str | None, password: bytes | None) -> None:
    client = Client(wire)
    if username is None and not wire.v5:
        password = None  # 3.1.1 §3.1.2.9
    answer = client.send(wire.connect(client_id, username, password))
    assert answer == [connack(wire, 0, GRANTED)]
    assert client.session.reading
    assert not client.authentications


@each_version
def test_session_present_is_0(wire: Wire) -> None:
    assert Client(wire).send(wire.connect(clean=False))[0][2] == 0


@each_version
@pytest.mark.parametrize(
    ("client_id", "username"), [("dev", None), ("Provision", "PROVISION"), ("provision ", "provision/"), ("d", "token")]
)
def test_any_other_client_wants_authentication(wire: Wire, client_id: str, username: str | None) -> None:
    client = Client(wire)
    assert client.send(wire.connect(client_id, username), wire.publish()) == []
    assert [asked.connect.client_id for asked in client.authentications] == [client_id]
    assert not client.session.reading
    client.session.refuse(ReasonCode.SERVER_UNAVAILABLE, "not now")
    assert client.received() == [connack(wire, 0x88 if wire.v5 else 3)]
    assert client.closing
    assert not client.requests


@each_version
def test_denial_has_codes_of_its_own(wire: Wire) -> None:
    client = Client(wire)
    client.send(wire.connect(username="token"))
    client.session.refuse(0x86, "bad user name or password", 5)
    assert client.received() == [connack(wire, 0x86 if wire.v5 else 5)]
    assert client.closing


@each_version
def test_authentication_that_takes_too_long(wire: Wire) -> None:
    client = Client(wire)
    client.send(wire.connect(username="token"))
    assert client.wait(10) == []
    assert client.closing
    client.session.refuse(ReasonCode.SERVER_UNAVAILABLE, "not now")
    assert client.received() == []


@pytest.mark.parametrize(
    ("wire", "clean", "accepted"),
    [
        (V31, True, False),
        (V31, False, False),
        (V311, True, True),
        (V311, False, False),
        (V5, True, True),
        (V5, False, True),
    ],
)
def test_empty_client_id(wire: Wire, clean: bool, accepted: bool) -> None:
    client = Client(wire)
    answer = client.send(wire.connect("", clean=clean))
    if accepted:
        assert answer == [connack(wire, 0, GRANTED + b"\x12" + string("assigned"))]
    else:
        assert answer == [connack(wire, 2)]
    assert client.closing is not accepted


@pytest.mark.parametrize(
    ("name", "level", "answer"),
    [
        ("MQTT", 3, connack(V311, 1)),
        ("MQIsdp", 4, connack(V311, 1)),
        ("MQTT", 2, connack(V311, 1)),
        ("MQTT", 6, connack(V5, 0x84, b"\x1f" + string("the version is not supported"))),
    ],
)
def test_unsupported_version(name: str, level: int, answer: bytes) -> None:
    client = Client(V311)
    assert client.send(packet(0x10, string(name) + bytes((level, 2)) + b"\0\0" + string("provision"))) == [answer]
    assert client.closing


@pytest.mark.parametrize("first", [V311.publish(), PINGREQ, DISCONNECT, b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01"])
def test_nothing_comes_before_connect(first: bytes) -> None:
    client = Client(V311)
    assert client.send(first) == []
    assert client.closing


@before_5
def test_malformed_connect(wire: Wire) -> None:
    client = Client(wire)
    assert client.send(wire.connect("\0")) == []
    assert client.closing


def test_malformed_connect_of_5_is_told_so() -> None:
    client = Client(V5)
    assert client.send(V5.connect(properties=b"\x21\0\0")) == [
        connack(V5, 0x82, b"\x1f" + string("a property is 0 that cannot be"))
    ]
    assert client.closing


def test_5_has_no_authentication_method() -> None:
    client = Client(V5)
    assert client.send(V5.connect(properties=b"\x17\x00\x15" + string("SCRAM"))) == [connack(V5, 0x8C)]
    assert client.closing


def test_5_is_told_that_no_session_is_kept() -> None:
    client = Client(V5)
    (answer,) = client.send(V5.connect(properties=b"\x17\x00\x11\0\0\x0e\x10"))
    assert answer == connack(V5, 0, GRANTED + b"\x11\0\0\0\0")


@each_version
def test_will_is_ignored(wire: Wire) -> None:
    will = wire.properties(b"") + string("a") + string("gone")
    connected(wire, will=will, will_flags=0x34)


# Subscriptions


@each_version
@pytest.mark.parametrize("asked", [0, 1, 2])
def test_subscribe(wire: Wire, asked: int) -> None:
    client = connected(wire)
    (answer,) = client.send(wire.subscribe(("/provision/response", asked)))
    assert answer == packet(0x90, b"\0\x0a" + wire.properties(b"") + bytes((min(asked, 1),)))


@each_version
def test_subscribe_has_one_code_for_each_filter(wire: Wire) -> None:
    client = connected(wire)
    filters = ["#", "/provision/response", "/provision/#", "+", "provision/response", "$share/g/provision/response"]
    (answer,) = client.send(wire.subscribe(*((each, 1) for each in filters)))
    no = 0x8F if wire.v5 else 0x80
    assert answer == packet(0x90, b"\0\x0a" + wire.properties(b"") + bytes((no, 1, no, no, no, no)))
    assert not client.closing


def test_subscription_identifiers_are_refused() -> None:
    client = connected(V5)
    (answer,) = client.send(V5.subscribe(("/provision/response", 1), properties=b"\x0b\x01"))
    assert answer == b"\x90\x04\0\x0a\0\xa1"


@each_version
def test_unsubscribe(wire: Wire) -> None:
    client = connected(wire)
    client.send(wire.subscribe(("/provision/response", 0)))
    answers = client.send(wire.unsubscribe("/provision/response", "/provision/response", "a"))
    assert answers == [packet(0xB0, b"\0\x0b" + (b"\0\x00\x11\x8f" if wire.v5 else b""))]
    client.send(wire.publish())
    assert client.answer() == [wire.response(b"yes", 1, 1)]


@pytest.mark.parametrize(
    ("topic_filter", "topic", "match"),
    [
        ("a/b", "a/b", True),
        ("a/b", "a/c", False),
        ("a/b", "a", False),
        ("a", "a/b", False),
        ("a/+", "a/b", True),
        ("a/+", "a/b/c", False),
        ("a/+", "a", False),
        ("a/+/c", "a/b/c", True),
        ("+/b", "a/b", True),
        ("a/#", "a/b/c", True),
        ("a/#", "a", True),
        ("a/#", "ab", False),
        ("#", "a/b", True),
        ("a/+/#", "a/b", True),
        ("a/+/#", "a", False),
    ],
)
def test_matches(topic_filter: str, topic: str, match: bool) -> None:
    assert matches(topic_filter, topic) is match


# Requests


@each_version
@pytest.mark.parametrize("outcome", REPLIED)
@pytest.mark.parametrize("granted", [None, 0, 1])
@pytest.mark.parametrize("qos", [0, 1])
def test_reply(wire: Wire, outcome: Outcome, granted: int | None, qos: int) -> None:
    client = connected(wire)
    if granted is not None:
        client.send(wire.subscribe(("/provision/response", granted)))
    assert client.send(wire.publish(b"{...}", qos=qos, packet_id=77)) == []  # PUBACK waits for the verdict
    assert [request.payload for request in client.requests] == [b"{...}"]
    reply = wire.response(b"body", 1 if granted is None else granted, 1)
    code = RENDERINGS[outcome].mqtt  # without words, as the client wants no problem information
    acknowledgement = packet(0x40, bytes((0, 77, code))) if code and wire.v5 else wire.puback(77)
    assert client.answer(outcome, b"body") == ([acknowledgement] if qos else []) + [reply]
    assert not client.closing


@each_version
def test_pipelined(wire: Wire) -> None:
    client = Client(wire)
    answers = client.send(wire.connect(), wire.subscribe(("/provision/response", 0)), wire.publish(), PINGREQ)
    assert [answer[0] for answer in answers] == [0x20, 0x90, 0xD0]
    assert client.answer() == [wire.response(b"yes", 0)]


@each_version
def test_retained_request_is_a_request(wire: Wire) -> None:
    client = connected(wire)
    client.send(wire.publish(retain=True))
    assert client.answer() == [wire.response(b"yes")]


def test_replies_count_their_packet_ids() -> None:
    client, publish = connected(V311), V311.publish()
    for packet_id in (*range(1, 0x10000), 1):
        client.send(publish, V311.puback(packet_id))
        (reply,) = client.answer()
        assert reply[23:25] == packet_id.to_bytes(2)


@each_version
def test_answers_keep_the_order_of_the_requests(wire: Wire) -> None:
    client = connected(wire)
    client.send(*(wire.publish(qos=1, packet_id=packet_id) for packet_id in (5, 6, 7)))
    assert client.answer(body=b"third", request=2) == []
    assert client.answer(body=b"second", request=1) == []
    assert client.answer(body=b"first") == [
        *(wire.puback(5), wire.response(b"first", 1, 1)),
        *(wire.puback(6), wire.response(b"second", 1, 2)),
        *(wire.puback(7), wire.response(b"third", 1, 3)),
    ]


@each_version
def test_back_pressure(wire: Wire) -> None:
    client = connected(wire, Limits(in_flight=2))
    assert client.send(*(wire.publish(b"%d" % number) for number in range(5)), PINGREQ) == []
    assert [request.payload for request in client.requests] == [b"0", b"1"]
    assert not client.session.reading
    client.answer()
    assert [request.payload for request in client.requests] == [b"1", b"2"]
    client.answer()
    client.answer()
    assert [request.payload for request in client.requests] == [b"3", b"4"]
    assert client.answer()[-1] == PINGRESP
    assert client.session.reading


@each_version
def test_a_repeated_request_in_flight_is_one_request(wire: Wire) -> None:
    client = connected(wire)
    client.send(wire.publish(qos=1, packet_id=3), wire.publish(qos=1, packet_id=3, dup=True))
    assert len(client.requests) == 1
    assert client.answer() == [wire.puback(3), wire.response(b"yes")]
    client.send(wire.publish(qos=1, packet_id=3, dup=True))
    assert len(client.requests) == 1


@each_version
def test_acknowledgements_are_ignored(wire: Wire) -> None:
    client = connected(wire)
    assert client.send(wire.puback(1), wire.pubrec(2), wire.pubcomp(4)) == []
    assert not client.closing


def test_correlation_data_comes_back() -> None:
    client = connected(V5)
    properties = b"\x09" + string(b"\0id") + b"\x08" + string("my/topic")
    client.send(V5.publish(properties=properties))
    assert client.answer() == [V5.response(b"yes", properties=b"\x09" + string(b"\0id"))]


def test_receive_maximum_of_the_client_is_kept() -> None:
    client = connected(V5, properties=b"\x17\x00\x21\0\x01")
    client.send(*[V5.publish()] * 3)
    assert client.answer() == [V5.response(b"yes", 1, 1)]
    assert client.answer() == [V5.response(b"yes", 0)]
    client.send(V5.puback(1))
    assert client.answer() == [V5.response(b"yes", 1, 2)]


def test_maximum_packet_size_of_the_client_is_kept() -> None:
    client = connected(V5, properties=b"\x27\0\0\0\x30")
    client.send(V5.publish(qos=1), V5.publish(qos=1, packet_id=2))
    assert client.answer(body=b"x" * 64) == [V5.puback(1)]
    assert client.answer(body=b"x") == [V5.puback(2), V5.response(b"x", 1, 2)]
    assert client.send(b"\xf0\0") == [disconnect(0x8C)]  # its Reason String has no room


# Requests that have no reply


@before_5
@pytest.mark.parametrize("qos", [0, 1, 2])
@pytest.mark.parametrize("outcome", [Outcome.UNDECODABLE, Outcome.TOO_LARGE])
def test_no_reply_closes_before_5(wire: Wire, qos: int, outcome: Outcome) -> None:
    client = connected(wire)
    client.send(wire.publish(qos=qos))
    assert client.answer(outcome, b"") == []
    assert client.closing


def test_undecodable_in_5() -> None:
    client = connected(V5)
    client.send(V5.publish(qos=1, packet_id=7), V5.publish())
    assert client.answer(Outcome.UNDECODABLE, b"") == [b"\x40\x03\0\x07\x99"]
    assert not client.closing
    assert client.answer(Outcome.UNDECODABLE, b"") == [disconnect(0x99)]
    assert client.closing


@pytest.mark.parametrize("qos", [0, 1])
def test_too_large_in_5(qos: int) -> None:
    client = connected(V5)
    client.send(V5.publish(qos=qos))
    assert client.answer(Outcome.TOO_LARGE, b"") == [disconnect(0x95)]
    assert client.closing


@each_version
@pytest.mark.parametrize("qos", [0, 1])
def test_undecided(wire: Wire, qos: int) -> None:
    client = connected(wire)
    client.send(wire.publish(qos=qos))
    expected = [b"\x40\x03\0\x01\x83"] * qos + [disconnect(0x83)] if wire.v5 else []
    assert client.fail() == expected
    assert client.closing


def test_an_answer_behind_one_that_closes_is_dropped() -> None:
    client = connected(V311)
    client.send(V311.publish(), V311.publish())
    client.answer(request=1)
    assert client.answer(Outcome.UNDECODABLE, b"") == []


# QoS 2


@before_5
def test_qos_2_before_5(wire: Wire) -> None:
    """No CONNACK of theirs can say that QoS 2 is not supported, so it is: as far as a request needs."""
    client = connected(wire)
    assert client.send(wire.publish(qos=2, packet_id=9), wire.publish(qos=2, packet_id=9, dup=True)) == []
    assert client.answer() == [wire.pubrec(9), wire.response(b"yes", 1)]
    assert client.send(wire.pubrel(9)) == [wire.pubcomp(9)]


@pytest.mark.parametrize("topic", ["/provision/request", "a"])
def test_qos_2_in_5(topic: str) -> None:
    client = connected(V5)
    assert client.send(V5.publish(qos=2, topic=topic)) == [disconnect(0x9B)]
    assert client.closing
    assert not client.requests


# Other packets, right and wrong


@each_version
@pytest.mark.parametrize("qos", [0, 1])
@pytest.mark.parametrize("topic", ["/provision/response", "/provision", "provision/request", "v1/devices/me/telemetry"])
def test_any_other_topic(wire: Wire, qos: int, topic: str) -> None:
    client = connected(wire)
    expected = [b"\x40\x03\0\x09\x90" if wire.v5 else wire.puback(9)] * qos
    assert client.send(wire.publish(topic=topic, qos=qos, packet_id=9)) == expected + [disconnect(0x90)] * wire.v5
    assert client.closing


@each_version
def test_ping(wire: Wire) -> None:
    assert connected(wire).send(PINGREQ, PINGREQ) == [PINGRESP, PINGRESP]


@each_version
def test_disconnect(wire: Wire) -> None:
    client = connected(wire)
    assert client.send(DISCONNECT, PINGREQ) == []
    assert client.closing


@each_version
def test_a_request_just_before_disconnect_is_decided(wire: Wire) -> None:
    client = connected(wire)
    client.send(wire.publish(), DISCONNECT)
    assert client.answer() == []


@each_version
def test_end_of_file(wire: Wire) -> None:
    client = connected(wire)
    client.send(wire.publish())
    client.session.receive_eof()
    assert client.closing
    assert client.answer() == []
    assert client.send(PINGREQ) == []


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (V5.connect(), 0x82),
        (b"\x20\x02\0\0", 0x82),
        (b"\xf0\0", 0x8C),
        (V5.publish(properties=b"\x23\0\x01"), 0x94),
        (V5.publish(topic="", properties=b"\x23\0\x00"), 0x94),
        (V5.publish(topic="#"), 0x81),
        (V5.publish(topic=""), 0x82),
        (b"\x30\xff\xff\xff\xff", 0x81),
        (b"\x30\xff\xff\xff\x7f", 0x95),
        (V5.subscribe(), 0x82),
        (packet(0x30, string(b"\xff")), 0x81),
    ],
)
def test_errors(data: bytes, code: int) -> None:
    client = connected(V5)
    assert client.send(data, PINGREQ) == [disconnect(code)]
    assert client.closing


@before_5
@pytest.mark.parametrize(
    "data",
    [
        b"\x10\0",
        b"\x20\x02\0\0",
        b"\xf0\0",
        b"\x30\xff\xff\xff\xff",
        b"\x30\xff\xff\xff\x7f",
        packet(0x30, string("#")),
    ],
)
def test_errors_before_5(wire: Wire, data: bytes) -> None:
    client = connected(wire)
    assert client.send(data, PINGREQ) == []
    assert client.closing


@each_version
def test_what_came_before_an_error_is_answered_first(wire: Wire) -> None:
    client = connected(wire)
    assert client.send(PINGREQ, wire.connect()) == [PINGRESP] + [disconnect(0x82)] * wire.v5


def test_reason_strings() -> None:
    """By default a client of 5 may get them (§3.1.2.11.7)."""
    client = connected(V5, properties=b"")
    assert client.send(V5.connect()) == [disconnect(0x82, "a packet that a client sends once, or never")]


# Time


@each_version
@pytest.mark.parametrize("sent", [b"", V311.connect()[:9]])
def test_connect_timeout(wire: Wire, sent: bytes) -> None:
    client = Client(wire)
    client.now += 5
    client.send(sent)
    assert client.session.deadline == 1010
    assert client.wait(4.9) == []
    assert not client.closing
    assert client.wait(0.1) == []
    assert client.closing
    assert client.session.deadline == inf


@each_version
@pytest.mark.parametrize(
    ("keep_alive", "seconds", "server_keep_alive"),
    [(0, 120, 80), (10, 60, None), (40, 60, None), (60, 90, None), (80, 120, None), (81, 120, 80), (0xFFFF, 120, 80)],
)
def test_keep_alive(wire: Wire, keep_alive: int, seconds: float, server_keep_alive: int | None) -> None:
    client = Client(wire)
    (answer,) = client.send(wire.connect(keep_alive=keep_alive))
    told = b"" if server_keep_alive is None else b"\x13" + server_keep_alive.to_bytes(2)
    assert answer == connack(wire, 0, GRANTED + told)
    for _ in range(2):
        client.wait(seconds - 0.1)
        assert client.send(PINGREQ) == [PINGRESP]
    client.wait(seconds - 0.1)
    client.send(PINGREQ[:1])  # half a packet is no sign of life
    assert client.wait(0.2) == [disconnect(0x8D)] * wire.v5
    assert client.closing


@each_version
def test_a_session_ends_after_its_last_verdict(wire: Wire) -> None:
    client = connected(wire, keep_alive=60)
    client.send(wire.publish())
    client.wait(30)
    client.answer(Outcome.NOT_FOUND)
    client.wait(59)
    client.send(wire.publish())
    assert client.wait(30) == []  # a request in flight is not cut off
    client.answer()
    client.wait(59.9)
    client.send(PINGREQ)
    assert not client.closing
    assert client.wait(0.1) == [disconnect(0x98)] * wire.v5
    assert client.closing


@each_version
def test_a_session_without_a_verdict_ends_too(wire: Wire) -> None:
    client = connected(wire)
    for _ in range(10):
        client.wait(59.9)
        assert client.send(PINGREQ) == [PINGRESP]
    assert client.wait(1) == [disconnect(0x98)] * wire.v5
    assert client.closing


def test_what_is_no_verdict_ends_no_session() -> None:
    client = connected(V5, keep_alive=80)
    client.send(V5.publish(qos=1))
    client.answer(Outcome.UNDECODABLE, b"")
    client.wait(100)
    assert not client.closing


# The server's end


@each_version
def test_drain(wire: Wire) -> None:
    client = connected(wire)
    client.session.drain()
    assert client.received() == [disconnect(0x8B)] * wire.v5
    assert client.closing


@each_version
def test_drain_answers_first(wire: Wire) -> None:
    client = connected(wire)
    client.send(wire.publish(qos=1), wire.publish(qos=1, packet_id=2))
    client.session.drain()
    assert client.send(wire.publish()) == []
    assert client.answer() == [wire.puback(1), wire.response(b"yes", 1, 1)]
    assert client.answer() == [wire.puback(2), wire.response(b"yes", 1, 2)] + [disconnect(0x8B)] * wire.v5
    assert client.closing
    assert not client.requests


@pytest.mark.parametrize("sent", [b"", V5.connect(username="token")])
def test_drain_before_the_connect_is_answered(sent: bytes) -> None:
    client = Client(V5)
    client.send(sent)
    client.session.drain()
    assert client.received() == []
    assert client.closing


# Whatever happens

Step = Callable[[Client], list[bytes]]


def _sent(data: bytes) -> Step:
    return lambda client: client.send(data)


def _answered(outcome: Outcome | None, at: int) -> Step:
    def step(client: Client) -> list[bytes]:
        if not client.requests:
            return []
        if outcome is None:
            return client.fail()
        return client.answer(outcome, b"body", at % len(client.requests))

    return step


def _drained(client: Client) -> list[bytes]:
    client.session.drain()
    return client.received()


def _ended(client: Client) -> list[bytes]:
    client.session.receive_eof()
    return client.received()


def _refused(client: Client) -> list[bytes]:
    if client.authentications:
        client.session.refuse(ReasonCode.SERVER_UNAVAILABLE, "not now")
    return client.received()


@cache
def sendable(wire: Wire) -> st.SearchStrategy[bytes]:
    topics = st.sampled_from(["/provision/request"] * 4 + ["/provision/response", "a", "#"])
    qos = st.integers(0, 2)
    return st.one_of(
        st.builds(wire.publish, st.binary(max_size=5), topics, qos, st.integers(0, 3), dup=st.booleans()),
        st.builds(wire.subscribe, st.tuples(topics, qos)),
        st.builds(wire.unsubscribe, topics),
        st.builds(wire.pubrel, st.integers(1, 3)),
        st.sampled_from([PINGREQ, PINGREQ, DISCONNECT, wire.puback(), wire.connect(), b"\xf0\0"]),
        st.binary(max_size=8),
    )


@cache
def steps(wire: Wire) -> st.SearchStrategy[list[Step]]:
    usual = st.one_of(
        sendable(wire).map(_sent),
        sendable(wire).map(_sent),
        st.builds(_answered, st.sampled_from([*Outcome, None]), st.integers(0, 3)),
        st.floats(0, 70).map(lambda seconds: lambda client: client.wait(seconds)),
    )
    return st.lists(usual | st.sampled_from([_drained, _ended, _refused]), max_size=30)


@given(st.data(), st.sampled_from(ALL), st.sampled_from(["provision", "provision", "token", None]))
@settings(max_examples=300)
def test_no_conversation_upsets_a_session(data: st.DataObject, wire: Wire, username: str | None) -> None:
    client = Client(wire, Limits(in_flight=2))
    answers = client.send(wire.connect(username=username))
    for step in data.draw(steps(wire)):
        closed = client.closing
        sent = step(client)
        answers += sent
        assert not (closed and sent)
        assert len(client.requests) <= 2 or client.closing
        assert (client.session.deadline == inf) is client.closing
        assert client.session.deadline >= client.now
    if answers:
        assert [answer[0] >> 4 for answer in answers].count(2) == 1
        assert answers[0][0] >> 4 == 2
    assert wire.v5 or not any(answer[0] == 0xE0 for answer in answers)
    assert not any(answer[0] == 0xE0 for answer in answers[:-1])


@given(st.lists(st.binary(max_size=64), max_size=20))
def test_no_bytes_upset_a_session(chunks: list[bytes]) -> None:
    client = Client(V311)
    for chunk in chunks:
        client.send(chunk)

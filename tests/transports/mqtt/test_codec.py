"""Packets ⇄ bytes: what each standard allows, what it forbids, and that nothing else happens."""

from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provserver.transports.mqtt.codec import Decoder, MalformedPacket, encode
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
    Will,
)
from tests.transports.mqtt.wire import ALL, DISCONNECT, PINGREQ, V3, V5, V31, V311, Wire, packet, short, string

MALFORMED, PROTOCOL_ERROR = ReasonCode.MALFORMED_PACKET, ReasonCode.PROTOCOL_ERROR
TOO_LARGE, UNSUPPORTED = ReasonCode.PACKET_TOO_LARGE, ReasonCode.UNSUPPORTED_PROTOCOL_VERSION
VERSIONS = {V31: Version.V3_1, V311: Version.V3_1_1, V5: Version.V5}

each_version = pytest.mark.parametrize("wire", ALL, ids=str)


def decode(data: bytes, limit: int = 65_536) -> list[ClientPacket]:
    decoder = Decoder(limit)
    decoder.feed(data)
    return list(decoder)


def after_connect(wire: Wire, data: bytes) -> ClientPacket:
    connect, decoded = decode(wire.connect() + data)
    assert isinstance(connect, Connect)
    return decoded


def refusal(data: bytes, limit: int = 65_536) -> ReasonCode:
    with pytest.raises(MalformedPacket) as caught:
        decode(data, limit)
    return caught.value.reason_code


# CONNECT


@each_version
def test_connect(wire: Wire) -> None:
    data = wire.connect("dev", "user", b"\x00\xffsecret", clean=False, keep_alive=10, properties=b"")
    assert decode(data) == [Connect(VERSIONS[wire], "dev", False, 10, "user", b"\x00\xffsecret")]


@each_version
def test_connect_is_spoken_of_without_its_credentials(wire: Wire) -> None:
    (connect,) = decode(wire.connect("client-token", "user-token", b"password"))
    shown = repr(connect)
    assert not any(secret in shown for secret in ("client-token", "user-token", "password='", "b'password'"))


@each_version
def test_connect_with_a_will(wire: Wire) -> None:
    will_properties = b"\x18\0\0\0\x05\x01\x01"
    will = wire.properties(will_properties) + string("a/b") + string(b"gone\0")
    (connect,) = decode(wire.connect(will=will, will_flags=0x2C, properties=b""))
    properties: Properties = {"will_delay_interval": 5, "payload_format_indicator": 1} if wire.v5 else {}
    assert isinstance(connect, Connect)
    assert connect.will == Will("a/b", b"gone\0", 1, True, properties)


def test_connect_5_may_have_a_password_alone() -> None:
    assert decode(V5.connect(username=None, password=b"x", properties=b"")) == [
        Connect(Version.V5, "dev", True, 60, None, b"x")
    ]


def test_connect_3_1_may_announce_what_is_not_there() -> None:
    data = packet(0x10, string("MQIsdp") + b"\x03\xc2\0\x0a" + string("dev"))
    assert decode(data) == [Connect(Version.V3_1, "dev", True, 10)]
    assert refusal(packet(0x10, string("MQTT") + b"\x04\xc2\0\x0a" + string("dev"))) is MALFORMED


CONNECT_PROPERTIES = (
    b"\x11\0\0\x00\x0a"  # Session Expiry Interval
    b"\x21\0\x05"  # Receive Maximum
    b"\x27\0\0\x01\0"  # Maximum Packet Size
    b"\x22\0\x07"  # Topic Alias Maximum
    b"\x19\x01\x17\x00"  # Request Response Information, Request Problem Information
    + (b"\x26" + string("k") + string("v")) * 2  # User Property
    + (b"\x15" + string("M") + b"\x16" + string(b"\0"))  # Authentication Method and Data
)


def test_connect_properties() -> None:
    (connect,) = decode(V5.connect(properties=CONNECT_PROPERTIES))
    assert isinstance(connect, Connect)
    assert connect.properties == {
        "session_expiry_interval": 10,
        "receive_maximum": 5,
        "maximum_packet_size": 256,
        "topic_alias_maximum": 7,
        "request_response_information": 1,
        "request_problem_information": 0,
        "user_property": [("k", "v"), ("k", "v")],
        "authentication_method": "M",
        "authentication_data": b"\0",
    }


def connect_flags(wire: Wire, flags: int) -> bytes:
    """A CONNECT with these flags, and every field that they could announce."""
    name = "MQIsdp" if wire.level == 3 else "MQTT"
    body = string(name) + bytes((wire.level, flags)) + b"\0\0" + wire.properties(b"") + string("dev")
    if flags & 4:
        body += wire.properties(b"") + string("will") + string("gone")
    body += string("user") if flags & 0x80 else b""
    return packet(0x10, body + (string("secret") if flags & 0x40 else b""))


@pytest.mark.parametrize("wire", [V311, V5], ids=str)
@pytest.mark.parametrize("flags", range(256))
def test_connect_flags(wire: Wire, flags: int) -> None:
    valid = (
        not flags & 1 and flags & 0x18 != 0x18 and (flags & 4 or not flags & 0x38) and (wire.v5 or flags & 0xC0 != 0x40)
    )
    if valid:
        assert len(decode(connect_flags(wire, flags))) == 1
    else:
        assert refusal(connect_flags(wire, flags)) is MALFORMED


@pytest.mark.parametrize(
    ("data", "reason_code"),
    [
        (packet(0x10, string("MQTT") + b"\x03\x02\0\0" + string("")), UNSUPPORTED),
        (packet(0x10, string("MQTT") + b"\x06\x02\0\0" + string("")), UNSUPPORTED),
        (packet(0x10, string("MQTT") + b"\x84\x02\0\0" + string("")), UNSUPPORTED),
        (packet(0x10, string("MQIsdp") + b"\x04\x02\0\0" + string("")), UNSUPPORTED),
        (packet(0x10, string("AMQP") + b"\x04\x02\0\0" + string("")), PROTOCOL_ERROR),
        (packet(0x11, V311.connect()[2:]), MALFORMED),
        (packet(0x10, b""), MALFORMED),
        (V311.connect("a\0b"), MALFORMED),
        (V5.connect(username="\0"), MALFORMED),
        (packet(0x10, V311.connect()[2:] + b"\0"), MALFORMED),
        (V311.connect(will=string("a/#") + string(""), will_flags=4), MALFORMED),
        (V311.connect(will=string("") + string(""), will_flags=4), MALFORMED),
        (V5.connect(properties=b"\x16\0\0"), PROTOCOL_ERROR),
        (V5.connect(properties=b"\x17\x02"), PROTOCOL_ERROR),
        (V5.connect(properties=b"\x17\x01\x17\x01"), PROTOCOL_ERROR),
        (V5.connect(properties=b"\x21\0\0"), PROTOCOL_ERROR),
        (V5.connect(properties=b"\x27\0\0\0\0"), PROTOCOL_ERROR),
        (V5.connect(properties=b"\x23\0\x01"), PROTOCOL_ERROR),
        (V5.connect(properties=b"\x12" + string("x")), PROTOCOL_ERROR),
        (V5.connect(properties=b"\x7f"), MALFORMED),
        (V5.connect(properties=b"\x97\x00\x01"), MALFORMED),
        (V5.connect(properties=b"\x11\0\0"), MALFORMED),
        (V5.connect(properties=b"\x26" + string("k")), MALFORMED),
        (V5.connect(will=short(b"\x11\0\0\0\0") + string("a") + string(""), will_flags=4), PROTOCOL_ERROR),
    ],
)
def test_connect_refused(data: bytes, reason_code: ReasonCode) -> None:
    assert refusal(data) is reason_code


@pytest.mark.parametrize("first_byte", [0x00, *range(0x20, 0x100, 0x10), 0x16, 0x47])
def test_nothing_but_connect_comes_first(first_byte: int) -> None:
    """And the first byte is enough to know: TLS and HTTP are not waited for."""
    assert refusal(bytes((first_byte,))) in {PROTOCOL_ERROR, MALFORMED}


@each_version
def test_connect_comes_once(wire: Wire) -> None:
    assert refusal(wire.connect() + wire.connect()) is PROTOCOL_ERROR


# The other packets of a client


@each_version
@pytest.mark.parametrize("qos", [0, 1, 2])
def test_publish(wire: Wire, qos: int) -> None:
    properties = b"\x09" + string(b"\0id") + b"\x08" + string("re/ply") + b"\x02\0\0\0\x09"
    decoded = after_connect(wire, wire.publish(b"\0{}", "a/b", qos, 7, retain=True, properties=properties))
    expected: Properties = {
        "correlation_data": b"\0id",
        "response_topic": "re/ply",
        "message_expiry_interval": 9,
    }
    assert decoded == Publish("a/b", b"\0{}", qos, 7 if qos else 0, retain=True, properties=expected if wire.v5 else {})
    assert "payload" not in repr(decoded)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (PINGREQ, Pingreq()),
        (DISCONNECT, Disconnect()),
        (V5.puback(9), Puback(9)),
        (V5.pubrec(9), Pubrec(9)),
        (V5.pubrel(9), Pubrel(9)),
        (V5.pubcomp(9), Pubcomp(9)),
    ],
)
@each_version
def test_packets_alike_in_every_version(wire: Wire, data: bytes, expected: ClientPacket) -> None:
    assert after_connect(wire, data) == expected


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"\x40\x03\0\x09\x10", Puback(9, 0x10)),
        (b"\x62\x04\0\x09\x92\0", Pubrel(9, 0x92)),
        (b"\x50\x08\0\x09\x80\x04\x1f\0\x01x", Pubrec(9, 0x80, {"reason_string": "x"})),
        (b"\xe0\x01\x04", Disconnect(4)),
        (b"\xe0\x07\x00\x05\x11\0\0\0\x01", Disconnect(0, {"session_expiry_interval": 1})),
        (b"\xf0\x00", Auth()),
        (b"\xf0\x06\x18\x04\x15\0\x01M", Auth(0x18, {"authentication_method": "M"})),
    ],
)
def test_packets_of_5_with_a_reason(data: bytes, expected: ClientPacket) -> None:
    assert after_connect(V5, data) == expected


@each_version
def test_subscribe_and_unsubscribe(wire: Wire) -> None:
    filters = ["/provision/response", "#", "+", "a/+/b", "/+", "a/#", "+/+/#", "$share/g/t", "/"]
    options = [(topic_filter, qos % 3) for qos, topic_filter in enumerate(filters)]
    assert after_connect(wire, wire.subscribe(*options)) == Subscribe(10, options)
    assert after_connect(wire, wire.unsubscribe(*filters)) == Unsubscribe(11, filters)


def test_subscription_options_and_identifier_of_5() -> None:
    decoded = after_connect(V5, V5.subscribe(("a", 0x2D), properties=b"\x0b\xff\x7f"))
    assert decoded == Subscribe(10, [("a", 0x2D)], {"subscription_identifier": 16383})


def test_flags_that_3_1_leaves_open() -> None:
    assert after_connect(V31, V31.subscribe(("a", 0xFC), flags=0x0A)) == Subscribe(10, [("a", 0xFC)])
    assert after_connect(V31, V31.publish(dup=True)) == Publish("/provision/request", b"{}", dup=True)


@pytest.mark.parametrize("topic_filter", ["", "a#", "#/a", "a/#/b", "a+", "+a/b", "a/b+", "##", "++", "a\0"])
@each_version
def test_topic_filter_refused(wire: Wire, topic_filter: str) -> None:
    assert refusal(wire.connect() + wire.subscribe((topic_filter, 0))) is MALFORMED
    assert refusal(wire.connect() + wire.unsubscribe(topic_filter)) is MALFORMED


@pytest.mark.parametrize(
    ("data", "reason_code"),
    [
        (lambda wire: wire.publish(topic="a/+"), MALFORMED),
        (lambda wire: wire.publish(topic="#"), MALFORMED),
        (lambda wire: wire.publish(topic="a\0"), MALFORMED),
        (lambda wire: wire.publish(topic=""), PROTOCOL_ERROR),
        (lambda wire: wire.publish(qos=3), MALFORMED),
        (lambda wire: wire.publish(qos=1, packet_id=0), PROTOCOL_ERROR),
        (lambda wire: wire.puback(0), PROTOCOL_ERROR),
        (lambda wire: wire.pubrel(0), PROTOCOL_ERROR),
        (lambda wire: wire.subscribe(("a", 0), packet_id=0), PROTOCOL_ERROR),
        (lambda wire: wire.unsubscribe("a", packet_id=0), PROTOCOL_ERROR),
        (lambda wire: wire.subscribe(), PROTOCOL_ERROR),
        (lambda wire: wire.unsubscribe(), PROTOCOL_ERROR),
        (lambda wire: wire.subscribe(("a", 3)), MALFORMED),
    ],
)
@each_version
def test_refused_in_every_version(wire: Wire, data: Callable[[Wire], bytes], reason_code: ReasonCode) -> None:
    assert refusal(wire.connect() + data(wire)) is reason_code


@pytest.mark.parametrize(
    "data",
    [
        packet(0x30, string(b"\xc0\xaf")),  # overlong
        packet(0x30, string(b"\xed\xa0\x80")),  # surrogate
        packet(0x30, string(b"\xff")),
        packet(0x30, string(b"\xe2\x82")),  # cut short
        packet(0x30, b"\0\x05abc"),
        packet(0x30, b"\0"),
        packet(0x32, string("a") + b"\0"),
        packet(0x82, b"\0"),
        packet(0x82, b"\0\x01" + string("a")),  # no options
        packet(0x40, b"\0"),
        packet(0xC0, b"\0"),
        b"\x30\x80\x80\x80\x80",
        b"\x30\xff\xff\xff\xff",
    ],
)
@each_version
def test_malformed_in_every_version(wire: Wire, data: bytes) -> None:
    assert refusal(wire.connect() + data) is MALFORMED


@pytest.mark.parametrize("wire", [V311, V5], ids=str)
@pytest.mark.parametrize(
    "data",
    [
        lambda wire: wire.publish(dup=True),
        lambda wire: wire.subscribe(("a", 0), flags=0),
        lambda wire: wire.subscribe(("a", 0), flags=10),
        lambda wire: wire.subscribe(("a", 0xC0)),
    ],
)
def test_malformed_since_3_1_1(wire: Wire, data: Callable[[Wire], bytes]) -> None:
    assert refusal(wire.connect() + data(wire)) is MALFORMED


@pytest.mark.parametrize("wire", [V311, V5], ids=str)
@pytest.mark.parametrize("first_byte", [0x41, 0x52, 0x60, 0x63, 0x74, 0xA0, 0xC1, 0xE8])
def test_reserved_flags(wire: Wire, first_byte: int) -> None:
    assert refusal(wire.connect() + bytes((first_byte,))) is MALFORMED


@each_version
@pytest.mark.parametrize("first_byte", [0x00, 0x20, 0x90, 0xB0, 0xD0])
def test_what_a_client_never_sends(wire: Wire, first_byte: int) -> None:
    assert refusal(wire.connect() + bytes((first_byte,))) is PROTOCOL_ERROR


@pytest.mark.parametrize("wire", V3, ids=str)
def test_there_is_no_auth_before_5(wire: Wire) -> None:
    assert refusal(wire.connect() + b"\xf0\0") is PROTOCOL_ERROR


@pytest.mark.parametrize("wire", V3, ids=str)
def test_disconnect_before_5_says_nothing_more(wire: Wire) -> None:
    assert refusal(wire.connect() + b"\xe0\x01\0") is MALFORMED


@pytest.mark.parametrize(
    ("data", "reason_code"),
    [
        (V5.subscribe(("a", 0x40)), MALFORMED),
        (V5.subscribe(("a", 0x30)), PROTOCOL_ERROR),
        (V5.subscribe(("$share/g/t", 0x04)), PROTOCOL_ERROR),
        (V5.subscribe(("a", 0), properties=b"\x0b\0"), PROTOCOL_ERROR),
        (V5.subscribe(("a", 0), properties=b"\x0b\x01\x0b\x02"), PROTOCOL_ERROR),
        (V5.subscribe(("a", 0), properties=b"\x0b\x80\x00"), MALFORMED),
        (V5.subscribe(("a", 0), properties=b"\x0b\x80\x80\x80\x80\x01"), MALFORMED),
        (V5.publish(properties=b"\x0b\x01"), PROTOCOL_ERROR),  # from a client [MQTT-3.3.4-6]
        (V5.publish(properties=b"\x01\x02"), PROTOCOL_ERROR),
        (V5.publish(properties=b"\x08" + string("a/+")), MALFORMED),
        (V5.publish(properties=b"\x03" + string(b"\xff")), MALFORMED),
        (b"\x30\x05\0\x01a\x05\x01", MALFORMED),  # properties that run past the packet
        (b"\x30\x06\0\x01a\x01\x01\x01", MALFORMED),  # a property that runs past the properties
        (b"\x30\x84\x00\0\x01a\0", MALFORMED),  # a Remaining Length longer than need be
        (b"\xe0\x07\x00\x05\x21\0\0\0\x01", PROTOCOL_ERROR),
        (b"\xe0\x03\x00\x00\x00", MALFORMED),
    ],
)
def test_refused_in_5(data: bytes, reason_code: ReasonCode) -> None:
    assert refusal(V5.connect() + data) is reason_code


@pytest.mark.parametrize("wire", V3, ids=str)
def test_remaining_length_may_be_padded_before_5(wire: Wire) -> None:
    assert after_connect(wire, b"\x30\x84\x00\0\x01ax") == Publish("a", b"x")


def test_properties_name_packets_where_they_may_be() -> None:
    """Table 2-4, from the client's side: a property in the wrong packet is a protocol error."""
    values = {
        **dict.fromkeys((0x01, 0x17, 0x19, 0x24, 0x25, 0x28, 0x29, 0x2A), b"\x01"),
        **dict.fromkeys((0x13, 0x21, 0x22, 0x23), b"\0\x01"),
        **dict.fromkeys((0x02, 0x11, 0x18, 0x27), b"\0\0\0\x01"),
        **dict.fromkeys((0x03, 0x08, 0x09, 0x12, 0x15, 0x16, 0x1A, 0x1C, 0x1F), string("x")),
        0x0B: b"\x01",
        0x26: string("k") + string("v"),
    }
    allowed = {
        "CONNECT": {0x11, 0x15, 0x17, 0x19, 0x21, 0x22, 0x26, 0x27},
        "Will": {0x01, 0x02, 0x03, 0x08, 0x09, 0x18, 0x26},
        "PUBLISH": {0x01, 0x02, 0x03, 0x08, 0x09, 0x23, 0x26},
        "PUBACK": {0x1F, 0x26},
        "SUBSCRIBE": {0x0B, 0x26},
        "DISCONNECT": {0x11, 0x1C, 0x1F, 0x26},
        "AUTH": {0x15, 0x16, 0x1F, 0x26},
    }
    for identifier, value in values.items():
        property_ = bytes((identifier,)) + value
        packets = {
            "CONNECT": V5.connect(properties=property_),
            "Will": V5.connect(will=short(property_) + string("t") + string("p"), will_flags=4),
            "PUBLISH": V5.connect() + V5.publish(properties=property_),
            "PUBACK": V5.connect() + packet(0x40, b"\0\x01\0" + short(property_)),
            "SUBSCRIBE": V5.connect() + V5.subscribe(("a", 0), properties=property_),
            "DISCONNECT": V5.connect() + packet(0xE0, b"\0" + short(property_)),
            "AUTH": V5.connect() + packet(0xF0, b"\0" + short(property_)),
        }
        for name, data in packets.items():
            if identifier in allowed[name] and not (name == "CONNECT" and identifier == 0x16):
                decode(data)
            else:
                assert refusal(data) is PROTOCOL_ERROR, (name, hex(identifier))


# Size


@each_version
def test_a_packet_of_the_maximum_size_is_taken(wire: Wire) -> None:
    head = len(wire.publish(b"", "a"))
    data = wire.publish(b"x" * (300 - head - 1), "a")
    assert len(data) == 300
    assert len(decode(wire.connect() + data, 300)) == 2
    assert refusal(wire.connect() + data, 299) is TOO_LARGE


@each_version
def test_a_packet_too_large_is_refused_at_its_header(wire: Wire) -> None:
    assert refusal(wire.connect() + b"\x30\xff\xff\xff\x7f") is TOO_LARGE
    assert refusal(b"\x10\x80\x80\x80\x01") is TOO_LARGE


# What a server sends


@pytest.mark.parametrize(
    ("sent", "v3", "v5"),
    [
        (Connack(0), b"\x20\x02\0\0", b"\x20\x03\0\0\0"),
        (Connack(0, {"maximum_qos": 1}), b"\x20\x02\0\0", b"\x20\x05\0\0\x02\x24\x01"),
        (Puback(258), b"\x40\x02\x01\x02", b"\x40\x02\x01\x02"),
        (Puback(1, 0x99), b"\x40\x02\0\x01", b"\x40\x03\0\x01\x99"),
        (Puback(1, 0, {"reason_string": "x"}), b"\x40\x02\0\x01", b"\x40\x08\0\x01\0\x04\x1f\0\x01x"),
        (Pubrec(1), b"\x50\x02\0\x01", b"\x50\x02\0\x01"),
        (Pubrel(1), b"\x62\x02\0\x01", b"\x62\x02\0\x01"),
        (Pubcomp(1), b"\x70\x02\0\x01", b"\x70\x02\0\x01"),
        (Suback(1, [1, 0x80]), b"\x90\x04\0\x01\x01\x80", b"\x90\x05\0\x01\0\x01\x80"),
        (Unsuback(1, [0, 0x11]), b"\xb0\x02\0\x01", b"\xb0\x05\0\x01\0\0\x11"),
        (Pingresp(), b"\xd0\0", b"\xd0\0"),
        (Disconnect(), b"\xe0\0", b"\xe0\0"),
        (Publish("a", b"xy"), b"\x30\x05\0\x01axy", b"\x30\x06\0\x01a\0xy"),
        (
            Publish("a", b"x", 1, 258, properties={"correlation_data": b"\0"}),
            b"\x32\x06\0\x01a\x01\x02x",
            b"\x32\x0b\0\x01a\x01\x02\x04\x09\0\x01\0x",
        ),
        (Publish("a", b"x" * 200, 2, 1, retain=True, dup=True), b"\x3d\xcd\x01", b"\x3d\xce\x01"),
    ],
)
def test_encode(sent: ServerPacket, v3: bytes, v5: bytes) -> None:
    for version, expected in ((Version.V3_1, v3), (Version.V3_1_1, v3), (Version.V5, v5)):
        assert encode(sent, version)[: len(expected)] == expected


def test_encode_disconnect_of_5() -> None:
    assert encode(Disconnect(0x8B), Version.V5) == b"\xe0\x01\x8b"
    assert encode(Disconnect(0x8B, {"reason_string": "x"}), Version.V5) == b"\xe0\x06\x8b\x04\x1f\0\x01x"


# Properties of the whole

texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
topics = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0+#"), min_size=1, max_size=20)
packet_ids = st.integers(1, 0xFFFF)
binaries = st.binary(max_size=40)
pairs = st.lists(st.tuples(texts, texts), min_size=1, max_size=3)
publish_properties: st.SearchStrategy[Properties] = st.fixed_dictionaries(
    {},
    optional={
        "payload_format_indicator": st.integers(0, 1),
        "message_expiry_interval": st.integers(0, 0xFFFFFFFF),
        "content_type": texts,
        "response_topic": topics,
        "correlation_data": binaries,
        "topic_alias": st.integers(1, 0xFFFF),
        "user_property": pairs,
    },
).map(lambda found: Properties(**found))  # type: ignore[typeddict-item]
reason_properties: st.SearchStrategy[Properties] = st.fixed_dictionaries(
    {}, optional={"reason_string": texts, "user_property": pairs}
).map(lambda found: Properties(**found))  # type: ignore[typeddict-item]
both_ways: st.SearchStrategy[Publish | Puback | Disconnect] = st.one_of(
    st.builds(Publish, topics, binaries, st.just(0), st.just(0), st.booleans(), properties=publish_properties),
    st.builds(
        Publish, topics, binaries, st.integers(1, 2), packet_ids, st.booleans(), st.booleans(), publish_properties
    ),
    *(
        st.builds(kind, packet_ids, st.integers(0, 255), reason_properties)
        for kind in (Puback, Pubrec, Pubrel, Pubcomp)
    ),
    st.builds(Disconnect, st.integers(0, 255), reason_properties),
)


@given(both_ways, st.sampled_from(ALL))
def test_what_goes_both_ways_comes_back(sent: Publish | Puback | Disconnect, wire: Wire) -> None:
    if not wire.v5:
        sent.properties = {}
        if not isinstance(sent, Publish):
            sent.reason_code = 0
    assert after_connect(wire, encode(sent, VERSIONS[wire])) == sent


@given(st.sampled_from(ALL), texts, st.none() | texts, st.none() | binaries, st.booleans(), st.integers(0, 0xFFFF))
def test_any_connect_comes_back(
    wire: Wire, client_id: str, username: str | None, password: bytes | None, clean: bool, keep_alive: int
) -> None:
    if username is None and not wire.v5:
        password = None
    data = wire.connect(client_id, username, password, clean=clean, keep_alive=keep_alive, properties=b"")
    assert decode(data) == [Connect(VERSIONS[wire], client_id, clean, keep_alive, username, password)]


@st.composite
def streams(draw: st.DrawFn) -> bytes:
    """Packets of a client, here and there spoilt."""
    wire = draw(st.sampled_from(ALL))
    data = bytearray(wire.connect(draw(texts), draw(st.none() | texts)))
    for sent in draw(st.lists(both_ways | st.binary(max_size=12), max_size=6)):
        data += sent if isinstance(sent, bytes) else encode(sent, VERSIONS[wire])
    data += draw(
        st.sampled_from([b"", PINGREQ, wire.subscribe(("a", 1)), wire.unsubscribe("a"), b"\x30\xff\xff\xff\x7f"])
    )
    for at, byte in draw(st.lists(st.tuples(st.integers(0, len(data) - 1), st.integers(0, 255)), max_size=3)):
        data[at] = byte
    return bytes(data)


def outcome(
    chunks: Sequence[bytes], limit: int, *, plainly: bool = False
) -> tuple[list[ClientPacket], ReasonCode | None, str]:
    """All that a decoder made of chunks; any exception but MalformedPacket is the test's failure.

    plainly: as a session does, which tries each chunk as a plain packet first.
    """
    decoder, packets = Decoder(limit), []
    try:
        for chunk in chunks:
            if plainly and (packet := decoder.plain(chunk)) is not None:
                packets.append(packet)
                continue
            decoder.feed(chunk)
            for decoded in decoder:
                packets.append(decoded)  # noqa: PERF402 - those before the exception count
            assert decoder.buffered < limit + 5
    except MalformedPacket as error:
        return packets, error.reason_code, str(error)
    return packets, None, ""


@given(streams() | st.binary(max_size=200), st.lists(st.integers(1, 30)), st.sampled_from([64, 65_536]))
def test_chunks_change_nothing(data: bytes, sizes: list[int], limit: int) -> None:
    chunks, at = [], 0
    for size in sizes:
        chunks.append(data[at : at + size])
        at += size
    chunks.append(data[at:])
    expected = outcome([data], limit)
    single = [data[at : at + 1] for at in range(len(data))]
    for plainly in (False, True):
        assert outcome(chunks, limit, plainly=plainly) == expected
        assert outcome(single, limit, plainly=plainly) == expected


def test_a_refusal_quotes_nothing() -> None:
    with pytest.raises(MalformedPacket) as caught:
        decode(V5.connect(username="s3cret\0"))
    assert "s3cret" not in str(caught.value)

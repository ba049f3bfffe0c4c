"""MQTT sessions, packet by packet."""

from dataclasses import replace

from tests.conformance.clients import mqtt
from tests.conformance.clients.mqtt import (
    V3_1,
    Ack,
    Acknowledge,
    Bye,
    Closed,
    Connack,
    Connect,
    Disconnected,
    Pingreq,
    Pingresp,
    Publish,
    Raw,
    Suback,
    Subscribe,
    Unsuback,
    Unsubscribe,
)
from tests.conformance.clients.protobuf import Proto
from tests.conformance.model import FAILURE, NOT_FOUND, Case, Devices, Granted, Reply, Silence, Step, Transport, invalid
from tests.conformance.requests import get, on, on_mqtt, proto, raw, request, send, session

ASKED = Publish(request(), qos=0)
GRANTED = Reply(Granted())
V3, V5 = Transport.MQTT3, Transport.MQTT5
RESPONSE = mqtt.RESPONSE_TOPIC


def _refused_connect(connect: Connect, link: str) -> tuple[Step, ...]:
    return (send(connect, link=link), get(Connack(None), Closed(), link=link))


def _named(suffix: str, qos: int = 0, packet_id: int = 1) -> Publish:
    return Publish(request(deviceName=f"«tag»{suffix}"), qos, packet_id)


def _reply(suffix: str, qos: int = 1, packet_id: int = 1) -> Reply:
    return Reply(Granted(name=f"«tag»{suffix}"), qos, packet_id)


_CONNECT = (
    Case(
        id="connect/user-name",
        says="The user name `provision` opens a provision session, whatever the client id.",
        cites="1.1/trigger 1.1/connack 1.2/unsubscribed",
        steps=on_mqtt(*session(Connect("thermostat-7")), send(ASKED), get(GRANTED)),
    ),
    Case(
        id="connect/client-id",
        says="So does the client id `provision`, with another user name or none.",
        cites="1.1/trigger",
        steps=on_mqtt(
            *session(Connect("provision", username=None)),
            send(ASKED),
            get(GRANTED),
            send(Connect("provision", username="someone"), link="b"),
            get(Connack(), link="b"),
            send(_named("b"), link="b"),
            get(_reply("b"), link="b"),
        ),
    ),
    Case(
        id="connect/exact",
        says="Another spelling is an ordinary device, which these credentials do not let in.",
        cites="1.1/trigger-exact",
        steps=on_mqtt(
            *_refused_connect(Connect(username="Provision"), "a"),
            *_refused_connect(Connect(username=" provision"), "b"),
            *_refused_connect(Connect("PROVISION", username=None), "c"),
            *_refused_connect(Connect("provision/1", username="provisioner"), "d"),
        ),
    ),
    Case(
        id="connect/password",
        says="The password is not looked at.",
        cites="1.1/password",
        steps=on_mqtt(
            *session(Connect(password="")),
            send(ASKED),
            get(GRANTED),
            send(Connect(password="anything"), link="b"),
            get(Connack(), link="b"),
        ),
    ),
    Case(
        id="connect/password-alone",
        says="Also where MQTT 5 allows it without a user name.",
        cites="1.1/password",
        steps=on(V5, *session(Connect("provision", username=None, password="x")), send(ASKED), get(GRANTED)),
    ),
    Case(
        id="connect/same-client-id",
        says="Three clients of one id at the same time, all of them answered.",
        cites="1.1/client-id",
        steps=on_mqtt(
            send(Connect("provision"), link="a"),
            get(Connack(), link="a"),
            send(Connect("provision"), link="b"),
            get(Connack(), link="b"),
            send(Connect("provision", clean=False), link="c"),
            get(Connack(), link="c"),
            *(step for link in "abc" for step in (send(_named(link), link=link), get(_reply(link), link=link))),
            Devices(3),
        ),
    ),
    Case(
        id="connect/client-id-empty",
        says="An empty client id: fine in 3.1.1 with a clean session and in 5, refused in 3.1.",
        cites="1.1/client-id-length",
        steps=on(
            V3,
            *session(Connect("")),
            send(ASKED),
            get(GRANTED),
            send(Connect("", version=V3_1), link="3.1"),
            get(Connack(2), Closed(), link="3.1"),
            send(Connect("", clean=False), link="kept"),
            get(Connack(2), Closed(), link="kept"),
        )
        | on(
            V5,
            send(Connect("")),
            get(Connack(has={"assigned_client_identifier": ...})),
            send(ASKED),
            get(GRANTED),
        ),
    ),
    Case(
        id="connect/client-id-long",
        says="A client id of 300 characters is fine.",
        cites="1.1/client-id-length",
        steps=on(
            V3,
            *session(Connect("c" * 300)),
            send(Connect("c" * 300, version=V3_1), link="3.1"),
            get(Connack(), link="3.1"),
        )
        | on(V5, *session(Connect("c" * 300))),
    ),
    Case(
        id="connect/3.1",
        says="MQTT 3.1 is served as 3.1.1 is.",
        cites="1.1/trigger 1.1/connack 1.3/3-reply",
        steps=on(
            V3,
            *session(Connect("short", version=V3_1)),
            send(Subscribe(), Publish(request(), 1, 2)),
            get(Suback((1,)), Ack(2), GRANTED),
        ),
    ),
    Case(
        id="connect/not-clean",
        says="A session that is to be kept is not: Session Present is 0, on the second visit too.",
        cites="1.1/clean-session",
        steps=on_mqtt(
            *session(Connect("c-«tag»", clean=False)),
            send(Subscribe(), Bye()),
            get(Suback((1,)), Closed()),
            send(Connect("c-«tag»", clean=False), link="b"),
            get(Connack(session_present=0), link="b"),
            send(Unsubscribe(), link="b"),
            get(Unsuback((0x11,)), link="b"),
        ),
    ),
    Case(
        id="connect/properties",
        says="CONNACK of MQTT 5 states the limits; it assigns an id only to a client without one.",
        cites="1.1/connack-properties",
        steps=on(
            V5,
            send(Connect()),
            get(
                Connack(
                    has={
                        "maximum_qos": 1,
                        "retain_available": 0,
                        "receive_maximum": ...,
                        "maximum_packet_size": ...,
                        "wildcard_subscription_available": 0,
                        "shared_subscription_available": 0,
                        "subscription_identifier_available": 0,
                    },
                    lacks=("assigned_client_identifier", "server_keep_alive", "topic_alias_maximum"),
                )
            ),
        ),
    ),
    Case(
        id="connect/will",
        says="A Will, and in MQTT 5 properties, change nothing; no session is promised.",
        cites="1.1/will",
        steps=on(V3, *session(Connect(will=True)), send(ASKED), get(GRANTED))
        | on(
            V5,
            send(Connect(will=True, properties=bytes.fromhex("1100000e10 210005 1901 1701".replace(" ", "")))),
            get(Connack(has={"session_expiry_interval": 0}, lacks=("response_information",))),
            send(ASKED),
            get(GRANTED),
        ),
    ),
    Case(
        id="connect/silent",
        says="With a keep-alive of one second a client may be silent for nearly three, and is answered then.",
        cites="1.1/keep-alive",
        steps=on_mqtt(*session(Connect(keep_alive=1)), Silence(2.8), send(ASKED), get(GRANTED)),
    ),
    Case(
        id="connect/twice",
        says="A second CONNECT ends the connection.",
        cites="1.1/second-connect 1.4/close",
        steps=on(V3, *session(), send(Connect()), get(Closed()))
        | on(V5, *session(), send(Connect()), get(Disconnected(0x82), Closed())),
    ),
    Case(
        id="connect/not-first",
        says="Whatever comes before CONNECT ends the connection; nothing is made.",
        cites="1.4/malformed",
        steps=on_mqtt(send(ASKED), get(Closed()), Devices(0)),
    ),
    Case(
        id="connect/not-mqtt",
        says="So do bytes that are no MQTT.",
        cites="1.4/malformed",
        steps=on_mqtt(send(Raw(b"POST /api/v1/provision HTTP/1.1\r\n\r\n")), get(Closed())),
    ),
)

_TOPICS = (
    Case(
        id="topics/other-qos1",
        says="A PUBLISH to another topic at QoS 1 ends the session.",
        cites="1.2/other-topic-v3 1.2/other-topic-v5 1.4/close",
        steps=on(V3, *session(), send(Publish("{}", 1, 5, "v1/devices/me/telemetry")), get(Ack(5), Closed()))
        | on(
            V5,
            *session(),
            send(Publish("{}", 1, 5, "v1/devices/me/telemetry")),
            get(Ack(5, 0x90), Disconnected(0x90), Closed()),
        ),
    ),
    Case(
        id="topics/other-qos0",
        says="So does one at QoS 0, without a PUBACK.",
        cites="1.2/other-topic-qos0 1.4/close",
        steps=on(V3, *session(), send(Publish("{}", 0, topic="v1/devices/me/telemetry")), get(Closed()))
        | on(
            V5,
            *session(),
            send(Publish("{}", 0, topic="v1/devices/me/telemetry")),
            get(Disconnected(0x90), Closed()),
        ),
    ),
    Case(
        id="topics/variants",
        says="There are no variants of the request topic: nothing is made.",
        cites="1.3/topics",
        steps=on(
            V3,
            *(
                step
                for topic in (
                    "provision/request",
                    "/provision",
                    "/provision/request/",
                    "/Provision/Request",
                    "/provision/request/j",
                    RESPONSE,
                )
                for step in (
                    send(Connect(), link=topic),
                    get(Connack(), link=topic),
                    send(Publish(request(), 0, topic=topic), link=topic),
                    get(Closed(), link=topic),
                )
            ),
            Devices(0),
        )
        | on(
            V5,
            *session(),
            send(Publish(request(), 0, topic="/provision")),
            get(Disconnected(0x90), Closed()),
            Devices(0),
        ),
    ),
    Case(
        id="topics/subscribed",
        says="The response topic is granted at QoS 0 or 1; who asks for 2 gets 1.",
        cites="1.2/subscribe 1.2/suback",
        steps=on_mqtt(
            *session(),
            *(
                step
                for qos in (0, 1, 2)
                for step in (send(Subscribe(qos + 9, ((RESPONSE, qos),))), get(Suback((min(qos, 1),), qos + 9)))
            ),
        ),
    ),
    Case(
        id="topics/other-filters",
        says="Other filters are refused, one by one, and the session stays.",
        cites="1.2/subscribe-other 1.2/suback",
        steps=on(
            V3,
            *session(),
            *(
                step
                for filter_ in ("#", "+", "/provision/#", "/provision/+", "provision/response", "$SYS/#")
                for step in (send(Subscribe(3, ((filter_, 0),))), get(Suback((0x80,), 3)))
            ),
            send(ASKED),
            get(GRANTED),
        )
        | on(
            V5,
            *session(),
            *(
                step
                for filter_ in ("#", "+", "/provision/#", "/provision/+", "provision/response", "$SYS/#")
                for step in (send(Subscribe(3, ((filter_, 0),))), get(Suback((0x8F,), 3)))
            ),
            send(ASKED),
            get(GRANTED),
        ),
    ),
    Case(
        id="topics/many-filters",
        says="Several filters in one SUBSCRIBE get a code each.",
        cites="1.2/subscribe-many",
        steps=on(
            V3, *session(), send(Subscribe(3, (("a", 1), (RESPONSE, 1), ("#", 2)))), get(Suback((0x80, 1, 0x80), 3))
        )
        | on(V5, *session(), send(Subscribe(3, (("a", 1), (RESPONSE, 1), ("#", 2)))), get(Suback((0x8F, 1, 0x8F), 3))),
    ),
    Case(
        id="topics/unsubscribed",
        says="UNSUBSCRIBE is answered, whatever it names, and requests are served afterwards.",
        cites="1.2/unsubscribe",
        steps=on_mqtt(
            *session(),
            send(Subscribe(1, ((RESPONSE, 0),))),
            get(Suback((0,))),
            send(Unsubscribe(2, (RESPONSE, "other")), Unsubscribe(3)),
            get(Unsuback((0x00, 0x8F), 2), Unsuback((0x11,), 3)),
            send(ASKED),
            get(GRANTED),
        ),
    ),
    Case(
        id="topics/ping",
        says="PINGREQ is answered.",
        cites="1.2/pingreq 1.1/keep-alive",
        steps=on_mqtt(*session(), send(Pingreq(), Pingreq()), get(Pingresp(), Pingresp())),
    ),
    Case(
        id="topics/disconnect",
        says="DISCONNECT ends the connection.",
        cites="1.2/disconnect",
        steps=on_mqtt(*session(), send(Bye()), get(Closed())),
    ),
    Case(
        id="topics/acknowledgements",
        says="Acknowledgements of what was never sent are ignored; 3.x completes a PUBREL.",
        cites="1.2/acknowledgements",
        steps=on(
            V3,
            *session(),
            send(*(Acknowledge(kind, 77) for kind in ("PUBACK", "PUBREC", "PUBCOMP"))),
            send(Acknowledge("PUBREL", 77), ASKED),
            get(Ack(77, kind="PUBCOMP"), GRANTED),
        )
        | on(
            V5,
            *session(),
            send(*(Acknowledge(kind, 77) for kind in ("PUBACK", "PUBREC", "PUBREL", "PUBCOMP")), ASKED),
            get(GRANTED),
        ),
    ),
)

_REQUESTS = (
    Case(
        id="requests/qos0",
        says="At QoS 0 there is the reply alone; unsubscribed, it has QoS 1.",
        cites="1.2/unsubscribed 1.3/3-reply",
        steps=on_mqtt(*session(), send(ASKED), get(GRANTED)),
    ),
    Case(
        id="requests/qos1",
        says="At QoS 1 the PUBACK comes first.",
        cites="1.3/3-puback 1.2/unsubscribed",
        steps=on_mqtt(*session(), send(Publish(request(), 1, 900)), get(Ack(900), GRANTED)),
    ),
    Case(
        id="requests/granted-qos",
        says="The reply has the QoS that was granted; packet ids count from 1.",
        cites="1.3/3-reply 1.2/subscribe",
        steps=on_mqtt(
            *session(),
            send(Subscribe(1, ((RESPONSE, 0),)), _named("a")),
            get(Suback((0,)), _reply("a", qos=0)),
            send(Subscribe(2, ((RESPONSE, 1),)), _named("b")),
            get(Suback((1,), 2), _reply("b", packet_id=1)),
            send(Unsubscribe(3), _named("c")),
            get(Unsuback((0,), 3), _reply("c", packet_id=2)),
        ),
    ),
    Case(
        id="requests/many",
        says="Several requests in one write are answered in their order, acknowledged or not.",
        cites="1.2/requests 1.3/3-unacknowledged 1.3/3-puback",
        steps=on_mqtt(
            *session(),
            send(*(_named(str(n), 1, n) for n in range(1, 6))),
            *(get(Ack(n), _reply(str(n), packet_id=n)) for n in range(1, 6)),
            Devices(5),
        ),
    ),
    Case(
        id="requests/after-failure",
        says="After a refusal the session goes on.",
        cites="1.2/requests 1.4/not-found 1.4/failure",
        steps=on_mqtt(
            *session(),
            send(Publish(request(provisionDeviceSecret="wrong"), 0)),
            get(Reply(NOT_FOUND)),
            send(ASKED),
            get(Reply(Granted(), packet_id=2)),
            send(ASKED),
            get(Reply(FAILURE, packet_id=3)),
        ),
    ),
    Case(
        id="requests/format",
        says="Each reply has the format of its request: JSON is answered in JSON after protobuf, too.",
        cites="1.3/2-per-request 1.3/2-protobuf",
        steps=on_mqtt(
            *session(),
            send(Publish(proto(name="«tag»a"), 0)),
            get(Reply(Granted(name="«tag»a", protobuf=True))),
            send(_named("b")),
            get(_reply("b", packet_id=2)),
            send(Publish(Proto(()), 0)),
            get(Reply(replace(NOT_FOUND, protobuf=True), packet_id=3)),
        ),
    ),
    Case(
        id="requests/private",
        says="Nobody else gets the reply, subscribed under the same client id or not.",
        cites="ours/private",
        steps=on_mqtt(
            send(Connect("same"), Subscribe(), link="other"),
            get(Connack(), Suback(), link="other"),
            *session(Connect("same")),
            send(Subscribe(), ASKED),
            get(Suback(), GRANTED),
            send(Pingreq(), link="other"),
            get(Pingresp(), link="other"),
        ),
    ),
    Case(
        id="requests/retained",
        says="A retained request is a request; its reply is not retained.",
        cites="1.3/3-reply",
        steps=on(V3, *session(), send(Publish(request(), 0, retain=True)), get(GRANTED)),
    ),
    Case(
        id="requests/correlation",
        says="Correlation Data comes back; a Response Topic of the client's own does not matter.",
        cites="4.3/correlation",
        steps=on(
            V5,
            *session(),
            send(Publish(request(), 1, 1, properties=b"\x09\0\x03\x01\0\xff\x08\0\x05other")),
            get(Ack(), Reply(Granted(), correlation=b"\x01\0\xff")),
        ),
    ),
    Case(
        id="requests/qos2",
        says="QoS 2: MQTT 5 is told that the maximum is 1; 3.1.1 goes through PUBREC, PUBREL and PUBCOMP.",
        cites="1.3/4-qos2",
        steps=on(
            V3,
            *session(),
            send(Publish(request(), 2, 8)),
            get(Ack(8, kind="PUBREC"), GRANTED),
            send(Acknowledge("PUBREL", 8)),
            get(Ack(8, kind="PUBCOMP")),
            Devices(1),
        )
        | on(V5, *session(), send(Publish(request(), 2, 8)), get(Disconnected(0x9B), Closed()), Devices(0)),
    ),
)

_ERRORS = (
    Case(
        id="errors/undecodable-qos0",
        says="Neither JSON nor protobuf at QoS 0: the end, in MQTT 5 with DISCONNECT 0x99.",
        cites="1.4/undecodable-v3 1.4/undecodable-v5 1.4/close",
        steps=on(V3, *session(), send(Publish("hello", 0)), get(Closed()))
        | on(V5, *session(), send(Publish("hello", 0)), get(Disconnected(0x99), Closed())),
    ),
    Case(
        id="errors/undecodable-qos1",
        says="At QoS 1: the end without PUBACK; in MQTT 5 PUBACK 0x99, and the next request is served.",
        cites="1.4/undecodable-v3 1.4/undecodable-v5",
        steps=on(V3, *session(), send(Publish("hello", 1, 4)), get(Closed()))
        | on(V5, *session(), send(Publish("hello", 1, 4)), get(Ack(4, 0x99)), send(ASKED), get(GRANTED)),
    ),
    Case(
        id="errors/missing-qos0",
        says="A missing member is answered at QoS 0 too, and the session stays.",
        cites="1.4/missing 1.4/null 1.4/credentials-type",
        steps=on_mqtt(
            *session(),
            send(Publish("{}", 0)),
            get(Reply(invalid("provisionDeviceKey"))),
            send(Publish(request(provisionDeviceSecret=None), 0)),
            get(Reply(invalid("provisionDeviceSecret"), packet_id=2)),
            send(Publish(request(credentialsType="?"), 0)),
            get(Reply(invalid("credentialsType"), packet_id=3)),
        ),
    ),
    Case(
        id="errors/empty-qos0",
        says="An empty payload at QoS 0: the reply 08 02.",
        cites="1.3/2-empty",
        steps=on_mqtt(
            *session(),
            send(Publish(b"", 0)),
            get(Reply(replace(NOT_FOUND, protobuf=True))),
        ),
    ),
    Case(
        id="errors/too-large",
        says="A packet over the limit ends the connection before all of it has come.",
        cites="1.4/too-large 1.4/close",
        steps=on(V3, *session(), send(Raw(b"\x30\xff\xff\xff\x7f")), get(Closed()))
        | on(V5, *session(), send(Raw(b"\x30\xff\xff\xff\x7f")), get(Disconnected(0x95), Closed())),
    ),
    Case(
        id="errors/malformed",
        says="A malformed packet ends the connection: a PUBLISH of QoS 3, a length of five bytes.",
        cites="1.4/malformed 1.4/close",
        steps=on(
            V3,
            *session(),
            send(Raw(b"\x36\x05\0\x01a\0\x01")),
            get(Closed()),
            send(Connect(), Raw(b"\x30\xff\xff\xff\xff\x01"), link="b"),
            get(Connack(), Closed(), link="b"),
        )
        | on(
            V5,
            *session(),
            send(Raw(b"\x36\x06\0\x01a\0\x01\0")),
            get(Disconnected(0x81), Closed()),
            send(Connect(), Raw(b"\x30\xff\xff\xff\xff\x01"), link="b"),
            get(Connack(), Disconnected(0x81), Closed(), link="b"),
        ),
    ),
    Case(
        id="errors/lenient",
        says="Lenient JSON at QoS 0.",
        cites="1.3/1-lenient",
        steps=on_mqtt(*session(), send(Publish(raw("{~; 'deviceName' = «tag» /* mine */}"), 0)), get(GRANTED)),
    ),
)

CASES = (*_CONNECT, *_TOPICS, *_REQUESTS, *_ERRORS)

"""What ThingsBoard's own device SDKs send, byte for byte, and what they cannot do without."""

from tests.conformance.cases.credentials import BASIC, X509, basic
from tests.conformance.clients.mqtt import (
    RESPONSE_TOPIC,
    Bye,
    Closed,
    Connack,
    Publish,
    Raw,
    Suback,
    Subscribe,
    Unsuback,
    Unsubscribe,
)
from tests.conformance.model import FAILURE, NOT_FOUND, Case, Granted, Http, Reply, Stored, Transport
from tests.conformance.requests import Json, get, on, request, send


def _connect(client_id: bytes, user_name: bytes | None, keep_alive: int) -> Raw:
    """CONNECT of MQTT 3.1.1 with a clean session."""
    flags = 0x02 if user_name is None else 0x82
    body = b"\0\x04MQTT\x04" + bytes((flags, 0, keep_alive, 0, len(client_id))) + client_id
    if user_name is not None:
        body += bytes((0, len(user_name))) + user_name
    return Raw(bytes((0x10, len(body))) + body)


PYTHON = _connect(b"5dFzKw0y3jTqLr9a", b"provision", 60)
CPP = _connect(b"provision", b"provision", 15)
MICROPYTHON = Raw(
    bytes.fromhex("10 15 00 04 4d 51 54 54 04 02 00 0a 00 09 70 72 6f 76 69 73 69 6f 6e".replace(" ", ""))
)
SUBSCRIBE = Subscribe(1, ((RESPONSE_TOPIC, 0),))


def _publish(**members: Json) -> Publish:
    return Publish(request(**members), 0)


_MQTT = (
    Case(
        id="sdk/python",
        says="Subscribes and publishes in one go, and sends a null for every member it has no value for.",
        cites="1.5/python-mqtt 1.4/null 1.3/3-reply 1.2/suback",
        steps=on(
            Transport.MQTT3,
            send(PYTHON),
            get(Connack()),
            send(SUBSCRIBE, _publish(token=None, gateway=None, username=None, password=None, clientId=None, hash=None)),
            get(Suback((0,)), Reply(Granted(), qos=0)),
            send(Bye()),
            get(Closed()),
        ),
    ),
    Case(
        id="sdk/python-basic",
        says="MQTT basic with a client id alone: user name and password are null.",
        cites="1.5/python-mqtt 1.4/null 4.3/basic",
        steps=on(
            Transport.MQTT3,
            send(PYTHON),
            get(Connack()),
            send(SUBSCRIBE, _publish(credentialsType=BASIC, username=None, password=None, clientId="c-«tag»")),
            get(Suback((0,)), Reply(basic("c-«tag»"), qos=0)),
        ),
    ),
    Case(
        id="sdk/python-refused",
        says="A refusal must have `errorMsg`: the SDK reads it unasked.",
        cites="1.5/python-mqtt 4.3/refusal",
        steps=on(
            Transport.MQTT3,
            send(PYTHON),
            get(Connack()),
            send(SUBSCRIBE, _publish(provisionDeviceKey="nobody's")),
            get(Suback((0,)), Reply(NOT_FOUND, qos=0)),
        ),
    ),
    Case(
        id="sdk/cpp",
        says="Client id and user name both `provision`; unsubscribes after the reply, then says goodbye.",
        cites="1.5/cpp 1.2/unsubscribe 1.1/client-id",
        steps=on(
            Transport.MQTT3,
            send(CPP),
            get(Connack()),
            send(Subscribe(2, ((RESPONSE_TOPIC, 0),))),
            get(Suback((0,), 2)),
            send(_publish(credentialsType=BASIC, username="u-«tag»", password="p", clientId="c-«tag»")),
            get(Reply(basic("c-«tag»", "u-«tag»", "p"), qos=0)),
            send(Unsubscribe(3, (RESPONSE_TOPIC,))),
            get(Unsuback((0,), 3)),
            send(Bye()),
            get(Closed()),
        ),
    ),
    Case(
        id="sdk/micropython",
        says="Client id `provision`, no user name; what comes right behind its PUBLISH is the reply.",
        cites="1.5/micropython 1.1/trigger 1.1/connack 1.3/3-reply",
        steps=on(
            Transport.MQTT3,
            send(MICROPYTHON),
            get(Connack()),
            send(SUBSCRIBE),
            get(Suback((0,))),
            send(_publish()),
            get(Reply(Granted(), qos=0)),
        ),
    ),
    Case(
        id="sdk/gateway",
        says="A gateway names itself and brings fifteen letters each of client id, user name and password.",
        cites="1.5/gateway 4.1/gateway",
        steps=on(
            Transport.MQTT3,
            send(PYTHON),
            get(Connack()),
            send(
                SUBSCRIBE,
                _publish(
                    deviceName="Gateway «tag»",
                    gateway=True,
                    credentialsType=BASIC,
                    username="qwertyuiopasdfg",
                    password="hjklzxcvbnmqwer",
                    clientId="tyuiopasdfghjkl",
                ),
            ),
            get(
                Suback((0,)),
                Reply(
                    Granted(
                        name="Gateway «tag»",
                        type=BASIC,
                        value={
                            "clientId": "tyuiopasdfghjkl",
                            "userName": "qwertyuiopasdfg",
                            "password": "hjklzxcvbnmqwer",
                        },
                    ),
                    qos=0,
                ),
            ),
            Stored("Gateway «tag»", gateway=True),
        ),
    ),
    Case(
        id="sdk/script-x509",
        says="A script sends its PEM and finds it in the reply, without header, footer and line ends.",
        cites="1.5/scripts 5.7/normalise",
        steps=on(
            Transport.MQTT3,
            send(PYTHON),
            get(Connack()),
            send(SUBSCRIBE, _publish(credentialsType=X509, hash="«pem»")),
            get(Suback((0,)), Reply(Granted(type=X509, value="«body»"), qos=0)),
        ),
    ),
)

_HTTP = (
    Case(
        id="sdk/python-http",
        says="Raises on any status but 200 before it reads why.",
        cites="1.5/python-http 2/not-found 2/failure",
        steps=on(
            Transport.HTTP,
            *(
                Http(
                    payload=payload,
                    headers={"Content-Type": "application/json", "Accept": "*/*"},
                    expect=expect,
                    status=200,
                )
                for payload, expect in (
                    (request(), Granted()),
                    (request(), FAILURE),
                    (request(provisionDeviceKey="nobody's"), NOT_FOUND),
                )
            ),
        ),
    ),
)

CASES = (*_MQTT, *_HTTP)

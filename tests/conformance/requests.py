"""Short ways to write the steps of cases."""

import json
from collections.abc import Mapping
from dataclasses import replace
from types import EllipsisType

from tests.conformance.clients import mqtt
from tests.conformance.clients.protobuf import Proto
from tests.conformance.model import (
    UNDECODABLE,
    Ask,
    Get,
    Granted,
    Refused,
    Reply,
    Send,
    Step,
    Transport,
)

Steps = tuple[Step, ...]
Json = str | int | float | bool | None | list["Json"] | dict[str, "Json"]

NAME = "«tag»"


def request(**members: Json | EllipsisType) -> str:
    """A request: key, secret and name of the case's own unless given; `...` leaves a member out."""
    usual: dict[str, Json | EllipsisType] = {
        "provisionDeviceKey": "«key»",
        "provisionDeviceSecret": "«secret»",
        "deviceName": NAME,
    }
    return json.dumps({k: v for k, v in (usual | members).items() if v is not ...}, ensure_ascii=False)


def raw(text: str) -> str:
    """A request as text; ~ stands for the members with key and secret."""
    return text.replace("~", '"provisionDeviceKey":"«key»","provisionDeviceSecret":"«secret»"')


def proto(
    *extra: tuple[int, int | str | bytes | Proto],
    name: str = NAME,
    type_: int = 0,
    key: str = "«key»",
    secret: str = "«secret»",
    credentials: Proto | None = None,
    gateway: bool = False,
) -> Proto:
    """A request in protobuf; what is empty or 0 is left out, as proto3 does."""
    keys = Proto(tuple((number, text) for number, text in ((1, key), (2, secret)) if text))
    fields: list[tuple[int, int | str | bytes | Proto]] = [(1, name)] if name else []
    fields += [(2, type_)] if type_ else []
    fields += [(3, keys)]
    fields += [(4, credentials)] if credentials is not None else []
    fields += [(5, 1)] if gateway else []
    return Proto((*fields, *extra))


def token_proto(token: str) -> Proto:
    """CredentialsDataProto with a token."""
    return Proto(((1, Proto(((1, token),))),))


def hash_proto(hash_: str) -> Proto:
    """CredentialsDataProto with a certificate."""
    return Proto(((2, Proto(((1, hash_),))),))


def basic_proto(client_id: str = "", user_name: str = "", password: str = "") -> Proto:
    """CredentialsDataProto with MQTT basic credentials."""
    parts = ((1, client_id), (2, user_name), (3, password))
    return Proto(((3, Proto(tuple((number, text) for number, text in parts if text))),))


def ask(expect: Granted | Refused, **members: Json | EllipsisType) -> Ask:
    """One request in JSON."""
    return Ask(request(**members), expect)


def ask_proto(payload: Proto | bytes, expect: Granted | Refused) -> Ask:
    """One request in protobuf, answered in it; over HTTP it is no request."""
    return Ask(payload, replace(expect, protobuf=True), on={Transport.HTTP: UNDECODABLE})


def send(*packets: mqtt.ClientPacket, link: str = "") -> Send:
    """Packets in one write."""
    return Send(packets, link)


def get(*packets: mqtt.ServerPacket | Reply, link: str = "") -> Get:
    """The packets that come next."""
    return Get(packets, link)


def session(connect: mqtt.Connect | None = None) -> Steps:
    """A provision session, opened."""
    return (send(connect or mqtt.Connect()), get(mqtt.Connack()))


def on_mqtt(*steps: Step) -> Mapping[Transport, Steps]:
    """The same steps for both versions."""
    return {Transport.MQTT3: steps, Transport.MQTT5: steps}


def on(transport: Transport, *steps: Step) -> dict[Transport, Steps]:
    """Steps for one transport; joined with | for several."""
    return {transport: steps}

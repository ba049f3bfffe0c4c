"""What a reply must be, byte for byte but for what the server chooses."""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from tests.conformance.clients.protobuf import varint
from tests.conformance.model import Granted, Refused

TOKEN = re.compile("[A-Za-z0-9]{32}")
NAME = re.compile("[A-Za-z0-9]{20}")
_UUID = re.compile("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")

_STATUSES = {"SUCCESS": 1, "NOT_FOUND": 2, "FAILURE": 3}
_TYPES = {"ACCESS_TOKEN": 0, "X509_CERTIFICATE": 1, "MQTT_BASIC": 2}

Value = str | Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Receipt:
    """What a SUCCESS said. Its id and name are not in a protobuf reply."""

    type: str
    value: Value
    device_id: str | None
    name: str | None


def check_granted(body: bytes, expected: Granted, fill: Callable[[str], str]) -> Receipt:
    """Compare a reply with what is expected of it; fill: puts values in for placeholders."""
    receipt = _read_protobuf(body) if expected.protobuf else _read_json(body)
    assert receipt.type == expected.type
    if expected.value is not None:
        assert receipt.value == _filled(expected.value, fill)
    elif expected.type == "ACCESS_TOKEN" and expected.same_as is None:
        assert isinstance(receipt.value, str)
        assert TOKEN.fullmatch(receipt.value)
    if not expected.protobuf:
        assert receipt.name is not None
        if expected.name is None:
            assert NAME.fullmatch(receipt.name)
        else:
            assert receipt.name == fill(expected.name)
    return receipt


def check_refused(body: bytes, expected: Refused) -> None:
    """Compare a reply with what is expected of it."""
    if expected.protobuf:
        assert body == bytes((8, _STATUSES[expected.status]))
        return
    reply = json.loads(body)
    retry = ["retryAfter"] if expected.retry_after is not None else []
    assert list(reply) == ["errorMsg", "status", "provisionDeviceStatus", *retry]
    if expected.retry_after is not None:
        assert expected.retry_after <= reply["retryAfter"] <= 2 * expected.retry_after
    assert (reply["status"], reply["provisionDeviceStatus"]) == (expected.status, expected.stage or expected.status)
    assert expected.error in reply["errorMsg"] if expected.invalid else expected.error == reply["errorMsg"]
    _check_compact(body, reply)


def check_error(body: bytes) -> None:
    """What HTTP says of a request that ThingsBoard has no status for."""
    reply = json.loads(body)
    assert list(reply) == ["errorMsg", "status", "provisionDeviceStatus"]
    assert reply["errorMsg"]
    assert reply["status"] == "FAILURE"


def _read_json(body: bytes) -> Receipt:
    reply = json.loads(body)
    members = ["credentialsValue", "credentialsType", "status", "provisionDeviceStatus", "deviceId", "deviceName"]
    if reply.get("credentialsType") == "ACCESS_TOKEN":
        members.append("accessToken")
        assert reply["accessToken"] == reply["credentialsValue"]
    assert list(reply) == members
    assert reply["status"] == reply["provisionDeviceStatus"] == "SUCCESS"
    assert _UUID.fullmatch(reply["deviceId"])
    _check_compact(body, reply)
    return Receipt(reply["credentialsType"], reply["credentialsValue"], reply["deviceId"], reply["deviceName"])


def _check_compact(body: bytes, reply: object) -> None:
    assert body == json.dumps(reply, separators=(",", ":"), ensure_ascii=False).encode()


def _read_protobuf(body: bytes) -> Receipt:
    """Status 1, then the type unless it is 0, then the value; nothing else fits."""
    for type_, number in _TYPES.items():
        head = b"\x08\x01" + (bytes((0x10, number)) if number else b"") + b"\x1a"
        for width in (1, 2, 3):
            value = body[len(head) + width :]
            if body == head + varint(len(value)) + value:
                text = value.decode()
                return Receipt(type_, json.loads(text) if type_ == "MQTT_BASIC" else text, None, None)
    raise AssertionError(f"not the bytes of a granted reply: {len(body)} bytes")


def _filled(value: Value, fill: Callable[[str], str]) -> Value:
    return fill(value) if isinstance(value, str) else {name: fill(part) for name, part in value.items()}

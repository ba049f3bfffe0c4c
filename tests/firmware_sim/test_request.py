import re

import msgspec
import pytest

from firmware_sim.request import Request, new_nonce


def test_nonces_are_long_hex_and_never_the_same() -> None:
    nonces = {new_nonce() for _ in range(100)}
    assert len(nonces) == 100
    assert all(re.fullmatch(r"[0-9a-f]{64}", nonce) for nonce in nonces)


def test_members_have_thingsboards_names() -> None:
    request = Request("n", "d", "MQTT_BASIC", "t", "u", "p", "c", "h", gateway=True)
    assert msgspec.json.decode(request.body("key", "secret")) == {
        "provisionDeviceKey": "key",
        "provisionDeviceSecret": "secret",
        "requestNonce": "n",
        "deviceName": "d",
        "credentialsType": "MQTT_BASIC",
        "token": "t",
        "username": "u",
        "password": "p",
        "clientId": "c",
        "hash": "h",
        "gateway": True,
    }


def test_unset_members_are_absent() -> None:
    assert Request("n").body("k", "s") == (b'{"provisionDeviceKey":"k","provisionDeviceSecret":"s","requestNonce":"n"}')


def test_a_repeat_is_the_same_to_the_byte() -> None:
    request = Request(new_nonce(), "d", "ACCESS_TOKEN", token="t")
    remembered = msgspec.json.decode(msgspec.json.encode(request), type=Request)
    assert remembered.body("k", "s") == request.body("k", "s")


def test_an_unknown_member_in_flash_is_an_error() -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(b'{"requestNonce":"n","nonce":"n"}', type=Request)

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firmware_sim.errors import BadReply, NoAnswer, Pending, Refused, SimulatorError
from firmware_sim.reply import Reply

BASIC = {"clientId": "c", "userName": "u", "password": "p"}


def parse(**members: object) -> Reply:
    return Reply.parse(json.dumps(members).encode())


def test_success_as_thingsboards_code_sends_it() -> None:
    reply = Reply.parse(b'{"credentialsValue":"tok","credentialsType":"ACCESS_TOKEN","status":"SUCCESS"}')
    assert reply == Reply("ACCESS_TOKEN", "tok")


def test_success_as_thingsboards_documents_show_it() -> None:
    reply = parse(deviceId="id", accessToken="tok", provisionDeviceStatus="SUCCESS")
    assert reply == Reply("ACCESS_TOKEN", "tok", device_id="id")


def test_everything_a_superset_tells() -> None:
    reply = parse(
        status="SUCCESS",
        provisionDeviceStatus="SUCCESS",
        credentialsType="X509_CERTIFICATE",
        credentialsValue="MIIB",
        deviceId="id",
        deviceName="d",
        somethingNew=[1],
    )
    assert reply == Reply("X509_CERTIFICATE", "MIIB", "d", "id")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (BASIC, BASIC),
        ({"clientId": "c"}, {"clientId": "c", "userName": None, "password": None}),
        (
            {"clientId": "", "userName": "u", "password": None},
            {"clientId": "", "userName": "u", "password": None},
        ),
    ],
)
def test_mqtt_basic(value: dict[str, Any], expected: dict[str, Any]) -> None:
    reply = parse(status="SUCCESS", credentialsType="MQTT_BASIC", credentialsValue=value)
    assert reply.credentials_value == expected


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"status": "NOT_FOUND", "errorMsg": "no"}, "NOT_FOUND: no"),
        ({"provisionDeviceStatus": "FAILURE", "errorMsg": "no"}, "FAILURE: no"),
        ({"status": "FAILURE"}, "FAILURE"),
        ({"errorMsg": "no"}, "FAILURE: no"),
        ({"status": 500, "message": "no"}, "FAILURE: no"),
        ({"status": "FAILURE", "retryAfter": "soon"}, "FAILURE"),
    ],
)
def test_refusals(members: dict[str, Any], message: str) -> None:
    with pytest.raises(Refused) as caught:
        parse(**members)
    assert str(caught.value) == message


def test_try_again_later_is_no_verdict() -> None:
    with pytest.raises(NoAnswer, match="busy") as caught:
        parse(status="FAILURE", errorMsg="busy", retryAfter=5)
    assert caught.value.retry_after == 5


@pytest.mark.parametrize(
    "members",
    [
        {},
        {"credentialsValue": "tok"},
        {"status": "SUCCESS"},
        {"status": "SUCCESS", "credentialsValue": ""},
        {"status": "SUCCESS", "credentialsValue": 7},
        {"status": "SUCCESS", "credentialsValue": None, "credentialsType": "ACCESS_TOKEN"},
        {"status": "SUCCESS", "credentialsValue": BASIC},
        {"status": "SUCCESS", "credentialsValue": "tok", "credentialsType": "MQTT_BASIC"},
        {"status": "SUCCESS", "credentialsValue": {}, "credentialsType": "MQTT_BASIC"},
        {"status": "SUCCESS", "credentialsValue": {"clientId": 1}, "credentialsType": "MQTT_BASIC"},
        {"status": "SUCCESS", "credentialsValue": "x", "credentialsType": "LWM2M_CREDENTIALS"},
        {"status": "SUCCESS", "credentialsValue": "x", "credentialsType": ["ACCESS_TOKEN"]},
    ],
)
def test_unusable(members: dict[str, Any]) -> None:
    with pytest.raises(BadReply):
        parse(**members)


def test_what_is_not_json_is_quoted_without_terminal_codes() -> None:
    with pytest.raises(BadReply) as caught:
        Reply.parse(b"\x1b[2J\x08\x02" + b"x" * 1000)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 150


def test_credentials_are_not_in_the_repr() -> None:
    assert "tok" not in repr(Reply("ACCESS_TOKEN", "tok"))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
member_names = st.sampled_from(
    [
        "status",
        "provisionDeviceStatus",
        "credentialsType",
        "credentialsValue",
        "accessToken",
        "errorMsg",
        "retryAfter",
    ]
)
member_values = json_values | st.sampled_from(["SUCCESS", "FAILURE", "ACCESS_TOKEN", "MQTT_BASIC"])


@given(
    st.binary(max_size=50)
    | json_values.map(lambda value: json.dumps(value).encode())
    | st.dictionaries(member_names, member_values).map(lambda members: json.dumps(members).encode())
)
def test_any_payload_is_a_reply_or_a_named_error(payload: bytes) -> None:
    try:
        reply = Reply.parse(payload)
    except SimulatorError as error:
        assert str(error)  # noqa: PT017 - an error is as good as a reply here
    else:
        assert reply.credentials_value


def test_who_waits_for_an_operator_is_to_ask_again() -> None:
    with pytest.raises(Pending) as caught:
        parse(status="FAILURE", errorMsg="wait", provisionDeviceStatus="PENDING", retryAfter=7)
    assert (str(caught.value), caught.value.retry_after) == ("FAILURE: wait", 7)
    with pytest.raises(Pending):
        parse(status="FAILURE", errorMsg="wait", provisionDeviceStatus="PENDING")

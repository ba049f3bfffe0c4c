import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provserver.core import uplink
from provserver.core.integration import NetworkKind
from provserver.core.telemetry import InvalidData
from provserver.core.uplink import Heard, HeardKind

TTS, CHIRPSTACK = NetworkKind.THINGS_STACK, NetworkKind.CHIRPSTACK

IDS = {
    "device_id": "eui-0018b20000000101",
    "application_ids": {"application_id": "sensors"},
    "dev_eui": "0018B20000000101",
    "join_eui": "70B3D57ED0000010",
    "dev_addr": "260B1234",
}
UP = {
    "end_device_ids": IDS,
    "correlation_ids": ["as:up:01"],
    "received_at": "2026-11-22T12:00:00.123456789Z",
    "uplink_message": {
        "f_port": 1,
        "f_cnt": 5,
        "frm_payload": "AQ==",
        "decoded_payload": {"temperature": 21.5, "V3": 1},
        "rx_metadata": [
            {"gateway_ids": {"gateway_id": "far"}, "rssi": -110, "channel_rssi": -110, "snr": -5.5},
            {"gateway_ids": {"gateway_id": "near"}, "rssi": -57, "snr": 9.25},
            {"gateway_ids": {"gateway_id": "mute"}},
        ],
    },
}
AT = datetime(2026, 11, 22, 12, 0, 0, 123457, tzinfo=UTC)


def encoded(document: Any) -> bytes:
    return json.dumps(document).encode()


def test_an_uplink_of_the_things_stack() -> None:
    assert uplink.decode(TTS, encoded(UP)) == Heard(
        HeardKind.UPLINK,
        "sensors",
        "eui-0018b20000000101",
        "0018B20000000101",
        "70B3D57ED0000010",
        AT,
        {"temperature": 21.5, "V3": 1},
        -57,
        9.25,
    )


def test_a_join_of_the_things_stack() -> None:
    heard = uplink.decode(TTS, encoded({"end_device_ids": IDS, "join_accept": {"session_key_id": "AX=="}}))
    assert heard is not None
    assert (heard.kind, heard.at, heard.rssi, heard.values) == (HeardKind.JOIN, None, None, {})


def test_what_is_neither_says_nothing() -> None:
    assert uplink.decode(TTS, encoded({"end_device_ids": IDS, "downlink_ack": {}})) is None
    assert uplink.decode(CHIRPSTACK, b"{}", "status") is None


def test_an_uplink_of_chirpstack() -> None:
    given = {
        "deduplicationId": "3ac7e3c4",
        "time": "2026-11-22T13:00:00.123457+01:00",
        "deviceInfo": {"applicationId": "17c82e96-be03", "deviceName": "Meter", "devEui": "0018b20000000101"},
        "fCnt": 10,
        "data": "AQ==",
        "object": {"temperature": 21.5},
        "rxInfo": [{"gatewayId": "0016c001f153a14c", "rssi": -57, "snr": 10}],
    }
    assert uplink.decode(CHIRPSTACK, encoded(given), "up") == Heard(
        HeardKind.UPLINK,
        "17c82e96-be03",
        "eui-0018b20000000101",
        "0018B20000000101",
        None,
        AT,
        {"temperature": 21.5},
        -57,
        10,
    )
    joined = uplink.decode(CHIRPSTACK, encoded({"deviceInfo": given["deviceInfo"]}), "join")
    assert joined is not None
    assert joined.kind is HeardKind.JOIN


@pytest.mark.parametrize(
    "document",
    [
        b"",
        b"[]",
        b"{}",
        b"\xff",
        b"[" * 100_000,
        encoded({"end_device_ids": {"device_id": ""}, "join_accept": {}}),
        encoded({"end_device_ids": {"device_id": "a\0b"}, "join_accept": {}}),
        encoded({"end_device_ids": IDS | {"dev_eui": "0018B2"}, "join_accept": {}}),
        encoded(UP | {"received_at": "yesterday"}),
        encoded(UP | {"uplink_message": {"decoded_payload": [1]}}),
        encoded(UP | {"padding": "x" * uplink.MAX_DOCUMENT}),
    ],
)
def test_what_no_network_sends_is_refused(document: bytes) -> None:
    with pytest.raises(InvalidData):
        uplink.decode(TTS, document)


@pytest.mark.parametrize("at", ["0001-01-01T00:00:00Z", "9999-12-31T23:59:59-12:00", "2026-11-22T12:00:00", ""])
def test_a_time_that_cannot_be_kept_is_none(at: str) -> None:
    heard = uplink.decode(TTS, encoded(UP | {"received_at": at}))
    assert heard is not None
    assert heard.at is None


@given(st.binary(max_size=200) | st.recursive(st.none() | st.integers() | st.text(max_size=5), st.lists).map(encoded))
def test_whatever_comes_is_read_or_refused(document: bytes) -> None:
    for network in NetworkKind:
        try:
            uplink.decode(network, document, "up")
        except InvalidData:
            continue

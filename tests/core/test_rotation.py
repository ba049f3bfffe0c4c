import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provserver.core import credentials as building
from provserver.core.decision import Reason, Refusal
from provserver.core.model import Credentials, CredentialsType, MqttBasic, Origin, SigningRequest, StoredCredentials
from provserver.core.rotation import Generated, InvalidRotation, Wanted, decide, read
from tests.pki import self_signed
from tests.requests import csr, text

TOKEN, NEXT = building.access_token("t" * 32), building.access_token("n" * 32)
CERTIFICATE = building.certificate(self_signed().pem)
X509 = "X509_CERTIFICATE"


def held(
    credentials: Credentials = TOKEN, origin: Origin = Origin.GENERATED, *, pending: bool = False
) -> StoredCredentials:
    return StoredCredentials(credentials, origin, pending, used=not pending)


def reason(verdict: object) -> Reason | None:
    return verdict.reason if isinstance(verdict, Refusal) else None


# --- reading


@pytest.mark.parametrize("payload", [b"", b"{}", b'{"credentialsType": "ACCESS_TOKEN"}', b'{"odd": 1}'])
def test_nothing_at_all_is_a_token(payload: bytes) -> None:
    assert read(payload) is Generated.TOKEN


def test_a_signing_request_is_read() -> None:
    wanted = read(json.dumps({"credentialsType": X509, "csr": text(csr())}).encode())
    assert isinstance(wanted, SigningRequest)
    assert wanted.common_name == "sensor-1"


def test_what_the_device_brings_is_read() -> None:
    assert read(b'{"token": "mine"}') == building.access_token("mine")
    assert read(json.dumps({"credentialsType": X509, "hash": self_signed().pem}).encode())
    basic = read(b'{"credentialsType": "MQTT_BASIC", "username": "u", "password": "p"}')
    assert isinstance(basic, Credentials)
    assert basic.value == MqttBasic("", "u", "p")


@pytest.mark.parametrize(
    "members",
    [
        {"csr": "x"},
        {"csr": "x", "credentialsType": "MQTT_BASIC"},
        {"csr": "x", "credentialsType": X509, "token": "t"},
        {"credentialsType": X509},
        {"credentialsType": "MQTT_BASIC"},
        {"token": "provision"},
        {"hash": "certificate without its type"},
    ],
)
def test_what_does_not_go_together_is_refused(members: dict[str, Any]) -> None:
    assert reason(read(json.dumps(members).encode())) is Reason.CREDENTIALS_INVALID


@pytest.mark.parametrize(
    "payload", [b"x", b"[]", b'"t"', b"\xff", b'{"token": 1}', b'{"credentialsType": "?"}', b"[" * 9999]
)
def test_what_is_no_request_is_told(payload: bytes) -> None:
    with pytest.raises(InvalidRotation):
        read(payload)


@given(st.binary(max_size=300))
def test_any_bytes_are_read_or_refused(payload: bytes) -> None:
    with suppress(InvalidRotation):
        read(payload)


# --- deciding


def test_new_ones_are_made_when_none_are_pending() -> None:
    for wanted in (Generated.TOKEN, NEXT, SigningRequest(b"key")):
        assert decide(wanted, [held()], static=False) is None


def test_asking_again_gives_the_pending_ones() -> None:
    pending = held(NEXT, pending=True)
    assert decide(Generated.TOKEN, [pending, held()], static=False) is pending
    supplied = held(NEXT, Origin.SUPPLIED, pending=True)
    assert decide(NEXT, [supplied, held()], static=False) is supplied


def test_other_wishes_replace_the_pending_ones() -> None:
    pending = [held(NEXT, pending=True), held()]
    assert decide(SigningRequest(b"key"), pending, static=False) is None
    assert decide(building.access_token("third"), pending, static=False) is None
    assert decide(Generated.TOKEN, [held(NEXT, Origin.SUPPLIED, pending=True), held()], static=False) is None


def test_what_is_held_cannot_follow_itself() -> None:
    assert reason(decide(TOKEN, [held()], static=False)) is Reason.OTHER_CREDENTIALS
    other_password = Credentials(CredentialsType.MQTT_BASIC, TOKEN.id, MqttBasic("", TOKEN.id, "p"))
    assert reason(decide(other_password, [held()], static=False)) is Reason.OTHER_CREDENTIALS


@pytest.mark.parametrize("wanted", [Generated.TOKEN, NEXT, SigningRequest(b"key")])
def test_an_operators_credentials_are_not_a_devices_to_replace(wanted: Wanted) -> None:
    assert reason(decide(wanted, [held(origin=Origin.IMPORTED)], static=False)) is Reason.CREDENTIALS_IMPORTED


def test_nor_is_a_static_token() -> None:
    assert reason(decide(Generated.TOKEN, [held()], static=True)) is Reason.CREDENTIALS_STATIC


def test_a_certificate_gives_way_to_a_certificate_alone() -> None:
    with_certificate = [held(CERTIFICATE, Origin.SUPPLIED)]
    for wanted in (Generated.TOKEN, NEXT):
        assert reason(decide(wanted, with_certificate, static=False)) is Reason.CREDENTIALS_TYPE
    assert decide(SigningRequest(b"key"), with_certificate, static=False) is None
    assert decide(building.certificate(self_signed().pem), with_certificate, static=False) is None

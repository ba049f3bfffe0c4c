import re
from dataclasses import replace

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from firmware_sim.credentials import Kind, draft, kind_of, strip_pem, verify
from firmware_sim.errors import BadReply
from firmware_sim.reply import Reply
from firmware_sim.request import Request
from tests.requests import signed


def granted(request: Request) -> Reply:
    """What a good server answers."""
    match kind_of(request):
        case Kind.GENERATED:
            return Reply("ACCESS_TOKEN", "g" * 32, request.device_name, "id")
        case Kind.TOKEN:
            return Reply("ACCESS_TOKEN", request.token or "", request.device_name, "id")
        case Kind.BASIC:
            value = {
                "clientId": request.client_id,
                "userName": request.username,
                "password": request.password,
            }
            return Reply("MQTT_BASIC", value, request.device_name, "id")
        case Kind.CSR:
            return Reply("X509_CERTIFICATE", signed(request.csr or ""), request.device_name, "id")
        case Kind.X509:
            return Reply("X509_CERTIFICATE", strip_pem(request.hash or ""), request.device_name, "id")


@pytest.mark.parametrize("kind", Kind)
def test_a_request_remembers_its_kind_and_accepts_what_it_asked_for(kind: Kind) -> None:
    made = draft(kind, "sensor-1")
    request = made.request
    assert kind_of(request) is kind
    verify(request, granted(request), made.private_key)
    verify(request, replace(granted(request), device_name=None), made.private_key)


@pytest.mark.parametrize("kind", Kind)
def test_gateway_is_asked_for_on_demand(kind: Kind) -> None:
    assert draft(kind, "sensor-1", gateway=True).request.gateway
    assert not draft(kind, "sensor-1").request.gateway


@pytest.mark.parametrize("kind", Kind)
def test_no_two_drafts_share_anything(kind: Kind) -> None:
    common = {"credentials_type", "gateway"}
    one, other = (msgspec.structs.asdict(draft(kind, None).request) for _ in range(2))
    assert not [name for name in one if one[name] is not None and one[name] == other[name] and name not in common]


def test_the_server_names_a_device_but_for_a_certificates_subject() -> None:
    assert draft(Kind.GENERATED, None).request.device_name is None
    assert draft(Kind.BASIC, None).request.device_name is None
    assert re.fullmatch(r"sim-[0-9a-f]{12}", draft(Kind.X509, None).request.device_name or "")


def test_a_token_is_32_alphanumerics() -> None:
    assert re.fullmatch(r"[A-Za-z0-9]{32}", draft(Kind.TOKEN, None).request.token or "")


def test_the_certificate_is_the_devices_own() -> None:
    made = draft(Kind.X509, "sensor-1")
    certificate = x509.load_pem_x509_certificate((made.request.hash or "").encode())
    key = serialization.load_pem_private_key((made.private_key or "").encode(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    assert key.curve.name == "secp256r1"
    assert certificate.public_key() == key.public_key()
    certificate.verify_directly_issued_by(certificate)
    assert [name.value for name in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)] == ["sensor-1"]


def test_the_private_key_is_not_in_the_request() -> None:
    made = draft(Kind.X509, "sensor-1")
    assert b"PRIVATE" not in made.request.body("k", "s")
    assert "PRIVATE" not in repr(made)


def test_a_long_name_still_fits_a_subject() -> None:
    request = draft(Kind.X509, "n" * 255).request
    assert request.device_name == "n" * 255
    assert x509.load_pem_x509_certificate((request.hash or "").encode()).subject.rfc4514_string() == "CN=" + "n" * 64


@pytest.mark.parametrize("kind", [Kind.TOKEN, Kind.BASIC, Kind.X509])
def test_other_credentials_than_offered_are_rejected(kind: Kind) -> None:
    request = draft(kind, "sensor-1").request
    theirs = granted(draft(kind, "sensor-1").request)
    for reply in (theirs, granted(Request("n", "sensor-1"))):
        with pytest.raises(BadReply, match="differ"):
            verify(request, reply)


@pytest.mark.parametrize("change", [lambda pem: pem + "\n", lambda pem: pem[:-1], str.lower])
def test_a_certificate_must_come_back_to_the_letter(change: object) -> None:
    assert callable(change)
    request = draft(Kind.X509, "sensor-1").request
    with pytest.raises(BadReply):
        verify(request, Reply("X509_CERTIFICATE", change(strip_pem(request.hash or ""))))


def test_a_reply_for_another_device_is_rejected() -> None:
    with pytest.raises(BadReply, match="another name"):
        verify(Request("n", "sensor-1"), Reply("ACCESS_TOKEN", "t", "sensor-2"))


def test_a_server_may_trim_a_name() -> None:
    verify(Request("n", " sensor-1 "), Reply("ACCESS_TOKEN", "t", "sensor-1"))


@given(st.text(st.characters(codec="ascii", categories=["L", "N"]), min_size=1), st.integers(1, 80))
def test_strip_pem_undoes_any_wrapping(body: str, width: int) -> None:
    lines = [body[start : start + width] for start in range(0, len(body), width)]
    for newline in ("\n", "\r\n"):
        pem = newline.join(["-----BEGIN CERTIFICATE-----", *lines, "-----END CERTIFICATE-----", ""])
        assert strip_pem(pem) == body

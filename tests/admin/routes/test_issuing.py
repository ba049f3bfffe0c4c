import base64

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from tests.admin.conftest import Caller
from tests.pki import Authority


async def test_a_profile_gets_a_ca_of_its_own(admin: Caller) -> None:
    await admin.ok("POST", "/profiles", {"name": "wifi-sensor"})
    assert (await admin("GET", "/profiles/wifi-sensor/ca")).code == "not_found"
    made = await admin.ok("POST", "/profiles/wifi-sensor/ca", {"name": "Sensors CA", "days": 100})
    assert made["subject"] == "CN=Sensors CA"
    assert await admin.ok("GET", "/profiles/wifi-sensor/ca") == made
    certificate = x509.load_pem_x509_certificate(made["certificates"].encode())
    assert certificate.fingerprint(certificate.signature_hash_algorithm).hex() == made["fingerprint"]  # type: ignore[arg-type]
    assert "PRIVATE" not in str(made)
    assert (await admin("POST", "/profiles/wifi-sensor/ca", {})).code == "conflict"
    assert (await admin("POST", "/profiles/wifi-sensor/ca", {"replace": True})).status == 201
    assert (await admin("POST", "/profiles/unknown/ca", {})).code == "not_found"


async def test_or_one_that_there_is(admin: Caller) -> None:
    await admin.ok("POST", "/profiles", {"name": "wifi-sensor"})
    authority = Authority.root("Ours")
    der = base64.b64encode(authority.certificate.public_bytes(Encoding.DER)).decode()
    path = "/profiles/wifi-sensor/ca/import"
    made = await admin.ok("POST", path, {"certificates": der, "key": authority.key_pem})
    assert made["subject"] == "CN=Ours"
    other = {"certificates": authority.pem, "key": Authority.root("Other").key_pem, "replace": True}
    wrong = await admin("POST", path, other)
    assert wrong.code == "invalid"
    assert "PRIVATE" not in wrong.body.decode()


async def test_credentials_give_way_to_others(admin: Caller) -> None:
    await admin.ok("POST", "/profiles", {"name": "wifi-sensor", "credentialsLifetime": 86_400})
    assert (await admin.ok("GET", "/profiles/wifi-sensor"))["credentialsLifetime"] == 86_400
    assert (await admin("PATCH", "/profiles/wifi-sensor", {"credentialsLifetime": 5})).code == "invalid"
    await admin.ok("POST", "/devices", {"name": "sensor-1", "profile": "wifi-sensor"})
    rotated = await admin.ok("POST", "/devices/sensor-1/rotate", {"overlap": 3600})
    assert rotated["credentialsType"] == "ACCESS_TOKEN"
    assert len(rotated["credentialsValue"]) == 32
    assert rotated["expireAt"] is not None
    again = await admin.ok("POST", "/devices/sensor-1/rotate", {})
    assert again["credentialsValue"] == rotated["credentialsValue"]
    shown = await admin.ok("GET", "/devices/sensor-1", credentials=True)
    assert [each["pending"] for each in shown["credentials"]] == [True, False]
    at_once = await admin.ok("POST", "/devices/sensor-1/rotate", {"overlap": 0})
    assert at_once["credentialsValue"] == rotated["credentialsValue"]
    assert at_once["expireAt"] is None
    await admin.ok("POST", "/devices/sensor-1/revoke")
    assert (await admin("POST", "/devices/sensor-1/rotate", {})).code == "conflict"

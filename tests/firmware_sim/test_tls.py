import ssl
from pathlib import Path

import pytest

from firmware_sim.errors import NoAnswer, Unauthorized, Untrusted, WrongUsage
from firmware_sim.pki import Factory
from firmware_sim.tls import ClientCertificate, PreSharedKey, Security, Trust, alert, client_context, failure
from tests.firmware_sim.conftest import Identity


def test_a_server_is_checked_by_name_and_ca(identity: Identity) -> None:
    context = client_context(Security(identity.trust))
    assert context.check_hostname
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert [ca["subject"] for ca in context.get_ca_certs()] == [((("commonName", "Test CA"),),)]


def test_insecure_checks_nothing() -> None:
    context = client_context(Security(Trust(insecure=True)))
    assert not context.check_hostname
    assert context.verify_mode is ssl.CERT_NONE


def test_without_a_ca_the_error_names_both_ways_out() -> None:
    with pytest.raises(WrongUsage, match=r"--ca .*--insecure"):
        client_context(Security())


@pytest.mark.parametrize("content", [b"", b"no PEM"])
def test_a_ca_file_must_be_one(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "ca.pem"
    file.write_bytes(content)
    with pytest.raises(WrongUsage, match=r"ca\.pem is no PEM file"):
        client_context(Security(Trust(file)))
    with pytest.raises(WrongUsage, match="cannot read"):
        client_context(Security(Trust(tmp_path / "missing")))


def test_a_certificate_is_read_with_its_key(factory: Factory, certificate: ClientCertificate) -> None:
    devices = factory.directory / "devices"
    assert ClientCertificate.read(devices / "sensor-1.pem", devices / "sensor-1.key") == certificate
    client_context(Security(Trust(insecure=True), certificate))


def test_a_key_of_another_certificate_is_refused(factory: Factory, tmp_path: Path) -> None:
    factory.device("sensor-2")
    devices = factory.directory / "devices"
    with pytest.raises(WrongUsage, match="key values mismatch"):
        ClientCertificate.read(devices / "sensor-2.pem", devices / "sensor-1.key")
    with pytest.raises(WrongUsage, match="cannot read"):
        ClientCertificate.read(tmp_path / "missing", devices / "sensor-1.key")
    (tmp_path / "empty").touch()
    with pytest.raises(WrongUsage, match="cannot be used"):
        ClientCertificate.read(tmp_path / "empty", tmp_path / "empty")


def test_keys_are_not_in_the_repr(certificate: ClientCertificate) -> None:
    assert "PRIVATE" not in repr(Security(certificate=certificate))
    assert "s3cret" not in repr(PreSharedKey("who", b"s3cret"))


@pytest.mark.parametrize(
    ("reason", "kind"),
    [
        ("TLSV1_ALERT_UNKNOWN_CA", Unauthorized),
        ("SSLV3_ALERT_BAD_CERTIFICATE", Unauthorized),
        ("TLSV13_ALERT_CERTIFICATE_REQUIRED", Unauthorized),
        ("tlsv1 alert unknown psk identity", Unauthorized),
        ("SSLV3_ALERT_HANDSHAKE_FAILURE", NoAnswer),
        ("TLSV1_ALERT_INTERNAL_ERROR", NoAnswer),
    ],
)
def test_what_an_alert_is_about(reason: str, kind: type) -> None:
    assert type(alert(reason)) is kind


def test_a_server_that_fails_the_check_is_not_trusted() -> None:
    error = ssl.SSLCertVerificationError()
    error.verify_message = "certificate has expired"
    assert isinstance(failure(error), Untrusted)
    assert "certificate has expired" in str(failure(error))

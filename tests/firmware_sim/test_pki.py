import stat
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID
from cryptography.x509.verification import PolicyBuilder, Store

from firmware_sim.errors import WrongUsage
from firmware_sim.pki import Factory


def chain_of(factory: Factory, name: str) -> list[x509.Certificate]:
    return x509.load_pem_x509_certificates(factory.device(name).chain)


def test_a_device_verifies_up_to_the_root(factory: Factory) -> None:
    root = x509.load_pem_x509_certificate(factory.root_file.read_bytes())
    leaf, intermediate = chain_of(factory, "sensor-7")
    verifier = PolicyBuilder().store(Store([root])).build_client_verifier()
    verified = verifier.verify(leaf, [intermediate])
    assert len(verified.chain) == 3
    assert verified.subjects == [x509.DNSName("sensor-7")]
    assert leaf.subject.rfc4514_string() == "CN=sensor-7"


def test_who_may_do_what(factory: Factory) -> None:
    leaf, intermediate = chain_of(factory, "sensor-7")
    constraints = [c.extensions.get_extension_for_class(x509.BasicConstraints).value for c in (leaf, intermediate)]
    assert [(c.ca, c.path_length) for c in constraints] == [(False, None), (True, 0)]
    usage = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    assert not leaf.extensions.get_extension_for_class(x509.KeyUsage).value.key_cert_sign


def test_a_name_that_is_no_host_name_stays_a_common_name(factory: Factory) -> None:
    leaf, _ = chain_of(factory, "line 7/ü")
    assert leaf.subject.rfc4514_string() == "CN=line 7/ü"
    with pytest.raises(x509.ExtensionNotFound):
        leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    assert (factory.directory / "devices" / "line%207%2F%C3%BC.pem").exists()


@pytest.mark.parametrize("name", ["", "n" * 65])
def test_a_name_must_fit_a_subject(factory: Factory, name: str) -> None:
    with pytest.raises(WrongUsage, match="1 to 64"):
        factory.device(name)


def test_what_is_made_is_kept(tmp_path: Path) -> None:
    first = Factory.create(tmp_path / "pki").device("sensor-1")
    again = Factory.create(tmp_path / "pki")
    assert again.device("sensor-1") == first
    assert again.device("sensor-2") != first
    assert again.intermediate == Factory.load(tmp_path / "pki").intermediate


def test_the_key_is_the_certificates(factory: Factory) -> None:
    device = factory.device("sensor-7")
    key = load_pem_private_key(device.private_key, None)
    assert key.public_key() == x509.load_pem_x509_certificate(device.chain).public_key()


def test_private_keys_are_for_their_owner_alone(factory: Factory) -> None:
    factory.device("sensor-7")
    for file in factory.directory.rglob("*.key"):
        assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_two_factories_differ(tmp_path: Path, factory: Factory) -> None:
    other = Factory.create(tmp_path)
    assert other.intermediate.subject != factory.intermediate.subject


def test_a_directory_without_is_named(tmp_path: Path) -> None:
    with pytest.raises(WrongUsage, match="firmware-sim pki init"):
        Factory.load(tmp_path)
    (tmp_path / "intermediate.pem").write_text("no PEM")
    (tmp_path / "intermediate.key").write_text("no PEM")
    with pytest.raises(WrongUsage, match="no certificates"):
        Factory.load(tmp_path)


def test_a_directory_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(WrongUsage, match="cannot write"):
        Factory.create(tmp_path / "file")

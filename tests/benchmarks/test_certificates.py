"""Certificates of devices, as servers and the generator read them."""

from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key

from benchmarks import certificates


@pytest.mark.parametrize("issued", [True, False])
def test_certificates_and_whom_to_trust(tmp_path: Path, issued: bool) -> None:
    made = certificates.make(tmp_path, "city", 3, issued=issued)
    trusted = x509.load_pem_x509_certificates(made.trusted.read_bytes())
    names = [each.subject.rfc4514_string() for each in made.devices]
    assert names == ["CN=city-000000", "CN=city-000001", "CN=city-000002"]
    if issued:
        (authority,) = trusted
        for each in made.devices:
            each.verify_directly_issued_by(authority)
    else:
        assert trusted == made.devices
        for each in made.devices:
            each.verify_directly_issued_by(each)
    key = load_pem_private_key(made.key.read_bytes(), None).public_key()
    assert all(each.public_key() == key for each in made.devices)
    content = made.der.read_bytes()
    for each in made.devices:
        der = each.public_bytes(Encoding.DER)
        assert content.startswith(len(der).to_bytes(4) + der)
        content = content[4 + len(der) :]
    assert content == b""

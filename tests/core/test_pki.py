from datetime import UTC, datetime, timedelta
from ipaddress import ip_address

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.verification import PolicyBuilder, Store

from provserver.core import pki

NOW = datetime(2030, 1, 1, tzinfo=UTC)
AUTHORITY = pki.make_authority("a CA", ec.generate_private_key(ec.SECP256R1()), 1, NOW)


def issue(*names: str) -> x509.Certificate:
    return pki.issue_server(AUTHORITY, ec.generate_private_key(ec.SECP256R1()), names, 2, NOW)


@pytest.mark.parametrize("name", ["localhost", "gw.example", "127.0.0.1", "::1"])
@pytest.mark.parametrize("later", [timedelta(), pki.SERVER_LIFETIME - timedelta(hours=1)], ids=["now", "at the end"])
def test_clients_verify_a_server_by_any_of_its_names(name: str, later: timedelta) -> None:
    certificate = issue("localhost", "gw.example", "127.0.0.1", "::1", "localhost")
    subject = x509.IPAddress(ip_address(name)) if name[0] in "1:" else x509.DNSName(name)
    verifier = PolicyBuilder().store(Store([AUTHORITY.certificate])).time(NOW + later).build_server_verifier(subject)
    assert verifier.verify(certificate, []) == [certificate, AUTHORITY.certificate]


def test_the_first_name_is_the_common_name() -> None:
    assert issue("gw.example", "localhost").subject.rfc4514_string() == "CN=gw.example"
    long = "x" * 60 + ".example"
    (common_name,) = issue(long).subject
    assert common_name.value == long[:64]


def test_international_names_are_encoded() -> None:
    names = issue("gerät.example").extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["xn--gert-noa.example"]


@pytest.mark.parametrize("name", ["", "a..b", "x" * 64 + ".example", "two words", "*", "-x", "x.-y", "300.1.1.1:80"])
def test_what_is_no_name_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="host name"):
        issue(name)


def test_keys_are_not_shown() -> None:
    assert "key" not in repr(AUTHORITY)

"""A development PKI: an authority, and the server certificates it issues. Keys, serials and time are passed in."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from ipaddress import ip_address
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

AUTHORITY_LIFETIME: Final = timedelta(days=3650)
SERVER_LIFETIME: Final = timedelta(days=825)  # what the strictest clients accept (Apple's)
_CLOCK_SKEW: Final = timedelta(hours=1)  # of devices that ask while their clocks are a little late
_MAX_COMMON_NAME: Final = 64  # RFC 5280, ub-common-name
_LABEL: Final = "[a-z0-9]([a-z0-9-]*[a-z0-9])?"
_HOST_NAME: Final = re.compile(rf"(?=.{{1,253}}\Z)(\*\.)?{_LABEL}(\.{_LABEL})*")


@dataclass(frozen=True, slots=True)
class Authority:
    """A certificate that issues others, and its key."""

    certificate: x509.Certificate
    key: EllipticCurvePrivateKey = field(repr=False)


def make_authority(
    name: str,
    key: EllipticCurvePrivateKey,
    serial_number: int,
    now: datetime,
    lifetime: timedelta = AUTHORITY_LIFETIME,
) -> Authority:
    """A self-signed authority for leaves only."""
    subject = _common_name(name)
    usage = key_usage(signs_certificates=True)
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    builder = _builder(subject, subject, serial_number, now, lifetime)
    certificate = (
        builder.public_key(key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(identifier, critical=False)
        .sign(key, hashes.SHA256())
    )
    return Authority(certificate, key)


def issue_server(
    authority: Authority, key: EllipticCurvePrivateKey, names: Iterable[str], serial_number: int, now: datetime
) -> x509.Certificate:
    """A server's certificate for host names and IP addresses, the first of which is its common name.

    Raises ValueError when a name cannot stand in a certificate.
    """
    names = list(dict.fromkeys(names))
    general_names = list(map(general_name, names))
    issuer = authority.certificate
    identifier = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    builder = _builder(_common_name(names[0]), issuer.subject, serial_number, now, SERVER_LIFETIME)
    return (
        builder.public_key(key.public_key())
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(key_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName(general_names), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier), critical=False)
        .sign(authority.key, hashes.SHA256())
    )


def _builder(
    subject: x509.Name, issuer: x509.Name, serial_number: int, now: datetime, lifetime: timedelta
) -> x509.CertificateBuilder:
    return x509.CertificateBuilder(
        issuer_name=issuer,
        subject_name=subject,
        serial_number=serial_number,
        not_valid_before=now - _CLOCK_SKEW,
        not_valid_after=now + lifetime,
    )


def _common_name(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name[:_MAX_COMMON_NAME])])


def general_name(name: str) -> x509.GeneralName:
    """A host name (`*.` for its first label is any) or an IP address, as certificates have them. Raises ValueError."""
    try:
        return x509.IPAddress(ip_address(name))
    except ValueError:
        pass
    try:
        host_name = name.encode("idna").decode().lower()
    except UnicodeError:
        host_name = ""
    if not _HOST_NAME.fullmatch(host_name):
        raise ValueError(f"{name!r} is neither a host name nor an IP address")
    return x509.DNSName(host_name)


def key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    """Signing certificates and revocation lists, or what else a key signs with."""
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )

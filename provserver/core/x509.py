"""Certificates as credentials: the text that ThingsBoard compares, and its fingerprint (spec thingsboard §5.7)."""

import base64
import hashlib
from datetime import datetime

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID

_END = "-----END CERTIFICATE-----"
_STRIPPED = ("-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----", "\n", "\r")


def normalise(text: str) -> str:
    """Strip header, footer and line breaks, and nothing else: spaces and tabs stay."""
    for part in _STRIPPED:
        text = text.replace(part, "")
    return text


def fingerprint(text: str) -> str:
    """Lower-case hex SHA3-256 (FIPS 202) of the normalised text: of the base64, not of the DER."""
    return hashlib.sha3_256(normalise(text).encode()).hexdigest()


def text_of(der: bytes) -> str:
    """A certificate as TLS presents it in the form that credentials have: standard base64 without line breaks."""
    return base64.b64encode(der).decode()


def issued_at(text: str) -> datetime | None:
    """From when on the certificate of this text is valid; None for a text that is no certificate."""
    certificate = _first(text)
    return None if certificate is None else certificate.not_valid_before_utc


def expires_at(text: str) -> datetime | None:
    """When the certificate of this text expires; None for a text that is no certificate."""
    certificate = _first(text)
    return None if certificate is None else certificate.not_valid_after_utc


def public_key(text: str) -> bytes | None:
    """The public key (SubjectPublicKeyInfo, DER) of the certificate of this text; None where there is none to read."""
    certificate = _first(text)
    try:
        if certificate is not None:
            return certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    except Exception:  # as below
        return None
    return None


def common_name(text: str) -> str:
    """The first common name of the subject of the certificate of this text; empty where there is none to read."""
    certificate = _first(text)
    return "" if certificate is None else first_common_name(certificate.subject)


def first_common_name(subject: x509.Name) -> str:
    """The first common name of a subject, or nothing."""
    names = subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(names[0].value) if names else ""


def pem(der: bytes) -> str:
    """A certificate's PEM."""
    text = text_of(der)
    lines = [text[at : at + 64] for at in range(0, len(text), 64)]
    return "\n".join(["-----BEGIN CERTIFICATE-----", *lines, "-----END CERTIFICATE-----", ""])


def _first(text: str) -> x509.Certificate | None:
    """The certificate of a text that credentials have: normalised, or a chain in PEM, whose first it is."""
    try:
        return x509.load_der_x509_certificate(base64.b64decode(normalise(text.partition(_END)[0])))
    except Exception:  # not all that the library has for a text like this is a ValueError
        return None

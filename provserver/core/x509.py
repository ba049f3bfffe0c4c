"""Certificates as credentials: the text that ThingsBoard compares, and its fingerprint (spec thingsboard §5.7)."""

import base64
import hashlib
from datetime import datetime

from cryptography import x509

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
    try:
        return x509.load_der_x509_certificate(base64.b64decode(normalise(text))).not_valid_before_utc
    except Exception:  # not all that the library has for a text like this is a ValueError
        return None

"""Certificates as credentials: the text that ThingsBoard compares, and its fingerprint (spec thingsboard §5.7)."""

import hashlib

_STRIPPED = ("-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----", "\n", "\r")


def normalise(text: str) -> str:
    """Strip header, footer and line breaks, and nothing else: spaces and tabs stay."""
    for part in _STRIPPED:
        text = text.replace(part, "")
    return text


def fingerprint(text: str) -> str:
    """Lower-case hex SHA3-256 (FIPS 202) of the normalised text: of the base64, not of the DER."""
    return hashlib.sha3_256(normalise(text).encode()).hexdigest()

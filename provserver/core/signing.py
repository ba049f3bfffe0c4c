"""Certificates for devices that send a PKCS#10 request (RFC 2986): what a request may be, and what is issued for it.

Of a request only the key is taken over, whose possession its signature proves; the name, the dates and every extension
are ours. So a request that asks for something else is refused, not quietly given something else.
"""

import base64
import binascii
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_der_private_key,
    load_der_public_key,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from msgspec import structs

from provserver.core import ids, pki
from provserver.core.chain import Certificate as ChainCertificate
from provserver.core.chain import check_authority, extension, quiet
from provserver.core.credentials import MAX_CERTIFICATE_LENGTH
from provserver.core.decision import Intent, Reason, Refusal
from provserver.core.model import Credentials, CredentialsType, SigningRequest
from provserver.core.wire import ProvisionRequest
from provserver.core.x509 import fingerprint, first_common_name, pem, text_of

MAX_REQUEST_LENGTH: Final = 8192
"""Characters of a request's text: one for P-256 has some 500."""

MAX_COMMON_NAME: Final = 64
"""Characters of a certificate's common name (RFC 5280, ub-common-name), hence of the name of a device that has one."""

DEFAULT_LIFETIME: Final = timedelta(days=365)
"""Of a certificate, where the profile says nothing of its devices' credentials."""

MAX_CHAIN: Final = 4
"""Certificates of an imported CA: its own, and those above it that devices are to present."""

_SKEW: Final = timedelta(hours=1)  # of devices whose clocks are a little late
_CURVE: Final = "secp256r1"
_HASHES: Final = frozenset({"sha256", "sha384", "sha512"})
_HARMLESS: Final = (x509.SubjectKeyIdentifier,)
_HEADERS: Final = ("-----BEGIN CERTIFICATE REQUEST-----", "-----BEGIN NEW CERTIFICATE REQUEST-----")


class InvalidIssuer(ValueError):  # noqa: N818
    """These files make no CA to issue with; the message says why, and how to mend it."""


@dataclass(frozen=True, slots=True)
class Issuer:
    """A CA with its key. above: the certificates between it and its root, DER, for devices to present."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey = field(repr=False)
    above: tuple[bytes, ...] = ()

    @property
    def chain(self) -> tuple[bytes, ...]:
        """What stands behind a device's certificate: DER, its issuer first."""
        return (self.certificate.public_bytes(Encoding.DER), *self.above)


def requested(intent: Intent, request: ProvisionRequest) -> Intent | Refusal:
    """An admitted intent with the request for a certificate that came along."""
    if intent.supplied is not None or request.credentials_type != CredentialsType.X509_CERTIFICATE:
        return Refusal(Reason.CREDENTIALS_INVALID, "a csr goes with X509_CERTIFICATE and no other credentials")
    read = read_request(request.csr or "")
    return read if isinstance(read, Refusal) else structs.replace(intent, csr=read)


def read_request(text: str) -> SigningRequest | Refusal:
    """A request in PEM, or DER in base64, that is within bounds, signed by its own key and asks for nothing odd."""
    if len(text) > MAX_REQUEST_LENGTH:
        return Refusal(Reason.CSR_TOO_LARGE, f"{len(text)} characters, of at most {MAX_REQUEST_LENGTH}")
    try:
        with quiet():
            return _read(base64.b64decode(_body(text), validate=True))
    except binascii.Error:
        return Refusal(Reason.CSR_MALFORMED, "it is neither PEM nor base64")
    except Exception as fault:  # not all that the library has for a stranger's bytes is a ValueError
        return Refusal(Reason.CSR_MALFORMED, type(fault).__name__)


def common_name(text: str) -> str:
    """The common name in a request, nothing of which is checked; empty where there is none to read."""
    try:
        with quiet():
            return first_common_name(x509.load_der_x509_csr(base64.b64decode(_body(text), validate=True)).subject)
    except Exception:
        return ""


def _body(text: str) -> str:
    stripped = text.strip()
    for header in _HEADERS:
        if stripped.startswith(header):
            stripped = stripped.removeprefix(header).partition("-----END ")[0]
    return "".join(stripped.split())


def _read(der: bytes) -> SigningRequest | Refusal:
    request = x509.load_der_x509_csr(der)
    try:
        key = request.public_key()
    except (ValueError, UnsupportedAlgorithm):
        return Refusal(Reason.CSR_KEY)
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name != _CURVE:
        return Refusal(Reason.CSR_KEY)
    try:
        algorithm = request.signature_hash_algorithm
    except UnsupportedAlgorithm:
        algorithm = None
    if algorithm is None or algorithm.name not in _HASHES:
        return Refusal(Reason.CSR_SIGNATURE, "it needs SHA-256 or better")
    try:
        signed = request.is_signature_valid
    except (InvalidSignature, UnsupportedAlgorithm, ValueError):
        signed = False
    if not signed:
        return Refusal(Reason.CSR_SIGNATURE)
    for wanted in request.extensions:
        if (fault := _odd(wanted)) is not None:
            return Refusal(Reason.CSR_EXTENSION, fault)
    spki = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return SigningRequest(spki, first_common_name(request.subject))


def _odd(wanted: x509.Extension[x509.ExtensionType]) -> str | None:
    """Why an extension is not granted; None for one that says what the certificate will say anyhow."""
    match wanted.value:
        case x509.BasicConstraints() as constraints:
            return "CA:TRUE" if constraints.ca else None
        case x509.KeyUsage() as usage:
            return "keyCertSign or cRLSign" if usage.key_cert_sign or usage.crl_sign else None
        case x509.ExtendedKeyUsage() as usages:
            return None if set(usages) <= {ExtendedKeyUsageOID.CLIENT_AUTH} else "an extended key usage but clientAuth"
        case x509.SubjectAlternativeName():
            return "subjectAltName"
        case value if isinstance(value, _HARMLESS):
            return None
        case _:
            return wanted.oid.dotted_string


def issue(
    issuer: Issuer,
    request: SigningRequest,
    name: str,
    lifetime: timedelta | None,
    now: datetime,
    random: ids.Randomness,
) -> Credentials | Refusal:
    """A device's certificate as credentials, with those above it. It never outlives its issuer."""
    ends = issuer.certificate.not_valid_after_utc
    if ends <= now:
        return Refusal(Reason.ISSUER_EXPIRED, f"on {ends:%Y-%m-%d}")
    if len(name) > MAX_COMMON_NAME:
        return Refusal(Reason.NAME_TOO_LONG, f"for a certificate: of at most {MAX_COMMON_NAME} characters")
    now = now.replace(microsecond=0)
    expires = min(now + (lifetime or DEFAULT_LIFETIME), ends)
    key = load_der_public_key(request.public_key)
    assert isinstance(key, ec.EllipticCurvePublicKey)  # noqa: S101 - `read_request` lets no other through
    certificate = (
        x509.CertificateBuilder(
            issuer_name=issuer.certificate.subject,
            subject_name=_subject(name),
            serial_number=int.from_bytes(random(20)) >> 1,  # positive, of at most 20 octets (RFC 5280 §4.1.2.2)
            not_valid_before=max(now - _SKEW, issuer.certificate.not_valid_before_utc),
            not_valid_after=expires,
        )
        .public_key(key)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(pki.key_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        .add_extension(_issued_by(issuer.certificate), critical=False)
        .sign(issuer.key, hashes.SHA256())
    )
    leaf = certificate.public_bytes(Encoding.DER)
    value = "".join(map(pem, (leaf, *issuer.chain)))
    if len(value) > MAX_CERTIFICATE_LENGTH:
        return Refusal(Reason.CERTIFICATE_TOO_LARGE)
    return Credentials(CredentialsType.X509_CERTIFICATE, fingerprint(text_of(leaf)), value)


def _issued_by(issuer: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    """As the issuer names its key, or by the key where it does not (RFC 5280 §4.2.1.1)."""
    identifier = extension(issuer.extensions, x509.SubjectKeyIdentifier)
    if identifier is not None:
        return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier)
    return x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.public_key())  # type: ignore[arg-type]


def _subject(name: str) -> x509.Name:
    with quiet():  # the library counts bytes, where X.520 has characters
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name, _validate=False)])


def import_issuer(certificates: bytes, key: bytes, now: datetime) -> Issuer:
    """A CA from files: its certificate and, behind it, those above it (PEM or one DER), and its key, unencrypted.

    Raises InvalidIssuer.
    """
    try:
        with quiet():
            read = _certificates(certificates)
    except ValueError:
        raise InvalidIssuer("The certificate cannot be read: it must be PEM, or DER in base64") from None
    if not 0 < len(read) <= MAX_CHAIN:
        raise InvalidIssuer(f"The CA's file must have its certificate and at most {MAX_CHAIN - 1} above it")
    try:
        private = load_pem_private_key(key, None) if b"-----BEGIN " in key else load_der_private_key(key, None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise InvalidIssuer("The key cannot be read: it must be PEM or DER, without a password") from None
    own = read[0].x509
    if not isinstance(private, ec.EllipticCurvePrivateKey) or private.curve.name != _CURVE:
        raise InvalidIssuer("The CA's key must be EC P-256")
    if _spki(private.public_key()) != _spki(own.public_key()):
        raise InvalidIssuer("The key is not that of the first certificate in the file")
    if (reason := check_authority(read[0], now)) is not None:
        raise InvalidIssuer(f"The certificate is not fit to issue others: {reason.text}")
    for below, above in pairwise(read):
        if not below.signed_by(above):
            raise InvalidIssuer("Each certificate in the file must be followed by the one that issued it")
    return Issuer(own, private, tuple(each.der for each in read[1:] if not each.self_issued))


def load_issuer(certificates: Sequence[bytes], key: bytes) -> Issuer:
    """What was stored: DER certificates, the CA's own first, and its key (`private_bytes`). Raises ValueError."""
    private = load_der_private_key(key, None)
    if not isinstance(private, ec.EllipticCurvePrivateKey):
        raise ValueError("the key is not of an elliptic curve")  # noqa: TRY004 - what is stored, not who calls
    return Issuer(x509.load_der_x509_certificate(certificates[0]), private, tuple(certificates[1:]))


def private_bytes(issuer: Issuer) -> bytes:
    """Its key, to be sealed."""
    return issuer.key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())


def _certificates(content: bytes) -> list[ChainCertificate]:
    if b"-----BEGIN " not in content:
        return [ChainCertificate.load(content)]
    found = x509.load_pem_x509_certificates(content)
    return [ChainCertificate.load(each.public_bytes(Encoding.DER)) for each in found]


def _spki(key: object) -> bytes:
    if not isinstance(key, ec.EllipticCurvePublicKey):
        return b""
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)

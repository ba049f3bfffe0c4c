"""The CAs that a profile is to trust, and their revocation lists: read from files, checked before they are kept."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding

from provserver.core.chain import MAX_SIZE, Certificate, check_authority, digest, extension
from provserver.core.decision import Reason
from provserver.core.model import CertificateAuthority

MAX_AUTHORITIES = 16
MAX_CRL_SIZE = 8 << 20
"""Bytes of a revocation list's DER: some 200 000 entries."""

NEAR = timedelta(days=30)
"""How long before a CA expires the operator is warned."""

_PEM = b"-----BEGIN "
_END_OF_CRL = b"-----END X509 CRL-----"
_STRONG_HASHES = frozenset({"sha256", "sha384", "sha512"})
_FIXES = {
    Reason.CERTIFICATE_EXPIRED: "it has expired",
    Reason.CERTIFICATE_NOT_YET_VALID: "it is not valid yet",
    Reason.ISSUER_NOT_CA: "it is no CA's: its basicConstraints do not say CA:TRUE",
    Reason.KEY_UNSUPPORTED: "a CA's key must be RSA, P-256, P-384 or P-521 (Ed25519 can be a device's only)",
    Reason.WEAK_KEY: "its key is weak: RSA needs 2048 bits, elliptic curves 256",
    Reason.KEY_USAGE: "its key usage does not include keyCertSign",
    Reason.EXTENDED_KEY_USAGE: "its extended key usage does not include clientAuth",
    Reason.NAME_CONSTRAINT: "it has name constraints that cannot be checked (DNS, email, URI and IP can)",
}


class InvalidAuthority(ValueError):  # noqa: N818
    """A CA or a revocation list that is not accepted; the message says which and why, and how to mend it."""


@dataclass(frozen=True, slots=True)
class AuthorityFacts:
    """A CA as it is shown. fingerprint: hex SHA-256 of the certificate's DER. crl_…: None without a list."""

    subject: str
    fingerprint: str
    not_after: datetime
    crl_this_update: datetime | None = None
    crl_next_update: datetime | None = None
    revoked: int | None = None

    def warnings(self, now: datetime) -> list[str]:
        """What the operator must see to."""
        found = []
        if self.not_after < now:
            found.append(f"The CA {self.subject} has expired: no device can be provisioned by it.")
        elif self.not_after < now + NEAR:
            found.append(f"The CA {self.subject} expires on {self.not_after:%Y-%m-%d}: add its successor.")
        if self.crl_next_update is not None and self.crl_next_update < now:
            found.append(
                f"The revocation list of {self.subject} is past its nextUpdate ({self.crl_next_update:%Y-%m-%d %H:%M} "
                "UTC): its devices are refused until there is a newer one (profile update --crl FILE)."
            )
        return found


def facts(authority: CertificateAuthority) -> AuthorityFacts:
    """What to show of a CA. Raises ValueError."""
    certificate = Certificate.load(authority.certificate)
    found = AuthorityFacts(str(certificate), fingerprint(authority.certificate), certificate.x509.not_valid_after_utc)
    if authority.crl is None:
        return found
    crl = x509.load_der_x509_crl(authority.crl)
    return replace(found, crl_this_update=crl.last_update_utc, crl_next_update=crl.next_update_utc, revoked=len(crl))


def fingerprint(der: bytes) -> str:
    """Hex SHA-256 of a certificate's DER, as `openssl x509 -fingerprint -sha256` has it but for the colons."""
    return hashlib.sha256(der).hexdigest()


def read_authorities(files: Sequence[bytes], now: datetime) -> tuple[CertificateAuthority, ...]:
    """The CAs in these files, PEM or DER, one in each. Raises InvalidAuthority."""
    if len(files) > MAX_AUTHORITIES:
        raise InvalidAuthority(f"A profile trusts {MAX_AUTHORITIES} CAs at most.")
    found: dict[bytes, CertificateAuthority] = {}
    for data in files:
        certificate = _certificate(data)
        if fault := _fault(certificate, now):
            raise InvalidAuthority(f"The certificate {certificate} cannot be a profile's CA: {fault}.")
        if certificate.identity in found:
            raise InvalidAuthority(f"The CA {certificate} is there twice. Leave out the older of its certificates.")
        found[certificate.identity] = CertificateAuthority(certificate.x509.public_bytes(Encoding.DER))
    return tuple(found.values())


def identity(authority: CertificateAuthority) -> bytes:
    """What makes it the same CA when its certificate is renewed. Raises ValueError."""
    return Certificate.load(authority.certificate).identity


def subject_digest(authority: CertificateAuthority) -> bytes:
    """What the certificates that it issued are recognised by: see `Chain.issuers`. Raises ValueError."""
    return digest(Certificate.load(authority.certificate).subject)


def with_crls(
    authorities: Sequence[CertificateAuthority], files: Sequence[bytes], now: datetime
) -> tuple[CertificateAuthority, ...]:
    """The CAs with the revocation lists in these files (PEM, several too, or DER), each by the CA that signed it.

    Those that none of the files is by keep theirs. Raises InvalidAuthority.
    """
    result = list(authorities)
    certificates = [Certificate.load(authority.certificate) for authority in authorities]
    for data in files:
        for crl in _crls(data):
            issuer = _signer(crl, certificates)
            _check(crl, certificates[issuer], now)
            held = result[issuer].crl
            if held is not None and _order(x509.load_der_x509_crl(held)) > _order(crl):
                raise InvalidAuthority(
                    f"The revocation list of {certificates[issuer]} is older than the one that the profile has."
                )
            result[issuer] = replace(result[issuer], crl=crl.public_bytes(Encoding.DER))
    return tuple(result)


def _certificate(data: bytes) -> Certificate:
    try:
        if _PEM in data:
            found = x509.load_pem_x509_certificates(data)
            if len(found) > 1:
                raise InvalidAuthority(
                    f"The file has {len(found)} certificates. Give the CA that is to be trusted alone, "
                    "and each further one in a file of its own."
                )
            data = found[0].public_bytes(Encoding.DER)
        if len(data) > MAX_SIZE:
            raise InvalidAuthority(f"The certificate is larger than {MAX_SIZE} bytes.")
        return Certificate.load(data)
    except InvalidAuthority:
        raise
    except Exception:
        raise InvalidAuthority("The file holds no certificate, neither as PEM nor as DER.") from None


def _fault(certificate: Certificate, now: datetime) -> str:
    try:
        reason = check_authority(certificate, now)
    except Exception:
        return "it cannot be read as a whole"
    return "" if reason is None else _FIXES.get(reason, reason.text)


def _crls(data: bytes) -> list[x509.CertificateRevocationList]:
    if len(data) > 2 * MAX_CRL_SIZE:
        raise InvalidAuthority(f"The revocation list is larger than {MAX_CRL_SIZE >> 20} MiB.")
    try:
        if _PEM not in data:
            return [x509.load_der_x509_crl(data)]
        found = [x509.load_pem_x509_crl(part + _END_OF_CRL) for part in data.split(_END_OF_CRL)[:-1]]
    except Exception:
        found = []
    if not found:
        raise InvalidAuthority("The file holds no revocation list, neither as PEM nor as DER.")
    return found


def _signer(crl: x509.CertificateRevocationList, certificates: Sequence[Certificate]) -> int:
    try:
        name = crl.issuer.public_bytes()
        for index, certificate in enumerate(certificates):
            key = certificate.x509.public_key()
            if not isinstance(key, rsa.RSAPublicKey | ec.EllipticCurvePublicKey) or certificate.subject != name:
                continue
            if crl.is_signature_valid(key):
                return index
    except (ValueError, UnsupportedAlgorithm):
        pass
    raise InvalidAuthority(
        "The revocation list is not signed by a CA of the profile. "
        "Add the CA that signed it with --ca: an intermediate may be one beside its root."
    )


def _check(crl: x509.CertificateRevocationList, issuer: Certificate, now: datetime) -> None:
    try:
        why = _unusable(crl, issuer, now)
    except (ValueError, UnsupportedAlgorithm):
        why = "it cannot be read as a whole"
    if why:
        raise InvalidAuthority(f"The revocation list of {issuer} cannot be used: {why}.")


def _unusable(crl: x509.CertificateRevocationList, issuer: Certificate, now: datetime) -> str:
    if len(crl.public_bytes(Encoding.DER)) > MAX_CRL_SIZE:
        return f"it is larger than {MAX_CRL_SIZE >> 20} MiB"
    usage = extension(issuer.x509.extensions, x509.KeyUsage)
    if usage is not None and not usage.crl_sign:
        return "the CA's key usage does not include cRLSign"
    algorithm = crl.signature_hash_algorithm
    if algorithm is None or algorithm.name not in _STRONG_HASHES:
        return "its signature uses MD5, SHA-1 or another algorithm that is not accepted"
    if crl.next_update_utc is None:
        return "it does not say when the next one comes (nextUpdate)"
    if crl.next_update_utc < now:
        return f"it is past its nextUpdate ({crl.next_update_utc:%Y-%m-%d %H:%M} UTC)"
    if crl.last_update_utc > now:
        return f"it is not valid before {crl.last_update_utc:%Y-%m-%d %H:%M} UTC"
    if extension(crl.extensions, x509.DeltaCRLIndicator) is not None:
        return "it is a delta; give the complete list"
    scope = extension(crl.extensions, x509.IssuingDistributionPoint)
    if scope is not None and (scope.indirect_crl or scope.only_some_reasons or scope.only_contains_attribute_certs):
        return "it is indirect, or for some reasons only"
    known = (x509.IssuingDistributionPoint.oid, x509.CRLReason.oid, x509.InvalidityDate.oid)
    for extensions in (crl.extensions, *(entry.extensions for entry in crl)):
        if odd := next((each.oid for each in extensions if each.critical and each.oid not in known), None):
            return f"it has a critical extension that is not understood ({odd.dotted_string})"
    return ""


def _order(crl: x509.CertificateRevocationList) -> tuple[datetime, int]:
    number = extension(crl.extensions, x509.CRLNumber)
    return crl.last_update_utc, 0 if number is None else number.crl_number

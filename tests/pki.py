"""A PKI for tests: roots, intermediates and leaves, right or with whatever fault is asked for.

root = Authority.root()
factory = root.intermediate("Factory 7", path_length=0)
device = factory.leaf("sensor-1", not_after=days(-1))
device.chain        # DER: the leaf and its intermediates, without the root
root.crl(device)    # DER
"""

import datetime as dt
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Self, TypeVar

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey

CLIENT_AUTH, SERVER_AUTH = ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH
ANY_USAGE = ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE
SHA256 = hashes.SHA256()

_RSA_512 = rsa.RSAPublicNumbers(65537, (1 << 511) + 187).public_key()
_SHA256_WITH_RSA = bytes.fromhex("2a864886f70d01010b")
_WEAK_WITH_RSA = {"md5": (hashes.MD5(), b"\x04"), "sha1": (hashes.SHA1(), b"\x05")}


def now() -> dt.datetime:
    return dt.datetime.now(dt.UTC).replace(microsecond=0)


def days(number: float) -> dt.datetime:
    """So many days from now."""
    return now() + dt.timedelta(days=number)


def name(cn: str | None, organization: str | None = None) -> x509.Name:
    """A subject, however odd. None: without."""
    given = ((NameOID.ORGANIZATION_NAME, organization), (NameOID.COMMON_NAME, cn))
    with warnings.catch_warnings():  # of lengths
        warnings.simplefilter("ignore")
        return x509.Name([x509.NameAttribute(oid, text, _validate=False) for oid, text in given if text is not None])


def new_key(kind: str = "p256") -> Key:
    """kind: rsa<bits>, ed25519, or a curve: p224 p256 p384 p521 k256 bp256."""
    if kind.startswith("rsa"):
        return rsa.generate_private_key(65537, int(kind[3:]))
    if kind == "ed25519":
        return ed25519.Ed25519PrivateKey.generate()
    curves: dict[str, ec.EllipticCurve] = {
        "p224": ec.SECP224R1(),
        "p256": ec.SECP256R1(),
        "p384": ec.SECP384R1(),
        "p521": ec.SECP521R1(),
        "k256": ec.SECP256K1(),
        "bp256": ec.BrainpoolP256R1(),
    }
    return ec.generate_private_key(curves[kind])


def usages(*allowed: str) -> x509.KeyUsage:
    """A key usage of these, named as `cryptography` names them."""
    every = (
        *("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement"),
        *("key_cert_sign", "crl_sign", "encipher_only", "decipher_only"),
    )
    return x509.KeyUsage(**{usage: usage in allowed for usage in every})


@dataclass(frozen=True, eq=False)
class Issued:
    """A certificate with its key, and those that issued it, from its own issuer up to the root."""

    certificate: x509.Certificate
    key: Key = field(repr=False)
    issuers: tuple["Issued", ...] = ()

    @cached_property
    def der(self) -> bytes:
        return self.certificate.public_bytes(Encoding.DER)

    @cached_property
    def pem(self) -> str:
        return self.certificate.public_bytes(Encoding.PEM).decode()

    @cached_property
    def key_pem(self) -> str:
        return self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()

    @property
    def chain(self) -> tuple[bytes, ...]:
        """DER as a device presents it: leaf first, without the root."""
        return tuple(each.der for each in self._with_issuers if not each._is_root or each is self)

    @property
    def full_chain(self) -> tuple[bytes, ...]:
        """DER, the root included."""
        return tuple(each.der for each in self._with_issuers)

    @property
    def chain_pem(self) -> str:
        """What a client's certificate file holds."""
        return "".join(each.pem for each in self._with_issuers if not each._is_root or each is self)

    def write(self, directory: Path, stem: str = "client") -> tuple[Path, Path]:
        """Files for a client: the chain and the key."""
        certificate, key = directory / f"{stem}.pem", directory / f"{stem}.key"
        certificate.write_text(self.chain_pem)
        key.write_text(self.key_pem)
        return certificate, key

    @property
    def _with_issuers(self) -> tuple["Issued", ...]:
        return (self, *self.issuers)

    @property
    def _is_root(self) -> bool:
        return not self.issuers


class Authority(Issued):
    """A CA."""

    @classmethod
    def root(cls, cn: str = "Root", **how: Any) -> Self:
        """A self-signed CA. how: as `issue` takes it."""
        return _issue(cls, None, cn, **({"ca": True} | how))

    def intermediate(self, cn: str = "Factory", **how: Any) -> "Authority":
        """A CA below this one. how: as `issue` takes it."""
        return _issue(Authority, self, cn, **({"ca": True} | how))

    def leaf(self, cn: str | None = "sensor-1", **how: Any) -> Issued:
        """A device's certificate. how: as `issue` takes it."""
        return _issue(Issued, self, cn, **how)

    def crl(
        self,
        *revoked: Issued,
        this_update: dt.datetime | None = None,
        next_update: dt.datetime | None = None,
        number: int | None = 1,
        extensions: Iterable[tuple[x509.ExtensionType, bool]] = (),
        entry_extensions: Iterable[tuple[x509.ExtensionType, bool]] = (),
    ) -> bytes:
        """A revocation list in DER: from an hour ago, for a week."""
        builder = x509.CertificateRevocationListBuilder().issuer_name(self.certificate.subject)
        builder = builder.last_update(this_update or now() - dt.timedelta(hours=1))
        builder = builder.next_update(next_update or days(7))
        if number is not None:
            builder = builder.add_extension(x509.CRLNumber(number), critical=False)
        for extension, critical in extensions:
            builder = builder.add_extension(extension, critical)
        for each in revoked:
            entry = x509.RevokedCertificateBuilder().serial_number(each.certificate.serial_number)
            entry = entry.revocation_date(now() - dt.timedelta(hours=2))
            for extension, critical in entry_extensions:
                entry = entry.add_extension(extension, critical)
            builder = builder.add_revoked_certificate(entry.build())
        return builder.sign(self.key, _digest(self.key)).public_bytes(Encoding.DER)


Kind = TypeVar("Kind", bound=Issued)


def self_signed(cn: str = "sensor-1", **how: Any) -> Issued:
    """A device's certificate that nobody else vouches for."""
    return _issue(Issued, None, cn, **how)


def renewed(of: Authority, **how: Any) -> Authority:
    """The same CA (its name, its key) with a new certificate."""
    return _issue(Authority, of.issuers[0] if of.issuers else None, None, ca=True, key=of.key, subject=of, **how)


def _issue(
    cls: type[Kind],
    issuer: Issued | None,
    cn: str | None,
    *,
    ca: bool | None = None,
    path_length: int | None = None,
    key: Key | str = "p256",
    weak_key: bool = False,
    not_before: dt.datetime | None = None,
    not_after: dt.datetime | None = None,
    subject: Issued | None = None,
    organization: str | None = None,
    issuer_cn: str | None = None,
    signing_key: Key | None = None,
    digest: str = "",
    serial: int | None = None,
    san: Sequence[x509.GeneralName] = (),
    eku: Sequence[x509.ObjectIdentifier] = (),
    key_usage: x509.KeyUsage | None = None,
    permitted: Sequence[x509.GeneralName] = (),
    excluded: Sequence[x509.GeneralName] = (),
    extensions: Iterable[tuple[x509.ExtensionType, bool]] = (),
) -> Kind:
    """A certificate.

    ca: basicConstraints says so; None: it is absent. weak_key: RSA 512 in place of the key. issuer_cn, signing_key:
    of another than the issuer. digest: md5 or sha1, of an RSA issuer. eku, key_usage, permitted, excluded: absent if
    not given, but for the key usage of a CA, which signs certificates and CRLs.
    """
    private_key = new_key(key) if isinstance(key, str) else key
    named = subject.certificate.subject if subject is not None else name(cn, organization)
    signer = signing_key or (issuer.key if issuer is not None else private_key)
    by = issuer.certificate.subject if issuer is not None else named
    builder = (
        x509.CertificateBuilder()
        .subject_name(named)
        .issuer_name(by if issuer_cn is None else name(issuer_cn))
        .public_key(_RSA_512 if weak_key else private_key.public_key())
        .serial_number(serial or x509.random_serial_number())
        .not_valid_before(not_before or days(-1))
        .not_valid_after(not_after or days(365))
    )
    added: list[tuple[x509.ExtensionType, bool]] = list(extensions)
    if ca is not None:
        added.append((x509.BasicConstraints(ca, path_length if ca else None), True))
    if ca and key_usage is None:
        key_usage = usages("key_cert_sign", "crl_sign")
    if key_usage is not None:
        added.append((key_usage, True))
    if eku:
        added.append((x509.ExtendedKeyUsage(list(eku)), False))
    if san:
        added.append((x509.SubjectAlternativeName(list(san)), False))
    if permitted or excluded:
        added.append((x509.NameConstraints(list(permitted) or None, list(excluded) or None), True))
    for extension, critical in added:
        builder = builder.add_extension(extension, critical)
    certificate = builder.sign(signer, _digest(signer))
    if digest:
        certificate = _weakly_signed(certificate, signer, digest)
    return cls(certificate, private_key, () if issuer is None else issuer._with_issuers)


def _digest(key: Key) -> hashes.SHA256 | None:
    return None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()


def _weakly_signed(certificate: x509.Certificate, signer: Key, digest: str) -> x509.Certificate:
    """With a signature that `cryptography` no longer makes: the algorithm's OID is replaced by one as long."""
    assert isinstance(signer, rsa.RSAPrivateKey)
    algorithm, last = _WEAK_WITH_RSA[digest]
    oid = _SHA256_WITH_RSA[:-1] + last
    tbs = certificate.tbs_certificate_bytes.replace(_SHA256_WITH_RSA, oid)
    der = certificate.public_bytes(Encoding.DER).replace(_SHA256_WITH_RSA, oid)
    return x509.load_der_x509_certificate(
        der.replace(certificate.signature, signer.sign(tbs, padding.PKCS1v15(), algorithm))
    )

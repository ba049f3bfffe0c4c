"""A factory's certificates: a root, an intermediate CA, and a leaf for each device, made when it is first asked for.

    DIR/root.pem  root.key  intermediate.pem  intermediate.key  devices/NAME.pem  devices/NAME.key

A device's PEM file is the chain that it presents: its leaf and the intermediate. The root is what a server is told.
"""

import datetime
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self
from urllib.parse import quote

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from firmware_sim.errors import WrongUsage
from firmware_sim.tls import ClientCertificate

DEVICE_PREFIX = "device"
"""Of the names of devices: device-000001 and so on."""

_BEGIN = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)  # devices have no clock, and may be tested with old ones
_END = datetime.datetime(2060, 1, 1, tzinfo=datetime.UTC)
_LONGEST_COMMON_NAME = 64  # RFC 5280 appendix A, ub-common-name
_HOST_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Factory:
    """What signs device certificates."""

    directory: Path
    intermediate: x509.Certificate
    key: ec.EllipticCurvePrivateKey = field(repr=False)

    @classmethod
    def create(cls, directory: Path) -> Self:
        """Make root and intermediate CA; where there are some already, keep them. Raises WrongUsage."""
        try:
            (directory / "devices").mkdir(parents=True, exist_ok=True)
            if not (directory / "intermediate.pem").exists():
                root, root_key = _authority("Root CA", None, 1)
                intermediate, key = _authority("Intermediate CA", (root, root_key), 0)
                for name, certificate, private_key in (("root", root, root_key), ("intermediate", intermediate, key)):
                    _write(directory / f"{name}.key", _private(private_key), 0o600)
                    _write(directory / f"{name}.pem", certificate.public_bytes(Encoding.PEM))
        except OSError as error:
            raise WrongUsage(f"cannot write {error.filename}: {error.strerror}") from None
        return cls.load(directory)

    @classmethod
    def load(cls, directory: Path) -> Self:
        """The CA of a directory that `create` made. Raises WrongUsage."""
        try:
            certificate = x509.load_pem_x509_certificate((directory / "intermediate.pem").read_bytes())
            key = load_pem_private_key((directory / "intermediate.key").read_bytes(), None)
        except OSError as error:
            raise WrongUsage(
                f"cannot read {error.filename}: {error.strerror}; `firmware-sim pki init {directory}` makes it"
            ) from None
        except ValueError:
            raise WrongUsage(f"{directory} holds no certificates that can be read") from None
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise WrongUsage(f"the key in {directory} is not of an elliptic curve")
        return cls(directory, certificate, key)

    @property
    def root_file(self) -> Path:
        """What to register with a server."""
        return self.directory / "root.pem"

    def device(self, name: str) -> ClientCertificate:
        """The chain and key of a device; made and written if this is the first time. Raises WrongUsage."""
        file = self.directory / "devices" / quote(name, safe="")
        chain_file, key_file = file.with_name(file.name + ".pem"), file.with_name(file.name + ".key")
        try:
            if not chain_file.exists():
                leaf, key = self._leaf(name)
                _write(key_file, _private(key), 0o600)
                chain = leaf.public_bytes(Encoding.PEM) + self.intermediate.public_bytes(Encoding.PEM)
                _write(chain_file, chain)
            return ClientCertificate(chain_file.read_bytes(), key_file.read_bytes())
        except OSError as error:
            raise WrongUsage(f"{error.filename}: {error.strerror}") from None

    def _leaf(self, name: str) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
        if not 0 < len(name) <= _LONGEST_COMMON_NAME:
            raise WrongUsage(f"the name of a device with a certificate has 1 to {_LONGEST_COMMON_NAME} characters")
        key = ec.generate_private_key(ec.SECP256R1())
        builder = (
            _builder(name, self.intermediate.subject, key)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(digital_signature=True), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
            .add_extension(_issued_by(self.intermediate), critical=False)
        )
        if _HOST_NAME.fullmatch(name):
            builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        return builder.sign(self.key, hashes.SHA256()), key


def _authority(
    name: str, issuer: tuple[x509.Certificate, ec.EllipticCurvePrivateKey] | None, path_length: int
) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    key = ec.generate_private_key(ec.SECP256R1())
    full_name = f"Simulated Factory {name} {os.urandom(3).hex()}"  # two factories' CAs are to be told apart
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, full_name)])
    builder = (
        _builder(full_name, issuer[0].subject if issuer else subject, key)
        .add_extension(x509.BasicConstraints(ca=True, path_length=path_length), critical=True)
        .add_extension(_usage(key_cert_sign=True, crl_sign=True), critical=True)
    )
    if issuer:
        builder = builder.add_extension(_issued_by(issuer[0]), critical=False)
    return builder.sign(issuer[1] if issuer else key, hashes.SHA256()), key


def _builder(name: str, issuer: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(_BEGIN)
        .not_valid_after(_END)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _usage(*, digital_signature: bool = False, key_cert_sign: bool = False, crl_sign: bool = False) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=key_cert_sign,
        crl_sign=crl_sign,
        encipher_only=False,
        decipher_only=False,
    )


def _issued_by(issuer: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    identifier = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier)


def _private(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _write(file: Path, content: bytes, mode: int = 0o644) -> None:
    """Whole or not at all: what a power cut left half made would be taken for made."""
    fresh = file.with_name(f".{file.name}.new")
    fresh.unlink(missing_ok=True)
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "wb") as opened:
        opened.write(content)
    fresh.replace(file)

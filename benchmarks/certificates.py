"""Certificates of devices, for those that come with one."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from provserver.core import pki


class Certificates(NamedTuple):
    """P-256, all of one key. trusted: a PEM file with what a server has to trust.

    der: each after its length in four bytes, as the generator reads them. key: the PEM file of their key.
    """

    devices: list[x509.Certificate]
    trusted: Path
    der: Path
    key: Path


def make(folder: Path, prefix: str, count: int, *, issued: bool) -> Certificates:
    """So many, of a CA or, where not issued, each signed by itself: then all of them are what is to be trusted.

    prefix: of the files and of the devices' names.
    """
    now = datetime.now(UTC)
    key = ec.generate_private_key(ec.SECP256R1())
    signer, issuer, trusted = key, None, []
    if issued:
        signer = ec.generate_private_key(ec.SECP256R1())
        authority = pki.make_authority(f"{prefix} benchmark", signer, x509.random_serial_number(), now).certificate
        issuer, trusted = authority.subject, [authority]
    devices = []
    for number in range(count):
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, f"{prefix}-{number:06}")])
        before, after = now - timedelta(days=1), now + timedelta(days=1)
        builder = x509.CertificateBuilder(
            issuer or subject, subject, key.public_key(), x509.random_serial_number(), before, after
        )
        builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        devices.append(builder.sign(signer, hashes.SHA256()))
    files = Certificates(devices, *(folder / f"{prefix}-{name}" for name in ("trusted.pem", "devices.der", "key.pem")))
    files.trusted.write_bytes(b"".join(each.public_bytes(Encoding.PEM) for each in trusted or devices))
    files.key.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    with files.der.open("wb") as file:
        for each in devices:
            content = each.public_bytes(Encoding.DER)
            file.write(len(content).to_bytes(4) + content)
    return files

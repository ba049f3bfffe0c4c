"""PKCS#10 requests for tests, right or odd."""

import base64
from collections.abc import Iterable
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from tests.pki import Key, days, name, new_key


def csr(
    key: Key | str = "p256",
    cn: str | None = "sensor-1",
    extensions: Iterable[tuple[x509.ExtensionType, bool]] = (),
    digest: Any = None,
) -> x509.CertificateSigningRequest:
    """A request. key: one, or its kind as in `tests.pki.new_key`."""
    key = new_key(key) if isinstance(key, str) else key
    builder = x509.CertificateSigningRequestBuilder().subject_name(name(cn))
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical)
    usual = hashes.SHA256() if not hasattr(key, "private_bytes_raw") else None  # Ed25519 has its own
    return builder.sign(key, digest or usual)


_SIGNER = new_key()


def signed(pem: str, *, wrong_key: bool = False) -> str:
    """The certificate that a server without scruples makes of a request, both in PEM. wrong_key: for its own."""
    request = x509.load_pem_x509_csr(pem.encode())
    assert request.is_signature_valid
    key: Any = _SIGNER.public_key() if wrong_key else request.public_key()
    builder = x509.CertificateBuilder(x509.Name([]), x509.Name([]), key, 7, days(-1), days(1))
    certificate = builder.sign(_SIGNER, hashes.SHA256())
    return certificate.public_bytes(Encoding.PEM).decode()


def text(request: x509.CertificateSigningRequest) -> str:
    """In PEM."""
    return request.public_bytes(Encoding.PEM).decode()


def p256() -> ec.EllipticCurvePrivateKey:
    """A key as devices make it."""
    return ec.generate_private_key(ec.SECP256R1())


def body(request: x509.CertificateSigningRequest) -> str:
    """DER in base64."""
    return base64.b64encode(request.public_bytes(Encoding.DER)).decode()

"""The server's certificate and key: PEM files that are checked before they are used, and watched for changes."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from provserver.errors import Misconfigured

_ADVICE = "Make a development certificate with `provserver ca init`, or name yours with tls_certificate and tls_key."

PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
Stamp = tuple[tuple[int, int, int], ...]


@dataclass(frozen=True, slots=True)
class KeyPair:
    """A certificate with what its issuers have to prove it, and its key."""

    certificates: Sequence[x509.Certificate]
    key: PrivateKey = field(repr=False)


def stamp(*files: Path) -> Stamp:
    """What changes when one of the files does."""
    stamps = []
    for file in files:
        try:
            status = file.stat()
            stamps.append((status.st_mtime_ns, status.st_size, status.st_ino))
        except OSError:  # of which `load` says more
            stamps.append((0, 0, 0))
    return tuple(stamps)


def load(certificate: Path, key: Path, now: datetime) -> KeyPair:
    """Read and check both files. Raises Misconfigured."""
    chain = _certificates(certificate)
    private_key = _private_key(key)
    leaf = chain[0]
    if _public_bytes(leaf.public_key()) != _public_bytes(private_key.public_key()):
        raise Misconfigured(
            f"{key} is not the key of the first certificate in {certificate}. "
            "The server's own certificate comes first there, its issuers after it."
        )
    if leaf.not_valid_after_utc < now:
        raise Misconfigured(
            f"{certificate} expired on {leaf.not_valid_after_utc.astimezone(UTC):%Y-%m-%d}. Renew it "
            "(`provserver ca init --force` if it came from there)."
        )
    if leaf.not_valid_before_utc > now:
        raise Misconfigured(
            f"{certificate} is not valid before {leaf.not_valid_before_utc:%Y-%m-%d %H:%M} UTC. "
            "Is the clock of this machine right?"
        )
    return KeyPair(chain, private_key)


def _certificates(file: Path) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(_read(file))
    except ValueError:
        raise Misconfigured(f"{file} has no certificate in it, or a damaged one: a PEM file is needed.") from None


def _private_key(file: Path) -> PrivateKey:
    try:
        key = load_pem_private_key(_read(file), password=None)
    except TypeError:
        raise Misconfigured(f"{file} is protected by a passphrase: the server needs the key without one.") from None
    except ValueError:
        raise Misconfigured(f"{file} has no private key in it, or a damaged one: a PEM file is needed.") from None
    if not isinstance(key, PrivateKey):
        raise Misconfigured(f"{file} has a key of a kind that TLS clients do not use: EC (P-256) or RSA is needed.")
    return key


def _public_bytes(key: object) -> bytes:
    if not isinstance(key, ec.EllipticCurvePublicKey | rsa.RSAPublicKey):
        return b""
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as fault:
        raise _unreadable(file, fault) from None


def _unreadable(file: Path, fault: OSError) -> Misconfigured:
    if isinstance(fault, FileNotFoundError):
        return Misconfigured(f"There is no {file}, which TLS needs. {_ADVICE}")
    return Misconfigured(f"{file} cannot be read: {fault.strerror}.")

"""What a device brings along to authenticate with, and whether the server granted just that."""

import datetime
import secrets
import string
from dataclasses import dataclass, field
from enum import StrEnum

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from firmware_sim.errors import BadReply
from firmware_sim.reply import Reply
from firmware_sim.request import Request, new_nonce

TOKEN_LENGTH = 32
_ALPHABET = string.ascii_letters + string.digits
_LONGEST_COMMON_NAME = 64  # RFC 5280 appendix A, ub-common-name

# A device has no clock before its first connection, and knows no end of its life (RFC 5280 §4.1.2.5).
_NOT_BEFORE = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
_NOT_AFTER = datetime.datetime(9999, 12, 31, 23, 59, 59, tzinfo=datetime.UTC)


class Kind(StrEnum):
    """Who makes the credentials: the server (`generated`), the device in one of three forms, or both: the device a key,
    the server its certificate (`csr`).
    """

    GENERATED = "generated"
    TOKEN = "token"  # noqa: S105 - the name of a kind
    BASIC = "basic"
    X509 = "x509"
    CSR = "csr"


@dataclass(frozen=True, slots=True)
class Draft:
    """A request about to be saved, and the PEM of the private key that never leaves the device."""

    request: Request
    private_key: str | None = field(default=None, repr=False)


def draft(kind: Kind, name: str | None, *, gateway: bool = False) -> Draft:
    """Make the credentials and the request that offers them.

    Without a name the server chooses one, except for a certificate, which needs a subject: it gets `sim-` and
    twelve hex digits, as from a MAC address.
    """
    nonce = new_nonce()
    match kind:
        case Kind.GENERATED:
            return Draft(Request(nonce, name, gateway=gateway))
        case Kind.TOKEN:
            return Draft(Request(nonce, name, "ACCESS_TOKEN", token=_random_text(), gateway=gateway))
        case Kind.BASIC:
            own = Request(
                nonce,
                name,
                "MQTT_BASIC",
                client_id=f"sim-{secrets.token_hex(6)}",
                username=_random_text(),
                password=_random_text(),
                gateway=gateway,
            )
            return Draft(own)
        case Kind.X509:
            name = name or f"sim-{secrets.token_hex(6)}"
            certificate, private_key = _self_signed(name)
            own = Request(nonce, name, "X509_CERTIFICATE", hash=certificate, gateway=gateway)
            return Draft(own, private_key)
        case Kind.CSR:
            csr, private_key = signing_request(name or "")
            return Draft(Request(nonce, name, "X509_CERTIFICATE", csr=csr, gateway=gateway), private_key)


def kind_of(request: Request) -> Kind:
    """The kind that `draft` made this request for."""
    match request.credentials_type:
        case None:
            return Kind.GENERATED
        case "ACCESS_TOKEN":
            return Kind.TOKEN
        case "MQTT_BASIC":
            return Kind.BASIC
        case _:
            return Kind.CSR if request.csr else Kind.X509


def verify(request: Request, reply: Reply, private_key: str | None = None) -> None:
    """Raise BadReply if the reply is for another device or grants other credentials than were offered.

    private_key: of the key that a certificate was asked for.
    """
    if request.device_name and reply.device_name not in (None, request.device_name.strip()):
        raise BadReply("the reply is for a device of another name")
    offered: object
    match kind_of(request):
        case Kind.GENERATED:
            return
        case Kind.TOKEN:
            offered = request.token
        case Kind.BASIC:
            offered = {
                "clientId": request.client_id,
                "userName": request.username,
                "password": request.password,
            }
        case Kind.X509:
            offered = strip_pem(request.hash or "")
        case Kind.CSR:
            value = reply.credentials_value
            if reply.credentials_type == request.credentials_type and isinstance(value, str):
                if private_key and issued_for(value, private_key):
                    return
                raise BadReply("the certificate is for another key")
            offered = None
    if (reply.credentials_type, reply.credentials_value) != (request.credentials_type, offered):
        raise BadReply(f"the reply grants {reply.credentials_type} that differ from what the device offered")


def strip_pem(pem: str) -> str:
    """The base64 body of a PEM text: no header, no footer, no newlines."""
    return "".join(line for line in pem.splitlines() if not line.startswith("-----"))


def as_pem(body: str) -> bytes:
    """A certificate as `ssl` reads it, from what `strip_pem` gave, or a chain that is PEM already."""
    if body.startswith("-----"):
        return body.encode()
    lines = [body[start : start + 64] for start in range(0, len(body), 64)]
    return "\n".join(["-----BEGIN CERTIFICATE-----", *lines, "-----END CERTIFICATE-----", ""]).encode()


def signing_request(name: str) -> tuple[str, str]:
    """A PKCS#10 request for a new P-256 key, and the key, both in PEM. What name it says is the server's to decide."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = [x509.NameAttribute(NameOID.COMMON_NAME, name[:_LONGEST_COMMON_NAME])] if name else []
    csr = x509.CertificateSigningRequestBuilder().subject_name(x509.Name(subject)).sign(key, hashes.SHA256())
    return csr.public_bytes(serialization.Encoding.PEM).decode(), _private_pem(key)


def issued_for(chain: str, private_key: str) -> bool:
    """Whether the first certificate of a chain in PEM is for this key, in PEM."""
    try:
        certificate = x509.load_pem_x509_certificate(chain.encode())
        key = serialization.load_pem_private_key(private_key.encode(), None)
    except ValueError:
        return False
    return certificate.public_key() == key.public_key()


def _private_pem(key: ec.EllipticCurvePrivateKey) -> str:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()


def _random_text() -> str:
    return "".join(secrets.choice(_ALPHABET) for _ in range(TOKEN_LENGTH))


def _self_signed(name: str) -> tuple[str, str]:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name[:_LONGEST_COMMON_NAME])])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(_NOT_BEFORE)
        .not_valid_after(_NOT_AFTER)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    return certificate.public_bytes(serialization.Encoding.PEM).decode(), _private_pem(key)

"""What secures a connection: whom the device trusts, and what it shows of itself."""

import functools
import ssl
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from firmware_sim.errors import NoAnswer, Unauthorized, Untrusted, WrongUsage

# What a server says (RFC 8446 §6.2, RFC 4279 §2) of a certificate or a pre-shared key that it does not accept.
_ABOUT_THE_DEVICE = (
    "bad certificate",
    "unsupported certificate",
    "certificate revoked",
    "certificate expired",
    "certificate unknown",
    "certificate required",
    "unknown ca",
    "access denied",
    "decrypt error",
    "unknown psk identity",
)


@dataclass(frozen=True, slots=True)
class Trust:
    """Which server to talk to: one with a certificate from `ca` (PEM file), or with `insecure` any.

    With neither, no server that shows a certificate is trusted.
    """

    ca: Path | None = None
    insecure: bool = False

    @property
    def given(self) -> bool:
        """Whether a server with a certificate can be trusted at all."""
        return self.insecure or self.ca is not None


@dataclass(frozen=True, slots=True)
class ClientCertificate:
    """chain: PEM, leaf first. private_key: PEM, unencrypted."""

    chain: bytes
    private_key: bytes = field(repr=False)

    @classmethod
    def read(cls, chain: Path, private_key: Path) -> Self:
        """Read both files. Raises WrongUsage, also when they do not belong together."""
        try:
            read = cls(chain.read_bytes(), private_key.read_bytes())
        except OSError as error:
            raise WrongUsage(f"cannot read {error.filename}: {error.strerror}") from None
        read.load_into(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))
        return read

    def load_into(self, context: ssl.SSLContext) -> None:
        """Show this in the context's handshakes. Raises WrongUsage."""
        with tempfile.NamedTemporaryFile() as file:  # mode 0600; `ssl` reads files alone
            file.write(self.private_key + b"\n" + self.chain)
            file.flush()
            try:
                context.load_cert_chain(file.name, password=_no_password)
            except (ssl.SSLError, ValueError) as error:
                reason = (getattr(error, "reason", None) or "no PEM").replace("_", " ").lower()
                raise WrongUsage(f"the certificate and the private key cannot be used: {reason}") from None


@dataclass(frozen=True, slots=True)
class PreSharedKey:
    """DTLS-PSK (RFC 4279) and OSCORE. identity: the provision key or the device id."""

    identity: str
    key: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Security:
    """What a channel is made with. Over CoAP, `key` goes before certificates."""

    trust: Trust = Trust()
    certificate: ClientCertificate | None = None
    key: PreSharedKey | None = None


def client_context(security: Security) -> ssl.SSLContext:
    """TLS for aiohttp and aiomqtt: TLS 1.2 or newer. Raises WrongUsage."""
    if security.certificate is None:
        return _shared_context(security.trust)
    context = _context(security.trust)
    security.certificate.load_into(context)
    return context


@functools.cache
def _shared_context(trust: Trust) -> ssl.SSLContext:
    return _context(trust)


def _context(trust: Trust) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if trust.insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    elif trust.ca is None:
        raise WrongUsage("a server's certificate can be checked with --ca only, or ignored with --insecure")
    else:
        try:
            context.load_verify_locations(trust.ca)
        except ssl.SSLError:
            raise WrongUsage(f"{trust.ca} is no PEM file with certificates") from None
        except OSError as error:
            raise WrongUsage(f"cannot read {trust.ca}: {error.strerror}") from None
    return context


def failure(error: ssl.SSLError) -> NoAnswer | Unauthorized | Untrusted:
    """What a failed handshake means."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return untrusted(error.verify_message)
    return alert(error.reason or str(error))


def untrusted(reason: str) -> Untrusted:
    """The server's certificate was checked and found wanting; reason: OpenSSL's words."""
    return Untrusted(f"the server's certificate: {reason}; --ca names the CA to trust, --insecure trusts any")


def alert(reason: str) -> NoAnswer | Unauthorized:
    """What the server's last word means; reason: OpenSSL's, as `ssl` or pyOpenSSL write it."""
    words = reason.replace("_", " ").lower()
    if any(said in words for said in _ABOUT_THE_DEVICE):
        return Unauthorized(f"TLS: {words}")
    return NoAnswer(f"TLS: {words}")


def _no_password() -> str:
    raise ValueError("the key is encrypted")  # instead of a question on the terminal

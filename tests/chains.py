"""Chains that are refused, and why: the case table of `X509_CERTIFICATE_CHAIN` (spec thingsboard §6).

Each is what a device presents that has the key of its first certificate: good for the verifier alone, for the
database behind it, and for a real handshake.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from provserver.core.decision import Reason
from tests import pki
from tests.pki import Authority, Issued, days

ROOT = Authority.root()
FACTORY = ROOT.intermediate("Factory", path_length=0)
DEVICE = FACTORY.leaf("sensor-1")
RSA_ROOT = Authority.root("RSA Root", key="rsa2048")
SHORT_ROOT = Authority.root("Short Root", path_length=0)
CONSTRAINED = Authority.root("Constrained Root", permitted=[x509.DNSName("example.com")])
OTHER = Authority.root("Other")
TRUSTED = (ROOT, RSA_ROOT, SHORT_ROOT, CONSTRAINED)
"""The CAs of the profile."""

_UNKNOWN = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00")


@dataclass(frozen=True)
class Shown:
    """What a device presents: DER, its own certificate first."""

    device: Issued
    certificates: tuple[bytes, ...]

    def write(self, directory: Path) -> tuple[Path, Path]:
        """Files for a client: the chain and the key."""
        _, key = self.device.write(directory)
        chain = directory / "shown.pem"
        pems = [x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM) for der in self.certificates]
        chain.write_bytes(b"".join(pems))
        return chain, key


@dataclass(frozen=True)
class Case:
    """A chain that is refused, and why. handshake: whether a client can present it (it needs the leaf's key)."""

    reason: Reason
    make: Callable[[], Shown]
    handshake: bool = True


def _leaf(of: Authority = FACTORY, cn: str | None = "sensor-1", **how: object) -> Shown:
    device = of.leaf(cn, **how)
    return Shown(device, device.chain)


def _alone(device: Issued, *others: bytes) -> Shown:
    return Shown(device, (device.der, *others))


def _whole(device: Issued) -> Shown:
    return Shown(device, device.full_chain)


def _below(**how: object) -> Shown:
    """Of a device below an intermediate of this kind."""
    return _leaf(ROOT.intermediate("Odd", **how))


def _rogue(**how: object) -> Shown:
    """A device's certificate that a device has issued."""
    device = FACTORY.leaf("sensor-1", **how)
    return _leaf(Authority(device.certificate, device.key, device.issuers), cn="sensor-2")


def _forged() -> Shown:
    """By an intermediate of the right name with another key."""
    return _alone(OTHER.intermediate("Factory").leaf(), FACTORY.der)


def _tampered() -> Shown:
    device = FACTORY.leaf("sensor-1")
    return Shown(device, (device.der.replace(b"sensor-1", b"sensor-2"), *device.chain[1:]))


def _gap() -> Shown:
    device = ROOT.intermediate("A").intermediate("B").leaf()
    return Shown(device, device.chain[::2])


def _named(of: Authority, *names: x509.GeneralName) -> Shown:
    return _leaf(of, san=names)


CASES: dict[str, Case] = {
    "expired": Case(Reason.CERTIFICATE_EXPIRED, lambda: _leaf(not_after=days(-0.01))),
    "not yet valid": Case(Reason.CERTIFICATE_NOT_YET_VALID, lambda: _leaf(not_before=days(0.01))),
    "intermediate expired": Case(Reason.CERTIFICATE_EXPIRED, lambda: _below(not_after=days(-0.5))),
    "intermediate not yet valid": Case(Reason.CERTIFICATE_NOT_YET_VALID, lambda: _below(not_before=days(1))),
    "self-signed": Case(Reason.SELF_SIGNED, lambda: _alone(pki.self_signed())),
    "self-signed CA": Case(Reason.SELF_SIGNED, lambda: _alone(pki.self_signed(ca=True))),
    "self-signed, named as the root": Case(Reason.SELF_SIGNED, lambda: _alone(pki.self_signed("Root", ca=True))),
    "self-signed beside a good chain": Case(Reason.SELF_SIGNED, lambda: _alone(pki.self_signed(), *DEVICE.full_chain)),
    "another CA": Case(Reason.UNTRUSTED, lambda: _whole(OTHER.intermediate().leaf())),
    "another CA of the same name": Case(Reason.UNTRUSTED, lambda: _whole(Authority.root().leaf())),
    "another CA, not presented": Case(Reason.MISSING_INTERMEDIATE, lambda: _leaf(OTHER)),
    "missing intermediate": Case(Reason.MISSING_INTERMEDIATE, lambda: _alone(FACTORY.leaf())),
    "missing intermediate, root there": Case(Reason.MISSING_INTERMEDIATE, lambda: _alone(FACTORY.leaf(), ROOT.der)),
    "gap": Case(Reason.MISSING_INTERMEDIATE, _gap),
    "forged": Case(Reason.SIGNATURE_WRONG, _forged),
    "tampered": Case(Reason.SIGNATURE_WRONG, _tampered),
    "of the root's name": Case(Reason.SIGNATURE_WRONG, lambda: _leaf(Authority.root())),
    "leaf as CA": Case(Reason.ISSUER_NOT_CA, _rogue),
    "leaf as CA that says it is none": Case(Reason.ISSUER_NOT_CA, lambda: _rogue(ca=False)),
    "CA as leaf": Case(Reason.LEAF_IS_CA, lambda: Shown(FACTORY, FACTORY.chain)),
    "the profile's CA as leaf": Case(Reason.LEAF_IS_CA, lambda: _alone(ROOT)),
    "path length": Case(Reason.PATH_LENGTH, lambda: _leaf(ROOT.intermediate(path_length=0).intermediate("B"))),
    "path length of the root": Case(Reason.PATH_LENGTH, lambda: _leaf(SHORT_ROOT.intermediate())),
    "RSA 512": Case(Reason.WEAK_KEY, lambda: _leaf(weak_key=True), handshake=False),
    "RSA 1024": Case(Reason.WEAK_KEY, lambda: _leaf(key="rsa1024")),
    "P-224": Case(Reason.WEAK_KEY, lambda: _leaf(key="p224"), handshake=False),
    "MD5": Case(Reason.WEAK_SIGNATURE, lambda: _leaf(RSA_ROOT, digest="md5")),
    "SHA-1": Case(Reason.WEAK_SIGNATURE, lambda: _leaf(RSA_ROOT, digest="sha1")),
    "intermediate SHA-1": Case(Reason.WEAK_SIGNATURE, lambda: _leaf(RSA_ROOT.intermediate(digest="sha1"))),
    "Ed25519 intermediate": Case(Reason.KEY_UNSUPPORTED, lambda: _below(key="ed25519")),
    "secp256k1 intermediate": Case(Reason.KEY_UNSUPPORTED, lambda: _below(key="k256")),
    "key usage": Case(Reason.KEY_USAGE, lambda: _leaf(key_usage=pki.usages("key_encipherment"))),
    "intermediate key usage": Case(Reason.KEY_USAGE, lambda: _below(key_usage=pki.usages("crl_sign"))),
    "server only": Case(Reason.EXTENDED_KEY_USAGE, lambda: _leaf(eku=[pki.SERVER_AUTH])),
    "intermediate server only": Case(Reason.EXTENDED_KEY_USAGE, lambda: _below(eku=[pki.SERVER_AUTH])),
    "name not permitted": Case(
        Reason.NAME_CONSTRAINT, lambda: _named(CONSTRAINED, x509.DNSName("sensor-1.example.org"))
    ),
    "name excluded": Case(
        Reason.NAME_CONSTRAINT,
        lambda: _named(
            ROOT.intermediate("C", excluded=[x509.RFC822Name("example.com")]), x509.RFC822Name("a@example.com")
        ),
    ),
    "constraint that is not checked": Case(
        Reason.NAME_CONSTRAINT, lambda: _below(permitted=[x509.DirectoryName(pki.name("x"))])
    ),
    "critical extension": Case(Reason.CRITICAL_EXTENSION, lambda: _leaf(extensions=[(_UNKNOWN, True)])),
    "intermediate critical extension": Case(Reason.CRITICAL_EXTENSION, lambda: _below(extensions=[(_UNKNOWN, True)])),
    "many namesakes": Case(
        Reason.CHAIN_INVALID,
        lambda: _alone(FACTORY.leaf(), *(ROOT.intermediate(key=FACTORY.key).der for _ in range(4))),
    ),
    "fifty certificates": Case(Reason.CHAIN_TOO_LONG, lambda: _alone(FACTORY.leaf(), *[FACTORY.der] * 49)),
    "CN of 64 KB": Case(Reason.CERTIFICATE_TOO_LARGE, lambda: _leaf(cn="x" * 65_536)),
}
"""What the verifier refuses: no profile could let these in."""

NAMES: dict[str, Case] = {
    "CN with NUL": Case(Reason.NAME_MALFORMED, lambda: _leaf(cn="sensor\0evil")),
    "CN with markup": Case(Reason.NAME_MALFORMED, lambda: _leaf(cn="<b>")),
    "CN of 5 KB": Case(Reason.NAME_TOO_LONG, lambda: _leaf(cn="x" * 5000)),
    "blank CN": Case(Reason.NAME_BLANK, lambda: _leaf(cn=" ")),
    "no CN": Case(Reason.CERTIFICATE_NAMELESS, lambda: _leaf(cn=None)),
}
"""What is refused for its name, under the default rules."""

import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat

from provserver.errors import Misconfigured
from provserver.transports import certificates
from tests import pki

ROOT = pki.Authority.root()
FACTORY = ROOT.intermediate()
SERVER = FACTORY.leaf("localhost")

Break = Callable[[Path, Path], object]


def load(folder: Path, issued: pki.Issued = SERVER, break_: Break = lambda _, __: None) -> certificates.KeyPair:
    certificate, key = issued.write(folder, "server")
    break_(certificate, key)
    return certificates.load(certificate, key, datetime.now(UTC))


@pytest.mark.parametrize("key", ["p256", "p384", "rsa2048"])
def test_a_certificate_with_its_issuers(tmp_path: Path, key: str) -> None:
    issued = FACTORY.leaf("localhost", key=key)
    pair = load(tmp_path, issued)
    assert list(pair.certificates) == [issued.certificate, FACTORY.certificate]
    assert pair.key.private_numbers() == issued.key.private_numbers()  # type: ignore[union-attr]
    assert "PRIVATE" not in repr(pair)


def encrypt(_: Path, key: Path) -> None:
    encryption = BestAvailableEncryption(b"passphrase")
    key.write_bytes(SERVER.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption))


def directory(certificate: Path, _: Path) -> None:
    certificate.unlink()
    certificate.mkdir()


def other_key(_: Path, key: Path) -> None:
    key.write_text(ROOT.key_pem)


def issuer_first(certificate: Path, _: Path) -> None:
    certificate.write_text(FACTORY.pem + SERVER.pem)


def damage(certificate: Path, _: Path) -> None:
    certificate.write_text(SERVER.pem.replace("MII", "M!I", 1)[:-200])


FAULTS: dict[str, tuple[pki.Issued, Break, str]] = {
    "no certificate": (SERVER, lambda certificate, _: certificate.unlink(), r"no .*server.pem.* `provserver ca init`"),
    "no key": (SERVER, lambda _, key: key.unlink(), r"no .*server.key.*tls_certificate and tls_key"),
    "a directory": (SERVER, directory, r"server.pem cannot be read: Is a directory"),
    "no PEM": (SERVER, lambda certificate, _: certificate.write_bytes(b"\xff\0"), "no certificate in it"),
    "a damaged certificate": (SERVER, damage, "server.pem has no certificate in it, or a damaged one"),
    "a key for a certificate": (SERVER, lambda c, key: c.write_text(key.read_text()), "no certificate in it"),
    "a certificate for a key": (SERVER, lambda c, key: key.write_text(c.read_text()), "no private key in it"),
    "a passphrase": (SERVER, encrypt, "server.key is protected by a passphrase"),
    "another's key": (SERVER, other_key, "server.key is not the key of the first certificate in .*server.pem"),
    "the issuer first": (SERVER, issuer_first, "comes first there"),
    "ed25519": (FACTORY.leaf("x", key="ed25519"), lambda _, __: None, "a kind that TLS clients do not use"),
    "expired": (FACTORY.leaf("x", not_after=pki.days(-0.5)), lambda _, __: None, "server.pem expired on 20.*Renew it"),
    "not yet valid": (FACTORY.leaf("x", not_before=pki.days(1)), lambda _, __: None, "not valid before .*clock"),
}


@pytest.mark.parametrize(("issued", "break_", "message"), FAULTS.values(), ids=FAULTS)
def test_what_cannot_be_used_is_said_with_its_fix(
    tmp_path: Path, issued: pki.Issued, break_: Break, message: str
) -> None:
    with pytest.raises(Misconfigured, match=message):
        load(tmp_path, issued, break_)


def test_a_stamp_changes_with_either_file(tmp_path: Path) -> None:
    files = SERVER.write(tmp_path, "server")
    before = certificates.stamp(*files)
    assert certificates.stamp(*files) == before
    os.utime(files[1], ns=(0, 0))
    after = certificates.stamp(*files)
    assert after != before
    files[0].write_text(SERVER.chain_pem + "\n")
    assert certificates.stamp(*files) != after
    after = certificates.stamp(*files)
    files[0].unlink()
    assert certificates.stamp(*files) != after

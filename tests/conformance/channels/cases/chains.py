"""Bad certificates: every row of `tests/chains.py`, by real handshakes, with the reason that the operator reads.

None of them costs another device anything: after each, a neighbour on the same listener is served, and a good device
is provisioned by the same CA.
"""

import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests import chains
from tests.conformance.channels.cases.short import Showing, comes
from tests.conformance.channels.model import (
    CERTIFICATE,
    Absent,
    Attempted,
    Bystander,
    Case,
    Channel,
    Come,
    Login,
    Pki,
    Verdict,
)
from tests.pki import Authority

GOOD = Login(certificate="good", gnutls=True)

_NOT_BY_GNUTLS = {
    "self-signed CA",
    "self-signed, named as the root",
    "CA as leaf",
    "the profile's CA as leaf",
    "secp256k1 intermediate",
    "key usage",
    "many namesakes",
    "fifty certificates",
}
"""What a client on GnuTLS does not show: a key whose use it sees excluded, a curve it does not know, a chain that it
tidies up.
"""


_STUBBORN = Login(certificate="bad", weak=True, stubborn=True)

_WEAK = {"RSA 1024", "P-224", "MD5", "SHA-1", "intermediate SHA-1"}
"""What OpenSSL's clients show only when they are told to, in TLS 1.2."""


def _bad(name: str) -> Login:
    """The client that shows it."""
    return Login(certificate="bad", weak=name in _WEAK, stubborn=name in _NOT_BY_GNUTLS, gnutls=True)


def _pki(make: Callable[[], chains.Shown]) -> Callable[[str], Pki]:
    return lambda tag: Pki(devices={"bad": Showing(make()), "good": chains.FACTORY.leaf(f"good-{tag}")})


@dataclass(frozen=True)
class _Weakling:
    """A device with a key of RSA 512, which `cryptography` has no part in: OpenSSL makes it."""

    issuer: Authority

    def write(self, directory: Path, stem: str) -> tuple[Path, Path]:
        """As `model.Certified` has it."""
        if shutil.which("openssl") is None:
            pytest.skip("openssl is not installed")
        issuer, issuer_key = self.issuer.write(directory, f"{stem}-issuer")
        chain, key = directory / f"{stem}.pem", directory / f"{stem}.key"
        public = directory / f"{stem}.pub"
        for command in (
            f"genrsa -out {key} 512",
            f"rsa -in {key} -pubout -out {public}",
            f"x509 -new -subj /CN=sensor-1 -force_pubkey {public} -CA {issuer} -CAkey {issuer_key} -out {chain}",
        ):
            subprocess.run(["openssl", *command.split()], check=True, capture_output=True)
        chain.write_text(chain.read_text() + self.issuer.chain_pem)
        return chain, key


def _weakling(tag: str) -> Pki:
    return Pki(devices={"bad": _Weakling(chains.FACTORY), "good": chains.FACTORY.leaf(f"good-{tag}")})


def _refused(name: str, case: chains.Case) -> Case:
    """A device that is refused with a reason, in the same profile in which the next one is provisioned."""
    slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    return Case(
        id=f"chain/{slug}",
        says=f"{name[0].upper()}{name[1:]}.",
        cites=f"chain/refused chain/neighbours 6.1/late 6.1/verified {_ROWS.get(name, '')}".strip(),
        steps=(
            Come(login=_bad(name), expect=Verdict.CERTIFICATE),
            Attempted(case.reason.name),
            Absent("sensor-1"),
            Bystander(),
            comes(GOOD),
        ),
        channels=CERTIFICATE,
        profile=None,
        device=None,
        pki=_pki(case.make),
    )


def _cut(
    name: str,
    says: str,
    cites: str,
    login: Login,
    make: Callable[[str], Pki],
    channels: tuple[Channel, ...] = CERTIFICATE,
    reason: str | None = None,
) -> Case:
    """A device whose handshake fails. reason: in the attempt; None: there is no attempt."""
    return Case(
        id=f"chain/{name}",
        says=says,
        cites=f"chain/neighbours {cites}",
        steps=(Come(login=login, expect=Verdict.NO_HANDSHAKE), Attempted(reason), Bystander(), comes(GOOD)),
        channels=channels,
        profile=None,
        device=None,
        pki=make,
    )


_ROWS = {
    "expired": "chain/expired",
    "not yet valid": "chain/not-yet-valid",
    "another CA": "chain/wrong-ca",
    "another CA, not presented": "chain/wrong-ca",
    "leaf as CA": "chain/leaf-as-ca 6.1/leaf-as-issuer",
    "missing intermediate": "chain/missing-intermediate",
    "self-signed": "chain/self-signed",
    "RSA 512": "chain/rsa-512",
    "RSA 1024": "chain/rsa-512",
    "MD5": "chain/md5",
    "CN with NUL": "chain/cn-nul",
    "fifty certificates": "chain/fifty",
}

CASES = (
    Case(
        id="chain/rsa-512",
        says="RSA 512, over TLS 1.2: in TLS 1.3 there is no signature for it, so a client shows no certificate.",
        cites="chain/rsa-512 chain/neighbours",
        steps=(Come(login=_STUBBORN, expect=Verdict.CERTIFICATE), Attempted("WEAK_KEY"), Bystander(), comes(GOOD)),
        channels=CERTIFICATE,
        profile=None,
        device=None,
        pki=_weakling,
    ),
    *(
        _refused(name, case)
        for name, case in (chains.CASES | chains.NAMES).items()
        if name not in ("CN of 64 KB", "RSA 512", "P-224")
    ),
    _cut(
        "cn-of-64-kb",
        "A CN of 64 KB: the handshake is past its bound and is ended; the attempt says so.",
        "chain/cn-64-kb",
        _STUBBORN,
        _pki(chains.CASES["CN of 64 KB"].make),
        (Channel.HTTPS, Channel.MQTTS),
        "CERTIFICATE_TOO_LARGE",
    ),
    _cut(
        "cn-of-64-kb-dtls",
        "A CN of 64 KB over DTLS: its datagrams are dropped, so there is no attempt.",
        "chain/cn-64-kb",
        _STUBBORN,
        _pki(chains.CASES["CN of 64 KB"].make),
        (Channel.X509,),
    ),
    _cut(
        "p-224",
        "A curve that OpenSSL itself refuses in the handshake: there is no attempt either.",
        "chain/curve",
        _bad("P-224"),
        _pki(chains.CASES["P-224"].make),
    ),
)

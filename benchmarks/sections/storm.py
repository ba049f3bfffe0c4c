"""A power cut in a city: 10,000 devices with client certificates come at once, over TLS; first new, then known."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from benchmarks.bench import Bench, Stage
from benchmarks.load import Measurement
from benchmarks.results import Series, result
from benchmarks.sections.sessions import held
from provserver.core import pki

DEVICES = 10_000
PATIENCE = 110


def measure(bench: Bench, stage: Stage) -> None:
    """Until everybody has a session; who fails comes again two seconds after it began."""
    authority, certificates, key = (bench.folder / name for name in ("devices-ca.pem", "devices.der", "devices.key"))
    make_certificates(DEVICES, authority, certificates, key)
    stage.database("storm")
    product = stage.product("storm", tls=True)
    product.make_certificates()
    options = ("--tls", "--again", "--username", "", "--certificates", certificates, "--private-key", key)
    with product:
        product.cli("profile", "create", "storm", "--strategy", "x509-chain", "--ca", authority)
        for name, what in (
            ("storm_new", f"{DEVICES:,} TLS devices with client certificates at once, not known yet"),
            ("storm_known", f"{DEVICES:,} TLS devices with client certificates at once, known"),
        ):
            with held(
                bench, product.port("mqtts"), DEVICES, *options, "--patience", PATIENCE, at_once=DEVICES
            ) as opened:
                _report(bench, name, what, opened)


def _report(bench: Bench, name: str, what: str, opened: Measurement) -> None:
    bench.say(f"storm: {what}: {opened.seconds:.1f} s, {opened.retried} came again")
    note = f"{opened.rate:,.0f} devices/s; p50 {opened.p50 / 1000:.1f} s; {opened.retried} came again; one key for all"
    bench.results.append(
        result(name, f"{what}: until the last has its session", Series.of([opened.seconds]), "s", note=note)
    )


def make_certificates(count: int, authority_file: Path, certificates: Path, key_file: Path) -> None:
    """A CA, and so many certificates of it: each DER after its length in four bytes. All of one key."""
    now = datetime.now(UTC)
    authority_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    authority = pki.make_authority("benchmark devices", authority_key, x509.random_serial_number(), now)
    authority_file.write_bytes(authority.certificate.public_bytes(Encoding.PEM))
    key_file.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    issuer, public = authority.certificate.subject, key.public_key()
    with certificates.open("wb") as file:
        for number in range(count):
            subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, f"storm-{number:06}")])
            before, after = now - timedelta(days=1), now + timedelta(days=1)
            builder = x509.CertificateBuilder(issuer, subject, public, x509.random_serial_number(), before, after)
            builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            der = builder.sign(authority_key, hashes.SHA256()).public_bytes(Encoding.DER)
            file.write(len(der).to_bytes(4) + der)

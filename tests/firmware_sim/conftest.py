import datetime
import ipaddress
import ssl
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from firmware_sim.pki import Factory
from firmware_sim.tls import ClientCertificate, Trust
from tests.server import quiet_port


@pytest.fixture
def free_port() -> int:
    """A port on 127.0.0.1 free for TCP and UDP; nobody else of the run takes it until it is used."""
    return quiet_port()


@dataclass(frozen=True)
class Identity:
    """A server's certificate for 127.0.0.1 and localhost, and the CA that it is from."""

    ca: Path
    certificate: Path
    key: Path

    @property
    def trust(self) -> Trust:
        return Trust(self.ca)

    def context(self, client_ca: Path | None = None) -> ssl.SSLContext:
        """TLS as this server; client_ca: demand certificates that it signed."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificate, self.key)
        if client_ca:
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(client_ca)
        return context


def make_identity(directory: Path, host: str = "127.0.0.1") -> Identity:
    ca_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    ca_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Test CA")])
    start = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
    end = datetime.datetime(2100, 1, 1, tzinfo=datetime.UTC)

    def signed(name: x509.Name, own: ec.EllipticCurvePrivateKey, extensions: list[x509.ExtensionType]) -> bytes:
        builder = x509.CertificateBuilder(ca_name, name, own.public_key(), x509.random_serial_number(), start, end)
        for extension in extensions:
            builder = builder.add_extension(extension, critical=False)
        return builder.sign(ca_key, hashes.SHA256()).public_bytes(Encoding.PEM)

    identity = Identity(directory / "ca.pem", directory / "server.pem", directory / "server.key")
    identity.ca.write_bytes(signed(ca_name, ca_key, [x509.BasicConstraints(ca=True, path_length=None)]))
    alternatives = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(host)), x509.DNSName("localhost")])
    server = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "server")])
    identity.certificate.write_bytes(signed(server, key, [alternatives]))
    identity.key.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return identity


@pytest.fixture(scope="session")
def identity(tmp_path_factory: pytest.TempPathFactory) -> Identity:
    return make_identity(tmp_path_factory.mktemp("identity"))


@pytest.fixture(scope="session")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Identity:
    """Another CA, and a server that it vouches for under another address."""
    return make_identity(tmp_path_factory.mktemp("stranger"), "192.0.2.1")


@pytest.fixture(scope="session")
def factory(tmp_path_factory: pytest.TempPathFactory) -> Factory:
    return Factory.create(tmp_path_factory.mktemp("factory"))


@pytest.fixture(scope="session")
def certificate(factory: Factory) -> ClientCertificate:
    return factory.device("sensor-1")

"""EST (RFC 7030) as curl and openssl see it: a device that enrolls, comes back with its certificate, and re-enrolls."""

import asyncio
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from provserver.services.access import Access
from provserver.services.enrollment import Enrollment
from provserver.services.est import Est
from provserver.services.issuing import IssuingAuthorities
from provserver.services.profiles import KeyPair
from provserver.store import profiles
from provserver.transports.http import HttpTransport
from provserver.transports.http_server import ProtocolFactory
from provserver.transports.tls import ServerContext
from provserver.transports.tls_stream import TlsAcceptor, over_tls
from tests.pki import Key, self_signed
from tests.requests import body, csr, p256
from tests.transports.devices import Backend, backend
from tests.transports.tls_peer import ROOT, server_files

OPERATION = "/.well-known/est"


@dataclass
class Answered:
    """What curl was told."""

    status: int
    headers: dict[str, str]
    body: bytes


@dataclass
class Client:
    """A device on curl and openssl."""

    curl: str
    openssl: str
    directory: Path
    port: int
    pair: KeyPair

    async def run(self, *command: str, stdin: bytes = b"") -> bytes:
        process = await asyncio.create_subprocess_exec(
            *command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        out, err = await process.communicate(stdin)
        assert process.returncode == 0, err
        return out

    async def __call__(self, path: str, *arguments: str, data: str | None = None, scheme: str = "https") -> Answered:
        command = [self.curl, "-sS", "-i", "--cacert", str(self.directory / "ca.pem")]
        command += ["--resolve", f"localhost:{self.port}:127.0.0.1"]
        if data is not None:
            command += ["-H", "Content-Type: application/pkcs10", "--data-binary", "@-"]
        url = f"{scheme}://localhost:{self.port}{OPERATION}{path}"
        out = await self.run(*command, *arguments, url, stdin=(data or "").encode())
        head, _, content = out.partition(b"\r\n\r\n")
        first, *lines = head.decode().split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in lines)
        return Answered(int(first.split()[1]), headers, content)

    async def certificates(self, answer: Answered) -> list[x509.Certificate]:
        """What a PKCS#7 answer holds, as openssl reads it."""
        assert (answer.status, answer.headers["content-transfer-encoding"]) == (200, "base64")
        assert answer.headers["content-type"] == "application/pkcs7-mime; smime-type=certs-only"
        der = await self.run(self.openssl, "base64", "-d", stdin=answer.body)
        pem = await self.run(self.openssl, "pkcs7", "-inform", "DER", "-print_certs", stdin=der)
        return x509.load_pem_x509_certificates(pem)

    def key(self) -> tuple[str, ...]:
        """The arguments of who presents the provision key."""
        return ("-u", f"{self.pair.key}:{self.pair.secret}")

    def certificate(self, certificate: x509.Certificate, key: Key) -> tuple[str, ...]:
        """The arguments of who presents a certificate."""
        chain, private = self.directory / "device.pem", self.directory / "device.key"
        chain.write_bytes(certificate.public_bytes(Encoding.PEM))
        private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        return ("--cert", str(chain), "--key", str(private))


@pytest.fixture(scope="module")
async def back(postgres: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Backend]:
    async with backend(postgres, tmp_path_factory.mktemp("est"), "est") as services:
        yield services


@pytest.fixture(scope="module")
async def authorities(back: Backend) -> IssuingAuthorities:
    """Those of the manufacturer, whose profile `sensors` issues certificates."""
    made = back.made
    async with made.database.connection() as connection:
        root = await profiles.root_organization(connection, uuid4(), "Manufacturer")
    found = IssuingAuthorities(made.database, made.keys, root)
    await found.create("sensors", "Sensors CA")
    return found


@asynccontextmanager
async def serving(back: Backend, directory: Path, *, tls: bool = True) -> AsyncIterator[int]:
    made = back.made
    enrollment = Enrollment(made.database, made.keys)
    access = Access(made.database, made.keys, enrollment)
    context = ServerContext(*server_files(directory))

    def wrap(make: ProtocolFactory) -> TlsAcceptor:
        return over_tls(context, make, asyncio.get_running_loop(), shared_key=access.shared_key)

    est = Est(made.database, made.provisioning, access, back.data)
    transport = HttpTransport(made.provisioning, made.database.ping, est=est, **back.services | {"access": access})
    _, port = await transport.start("127.0.0.1", 0, wrap=wrap if tls else None)
    try:
        yield port
    finally:
        await transport.stop(0)
        await access.drain()
        await enrollment.drain()


@pytest.fixture
async def client(
    back: Backend, authorities: IssuingAuthorities, tool: Callable[[str], str], tmp_path: Path
) -> AsyncIterator[Client]:
    assert (await authorities.show("sensors")).profile == "sensors"
    (tmp_path / "ca.pem").write_text(ROOT.pem)
    async with serving(back, tmp_path) as port:
        yield Client(tool("curl"), tool("openssl"), tmp_path, port, back.made.pair)


async def template(back: Backend) -> str:
    found: str = await back.made.value("SELECT template_id FROM device_profile WHERE name = 'sensors'")
    return found


async def test_the_cas_are_told_to_anybody(client: Client, back: Backend, authorities: IssuingAuthorities) -> None:
    issuing = x509.load_pem_x509_certificates((await authorities.show("sensors")).certificates.encode())
    for path in ("/cacerts", f"/{await template(back)}/cacerts"):
        assert await client.certificates(await client(path)) == issuing
    assert (await client("/TMPLunknown/cacerts")).status == 404


async def test_the_attributes_are_what_a_device_needs_to_know(client: Client) -> None:
    answer = await client("/csrattrs")
    assert (answer.status, answer.headers["content-type"]) == (200, "application/csrattrs")
    der = await client.run(client.openssl, "base64", "-d", stdin=answer.body)
    shown = (await client.run(client.openssl, "asn1parse", "-inform", "DER", stdin=der)).decode()
    assert [name for name in ("ecdsa-with-SHA256", "id-ecPublicKey", "prime256v1") if name in shown]


async def test_a_device_enrolls_comes_back_and_enrolls_again(client: Client) -> None:
    key, fresh = p256(), p256()
    answer = await client("/simpleenroll", *client.key(), data=body(csr(key, "est-1")))
    (first,) = await client.certificates(answer)
    assert first.subject.rfc4514_string() == "CN=est-1"
    assert first.public_key() == key.public_key()
    # The answer was lost: the same key gets the same certificate.
    again = await client("/simpleenroll", *client.key(), data=body(csr(key, "est-1")))
    assert await client.certificates(again) == [first]

    presented = client.certificate(first, key)
    other = await client("/simplereenroll", *presented, data=body(csr(fresh, "est-2")))
    assert (other.status, other.headers["content-type"]) == (400, "text/plain; charset=utf-8")
    answer = await client("/simplereenroll", *presented, data=body(csr(fresh, "est-1")))
    (second,) = await client.certificates(answer)
    assert second.public_key() == fresh.public_key()
    assert second.serial_number != first.serial_number
    lost = await client("/simplereenroll", *presented, data=body(csr(fresh, "est-1")))
    assert await client.certificates(lost) == [second]

    after = await client("/simplereenroll", *client.certificate(second, fresh), data=body(csr(fresh, "est-1")))
    assert after.status == 200
    gone = await client("/simplereenroll", *client.certificate(first, key), data=body(csr(key, "est-1")))
    assert gone.status == 403  # the second was used


async def test_a_device_with_a_token_enrolls(client: Client, back: Backend) -> None:
    device = await back.device("est-token")
    key = p256()
    for user in (f"{device.token}:", f"device:{device.token}"):
        answer = await client("/simpleenroll", "-u", user, data=body(csr(key, "anything")))
        (certificate,) = await client.certificates(answer)
        assert certificate.subject.rfc4514_string() == "CN=est-token"
    assert (await client("/simplereenroll", *client.certificate(certificate, key), data=body(csr()))).status == 400
    assert (await client("/simpleenroll", "-u", f"{device.token}:", data=body(csr(key)))).status == 401


async def test_a_path_may_name_the_profile(client: Client, back: Backend) -> None:
    wanted = body(csr(cn="est-labelled"))
    ours = await template(back)
    assert (await client(f"/{ours}/simpleenroll", *client.key(), data=wanted)).status == 200
    for wrong in ("TMPLunknown", "%00"):
        refused = await client(f"/{wrong}/simpleenroll", *client.key(), data=wanted)
        assert (refused.status, "www-authenticate" in refused.headers) == (401, True)
    device = await back.device("est-labelled-token")
    assert (await client("/TMPLunknown/simpleenroll", "-u", f"{device.token}:", data=wanted)).status == 401


async def test_who_is_not_known_is_asked_for_a_password(client: Client) -> None:
    wanted = body(csr(cn="est-stranger"))
    wrong = ("-u", f"{client.pair.key}:wrong")
    for arguments in (
        (),
        wrong,
        ("-u", "unknown:"),
        ("-H", "Authorization: Bearer x"),
        ("-H", "Authorization: Basic !"),
    ):
        refused = await client("/simpleenroll", *arguments, data=wanted)
        assert refused.status == 401
        assert refused.headers["www-authenticate"].startswith("basic realm=")
    key = p256()
    stranger = client.certificate(self_signed("est-stranger", key=key).certificate, key)
    assert (await client("/simplereenroll", *stranger, data=wanted)).status == 403
    assert (await client("/simplereenroll", data=wanted)).status == 403


async def test_what_is_wrong_with_a_request_is_told(client: Client, back: Backend) -> None:
    ca = [(x509.BasicConstraints(ca=True, path_length=None), True)]
    for wanted in ("nonsense", "", body(csr("p384", "est-odd")), body(csr(cn="est-odd", extensions=ca))):
        refused = await client("/simpleenroll", *client.key(), data=wanted)
        assert (refused.status, refused.headers["content-type"]) == (400, "text/plain; charset=utf-8")
    device = await back.device("est-odd-token")
    refused = await client("/simpleenroll", "-u", f"{device.token}:", data=body(csr("p384")))
    assert refused.body == b"the certificate signing request is not for an EC P-256 key!"
    typed = await client("/simpleenroll", *client.key(), "-d", "x")
    assert typed.status == 415
    assert await back.made.value("SELECT count(*) FROM device WHERE name = 'est-odd'") == 0
    assert (await client("/serverkeygen", *client.key(), data=body(csr()))).status == 501
    assert (await client("/simpleenroll", *client.key())).status == 405


async def test_without_tls_nothing_is_told(back: Backend, client: Client, tmp_path: Path) -> None:
    async with serving(back, tmp_path, tls=False) as port:
        plain = Client(client.curl, client.openssl, tmp_path, port, back.made.pair)
        for path, data in (("/cacerts", None), ("/simpleenroll", body(csr()))):
            assert (await plain(path, data=data, scheme="http")).status == 403

"""HTTP over our own TLS: what the channel proves is what the device is known by."""

import asyncio
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from provserver.transports.http import HttpTransport
from provserver.transports.http_server import ProtocolFactory
from provserver.transports.tls import ServerContext
from provserver.transports.tls_stream import TlsAcceptor, over_tls
from tests.pki import Authority, Issued
from tests.transports.devices import Backend, backend
from tests.transports.test_device_api import WAITING
from tests.transports.test_http import Connection, Site, get, post
from tests.transports.tls_peer import ROOT, server_files

FACTORY = Authority.root("factory")


@pytest.fixture(scope="module")
async def back(postgres: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Backend]:
    async with backend(postgres, tmp_path_factory.mktemp("https"), "https") as services:
        yield services


@asynccontextmanager
async def serving(back: Backend, directory: Path, *, front: bool = True) -> AsyncIterator[Site]:
    context = ServerContext(*server_files(directory))

    def wrap(make: ProtocolFactory) -> TlsAcceptor:
        return over_tls(context, make, asyncio.get_running_loop(), shared_key=back.access.shared_key)

    transport = HttpTransport(back.made.provisioning, back.made.database.ping, front=front, **back.services)
    _, port = await transport.start("127.0.0.1", 0, wrap=wrap)
    try:
        yield Site(transport, port, back.made.pair)
    finally:
        await transport.stop(0)


class Curl:
    def __init__(self, program: str, directory: Path, port: int, client: Issued | None) -> None:
        self._port = port
        ca = directory / "ca.pem"
        ca.write_text(ROOT.pem)
        self._arguments = [program, "-sS", "-w", " %{http_code}", "--cacert", str(ca)]
        self._arguments += ["--resolve", f"localhost:{port}:127.0.0.1"]
        if client is not None:
            certificate, key = client.write(directory)
            self._arguments += ["--cert", str(certificate), "--key", str(key)]

    async def __call__(self, path: str, *arguments: str) -> str:
        url = f"https://localhost:{self._port}/api/v1/{path}"
        process = await asyncio.create_subprocess_exec(
            *self._arguments, *arguments, url, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        out, _ = await process.communicate()
        return out.decode()


async def test_a_client_certificate_is_enough(back: Backend, tool: Callable[[str], str], tmp_path: Path) -> None:
    client = FACTORY.leaf("sensor-1")
    device = await back.device("certificate", credentialsType="X509_CERTIFICATE", hash=client.pem)
    async with serving(back, tmp_path) as site:
        curl = Curl(tool("curl"), tmp_path, site.port, client)

        assert await curl("telemetry", "-d", '{"a":1}') == " 200"
        assert await curl("attributes", "-d", '{"b":1}') == " 200"
        assert await curl("attributes?clientKeys=b") == '{"client":{"b":1}} 200'
        waiting = asyncio.create_task(curl("attributes/updates"))
        await back.until_watched(device)
        await back.share(device, c=True)
        assert await waiting == '{"c":true} 200'
        assert await curl("unknown/telemetry", "-d", "{}") == " 401"

    assert await back.latest(device) == {"a": 1}


async def test_a_certificate_that_is_not_known_is_not_enough(
    back: Backend, tool: Callable[[str], str], tmp_path: Path
) -> None:
    async with serving(back, tmp_path) as site:
        for client in (FACTORY.leaf("nobody"), None):
            curl = Curl(tool("curl"), tmp_path, site.port, client)
            assert await curl("telemetry", "-d", "{}") == " 401"


async def test_a_token_serves_with_and_without_a_certificate(
    back: Backend, tool: Callable[[str], str], tmp_path: Path
) -> None:
    device = await back.device("token over TLS")
    async with serving(back, tmp_path) as site:
        for n, client in enumerate((FACTORY.leaf("nobody"), None)):
            curl = Curl(tool("curl"), tmp_path, site.port, client)
            assert await curl(f"{device.token}/telemetry", "-d", f'{{"n":{n}}}') == " 200"
            assert await back.latest(device) == {"n": n}


async def test_provisioning_over_tls(back: Backend, tool: Callable[[str], str], tmp_path: Path, front: bool) -> None:
    async with serving(back, tmp_path, front=front) as site:
        curl = Curl(tool("curl"), tmp_path, site.port, FACTORY.leaf("any"))

        said = await curl("provision", "-d", site.body(f"over TLS {front}").decode())

    assert said.endswith(" 200")
    assert '"status":"SUCCESS"' in said


async def test_a_channel_may_prove_the_provision_key(
    back: Backend, tool: Callable[[str], str], tmp_path: Path, front: bool
) -> None:
    pair = back.made.pair
    async with (
        serving(back, tmp_path, front=front) as site,
        s_client(tool("openssl"), site, pair.key, pair.secret) as (reader, writer),
    ):
        for n in range(2):
            writer.write(post(b'{"deviceName":"proved %d %d"}' % (front, n)))
            response = await Connection(reader, writer).response()

            assert (response.status, response.json["status"]) == (200, "SUCCESS")


@asynccontextmanager
async def s_client(
    program: str, site: Site, identity: str, secret: str, *options: str
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection protected with a shared key, by `openssl s_client`."""
    process = await asyncio.create_subprocess_exec(
        program, "s_client", "-connect", f"127.0.0.1:{site.port}", "-quiet",
        "-psk_identity", identity, "-psk", secret.encode().hex(), *options,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield process.stdout, process.stdin
    finally:
        with suppress(ProcessLookupError):
            process.kill()  # it does not end when its input does
        await process.wait()


@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
async def test_a_shared_key_is_enough(back: Backend, tool: Callable[[str], str], tmp_path: Path, version: str) -> None:
    device = await back.device(f"key {version}")
    await back.share(device, a=1)
    request = get(b"/api/v1/attributes").replace(b"Host: h", b"Host: h\r\nConnection: close")
    async with serving(back, tmp_path) as site:
        options = [version, *(["-cipher", "PSK"] if version == "-tls1_2" else [])]
        async with s_client(tool("openssl"), site, str(device.id), device.token, *options) as (reader, writer):
            writer.write(request)
            said = await reader.read()

    assert said.startswith(b"HTTP/1.1 200 ")
    assert said.endswith(b'{"shared":{"a":1}}')


async def test_stopping_ends_handshakes_and_polls(back: Backend, tool: Callable[[str], str], tmp_path: Path) -> None:
    client = FACTORY.leaf("sensor-2")
    device = await back.device("stops", credentialsType="X509_CERTIFICATE", hash=client.pem)
    async with serving(back, tmp_path) as site, site.connection() as silent:
        curl = Curl(tool("curl"), tmp_path, site.port, client)
        waiting = asyncio.create_task(curl(WAITING))
        await back.until_watched(device)

        await site.transport.stop(60)

        assert await waiting == " 408"
        assert await silent.ended() == b""

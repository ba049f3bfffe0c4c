import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import aiomqtt
import pytest
from cryptography.x509 import DNSName

from provserver.adapters import broker
from provserver.adapters.broker import BrokerClient, NamedContext
from provserver.adapters.outgoing import Forbidden, Outgoing, Unreachable
from tests.pki import Authority
from tests.services.conftest import until
from tests.support.mosquitto import Broker

Mosquitto = Callable[..., Broker]


async def made(
    outgoing: Outgoing, port: int, host: str = "127.0.0.1", *, tls: bool = False, timeout: float = 60
) -> BrokerClient:
    return await broker.client(BrokerClient, outgoing, host, port, tls=tls, timeout=timeout)


@asynccontextmanager
async def listening(answer: bytes = b"") -> AsyncIterator[tuple[int, asyncio.Event]]:
    """A port, and whether who connected there has closed; answer: what it gets for its CONNECT."""
    closed = asyncio.Event()
    writers: list[asyncio.StreamWriter] = []

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        with suppress(ConnectionError):  # which ends it as well
            await reader.read(1)
            writer.write(answer)
            while await reader.read(1 << 16):
                pass
        closed.set()
        writer.close()

    async with await asyncio.start_server(talk, "127.0.0.1", 0) as server:
        try:
            yield server.sockets[0].getsockname()[1], closed
        finally:  # a server waits for its connections, and of a test that failed one may be open
            for each in writers:
                each.close()


async def test_a_client_knows_when_its_connection_is_lost(mosquitto: Mosquitto, outgoing: Outgoing) -> None:
    there = mosquitto()
    await there.start()
    client = await made(outgoing, there.port)
    async with client:
        await client.publish("a", b"b", qos=1)
        assert not client.lost
        there.kill()
        await until(lambda: client.lost)
        await client.leave()
        await client.leave()


async def test_who_leaves_has_disconnected(mosquitto: Mosquitto, outgoing: Outgoing) -> None:
    there = mosquitto()
    await there.start()
    client = await made(outgoing, there.port)
    await client.__aenter__()
    await client.leave()
    assert client.lost


async def test_an_address_that_is_not_allowed_is_not_connected_to() -> None:
    async with listening() as (port, _), Outgoing() as public_only:
        for host in ("127.0.0.1", "localhost"):
            with pytest.raises(Forbidden, match="outgoing_private"):
                await made(public_only, port, host)


async def test_a_host_that_has_no_address_is_told(outgoing: Outgoing) -> None:
    with pytest.raises(Unreachable, match="cannot be resolved"):
        await made(outgoing, 1883, "a" * 64 + ".invalid")


async def test_a_broker_that_does_not_answer_is_left_with_nothing_open(outgoing: Outgoing) -> None:
    async with listening() as (port, closed):
        client = await made(outgoing, port, timeout=0.05)
        with pytest.raises(aiomqtt.MqttError, match="timed out"):
            await client.__aenter__()
        await closed.wait()


async def test_a_broker_that_refuses_is_left_with_nothing_open(outgoing: Outgoing) -> None:
    async with listening(b"\x20\x02\x00\x05") as (port, closed):
        client = await made(outgoing, port)
        with pytest.raises(aiomqtt.MqttError):
            await client.__aenter__()
        await closed.wait()


async def test_a_certificate_is_verified_for_the_name_and_a_failed_handshake_leaves_nothing_open(
    mosquitto: Mosquitto, outgoing: Outgoing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = Authority.root()
    certificate, key = root.leaf("localhost", san=[DNSName("localhost")]).write(tmp_path)
    for file in (certificate, key):
        file.chmod(0o644)
    (tmp_path / "root.pem").write_text(root.pem)
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "root.pem"))
    there = mosquitto("allow_anonymous true", f"certfile {certificate}", f"keyfile {key}")
    await there.start()

    right = await made(outgoing, there.port, "localhost", tls=True)
    assert isinstance(right.context, NamedContext)
    assert right.context.name == "localhost"
    async with right:
        await right.publish("a", b"b", qos=1)

    wrong = await made(outgoing, there.port, tls=True)
    with pytest.raises(aiomqtt.MqttError, match="certificate verify failed"):
        await wrong.__aenter__()
    assert wrong.context is not None
    assert wrong.context.opened is not None
    assert wrong.context.opened.fileno() == -1

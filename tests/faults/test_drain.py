"""SIGTERM under load: what was accepted is answered, on every transport, and who watches is told."""

import asyncio
import json
import os
import signal
import ssl
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import cast

import aiomqtt
import pytest
from prometheus_client.parser import text_string_to_metric_families

from provserver.store import keyfile
from tests.faults import oracle
from tests.faults.load import Load
from tests.faults.proxy import PostgresProxy
from tests.server import Server
from tests.test_workers import accepts

WORKERS = 6
"""Devices at a time on each transport."""


class Everywhere(Load):
    """The load over TLS as well. Each of its devices asks once."""

    async def ask_all(self) -> None:
        """Begin to ask over TLS."""
        context = ssl.create_default_context(cafile=str(self.server.ca))
        for number in range(WORKERS):
            for ask in (self._ask_https, self._ask_mqtts):
                name = f"{ask.__name__}-{number}"
                self._tasks.append(asyncio.create_task(self._once(ask, name, context), name=name))

    async def _ask_coap(self, body: bytes) -> bytes:
        """On a socket of its own: aiocoap drops answers that it has not read yet once a later datagram is refused."""
        host, port = self.server.coap.split(":")
        loop = asyncio.get_running_loop()
        answered: asyncio.Future[bytes] = loop.create_future()
        transport, asking = await loop.create_datagram_endpoint(
            lambda: _Coap(body, answered), remote_addr=(host, int(port))
        )
        try:
            while not (await asyncio.wait((answered,), timeout=2))[0]:
                asking.ask()
            return answered.result()
        finally:
            transport.close()

    async def _once(self, ask, name: str, context: ssl.SSLContext) -> None:  # type: ignore[no-untyped-def]
        body = {"deviceName": name, "provisionDeviceKey": self.key, "provisionDeviceSecret": self.secret}
        answer = json.loads(await ask(json.dumps(body).encode(), context))
        self.outcomes[answer["status"]] += 1
        self.told[name] = answer["credentialsValue"]

    async def _ask_https(self, body: bytes, context: ssl.SSLContext) -> bytes:
        async with self._http.post(
            f"https://{self.server.https}/api/v1/provision", data=body, ssl=context, server_hostname="localhost"
        ) as response:
            return await response.read()

    async def _ask_mqtts(self, body: bytes, context: ssl.SSLContext) -> bytes:
        _, port = self.server.mqtts.split(":")
        async with aiomqtt.Client(
            "localhost", int(port), username="provision", timeout=self.patience, tls_context=context
        ) as client:
            await client.subscribe("/provision/response")
            await client.publish("/provision/request", body)
            async for message in client.messages:
                return bytes(message.payload)
        raise ConnectionError


class _Coap(asyncio.DatagramProtocol):
    """Asks once (RFC 7252): a confirmable POST, the answer to which may come with the acknowledgement or after it."""

    _PATH = b"\xb3api\x02v1\x09provision"

    def __init__(self, body: bytes, answered: "asyncio.Future[bytes]") -> None:
        self._request = b"\x44\x02" + os.urandom(6) + self._PATH + b"\xff" + body
        self._answered = answered

    def ask(self) -> None:
        """Again, if need be."""
        self._transport.sendto(self._request)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.DatagramTransport", transport)
        self.ask()

    def datagram_received(self, data: bytes, _address: object) -> None:
        if data[0] >> 4 & 3 == 0:  # confirmable
            self._transport.sendto(b"\x60\0" + data[2:4])
        if data[1] and data[4:8] == self._request[4:8] and not self._answered.done():
            self._answered.set_result(data[data.rindex(b"\xff{") + 1 :])

    def error_received(self, exc: Exception) -> None:
        if not self._answered.done():
            self._answered.set_exception(exc)


@asynccontextmanager
async def loaded(database_url: str, data_dir: Path, workers: int) -> AsyncIterator[tuple[Everywhere, PostgresProxy]]:
    """A server on a Postgres that can be frozen, under load."""
    async with PostgresProxy(database_url) as proxy:
        options = ("--database-url", proxy.dsn, "--workers", str(workers), "--metrics", "127.0.0.1:0")
        env = {"PROVSERVER_DRAIN_TIMEOUT": "60", "PROVSERVER_REQUEST_TIMEOUT": "60"}
        server = Server(data_dir, *options, env=env, tls=True)
        await asyncio.to_thread(server.start)  # the proxy works in this loop, so the loop must not stand still
        try:
            command = ("profile", "create", "load", "--database-url", proxy.dsn)
            profile = await asyncio.to_thread(server.cli, *command)
            pair = (profile["provisionDeviceKey"], profile["provisionDeviceSecret"])
            # Who has asked is to hear the answer, however long it takes until Postgres may go on.
            async with Everywhere(server, *pair, workers=WORKERS, patience=60) as load:
                yield load, proxy
        except BaseException:  # it may wait for Postgres for longer than anybody waits for its end
            if server.process is not None and server.process.poll() is None:
                await asyncio.to_thread(server.kill)
            raise
        finally:
            await asyncio.to_thread(server.__exit__)
        assert "Traceback" not in server.log
        assert "were not answered" not in server.log


def fetch(server: Server, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://{server.addresses['metrics']}{path}", timeout=60) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as refused:
        return refused.code, refused.read().decode()


def counted(server: Server, name: str, **labels: str) -> float:
    for family in text_string_to_metric_families(fetch(server, "/metrics")[1]):
        for sample in family.samples:
            if sample.name == name and sample.labels == labels:
                return sample.value
    raise AssertionError(name)


def terminate(server: Server) -> None:
    assert server.process is not None
    server.process.send_signal(signal.SIGTERM)


async def ended(server: Server) -> int:
    assert server.process is not None
    return await asyncio.to_thread(server.process.wait, 120)


async def test_what_is_committed_under_load_is_told(database_url: str, tmp_path: Path) -> None:
    async with loaded(database_url, tmp_path / "data", workers=2) as (load, _):
        await load.until(lambda: len(load.told) >= 200)

        terminate(load.server)

        assert await ended(load.server) == 0
        await load.finish()
        assert set(load.outcomes) <= {"SUCCESS", "LOST"}, "one that was accepted is refused"
    keys = keyfile.load_or_create(tmp_path / "data" / "keys.json")
    assert await oracle.check(database_url, keys, load.told) == len(load.told), "a device was made, and not told"


@pytest.mark.parametrize("workers", [1, 2])
async def test_what_waits_for_postgres_is_answered_on_every_transport(
    database_url: str, tmp_path: Path, workers: int
) -> None:
    async with loaded(database_url, tmp_path / "data", workers) as (load, proxy):
        await load.until(lambda: len(load.told) >= 50)
        assert await asyncio.to_thread(fetch, load.server, "/ready") == (200, '{"status":"ok"}')
        proxy.freeze()
        await load.ask_all()
        waiting = 5 * WORKERS
        while await asyncio.to_thread(counted, load.server, "provserver_group_waiting", group="provision") < waiting:
            load.check()
        told = len(load.told)

        terminate(load.server)

        while await asyncio.to_thread(accepts, load.server.http):
            load.check()
        unready = {"status": "unavailable", "reason": "not every listener takes devices"}
        status, said = await asyncio.to_thread(fetch, load.server, "/ready")
        assert (status, json.loads(said)) == (503, unready)
        assert await asyncio.to_thread(fetch, load.server, "/live") == (200, '{"status":"ok"}')
        await proxy.restore()
        await load.finish()
        assert len(load.told) >= told + waiting
        assert set(load.outcomes) <= {"SUCCESS", "LOST"}
        assert await ended(load.server) == 0
    keys = keyfile.load_or_create(tmp_path / "data" / "keys.json")
    assert await oracle.check(database_url, keys, load.told) == len(load.told)

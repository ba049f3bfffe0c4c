import asyncio
import json
import logging
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import pytest

from provserver import observability
from provserver.core.model import ProvisionStrategy
from provserver.core.secrets import ServerKeys
from provserver.errors import RENDERINGS, Outcome
from provserver.services.profiles import KeyPair, ProfileChange, Profiles
from provserver.services.provisioning import Provisioning
from provserver.store import keyfile, profiles
from provserver.store.database import Database
from provserver.transports.http import HttpTransport
from tests.services.conftest import Lock, Outage, until
from tests.services.loop_clock import LoopClock
from tests.transports import WAITS

PATH = b"/api/v1/provision"
PEERS = ("provserver.http.protocol", "provserver.coap.protocol")


@dataclass
class Response:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> dict[str, Any]:
        assert self.headers["content-type"].startswith("application/json")
        value: dict[str, Any] = json.loads(self.body)
        return value


class Connection:
    """A connection that sends what it is told, byte by byte."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def response(self) -> Response:
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        line, *fields = head.split("\r\n")[:-2]
        headers = {name.lower(): value.strip() for name, _, value in (field.partition(":") for field in fields)}
        body = await self.reader.readexactly(int(headers.get("content-length", "0")))
        return Response(int(line.split()[1]), headers, body)

    async def ask(self, data: bytes) -> Response:
        await self.send(data)
        return await self.response()

    async def ended(self) -> bytes:
        """What still comes until the server closes."""
        try:
            return await self.reader.read()
        except ConnectionError:  # after its last words a pipe is broken, otherwise it is a reset
            return b""


class Site:
    """A listener, and a profile to provision by."""

    def __init__(self, transport: HttpTransport, port: int, pair: KeyPair) -> None:
        self.transport = transport
        self.port = port
        self.pair = pair

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            yield Connection(reader, writer)
        finally:
            writer.transport.abort()

    async def ask(self, data: bytes) -> Response:
        async with self.connection() as connection:
            return await connection.ask(data)

    async def provision(self, name: str, **members: object) -> Response:
        return await self.ask(post(self.body(name, **members)))

    def body(self, name: str, **members: object) -> bytes:
        request = {
            "deviceName": name,
            "provisionDeviceKey": self.pair.key,
            "provisionDeviceSecret": self.pair.secret,
        }
        return json.dumps(request | members).encode()


PATIENCE = 10.0
"""Seconds that a listener waits for who says nothing; a test lets them pass."""


def accepted(site: Site) -> list[bool]:
    """The connections that the listener has; of each, whether it has asked for something."""
    server: Any = site.transport._runner.server
    return [each.peer is not None for each in server.fronts] + [each.spoken for each in server.connections]


def post(body: bytes, *headers: bytes, path: bytes = PATH) -> bytes:
    lines = [b"POST " + path + b" HTTP/1.1", b"Host: h", b"Content-Length: %d" % len(body), *headers]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def get(path: bytes) -> bytes:
    return b"GET " + path + b" HTTP/1.1\r\nHost: h\r\n\r\n"


@dataclass
class Service:
    """Provisioning on a database of its own, and a profile that lets any device in."""

    url: str
    database: Database
    provisioning: Provisioning
    keys: ServerKeys
    pair: KeyPair
    front: bool = True

    async def value(self, statement: str, *arguments: object) -> Any:
        async with self.database.connection() as connection:
            return await connection.fetchval(statement, *arguments)

    @asynccontextmanager
    async def blocked(self) -> AsyncIterator[Lock]:
        """Keeps every success from being written until the end of the block."""
        connection = await asyncpg.connect(self.url)
        await connection.execute("BEGIN; LOCK TABLE outbox IN ACCESS EXCLUSIVE MODE")
        yield Lock(connection)
        await connection.close()


@asynccontextmanager
async def service(postgres: str, directory: Path, name: str) -> AsyncIterator[Service]:
    name = f"{name}_{os.urandom(4).hex()}"  # a module's fixture may be made twice: its tests are shared out singly
    connection = await asyncpg.connect(postgres)
    await connection.execute(f"CREATE DATABASE {name} TEMPLATE template")
    await connection.close()
    url = postgres.replace("/provserver?", f"/{name}?")
    database = Database(url, size=4)
    await database.open()
    keys = keyfile.load_or_create(directory / "keys.json")
    async with database.connection() as opened:
        root = await profiles.root_organization(opened, uuid4(), "Manufacturer")
    _, pair = await Profiles(database, keys, root).create(
        ProfileChange(name="sensors", strategy=ProvisionStrategy.ALLOW_CREATE_NEW_DEVICES)
    )
    provisioning = Provisioning(database, keys)
    yield Service(url, database, provisioning, keys, pair)
    await provisioning.drain()
    await database.close()


@contextmanager
def logging_as_serve_does(level: str = "debug") -> Iterator[None]:
    """Logs go to stderr in the server's own way, and by its filters; afterwards all is as it was."""
    root = logging.getLogger()
    changed = [logging.getLogger(name) for name in ("asyncio", "asyncpg", *PEERS)]
    before = root.handlers[:], root.level, [(each.level, each.filters[:]) for each in changed]
    observability.set_up(level, "json")
    try:
        yield
    finally:
        root.handlers[:], level_, others = before
        root.setLevel(level_)
        for each, (level_, filters) in zip(changed, others, strict=True):
            each.setLevel(level_)
            each.filters[:] = filters


@pytest.fixture(scope="module")
async def http(postgres: str, tmp_path_factory: pytest.TempPathFactory, front: bool) -> AsyncIterator[Service]:
    async with service(postgres, tmp_path_factory.mktemp("http"), f"http_{front}".lower()) as made:
        made.front = front
        yield made


@asynccontextmanager
async def serving(
    http: Service, provisioning: Provisioning | None = None, database: Database | None = None, **limits: Any
) -> AsyncIterator[Site]:
    """A listener of the test's own."""
    limits = {"front": http.front} | limits
    transport = HttpTransport(provisioning or http.provisioning, (database or http.database).ping, **limits)
    host, port = await transport.start("127.0.0.1", 0)
    assert host == "127.0.0.1"
    try:
        yield Site(transport, port, http.pair)
    finally:
        await transport.stop(0)


@pytest.fixture(scope="module")
async def site(http: Service) -> AsyncIterator[Site]:
    """A listener that the tests of this module share."""
    async with serving(http, max_payload_size=10_000) as shared:
        yield shared


# --- provisioning


async def test_a_device_is_provisioned(site: Site) -> None:
    response = await site.provision("created")

    assert response.status == 200
    assert response.json["status"] == "SUCCESS"
    assert len(response.json["accessToken"]) == 32
    assert response.headers["access-control-allow-origin"] == "*"
    assert "retry-after" not in response.headers


@pytest.mark.parametrize(
    "type_",
    [
        b"application/json",
        b"text/plain;charset=UTF-8",
        b"application/x-www-form-urlencoded",
        b"multipart/form-data; boundary=x",
        b"nonsense",
        b"application/json; charset=utf-7",
        b"",
    ],
)
async def test_the_content_type_does_not_matter(site: Site, type_: bytes) -> None:
    response = await site.ask(post(site.body(f"type {type_.decode()}"), b"Content-Type: " + type_))

    assert (response.status, response.json["status"]) == (200, "SUCCESS")


async def test_a_body_may_come_in_chunks(site: Site) -> None:
    body = site.body("chunks")
    head = b"POST " + PATH + b" HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
    async with site.connection() as connection:
        await connection.send(head)
        for byte in body:
            await connection.send(b"1\r\n%c\r\n" % byte)
        response = await connection.ask(b"0\r\n\r\n")

    assert (response.status, response.json["status"]) == (200, "SUCCESS")


async def test_a_client_that_waits_for_a_word_gets_it(site: Site) -> None:
    """As curl does before a larger body."""
    body = site.body("expect")
    async with site.connection() as connection:
        await connection.send(post(body, b"Expect: 100-continue").removesuffix(body))
        assert (await connection.reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 100 ")
        response = await connection.ask(body)

    assert (response.status, response.json["status"]) == (200, "SUCCESS")


@pytest.mark.parametrize("path", [PATH + b"?query=1", b"http://any.host" + PATH, b"/api/v1/%70rovision"])
async def test_the_path_may_be_written_otherwise(site: Site, path: bytes) -> None:
    response = await site.ask(post(site.body(f"path {path.decode()}"), path=path))

    assert (response.status, response.json["status"]) == (200, "SUCCESS")


async def test_what_is_refused_is_still_answered_with_200(site: Site) -> None:
    await site.provision("refused")

    for response, status in (
        (await site.provision("refused"), "FAILURE"),
        (await site.provision("new", provisionDeviceSecret="wrong"), "NOT_FOUND"),
        (await site.provision("new", provisionDeviceKey="wrong"), "NOT_FOUND"),
    ):
        assert (response.status, response.json["status"]) == (200, status)
        assert response.json["provisionDeviceStatus"] == status
        assert response.json["errorMsg"]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"pl4nted",
        b'["pl4nted"]',
        b'{"pl4nted"',
        b"\xff\xfe",
        b'{"deviceName":"pl4nted"}',
        b'{"provisionDeviceKey":"pl4nted"}',
        b'{"provisionDeviceKey":{"pl4nted":1},"provisionDeviceSecret":"s"}',
        b'{"provisionDeviceKey":"k","provisionDeviceSecret":"s","credentialsType":"pl4nted"}',
        b"\x0a\x01a\x1a\x06\x0a\x01k\x12\x01s",  # protobuf, which HTTP does not take
    ],
)
async def test_what_is_not_valid_is_answered_with_400_in_json(site: Site, body: bytes) -> None:
    response = await site.ask(post(body))

    assert response.status == 400
    assert response.json["status"] == "FAILURE"
    assert response.json["errorMsg"]
    assert b"pl4nted" not in response.body


async def test_who_asks_while_postgres_is_away_is_told_to_come_back(http: Service) -> None:
    away = Provisioning(Database("postgresql:///nowhere"), http.keys, wait_limit=0.05)
    async with serving(http, away) as site:
        response = await site.provision("away")
    await away.drain()

    assert response.status == 503
    assert response.headers["retry-after"] == str(response.json["retryAfter"])
    assert response.json["errorMsg"] == RENDERINGS[Outcome.UNAVAILABLE].error


async def test_the_peers_address_is_recorded(http: Service, site: Site) -> None:
    await site.provision("address")

    assert await http.value("SELECT address FROM attempt WHERE device_name = 'address'") == "127.0.0.1"
    assert await http.value("SELECT transport FROM attempt WHERE device_name = 'address'") == "HTTP"


# --- other requests


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (get(b"/"), 404),
        (get(b"/api/v1"), 404),
        (get(b"/api/v1/provision/"), 404),
        (post(b"{}", path=b"/api/v1/provision/x"), 404),
        (post(b"{}", path=b"/api//v1/provision"), 404),
        (get(PATH), 405),
        (b"PUT " + PATH + b" HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\n{}", 405),
        (b"DELETE " + PATH + b" HTTP/1.1\r\nHost: h\r\n\r\n", 405),
        (b"PATCH " + PATH + b" HTTP/1.1\r\nHost: h\r\n\r\n", 405),
        (post(b"{}", path=b"/healthz"), 405),
    ],
)
async def test_other_paths_and_methods_are_refused_in_json(site: Site, request_: bytes, status: int) -> None:
    response = await site.ask(request_)

    assert response.status == status
    assert response.json["status"] == "FAILURE"
    assert ("allow" in response.headers) == (status == 405)


async def test_a_body_that_is_too_large_is_refused_in_json(http: Service, site: Site) -> None:
    large = site.body("large", token="x" * 10_000)
    chunked = b"POST " + PATH + b" HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
    for request in (post(large), chunked + b"%x\r\n%s\r\n0\r\n\r\n" % (len(large), large)):
        response = await site.ask(request)
        assert response.status == 413
        assert response.json["errorMsg"] == RENDERINGS[Outcome.TOO_LARGE].error

    assert await http.value("SELECT count(*) FROM device WHERE name = 'large'") == 0
    assert (await site.provision("just not large", hash="x" * 9_800)).status == 200


async def test_a_browser_may_ask_from_anywhere(site: Site) -> None:
    response = await site.ask(b"OPTIONS " + PATH + b" HTTP/1.1\r\nHost: h\r\nOrigin: https://a\r\n\r\n")

    assert (response.status, response.body) == (204, b"")
    assert response.headers["access-control-allow-origin"] == "*"
    assert response.headers["access-control-allow-methods"] == "POST"


# --- health


async def test_health_and_readiness(site: Site) -> None:
    assert (await site.ask(get(b"/healthz"))).json == {"status": "ok"}
    assert (await site.ask(get(b"/readyz"))).json == {"status": "ready"}


async def test_readiness_follows_postgres_and_health_does_not(http: Service) -> None:
    async with Outage.prepare(http.url) as outage, serving(http, database=outage.database) as site:
        assert (await site.ask(get(b"/readyz"))).status == 200
        await outage.begin()
        response = await site.ask(get(b"/readyz"))
        assert (response.status, response.json["status"]) == (503, "unavailable")
        assert int(response.headers["retry-after"]) in WAITS
        assert (await site.ask(get(b"/healthz"))).status == 200
        outage.end()
        assert (await site.ask(get(b"/readyz"))).status == 200


# --- connections


async def test_a_connection_is_kept(site: Site) -> None:
    async with site.connection() as connection:
        for n in range(3):
            assert (await connection.ask(post(site.body(f"kept {n}")))).json["status"] == "SUCCESS"
            assert (await connection.ask(get(b"/nothing"))).status == 404
            assert (await connection.ask(post(b"nonsense"))).status == 400


async def test_requests_sent_at_once_are_answered_in_order(site: Site) -> None:
    async with site.connection() as connection:
        await connection.send(b"".join(post(site.body(f"pipelined {n}")) for n in range(10)) + get(b"/healthz"))

        names = [(await connection.response()).json["deviceName"] for _ in range(10)]

        assert names == [f"pipelined {n}" for n in range(10)]
        assert (await connection.response()).json == {"status": "ok"}


async def test_a_connection_is_closed_when_it_is_asked_to_be(site: Site) -> None:
    for request in (
        get(b"/healthz").replace(b"Host: h", b"Host: h\r\nConnection: close"),
        b"GET /healthz HTTP/1.0\r\n\r\n",
    ):
        async with site.connection() as connection:
            assert (await connection.ask(request)).status == 200
            assert await connection.ended() == b""


@pytest.mark.parametrize("sent", [b"", b"POST /api/v1/provision HTTP/1.1\r\nHos", b"\r\n"])
async def test_a_connection_that_does_not_ask_is_closed(http: Service, loop_clock: LoopClock, sent: bytes) -> None:
    async with serving(http, connect_timeout=PATIENCE) as site, site.connection() as connection:
        await connection.send(sent)
        await until(lambda: len(accepted(site)) == 1)
        loop_clock.pass_(PATIENCE)

        assert await connection.ended() == b""

        assert (await site.ask(get(b"/healthz"))).status == 200


async def test_a_connection_that_has_asked_is_kept(http: Service, loop_clock: LoopClock) -> None:
    """Whatever it asked: a probe keeps its connection, too."""
    async with serving(http, connect_timeout=PATIENCE) as site, AsyncExitStack() as stack:
        requests = (post(site.body("has asked")), get(b"/healthz"), get(b"/nothing"))
        connections = []
        for request, status in zip(requests, (200, 200, 404), strict=True):
            connections.append(await stack.enter_async_context(site.connection()))
            assert (await connections[-1].ask(request)).status == status
        for _ in range(2):
            async with site.connection() as silent:
                await until(lambda: len(accepted(site)) == len(connections) + 1)
                loop_clock.pass_(PATIENCE)
                await silent.ended()
            await until(lambda: len(accepted(site)) == len(connections))

        for connection in connections:
            assert (await connection.ask(get(b"/healthz"))).status == 200


async def test_a_body_that_does_not_come_is_not_waited_for(http: Service, loop_clock: LoopClock) -> None:
    async with serving(http, connect_timeout=PATIENCE) as site, site.connection() as connection:
        await connection.send(post(site.body("slow")).removesuffix(b"}"))
        await until(lambda: any(spoken for spoken in accepted(site)))
        answering = asyncio.create_task(connection.response())
        while not answering.done():
            loop_clock.pass_(PATIENCE)
            await asyncio.sleep(0)
        response = await answering

        assert (response.status, response.json["status"]) == (408, "FAILURE")
        assert await connection.ended() == b""


# --- what is not HTTP, and what is said of it


BROKEN = [
    b"pl4nted\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01pl4nted\r\n\r\n",  # TLS
    b"\x10\x10\x00\x04MQTT\x04\x02\x00\x3c\x00\x04pl4nted\r\n\r\n",
    b"POST /api/v1/provision HTTP/9.9\r\nHost: pl4nted\r\n\r\n",
    b"POST /api/v1/provision HTTP/1.1\r\nHost: h\r\nContent-Length: -1\r\n\r\npl4nted",
    b"POST /api/v1/provision HTTP/1.1\r\nHost: h\r\nContent-Length: pl4nted\r\n\r\n",
    b"POST /api/v1/provision HTTP/1.1\r\nHost: h\r\nContent-Length: 9\r\nContent-Length: 8\r\n\r\npl4nted12",
    b"POST /api/v1/provision HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\npl4nted\r\n",
    b"POST /api/v1/provision HTTP/1.1\r\nHost: h\r\npl4nted\r\n\r\n",
    b"POST /api/v1/provision HTTP/1.1\r\nHost: h\r\nX: \x00pl4nted\r\n\r\n",
    b"GET /" + b"pl4nted" * 2_000 + b" HTTP/1.1\r\nHost: h\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: h\r\nX: " + b"pl4nted" * 2_000 + b"\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: h\r\n" + b"X: pl4nted\r\n" * 10_000 + b"\r\n",
    b"POST /api/v1/provision HTTP/1.1\r\nHost: h\r\nContent-Encoding: gzip\r\nContent-Length: 7\r\n\r\npl4nted",
    b"POST http://[pl4nted/ HTTP/1.1\r\nHost: h\r\n\r\n",
]


@pytest.mark.parametrize("level", ["debug", "info"])
async def test_broken_bytes_break_their_connection_alone_and_are_not_logged(
    http: Service, capsys: pytest.CaptureFixture[str], level: str
) -> None:
    with logging_as_serve_does(level):
        async with serving(http, max_payload_size=10_000) as site, site.connection() as neighbour:
            assert (await neighbour.ask(get(b"/healthz"))).status == 200
            for data in BROKEN:
                async with site.connection() as connection:
                    await connection.send(data)
                    connection.writer.write_eof()
                    said = await connection.ended()
                assert not said or said.startswith((b"HTTP/1.1 4", b"HTTP/1.0 4")), data
                assert b"Traceback" not in said
            assert (await neighbour.ask(post(site.body(f"neighbour {level}")))).status == 200

    out, err = capsys.readouterr()
    assert out == ""
    assert "Traceback" not in err
    assert "pl4nted" not in err
    if level == "info":
        assert err == ""


async def test_who_breaks_off_is_nobodys_fault(http: Service, capsys: pytest.CaptureFixture[str]) -> None:
    with logging_as_serve_does():
        async with serving(http) as site:
            whole = post(site.body("breaks off", token="pl4nted"))
            for end in (1, 30, len(whole) - 20, len(whole) - 1):
                async with site.connection() as connection:
                    await connection.send(whole[:end])
            async with http.blocked() as blocked, site.connection() as connection:
                await connection.send(post(site.body("breaks off while it waits", token="pl4nted")))
                await blocked.until_waiting()
            assert (await site.ask(get(b"/healthz"))).status == 200

    _, err = capsys.readouterr()
    assert "Traceback" not in err
    assert "pl4nted" not in err
    assert http.pair.secret not in err


async def test_a_fault_of_ours_is_logged_and_told_without_its_words(
    http: Service, capsys: pytest.CaptureFixture[str]
) -> None:
    class Faulty(Provisioning):
        def request(self, *_args: object, **_kwargs: object) -> Any:
            raise ZeroDivisionError("pl4nted")

    with logging_as_serve_does("info"):
        async with serving(http, Faulty(http.database, http.keys)) as site:
            response = await site.provision("fault")

    assert (response.status, response.json["errorMsg"]) == (500, "Internal error!")
    assert "ZeroDivisionError" in capsys.readouterr().err


# --- starting and stopping


async def test_a_port_in_use_is_refused(http: Service, site: Site) -> None:
    with pytest.raises(OSError, match="address already in use"):
        await HttpTransport(http.provisioning, http.database.ping).start("127.0.0.1", site.port)


async def test_an_address_that_is_not_ours_is_refused(http: Service) -> None:
    for host in ("192.0.2.1", "host.invalid"):
        with pytest.raises(OSError):  # noqa: PT011 - says what the system says
            await HttpTransport(http.provisioning, http.database.ping).start(host, 0)


async def test_ipv6(http: Service) -> None:
    transport = HttpTransport(http.provisioning, http.database.ping)
    host, port = await transport.start("::1", 0)
    reader, writer = await asyncio.open_connection(host, port)
    assert (await Connection(reader, writer).ask(get(b"/healthz"))).status == 200
    writer.close()
    await transport.stop(0)


async def test_stopping_answers_what_is_under_way(http: Service) -> None:
    async with serving(http) as site, site.connection() as connection, site.connection() as idle:
        async with http.blocked() as blocked:
            await connection.send(post(site.body("under way")))
            await blocked.until_waiting()
            stopping = asyncio.create_task(site.transport.stop(60))
            assert await idle.ended() == b""
            with pytest.raises(ConnectionRefusedError):
                await asyncio.open_connection("127.0.0.1", site.port)
            assert not stopping.done()

        assert (await connection.response()).json["status"] == "SUCCESS"
        await stopping
        assert await connection.ended() == b""


async def test_stopping_does_not_wait_past_its_grace(http: Service) -> None:
    async with serving(http) as site, site.connection() as connection, http.blocked() as blocked:
        await connection.send(post(site.body("cut off")))
        await blocked.until_waiting()

        await site.transport.stop(0.05)

        assert await connection.ended() == b""
    await http.provisioning.drain()


async def test_stopping_before_starting_and_twice_is_nothing(http: Service) -> None:
    transport = HttpTransport(http.provisioning, http.database.ping)
    await transport.stop(0)
    await transport.start("127.0.0.1", 0)
    await transport.stop(0)
    await transport.stop(0)


# --- what is not HTTP is answered without its words


HEAD = b"POST " + PATH + b" HTTP/1.1\r\nHost: h\r\n"
SECRET = b'{"deviceName":"d","provisionDeviceKey":"k","provisionDeviceSecret":"pl4nted pl4nted pl4nted"}'


@pytest.mark.parametrize(
    "data",
    [
        HEAD + b"Content-Length: 20\r\n\r\n" + SECRET,
        HEAD + b"\r\n" + SECRET,
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + SECRET,
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n5\r\n" + SECRET,
        HEAD + SECRET + b"\r\n\r\n",
        HEAD + b"X: \x00pl4nted\r\n\r\n",
        HEAD + b"X: " + b"pl4nted" * 2_000 + b"\r\n\r\n",
        HEAD + b"Content-Length: -1\r\n\r\n" + SECRET,
        HEAD + b"Content-Length: pl4nted\r\n\r\n",
        HEAD + b"Content-Encoding: br\r\nContent-Length: 7\r\n\r\npl4nted",
        HEAD + b"Content-Encoding: gzip\r\nContent-Length: 7\r\n\r\npl4nted",
        b"POST http://[pl4nted/ HTTP/1.1\r\nHost: h\r\n\r\n",
        SECRET + b"\r\n\r\n",
    ],
    ids=lambda data: repr(data[-40:]),
)
@pytest.mark.parametrize("whole", [True, False], ids=["at once", "in two"])
async def test_what_is_not_http_is_not_quoted(
    http: Service, capsys: pytest.CaptureFixture[str], data: bytes, whole: bool
) -> None:
    with logging_as_serve_does():
        async with serving(http) as site, site.connection() as connection:
            head, end, body = data.partition(b"\r\n\r\n")
            for part in [data] if whole else [head + end, body]:
                await connection.send(part)
                await asyncio.sleep(0)
            said = await connection.ended()
            assert (await site.ask(get(b"/healthz"))).status == 200

    answers = [part for part in said.split(b"HTTP/1.")[1:] if part]
    assert answers
    for answer in answers:
        head, _, body = answer.partition(b"\r\n\r\n")
        assert head[2:5] == b"400"
        assert b"Content-Type: application/json" in head
        assert json.loads(body)["errorMsg"] in (
            "The request is not valid HTTP!",
            "The body is not complete!",
            RENDERINGS[Outcome.UNDECODABLE].error,  # of what is one request to who reads no further
        )
    assert b"pl4nted" not in said
    assert "pl4nted" not in capsys.readouterr().err


@pytest.mark.parametrize("path", [PATH, b"/nothing"])
async def test_an_expectation_that_cannot_be_met_is_not_quoted(site: Site, path: bytes) -> None:
    response = await site.ask(post(b"{}", b"Expect: pl4nted", path=path))

    assert (response.status, response.json["errorMsg"]) == (417, "Expectation Failed!")
    assert b"pl4nted" not in response.body


# --- a body that says it is too large


@pytest.mark.parametrize("expect", [b"", b"Expect: 100-continue\r\n"], ids=["plain", "expect"])
async def test_a_body_that_says_it_is_too_large_is_not_waited_for(http: Service, expect: bytes) -> None:
    async with serving(http, max_payload_size=10_000) as site:
        async with site.connection() as connection:
            response = await connection.ask(HEAD + expect + b"Content-Length: 10001\r\n\r\n")
        assert response.status == 413
        assert response.json["errorMsg"] == RENDERINGS[Outcome.TOO_LARGE].error
        assert response.headers["connection"] == "close"

        async with site.connection() as connection:
            await connection.send(HEAD + b"Expect: 100-continue\r\nContent-Length: 10000\r\n\r\n")
            assert (await connection.reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 100 ")
            assert (await connection.ask(site.body(f"at the limit {expect!r}").ljust(10_000))).json[
                "status"
            ] == "SUCCESS"


# --- connections, up to a number


async def test_one_connection_too_many_is_closed_at_once_and_counted(
    http: Service, loop_clock: LoopClock, capsys: pytest.CaptureFixture[str]
) -> None:
    with logging_as_serve_does("warning"):
        async with serving(http, max_connections=2, connect_timeout=PATIENCE) as site:
            async with site.connection() as first, site.connection() as second:
                for connection, request in ((first, get(b"/healthz")), (second, post(b"{}"))):
                    assert (await connection.ask(request)).status in (200, 400)
                for _ in range(3):
                    async with site.connection() as third:
                        assert await third.ended() == b""
                assert site.transport.refused == 3
                assert (await first.ask(get(b"/healthz"))).status == 200
            await until(lambda: not accepted(site))
            assert (await site.ask(get(b"/healthz"))).status == 200
            loop_clock.pass_(PATIENCE)
            while not (said := capsys.readouterr().err):  # noqa: ASYNC110
                await asyncio.sleep(0)

    assert "3 connections were refused" in said


async def test_several_addresses_are_served_by_one(http: Service) -> None:
    async with serving(http) as site:
        host, port = await site.transport.start("::1", 0)
        reader, writer = await asyncio.open_connection(host, port)
        assert (await Connection(reader, writer).ask(get(b"/healthz"))).status == 200
        writer.close()
        assert (await site.ask(get(b"/healthz"))).status == 200
        await site.transport.stop(0)
        for address in (("127.0.0.1", site.port), ("::1", port)):
            with pytest.raises(ConnectionRefusedError):
                await asyncio.open_connection(*address)


async def test_without_access_there_is_provisioning_alone(site: Site) -> None:
    for rest in (b"telemetry", b"any-token/telemetry", b"any-token/attributes"):
        assert (await site.ask(post(b"{}", path=b"/api/v1/" + rest))).status == 404

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from provserver import observability
from provserver.core.model import ProvisionStrategy
from provserver.errors import RENDERINGS, RETRY_AFTER_SECONDS, Outcome
from provserver.services.profiles import KeyPair, ProfileChange, Profiles
from provserver.services.provisioning import Provisioning
from provserver.store import keyfile, profiles
from provserver.store.database import Database
from provserver.transports.http import HttpTransport
from tests.services.conftest import Lock, Outage

PATH = b"/api/v1/provision"


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
        except ConnectionResetError:
            return b""


class Site:
    """A listener, and a profile to provision by."""

    def __init__(self, transport: HttpTransport, port: int, provisioning: Provisioning, pair: KeyPair) -> None:
        self.transport = transport
        self.port = port
        self.provisioning = provisioning
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


def post(body: bytes, *headers: bytes, path: bytes = PATH) -> bytes:
    lines = [b"POST " + path + b" HTTP/1.1", b"Host: h", b"Content-Length: %d" % len(body), *headers]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def get(path: bytes) -> bytes:
    return b"GET " + path + b" HTTP/1.1\r\nHost: h\r\n\r\n"


@pytest.fixture(scope="module")
async def services(
    postgres: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[tuple[str, Database, Provisioning, KeyPair]]:
    """A database for this module, and provisioning on it."""
    connection = await asyncpg.connect(postgres)
    await connection.execute("CREATE DATABASE http TEMPLATE template")
    await connection.close()
    url = postgres.replace("/provserver?", "/http?")
    database = Database(url, size=4)
    await database.open()
    keys = keyfile.load_or_create(tmp_path_factory.mktemp("http") / "keys.json")
    async with database.connection() as opened:
        root = await profiles.root_organization(opened, keys_id(), "Manufacturer")
    _, pair = await Profiles(database, keys, root).create(
        ProfileChange(name="sensors", strategy=ProvisionStrategy.ALLOW_CREATE_NEW_DEVICES)
    )
    provisioning = Provisioning(database, keys)
    yield url, database, provisioning, pair
    await provisioning.drain()
    await database.close()

"""Devices that have been provisioned, and what the server side does for and to them, all real."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec

from provserver.core.authentication import Denial
from provserver.core.model import Authenticated, Peer, Transport
from provserver.services.access import Access
from provserver.services.data import Data
from provserver.services.sessions import Sessions
from provserver.store.database import Database
from tests.services.conftest import Outage
from tests.transports.test_http import Service, service

PEER = Peer(Transport.HTTP, "192.0.2.7")


@dataclass
class Device:
    id: UUID
    token: str = field(repr=False)


@dataclass
class Backend:
    """The services that devices come back to, on a database of their own."""

    made: Service
    access: Access
    data: Data
    sessions: Sessions

    @property
    def services(self) -> dict[str, Any]:
        """The arguments of a transport."""
        return {"access": self.access, "data": self.data, "sessions": self.sessions}

    async def device(self, name: str, **members: object) -> Device:
        request = {
            "deviceName": name,
            "provisionDeviceKey": self.made.pair.key,
            "provisionDeviceSecret": self.made.pair.secret,
        }
        answer = await self.made.provisioning.answer(msgspec.json.encode(request | members), PEER)
        reply = msgspec.json.decode(answer.body)
        return Device(UUID(reply["deviceId"]), reply["credentialsValue"])

    async def share(self, device: Device, **values: object) -> None:
        """Shared attributes get these values; None: is removed. Who begins to listen after that does not hear of it."""
        heard: asyncio.Queue[tuple[str, ...] | None] = asyncio.Queue()
        unwatch = self.sessions.watch(device.id, heard.put_nowait)
        changed: set[str] = set()
        try:
            async with self.made.database.transaction() as connection:
                for key, value in values.items():
                    removed = await connection.execute(
                        "DELETE FROM attribute WHERE device_id = $1 AND scope = 'SHARED' AND key = $2", device.id, key
                    )
                    if value is not None:
                        await connection.execute(
                            "INSERT INTO attribute (device_id, scope, key, value) VALUES ($1, 'SHARED', $2, $3)",
                            device.id,
                            key,
                            value,
                        )
                    if value is not None or removed != "DELETE 0":
                        changed.add(key)
            while changed:  # Postgres tells of it once it is committed, and maybe later than it says so to us
                keys = await heard.get()
                changed = set() if keys == () else changed.difference(keys or ())
        finally:
            unwatch()

    async def revoke(self, device: Device) -> None:
        async with self.made.database.connection() as connection:
            await connection.execute("DELETE FROM credentials WHERE device_id = $1", device.id)

    async def latest(self, device: Device) -> dict[str, object]:
        return await self.data.latest(device.id, None)

    async def until_watched(self, device: Device, number: int = 1) -> None:
        """Wait until so many wait for changes of a device."""
        await until(lambda: len(self.sessions._watchers.get(device.id, ())) == number)


class RevokedMeanwhile(Access):
    """Access whose first verdict is outdated, and every process has heard so, before anybody can act on it."""

    def __init__(self, back: Backend, device: Device) -> None:
        super().__init__(back.made.database, back.made.keys)
        self.times = 0
        self._back = back
        self._device = device

    async def with_token(self, token: str, peer: Peer) -> Authenticated | Denial:
        verdict = await super().with_token(token, peer)
        self.times += 1
        if self.times == 1:
            heard = asyncio.Event()
            unwatch = self._back.sessions.watch(self._device.id, lambda _: heard.set())
            await self._back.revoke(self._device)
            await heard.wait()
            unwatch()
        return verdict


async def until(true: Callable[[], bool]) -> None:
    while not true():  # noqa: ASYNC110 - a state without an event
        await asyncio.sleep(0.001)


@asynccontextmanager
async def backend(postgres: str, directory: Path, name: str) -> AsyncIterator[Backend]:
    async with service(postgres, directory, name) as made, coming_back(made, made.database) as services:
        yield services


@asynccontextmanager
async def coming_back(made: Service, database: Database) -> AsyncIterator[Backend]:
    """The services on a database; sessions hear of changes by themselves."""
    access, data, sessions = Access(database, made.keys), Data(database, made.keys), Sessions(database)
    await sessions.start()
    try:
        yield Backend(made, access, data, sessions)
    finally:
        await sessions.stop()
        await access.drain()
        await data.drain()


@asynccontextmanager
async def going_away(made: Service) -> AsyncIterator[tuple[Backend, Outage]]:
    """The same on a database that can be taken away."""
    async with Outage.prepare(made.url) as outage, coming_back(made, outage.database) as services:
        yield services, outage

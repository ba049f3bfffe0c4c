"""Devices that are made of rows: staged in temporary tables, looked at there, and added at the end.

So an import holds no row of the devices that are served while it reads.
"""

import asyncio
import time
from bisect import insort
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from operator import attrgetter
from uuid import UUID

from asyncpg.pgproto import pgproto

from provserver.core import credentials as building
from provserver.core import ids
from provserver.core.csvfile import DeviceRow, RowError
from provserver.core.model import Origin
from provserver.core.secrets import ServerKeys
from provserver.services.credentials import seal_credentials
from provserver.store import devices as store
from provserver.store.database import Connection
from provserver.store.devices import StagedDevice

BATCH = 1_000
"""Rows written together: about what a socket takes at once."""

MAX_ERRORS = 1_000
"""Row errors an import keeps; it counts the rest."""


@dataclass(slots=True)
class ImportReport:
    """What an import did, or would do. errors: the first MAX_ERRORS of error_count, in order of lines."""

    imported: int = 0
    error_count: int = 0
    errors: list[RowError] = field(default_factory=list)

    def refuse(self, error: RowError) -> None:
        """Count an error, and keep it if it is one of the first."""
        self.error_count += 1
        if len(self.errors) < MAX_ERRORS or error.line < self.errors[-1].line:
            insort(self.errors, error, key=attrgetter("line"))
            del self.errors[MAX_ERRORS:]


class Rows:
    """The rows of one import into an organization, in the caller's transaction. report: what came of them so far."""

    def __init__(self, connection: Connection, keys: ServerKeys, organization_id: UUID, random: ids.Randomness) -> None:
        self.report = ImportReport()
        self._connection = connection
        self._keys = keys
        self._organization_id = organization_id
        self._random = random

    async def stage(
        self, rows: Iterable[DeviceRow | RowError], progress: Callable[[int], None] = lambda _: None
    ) -> None:
        """Stage those that can be added; why others cannot is in the report. progress: told the rows done so far."""
        await store.begin_staging(self._connection)
        await self._stage_all(iter(rows), progress)
        await self._resolve()

    async def add(self, profile_id: UUID) -> None:
        """Make what is staged devices of a profile, which the transaction has locked."""
        await store.add_staged(self._connection, self._organization_id, profile_id)

    async def _stage_all(self, rows: Iterator[DeviceRow | RowError], progress: Callable[[int], None]) -> None:
        done = 0
        staging: asyncio.Task[None] | None = None
        try:
            while batch := list(islice(rows, BATCH)):
                devices, attributes = self._prepare(batch)
                if staging is not None:
                    await staging
                if self._keys.unsettled:
                    devices = await self._without_taken(batch, devices)
                staging = asyncio.create_task(store.stage(self._connection, devices, attributes))
                await asyncio.sleep(0)  # it is sent: Postgres takes it in while the next batch is prepared
                done += len(batch)
                progress(done)
        finally:
            if staging is not None:
                await staging

    async def _without_taken(
        self, batch: Sequence[DeviceRow | RowError], devices: list[StagedDevice]
    ) -> list[StagedDevice]:
        """Those whose credentials nobody has under an older version of the keys; the current one is looked at later."""
        given = {row.line: row.credentials.id for row in batch if isinstance(row, DeviceRow) and row.credentials}
        older = {each: line for line, id_ in given.items() for each in self._keys.digests("credentials", id_)[1:]}
        taken = {older[each] for each in await store.known_digests(self._connection, list(older))}
        for device in devices:
            if device.line in taken:
                self.report.refuse(RowError(device.line, None, "these credentials are in use by another device"))
        self.report.imported -= len(taken)
        return [device for device in devices if device.line not in taken]

    def _prepare(
        self, batch: Sequence[DeviceRow | RowError]
    ) -> tuple[list[StagedDevice], list[tuple[UUID, str, str, object]]]:
        digest, random = self._keys.digest, ids.in_stock(self._random)
        devices: list[StagedDevice] = []
        attributes: list[tuple[UUID, str, str, object]] = []
        now = time.time()
        # In the rows' order, which lists then have.
        identities = sorted(ids.uuid7_bytes(now, random) for _ in batch)
        for row, identity in zip(batch, identities, strict=True):
            if isinstance(row, RowError):
                self.report.refuse(row)
                continue
            line, name, given, gateway, more = row
            origin = Origin.IMPORTED
            if given is None:
                given, origin = building.access_token(ids.token(random)), Origin.GENERATED
            id_ = pgproto.UUID(identity)  # made and written in C: a tenth of uuid.UUID's time
            sealed = seal_credentials(self._keys, id_, given, random)
            devices.append(
                StagedDevice(line, id_, name, gateway, digest("credentials", given.id), given.type, origin, sealed)
            )
            if more:
                attributes.extend((id_, scope, key, value) for (scope, key), value in more.items())
        self.report.imported += len(devices)
        return devices, attributes

    async def _resolve(self) -> None:
        """Take back the rows whose name or credentials another device or an earlier row has."""
        names: set[int | None] = set()
        credentials: set[int | None] = set()
        async for found in store.conflicts(self._connection, self._organization_id, BATCH):
            refused = []
            for each in found:
                if each.name_taken or each.same_name in names:
                    self.report.refuse(RowError(each.line, "name", "a device of this name exists already"))
                elif each.credentials_taken or each.same_credentials in credentials:
                    self.report.refuse(RowError(each.line, None, "these credentials are in use by another device"))
                else:
                    names.add(each.same_name or each.line)
                    credentials.add(each.same_credentials or each.line)
                    continue
                refused.append(each.place)
            await store.unstage(self._connection, refused)
            self.report.imported -= len(refused)

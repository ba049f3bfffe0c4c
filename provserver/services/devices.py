"""What operators do with devices: make, import, list, show, change, revoke, re-arm, delete."""

import asyncio
import os
import time
from bisect import insort
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from operator import attrgetter
from uuid import UUID

from asyncpg import PostgresError
from asyncpg.pgproto import pgproto

from provserver.core import credentials as building
from provserver.core import ids
from provserver.core.attributes import Scope, from_text
from provserver.core.csvfile import DeviceRow, RowError
from provserver.core.model import Credentials, CredentialsType, DeviceProfile, Origin
from provserver.core.secrets import ServerKeys
from provserver.core.telemetry import InvalidData, Value, checked_key, checked_value
from provserver.errors import Refused
from provserver.services.settlement import open_credentials, seal_credentials
from provserver.store import data, profiles
from provserver.store import devices as store
from provserver.store.database import Connection, Database
from provserver.store.devices import CredentialsRow, DeviceSummary, StagedDevice

BATCH = 1_000
"""Rows written together: about what a socket takes at once."""

MAX_ERRORS = 1_000
"""Row errors an import keeps; it counts the rest."""


@dataclass(frozen=True, slots=True)
class AttributeDetails:
    """An attribute as it is shown."""

    scope: str
    key: str
    value: object
    updated_at: object


@dataclass(frozen=True, slots=True)
class Latest:
    """The newest sample of a telemetry key. ts: milliseconds since the epoch."""

    key: str
    ts: int
    value: Value


@dataclass(frozen=True, slots=True)
class AttributeChange:
    """What to change of a device's attributes: values by key, as a person wrote them, and keys to remove."""

    shared: Mapping[str, str] = field(default_factory=dict)
    server: Mapping[str, str] = field(default_factory=dict)
    delete_shared: Sequence[str] = ()
    delete_server: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class DeviceDetails:
    """A device with its attributes, credentials and latest telemetry; opened: in clear, for who asked for it."""

    device: DeviceSummary
    attributes: tuple[AttributeDetails, ...]
    credentials: tuple[CredentialsRow, ...]
    opened: tuple[Credentials, ...] = ()
    telemetry: tuple[Latest, ...] = ()


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


class _NothingKept(Exception):  # noqa: N818
    """Rolls an import back."""


class Devices:
    """The devices of one organization."""

    def __init__(
        self, database: Database, keys: ServerKeys, organization_id: UUID, random: ids.Randomness = os.urandom
    ) -> None:
        self._database = database
        self._keys = keys
        self._organization_id = organization_id
        self._random = random

    async def create(self, row: DeviceRow, profile: str) -> DeviceSummary:
        """Make one device, not yet provisioned. Raises Refused."""
        report = await self.import_([row], profile)
        if report.errors:
            error = report.errors[0]
            fix = "Choose another name." if error.column == "name" else "Choose others, or leave them out for a token."
            raise Refused(f"{error.reason[0].upper()}{error.reason[1:]}. {fix}")
        return (await self.show(row.name)).device

    async def import_(
        self,
        rows: Iterable[DeviceRow | RowError],
        profile: str,
        *,
        dry_run: bool = False,
        partial: bool = False,
        progress: Callable[[int], None] = lambda _: None,
    ) -> ImportReport:
        """Pre-provision devices in one transaction: all or none, or with `partial` all that are right.

        rows: as `csvfile.read_devices` yields them, taken BATCH at a time. progress: told the rows done so far.
        """
        report = ImportReport()
        try:
            async with self._database.transaction() as connection:
                found = await self._profile(connection, profile)
                await store.begin_staging(connection)
                await self._stage_all(connection, iter(rows), report, progress)
                await self._resolve(connection, report)
                if dry_run or (report.error_count and not partial):
                    raise _NothingKept
                await self._profile(connection, str(found.id), lock="KEY SHARE")
                await store.add_staged(connection, self._organization_id, found.id)
        except _NothingKept:
            if not dry_run:
                report.imported = 0
        except PostgresError as fault:
            if not self._database.is_race(fault):
                raise
            raise Refused(
                "Another import or a device made one of these devices meanwhile; nothing was imported. "
                "Run the import again."
            ) from None
        return report

    async def stream(self, profile: str | None = None) -> AsyncIterator[DeviceSummary]:
        """All devices, or a profile's, in order of making. Raises Refused."""
        async with self._database.transaction() as connection:
            profile_id = None
            if profile is not None:
                profile_id = (await self._profile(connection, profile)).id
            async for device in store.stream(connection, self._organization_id, profile_id):
                yield device

    async def show(self, reference: str, *, open_: bool = False) -> DeviceDetails:
        """A device by name or id; open_: with its credentials in clear. Raises Refused."""
        async with self._database.connection() as connection:
            device = await self._find(connection, reference)
            rows = await store.credentials(connection, device.id)
            attributes = await store.attributes(connection, device.id)
            telemetry = await data.latest(connection, device.id)
        opened = [open_credentials(self._keys, device.id, CredentialsType(row.type), row.sealed) for row in rows]
        return DeviceDetails(
            device,
            tuple(AttributeDetails(*attribute) for attribute in attributes),
            tuple(rows),
            tuple(opened) if open_ else (),
            tuple(Latest(*sample) for sample in telemetry),
        )

    async def update(self, reference: str, change: AttributeChange) -> DeviceDetails:
        """Write and remove shared and server attributes; a device that listens is told of shared ones. Raises Refused.

        A value that is JSON is taken as such, anything else as text.
        """
        wanted = {(Scope.SHARED, key): text for key, text in change.shared.items()}
        wanted |= {(Scope.SERVER, key): text for key, text in change.server.items()}
        deleted = [(Scope.SHARED, key) for key in change.delete_shared]
        deleted += [(Scope.SERVER, key) for key in change.delete_server]
        if not wanted and not deleted:
            raise Refused("There is nothing to change. Name attributes with --shared KEY=VALUE and the like.")
        if both := wanted.keys() & set(deleted):
            raise Refused(f"{min(both)[1]!r} cannot be both written and deleted.")
        values = {place: _value(place[1], text) for place, text in wanted.items()}
        for _, key in deleted:
            _value(key, "true")
        async with self._database.transaction() as connection:
            device = await self._find(connection, reference)
            await store.change_attributes(connection, device.id, values, deleted)
        return await self.show(str(device.id))

    async def revoke(self, reference: str) -> DeviceSummary:
        """Remove a device's credentials: they are good no more from now on. Raises Refused."""
        async with self._database.transaction() as connection:
            device = await self._find(connection, reference)
            await store.revoke(connection, device.id)
        return replace(device, credentials_type=None)

    async def rearm(self, reference: str) -> DeviceSummary:
        """Let a device provision itself once more, with fresh credentials. Raises Refused."""
        async with self._database.transaction() as connection:
            device = await self._find(connection, reference)
            await store.rearm(connection, device.id)
        return device

    async def delete(self, reference: str) -> DeviceSummary:
        """Remove a device; its credentials die with it. Raises Refused."""
        async with self._database.transaction() as connection:
            device = await self._find(connection, reference)
            await store.delete(connection, device.id)
        return device

    async def _profile(
        self, connection: Connection, reference: str, *, lock: profiles.RowLock | None = None
    ) -> DeviceProfile:
        profile = await profiles.find(connection, self._organization_id, reference, lock=lock)
        if profile is None:
            raise Refused(f"There is no profile {reference!r}. `provserver profile list` names them.")
        return profile

    async def _find(self, connection: Connection, reference: str) -> DeviceSummary:
        device = await store.find(connection, self._organization_id, reference)
        if device is None:
            raise Refused(f"There is no device {reference!r}. `provserver device list` names them.")
        return device

    async def _stage_all(
        self,
        connection: Connection,
        rows: Iterator[DeviceRow | RowError],
        report: ImportReport,
        progress: Callable[[int], None],
    ) -> None:
        done = 0
        staging: asyncio.Task[None] | None = None
        try:
            while batch := list(islice(rows, BATCH)):
                devices, attributes = self._prepare(batch, report)
                if staging is not None:
                    await staging
                staging = asyncio.create_task(store.stage(connection, devices, attributes))
                await asyncio.sleep(0)  # it is sent: Postgres takes it in while the next batch is prepared
                done += len(batch)
                progress(done)
        finally:
            if staging is not None:
                await staging

    def _prepare(
        self, batch: Sequence[DeviceRow | RowError], report: ImportReport
    ) -> tuple[list[StagedDevice], list[tuple[UUID, str, str, object]]]:
        digest, random = self._keys.digest, ids.in_stock(self._random)
        devices: list[StagedDevice] = []
        attributes: list[tuple[UUID, str, str, object]] = []
        now = time.time()
        # In the rows' order, which lists then have.
        identities = sorted(ids.uuid7_bytes(now, random) for _ in batch)
        for row, identity in zip(batch, identities, strict=True):
            if isinstance(row, RowError):
                report.refuse(row)
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
        report.imported += len(devices)
        return devices, attributes

    async def _resolve(self, connection: Connection, report: ImportReport) -> None:
        """Take back the rows whose name or credentials another device or an earlier row has."""
        names: set[int | None] = set()
        credentials: set[int | None] = set()
        async for found in store.conflicts(connection, self._organization_id, BATCH):
            refused = []
            for each in found:
                if each.name_taken or each.same_name in names:
                    report.refuse(RowError(each.line, "name", "a device of this name exists already"))
                elif each.credentials_taken or each.same_credentials in credentials:
                    report.refuse(RowError(each.line, None, "these credentials are in use by another device"))
                else:
                    names.add(each.same_name or each.line)
                    credentials.add(each.same_credentials or each.line)
                    continue
                refused.append(each.place)
            await store.unstage(connection, refused)
            report.imported -= len(refused)


def _value(key: str, text: str) -> Value:
    try:
        checked_key(key)
        return checked_value(from_text(text))
    except InvalidData as fault:
        raise Refused(f"{key!r}: {fault}") from None

"""What operators do with devices: make, import, list, show, change, revoke, re-arm, delete."""

import os
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from operator import attrgetter
from uuid import UUID

from asyncpg import PostgresError

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
from provserver.store.devices import CredentialsRow, DeviceSummary

BATCH = 2_000
"""Rows checked and written together."""

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
    """What an import did, or would do. errors: the first MAX_ERRORS of error_count."""

    imported: int = 0
    error_count: int = 0
    errors: list[RowError] = field(default_factory=list)

    def refuse(self, error: RowError) -> None:
        """Count an error, and keep it while there is room."""
        self.error_count += 1
        if len(self.errors) < MAX_ERRORS:
            self.errors.append(error)


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
                stream = iter(rows)
                done = 0
                while batch := list(islice(stream, BATCH)):
                    await self._stage(connection, found, batch, report)
                    done += len(batch)
                    progress(done)
                if dry_run or (report.error_count and not partial):
                    raise _NothingKept
                await self._profile(connection, str(found.id), lock="KEY SHARE")
                await store.add_staged(connection)
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

    async def _stage(
        self,
        connection: Connection,
        profile: DeviceProfile,
        batch: Sequence[DeviceRow | RowError],
        report: ImportReport,
    ) -> None:
        good: list[tuple[DeviceRow, bytes | None]] = []
        errors: list[RowError] = []
        for row in batch:
            if isinstance(row, RowError):
                errors.append(row)
            else:
                digest = self._keys.digest("credentials", row.credentials.id) if row.credentials else None
                good.append((row, digest))
        names, digests = await store.taken(
            connection,
            self._organization_id,
            [row.name for row, _ in good],
            [digest for _, digest in good if digest],
        )
        devices: list[tuple[UUID, UUID, UUID, str, bool]] = []
        now = time.time()
        # In the rows' order, which lists then have.
        identities = iter(sorted((ids.uuid7(now, self._random) for _ in good), key=attrgetter("int")))
        credentials: list[tuple[bytes, UUID, str, str, bytes]] = []
        attributes: list[tuple[UUID, str, str, object]] = []
        for row, digest in good:
            if row.name in names:
                errors.append(RowError(row.line, "name", "a device of this name exists already"))
                continue
            if digest is not None and digest in digests:
                errors.append(RowError(row.line, None, "these credentials are in use by another device"))
                continue
            names.add(row.name)
            given, origin = row.credentials, Origin.IMPORTED
            if given is None or digest is None:
                given, origin = building.access_token(ids.token(self._random)), Origin.GENERATED
                digest = self._keys.digest("credentials", given.id)
            digests.add(digest)
            id_ = next(identities)
            devices.append((id_, self._organization_id, profile.id, row.name, row.gateway))
            sealed = seal_credentials(self._keys, id_, given, self._random)
            credentials.append((digest, id_, given.type, origin, sealed))
            attributes.extend((id_, scope, key, value) for (scope, key), value in row.attributes.items())
        for error in sorted(errors, key=lambda error: error.line):
            report.refuse(error)
        await store.stage(connection, devices, credentials, attributes)
        report.imported += len(devices)


def _value(key: str, text: str) -> Value:
    try:
        checked_key(key)
        return checked_value(from_text(text))
    except InvalidData as fault:
        raise Refused(f"{key!r}: {fault}") from None

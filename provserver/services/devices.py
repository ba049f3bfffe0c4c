"""What operators do with devices: make, import, list, show, change, revoke, re-arm, delete."""

import os
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from uuid import UUID

from asyncpg import PostgresError, UniqueViolationError

from provserver.core import ids
from provserver.core.attributes import METADATA, Scope, from_text
from provserver.core.authorization import OPERATOR
from provserver.core.credentials import has_control_characters
from provserver.core.csvfile import DeviceRow, RowError
from provserver.core.decision import check_name
from provserver.core.model import Credentials, CredentialsType, DeviceProfile, Origin
from provserver.core.secrets import ServerKeys
from provserver.core.telemetry import InvalidData, Value, checked_key, checked_value
from provserver.errors import Conflict, Forbidden, Invalid, NotFound, Refused
from provserver.services import device_metadata, onboarding
from provserver.services.credentials import open_credentials
from provserver.services.device_import import ImportReport, Rows
from provserver.services.organizations import check_quota, check_revision
from provserver.services.rotation import add_pending, fresh_token, opened
from provserver.store import audit, clones, data, profiles, quarantine, rotation
from provserver.store import devices as store
from provserver.store.clones import SignRow
from provserver.store.database import Connection, Database
from provserver.store.devices import CredentialsRow, DeviceSummary
from provserver.store.quarantine import QuarantineRow

OVERLAP = timedelta(days=7)
"""For how long credentials are good that an operator has rotated."""

MAX_REASON = 500
"""Characters of the reason for a quarantine."""

MAX_KEYS = 100
"""Keys of a change that the audit names; it counts the rest."""


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
class DeviceChange:
    """What to change of a device: values of attributes by key, as a person wrote them, and keys to remove.

    metadata: by field; null removes one. name: another one, for its maker to give.
    """

    shared: Mapping[str, str] = field(default_factory=dict)
    server: Mapping[str, str] = field(default_factory=dict)
    delete_shared: Sequence[str] = ()
    delete_server: Sequence[str] = ()
    metadata: Mapping[str, object] = field(default_factory=dict)
    name: str | None = None


@dataclass(frozen=True, slots=True)
class Made:
    """A device that was made by hand. token: that was generated for it, which is shown this once."""

    device: DeviceSummary
    token: Credentials | None


@dataclass(frozen=True, slots=True)
class DeviceDetails:
    """A device with its attributes, credentials and latest telemetry; opened: in clear, for who asked for it.

    signs: what speaks for it being there twice.
    """

    device: DeviceSummary
    attributes: tuple[AttributeDetails, ...]
    credentials: tuple[CredentialsRow, ...]
    opened: tuple[Credentials, ...] = ()
    telemetry: tuple[Latest, ...] = ()
    quarantine: QuarantineRow | None = None
    signs: tuple[SignRow, ...] = ()


@dataclass(frozen=True, slots=True)
class Rotated:
    """A device whose credentials are to give way. credentials: those that follow, if there are any yet; ends: when
    those before do; None: they have.
    """

    device: DeviceSummary
    credentials: Credentials | None
    ends: datetime | None


class _NothingKept(Exception):  # noqa: N818
    """Rolls an import back."""


class Devices:
    """The devices that one organization sees: those that it or an organization below it has, or has made.

    It makes devices as its own. Those that it has of a maker above are for it to look at, and to write shared
    attributes and metadata of; their credentials outlive its having them, so those are the maker's affair.

    Devices are named by name or id, as text, or by a UUID. actor: who the audit says it was. A `revision` is that which
    the device must have; Stale is raised when it has another.
    """

    def __init__(
        self,
        database: Database,
        keys: ServerKeys,
        organization_id: UUID,
        random: ids.Randomness = os.urandom,
        actor: str = OPERATOR,
    ) -> None:
        self._database = database
        self._keys = keys
        self._organization_id = organization_id
        self._random = random
        self._actor = actor

    async def create(self, row: DeviceRow, profile: str) -> DeviceSummary:
        """Make one device, not yet provisioned. Raises Refused."""
        return (await self.make(row, profile, {})).device

    async def make(self, row: DeviceRow, profile: str, given: Mapping[str, object]) -> Made:
        """The same, with values of its profile's metadata fields, and the token that it got. Raises Refused."""
        async with self._adding() as connection:
            device = await self.add(connection, row, profile)
            if given:
                of = await self._profile(connection, str(device.profile_id))
                written, removed = await device_metadata.filled(connection, of, given, device.id)
                await device_metadata.write(connection, device, written, removed, self._actor, self._random)
            token = None
            if row.credentials is None:
                (generated,) = await store.credentials(connection, device.id)
                token = self._open(device.id, generated)
            return Made(await self._find(connection, device.id), token)

    async def add(self, connection: Connection, row: DeviceRow, profile: str) -> DeviceSummary:
        """The same in the caller's transaction. Raises Refused; asyncpg's errors when another makes the same device."""
        found, rows = await self._profile(connection, profile), self._rows(connection)
        await rows.stage([row])
        if rows.report.errors:
            error = rows.report.errors[0]
            fix = "Choose another name." if error.column == "name" else "Choose others, or leave them out for a token."
            raise Conflict(f"{error.reason[0].upper()}{error.reason[1:]}. {fix}")
        await check_quota(connection, self._organization_id, devices=1)
        await self._add(connection, rows, found)
        device = await self._find(connection, row.name)
        await self._record(connection, device, "created")
        return device

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

        rows: as `csvfile.read_devices` yields them, taken in batches. progress: told the rows done so far.
        """
        report = ImportReport()
        try:
            async with self._adding() as connection:
                found, staging = await self._profile(connection, profile), self._rows(connection)
                report = staging.report
                await staging.stage(rows, progress)
                if report.error_count and not partial:
                    raise _NothingKept
                await check_quota(connection, self._organization_id, devices=report.imported)
                if dry_run:
                    raise _NothingKept
                await self._add(connection, staging, found)
                if report.imported:
                    await audit.record(
                        connection,
                        self._audit_id(),
                        self._organization_id,
                        self._actor,
                        "device.imported",
                        found.id,
                        profile=found.name,
                        count=report.imported,
                    )
        except _NothingKept:
            if not dry_run:
                report.imported = 0
        return report

    async def stream(self, profile: str | None = None) -> AsyncIterator[DeviceSummary]:
        """All devices, or a profile's, in order of making. Raises Refused."""
        async with self._database.transaction() as connection:
            profile_id = None
            if profile is not None:
                profile_id = (await self._profile(connection, profile)).id
            async for device in store.stream(connection, self._organization_id, profile_id):
                yield device

    async def show(self, reference: UUID | str, *, open_: bool = False) -> DeviceDetails:
        """A device; open_: with its credentials in clear, for its maker, which the audit keeps. Raises Refused."""
        async with self._database.transaction() as connection:
            device = await self._find(connection, reference, made=open_)
            if open_:
                await self._record(connection, device, "shown")
            return await self._details(connection, device, open_=open_)

    async def name_of(self, id_: UUID) -> str:
        """What a device is called. Raises NotFound."""
        async with self._database.connection() as connection:
            return (await self._find(connection, id_)).name

    async def update(self, reference: UUID | str, change: DeviceChange, revision: int | None = None) -> DeviceDetails:
        """Write and remove shared and server attributes; a device that listens is told of shared ones. Raises Refused.

        A value that is JSON is taken as such, anything else as text. Whoever has the device of a maker above writes no
        server attributes of it but metadata, and does not rename it. Live connections know it by its former name until
        they end.
        """
        wanted = {(Scope.SHARED, key): text for key, text in change.shared.items()}
        wanted |= {(Scope.SERVER, key): text for key, text in change.server.items()}
        deleted = [(Scope.SHARED, key) for key in change.delete_shared]
        deleted += [(Scope.SERVER, key) for key in change.delete_server]
        if not wanted and not deleted and not change.metadata and change.name is None:
            raise Refused("There is nothing to change. Name attributes with --shared KEY=VALUE and the like.")
        if both := wanted.keys() & set(deleted):
            raise Refused(f"{min(both)[1]!r} cannot be both written and deleted.")
        values = {place: _value(place[1], text) for place, text in wanted.items()}
        for _, key in deleted:
            _value(key, "true")
        async with self._database.transaction() as connection:
            device = await self._hold(connection, reference, revision)
            if change.metadata and (of := await profiles.get(connection, device.profile_id)) is not None:
                written, removed = await device_metadata.filled(connection, of, change.metadata, device.id)
                values, deleted = values | written, deleted + removed
                wanted = wanted | dict.fromkeys(written, "")
            server = [key for scope, key in (*wanted, *deleted) if scope is Scope.SERVER]
            if device.maker_id is None and not all(key.startswith(METADATA) for key in server):
                raise Forbidden(f"Server attributes other than {METADATA}… are for the device's maker to write.")
            values |= await device_metadata.checked(connection, device.profile_id, values)
            if device_metadata.NETWORK_KEYS.intersection(server):
                await onboarding.check_reach(connection, self._organization_id, device.id)
            await device_metadata.write(connection, device, values, deleted, self._actor, self._random)
            renamed = await rename(connection, device, change.name)
            await self._record(connection, device, "updated", **_told(written=values, deleted=deleted), **renamed)
            return await self._details(connection, await self._find(connection, device.id))

    async def erase_data(self, reference: UUID | str, revision: int | None = None) -> DeviceSummary:
        """Forget all that a device has sent, and nothing else of it. Raises Refused."""
        async with self._database.transaction() as connection:
            device = await self._hold(connection, reference, revision)
            await data.erase(connection, device.id)
            await self._record(connection, device, "erased")
            return await self._find(connection, device.id)

    async def revoke(self, reference: UUID | str, revision: int | None = None) -> DeviceSummary:
        """Remove a device's credentials: they are good no more from now on. Raises Refused."""
        async with self._database.transaction() as connection:
            device = await self._hold(connection, reference, revision, made=True)
            await store.revoke(connection, device.id)
            await self._record(connection, device, "revoked")
            return await self._find(connection, device.id)

    async def rotate(
        self, reference: UUID | str, overlap: timedelta | None = None, revision: int | None = None
    ) -> Rotated:
        """Have a device's credentials end after a time, and tell it; make the token that is to follow. Raises Refused.

        The new token is good from now on, and takes over at its first use, or at the end of that time. Who asks again
        before that gets the same, be it an operator or the device itself. overlap: by default OVERLAP; zero: at once.
        """
        overlap = OVERLAP if overlap is None else overlap
        now = time.time()
        async with self._database.transaction() as connection:
            device = await self._hold(connection, reference, revision, made=True)
            await self._check_free(connection, device)
            found = await rotation.lock(connection, device.id)
            held = [opened(self._keys, device.id, row) for row in await rotation.held(connection, device.id)]
            current = [each for each in held if not each.pending]
            if found is None or not current:
                raise Conflict(f"{device.name!r} has no credentials to rotate. Let it provision itself: device rearm.")
            if found.static:
                raise Conflict("The device came of a static token, which stays its token.")
            has_token = current[0].credentials.type is CredentialsType.ACCESS_TOKEN
            if not has_token and not overlap:
                raise Conflict("Only the device itself can replace these credentials: give it time, or revoke them.")
            following = next((each.credentials for each in held if each.pending), None)
            if following is None and has_token:
                following = fresh_token(self._random)
                origin = Origin.GENERATED
                await add_pending(connection, self._keys, device.id, found, following, origin, now, self._random)
            ends = None
            if overlap:
                ends = await rotation.end(connection, device.id, overlap)
            else:
                await rotation.replace(connection, device.id)
            seconds = int(overlap.total_seconds())
            await self._record(connection, device, "rotated", overlap=seconds)
            return Rotated(await self._find(connection, device.id), following, ends)

    async def quarantine(self, reference: UUID | str, reason: str, revision: int | None = None) -> DeviceSummary:
        """Let nobody in with a device's credentials, and give it none, until it is released. Raises Refused."""
        reason = reason.strip()
        if not reason or len(reason) > MAX_REASON or has_control_characters(reason):
            raise Invalid(f"The reason must be 1-{MAX_REASON} printable characters, for whoever is to release it.")
        async with self._database.transaction() as connection:
            device = await self._hold(connection, reference, revision, made=True)
            if await quarantine.put(connection, device.id, reason, self._actor) is None:
                raise Conflict(f"{device.name!r} is in quarantine already. To let it out: device release.")
            await self._record(connection, device, "quarantined", reason=reason)
            return await self._find(connection, device.id)

    async def release(
        self, reference: UUID | str, *, rotate: bool = False, revision: int | None = None
    ) -> tuple[DeviceSummary, Credentials | None]:
        """Let a device out of quarantine. Raises Refused.

        rotate: with a new token, which is returned, instead of all that it and its clone have; the nonce is spent, too,
            and so is a re-arming: it is for whoever asks first.
        """
        async with self._database.transaction() as connection:
            device = await self._hold(connection, reference, revision, made=True)
            if rotate and device.static_token is not None:
                raise Conflict(
                    "The device came of a static token, which stays its token. Release it without rotating, or delete "
                    "the static token and give the unit another."
                )
            if not await quarantine.release(connection, device.id, rotated=rotate):
                raise Conflict(f"{device.name!r} is not in quarantine.")
            token = await self._replace(connection, device) if rotate else None
            await self._record(connection, device, "released", rotated=rotate)
            return await self._find(connection, device.id), token

    async def _replace(self, connection: Connection, device: DeviceSummary) -> Credentials:
        """A token instead of all credentials of a device that the transaction holds."""
        found = await rotation.lock(connection, device.id)
        assert found is not None  # noqa: S101 - it is held
        token = fresh_token(self._random)
        await store.revoke(connection, device.id)
        await store.disarm(connection, device.id)
        now = time.time()
        await add_pending(connection, self._keys, device.id, found, token, Origin.GENERATED, now, self._random)
        await rotation.replace(connection, device.id)
        return token

    async def rearm(self, reference: UUID | str, revision: int | None = None) -> DeviceSummary:
        """Let a device provision itself once more, with fresh credentials. Raises Refused."""
        async with self._database.transaction() as connection:
            device = await self._hold(connection, reference, revision, made=True)
            await self._check_free(connection, device)
            await store.rearm(connection, device.id)
            await self._record(connection, device, "rearmed")
            return await self._find(connection, device.id)

    async def delete(
        self, reference: UUID | str, revision: int | None = None, *, from_network: bool = False
    ) -> DeviceSummary:
        """Remove a device; its credentials die with it. Raises Refused.

        One of a static token comes back when it connects again: delete the token to be rid of both. One that is claimed
        is its owner's: to take it from him is another decision than this. from_network: what we have made of it in its
        network goes, too, by a job.
        """
        async with self._database.transaction() as connection:
            device = await self._hold(connection, reference, revision, made=True)
            if device.static_token == "CLAIMED":  # noqa: S105 - a status
                raise Conflict("Somebody has claimed this device. Disclaim its static token first, or delete that.")
            if from_network:
                await onboarding.remove(connection, device.id, self._actor, self._audit_id())
            await store.delete(connection, device.id)
            await self._record(connection, device, "deleted", **({"from_network": True} if from_network else {}))
        return device

    async def _profile(
        self, connection: Connection, reference: str, *, lock: profiles.RowLock | None = None
    ) -> DeviceProfile:
        profile = await profiles.find(connection, self._organization_id, reference, lock=lock)
        if profile is None:
            raise NotFound(f"There is no profile {reference!r}. Look in the list of profiles.")
        return profile

    def _rows(self, connection: Connection) -> Rows:
        return Rows(connection, self._keys, self._organization_id, self._random)

    async def _add(self, connection: Connection, rows: Rows, profile: DeviceProfile) -> None:
        await self._profile(connection, str(profile.id), lock="KEY SHARE")
        await rows.add(profile.id)

    async def _find(self, connection: Connection, reference: UUID | str, *, made: bool = False) -> DeviceSummary:
        return await seen(connection, self._organization_id, reference, made=made)

    async def _hold(
        self, connection: Connection, reference: UUID | str, revision: int | None, *, made: bool = False
    ) -> DeviceSummary:
        """Find a device that nobody else can change until the transaction ends."""
        device = await self._find(connection, reference, made=made)
        await store.lock(connection, device.id)
        device = await self._find(connection, device.id, made=made)  # it may have been changed or taken away meanwhile
        check_revision(device.revision, revision)
        return device

    async def _check_free(self, connection: Connection, device: DeviceSummary) -> None:
        """Raises Conflict when a device is in quarantine: nothing that is to give it credentials would."""
        if await quarantine.get(connection, device.id) is not None:
            raise Conflict(
                f"{device.name!r} is in quarantine. To let it out: `provserver device release {device.name}`; with "
                "--rotate, it gets a new token, and who has a copy of it stays out."
            )

    async def _details(self, connection: Connection, device: DeviceSummary, *, open_: bool = False) -> DeviceDetails:
        rows = await store.credentials(connection, device.id)
        attributes = await store.attributes(connection, device.id, with_keys=device.maker_id is not None)
        telemetry = await data.latest(connection, device.id)
        return DeviceDetails(
            device,
            tuple(AttributeDetails(*attribute) for attribute in attributes),
            tuple(rows),
            tuple(self._open(device.id, row) for row in rows) if open_ else (),
            tuple(Latest(*sample) for sample in telemetry),
            await quarantine.get(connection, device.id),
            tuple(await clones.signs(connection, device.id)),
        )

    async def _record(self, connection: Connection, device: DeviceSummary, verb: str, **detail: Value) -> None:
        """Told to who has the device, and so to all above: its maker is one of them."""
        await audit.record(
            connection,
            self._audit_id(),
            device.holder_id,
            self._actor,
            f"device.{verb}",
            device.id,
            name=device.name,
            **detail,
        )

    def _audit_id(self) -> UUID:
        return ids.uuid7(time.time(), self._random)

    def _open(self, device_id: UUID, row: CredentialsRow) -> Credentials:
        return open_credentials(self._keys, device_id, CredentialsType(row.type), row.sealed)

    @asynccontextmanager
    async def _adding(self) -> AsyncIterator[Connection]:
        """A transaction that adds devices. Raises Conflict when something else adds the same ones."""
        try:
            async with self._database.transaction() as connection:
                yield connection
        except PostgresError as fault:
            if not self._database.is_race(fault):
                raise
            raise Conflict(
                "Another import or a device made one of these devices meanwhile; nothing was imported. "
                "Run the import again."
            ) from None


async def seen(
    connection: Connection, organization_id: UUID, reference: UUID | str, *, made: bool = False
) -> DeviceSummary:
    """A device that an organization sees. made: it must be of a maker within its tree. Raises Refused."""
    device = None
    try:
        if isinstance(reference, UUID):
            device = await store.get(connection, organization_id, reference)
        elif not has_control_characters(reference):
            device = await store.find(connection, organization_id, reference)
    except store.Ambiguous:
        raise Conflict(f"Several makers have a device {reference!r}. Name it by its id.") from None
    if device is None:
        raise NotFound(f"There is no device {str(reference)!r}. Look in the list of devices.")
    if made and device.maker_id is None:
        raise Forbidden("This is for the device's maker to do. To give the device back, release it.")
    return device


async def rename(connection: Connection, device: DeviceSummary, name: str | None) -> dict[str, Value]:
    """Give a device that the transaction holds another name, if one is wanted; what the audit is to say of it.

    Raises Forbidden, Invalid, Conflict.
    """
    if name is None or name == device.name:
        return {}
    if device.maker_id is None:
        raise Forbidden("To rename a device is for its maker to do.")
    checked = check_name(name)
    if not isinstance(checked, str):
        reason = "the device name is empty" if checked is None else checked.reason.text
        raise Invalid(f"name: {reason}.", [{"in": "body", "field": "name", "reason": reason}])
    try:
        async with connection.transaction():
            await store.rename(connection, device.id, checked)
    except UniqueViolationError:
        raise Conflict(f"There is a device {checked!r} already. Choose another name.") from None
    return {"renamed_to": checked}


def _told(**changes: Iterable[tuple[Scope, str]]) -> dict[str, Value]:
    """Which attributes were changed, for the audit: their keys, never their values."""
    detail: dict[str, Value] = {}
    for how, places in changes.items():
        if keys := [f"{scope.lower()}:{key}" for scope, key in places]:
            detail[how] = [*keys[:MAX_KEYS]]
            if len(keys) > MAX_KEYS:
                detail[f"{how}_count"] = len(keys)
    return detail


def _value(key: str, text: str) -> Value:
    try:
        checked_key(key)
        return checked_value(from_text(text))
    except InvalidData as fault:
        raise Refused(f"{key!r}: {fault}") from None

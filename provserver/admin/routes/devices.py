"""Devices: made or imported beforehand, shown, changed, claimed by a secret, transferred and given back."""

import io
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Annotated, Any, cast
from uuid import UUID

import msgspec
from msgspec import UNSET, Meta, UnsetType

from provserver.admin.fields import Answer, Body, LongText, Name, Query, Reference, Text
from provserver.admin.route import Call, Reply, route
from provserver.admin.routes.jobs import Begun, JobAnswer
from provserver.core import csvfile
from provserver.core.attributes import Scope
from provserver.core.authorization import Permission
from provserver.core.clones import Sign
from provserver.core.model import Credentials, CredentialsType, MqttBasic, Origin
from provserver.errors import Conflict, Invalid
from provserver.services.device_import import ImportReport
from provserver.services.devices import MAX_REASON, DeviceChange, DeviceDetails, Devices
from provserver.services.jobs import Progress

Attributes = Annotated[Mapping[Name, Any], Meta(max_length=1000)]
Metadata = Annotated[Mapping[Name, str | int | float | bool | None], Meta(max_length=250)]
Keys = Annotated[tuple[Name, ...], Meta(max_length=1000)]


class DeviceAnswer(Answer, frozen=True):
    """A device. maker…: null for those below the maker. holder…: who has it. staticToken: the status of its token.

    suspected: something speaks for it being there twice. revision does not tell of online, lastSeenAt and suspected.
    """

    id: UUID
    name: str
    profile_id: UUID
    profile: str
    gateway: bool
    rearmed: bool
    provision_state: Any
    credentials_type: CredentialsType | None
    revision: int
    created_at: datetime
    maker_id: UUID | None
    maker: str | None
    holder_id: UUID
    holder: str
    owner_id: UUID | None
    owner: str | None
    static_token: str | None
    online: bool
    last_seen_at: datetime | None
    quarantined: bool
    suspected: bool


class MadeDeviceAnswer(DeviceAnswer, frozen=True, kw_only=True):
    """A device that was made. accessToken: generated for it, shown this once; null where it brought its own."""

    access_token: str | None


class AttributeMember(Answer, frozen=True):
    """An attribute."""

    scope: Scope
    key: str
    value: Any
    updated_at: datetime


class BasicMember(Answer, frozen=True):
    """MQTT basic credentials."""

    client_id: str
    user_name: str
    password: str


class CredentialsMember(Answer, frozen=True):
    """Credentials of a device. credentialsValue: only if it was asked for."""

    credentials_type: CredentialsType
    origin: Origin
    pending: bool
    first_used_at: datetime | None
    created_at: datetime
    credentials_value: str | BasicMember | UnsetType = UNSET


class LatestMember(Answer, frozen=True):
    """The newest sample of a telemetry key. ts: milliseconds since the epoch."""

    key: str
    ts: int
    value: Any


class QuarantineMember(Answer, frozen=True):
    """Why a device is in quarantine: nobody is let in with its credentials. actor: who put it there."""

    reason: str
    actor: str
    since: datetime


class SignMember(Answer, frozen=True):
    """What speaks for a device being there twice, and how often it was seen."""

    sign: Sign
    count: int
    first_at: datetime
    last_at: datetime


class DeviceDetailsAnswer(DeviceAnswer, frozen=True, kw_only=True):
    """A device with its attributes, credentials and what it last sent."""

    attributes: Sequence[AttributeMember]
    credentials: Sequence[CredentialsMember]
    telemetry: Sequence[LatestMember]
    quarantine: QuarantineMember | None
    clone_signs: Sequence[SignMember]


class RowErrorMember(Answer, frozen=True):
    """What is wrong where. line: from 1, the header's."""

    line: int
    column: str | None
    reason: str


class DeviceImportAnswer(Answer, frozen=True):
    """What an import did, or would do. errors: the first thousand of errorCount."""

    imported: int
    dry_run: bool
    error_count: int
    errors: Sequence[RowErrorMember]


class RotatedAnswer(Answer, frozen=True):
    """A device whose credentials give way. credentials…: those that follow; null until it asks for them itself.

    expireAt: when those before are good no more; null: they are already.
    """

    device: DeviceAnswer
    credentials_type: CredentialsType | None
    credentials_value: str | BasicMember | None
    expire_at: datetime | None


class ReleasedAnswer(Answer, frozen=True):
    """A device that is out of quarantine. accessToken: its new one, shown this once; null if it keeps what it has."""

    device: DeviceAnswer
    access_token: str | None


class DeviceQuery(Query, frozen=True):
    """credentials: with the credentials in clear, for the device's maker."""

    credentials: bool = False


class NewDevice(Body, frozen=True):
    """A device to be, with a token, MQTT basic credentials or a certificate (PEM); none: a token is generated.

    metadata: values of its profile's metadata fields, by field.
    """

    name: Name
    profile: Reference
    token: Text = ""
    client_id: Text = ""
    username: Text = ""
    password: Text = ""
    certificate: LongText = ""
    gateway: bool = False
    metadata: Metadata = msgspec.field(default_factory=dict)


class DevicePatch(Body, frozen=True):
    """Attributes to write, by key, and to remove. The device reads shared ones; it never sees server ones.

    metadata: values of its profile's metadata fields, by field; null removes one. name: another name, for its maker to
    give; connections that are live know the device by its former name until they end.
    """

    name: Name | UnsetType = UNSET
    metadata: Metadata = msgspec.field(default_factory=dict)
    shared: Attributes = msgspec.field(default_factory=dict)
    server: Attributes = msgspec.field(default_factory=dict)
    delete_shared: Keys = ()
    delete_server: Keys = ()


class DeviceDeletion(Query, frozen=True):
    """from_network: also what the server has made of it in its network."""

    from_network: bool = False


class DeviceImportQuery(Query, frozen=True):
    """How to import. partial: keep the rows that are right although others are not."""

    profile: Reference
    dry_run: Annotated[bool, Meta(description="Check everything, keep nothing.")] = False
    partial: bool = False
    as_job: Annotated[bool, Meta(description="Answer at once with a job that does it.")] = False


class Rotation(Body, frozen=True):
    """overlap: seconds for which the present credentials stay good unless the next ones are used before; 7 days."""

    overlap: Annotated[int, Meta(ge=0, le=31_557_600)] | UnsetType = UNSET


class Quarantine(Body, frozen=True):
    """Why nobody is to be let in with the device's credentials."""

    reason: Annotated[str, Meta(min_length=1, max_length=MAX_REASON)]


class Release(Body, frozen=True):
    """rotate: with a new token instead of all that the device, and its clone, have."""

    rotate: bool = False


class Transfer(Body, frozen=True):
    """Who is to have the device: a user, or an organization with no user in particular.

    keepData: another organization gets it with its telemetry, history and attributes, which are wiped otherwise.
    """

    user: Reference | UnsetType = UNSET
    organization: Reference | UnsetType = UNSET
    keep_data: bool = False


def device_answer(device: object) -> DeviceAnswer:
    """A device, of its summary."""
    return DeviceAnswer.of(device)


def _reply(device: object) -> Reply[DeviceAnswer]:
    answer = device_answer(device)
    return Reply(answer, revision=answer.revision)


async def create_device(call: Call[None, NewDevice]) -> Reply[MadeDeviceAnswer]:
    """Make a device beforehand."""
    body = call.body
    columns = {
        "name": body.name,
        "token": body.token,
        "clientId": body.client_id,
        "username": body.username,
        "password": body.password,
        "certificate": body.certificate,
        "gateway": str(body.gateway),
    }
    row = csvfile.device_row(1, columns)
    if isinstance(row, csvfile.RowError):
        raise Invalid(f"{row.column}: {row.reason}.", [{"field": row.column, "reason": row.reason}])
    made = await _devices(call).make(row, body.profile, body.metadata)
    answer = MadeDeviceAnswer.of(made.device, access_token=None if made.token is None else made.token.id)
    return Reply(answer, revision=answer.revision)


async def import_devices(call: Call[DeviceImportQuery, bytes]) -> Reply[DeviceImportAnswer]:
    """Make devices beforehand from CSV; the answer is a report, also of a file that is refused.

    A file with wrong rows is no problem of HTTP: it is answered with 200 (by a job: it is done) and the report of what
    is wrong. Look at `errorCount`: unless it is 0, nothing was made and `imported` is 0; with `partial`, `imported`
    counts the rows that were right.
    """
    query, data, devices = call.query, call.body, _devices(call)

    async def work(progress: Progress) -> DeviceImportAnswer:
        # What is not UTF-8 becomes lone surrogates, which `csvfile` reports where they are.
        with io.TextIOWrapper(io.BytesIO(data), "utf-8", "surrogateescape", newline="") as lines:
            try:
                report = await devices.import_(
                    csvfile.read_devices(lines),
                    query.profile,
                    dry_run=query.dry_run,
                    partial=query.partial,
                    progress=progress,
                )
            except csvfile.HeaderFault as fault:
                raise Invalid(str(fault)) from None
        return _report(report, dry_run=query.dry_run)

    if query.as_job:
        job = await call.services.jobs.start(call.principal, "devices.import", work)
        return cast("Reply[DeviceImportAnswer]", Reply(Begun(JobAnswer.of(job)), status=202))
    return Reply(await work(Progress()))


async def show_device(call: Call[DeviceQuery, None]) -> Reply[DeviceDetailsAnswer]:
    """Show a device, by name or id."""
    if call.query.credentials:
        call.principal.require(Permission.DEVICES_MANAGE)
    return _details(await _devices(call).show(call.text("device"), open_=call.query.credentials))


async def update_device(call: Call[None, DevicePatch]) -> Reply[DeviceDetailsAnswer]:
    """Write and remove attributes and metadata of a device; give it another name."""
    body = call.body
    change = DeviceChange(
        _texts(body.shared),
        _texts(body.server),
        body.delete_shared,
        body.delete_server,
        body.metadata,
        body.name or None,
    )
    return _details(await _devices(call).update(call.text("device"), change, call.revision))


async def delete_device(call: Call[DeviceDeletion, None]) -> DeviceAnswer:
    """Delete a device; below its maker: give it back."""
    devices, principal = _devices(call), call.principal
    device = (await devices.show(call.text("device"))).device
    if device.maker_id is None or (device.owner_id is not None and device.owner_id == principal.user_id):
        if call.query.from_network:
            raise Conflict("To give a device back does not remove it from its network. Leave fromNetwork out.")
        await call.services.handover.release_device(principal, device.id, call.revision)
        return device_answer(device)
    principal.require(Permission.DEVICES_MANAGE)
    return device_answer(await devices.delete(device.id, call.revision, from_network=call.query.from_network))


async def erase_device_data(call: Call[None, None]) -> Reply[DeviceAnswer]:
    """Forget all that a device has sent; its attributes and credentials stay."""
    return _reply(await _devices(call).erase_data(call.text("device"), call.revision))


async def revoke_device(call: Call[None, None]) -> Reply[DeviceAnswer]:
    """Take a device's credentials away."""
    return _reply(await _devices(call).revoke(call.text("device"), call.revision))


async def rearm_device(call: Call[None, None]) -> Reply[DeviceAnswer]:
    """Let a device provision itself once more."""
    return _reply(await _devices(call).rearm(call.text("device"), call.revision))


async def rotate_device(call: Call[None, Rotation]) -> Reply[RotatedAnswer]:
    """Have a device's credentials give way to others after a time."""
    overlap = None if call.body.overlap is UNSET else timedelta(seconds=call.body.overlap)
    rotated = await _devices(call).rotate(call.text("device"), overlap, call.revision)
    given = rotated.credentials
    answer = RotatedAnswer(
        device_answer(rotated.device),
        None if given is None else given.type,
        None if given is None else _value(given),
        rotated.ends,
    )
    return Reply(answer, revision=rotated.device.revision)


async def quarantine_device(call: Call[None, Quarantine]) -> Reply[DeviceAnswer]:
    """Put a device into quarantine."""
    return _reply(await _devices(call).quarantine(call.text("device"), call.body.reason, call.revision))


async def release_device(call: Call[None, Release]) -> Reply[ReleasedAnswer]:
    """Let a device out of quarantine."""
    devices = _devices(call)
    device, token = await devices.release(call.text("device"), rotate=call.body.rotate, revision=call.revision)
    return Reply(ReleasedAnswer(device_answer(device), None if token is None else token.id), revision=device.revision)


async def transfer_device(call: Call[None, Transfer]) -> Reply[DeviceAnswer]:
    """Have another user or organization have a device."""
    device = (await _devices(call).show(call.text("device"))).device
    return _reply(
        await call.services.handover.transfer(
            call.principal,
            device.id,
            to_user=call.body.user or None,
            to_organization=call.body.organization or None,
            keep_data=call.body.keep_data,
            revision=call.revision,
        )
    )


def _devices(call: Call[Any, Any]) -> Devices:
    return call.services.devices(call.principal.organization_id, call.principal.actor)


def _texts(values: Mapping[str, Any]) -> dict[str, str]:
    """As the service takes them: JSON."""
    return {key: msgspec.json.encode(value).decode() for key, value in values.items()}


def _details(details: DeviceDetails) -> Reply[DeviceDetailsAnswer]:
    opened: Sequence[Credentials | None] = details.opened or [None] * len(details.credentials)
    answer = DeviceDetailsAnswer.of(
        details.device,
        attributes=[AttributeMember.of(each) for each in details.attributes],
        credentials=[
            CredentialsMember(
                CredentialsType(row.type),
                Origin(row.origin),
                row.pending,
                row.first_used_at,
                row.created_at,
                UNSET if credentials is None else _value(credentials),
            )
            for row, credentials in zip(details.credentials, opened, strict=True)
        ],
        telemetry=[LatestMember.of(each) for each in details.telemetry],
        quarantine=None if details.quarantine is None else QuarantineMember.of(details.quarantine),
        clone_signs=[SignMember(Sign(row.sign), row.count, row.first_at, row.last_at) for row in details.signs],
    )
    return Reply(answer, revision=details.device.revision)


def _value(credentials: Credentials) -> str | BasicMember:
    value = credentials.value
    if isinstance(value, MqttBasic):
        return BasicMember(value.client_id, value.user_name, value.password)
    return value


def _report(report: ImportReport, *, dry_run: bool) -> DeviceImportAnswer:
    errors = [RowErrorMember.of(each) for each in report.errors]
    return DeviceImportAnswer(report.imported, dry_run, report.error_count, errors)


_VIEW, _MANAGE, _CREATE = Permission.DEVICES_VIEW, Permission.DEVICES_MANAGE, Permission.DEVICES_CREATE

ROUTES = [
    route(
        "POST",
        "/devices",
        _CREATE,
        create_device,
        creates=True,
        revised=True,
        problems=("not_found", "conflict", "invalid"),
        example={"name": "sensor-1", "profile": "wifi-sensor"},
    ),
    route(
        "POST",
        "/devices/import",
        _CREATE,
        import_devices,
        status=200,
        creates=True,
        also={202: Begun},
        problems=("not_found", "conflict", "invalid", "too_many_requests"),
        example="name,token\r\nsensor-1,\r\n",
    ),
    route("GET", "/devices/{device}", _VIEW, show_device, revised=True, problems=("conflict",)),
    route(
        "PATCH",
        "/devices/{device}",
        _MANAGE,
        update_device,
        revised=True,
        problems=("conflict", "invalid"),
        example={"shared": {"interval": 60}, "deleteServer": ["note"]},
    ),
    route(
        "DELETE",
        "/devices/{device}",
        _VIEW,
        delete_device,
        revised=True,
        problems=("conflict",),
    ),
    route(
        "POST",
        "/devices/{device}/erase-data",
        _MANAGE,
        erase_device_data,
        revised=True,
        problems=("conflict",),
    ),
    route(
        "POST",
        "/devices/{device}/revoke",
        _MANAGE,
        revoke_device,
        revised=True,
        problems=("conflict",),
    ),
    route(
        "POST",
        "/devices/{device}/rearm",
        _MANAGE,
        rearm_device,
        revised=True,
        problems=("conflict",),
    ),
    route(
        "POST",
        "/devices/{device}/rotate",
        _MANAGE,
        rotate_device,
        revised=True,
        problems=("conflict", "invalid"),
        example={"overlap": 86_400},
    ),
    route(
        "POST",
        "/devices/{device}/quarantine",
        _MANAGE,
        quarantine_device,
        revised=True,
        problems=("conflict", "invalid"),
        example={"reason": "two in the field answer to this name"},
    ),
    route(
        "POST",
        "/devices/{device}/release",
        _MANAGE,
        release_device,
        revised=True,
        problems=("conflict", "invalid"),
        example={"rotate": True},
    ),
    route(
        "POST",
        "/devices/{device}/transfer",
        Permission.DEVICES_TRANSFER,
        transfer_device,
        revised=True,
        problems=("conflict", "invalid"),
        example={"organization": "Customer A"},
    ),
]

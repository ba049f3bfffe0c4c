"""What happened to one device, from all the records that tell of it, newest first."""

from collections.abc import Iterable
from datetime import datetime
from uuid import UUID

from provserver.core import explanation, timeline
from provserver.core.authorization import Permission, Principal
from provserver.core.decision import Reason
from provserver.core.model import CredentialsType, Origin
from provserver.core.timeline import Entry, Kind
from provserver.errors import Outcome
from provserver.services.devices import seen
from provserver.store import actors, clones, devices, network_devices, quarantine
from provserver.store import device_timeline as store
from provserver.store.attempts import AttemptSummary
from provserver.store.audit import AuditRow
from provserver.store.database import Connection, Database
from provserver.store.devices import DeviceSummary
from provserver.store.jobs import Job

_RELEASED = "device.released"

_TYPES = {
    CredentialsType.ACCESS_TOKEN: "An access token",
    CredentialsType.MQTT_BASIC: "MQTT client id, user name and password",
    CredentialsType.X509_CERTIFICATE: "An X.509 certificate",
}
_ORIGINS = {
    Origin.GENERATED: "generated here",
    Origin.SUPPLIED: "brought by the device",
    Origin.IMPORTED: "given by an operator",
}


class DeviceTimeline:
    """The records of a device, as far as a principal may read them.

    Attempts are for whoever may see profiles, who did what for whoever may read the audit, and jobs for whom they are.
    Of connections there is the present one: no history of them is kept, as writing it would cost every connection.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def read(
        self, principal: Principal, reference: UUID | str, before: UUID | None = None, limit: int = 50
    ) -> list[Entry]:
        """Entries newest first, from before one on. Raises Refused."""
        principal.require(Permission.DEVICES_VIEW)
        async with self._database.connection() as connection:
            device = await seen(connection, principal.organization_id, reference)
            found = await self._standing(connection, device)
            if device.maker_id is not None and Permission.PROFILES_VIEW in principal.permissions:
                attempts = await store.attempts(connection, device.id, device.name, device.maker_id, before, limit)
                found += map(_attempt, attempts)
            found += await self._audits(connection, principal, device, before, limit)
            own = None if Permission.TOKENS_MANAGE in principal.permissions else principal.actor
            jobs = await store.jobs(connection, principal.organization_id, device.id, before, limit, actor=own)
            found += map(_job, jobs)
            sessions = await store.wifi_sessions(connection, principal.organization_id, device.id, before, limit)
            found += map(_session, sessions)
        newest = sorted(found, key=lambda entry: entry.id, reverse=True)
        return [entry for entry in newest if before is None or entry.id < before][:limit]

    async def actor_names(self, principal: Principal, entries: Iterable[Entry]) -> dict[str, str]:
        """What those are called who did it, by actor, as far as the principal reaches."""
        given = {entry.actor for entry in entries if entry.actor is not None}
        async with self._database.connection() as connection:
            return await actors.names(connection, principal.organization_id, given)

    async def _standing(self, connection: Connection, device: DeviceSummary) -> list[Entry]:
        """What is kept of a device as it stands: one record of each kind, with its last times."""
        found = [_entry(Kind.DEVICE, device.created_at, device, "made", "The device was made.")]
        presence = await store.presence(connection, device.id)
        if presence is not None:
            at, state = presence.last_seen_at, "online" if presence.online else "offline"
            text = "The device was last seen."
            if presence.online:
                text = f"The device {'connected' if presence.live else 'was heard'}, and is online."
            found.append(_entry(Kind.CONNECTION, at, device, "presence", text, state=state))
        for number, row in enumerate(await devices.credentials(connection, device.id)):
            which = f"{_TYPES[CredentialsType(row.type)]}, {_ORIGINS[Origin(row.origin)]}"
            if row.pending:
                which += ", takes over at its first use"
            place = f"{row.type} {number}"
            found.append(
                _entry(Kind.CREDENTIALS, row.created_at, device, place, "The device got credentials.", detail=which)
            )
            if row.first_used_at is not None:
                text = "The device connected with its credentials for the first time."
                found.append(_entry(Kind.CONNECTION, row.first_used_at, device, f"first {place}", text, detail=which))
        held = await quarantine.get(connection, device.id)
        if held is not None:
            text = "The device is in quarantine since: nobody is let in with its credentials."
            found.append(_entry(Kind.QUARANTINE, held.since, device, "quarantine", text, detail=held.reason))
        for sign in await clones.signs(connection, device.id):
            text = f"Something spoke for the device being there twice: {sign.sign}."
            times = f"{sign.count} times since {sign.first_at:%Y-%m-%d %H:%M} UTC" if sign.count > 1 else None
            found.append(_entry(Kind.CLONE, sign.last_at, device, f"sign {sign.sign}", text, detail=times))
        if device.maker_id is not None:
            found += await self._network(connection, device)
        return found

    @staticmethod
    async def _network(connection: Connection, device: DeviceSummary) -> list[Entry]:
        row = await network_devices.get(connection, device.id)
        if row is None:
            return []
        found = []
        for at, what, text in (
            (row.created_at, "network", "The device came to be known to its network."),
            (row.last_join_at, "join", "The device last joined its network."),
            (row.last_uplink_at, "uplink", "The network last heard the device."),
        ):
            if at is not None:
                found.append(_entry(Kind.NETWORK, at, device, what, text, detail=row.network_device_id))
        if row.error is not None and row.updated_at is not None:
            text = f"The network part failed: {row.error}"
            entry = _entry(Kind.NETWORK, row.updated_at, device, "fault", text, detail=row.remedy, state=row.state)
            found.append(entry)
        return found

    @staticmethod
    async def _audits(
        connection: Connection, principal: Principal, device: DeviceSummary, before: UUID | None, limit: int
    ) -> list[Entry]:
        """All that was done to it; for whoever may not read the audit its moves alone, and not who did them."""
        reads = Permission.AUDIT_READ in principal.permissions
        actions = None if reads else [*timeline.CLAIMS, _RELEASED]
        rows = await store.audits(connection, principal.organization_id, device.id, before, limit, actions=actions)
        moves = [row for row in rows if reads or row.action != _RELEASED or "rotated" not in row.detail]
        return [_audit(row, reads=reads) for row in moves]


def _entry(
    kind: Kind,
    at: datetime,
    device: DeviceSummary,
    what: str,
    text: str,
    *,
    detail: str | None = None,
    state: str | None = None,
) -> Entry:
    return Entry(id=timeline.place(at, f"{device.id} {what}"), kind=kind, at=at, text=text, detail=detail, state=state)


def _attempt(attempt: AttemptSummary) -> Entry:
    outcome = attempt.outcome
    by = f"{attempt.transport.upper()} from {attempt.address}"
    if outcome == Outcome.SUCCESS.value:
        text = "The device was provisioned."
    else:
        text = "An attempt to provision the device was refused."
        if outcome in (Outcome.PENDING.value, Outcome.LIMITED.value, Outcome.UNAVAILABLE.value):
            text = "The device was told to come back."
    why = _why(attempt)
    return Entry(
        id=attempt.id,
        kind=Kind.ATTEMPT,
        at=attempt.at,
        text=text,
        detail=f"{by}: {why}" if why else by,
        state=outcome,
        subject_id=attempt.id,
    )


def _why(attempt: AttemptSummary) -> str:
    if attempt.reason is None:
        return ""
    try:
        reason = explanation.read(attempt.reason)
    except KeyError:  # of another version
        return attempt.detail or ""
    words = reason.text if isinstance(reason, Reason) else str(reason.value)
    return f"{words} ({attempt.detail})" if attempt.detail else words


def _audit(row: AuditRow, *, reads: bool) -> Entry:
    moved = row.action in timeline.CLAIMS or (row.action == _RELEASED and "rotated" not in row.detail)
    return Entry(
        id=row.id,
        kind=Kind.CLAIM if moved else Kind.AUDIT,
        at=row.at,
        text=timeline.told(row.action, row.detail),
        detail=timeline.details(row.detail) if reads else None,
        state=row.action,
        actor=row.actor if reads else None,
    )


def _job(job: Job) -> Entry:
    return Entry(
        id=job.id,
        kind=Kind.JOB,
        at=job.created_at,
        text=f"A job was begun: {job.kind}.",
        detail=job.error,
        state=job.state,
        actor=job.actor,
        subject_id=job.id,
    )


def _session(row: store.SessionRow) -> Entry:
    return Entry(
        id=row.id,
        kind=Kind.WIFI,
        at=row.started_at,
        text="A WiFi session was begun again for the device." if row.again else "A WiFi session was begun.",
        detail=row.error,
        state=row.state,
        subject_id=row.id,
    )

"""The SQL of WiFi sessions: tokens whose devices are still to come, or to come back, and what became of them.

Where a session and a device are both locked, the device goes first: a pending token is taken over by a transaction that
holds the device, and knows nothing of sessions.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import NamedTuple
from uuid import UUID

import asyncpg

from provserver.core.attributes import Scope
from provserver.core.events import EventType
from provserver.core.model import PROVISION_STATE, PROVISIONED, CredentialsType, Origin
from provserver.core.wifisession import MAX_LOG, OPEN, TEMPLATE_WRONG, Summary, WifiSession, WifiState
from provserver.store import outbox
from provserver.store.database import Connection

_OPEN = ", ".join(f"'{state}'" for state in OPEN)

_SESSION = """w.id, w.organization_id, o.name, w.owner_id, coalesce(nullif(u.name, ''), u.email), w.requester, w.client,
    w.device_id, coalesce(d.name, w.device_name), p.id, p.name, p.template_id, w.again, w.state, w.error, w.started_at,
    w.expires_at, w.ended_at, w.log"""

_FROM = """FROM wifi_session w JOIN organization o ON o.id = w.organization_id
    LEFT JOIN "user" u ON u.id = w.owner_id LEFT JOIN device d ON d.id = w.device_id
    LEFT JOIN device_profile p ON p.id = w.profile_id"""


def _logged(event: str, detail: str = "NULL::text") -> str:
    """The log with one more entry. event, detail: SQL."""
    entry = f"jsonb_build_object('at', clock_timestamp(), 'event', {event}, 'detail', {detail})"
    return f"CASE WHEN jsonb_array_length(w.log) < {MAX_LOG} THEN w.log || {entry} ELSE w.log END"


class Placeholder(NamedTuple):
    """What a token may stand for. profile_id: None: its device has to say. open: it is good."""

    id_digest: bytes
    id: UUID
    organization_id: UUID
    profile_id: UUID | None
    state: str
    open: bool


class Due(NamedTuple):
    """A session that may be over. again: its token is a device's pending one."""

    id: UUID
    device_id: UUID
    again: bool


async def insert(
    connection: Connection,
    id_: UUID,
    organization_id: UUID,
    device_id: UUID,
    life: timedelta,
    *,
    owner_id: UUID | None,
    requester: str,
    client: str,
    profile_id: UUID | None,
    device_name: str | None,
    id_digest: bytes | None = None,
    sealed: bytes | None = None,
) -> None:
    """Add a session. id_digest, sealed: of its token; None: the token is the device's pending one."""
    await connection.execute(
        "INSERT INTO wifi_session (id, organization_id, device_id, again, issued_at, expires_at, owner_id, requester,"
        " client, profile_id, device_name, id_digest, sealed, log) VALUES ($1, $2, $3, $1::uuid <> $3::uuid,"
        " (SELECT created_at FROM credentials WHERE device_id = $3 AND pending AND $1::uuid <> $3::uuid),"
        " clock_timestamp() + $4::interval,"
        " $5, $6, $7, $8, $9, $10, $11,"
        " jsonb_build_array(jsonb_build_object('at', clock_timestamp(), 'event', 'requested', 'detail', NULL::text)))",
        id_,
        organization_id,
        device_id,
        life,
        owner_id,
        requester,
        client,
        profile_id,
        device_name,
        id_digest,
        sealed,
    )


async def count_open(connection: Connection, organization_id: UUID, requester: str) -> tuple[int, int]:
    """How many sessions of an organization are not over; and of those, how many an actor asked for."""
    row = await connection.fetchrow(
        "SELECT count(*), count(*) FILTER (WHERE requester = $2) FROM wifi_session"
        " WHERE organization_id = $1 AND ended_at IS NULL",
        organization_id,
        requester,
    )
    assert row is not None  # noqa: S101 - of an aggregate
    return row[0], row[1]


async def list_(
    connection: Connection,
    above: UUID,
    *,
    before: UUID | None,
    limit: int,
    organization_id: UUID | None = None,
    state: WifiState | None = None,
) -> list[WifiSession]:
    """Those of an organization and all below it, the newest first. organization_id: only this one's."""
    rows = await connection.fetch(
        f"SELECT {_SESSION} {_FROM} WHERE o.path @> ARRAY[$1::uuid] AND ($2::uuid IS NULL OR w.id < $2)"
        " AND ($3::uuid IS NULL OR w.organization_id = $3) AND ($4::text IS NULL OR w.state = $4)"
        " ORDER BY w.id DESC LIMIT $5",
        above,
        before,
        organization_id,
        state,
        limit,
    )
    return [_session(row) for row in rows]


async def find(connection: Connection, above: UUID, id_: UUID) -> WifiSession | None:
    """One of an organization or those below it."""
    row = await connection.fetchrow(
        f"SELECT {_SESSION} {_FROM} WHERE w.id = $2 AND o.path @> ARRAY[$1::uuid]", above, id_
    )
    return None if row is None else _session(row)


async def summary(
    connection: Connection, above: UUID, *, organization_id: UUID | None = None, since: datetime | None = None
) -> Summary:
    """What became of those of an organization and all below it. organization_id: only this one's."""
    row = await connection.fetchrow(
        "SELECT count(*), count(*) FILTER (WHERE w.state = 'SUCCESS'), count(w.ended_at),"
        " extract(epoch FROM avg(w.ended_at - w.started_at) FILTER (WHERE w.state = 'SUCCESS'))::float8,"
        " mode() WITHIN GROUP (ORDER BY w.error) FILTER (WHERE w.state <> 'SUCCESS')"
        " FROM wifi_session w JOIN organization o ON o.id = w.organization_id WHERE o.path @> ARRAY[$1::uuid]"
        " AND ($2::uuid IS NULL OR w.organization_id = $2) AND ($3::timestamptz IS NULL OR w.started_at >= $3)",
        above,
        organization_id,
        since,
    )
    assert row is not None  # noqa: S101 - of an aggregate
    total, succeeded, over, duration, error = row
    return Summary(total, succeeded, succeeded / over if over else None, duration, error)


async def note(connection: Connection, id_: UUID, event: str, detail: str | None, error: str | None) -> bool:
    """Keep what was seen of a session, if it is open."""
    status = await connection.execute(
        f"UPDATE wifi_session w SET log = {_logged('$2::text', '$3::text')}, error = coalesce($4, w.error)"
        f" WHERE w.id = $1 AND w.state IN ({_OPEN})",
        id_,
        event,
        detail,
        error,
    )
    return status == "UPDATE 1"


async def usable(connection: Connection, organization_id: UUID, reference: str) -> UUID | None:
    """The profile of a name, template id or id that an organization may use: its own, or of the nearest above it."""
    found: UUID | None = await connection.fetchval(
        "SELECT p.id FROM organization o CROSS JOIN LATERAL unnest(o.path) WITH ORDINALITY AS m(id, depth)"
        " JOIN device_profile p ON p.organization_id = m.id AND (p.template_id = $2 OR p.name = $2 OR p.id::text = $2)"
        " WHERE o.id = $1 ORDER BY m.depth DESC, p.name = $2, p.id LIMIT 1",
        organization_id,
        reference,
    )
    return found


class Template(NamedTuple):
    """A profile by its template id. visible: an organization may use it."""

    profile_id: UUID
    visible: bool


async def template(connection: Connection, organization_id: UUID, template_id: str) -> Template | None:
    """A profile by its template id, as an organization sees it."""
    row = await connection.fetchrow(
        "SELECT p.id, p.organization_id = ANY(o.path) FROM device_profile p, organization o"
        " WHERE p.template_id = $2 AND o.id = $1",
        organization_id,
        template_id,
    )
    return None if row is None else Template(*row)


_PLACEHOLDER = f"""w.id_digest, w.id, w.organization_id, w.profile_id, w.state,
    w.state IN ({_OPEN}) AND w.expires_at > clock_timestamp()"""


async def placeholders(connection: Connection, id_digests: Sequence[bytes]) -> list[Placeholder]:
    """The sessions that have these tokens, or had them."""
    rows = await connection.fetch(
        f"SELECT {_PLACEHOLDER} FROM wifi_session w WHERE w.id_digest = ANY($1::bytea[])", id_digests
    )
    return [Placeholder(*row) for row in rows]


async def hold(connection: Connection, id_: UUID) -> Placeholder | None:
    """A session of a device to be, which nobody else changes until the transaction ends."""
    row = await connection.fetchrow(
        f"SELECT {_PLACEHOLDER} FROM wifi_session w WHERE w.id = $1 AND w.id_digest IS NOT NULL FOR NO KEY UPDATE", id_
    )
    return None if row is None else Placeholder(*row)


async def connected(connection: Connection, ids: Sequence[UUID]) -> None:
    """Devices have logged in that are yet to say what they are."""
    logged = _logged("'connected'")
    await connection.execute(
        f"UPDATE wifi_session w SET state = '{WifiState.CONNECTED}', log = {logged}"
        f" FROM (SELECT id FROM wifi_session WHERE id = ANY($1::uuid[]) AND state = '{WifiState.WAITING}'"
        " ORDER BY id FOR NO KEY UPDATE) AS held WHERE w.id = held.id",
        ids,
    )


# The first of two names that is free, as `claiming.py` has it for static tokens. Names are unique among the maker's
# devices: what a customer calls one gets an end that no unit of the factory's has, also when the name is free.
_MAKE = f"""
WITH named AS MATERIALIZED (
    SELECT w.id, w.organization_id, w.owner_id, w.id_digest, w.sealed, p.id AS profile_id,
        p.organization_id AS maker_id, p.credentials_lifetime, free.name AS given
    FROM wifi_session w JOIN device_profile p ON p.id = $2
    CROSS JOIN LATERAL (
        SELECT coalesce(
            w.device_name || CASE WHEN w.organization_id <> p.organization_id
                THEN ' (' || right(w.id::text, 8) || ')' ELSE '' END,
            left(p.name, 200) || ' ' || upper(right(w.id::text, 6))
        ) AS name
    ) AS first
    CROSS JOIN LATERAL (
        SELECT c.name
        FROM unnest(ARRAY[first.name, first.name || ' (' || w.id || ')']) WITH ORDINALITY AS c(name, place)
        WHERE NOT EXISTS (SELECT FROM device d WHERE d.organization_id = p.organization_id AND d.name = c.name)
        ORDER BY c.place LIMIT 1
    ) AS free
    WHERE w.id = $1
), made AS (
    INSERT INTO device (id, organization_id, profile_id, name, holder_id, owner_id)
    SELECT id, maker_id, profile_id, given, nullif(organization_id, maker_id), owner_id FROM named
    ON CONFLICT DO NOTHING
    RETURNING id
), accepted AS (
    SELECT n.* FROM named n JOIN made m ON m.id = n.id
), given AS (
    INSERT INTO credentials (id_digest, device_id, type, origin, sealed, expires_at)
    SELECT id_digest, id, '{CredentialsType.ACCESS_TOKEN}', '{Origin.GENERATED}', sealed,
        date_trunc('second', now()) + credentials_lifetime FROM accepted
), states AS (
    INSERT INTO attribute (device_id, scope, key, value)
    SELECT id, '{Scope.SERVER}', '{PROVISION_STATE}', '"{PROVISIONED}"'::jsonb FROM accepted
), told AS (
    INSERT INTO outbox (type, device_id, organization_id, payload)
    SELECT '{EventType.DEVICE_PROVISIONED}', id, organization_id, jsonb_build_object('deviceId', id,
        'deviceName', given, 'profileId', profile_id,
        'credentialsType', '{CredentialsType.ACCESS_TOKEN}', 'transport', $3::text)
    FROM accepted
), over AS (
    UPDATE wifi_session w SET state = '{WifiState.SUCCESS}', ended_at = clock_timestamp(), made = true, error = NULL,
        sealed = NULL, profile_id = a.profile_id, device_name = a.given, log = {_logged("'provisioned'", "$3::text")}
    FROM accepted a WHERE w.id = a.id
)
SELECT given FROM accepted
"""


async def make(connection: Connection, session: Placeholder, profile_id: UUID, transport: str) -> bool:
    """Make the device of a session that is held, and tell it; False when another has just taken its name: ask again."""
    made = await connection.fetchval(_MAKE, session.id, profile_id, transport) is not None
    if made:
        await _tell(connection, session.id, session.organization_id, session.id, False, WifiState.SUCCESS, None)
    return made


async def due(connection: Connection, limit: int, above: UUID | None = None, id_: UUID | None = None) -> list[Due]:
    """Sessions whose time is over, or whose pending token was used. above: of an organization and all below it."""
    rows = await connection.fetch(
        "SELECT w.id, w.device_id, w.again FROM wifi_session w WHERE w.ended_at IS NULL"
        " AND ($3::uuid IS NULL OR w.id = $3) AND ($2::uuid IS NULL OR EXISTS (SELECT FROM organization o"
        " WHERE o.id = w.organization_id AND o.path @> ARRAY[$2::uuid]))"
        " AND (w.expires_at <= clock_timestamp() OR w.again AND EXISTS (SELECT FROM credentials c"
        " WHERE c.device_id = w.device_id AND c.created_at = w.issued_at AND c.first_used_at IS NOT NULL))"
        " ORDER BY w.device_id LIMIT $1",  # as whoever locks several devices does
        limit,
        above,
        id_,
    )
    return [Due(*row) for row in rows]


async def open_of(connection: Connection, device_id: UUID) -> list[Due]:
    """The sessions that a device is to come back by."""
    rows = await connection.fetch(
        "SELECT id, device_id, again FROM wifi_session WHERE device_id = $1 AND again AND ended_at IS NULL ORDER BY id",
        device_id,
    )
    return [Due(*row) for row in rows]


async def end(connection: Connection, session: Due, state: WifiState, error: str | None = None) -> bool:
    """End an open session, inside a transaction, and tell it; False when it was over. Its token is good no more.

    One whose device came back with its token has succeeded, whatever the state was to be.
    """
    if session.again:
        await connection.execute("SELECT FROM device WHERE id = $1 FOR NO KEY UPDATE", session.device_id)
        used: datetime | None = await connection.fetchval(
            "SELECT c.first_used_at FROM wifi_session w JOIN credentials c ON c.device_id = w.device_id"
            " AND c.created_at = w.issued_at WHERE w.id = $1",
            session.id,
        )
        if used is not None:
            return await _end(connection, session.id, WifiState.SUCCESS, None, used)
        await connection.execute(
            "DELETE FROM credentials c USING wifi_session w WHERE w.id = $1 AND w.ended_at IS NULL"
            " AND c.device_id = w.device_id AND c.created_at = w.issued_at AND c.pending",
            session.id,
        )
    return await _end(connection, session.id, state, error, None)


async def _end(connection: Connection, id_: UUID, state: WifiState, error: str | None, at: datetime | None) -> bool:
    logged = _logged("lower($2::text)", "$3::text")
    row = await connection.fetchrow(
        "UPDATE wifi_session w SET state = $2,"
        " error = CASE WHEN $2 = 'SUCCESS' THEN NULL ELSE coalesce($3, w.error) END,"
        f" ended_at = coalesce($4, clock_timestamp()), sealed = NULL, log = {logged}"
        " WHERE w.id = $1 AND w.ended_at IS NULL"
        " RETURNING w.id, w.organization_id, w.device_id, w.again, w.state, w.error",
        id_,
        state,
        error,
        at,
    )
    if row is None:
        return False
    await _tell(connection, *row)
    return True


async def _tell(
    connection: Connection,
    id_: UUID,
    organization_id: UUID,
    device_id: UUID,
    again: bool,
    state: str,
    error: str | None,
) -> None:
    if state == WifiState.SUCCESS:
        await outbox.record_of_device(
            connection,
            EventType.WIFI_PROVISIONED,
            device_id,
            organization_id,
            wifiSessionId=str(id_),
            reprovisioning=again,
        )
    elif state != WifiState.CANCELED:
        await outbox.record(
            connection,
            EventType.WIFI_FAILED,
            device_id if again else None,
            organization_id,
            wifiSessionId=str(id_),
            state=state,
            **({} if error is None else {"error": error}),
        )


async def leave(connection: Connection, device_id: UUID) -> None:
    """A device goes to somebody else: whoever wanted it to come back does not have the last word.

    Inside a transaction that holds the device.
    """
    for session in await open_of(connection, device_id):
        await end(connection, session, WifiState.CANCELED)


async def forget(connection: Connection, device_id: UUID) -> None:
    """A device is gone: what is open of it is over, and the session that it came of may be forgotten."""
    logged = _logged("'deleted'")
    await connection.execute(
        f"UPDATE wifi_session w SET made = false, log = {logged},"
        f" state = CASE WHEN w.ended_at IS NULL THEN '{WifiState.CANCELED}' ELSE w.state END,"
        " ended_at = coalesce(w.ended_at, clock_timestamp()) WHERE w.device_id = $1 AND (w.made OR w.again)",
        device_id,
    )


async def mismatched(connection: Connection, device_id: UUID) -> None:
    """A device says that it is of another template than its own: its newest session has not succeeded, if it is new.

    Inside a transaction; whoever was told of a success hears of the failure, too.
    """
    logged = _logged(f"'{TEMPLATE_WRONG}'")
    row = await connection.fetchrow(
        f"UPDATE wifi_session w SET state = '{WifiState.FAILED}', error = '{TEMPLATE_WRONG}', log = {logged},"
        " ended_at = clock_timestamp() WHERE w.id = (SELECT id FROM wifi_session WHERE device_id = $1"
        " AND started_at > now() - interval '1 day' ORDER BY id DESC LIMIT 1)"
        f" AND (w.state = '{WifiState.SUCCESS}' OR w.again AND w.ended_at IS NULL AND EXISTS (SELECT FROM credentials c"
        " WHERE c.device_id = w.device_id AND c.created_at = w.issued_at AND c.first_used_at IS NOT NULL))"
        " RETURNING w.id, w.organization_id, w.device_id, w.again, w.state, w.error",
        device_id,
    )
    if row is not None:
        await _tell(connection, *row)


async def has_made(connection: Connection, device_id: UUID) -> bool:
    """Whether a device came of a session."""
    made: bool = await connection.fetchval("SELECT EXISTS (SELECT FROM wifi_session WHERE id = $1 AND made)", device_id)
    return made


async def sweep(connection: Connection, age: timedelta, limit: int) -> int:
    """Forget sessions that ended so long ago and whose device is not there; how many it were."""
    rows = await connection.fetch(
        "DELETE FROM wifi_session WHERE id = ANY(ARRAY(SELECT id FROM wifi_session"
        " WHERE ended_at < now() - $1::interval AND NOT made LIMIT $2)) RETURNING 1",
        age,
        limit,
    )
    return len(rows)


_RECONFIGURE = """
SELECT EXISTS (SELECT FROM presence WHERE device_id = $1 AND session_id IS NOT NULL AND online_until > now()),
    pg_notify('reconfigure', $1::uuid::text)
"""


async def reconfigure(connection: Connection, device_id: UUID) -> bool:
    """Have whoever holds a device's live session tell it to open its access point; whether there is one."""
    online: bool = await connection.fetchval(_RECONFIGURE, device_id)
    return online


def _session(row: asyncpg.Record) -> WifiSession:
    values = list(row)
    values[13] = WifiState(str(values[13]))
    return WifiSession(*values)

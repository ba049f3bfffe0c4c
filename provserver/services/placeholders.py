"""Placeholders: devices to be, known by the token of a WiFi session alone, until they say of which template they are.

Where the session knows the profile, the device is made when it first logs in. Otherwise the login is let in as
`Denial.UNBOUND`, which may do nothing but say its template: `report`, whichever protocol it comes by. The device has
the session's id and token, and goes on by the same connection.
"""

import logging
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, NamedTuple
from uuid import UUID

from asyncpg import PostgresError

from provserver.core import datastreams as core
from provserver.core.authentication import Denial
from provserver.core.model import Authenticated, Peer
from provserver.core.secrets import ServerKeys
from provserver.core.telemetry import InvalidData
from provserver.core.wifisession import QUOTA, TEMPLATE_ELSEWHERE, TEMPLATE_UNKNOWN, WifiState
from provserver.errors import Conflict, NotFound, Unavailable
from provserver.services.claiming import MAX_NAMES
from provserver.services.organizations import Contended, check_quota
from provserver.store import wifi_sessions as store
from provserver.store.database import Connection, Database
from provserver.store.wifi_sessions import Due, Placeholder

if TYPE_CHECKING:
    from provserver.services.access import Access
    from provserver.services.datastreams import Datastreams
    from provserver.services.sessions import LiveConnection

log = logging.getLogger("provserver.wifi")

UNKNOWN = "The connection cannot be let in just now."

MAX_EACH = 4
"""Connections a process keeps of one token's placeholder: a device may come again before its last is known dead."""


class Found(NamedTuple):
    """What tokens stand for, by their digests. there: devices have them, by now; unbound: the device has to say what it
    is; failed: nobody can tell.
    """

    there: Collection[bytes]
    unbound: Collection[bytes]
    failed: Mapping[bytes, Exception]


NOBODY = Found((), (), {})


async def find(database: Database, id_digests: Mapping[bytes, str]) -> Found:
    """Look tokens up that are nobody's credentials, and make the devices that can be made.

    id_digests: with the transport that each came by.
    """
    try:
        async with database.connection() as connection:
            rows = await store.placeholders(connection, list(id_digests))
    except (PostgresError, Unavailable) as fault:
        return Found((), (), dict.fromkeys(id_digests, _away(fault)))
    there = {row.id_digest for row in rows if row.state == WifiState.SUCCESS}
    failed: dict[bytes, Exception] = {}
    held: dict[UUID, Exception] = {}  # whose organizations somebody has: one of each waits, for all who log in now
    unbound = [row for row in rows if row.open and row.profile_id is None]
    for row in rows:
        if row.open and row.profile_id is not None and row.organization_id in held:
            failed[row.id_digest] = held[row.organization_id]
        elif row.open and row.profile_id is not None:
            try:
                await _bind(database, row, id_digests[row.id_digest])
            except Contended as fault:
                failed[row.id_digest] = held[row.organization_id] = _away(fault)
            except (PostgresError, Unavailable) as fault:
                failed[row.id_digest] = _away(fault)
            else:
                there.add(row.id_digest)
    if waiting := [row.id for row in unbound if row.state == WifiState.WAITING]:
        try:
            async with database.transaction() as connection:
                await store.connected(connection, waiting)
        except (PostgresError, Unavailable) as fault:  # which is of no matter to the device
            log.warning("a login could not be recorded: %s", type(fault).__name__)
    return Found(there, {row.id_digest for row in unbound}, failed)


class Placeholders:
    """What devices say of themselves that are not made yet."""

    def __init__(self, database: Database, keys: ServerKeys, access: "Access", datastreams: "Datastreams") -> None:
        self._database = database
        self._keys = keys
        self._access = access
        self._datastreams = datastreams
        self._waiting: dict[str, list[LiveConnection]] = {}

    def enter(self, token: str, connection: "LiveConnection") -> "LiveConnection | None":
        """A token's holder waits to say its template; the oldest of those that wait, if that is to end now."""
        waiting = self._waiting.setdefault(token, [])
        waiting.append(connection)
        return waiting.pop(0) if len(waiting) > MAX_EACH else None

    def leave(self, token: str, connection: "LiveConnection") -> None:
        """It waits no more, if it did."""
        waiting = self._waiting.get(token, [])
        if connection in waiting:
            waiting.remove(connection)
            if not waiting:
                del self._waiting[token]

    async def report(self, token: str, template_id: str, facts: Mapping[str, object], peer: Peer) -> Authenticated:
        """The device that a token's holder is, made if it was not there: it says of which template, and its firmware.

        facts: as `Datastreams.provision` takes them. Raises InvalidData, with WRONG_TEMPLATE when no such device may be
        made, which ends the session, or none is named, or INVALID_TOKEN when the session is over; and Unavailable.
        """
        if not template_id:
            raise InvalidData(core.WRONG_TEMPLATE)
        try:
            error = await self._settle(token, template_id, peer)
        except (PostgresError, Contended) as fault:
            raise _away(fault) from None
        if error is not None:
            raise InvalidData(core.WRONG_TEMPLATE)
        found = await self._access.with_token(token, peer)
        if found is Denial.LIMITED or found is Denial.UNBOUND:
            raise Unavailable(UNKNOWN)
        if isinstance(found, Denial):
            raise InvalidData(core.INVALID_TOKEN)
        await self._datastreams.provision(found, template_id, facts)
        return found

    async def _settle(self, token: str, template_id: str, peer: Peer) -> str | None:
        """Make the device of an open session, if it has none; why not, or None: `Access` knows what is there."""
        digests = self._keys.digests("credentials", token)
        async with self._database.connection() as connection:
            rows = [row for row in await store.placeholders(connection, digests) if row.open and row.profile_id is None]
            template = None
            if rows and "\0" not in template_id:  # no text of Postgres has one
                template = await store.template(connection, rows[0].organization_id, template_id)
        if not rows:
            return None
        if template is not None and template.visible:
            await _bind(self._database, rows[0]._replace(profile_id=template.profile_id), peer.transport)
            return None
        error = TEMPLATE_UNKNOWN if template is None else TEMPLATE_ELSEWHERE
        async with self._database.transaction() as connection:
            ended = await store.end(connection, Due(rows[0].id, rows[0].id, again=False), WifiState.FAILED, error)
        return error if ended else None  # else somebody has ended it otherwise


async def _bind(database: Database, session: Placeholder, transport: str) -> None:
    """Make a session's device, unless that is done or the session is over by now.

    Raises Unavailable, PostgresError, and Contended while somebody has the organization.
    """
    for _ in range(MAX_NAMES):
        try:
            async with database.transaction() as connection:
                if await _made(connection, session, transport):
                    return
        except Contended:
            raise
        except (Conflict, NotFound):
            async with database.connection() as connection:
                await store.note(connection, session.id, "refused", None, QUOTA)
            raise Unavailable(UNKNOWN) from None
    raise Unavailable(UNKNOWN)


async def _made(connection: Connection, session: Placeholder, transport: str) -> bool:
    """Whether the device is made, or there is none to make; False: another took its name just now."""
    held = await store.hold(connection, session.id)
    if held is None or not held.open or session.profile_id is None:
        return True
    await check_quota(connection, held.organization_id, devices=1)
    return await store.make(connection, held, held.profile_id or session.profile_id, transport)


def _away(fault: Exception) -> Unavailable:
    if isinstance(fault, Unavailable):
        return fault
    log.warning("the device of a WiFi session could not be made: %s", type(fault).__name__)
    return Unavailable(UNKNOWN)

"""The end of the production line: each unit gets a static token of its own, and no token gets into two units.

A token is reserved for its unit before anything is written, so whatever fails leaves it with that unit: who asks again
for the unit gets the same token. One that has failed is never given again, as nobody knows where it has got to.
"""

import os
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

from asyncpg import UniqueViolationError

from provserver.core import ids, statictoken
from provserver.core.authorization import Permission, Principal
from provserver.core.credentials import has_control_characters
from provserver.core.model import CredentialsType
from provserver.core.secrets import ServerKeys
from provserver.core.statictoken import LorawanForm
from provserver.errors import Conflict, Invalid, NotFound, TooManyRequests, Unavailable
from provserver.services.credentials import open_credentials
from provserver.store import audit, lorawan_claims
from provserver.store import eol as store
from provserver.store.database import Connection, Database
from provserver.store.eol import Counts, HeldRow, ProfileRow, UnitRow, UnitState

__all__ = ["EndOfLine", "LineStatus", "Reservation", "UnitRow"]

MAX_UNIT = 100
MAX_REASON = 255
MAX_UNITS = 500

MAX_HELD = 32
"""Units that stations of one process may have to themselves at once: each takes a connection to Postgres."""

ATTEMPTS = 3
"""How often a reservation is tried while others reserve for the same unit."""


@dataclass(frozen=True, slots=True)
class Reservation:
    """A token that is to be written to a unit, with its secrets in clear: never logged, never printed.

    resumed: it was reserved before. number: of the token, for people. payload: what its QR code says.
    """

    token_id: UUID
    number: int
    unit: str
    profile: str
    template_id: str
    organization_number: int
    resumed: bool
    auth: str = field(repr=False)
    qr: str = field(repr=False)
    payload: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class LineStatus:
    """How a line stands: a profile's tokens counted, and its units, the last one touched first."""

    profile: str
    counts: Counts
    units: Sequence[UnitRow]


class EndOfLine:
    """What stations of a production line do. It takes the permission to manage tokens."""

    def __init__(
        self,
        database: Database,
        keys: ServerKeys,
        random: ids.Randomness = os.urandom,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._database = database
        self._keys = keys
        self._random = random
        self._clock = clock
        self._held = 0

    @asynccontextmanager
    async def hold(self, principal: Principal, profile_reference: str, unit: str) -> AsyncIterator[ProfileRow]:
        """Have a unit to oneself: of two with one number, at two stations, both would get its token.

        Raises Refused, Unavailable.
        """
        principal.require(Permission.TOKENS_MANAGE)
        unit = _unit(unit)
        async with self._database.connection() as connection:
            profile = await _profile(connection, principal, profile_reference)
        if self._held >= MAX_HELD:
            raise TooManyRequests(f"{MAX_HELD} stations are at units just now. Try again.", retry_after=5)
        self._held += 1
        try:
            async with AsyncExitStack() as stack:
                try:
                    dedicated = await self._database.dedicated()
                    stack.callback(dedicated.terminate)
                    await store.hold(dedicated, profile.id, unit)
                except Exception as fault:
                    if self._database.is_lock_timeout(fault):
                        raise Conflict(f"Another station is at the unit {unit!r} just now.") from None
                    if self._database.is_away(fault):
                        raise Unavailable(f"Postgres is not available: {type(fault).__name__}.") from fault
                    raise
                yield profile
        finally:
            self._held -= 1

    async def reserve(
        self, principal: Principal, profile_reference: str, unit: str, *, match: str | None = None
    ) -> Reservation:
        """The token for a unit: the one that is reserved for it, else one that nobody has had. Raises Refused.

        match: a metadata field; the token's value of it must be the unit.
        """
        principal.require(Permission.TOKENS_MANAGE)
        unit = _unit(unit)
        for _ in range(ATTEMPTS):
            try:
                async with self._database.transaction() as connection:
                    profile = await _profile(connection, principal, profile_reference)
                    held = await store.held(connection, principal.organization_id, profile.id, unit)
                    resumed = held is not None
                    if held is not None and held.state == "written":
                        raise Conflict(_written_already(unit, held.number, held.at))
                    if held is None:
                        held = await store.take(connection, principal.organization_id, profile.id, unit, match)
                    if held is None:
                        used = await store.used(connection, principal.organization_id, profile.id, unit, match)
                        raise Conflict(_none_free(profile.name, unit, match, used))
                    await self._record(
                        connection, principal, held.organization_id, "reserved", held.token_id, unit=unit, again=resumed
                    )
                    forms = await lorawan_claims.forms(connection, [profile.id])
                return self._opened(held, profile, unit, forms.get(profile.id), resumed=resumed)
            except UniqueViolationError:  # another station was faster with this very unit
                continue
        raise Conflict(f"Another station is at the unit {unit!r} just now. Try again.")

    async def written(self, principal: Principal, token_id: UUID, unit: str) -> UnitRow:
        """Record that a unit has its token, as was read back; it may be said twice. Raises Refused."""
        principal.require(Permission.TOKENS_MANAGE)
        unit, organization_id = _unit(unit), principal.organization_id
        async with self._database.transaction() as connection:
            row = await store.mark(connection, organization_id, token_id, unit, "written", before=("reserved",))
            if row is not None:
                await self._record(connection, principal, row.organization_id, "written", token_id, unit=unit)
                return row
            found = await store.state(connection, organization_id, token_id, unit)
        if found is None:
            raise NotFound(f"The token of the unit {unit!r} has been deleted meanwhile. Run the unit again.")
        if found.state != "written":
            raise Conflict(f"The unit {unit!r} has been marked as {found.state} meanwhile. Run the unit again.")
        return found

    async def fail(self, principal: Principal, profile_reference: str, unit: str, reason: str = "") -> UnitRow:
        """Give a unit's token up, written or not, for good; the unit may get another. Raises Refused."""
        principal.require(Permission.TOKENS_MANAGE)
        unit = _unit(unit)
        if len(reason) > MAX_REASON or has_control_characters(reason):
            raise Invalid(f"A reason is at most {MAX_REASON} printable characters.")
        async with self._database.transaction() as connection:
            profile = await _profile(connection, principal, profile_reference)
            held = await store.held(connection, principal.organization_id, profile.id, unit)
            if held is None:
                raise NotFound(f"The unit {unit!r} has no token of the profile {profile.name!r} that could fail.")
            if held.status == "CLAIMED":
                raise Conflict(f"The unit {unit!r} has been claimed: its customer has it. Unclaim it first.")
            failed = await store.mark(
                connection, principal.organization_id, held.token_id, unit, "failed", before=("reserved", "written")
            )
            if failed is None:
                raise Conflict(f"The unit {unit!r} has changed meanwhile. Try again.")
            await self._record(
                connection, principal, failed.organization_id, "failed", failed.token_id, unit=unit, reason=reason
            )
        return failed

    async def status(
        self,
        principal: Principal,
        profile_reference: str,
        *,
        unit: str | None = None,
        state: UnitState | None = None,
        limit: int = 50,
    ) -> LineStatus:
        """How many tokens are left, and which unit has which. Raises Refused."""
        principal.require(Permission.TOKENS_MANAGE)
        async with self._database.connection() as connection:
            profile = await _profile(connection, principal, profile_reference)
            counts = await store.counts(connection, principal.organization_id, profile.id)
            units = await store.units(
                connection,
                principal.organization_id,
                profile.id,
                unit=None if unit is None else _unit(unit),
                state=state,
                limit=min(limit, MAX_UNITS),
            )
        return LineStatus(profile.name, counts, units)

    async def _record(
        self,
        connection: Connection,
        principal: Principal,
        organization_id: UUID,
        verb: str,
        token_id: UUID,
        **detail: str | bool,
    ) -> None:
        id_ = ids.uuid7(self._clock(), self._random)
        await audit.record(
            connection, id_, organization_id, principal.actor, f"static_token.{verb}", token_id, **detail
        )

    def _opened(
        self, held: HeldRow, profile: ProfileRow, unit: str, form: LorawanForm | None, *, resumed: bool
    ) -> Reservation:
        credentials = open_credentials(self._keys, held.token_id, CredentialsType.ACCESS_TOKEN, held.sealed)
        qr_token = statictoken.open_qr(self._keys, held.token_id, held.qr_sealed)
        return Reservation(
            held.token_id,
            held.number,
            unit,
            profile.name,
            profile.template_id,
            held.organization_number,
            resumed,
            credentials.id,
            qr_token,
            statictoken.payload(held, qr_token, form),
        )


async def _profile(connection: Connection, principal: Principal, reference: str) -> ProfileRow:
    found = await store.profiles(connection, principal.organization_id, reference)
    if not found:
        raise NotFound(f"There is no profile {reference!r}. Look in the list of profiles.")
    first, *others = found
    if others and first.organization_id != principal.organization_id:
        raise Conflict(f"Several organizations have a profile {reference!r}. Give its template id (TMPL…).")
    return first


def _unit(text: str) -> str:
    unit = text.strip()
    if not unit or len(unit) > MAX_UNIT or has_control_characters(unit):
        raise Invalid(f"A unit's serial number is 1-{MAX_UNIT} printable characters.")
    return unit


def _written_already(unit: str, number: int, at: datetime) -> str:
    return (
        f"The unit {unit!r} has its token already: number {number}, written at {at:%F %T}. "
        "To give it another one, give that up first: provserver eol fail."
    )


def _none_free(profile: str, unit: str, match: str | None, used: int) -> str:
    which = f"of the profile {profile!r} " + ("left" if match is None else f"whose {match} is {unit!r}")
    said = f"There is no free static token {which}."
    if used:
        said += (
            f" {used} may be in units already: they were exported, shown, claimed or connected with, "
            "and the line gives none of these."
        )
    return said if match is not None and not used else f"{said} Make some: provserver token create."

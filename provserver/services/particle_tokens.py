"""The static tokens of a profile, for Particle devices: each is a unit of the production line, by its device id.

So a token is one device's, a device has one token, and the line gives neither to anybody else (`services/eol.py`).
"""

import os
import time
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from uuid import UUID

from asyncpg import UniqueViolationError

from provserver.core import ids, particle
from provserver.core.model import CredentialsType
from provserver.core.particle import Device, Token
from provserver.core.secrets import ServerKeys
from provserver.errors import Conflict, NotFound, Unavailable
from provserver.services.credentials import open_credentials
from provserver.store import audit, eol, profiles
from provserver.store import particle as store
from provserver.store.database import Connection, Database
from provserver.store.particle import TokenRow

AT_ONCE = 500
"""Tokens that one transaction binds."""


class Busy(Conflict):
    """Another run is at the devices of this profile."""


class ProfileTokens:
    """See `particle_delivery.Tokens`. organization_id: the profile's. actor: of the audit."""

    certain = True

    def __init__(
        self,
        database: Database,
        keys: ServerKeys,
        organization_id: UUID,
        profile_id: UUID,
        actor: str,
        random: ids.Randomness = os.urandom,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._database = database
        self._keys = keys
        self._organization_id = organization_id
        self._profile_id = profile_id
        self._actor = actor
        self._random = random
        self._clock = clock
        self._offered: set[UUID] = set()
        self._exported = False

    @asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        """See `Tokens`. Raises Busy."""
        try:
            connection = await self._database.dedicated()
        except Exception as fault:
            if self._database.is_away(fault):
                raise Unavailable(f"Postgres is not available: {type(fault).__name__}.") from fault
            raise
        try:
            if not await store.lock(connection, self._profile_id):
                raise Busy("Another run is at the devices of this profile just now. Wait until it is done.")
            yield
        finally:
            connection.terminate()

    async def held(self, devices: Sequence[str]) -> Mapping[str, Token]:
        """See `Tokens`."""
        async with self._database.connection() as connection:
            rows = await store.held(connection, self._profile_id, devices)
        return {row.unit: _token(row) for row in rows if row.unit is not None}

    async def revoked(self, devices: Sequence[str]) -> Collection[str]:
        """See `Tokens`."""
        async with self._database.connection() as connection:
            failed = await store.given_up(connection, self._profile_id, devices)
            return failed - {row.unit for row in await store.held(connection, self._profile_id, list(failed))}

    async def matching(self, devices: Sequence[Device]) -> Mapping[str, Sequence[Token]]:
        """See `Tokens`."""
        found: dict[str, list[Token]] = {}
        async with self._database.connection() as connection:
            for field, name in sorted((await self._naming_fields(connection)).items(), key=_sureness):
                wanted: dict[str, list[str]] = {}
                for device in devices:
                    if device.id not in found and (value := particle.named_by(device, field)):
                        wanted.setdefault(value, []).append(device.id)
                for row in await store.naming(connection, self._profile_id, name, list(wanted)):
                    for id_ in wanted[row.value]:
                        found.setdefault(id_, []).append(_token(row.token))
        return found

    async def free(self, count: int, *, exported: bool = False) -> Sequence[Token]:
        """See `Tokens`."""
        self._exported = exported
        async with self._database.connection() as connection:
            names = list((await self._naming_fields(connection)).values())
            rows = await store.free(connection, self._profile_id, names, count, exported=exported)
        self._offered |= {row.id for row in rows}
        return [_token(row) for row in rows]

    async def lacking(self) -> str:
        """See `Tokens`."""
        if self._exported:
            return particle.lacking(0)
        async with self._database.connection() as connection:
            names = list((await self._naming_fields(connection)).values())
            return particle.lacking(await store.exported(connection, self._profile_id, names))

    async def identify(self, values: Sequence[str]) -> Mapping[str, Token]:
        """See `Tokens`."""
        digests = {digest: value for value in values for digest in self._keys.digests("credentials", value)}
        async with self._database.connection() as connection:
            rows = await store.by_digest(connection, self._profile_id, list(digests))
        return {digests[digest]: _token(row) for digest, row in rows.items()}

    async def bind(self, pairs: Sequence[tuple[Token, str]]) -> bool:
        """See `Tokens`; so many in one transaction, all or none."""
        for first in range(0, len(pairs), AT_ONCE):
            if not await self._bind(pairs[first : first + AT_ONCE]):
                return False
        return True

    async def open(self, token: Token) -> str:
        """See `Tokens`."""
        id_ = UUID(token.id)
        async with self._database.connection() as connection:
            sealed = await store.sealed_token(connection, self._profile_id, id_)
        if sealed is None:
            raise NotFound(f"The static token {token.label} was deleted meanwhile. Run it again.")
        return open_credentials(self._keys, id_, CredentialsType.ACCESS_TOKEN, sealed).id

    async def written(self, token: Token, device: str) -> None:
        """See `Tokens`."""
        if not await self._mark(token, device, "written", ("reserved", "written")):
            raise Conflict(f"The static token {token.label} was given up or deleted meanwhile. Run it again.")

    async def give_up(self, token: Token, device: str) -> bool:
        """See `Tokens`."""
        async with self._database.transaction() as connection:
            given_up = await store.give_up(connection, self._profile_id, UUID(token.id), device)
            if given_up:
                await self._record(connection, "failed", UUID(token.id), unit=device, reason="revoked")
        return given_up is not None

    async def _bind(self, pairs: Sequence[tuple[Token, str]]) -> bool:
        ids_ = [UUID(token.id) for token, _ in pairs]
        try:
            async with self._database.transaction() as connection:
                offered = [id_ for id_ in ids_ if id_ in self._offered]
                units = [device for _, device in pairs]
                bound = await store.bind(connection, self._profile_id, ids_, units, offered, exported=self._exported)
                if len(bound) < len(pairs):
                    raise _NotAll
                for id_, unit in zip(ids_, units, strict=True):
                    await self._record(connection, "reserved", id_, unit=unit, again=False)
        except (_NotAll, UniqueViolationError):
            return False
        return True

    async def _mark(self, token: Token, device: str, state: eol.UnitState, before: tuple[eol.UnitState, ...]) -> bool:
        id_ = UUID(token.id)
        async with self._database.transaction() as connection:
            row = await eol.mark(connection, self._organization_id, id_, device, state, before=before)
            if row is None:
                return False
            await self._record(connection, state, id_, unit=device)
        return True

    async def _naming_fields(self, connection: Connection) -> dict[particle.Field, str]:
        profile = await profiles.get(connection, self._profile_id)
        names = () if profile is None else [field.name for field in profile.metadata_fields]
        found: dict[particle.Field, str] = {}
        for name in names:
            if (field := particle.field_of(name)) is not None:
                found.setdefault(field, name)
        return found

    async def _record(self, connection: Connection, verb: str, token_id: UUID, **detail: str | bool) -> None:
        id_ = ids.uuid7(self._clock(), self._random)
        await audit.record(
            connection, id_, self._organization_id, self._actor, f"static_token.{verb}", token_id, **detail
        )


class _NotAll(Exception):  # noqa: N818
    """Rolls back what could be bound."""


def _sureness(item: tuple[particle.Field, str]) -> int:
    return list(particle.Field).index(item[0])


def _token(row: TokenRow) -> Token:
    return Token(
        str(row.id),
        f"No. {row.number}",
        row.unit,
        written=row.unit_state == "written",
        given_up=row.unit_state == "failed",
        claimed=row.status == "CLAIMED",
    )

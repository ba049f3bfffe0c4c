"""API keys: what programs sign in with. Each may do a part of what its creator may, and is shown once."""

import os
import re
import time
import unicodedata
from collections.abc import Callable, Collection
from datetime import UTC, datetime, timedelta
from uuid import UUID

from asyncpg import UniqueViolationError

from provserver.core import ids
from provserver.core.accounts import ApiKey, checked_name
from provserver.core.authorization import Permission, Principal
from provserver.core.moment import in_utc
from provserver.core.secrets import ServerKeys
from provserver.errors import Conflict, Forbidden, Invalid, NotFound, Unauthenticated
from provserver.services.organizations import reach
from provserver.store import api_keys as store
from provserver.store import audit, server_keys
from provserver.store.database import Connection, Database

PREFIX = "psk_"
SECRET_LENGTH = 40
HINT_LENGTH = 8

NOT_GOOD = "The API key is not good: it is unknown, deleted or expired. Make another one."

_SECRET = re.compile(rf"{PREFIX}[A-Za-z0-9]{{{SECRET_LENGTH}}}")
_NOTED_EVERY = timedelta(minutes=1)


class ApiKeys:
    """The API keys, as far down the tree as a principal reaches."""

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

    async def create(
        self,
        principal: Principal,
        name: str,
        permissions: Collection[Permission],
        organization: UUID | str | None = None,
        expires_at: datetime | None = None,
    ) -> tuple[ApiKey, str]:
        """Make a key of an organization, the principal's own unless it is given: the key, and its secret.

        expires_at: aware; None: never. A key makes none that outlives it. Raises Refused.
        """
        principal.require(Permission.KEYS_MANAGE)
        name = checked_name(name, "An API key")
        if _meant(name)[0] is not None:
            raise Invalid("This name would be taken for an id. Choose another.")
        if not permissions:
            raise Invalid("A key without permissions can do nothing. Give it some.")
        if missing := set(permissions) - principal.permissions:
            raise Forbidden(f"You do not have {', '.join(sorted(missing))} yourself. Leave it out.")
        expires_at = expires_at and in_utc(expires_at, "The time at which the key expires")
        if expires_at is not None and expires_at <= self._now():
            raise Invalid("The key would have expired already. Choose a time to come.")
        secret = PREFIX + ids.alphanumeric(SECRET_LENGTH, self._random)
        async with self._database.transaction() as connection:
            where = await reach(connection, principal, organization, lock="KEY SHARE")
            await self._check_life(connection, principal, expires_at)
            made = ids.uuid7(self._clock(), self._random)
            digest = self._keys.digest("api-key", secret)
            try:
                key = await store.insert(
                    connection,
                    made,
                    where.id,
                    name,
                    digest,
                    secret[:HINT_LENGTH],
                    sorted(set(permissions)),
                    principal.actor,
                    expires_at,
                )
            except UniqueViolationError:
                raise Conflict(f"There is an API key {name!r} already. Choose another name.") from None
            await server_keys.mark(connection, "api_key", digest, self._keys.current)
            granted: list[str] = sorted(key.permissions)
            await self._record(connection, principal, key, "api_key.created", permissions=", ".join(granted))
        return key, secret

    async def list_(
        self,
        principal: Principal,
        cursor: UUID | None = None,
        limit: int = 50,
        *,
        organization: UUID | str | None = None,
        search: str | None = None,
    ) -> list[ApiKey]:
        """The keys in reach, in the order they were made, after the cursor's. Raises Refused.

        organization: only those of this one. search: with this in the name, or with this hint.
        """
        principal.require(Permission.KEYS_MANAGE)
        async with self._database.connection() as connection:
            only = None if organization is None else (await reach(connection, principal, organization)).id
            return await store.list_(
                connection,
                principal.organization_id,
                after=cursor,
                limit=limit,
                organization_id=only,
                search=None if search is None else unicodedata.normalize("NFC", search).strip(),
            )

    async def show(self, principal: Principal, reference: UUID | str) -> ApiKey:
        """One by id or name. Raises Refused."""
        principal.require(Permission.KEYS_MANAGE)
        async with self._database.connection() as connection:
            return await self._find(connection, principal, reference)

    async def delete(self, principal: Principal, reference: UUID | str) -> ApiKey:
        """Remove one: from here on it is good for nothing. Raises Refused."""
        principal.require(Permission.KEYS_MANAGE)
        async with self._database.transaction() as connection:
            key = await self._find(connection, principal, reference)
            if not await store.delete(connection, key.id):
                raise _missing(reference)
            await self._record(connection, principal, key, "api_key.deleted")
        return key

    async def authenticate(self, secret: str) -> Principal:
        """Whom a key stands for; that it was used is noted once a minute. Raises Unauthenticated."""
        now = self._now()
        key = None
        if _SECRET.fullmatch(secret):
            async with self._database.connection() as connection:
                digests = self._keys.digests("api-key", secret)
                digest = await server_keys.renew(connection, "api_key", digests, self._keys.current)
                key = await store.recognise(connection, digest, now)
                if key is not None and (key.last_used_at is None or key.last_used_at <= now - _NOTED_EVERY):
                    await store.touch(connection, key.id, now, now - _NOTED_EVERY)
        if key is None:
            raise Unauthenticated(NOT_GOOD)
        return Principal(f"key:{key.id}", key.organization_id, frozenset(key.permissions))

    async def _check_life(self, connection: Connection, principal: Principal, expires_at: datetime | None) -> None:
        """Whether the key that makes a key lives as long."""
        kind, _, id_ = principal.actor.partition(":")
        if kind != "key":
            return
        maker = await store.hold(connection, UUID(id_))
        if maker is None:
            raise Unauthenticated(NOT_GOOD)
        if (limit := maker.expires_at) is not None and (expires_at is None or expires_at > limit):
            raise Forbidden(f"The key that makes it expires at {limit:%Y-%m-%d %H:%M} UTC. Have it expire by then.")

    async def _find(self, connection: Connection, principal: Principal, reference: UUID | str) -> ApiKey:
        id_, name = _meant(reference)
        found = await store.find(connection, principal.organization_id, id_=id_, name=name)
        if len(found) > 1:
            raise Conflict(f"Several organizations have an API key {str(reference)!r}. Name it by its id.")
        if not found:
            raise _missing(reference)
        return found[0]

    async def _record(
        self, connection: Connection, principal: Principal, key: ApiKey, action: str, **detail: str
    ) -> None:
        id_ = ids.uuid7(self._clock(), self._random)
        detail = {"name": key.name, "hint": key.hint} | detail
        await audit.record(connection, id_, key.organization_id, principal.actor, action, key.id, **detail)

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._clock(), UTC)


def _meant(reference: UUID | str) -> tuple[UUID | None, str | None]:
    if isinstance(reference, UUID):
        return reference, None
    try:
        return UUID(reference), None
    except ValueError:
        return None, reference if reference.isprintable() else ""


def _missing(reference: UUID | str) -> NotFound:
    return NotFound(f"There is no API key {str(reference)!r} that you can see. Look in the list.")

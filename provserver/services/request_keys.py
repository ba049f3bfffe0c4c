"""The keys that devices seal their requests to: made and shown by operators, used for what comes sealed.

An organization's keys stand in its firmware. A sealed request names its key, which is looked up each time, with those
of others that come meanwhile: one that is deleted opens nothing from then on, in any process.
"""

import os
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple
from uuid import UUID

from provserver.core import ids
from provserver.core import sealed as sealing
from provserver.core.authorization import Permission, Principal
from provserver.core.sealed import RequestKey
from provserver.core.secrets import ServerKeys
from provserver.core.wire import SealedRequest
from provserver.errors import NotFound
from provserver.services.grouping import Grouper
from provserver.services.organizations import reach
from provserver.store import audit
from provserver.store import request_keys as store
from provserver.store.database import Database


class RequestKeys:
    """The keys, as far down the tree as a principal reaches."""

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

    async def create(self, principal: Principal, organization: UUID | str | None = None) -> RequestKey:
        """Make a key of an organization, the principal's own unless it is given. Raises Refused."""
        principal.require(Permission.PROFILES_MANAGE)
        private, public = sealing.new_key(self._random(sealing.KEY_LENGTH))
        id_ = ids.uuid7(self._clock(), self._random)
        sealed = self._keys.seal(private, key_context(id_), self._random(12))
        async with self._database.transaction() as connection:
            where = await reach(connection, principal, organization, lock="KEY SHARE")
            key = await store.insert(connection, id_, where.id, sealing.key_id(public), public, sealed)
            await audit.record(
                connection,
                ids.uuid7(self._clock(), self._random),
                where.id,
                principal.actor,
                "request_key.created",
                id_,
                key=key.key_id,
            )
        return key

    async def list_(
        self,
        principal: Principal,
        cursor: UUID | None = None,
        limit: int = 50,
        *,
        organization: UUID | str | None = None,
    ) -> list[RequestKey]:
        """The keys in reach, in the order they were made, after the cursor's. Raises Refused.

        organization: only those of this one.
        """
        principal.require(Permission.PROFILES_VIEW)
        async with self._database.connection() as connection:
            only = None if organization is None else (await reach(connection, principal, organization)).id
            return await store.list_(
                connection, principal.organization_id, after=cursor, limit=limit, organization_id=only
            )

    async def delete(self, principal: Principal, reference: UUID | str) -> RequestKey:
        """Remove one, by id or key id: what is sealed to it opens no more. Raises Refused."""
        principal.require(Permission.PROFILES_MANAGE)
        async with self._database.transaction() as connection:
            text = str(reference)
            key = await store.find(connection, principal.organization_id, text if text.isprintable() else "")
            if key is None or not await store.delete(connection, key.id):
                raise NotFound(f"There is no request key {text!r} that you can see. Look in the list.")
            await audit.record(
                connection,
                ids.uuid7(self._clock(), self._random),
                key.organization_id,
                principal.actor,
                "request_key.deleted",
                key.id,
                key=key.key_id,
            )
        return key


class TurnedAway(Exception):  # noqa: N818
    """Who asked was turned away before it was opened."""


class _Wanted(NamedTuple):
    """A sealed request, whom it is from, and whether he is heard still."""

    request: SealedRequest
    source: str
    heard: Callable[[], bool]


class Opening:
    """Opens what devices have sealed. Addresses take turns."""

    def __init__(self, database: Database, keys: ServerKeys) -> None:
        self._database = database
        self._keys = keys
        self._wanted: Grouper[_Wanted, bytes | None] = Grouper(
            "request-key", self._open, max_group=16, sharer=lambda wanted: wanted.source
        )

    def submit_to(
        self,
        request: SealedRequest,
        done: Callable[[bytes | Exception | None], None],
        *,
        source: str = "",
        heard: Callable[[], bool] = lambda: True,
    ) -> None:
        """Have `done` called with what is in a request; None when there is no such key, or it does not open.

        source: who takes turns with others. heard: whether it is to be opened when its turn comes, else TurnedAway.
        """
        self._wanted.submit_to(_Wanted(request, source, heard), done)

    @property
    def busy(self) -> bool:
        """Whether anything waits or is under way."""
        return self._wanted.busy

    async def drain(self) -> None:
        """Wait until nothing waits and nothing is under way."""
        await self._wanted.drain()

    async def _open(self, wanted: Sequence[_Wanted]) -> list[bytes | Exception | None]:
        heard = [each.heard() for each in wanted]
        key_ids = {each.request.key_id for each, opens in zip(wanted, heard, strict=True) if opens}
        found: dict[str, tuple[UUID, bytes]] = {}
        if key_ids:
            async with self._database.connection() as connection:
                found = await store.sealed(connection, list(key_ids))
        return [
            self._opened(each.request, found.get(each.request.key_id)) if opens else TurnedAway()
            for each, opens in zip(wanted, heard, strict=True)
        ]

    def _opened(self, request: SealedRequest, key: tuple[UUID, bytes] | None) -> bytes | Exception | None:
        if key is None:
            return None
        id_, sealed = key
        try:
            return sealing.open_request(request.sealed, self._keys.unseal(sealed, key_context(id_)))
        except sealing.Unopenable:
            return None
        except ValueError as fault:  # sealed under server keys that are not here
            return fault


def key_context(id_: UUID) -> bytes:
    """What a request key's private side is sealed for."""
    return b"request-key:" + id_.bytes

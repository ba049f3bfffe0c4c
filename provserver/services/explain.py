"""Why a device was refused, or would be: attempts in words, and requests that are rehearsed.

A rehearsal is a request through `Provisioning` as every other, in a transaction that is never committed: so it is
decided by the same code on the same rows, and leaves nothing.
"""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from ipaddress import ip_address
from uuid import UUID

import msgspec
from asyncpg import PostgresError

from provserver import metrics
from provserver.core import explanation, ids
from provserver.core.authorization import Permission, Principal
from provserver.core.decision import Reason
from provserver.core.explanation import Explanation, Subject, Word
from provserver.core.model import DeviceProfile, Peer, ProvisionKey, Transport
from provserver.core.secrets import ServerKeys
from provserver.errors import Invalid, NotFound, Outcome, Unavailable
from provserver.services.profiles import open_secret
from provserver.services.provisioning import Provisioning
from provserver.store import devices, events, profiles, provisions
from provserver.store.attempts import AttemptSummary
from provserver.store.database import Connection, Database

__all__ = ["Explain", "Explained", "Transport"]

ANYWHERE = "127.0.0.1"
"""Where a request comes from when nobody says."""

_KEY, _SECRET = "provisionDeviceKey", "provisionDeviceSecret"
_LOCK_TIMEOUT = "SET LOCAL lock_timeout = '300ms'"
_UNKNOWN_REASON = "it was recorded by another version of provserver"


@dataclass(frozen=True, slots=True)
class Explained:
    """An attempt, or a rehearsal of one. present: how things are now, a sentence each.

    assumed: what of the request was taken to be right, as it was not in it.
    """

    attempt: AttemptSummary
    explanation: Explanation
    present: tuple[str, ...]
    assumed: tuple[str, ...] = ()
    credentials_type: str | None = None


class Explain:
    """Explains to operators."""

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
        self._turn = asyncio.Lock()

    async def attempt(self, principal: Principal, id_: UUID) -> Explained:
        """An attempt that the principal can see, in words. Raises Forbidden, NotFound."""
        principal.require(Permission.PROFILES_VIEW)
        async with self._database.connection() as connection:
            found = await events.attempt(connection, principal.organization_id, id_)
            if found is None:
                raise NotFound("There is no such attempt, or it is kept no longer. Look in the list of attempts.")
            present = await self._present(connection, principal, found)
        return Explained(found, _explanation(found), present)

    async def request(
        self, principal: Principal, profile: str, body: str, transport: Transport, address: str | None = None
    ) -> Explained:
        """What would come of a request with a profile of the principal's organization; nothing does.

        body: as the device sends it. Where it names neither key nor secret, those of the profile are taken; where it
        names no secret, the right one. address: whence; None: from where the key is good.
        Raises Forbidden, NotFound, Invalid, Unavailable.
        """
        principal.require(Permission.PROFILES_MANAGE)
        if address is not None and not _is_address(address):
            raise Invalid("The address must be an IP address: 192.0.2.7.")
        async with self._rehearsing() as stage:
            async with stage.connection() as connection:
                found = await profiles.find(connection, principal.organization_id, profile)
                if found is None:
                    raise NotFound(f"There is no profile {profile!r}. Look in the list of profiles.")
                payload, key, assumed = await self._completed(connection, found, body)
            if address is None:
                address = _inside(key)
            peer = Peer(transport, address)
            if key is None:
                refused = self._unknown_key(peer, found)
                return Explained(refused, _explanation(refused, found.name, rehearsed=True), (), assumed)
            since = ids.floor(self._clock())
            with metrics.uncounted():
                provisioning = Provisioning(stage, self._keys, random=self._random, clock=self._clock)
                answer = await provisioning.answer(payload, peer, accept_protobuf=False)
                await provisioning.drain()
            attempt = await self._recorded(stage, peer, since)
            if attempt is None or answer.outcome is Outcome.UNAVAILABLE:
                raise Unavailable("The request could not be rehearsed just now. Try again.")
        async with self._database.connection() as connection:
            present = await self._present(connection, principal, attempt)
        given = msgspec.json.decode(answer.body) if answer.outcome is Outcome.SUCCESS else {}
        told = _explanation(attempt, found.name, rehearsed=True)
        return Explained(attempt, told, present, assumed, given.get("credentialsType"))

    async def _recorded(self, stage: "Stage", peer: Peer, since: UUID) -> AttemptSummary | None:
        """The attempt that was recorded on a stage: the one that nobody else can see."""
        async with stage.connection() as connection:
            found = await events.attempts_from(connection, peer.transport, peer.address, since)
        async with self._database.connection() as connection:
            others = await provisions.committed(connection, [each.id for each in found])
        return next((each for each in found if each.id not in others), None)

    @asynccontextmanager
    async def _rehearsing(self) -> AsyncIterator["Stage"]:
        """One at a time, as each takes two connections."""
        async with self._turn, self._database.connection() as connection:
            transaction = connection.transaction()
            await transaction.start()
            try:
                await connection.execute(_LOCK_TIMEOUT)
                yield Stage(connection)
            finally:
                await transaction.rollback()

    async def _completed(
        self, connection: Connection, profile: DeviceProfile, body: str
    ) -> tuple[bytes, ProvisionKey | None, tuple[str, ...]]:
        """The request with what it leaves out, its key if that is the profile's, and what was put in."""
        rows = {row.key: row for row in await profiles.keys(connection, profile.id)}
        try:
            members = msgspec.json.decode(body)
        except (msgspec.DecodeError, RecursionError):
            members = None
        chosen = next(reversed(rows), None)
        if not isinstance(members, dict):  # for the decoder to say what is wrong with it
            return body.encode(), await self._recognised(connection, chosen), ()
        given = members.get(_KEY)
        if given is not None and given != "" and given not in rows:
            return body.encode(), None, ()
        if chosen is None:
            raise Invalid(
                f"The profile {profile.name!r} has no provision key to ask with. "
                "`provserver profile key add` makes one."
            )
        assumed = []
        if _KEY not in members:
            members[_KEY] = chosen
            assumed.append(f"the profile's newest provision key, {chosen[:4]}…")
        key = await self._recognised(connection, members[_KEY] if members[_KEY] in rows else chosen)
        if _SECRET not in members and members[_KEY] in rows:
            row = rows[members[_KEY]]
            members[_SECRET] = open_secret(self._keys, row.key, row.secret_sealed)
            assumed.append("the right provision secret")
        return msgspec.json.encode(members) if assumed else body.encode(), key, tuple(assumed)

    async def _recognised(self, connection: Connection, key: str | None) -> ProvisionKey | None:
        if key is None:
            return None
        return (await profiles.recognise(connection, [key])).get(key)

    def _unknown_key(self, peer: Peer, profile: DeviceProfile) -> AttemptSummary:
        refused = Reason.KEY_UNKNOWN
        return AttemptSummary(
            ids.uuid7(self._clock(), self._random),
            datetime.fromtimestamp(self._clock(), UTC),
            peer.transport.value,
            peer.address,
            refused.outcome.value,
            refused.name,
            f"it is no key of the profile {profile.name}",
            None,
            None,
            None,
            None,
        )

    async def _present(self, connection: Connection, principal: Principal, attempt: AttemptSummary) -> tuple[str, ...]:
        """How profile and device are now, as far as the principal sees them."""
        found = []
        if attempt.profile_id is not None:
            profile = await profiles.get(connection, attempt.profile_id)
            if profile is None:
                found.append("The profile is not there any more.")
            else:
                policies = f"strategy {profile.strategy}, repeats: {profile.reprovision_policy}"
                found.append(f"The profile {profile.name!r}: {policies}.")
        if Permission.DEVICES_VIEW not in principal.permissions or attempt.device is None:
            return tuple(found)
        device = None
        if attempt.device_id is not None:
            device = await devices.get(connection, principal.organization_id, attempt.device_id)
        try:
            device = device or await devices.find(connection, principal.organization_id, attempt.device)
        except devices.Ambiguous:
            return (*found, f"Several makers have a device {attempt.device!r}.")
        if device is None:
            return (*found, f"There is no device {attempt.device!r}.")
        state = "provisioned" if device.provision_state == "provisioned" else "not provisioned"
        has = (
            f"with credentials of type {device.credentials_type}" if device.credentials_type else "without credentials"
        )
        armed = ", and re-armed: its next request gets fresh ones" if device.rearmed else ""
        return (*found, f"The device {device.name!r} of profile {device.profile!r}: {state}, {has}{armed}.")


class Stage(Database):
    """A database that is one connection in a transaction that its owner never commits."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._free = asyncio.Lock()

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """The connection, for one at a time; a statement that fails takes back what was done with it."""
        async with self._free:
            try:
                async with self._connection.transaction():
                    yield self._connection
            except PostgresError as fault:
                raise Unavailable(f"Postgres is not available: {type(fault).__name__}.") from fault


def _explanation(attempt: AttemptSummary, profile: str | None = None, *, rehearsed: bool = False) -> Explanation:
    subject = Subject(attempt.profile or profile, attempt.device)
    outcome = Outcome(attempt.outcome)
    try:
        reason = explanation.read(attempt.reason)
    except KeyError:
        told = explanation.told(outcome, Word.GRANTED, attempt.detail)
        return Explanation(f"The outcome was {attempt.outcome}.", _UNKNOWN_REASON, told, attempt.detail or "", ())
    return explanation.explain(outcome, reason, subject, detail=attempt.detail, rehearsed=rehearsed)


def _inside(key: ProvisionKey | None) -> str:
    """An address from which a key is good."""
    if key is None or key.budget is None or not key.budget.networks:
        return ANYWHERE
    return str(key.budget.networks[0].network_address)


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True

"""Devices that ask for other credentials over their own session; and word to them that those they have will end."""

import logging
import os
import time
from collections.abc import Callable
from datetime import UTC, datetime
from uuid import UUID

from asyncpg import PostgresError

from provserver import metrics
from provserver.core import credentials as building
from provserver.core import ids, signing, wire
from provserver.core import rotation as core
from provserver.core.decision import Reason, Refusal
from provserver.core.model import (
    Authenticated,
    Credentials,
    CredentialsType,
    Origin,
    Peer,
    ProvisionStrategy,
    SigningRequest,
    StoredCredentials,
)
from provserver.core.rotation import Generated, InvalidRotation, Wanted
from provserver.core.secrets import ServerKeys, Unsealable
from provserver.core.wire import Granted
from provserver.errors import RENDERINGS, Outcome, Unavailable
from provserver.services.attempts import Attempts
from provserver.services.credentials import expiry, open_credentials, open_issuer, seal_credentials
from provserver.services.limits import RotationLimits, retry_after
from provserver.services.provisioning import Answer
from provserver.store import audit, issuing
from provserver.store import rotation as store
from provserver.store.database import Connection, Database
from provserver.store.rotation import HeldCredentials, RotatingDevice

log = logging.getLogger("provserver.rotation")

_LIMITED = metrics.LIMITED.cell("device")


class Rotation:
    """Gives a device that is let in the credentials that are to follow its present ones; a transaction each.

    limits: how often a device may ask. monotonic: seconds that never go back, and are the same in all processes.
    """

    def __init__(
        self,
        database: Database,
        keys: ServerKeys,
        *,
        limits: RotationLimits | None = None,
        random: ids.Randomness = os.urandom,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._database = database
        self._keys = keys
        self._random = random
        self._clock = clock
        self._monotonic = monotonic
        self._limits = limits or RotationLimits()
        self._attempts = Attempts(database, random, clock)

    async def request(self, device: Authenticated, payload: bytes, peer: Peer) -> Answer:
        """The answer to a device's request, as that to a provision request. Raises Unavailable."""
        try:
            wanted = core.read(payload)
        except InvalidRotation as fault:
            if (busy := self._busy(device, peer)) is not None:
                return _refused(busy.outcome, in_words(busy))
            self._attempts.note(peer, Outcome.INVALID, "INVALID", device_id=device.device_id, name=device.name)
            return _refused(Outcome.INVALID, f"{fault}!")
        settled = await self.rotate(device, wanted, peer)
        if isinstance(settled, Refusal):
            return _refused(settled.outcome, in_words(settled))
        return Answer(Outcome.SUCCESS, wire.encode_granted(settled, protobuf=False))

    async def rotate(self, device: Authenticated, wanted: Wanted | Refusal, peer: Peer) -> Granted | Refusal:
        """What is to follow the credentials of a device: what it was told before, or new. Raises Unavailable.

        wanted: a refusal of what it sent is recorded as any other.
        """
        busy = self._busy(device, peer)
        if busy is not None:
            return busy
        settled = wanted if isinstance(wanted, Refusal) else await self._settle_counted(device, wanted, peer)
        if isinstance(settled, Refusal) and settled.outcome is not Outcome.LIMITED:
            self._note(device, settled, peer)
        return settled

    async def drain(self) -> None:
        """Wait until everything is recorded."""
        await self._attempts.drain()

    def _note(self, device: Authenticated, refusal: Refusal, peer: Peer) -> None:
        self._attempts.note(
            peer,
            refusal.outcome,
            refusal.reason.name,
            refusal.detail,
            profile_id=device.profile_id,
            device_id=device.device_id,
            name=device.name,
        )

    def _busy(self, device: Authenticated, peer: Peer) -> Refusal | None:
        """Count what a device asks, or say that it does so too often."""
        if self._limits.asked.take(device.device_id.bytes, self._monotonic()):
            return self._told_to_wait(device, peer)
        return None

    def _told_to_wait(self, device: Authenticated, peer: Peer) -> Refusal:
        _LIMITED.value += 1
        busy = Refusal(Reason.DEVICE_BUSY)
        if not self._limits.noted.take(device.device_id.bytes, self._monotonic()):
            self._note(device, busy, peer)
        return busy

    async def _settle_counted(self, device: Authenticated, wanted: Wanted, peer: Peer) -> Granted | Refusal:
        """Settle; who brings credentials hears only so often that they are another's, however many requests at once."""
        if not isinstance(wanted, Credentials):
            return await self._settle(device, wanted)
        told, key = self._limits.told, device.device_id.bytes
        if told.take(key, self._monotonic()):
            return self._told_to_wait(device, peer)
        settled: Granted | Refusal | None = None
        try:
            settled = await self._settle(device, wanted)
        finally:
            if not (isinstance(settled, Refusal) and settled.reason is Reason.CREDENTIALS_TAKEN):
                told.give_back(key, self._monotonic())
        return settled

    async def _settle(self, device: Authenticated, wanted: Wanted) -> Granted | Refusal:
        try:
            async with self._database.transaction() as connection:
                return await self._rotate(connection, device, wanted)
        except PostgresError as fault:
            if self._database.is_race(fault):
                return Refusal(Reason.CREDENTIALS_TAKEN)
            log.warning("credentials were not rotated: %s", type(fault).__name__)
            raise Unavailable("The credentials could not be stored.") from None
        except Unsealable as fault:
            log.error("the credentials of a device cannot be opened: %s", fault)  # noqa: TRY400
            raise Unavailable("The device's credentials cannot be opened.") from None

    async def _rotate(self, connection: Connection, device: Authenticated, wanted: Wanted) -> Granted | Refusal:
        found = await store.lock(connection, device.device_id)
        rows = await store.held(connection, device.device_id)
        if found is None or device.issued_at not in {row.created_at for row in rows}:
            raise Unavailable("The device has other credentials by now.")
        held = [opened(self._keys, device.device_id, row) for row in rows]
        verdict = core.decide(wanted, held, static=found.static)
        if isinstance(verdict, Refusal):
            return verdict
        if verdict is not None:
            return Granted(
                device.device_id, found.name, verdict.credentials, repeated=True, expires_at=verdict.expires_at
            )
        credentials = await self._made(connection, found, wanted)
        if isinstance(credentials, Refusal):
            return credentials
        id_digests = self._keys.digests("credentials", credentials.id)
        if await store.is_taken(connection, id_digests, device.device_id):
            return Refusal(Reason.CREDENTIALS_TAKEN)
        origin = Origin.SUPPLIED if isinstance(wanted, Credentials) else Origin.GENERATED
        ends = await add_pending(
            connection, self._keys, device.device_id, found, credentials, origin, self._clock(), self._random
        )
        await audit.record(
            connection,
            ids.uuid7(self._clock(), self._random),
            found.holder_id,
            f"device:{device.device_id}",
            "device.rotated",
            device.device_id,
            name=found.name,
            credentials_type=credentials.type.value,
        )
        return Granted(device.device_id, found.name, credentials, expires_at=ends)

    async def _made(self, connection: Connection, device: RotatingDevice, wanted: Wanted) -> Credentials | Refusal:
        if isinstance(wanted, Credentials):
            return wanted
        if isinstance(wanted, Generated):
            return fresh_token(self._random)
        return await self._issued(connection, device, wanted)

    async def _issued(
        self, connection: Connection, device: RotatingDevice, wanted: SigningRequest
    ) -> Credentials | Refusal:
        authority = None
        if device.strategy != ProvisionStrategy.X509_CERTIFICATE_CHAIN:
            authority = (await issuing.find(connection, [device.profile_id]))[device.profile_id].authority
        if authority is None:
            return Refusal(Reason.ISSUER_MISSING)
        try:
            issuer = open_issuer(self._keys, device.profile_id, authority)
        except ValueError as fault:
            log.error("the issuing CA of a profile cannot be opened: %s", type(fault).__name__)  # noqa: TRY400
            raise Unavailable("The profile's issuing CA cannot be opened.") from None
        now = datetime.fromtimestamp(self._clock(), UTC)
        return signing.issue(issuer, wanted, device.name, device.credentials_lifetime, now, self._random)


def opened(keys: ServerKeys, device_id: UUID, row: HeldCredentials) -> StoredCredentials:
    """Credentials of a device, in clear. Raises Unsealable."""
    credentials = open_credentials(keys, device_id, CredentialsType(row.type), row.sealed)
    return StoredCredentials(credentials, Origin(row.origin), row.pending, row.used, row.expires_at)


async def add_pending(
    connection: Connection,
    keys: ServerKeys,
    device_id: UUID,
    device: RotatingDevice,
    credentials: Credentials,
    origin: Origin,
    now: float,
    random: ids.Randomness,
) -> datetime | None:
    """Have these credentials follow a device's present ones; returns when they end themselves."""
    ends = expiry(credentials, device.credentials_lifetime, now) if origin is Origin.GENERATED else None
    sealed = seal_credentials(keys, device_id, credentials, random)
    digest = keys.digest("credentials", credentials.id)
    await store.add_pending(connection, device_id, digest, credentials.type, origin, sealed, ends)
    return ends


def in_words(refusal: Refusal) -> str:
    """A refusal for a device that is known: it may hear why, and nothing of others."""
    if refusal.outcome is Outcome.LIMITED:
        return RENDERINGS[Outcome.LIMITED].error or ""
    if refusal.reason is Reason.CREDENTIALS_TAKEN:
        return "the supplied credentials cannot be used!"
    return f"{refusal.reason.text}: {refusal.detail}!" if refusal.detail else f"{refusal.reason.text}!"


def fresh_token(random: ids.Randomness) -> Credentials:
    """A token that nobody has."""
    return building.access_token(ids.token(random))


def _refused(outcome: Outcome, message: str) -> Answer:
    wait = retry_after() if RENDERINGS[outcome].retried else 0
    return Answer(outcome, wire.encode_refusal(outcome, protobuf=False, message=message, retry_after=wait), False, wait)

"""How a group of admitted requests is settled: look, decide, write, and again for what changed meanwhile.

A request that may create its device is first taken to find nothing, so that the usual case costs one statement
for the whole group. Its write is guarded (`store/provisions.py`); if it does not come through, it is looked at.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from uuid import UUID

import msgspec
from asyncpg import PostgresError
from asyncpg.pgproto import pgproto

from provserver.core import ids
from provserver.core.decision import Change, Create, Fresh, Intent, Provision, Refusal, Repeat, decide
from provserver.core.model import (
    VACANT,
    Credentials,
    CredentialsType,
    KnownDevice,
    MqttBasic,
    Origin,
    Peer,
    Situation,
    StoredCredentials,
)
from provserver.core.secrets import ServerKeys, Unsealable
from provserver.core.wire import Granted
from provserver.errors import Outcome, Unavailable
from provserver.store import provisions
from provserver.store.database import Connection, Database
from provserver.store.provisions import AttemptRow, DeviceRow, Kind, Look, Sighting, Write

log = logging.getLogger("provserver.provisioning")

ROUNDS = 8
"""How often a group's undecided rest is looked at again before it is told to come back later."""

_RANDOM_BYTES = 96
"""About what a ticket takes: for its id, token and seal."""

_BACKOFF = (0.02, 0.05, 0.1, 0.2, 0.5)

_REPLACE = Change.REPLACE  # found once: see core/decision.py
_NOT_BEGUN = UUID(int=0)

_sealed_value = msgspec.json.Decoder(tuple[str, str | MqttBasic])


class StaleProfile(Exception):  # noqa: N818
    """The profile is no longer what the request was admitted on: it must be admitted anew."""


@dataclass(slots=True, eq=False)
class Ticket:
    """An admitted request on its way. deadline: event loop time after which nobody waits for it.

    request_digest: keyed, over every member; None without a nonce.
    id: of its attempt, of the event and of the device that come of it. Fixed before the first write, as what is fresh
    is, so that a write whose answer was lost is recognised as this request's own.
    """

    intent: Intent
    peer: Peer
    deadline: float
    nonce_digest: bytes | None
    request_digest: bytes | None
    id_digest: bytes | None
    look: bool
    broken: bool = False
    id: UUID = _NOT_BEGUN
    fresh: Fresh | None = None
    situation: Situation = VACANT
    granted: Granted | None = None
    result: Granted | Refusal | Exception | None = None


class Settlement:
    """Settles groups of tickets on the database."""

    def __init__(
        self, database: Database, keys: ServerKeys, random: ids.Randomness, clock: Callable[[], float]
    ) -> None:
        self._database = database
        self._keys = keys
        self._random = random
        self._clock = clock

    async def settle(self, tickets: Sequence[Ticket]) -> list[Granted | Refusal | Exception]:
        """The result of each ticket. While Postgres is away it waits for it as long as a ticket's deadline allows.

        Nothing is begun for a ticket past its deadline. (What was begun before may yet be committed, by a Postgres that
        stood still: who was told to come back is served by its requestNonce, or by the operator.)
        """
        now = asyncio.get_running_loop().time
        random = ids.in_stock(self._random, _RANDOM_BYTES * len(tickets))
        rounds = faults = 0
        while rounds < ROUNDS and (open_ := [t for t in tickets if t.result is None and now() <= t.deadline]):
            try:
                async with self._database.connection() as connection:
                    await self._round(connection, open_, random)
                rounds += 1
            except Unavailable as fault:
                for ticket in open_:
                    ticket.broken = ticket.look = True
                if not faults:
                    log.warning("provision requests wait for the database: %s", fault)
                await asyncio.sleep(_BACKOFF[min(faults, len(_BACKOFF) - 1)])
                faults += 1
            except PostgresError as fault:  # what is settled already stays so
                log.error("a provision statement failed: %s", type(fault).__name__)  # noqa: TRY400
                break
        return [ticket.result or Unavailable("The request could not be settled.") for ticket in tickets]

    async def _round(self, connection: Connection, tickets: Sequence[Ticket], random: ids.Randomness) -> None:
        await self._recognise_own(connection, [ticket for ticket in tickets if ticket.broken])
        await self._look(connection, [t for t in tickets if t.look and t.result is None])
        creating: list[tuple[Ticket, Write]] = []
        changing: list[tuple[Ticket, Write]] = []
        repeated: list[AttemptRow] = []
        claimed: set[object] = set()
        for ticket in tickets:
            if ticket.result is not None:
                continue
            fresh = ticket.fresh or self._begin(ticket, random)
            decision = decide(ticket.intent, ticket.situation, ticket.request_digest, fresh)
            if isinstance(decision, Refusal):
                ticket.result = decision
            elif isinstance(decision, Repeat):
                device = decision.device
                ticket.result = Granted(device.id, device.name, decision.credentials)
                repeated.append(self._attempt(ticket, ticket.result))
            else:
                write = self._write(ticket, decision, random)
                claims = _claims(ticket, write)
                ticket.look = True  # whatever does not come through is looked at before it is decided again
                if claimed.isdisjoint(claims):
                    claimed.update(claims)
                    (creating if isinstance(decision, Create) else changing).append((ticket, write))
        await self._apply(connection, provisions.create, creating)
        await self._apply(connection, provisions.provision, changing)
        if repeated:
            await provisions.record(connection, repeated)

    async def _recognise_own(self, connection: Connection, tickets: Sequence[Ticket]) -> None:
        """Find what was committed although the connection broke before it could say so."""
        sent = {ticket.id: ticket for ticket in tickets if ticket.granted is not None}
        if sent:
            for attempt_id in await provisions.committed(connection, list(sent)):
                sent[attempt_id].result = sent[attempt_id].granted

    async def _look(self, connection: Connection, tickets: Sequence[Ticket]) -> None:
        if not tickets:
            return
        looks = [
            Look(
                ticket.intent.profile.organization_id,
                ticket.intent.profile.id,
                ticket.intent.name,
                ticket.nonce_digest,
                ticket.id_digest,
            )
            for ticket in tickets
        ]
        sightings = await provisions.look(connection, looks)
        wanted = {id_ for sighting in sightings for id_ in (sighting.named, sighting.nonce_holder) if id_}
        rows = await provisions.devices(connection, wanted) if wanted else {}
        for ticket, sighting in zip(tickets, sightings, strict=True):
            if sighting.profile_revision != ticket.intent.profile.revision:
                ticket.result = StaleProfile()
                continue
            try:
                ticket.situation = self._situation(sighting, rows)
            except Unsealable as fault:
                log.error("the credentials of a device cannot be opened: %s", fault)  # noqa: TRY400
                ticket.result = Unavailable("The device's credentials cannot be opened.")

    def _situation(self, sighting: Sighting, rows: dict[UUID, DeviceRow]) -> Situation:
        named = rows.get(sighting.named) if sighting.named else None
        holder = rows.get(sighting.nonce_holder) if sighting.nonce_holder else None
        return Situation(
            self._known(named) if named else None,
            self._known(holder) if holder else None,
            sighting.credentials_holder,
        )

    def _known(self, row: DeviceRow) -> KnownDevice:
        state = row.provision_state
        return KnownDevice(
            row.id,
            row.profile_id,
            row.name,
            row.revision,
            state if state is None or isinstance(state, str) else repr(state),
            row.rearmed,
            row.request_digest,
            tuple(
                StoredCredentials(
                    open_credentials(self._keys, row.id, CredentialsType(type_), sealed),
                    Origin(origin),
                    pending,
                    used,
                )
                for type_, origin, pending, used, sealed in row.credentials
            ),
        )

    def _begin(self, ticket: Ticket, random: ids.Randomness) -> Fresh:
        intent = ticket.intent
        ticket.id = pgproto.UUID(ids.uuid7_bytes(self._clock(), random))
        ticket.fresh = fresh = Fresh(
            ids.token(random) if intent.supplied is None else "",
            ids.device_name(random) if intent.name is None else "",
        )
        return fresh

    def _write(self, ticket: Ticket, decision: Create | Provision, random: ids.Randomness) -> Write:
        intent, peer, credentials, id_ = ticket.intent, ticket.peer, decision.credentials, ticket.id
        if isinstance(decision, Create):
            device_id, name, revision, change = id_, decision.name, None, _REPLACE
        else:
            known = decision.device
            device_id, name, revision, change = known.id, known.name, known.revision, decision.change
        ticket.granted = Granted(device_id, name, credentials)
        profile = intent.profile
        return Write(
            device_id,
            name,
            peer.address,
            self._keys.digest("credentials", credentials.id),
            seal_credentials(self._keys, device_id, credentials, random),
            ticket.nonce_digest + ticket.request_digest if ticket.nonce_digest and ticket.request_digest else b"",
            Kind(profile.id, profile.revision, intent.gateway, credentials.type, decision.origin, peer.transport),
            ticket.id,
            revision,
            change,
        )

    async def _apply(
        self,
        connection: Connection,
        statement: Callable[[Connection, Sequence[Write]], Awaitable[set[UUID]]],
        pairs: Sequence[tuple[Ticket, Write]],
    ) -> None:
        """Write a group; when the statement fails, one by one, so that nobody pays for a neighbour."""
        if not pairs:
            return
        try:
            done = await statement(connection, [write for _, write in pairs])
        except PostgresError as fault:
            if self._database.is_away(fault):
                raise
            if len(pairs) > 1:
                for pair in pairs:
                    await self._apply(connection, statement, [pair])
            elif self._database.is_lock_timeout(fault):
                pairs[0][0].result = Unavailable("Another transaction holds the device.")
            elif not self._database.is_race(fault):
                log.error("a provision statement failed: %s", type(fault).__name__)  # noqa: TRY400
                pairs[0][0].result = Unavailable("The statement failed.")
            return
        for ticket, write in pairs:
            if write.device_id in done:
                ticket.result = ticket.granted

    def _attempt(self, ticket: Ticket, granted: Granted) -> AttemptRow:
        return AttemptRow(
            ticket.id,
            ticket.peer.transport,
            ticket.peer.address,
            Outcome.SUCCESS.value,
            "REPEATED",
            "the answer given before was given again",
            ticket.intent.profile.id,
            granted.device_id,
            granted.device_name,
        )


def seal_credentials(keys: ServerKeys, device_id: UUID, credentials: Credentials, random: ids.Randomness) -> bytes:
    """A sealed copy that opens for this device and type only."""
    plaintext = msgspec.json.encode((credentials.id, credentials.value))
    return keys.seal(plaintext, device_id.bytes + credentials.type.encode(), random(12))


def open_credentials(keys: ServerKeys, device_id: UUID, type_: CredentialsType, sealed: bytes) -> Credentials:
    """What `seal_credentials` sealed. Raises Unsealable."""
    id_, value = _sealed_value.decode(keys.unseal(sealed, device_id.bytes + type_.encode()))
    return Credentials(type_, id_, value)


def _claims(ticket: Ticket, write: Write) -> list[object]:
    """What two writes of one statement must not share; the first in line has it, the others see what it left."""
    profile = ticket.intent.profile
    claims: list[object] = [(profile.organization_id, write.name), write.id_digest]
    if ticket.nonce_digest is not None:
        claims.append((profile.id, ticket.nonce_digest))
    return claims

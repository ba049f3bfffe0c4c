"""How a group of admitted requests is settled: look, decide, write, and again for what changed meanwhile.

A request that may create its device is first taken to find nothing, so that the usual case costs one statement
for the whole group. Its write is guarded (`store/provisions.py`); if it does not come through, it is looked at.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import cache
from itertools import zip_longest
from math import inf
from uuid import UUID

import msgspec
from asyncpg.pgproto import pgproto

from provserver.core import ids, signing, x509
from provserver.core.clones import suspicion
from provserver.core.decision import (
    Change,
    Create,
    Decision,
    Fresh,
    Intent,
    Provision,
    Reason,
    Refusal,
    Repeat,
    decide,
)
from provserver.core.events import EventType
from provserver.core.limits import network
from provserver.core.model import (
    VACANT,
    ApprovalState,
    Credentials,
    CredentialsType,
    DeviceProfile,
    KnownDevice,
    MqttBasic,
    Origin,
    Peer,
    Situation,
    StoredCredentials,
)
from provserver.core.secrets import ServerKeys, Unsealable
from provserver.core.signing import Issuer
from provserver.core.wire import Granted
from provserver.errors import Outcome, Unavailable, described
from provserver.services.clones import Clones
from provserver.store import approvals, issuing, outbox, provisions
from provserver.store.approvals import Asked
from provserver.store.database import Connection, Database
from provserver.store.issuing import IssuerRow
from provserver.store.provisions import AttemptRow, DeviceRow, Kind, Look, Sighting, Uses, Write

log = logging.getLogger("provserver.provisioning")

ROUNDS = 8
"""How often a group's undecided rest is looked at again before it is told to come back later."""

_RANDOM_BYTES = 96
"""About what a ticket takes: for its id, token and seal."""

APPROVAL_PERIOD = timedelta(days=7)
"""For which a request waits that is not asked again, and what an operator has said of it holds."""

MAX_APPROVALS = 1_000
"""Requests of a profile that wait for an operator."""

MAX_APPROVALS_OF_NETWORK = 50
"""Of those, requests from one network: who has the key alone cannot keep all others out."""

BURNING = 0.8
"""Part of a provision key's uses after which an event tells of it."""

HINT_LENGTH = 4
"""Characters of a provision key that events and the audit tell it by."""

_BACKOFF = (0.02, 0.05, 0.1, 0.2, 0.5)

_REPLACE = Change.REPLACE  # found once: see core/decision.py
_ACCEPTED = ApprovalState.ACCEPTED
_PENDING = Reason.APPROVAL_PENDING
_NOT_BEGUN = UUID(int=0)

_sealed_value = msgspec.json.Decoder(tuple[str, str | MqttBasic])


class _NothingWritten(Exception):  # noqa: N818
    """Rolls back the use of an approval."""


class StaleProfile(Exception):  # noqa: N818
    """The profile is no longer what the request was admitted on: it must be admitted anew."""


@dataclass(slots=True, eq=False)
class Ticket:
    """An admitted request on its way. deadline: event loop time after which nobody waits for it.

    request_digest: keyed, over every member; None without a nonce. issuer: of the certificate that is asked for.
    approval_digest: what an operator's approval of it is found by, where one is needed.
    id: of its attempt, of the event and of the device that come of it. Fixed before the first write, as what is fresh
    is, so that a write whose answer was lost is recognised as this request's own.
    canonical: what the request's digest is of; None without a nonce. older: the three digests under the other versions
    of the keys, while there are several.
    """

    intent: Intent
    peer: Peer
    deadline: float
    nonce_digest: bytes | None
    request_digest: bytes | None
    id_digest: bytes | None
    look: bool
    canonical: Callable[[], bytes] | None = None
    older: list[tuple[bytes | None, bytes | None, bytes | None]] = field(default_factory=list)
    broken: bool = False
    issuer: Issuer | None = None
    id: UUID = _NOT_BEGUN
    fresh: Fresh | None = None
    situation: Situation = VACANT
    approval_digest: bytes = b""
    granted: Granted | None = None
    result: Granted | Refusal | Exception | None = None


Pair = tuple[Ticket, Write]
Statement = Callable[[Connection, Sequence[Write]], Awaitable[set[UUID]]]


class Settlement:
    """Settles groups of tickets on the database."""

    def __init__(
        self,
        database: Database,
        keys: ServerKeys,
        random: ids.Randomness,
        clock: Callable[[], float],
        clones: Clones | None = None,
    ) -> None:
        self._clones = clones
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
            except Exception as fault:  # what is settled already stays so
                log.error("a provision statement failed: %s", described(fault))  # noqa: TRY400
                break
        return [ticket.result or Unavailable("The request could not be settled.") for ticket in tickets]

    async def _round(self, connection: Connection, tickets: Sequence[Ticket], random: ids.Randomness) -> None:
        if self._keys.several:
            for ticket in tickets:
                self._digest_anew(ticket)
        await self._recognise_own(connection, [ticket for ticket in tickets if ticket.broken])
        await self._look(connection, [t for t in tickets if t.look and t.result is None])
        await self._find_issuers(connection, [t for t in tickets if t.intent.csr is not None and t.fresh is None])
        creating: list[Pair] = []
        changing: list[Pair] = []
        repeated: list[AttemptRow] = []
        pending: list[Ticket] = []
        claimed: set[object] = set()
        for ticket in tickets:
            if ticket.result is not None:
                continue
            try:
                fresh = ticket.fresh or self._begin(ticket, random)
                decision = decide(ticket.intent, ticket.situation, ticket.request_digest, fresh)
                if ticket.situation is not VACANT:
                    self._suspect(ticket, decision)
                if isinstance(decision, Refusal):
                    ticket.result = decision
                    if decision.reason is _PENDING:
                        pending.append(ticket)
                elif isinstance(decision, Repeat):
                    device = decision.device
                    ends = device.expires_at(decision.credentials)
                    granted = Granted(device.id, device.name, decision.credentials, repeated=True, expires_at=ends)
                    repeated.append(self._attempt(ticket, granted))
                    ticket.result = granted
                else:
                    write = self._write(ticket, decision, random)
                    claims = _claims(ticket, write)
                    ticket.look = True  # whatever does not come through is looked at before it is decided again
                    if claimed.isdisjoint(claims):
                        claimed.update(claims)
                        (creating if isinstance(decision, Create) else changing).append((ticket, write))
            except Exception as fault:
                _fail(ticket, fault)
        await self._apply(connection, provisions.create, creating)
        await self._apply(connection, provisions.provision, changing)
        if repeated:
            await provisions.record(connection, repeated)
        if pending:
            await self._ask_operators(connection, pending, random)

    def _suspect(self, ticket: Ticket, decision: Decision) -> None:
        """Note what speaks for a clone of the device that was found."""
        found = ticket.situation.nonce_holder or ticket.situation.named
        if self._clones is None or found is None:
            return
        suspected = suspicion(ticket.intent, ticket.situation, ticket.request_digest, decision)
        if suspected is not None:
            self._clones.note(found.id, suspected.sign, ticket.peer.address, certain=suspected.certain)

    async def _recognise_own(self, connection: Connection, tickets: Sequence[Ticket]) -> None:
        """Find what was committed although the connection broke before it could say so."""
        sent = {ticket.id: ticket for ticket in tickets if ticket.granted is not None}
        if sent:
            for attempt_id in await provisions.committed(connection, list(sent)):
                sent[attempt_id].result = sent[attempt_id].granted

    def _digest_anew(self, ticket: Ticket) -> None:
        """Under every version of the keys there is just now: what is kept under an older one is found by a look."""
        digests, intent = self._keys.digests, ticket.intent
        nonces = digests("request-nonce", intent.profile.id.bytes, intent.nonce) if intent.nonce else ()
        requests = digests("request", ticket.canonical()) if ticket.canonical else ()
        known = digests("credentials", intent.supplied.id) if intent.supplied else ()
        ticket.nonce_digest, ticket.request_digest = (nonces[0], requests[0]) if nonces and requests else (None, None)
        ticket.id_digest = known[0] if known else None
        ticket.older = list(zip_longest(nonces[1:], requests[1:], known[1:]))
        ticket.look = ticket.look or bool(ticket.older)

    async def _look(self, connection: Connection, tickets: Sequence[Ticket]) -> None:
        if not tickets:
            return
        looks = [_look_for(ticket, ticket.nonce_digest, ticket.id_digest) for ticket in tickets]
        older = [(n, nonce, known) for n, ticket in enumerate(tickets) for nonce, _, known in ticket.older]
        looks += [_look_for(tickets[n], nonce, known) for n, nonce, known in older]
        sightings = await provisions.look(connection, looks)
        for (n, *_), seen in zip(older, sightings[len(tickets) :], strict=True):
            first = sightings[n]
            sightings[n] = replace(
                first,
                nonce_holder=first.nonce_holder or seen.nonce_holder,
                credentials_holder=first.credentials_holder or seen.credentials_holder,
            )
        sightings = sightings[: len(tickets)]
        wanted = {id_ for sighting in sightings for id_ in (sighting.named, sighting.nonce_holder) if id_}
        rows = await provisions.devices(connection, wanted) if wanted else {}
        for ticket, sighting in zip(tickets, sightings, strict=True):
            if sighting.profile_revision != ticket.intent.profile.revision:
                ticket.result = StaleProfile()
                continue
            try:
                ticket.situation = self._situation(ticket, sighting, rows)
            except Unsealable as fault:
                log.error("the credentials of a device cannot be opened: %s", fault)  # noqa: TRY400
                ticket.result = Unavailable("The device's credentials cannot be opened.")
            except Exception as fault:
                _fail(ticket, fault)
        if approved := [ticket for ticket in tickets if ticket.intent.profile.approval and ticket.result is None]:
            await self._look_for_approvals(connection, approved)

    async def _look_for_approvals(self, connection: Connection, tickets: Sequence[Ticket]) -> None:
        wanted = [(ticket, digest) for ticket in tickets for digest in self._approval_digests(ticket.intent)]
        states = await approvals.states(
            connection, [ticket.intent.profile.id for ticket, _ in wanted], [digest for _, digest in wanted]
        )
        for ticket, digest in reversed(wanted):  # the current digest last
            said = states.get((ticket.intent.profile.id, digest))
            if said is not None or ticket.situation.approval is None:
                ticket.approval_digest = digest
                ticket.situation = replace(ticket.situation, approval=said)

    def _approval_digests(self, intent: Intent) -> Sequence[bytes]:
        """Of what tells a request from others: an operator approves this device, and no other of its name."""
        supplied = intent.supplied.id if intent.supplied is not None else ""
        asked = intent.csr.public_key if intent.csr is not None else b""
        return self._keys.digests("approval", intent.name or "", intent.nonce or "", supplied, asked)

    async def _ask_operators(self, connection: Connection, tickets: Sequence[Ticket], random: ids.Randomness) -> None:
        """Have requests wait for an operator; those that find no room are told so."""
        asked = {
            (ticket.intent.profile.id, ticket.approval_digest): Asked(
                ids.uuid7(self._clock(), random),
                ticket.intent.profile.id,
                ticket.approval_digest,
                ticket.intent.name,
                ticket.peer.transport,
                ticket.peer.address,
                network(ticket.peer.address),
                ticket.intent.supplied.type if ticket.intent.supplied is not None else None,
            )
            for ticket in tickets
        }
        full = await approvals.ask(
            connection, list(asked.values()), APPROVAL_PERIOD, MAX_APPROVALS, MAX_APPROVALS_OF_NETWORK
        )
        for ticket in tickets:
            if ticket.approval_digest in full:
                ticket.result = Refusal(Reason.APPROVALS_FULL)

    def _situation(self, ticket: Ticket, sighting: Sighting, rows: dict[UUID, DeviceRow]) -> Situation:
        named = rows.get(sighting.named) if sighting.named else None
        holder = rows.get(sighting.nonce_holder) if sighting.nonce_holder else None
        if holder is not None and any(request and request == holder.request_digest for _, request, _ in ticket.older):
            holder = replace(holder, request_digest=ticket.request_digest)
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
            quarantined=row.quarantined,
            credentials=tuple(
                StoredCredentials(
                    open_credentials(self._keys, row.id, CredentialsType(type_), sealed),
                    Origin(origin),
                    pending,
                    used,
                    expires_at,
                )
                for type_, origin, pending, used, sealed, expires_at in row.credentials
            ),
        )

    def _begin(self, ticket: Ticket, random: ids.Randomness) -> Fresh:
        intent = ticket.intent
        ticket.id = pgproto.UUID(ids.uuid7_bytes(self._clock(), random))
        ticket.fresh = fresh = Fresh(
            ids.token(random) if intent.supplied is None else "",
            ids.device_name(random) if intent.name is None else "",
            self._issuing(ticket, random) if intent.csr is not None else None,
        )
        return fresh

    def _write(self, ticket: Ticket, decision: Create | Provision, random: ids.Randomness) -> Write:
        intent, peer, credentials, id_ = ticket.intent, ticket.peer, decision.credentials, ticket.id
        if isinstance(decision, Create):
            device_id, name, revision, change = id_, decision.name, None, _REPLACE
        else:
            known = decision.device
            device_id, name, revision, change = known.id, known.name, known.revision, decision.change
        profile = intent.profile
        expires_at = None
        if profile.credentials_lifetime is not None or intent.csr is not None:
            expires_at = self._expiry(ticket, decision)
        ticket.granted = Granted(device_id, name, credentials, expires_at=expires_at)
        return Write(
            device_id,
            name,
            peer.address,
            self._keys.digest("credentials", credentials.id),
            seal_credentials(self._keys, device_id, credentials, random),
            ticket.nonce_digest + ticket.request_digest if ticket.nonce_digest and ticket.request_digest else b"",
            Kind(
                profile.id,
                profile.revision,
                intent.gateway,
                credentials.type,
                decision.origin,
                peer.transport,
                expires_at,
            ),
            ticket.id,
            revision,
            change,
        )

    async def _find_issuers(self, connection: Connection, tickets: Sequence[Ticket]) -> None:
        """The CAs of those who ask for a certificate, as their profiles have them now."""
        if not tickets:
            return
        found = await issuing.find(connection, {ticket.intent.profile.id for ticket in tickets})
        for ticket in tickets:
            profile = ticket.intent.profile
            row = found.get(profile.id)
            if ticket.result is not None:
                continue
            if row is None or row.profile_revision != profile.revision:
                ticket.result = StaleProfile()
            elif row.authority is None:
                ticket.result = Refusal(Reason.ISSUER_MISSING)
            else:
                try:
                    ticket.issuer = open_issuer(self._keys, profile.id, row.authority)
                except ValueError as fault:
                    log.error("the issuing CA of a profile cannot be opened: %s", type(fault).__name__)  # noqa: TRY400
                    ticket.result = Unavailable("The profile's issuing CA cannot be opened.")

    def _issuing(self, ticket: Ticket, random: ids.Randomness) -> Callable[[str], Credentials | Refusal]:
        issuer, wanted, lifetime = ticket.issuer, ticket.intent.csr, ticket.intent.profile.credentials_lifetime
        now = datetime.fromtimestamp(self._clock(), UTC)

        @cache
        def issue(name: str) -> Credentials | Refusal:
            if issuer is None or wanted is None:
                return Refusal(Reason.ISSUER_MISSING)
            return signing.issue(issuer, wanted, name, lifetime, now, random)

        return issue

    def _expiry(self, ticket: Ticket, decision: Create | Provision) -> datetime | None:
        """When credentials end that are given now; those that stay end as they do."""
        if isinstance(decision, Provision) and decision.change is Change.KEEP:
            return decision.device.expires_at(decision.credentials)
        if decision.origin is not Origin.GENERATED:
            return None
        return expiry(decision.credentials, ticket.intent.profile.credentials_lifetime, self._clock())

    async def _apply(
        self,
        connection: Connection,
        statement: Statement,
        pairs: Sequence[Pair],
    ) -> None:
        """Write a group; when the statement fails, one by one, so that nobody pays for a neighbour."""
        if not pairs:
            return
        if approved := [pair for pair in pairs if pair[0].situation.approval is _ACCEPTED]:
            pairs = [pair for pair in pairs if pair[0].situation.approval is not _ACCEPTED]
            for pair in approved:
                await self._apply_approved(connection, statement, pair)
            if not pairs:
                return
        metered = [pair for pair in pairs if pair[0].intent.metered is not None]
        if 0 < len(metered) < len(pairs):
            await self._apply(connection, statement, metered)
            pairs = [pair for pair in pairs if pair[0].intent.metered is None]
            metered = []
        try:
            if metered:
                done = await self._apply_metered(connection, statement, metered)
            else:
                done = await statement(connection, [write for _, write in pairs])
        except Exception as fault:
            if self._database.is_away(fault):
                raise
            if len(pairs) == 1:
                self._not_written(pairs[0][0], fault)
            else:
                for pair in pairs:
                    await self._apply(connection, statement, [pair])
            return
        for ticket, write in pairs:
            if write.device_id in done:
                ticket.result = ticket.granted

    async def _apply_approved(self, connection: Connection, statement: Statement, pair: Pair) -> None:
        """Write what an operator has approved, and use the approval, both or neither."""
        ticket, write = pair
        try:
            async with connection.transaction():
                if not await approvals.consume(connection, ticket.intent.profile.id, ticket.approval_digest):
                    return  # taken back just now: it is looked at again
                if ticket.intent.metered is not None:
                    done = await self._apply_metered(connection, statement, [pair])
                else:
                    done = await statement(connection, [write])
                if write.device_id not in done:
                    raise _NothingWritten
        except _NothingWritten:
            pass
        except Exception as fault:
            if self._database.is_away(fault):
                raise
            self._not_written(ticket, fault)
        else:
            ticket.result = ticket.granted

    def _not_written(self, ticket: Ticket, fault: Exception) -> None:
        """What becomes of a ticket whose write has failed alone."""
        if self._database.is_lock_timeout(fault):
            ticket.result = Unavailable("Another transaction holds the device.")
        elif not self._database.is_race(fault):  # which is looked at again
            _fail(ticket, fault)

    async def _apply_metered(self, connection: Connection, statement: Statement, pairs: Sequence[Pair]) -> set[UUID]:
        """Write what the uses of its provision keys allow, and count it, in one transaction; returns what was written.

        What finds no use left is refused, once those before it are written.
        """
        waiting: list[Ticket] = []
        gone: list[Ticket] = []
        async with connection.transaction():
            before = await provisions.hold_uses(connection, {_metered(ticket) for ticket, _ in pairs})
            left = {key: _left(uses) for key, uses in before.items()}
            fitting: list[Pair] = []
            for ticket, write in pairs:
                key = _metered(ticket)
                if key not in left:
                    gone.append(ticket)
                elif left[key] > 0:
                    left[key] -= 1
                    fitting.append((ticket, write))
                else:
                    waiting.append(ticket)
            done = await statement(connection, [write for _, write in fitting]) if fitting else set()
            made = Counter(_metered(ticket) for ticket, write in fitting if write.device_id in done)
            if made:
                await provisions.add_uses(connection, made)
                profiles = {_metered(ticket): ticket.intent.profile for ticket, _ in fitting}
                for key, number in made.items():
                    await _burn(connection, profiles[key], key, before[key], number)
        for ticket in gone:
            ticket.result = StaleProfile()
        for ticket in waiting:
            if _left(before[_metered(ticket)]) <= made[_metered(ticket)]:
                ticket.result = Refusal(Reason.KEY_USED_UP)
        return done

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
    return keys.seal(plaintext, credentials_context(device_id.bytes, credentials.type), random(12))


def credentials_context(device_id: bytes, type_: str) -> bytes:
    """What credentials are sealed for."""
    return device_id + type_.encode()


def id_in(plaintext: bytes) -> str:
    """The id of credentials, as they were before they were sealed."""
    return _sealed_value.decode(plaintext)[0]


def open_credentials(keys: ServerKeys, device_id: UUID, type_: CredentialsType, sealed: bytes) -> Credentials:
    """What `seal_credentials` sealed. Raises Unsealable."""
    id_, value = _sealed_value.decode(keys.unseal(sealed, credentials_context(device_id.bytes, type_)))
    return Credentials(type_, id_, value)


def open_issuer(keys: ServerKeys, profile_id: UUID, row: IssuerRow) -> Issuer:
    """A profile's issuing CA. Raises ValueError, Unsealable among them."""
    return signing.load_issuer(row.certificates, keys.unseal(row.key_sealed, issuer_context(profile_id)))


def issuer_context(profile_id: UUID) -> bytes:
    """What the key of a profile's issuing CA is sealed for."""
    return b"issuing-ca:" + profile_id.bytes


def expiry(credentials: Credentials, lifetime: timedelta | None, now: float) -> datetime | None:
    """When credentials end that the server makes now (seconds since the epoch): a certificate as it says itself."""
    if credentials.type is CredentialsType.X509_CERTIFICATE:
        return x509.expires_at(str(credentials.value))
    return None if lifetime is None else datetime.fromtimestamp(int(now), UTC) + lifetime


def _fail(ticket: Ticket, fault: Exception) -> None:
    """A fault that is due to one ticket is no other's."""
    log.error("a provision request failed: %s", described(fault))
    ticket.result = Unavailable("The request could not be settled.")


def _look_for(ticket: Ticket, nonce_digest: bytes | None, id_digest: bytes | None) -> Look:
    profile = ticket.intent.profile
    return Look(profile.organization_id, profile.id, ticket.intent.name, nonce_digest, id_digest)


def _metered(ticket: Ticket) -> str:
    return ticket.intent.metered or ""


def _left(uses: Uses) -> float:
    return inf if uses.max_uses is None else uses.max_uses - uses.uses


async def _burn(connection: Connection, profile: DeviceProfile, key: str, before: Uses, number: int) -> None:
    """Tell of a provision key that has few uses left; once."""
    if before.max_uses is None:
        return
    after = before.uses + number
    if before.uses < BURNING * before.max_uses <= after:
        await outbox.record(
            connection,
            EventType.PROVISION_KEY_BURNING,
            organization_id=profile.organization_id,
            profileId=str(profile.id),
            hint=key[:HINT_LENGTH],
            cause="uses",
            uses=after,
            maxUses=before.max_uses,
        )


def _claims(ticket: Ticket, write: Write) -> list[object]:
    """What two writes of one statement must not share; the first in line has it, the others see what it left."""
    profile = ticket.intent.profile
    claims: list[object] = [(profile.organization_id, write.name), write.id_digest]
    if ticket.nonce_digest is not None:
        claims.append((profile.id, ticket.nonce_digest))
    return claims

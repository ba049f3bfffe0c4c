"""How a group of admitted requests is settled: look, decide, write, and again for what changed meanwhile.

A request that may create its device is first taken to find nothing, so that the usual case costs one statement
for the whole group. Its write (`provision_writes.py`) is guarded; if it does not come through, it is looked at.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import cache
from itertools import zip_longest
from uuid import UUID

from asyncpg.pgproto import pgproto

from provserver.core import ids, signing
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
from provserver.core.limits import network
from provserver.core.model import (
    VACANT,
    ApprovalState,
    Credentials,
    CredentialsType,
    KnownDevice,
    Origin,
    Situation,
    StoredCredentials,
)
from provserver.core.secrets import ServerKeys, Unsealable
from provserver.core.wire import Granted
from provserver.errors import Outcome, Unavailable, described
from provserver.services.clones import Clones
from provserver.services.credentials import expiry, open_credentials, open_issuer, seal_credentials
from provserver.services.provision_writes import Pair, ProvisionWrites, unshared
from provserver.services.ticket import StaleProfile, Ticket
from provserver.store import approvals, issuing, provisions
from provserver.store.approvals import Asked
from provserver.store.database import Connection, Database
from provserver.store.provisions import AttemptRow, DeviceRow, Kind, Look, Sighting, Write

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

_BACKOFF = (0.02, 0.05, 0.1, 0.2, 0.5)

_REPLACE = Change.REPLACE  # found once: see core/decision.py
_ACCEPTED = ApprovalState.ACCEPTED
_PENDING = Reason.APPROVAL_PENDING


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
        self._writes = ProvisionWrites(database)
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
        taken: set[object] = set()
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
                    own = unshared(ticket, write)
                    ticket.look = True  # whatever does not come through is looked at before it is decided again
                    if taken.isdisjoint(own):
                        taken.update(own)
                        (creating if isinstance(decision, Create) else changing).append((ticket, write))
            except Exception as fault:
                ticket.fail(fault)
        await self._writes.apply(connection, provisions.create, creating)
        await self._writes.apply(connection, provisions.provision, changing)
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
                ticket.fail(fault)
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


def _look_for(ticket: Ticket, nonce_digest: bytes | None, id_digest: bytes | None) -> Look:
    profile = ticket.intent.profile
    return Look(profile.organization_id, profile.id, ticket.intent.name, nonce_digest, id_digest)

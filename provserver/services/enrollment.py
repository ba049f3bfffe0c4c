"""Devices that a CA vouches for: from unknown to provisioned in the connection that presents the chain.

The CAs are looked up by the issuers that the certificates name; the chain is verified against each profile that trusts
one (`core/chain.py`); what it deserves is settled as every request is (`settlement.py`), with the name that the
certificate gives and the certificate as supplied credentials.
"""

import asyncio
import logging
import os
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from hashlib import sha256
from uuid import UUID

from provserver.core import chain, ids, x509
from provserver.core import credentials as building
from provserver.core.chain import Certificate, Chain, Leaf, Trust
from provserver.core.decision import Intent, Reason, Refusal
from provserver.core.model import Authenticated, DeviceProfile, Peer, ProvisionStrategy
from provserver.core.secrets import ServerKeys
from provserver.core.wire import Granted
from provserver.errors import Outcome, Unavailable
from provserver.services.attempts import Attempts
from provserver.services.grouping import Grouper
from provserver.services.settlement import Settlement
from provserver.services.ticket import StaleProfile, Ticket
from provserver.store import access, profiles
from provserver.store.database import Connection, Database

log = logging.getLogger("provserver.enrollment")

_ROUNDS = 8
"""How often a device is decided again whose profile changes under it."""

_UNRELATED = frozenset({Reason.MISSING_INTERMEDIATE, Reason.SIGNATURE_WRONG, Reason.UNTRUSTED, Reason.SELF_SIGNED})
"""What a profile says whose CA has the right name, but nothing to do with the chain."""

MAX_ISSUERS = 256
"""Intermediates that are remembered of a profile."""

MAX_LEAVES = 10_000
"""Certificates of devices of which id and dates are remembered: 5 MB."""

_VETOES = frozenset({Reason.CERTIFICATE_REVOKED, Reason.CRL_STALE})
"""What one profile says and no other overrules, though it trust the root of what is revoked."""


Path = tuple[Certificate, ...]
"""From the device's certificate to a CA of the profile, both included."""


@dataclass(frozen=True, slots=True)
class Trusted:
    """A profile with its CAs, read once for its revision.

    issuers: the intermediates of chains that it has accepted, by fingerprint.
    """

    profile: DeviceProfile
    trust: Trust
    issuers: dict[bytes, Certificate]


@dataclass(frozen=True, slots=True)
class _Refused:
    """A refusal, and the profile whose word it is."""

    refusal: Refusal
    profile_id: UUID | None = None


class Enrollment:
    """Lets devices in by their certificate chains, and says whether those that are known are still good.

    wait_limit: seconds that a device may wait for Postgres.
    """

    def __init__(
        self,
        database: Database,
        keys: ServerKeys,
        *,
        wait_limit: float = 10.0,
        random: ids.Randomness = os.urandom,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._database = database
        self._keys = keys
        self._wait_limit = wait_limit
        self._random = random
        self._clock = clock
        self._trusted: dict[UUID, Trusted] = {}
        self._leaves: OrderedDict[bytes, Leaf] = OrderedDict()  # by fingerprint; the one seen last comes last
        self._tickets: Grouper[Ticket, Granted | Refusal] = Grouper(
            "enroll", Settlement(database, keys, random, clock).settle, sharer=lambda ticket: ticket.intent.profile.id
        )
        self._lookups = Grouper("authority", self._look_up)
        self._profiles = Grouper("trust", self._get)
        self._enrolled = Grouper("enrolled", self._known)
        self._issuers = Grouper("issuer", self._share_issuers)
        self._attempts = Attempts(database, random, clock)

    async def enroll(self, peer: Peer) -> Authenticated | None:
        """Let a device in by a chain that is not known yet; None when it is refused. Raises Unavailable.

        One that waits for an operator is to come back: what it has is not bad.
        """
        verdict = await self.admit(peer)
        if isinstance(verdict, Refusal) and verdict.outcome is Outcome.PENDING:
            raise Unavailable(verdict.reason.text)
        return None if isinstance(verdict, Refusal) else verdict

    def id_of(self, certificate: bytes) -> str | None:
        """Of the credentials that a certificate (DER) is; None when its dates or its key speak against it."""
        leaf = self._leaf(certificate)
        return leaf.id if leaf.speaks_against(self._now()) is None else None

    async def still_good(self, peer: Peer, device: Authenticated) -> bool:
        """Whether a known certificate is valid still, and not revoked. Raises Unavailable."""
        return await self.check(peer, device) is None

    async def admit(self, peer: Peer) -> Authenticated | Refusal:
        """Verify, decide, commit, record the attempt. Raises Unavailable."""
        try:
            async with asyncio.timeout(self._wait_limit):
                return await self._admit(peer)
        except TimeoutError:
            raise Unavailable("Postgres did not answer in time.") from None

    async def check(self, peer: Peer, device: Authenticated) -> Refusal | None:
        """What speaks against a device that is known by its certificate; recorded as an attempt. Raises Unavailable.

        The dates and the key of its certificate, always. A profile that has revocation lists verifies the whole chain:
        who does not present it, or whose CA is trusted no more, may be revoked. Intermediates that are missing are
        looked for among those of other chains, as a resumed TLS session shows the device's certificate alone.
        """
        now = self._now()
        refusal = None
        if (reason := self._leaf(peer.certificates[0]).speaks_against(now)) is not None:
            refusal = Refusal(reason)
        else:
            trusted = await self._current(device.profile_id, device.profile_revision)
            if trusted is not None and trusted.trust.revokes:
                presented = chain.read(peer.certificates)
                verdict = presented if isinstance(presented, Refusal) else await self._verify(trusted, presented, now)
                refusal = verdict if isinstance(verdict, Refusal) else None
        if refusal is not None:
            self._note(peer, refusal, device.profile_id, device.name, device.device_id)
        return refusal

    async def drain(self) -> None:
        """Wait until everything that was asked is settled and recorded."""
        for part in (self._lookups, self._profiles, self._tickets, self._enrolled, self._issuers, self._attempts):
            await part.drain()

    async def _admit(self, peer: Peer) -> Authenticated | Refusal:
        presented = chain.read(peer.certificates)
        if isinstance(presented, Refusal):
            self._note(peer, presented)
            return presented
        for _ in range(_ROUNDS):
            verdict = await self._judge(presented, peer.certificates[0])
            if isinstance(verdict, _Refused):
                self._note(peer, verdict.refusal, verdict.profile_id)
                return verdict.refusal
            intent, path = verdict
            try:
                settled = await self._tickets.submit(self._ticket(intent, peer))
            except StaleProfile:
                continue
            if isinstance(settled, Refusal):
                self._note(peer, settled, intent.profile.id, intent.name)
                return settled
            if (device := await self._enrolled.submit(settled.credentials.id)) is not None:
                self._remember(intent.profile.id, path)
                return device  # else it was deleted in this very moment
        raise Unavailable("The device or its profile changes all the time.")

    async def _judge(self, presented: Chain, der: bytes) -> tuple[Intent, Path] | _Refused:
        """What the chain asks for, of the profile whose CA is nearest to the device, and the path to that CA."""
        now = self._now()
        nearest: tuple[Path, DeviceProfile] | None = None
        refused: _Refused | None = None
        for trusted in await self._lookups.submit(presented.issuers):
            path = trusted.trust.verify(presented, now)
            if not isinstance(path, Refusal):
                if nearest is None or len(path) < len(nearest[0]):
                    nearest = path, trusted.profile
            elif path.reason in _VETOES:
                return _Refused(path, trusted.profile.id)
            elif path.reason not in _UNRELATED:
                refused = _Refused(path, trusted.profile.id)
            elif refused is None:
                refused = _Refused(path)
        if nearest is None:
            return refused or _Refused(_untrusted(presented, now))
        path, profile = nearest
        if profile.strategy is not ProvisionStrategy.X509_CERTIFICATE_CHAIN:
            return _Refused(Refusal(Reason.CHAIN_DISABLED), profile.id)
        name = chain.device_name(presented, profile.chain)
        if isinstance(name, Refusal):
            return _Refused(name, profile.id)
        return Intent(profile, name, building.certificate(x509.text_of(der)), gateway=False, nonce=None), path

    async def _verify(self, trusted: Trusted, presented: Chain, now: datetime) -> Path | Refusal:
        """As the profile's CAs have it, with the help of the intermediates that any process has remembered."""
        profile_id = trusted.profile.id
        verdict = trusted.trust.verify(presented, now, tuple(trusted.issuers.values()))
        if not isinstance(verdict, Refusal):
            self._remember(profile_id, verdict)
        elif verdict.reason is Reason.MISSING_INTERMEDIATE:
            issuers = await self._issuers.submit((profile_id, ()))
            if issuers.keys() - trusted.issuers.keys():
                return trusted.trust.verify(presented, now, tuple(issuers.values()))
        return verdict

    def _remember(self, profile_id: UUID, path: Path) -> None:
        """Have the intermediates of a chain that was accepted kept; nobody waits, and the next one tries again."""
        held = self._trusted.get(profile_id)
        known = {} if held is None else held.issuers
        new = tuple(each for each in path[1:-1] if each.fingerprint not in known)
        if new and len(known) < MAX_ISSUERS:
            self._issuers.post((profile_id, new))

    async def _share_issuers(self, group: Sequence[tuple[UUID, Path]]) -> list[dict[bytes, Certificate] | Exception]:
        """Store what these profiles have learnt, and read what they know by now."""
        learnt: dict[UUID, dict[bytes, bytes]] = {}
        for id_, new in group:
            learnt.setdefault(id_, {}).update((each.fingerprint, each.der) for each in new)
        known: dict[UUID, dict[bytes, Certificate]] = {}
        async with self._database.connection() as connection:
            for id_, found in learnt.items():
                if found:
                    await profiles.add_issuers(connection, id_, found, MAX_ISSUERS)
                known[id_] = _readable(await profiles.issuers(connection, id_))
                if (held := self._trusted.get(id_)) is not None:
                    self._trusted[id_] = replace(held, issuers=known[id_])
        return [known[id_] for id_, _ in group]

    def _leaf(self, der: bytes) -> Leaf:
        """Read once, as devices come back with the same one."""
        fingerprint = sha256(der).digest()
        if (leaf := self._leaves.pop(fingerprint, None)) is None:
            leaf = Leaf.read(der)
            if len(self._leaves) >= MAX_LEAVES:
                self._leaves.popitem(last=False)
        self._leaves[fingerprint] = leaf
        return leaf

    def _ticket(self, intent: Intent, peer: Peer) -> Ticket:
        return Ticket(
            intent,
            peer,
            asyncio.get_running_loop().time() + self._wait_limit,
            nonce_digest=None,
            request_digest=None,
            id_digest=self._id_digest(intent.supplied.id) if intent.supplied else None,
            look=not intent.profile.chain.allow_create or intent.profile.approval,
        )

    async def _look_up(self, wanted: Sequence[frozenset[bytes]]) -> list[list[Trusted] | Exception]:
        """For each set of issuers the profiles that trust one of them."""
        async with self._database.connection() as connection:
            found = await profiles.trusting(connection, frozenset().union(*wanted))
            revisions = {id_: revision for each in found.values() for id_, revision in each.items()}
            trusted = {id_: await self._tried(connection, id_, revision) for id_, revision in revisions.items()}
        answers: list[list[Trusted] | Exception] = []
        for issuers in wanted:
            candidates = [trusted[id_] for id_ in sorted({id_ for issuer in issuers for id_ in found[issuer]})]
            fault = next((each for each in candidates if isinstance(each, Exception)), None)
            answers.append(fault or [each for each in candidates if isinstance(each, Trusted)])
        return answers

    async def _current(self, profile_id: UUID, revision: int) -> Trusted | None:
        """The profile as it was in this revision, or is now; None when it is gone."""
        held = self._trusted.get(profile_id)
        if held is not None and held.profile.revision >= revision:
            return held
        return await self._profiles.submit((profile_id, revision))

    async def _get(self, wanted: Sequence[tuple[UUID, int]]) -> list[Trusted | Exception | None]:
        async with self._database.connection() as connection:
            return [await self._tried(connection, id_, revision) for id_, revision in wanted]

    async def _tried(self, connection: Connection, id_: UUID, revision: int) -> Trusted | Exception | None:
        """As `_load`, for a group: those who want another profile go on without this one."""
        try:
            return await self._load(connection, id_, revision)
        except ValueError as fault:
            log.error("the CAs of profile %s cannot be read: %s", id_, type(fault).__name__)  # noqa: TRY400
            return Unavailable("The CAs of a profile cannot be read.")

    async def _load(self, connection: Connection, id_: UUID, revision: int) -> Trusted | None:
        """A profile with its CAs, read anew when the copy is older than this revision. Raises ValueError."""
        held = self._trusted.get(id_)
        if held is not None and held.profile.revision >= revision:
            return held
        profile = await profiles.get(connection, id_)
        if profile is None:
            self._trusted.pop(id_, None)
            return None
        trust = Trust(await profiles.authorities(connection, id_))
        self._trusted[id_] = Trusted(profile, trust, _readable(await profiles.issuers(connection, id_)))
        return self._trusted[id_]

    async def _known(self, credentials_ids: Sequence[str]) -> list[Authenticated | Exception | None]:
        digests = [self._keys.digests("credentials", each) for each in credentials_ids]
        async with self._database.connection() as connection:
            rows = await access.held(connection, [digest for each in digests for digest in each])
        return [next((rows[digest].device for digest in each if digest in rows), None) for each in digests]

    def _id_digest(self, credentials_id: str) -> bytes:
        return self._keys.digest("credentials", credentials_id)

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._clock(), UTC)

    def _note(
        self,
        peer: Peer,
        refusal: Refusal,
        profile_id: UUID | None = None,
        name: str | None = None,
        device_id: UUID | None = None,
    ) -> None:
        self._attempts.note(
            peer,
            refusal.outcome,
            refusal.reason.name,
            refusal.detail,
            profile_id=profile_id,
            device_id=device_id,
            name=name,
        )

    def refuse(self, peer: Peer, reason: Reason, detail: str = "") -> None:
        """Have it recorded that a transport refused a device itself, in its handshake."""
        self._note(peer, Refusal(reason, detail))


def _readable(ders: Sequence[bytes]) -> dict[bytes, Certificate]:
    """Certificates by fingerprint. They are a help only: one that cannot be read any more is left out."""
    found: dict[bytes, Certificate] = {}
    for der in ders:
        with suppress(ValueError):
            certificate = Certificate.load(der)
            found[certificate.fingerprint] = certificate
    return found


def _untrusted(presented: Chain, now: datetime) -> Refusal:
    """Why a chain leads nowhere, as somebody says who trusts nobody."""
    verdict = Trust(()).verify(presented, now)
    return verdict if isinstance(verdict, Refusal) else Refusal(Reason.UNTRUSTED)

"""Devices that come back: whose credentials they present, and what becomes of these at their first use.

Look-ups are grouped as provisioning's are. What is nobody's credentials may be a static token, whose device is made
when it first comes, or the token of a WiFi session (`placeholders.py`): known devices pay nothing for that. While
Postgres is away nobody is told that credentials are bad: firmware throws away what it is told is bad.
"""

import logging
import os
import time
from collections.abc import Awaitable, Callable, Collection, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from operator import attrgetter
from typing import NamedTuple, Protocol
from uuid import UUID

from asyncpg import PostgresError

from provserver import metrics
from provserver.core import authentication, ids
from provserver.core.authentication import Claim, Denial, Held
from provserver.core.credentials import has_control_characters
from provserver.core.decision import Reason
from provserver.core.model import Authenticated, Credentials, CredentialsType, MqttBasic, Peer, PreSharedKey, Transport
from provserver.core.secrets import ServerKeys, Unsealable
from provserver.errors import Unavailable
from provserver.services import placeholders
from provserver.services.attempts import Attempts
from provserver.services.claiming import MAX_NAMES
from provserver.services.credentials import open_credentials
from provserver.services.grouping import Grouper
from provserver.services.limits import Limits, source_of
from provserver.services.profiles import open_secret
from provserver.services.sessions import Presented
from provserver.store import access as store
from provserver.store import claiming
from provserver.store.access import HeldRow, Shared
from provserver.store.claiming import Appearing
from provserver.store.database import Database

log = logging.getLogger("provserver.access")

_MAX_ALTERNATIVES = 10_000

_ACCEPTED = {each: metrics.AUTHENTICATIONS.cell(each.value, metrics.ACCEPTED) for each in Transport}


class Certificates(Protocol):
    """What judges client certificates: `services/enrollment.py`."""

    async def enroll(self, peer: Peer) -> Authenticated | None:
        """Let a device in by its chain that is not known yet; None when it is refused. Raises Unavailable."""

    def id_of(self, certificate: bytes) -> str | None:
        """Of the credentials that a certificate (DER) is; None when its dates or its key speak against it."""

    async def still_good(self, peer: Peer, device: Authenticated) -> bool:
        """Whether a known certificate is still valid and not revoked. Raises Unavailable."""


class _Presented(NamedTuple):
    """What a device presents, by which transport, and from where."""

    claim: Claim
    transport: Transport
    source: str


class _Named(NamedTuple):
    """Whom an identity names, as a device's id and as a provision key, and from where."""

    device_id: UUID | None
    key: str
    source: str


class Access:
    """Looks credentials up, judges them, and records their first use. wait_limit: seconds to wait for Postgres.

    limits: who guesses too often; None: nobody.
    """

    def __init__(
        self,
        database: Database,
        keys: ServerKeys,
        certificates: Certificates | None = None,
        *,
        limits: Limits | None = None,
        wait_limit: float = 10.0,
        random: ids.Randomness = os.urandom,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._database = database
        self._keys = keys
        self._certificates = certificates
        self._limits = limits or Limits()
        self._random = random
        self._clock = clock
        self._doubts: dict[str, int] = {}
        source = attrgetter("source")  # whose the credentials are is not known before the look-up
        self._claims: Grouper[_Presented, Held | Denial] = Grouper(
            "access", self._settle, wait_limit=wait_limit, sharer=source
        )
        self._identities: Grouper[_Named, Shared] = Grouper(
            "identity", self._find, wait_limit=wait_limit, sharer=source
        )
        self._alternatives: dict[str, int] = {}
        self._attempts = Attempts(database, random, clock)

    async def with_token(self, token: str, peer: Peer) -> Authenticated | Denial:
        """By an access token. Raises Unavailable, as all of these do."""
        return await _counted(peer, self._guess(authentication.with_token(token), peer))

    async def with_mqtt(
        self, client_id: str, username: str | None, password: bytes | None, peer: Peer
    ) -> Authenticated | Denial:
        """By a CONNECT: its channel's certificate or key if it has one, else what it says."""
        if peer.certificates or (peer.psk is not None and peer.psk.id_digest is not None):
            return await self.with_channel(peer)
        doubts, source = self._doubts, source_of(peer)
        doubts[source] = doubts.get(source, 0) + 1
        try:
            return await _counted(peer, self._guess(authentication.with_mqtt(client_id, username, password), peer))
        finally:
            if doubts[source] > 1:
                doubts[source] -= 1
            else:
                del doubts[source]

    def doubtful(self, peer: Peer) -> bool:
        """Whether `with_mqtt` is to judge who was found without it: what comes with it from there may be guesses."""
        if not self._doubts and not self._limits.watchful():
            return False
        return self._limits.short(peer, self._doubts.get(source_of(peer), 0))

    def token_in(
        self, client_id: str, username: str | None, password: bytes | None, peer: Peer | None = None
    ) -> Presented | None:
        """The token of a CONNECT in its usual form, for `Sessions.enter` to look up; None: `with_mqtt` is to judge.

        So it does whoever comes from an address that is locked for guessing.
        """
        found = authentication.token_in(client_id, username, password)
        if found is None or self._keys.unsettled:
            return None
        if peer is not None and self._limits.watchful() and self._limits.locked(peer):
            return None
        token, before = found
        digest = self._keys.digest
        return Presented(digest("credentials", token), digest("credentials", before) if before is not None else None)

    def certificate_in(self, peer: Peer) -> Presented | None:
        """A client's certificate, as `token_in` has tokens; None: `with_mqtt` is to judge."""
        if self._certificates is None or self._keys.unsettled:
            return None
        id_ = self._certificates.id_of(peer.certificates[0])
        return None if id_ is None else Presented(self._keys.digest("credentials", id_), certificate=True)

    async def with_channel(self, peer: Peer) -> Authenticated | Denial:
        """By what the channel has proved: a client certificate, or a device's pre-shared key."""
        if peer.certificates:
            return await _counted(peer, self._with_certificate(peer))
        if peer.psk is None or peer.psk.id_digest is None:
            return Denial.NOTHING
        found = await _counted(peer, self._judge(authentication.with_token(peer.psk.key.decode()), peer))
        return Denial.SHARED_KEY if isinstance(found, Denial) else found

    async def shared_key(self, identity: str, source: str = "") -> PreSharedKey | None:
        """The one of `shared_keys` that a handshake is tried with: two take turns, until one of them is used."""
        keys = await self.shared_keys(identity, source)
        if len(keys) < 2:
            return keys[0] if keys else None
        turn = self._alternatives.pop(identity, 0)
        self._alternatives[identity] = turn + 1
        if len(self._alternatives) > _MAX_ALTERNATIVES:
            del self._alternatives[next(iter(self._alternatives))]
        return keys[turn % len(keys)]

    async def shared_keys(self, identity: str, source: str = "") -> Sequence[PreSharedKey]:
        """The keys that a PSK identity or OSCORE context stands for: of the device of this id, else a provision key's.

        A device whose token is being rotated may hold either. For nobody as much is done as for somebody.
        source: who takes turns with others.
        """
        device_id = _device_id(identity)
        key = "" if has_control_characters(identity) else identity  # which no key has, and Postgres refuses some
        tokens, sealed = await self._identities.submit(_Named(device_id, key, source))
        if device_id is not None and tokens:
            type_ = CredentialsType.ACCESS_TOKEN
            return [
                PreSharedKey(identity, open_credentials(self._keys, device_id, type_, each).id.encode(), digest)
                for digest, each in tokens
            ]
        if sealed is None:
            self._keys.unseal(self._keys.seal(bytes(32), b"nobody", self._random(12)), b"nobody")
            return ()
        return (PreSharedKey(identity, open_secret(self._keys, identity, sealed).encode()),)

    async def drain(self) -> None:
        """Wait until everybody has been told."""
        await self._claims.drain()
        await self._identities.drain()
        await self._attempts.drain()

    async def _with_certificate(self, peer: Peer) -> Authenticated | Denial:
        claim = authentication.with_certificate(peer.certificates[0])
        if self._certificates is None:
            return await self._judge(claim, peer)
        held = await self._look_up(replace(claim, provisional=True), peer)
        if isinstance(held, Denial):
            # Not a first use yet: who loses power now, with the new certificate in doubt, may come back with the old.
            return await self._certificates.enroll(peer) or Denial.CERTIFICATE
        if held.expired:
            return self._expired(held, peer)
        if not await self._certificates.still_good(peer, held.device):
            return Denial.CERTIFICATE
        return held.device if held.used else await self._judge(claim, peer)

    async def _guess(self, claim: Claim, peer: Peer) -> Authenticated | Denial:
        """Judge what nobody has vouched for."""
        limits, heard = self._limits, False
        if limits.watchful():
            if limits.hold(peer, tuple(claim.ids)) is not None:
                return Denial.LIMITED
            heard = limits.locked(peer)
        found = await self._judge(claim, peer)
        # Of many that came at once, the guesses among the first may have had the address locked.
        if not heard and claim.ids and limits.watchful() and limits.hold(peer, tuple(claim.ids)) is not None:
            return Denial.LIMITED
        if claim.ids and (found is Denial.CREDENTIALS or found is Denial.CLIENT_ID):
            limits.guessed(peer, tuple(claim.ids))
        return found

    async def _judge(self, claim: Claim, peer: Peer) -> Authenticated | Denial:
        verdict = await self._look_up(claim, peer)
        if isinstance(verdict, Denial):
            return verdict
        return self._expired(verdict, peer) if verdict.expired else verdict.device

    def _expired(self, held: Held, peer: Peer) -> Denial:
        """Recorded, as nobody else tells the operator why a device stays away."""
        device, reason = held.device, Reason.CREDENTIALS_EXPIRED
        self._attempts.note(
            peer,
            reason.outcome,
            reason.name,
            profile_id=device.profile_id,
            device_id=device.device_id,
            name=device.name,
        )
        return Denial.EXPIRED

    async def _look_up(self, claim: Claim, peer: Peer) -> Held | Denial:
        if not claim.ids:
            return claim.judge({})
        return await self._claims.submit(_Presented(claim, peer.transport, source_of(peer)))

    async def _find(self, named: Sequence[_Named]) -> list[Shared]:
        device_ids, keys, _ = zip(*named, strict=True)
        async with self._database.connection() as connection:
            return await store.shared(connection, device_ids, keys)

    def _digests(self, id_: str) -> tuple[bytes, ...]:
        """What credentials of this id may be kept under; the last one goes before: the current version's."""
        return self._keys.digests("credentials", id_)[::-1]

    async def _settle(self, presented: Sequence[_Presented]) -> list[Held | Denial | Exception]:
        claims = [each.claim for each in presented]
        keys, epoch = self._keys, 0
        rows: dict[bytes, HeldRow | Exception] = {}
        async with self._database.connection() as connection:
            while epoch != keys.epoch:  # versions of the keys may come while we look
                epoch = keys.epoch
                digests = [{each: id_ for id_ in claim.ids for each in self._digests(id_)} for claim in claims]
                rows |= await store.held(connection, list({digest for each in digests for digest in each}))
        verdicts = [self._verdict(claim, each, rows) for claim, each in zip(claims, digests, strict=True)]
        strangers = {
            digest: transport
            for (claim, transport, _), each, verdict in zip(presented, digests, verdicts, strict=True)
            if isinstance(verdict, Denial) and not claim.provisional
            for digest in self._nobodys(each, rows)
        }
        found = await self._appear(strangers) if strangers else {}
        if strangers and not found and keys.unsettled:  # one may have been getting another digest just then
            found = await self._appear(strangers)
        unbound: Collection[bytes] = ()
        if unknown := {digest: strangers[digest] for digest in strangers if digest not in found}:
            placed, unbound = await self._place(unknown)
            if not placed and not unbound and keys.unsettled:
                placed, unbound = await self._place(unknown)
            found |= placed
        if strangers and not found and not unbound:
            await self._pretend(
                sum(
                    isinstance(verdict, Denial) and not claim.provisional and rows.keys().isdisjoint(each)
                    for claim, each, verdict in zip(claims, digests, verdicts, strict=True)
                )
            )
        if found:
            rows |= found
            verdicts = [
                verdict if found.keys().isdisjoint(each) else self._verdict(claim, each, rows)
                for claim, each, verdict in zip(claims, digests, verdicts, strict=True)
            ]
        if unbound:
            verdicts = [
                Denial.UNBOUND if isinstance(verdict, Denial) and not each.keys().isdisjoint(unbound) else verdict
                for each, verdict in zip(digests, verdicts, strict=True)
            ]
        unused = {
            held.device.id_digest
            for held, claim in zip(verdicts, claims, strict=True)
            if isinstance(held, Held) and not held.used and not held.expired and not claim.provisional
        }
        if unused and keys.unsettled:  # a rotation may give them another digest meanwhile
            ids_ = [(known, known[digest]) for known in digests for digest in unused & known.keys()]
            unused.update(digest for known, id_ in ids_ for digest in known if known[digest] == id_)
        failed = await self._use(sorted(unused)) if unused else {}
        if time.monotonic() > keys.good_until and any(isinstance(verdict, Denial) for verdict in verdicts):
            unsure = Unavailable("Whether the versions of the keys are still these is not known.")
            verdicts = [unsure if isinstance(verdict, Denial) else verdict for verdict in verdicts]
        return [
            failed.get(verdict.device.id_digest, verdict) if isinstance(verdict, Held) else verdict
            for verdict in verdicts
        ]

    def _verdict(
        self, claim: Claim, digests: Mapping[bytes, str], rows: Mapping[bytes, HeldRow | Exception]
    ) -> Held | Denial | Exception:
        found: dict[str, Held] = {}
        try:
            for digest, id_ in digests.items():
                row = rows.get(digest)
                if isinstance(row, Exception):
                    return row
                if row is not None:
                    found[id_] = self._open(row)
        except Unsealable as fault:
            log.error("the credentials of a device cannot be opened: %s", fault)  # noqa: TRY400
            return Unavailable("The device's credentials cannot be opened.")
        return claim.judge(found)

    async def _appear(self, strangers: Mapping[bytes, Transport]) -> dict[bytes, HeldRow | Exception]:
        """Of what is nobody's credentials, the static tokens': with their devices, made if they were not there.

        All at once or, when that fails, one by one.
        """
        found: set[bytes] = set()
        wanted = list(strangers)
        try:
            async with self._database.connection() as connection:
                for _ in range(MAX_NAMES):
                    appeared = await claiming.appear(
                        connection,
                        [Appearing(each, ids.uuid7(self._clock(), self._random), strangers[each]) for each in wanted],
                        used=True,
                    )
                    found |= {each.id_digest for each in appeared}
                    wanted = [each.id_digest for each in appeared if not each.made and not each.there]
                    if not wanted:
                        break
                rows: dict[bytes, HeldRow | Exception] = {}
                rows |= await store.held(connection, list(strangers)) if found else {}
        except PostgresError as fault:
            if len(strangers) == 1:
                log.warning("a first connect could not be recorded: %s", type(fault).__name__)
                return dict.fromkeys(strangers, Unavailable("The first connect could not be recorded."))
            rows = {}
            for each in strangers.items():
                rows |= await self._appear(dict([each]))
            return rows
        except Unavailable as away:  # those that are known are let in all the same
            return dict.fromkeys(strangers, away)
        return rows | dict.fromkeys(wanted, Unavailable("Others make devices of the same name just now."))

    async def _place(
        self, strangers: Mapping[bytes, Transport]
    ) -> tuple[dict[bytes, HeldRow | Exception], Collection[bytes]]:
        """Of what no static token is either, the WiFi sessions': with their devices, and those that have none yet."""
        found = await placeholders.find(self._database, strangers)
        rows: dict[bytes, HeldRow | Exception] = {}
        if found.there:
            try:
                async with self._database.connection() as connection:
                    rows |= await store.held(connection, list(strangers))
            except (PostgresError, Unavailable):
                rows |= dict.fromkeys(found.there, Unavailable(placeholders.UNKNOWN))
        return rows | dict(found.failed), found.unbound

    def _nobodys(self, digests: Iterable[bytes], rows: Container[bytes]) -> Iterator[bytes]:
        """These digests; in place of those that are somebody's, others, so that as many are looked up."""
        for digest in digests:
            other = self._keys.digest("nobody", digest)
            yield other if digest in rows else digest

    async def _pretend(self, number: int) -> None:
        """Do for so many whom nobody knows what was done for those who are known: time tells neither from the other."""
        with suppress(Unavailable, PostgresError, Unsealable):
            async with self._database.connection() as connection:
                rows = await store.anybodys(connection, number)
            for row in rows:
                self._credentials(row)

    def _credentials(self, row: HeldRow) -> Credentials:
        return open_credentials(self._keys, row.device.device_id, CredentialsType(row.type), row.sealed)

    def _open(self, row: HeldRow) -> Held:
        type_ = CredentialsType(row.type)
        basic = None
        if type_ is CredentialsType.MQTT_BASIC:
            value = self._credentials(row).value
            basic = value if isinstance(value, MqttBasic) else None
        return Held(row.device, type_, row.used, basic, row.expired)

    async def _use(self, id_digests: Sequence[bytes]) -> dict[bytes, Exception]:
        """Record first uses, all at once or, when that fails, one by one; returns those that could not be.

        What went meanwhile lets nobody in: nothing has given way to it.
        """
        try:
            async with self._database.transaction() as connection:
                used = await store.use(connection, id_digests)
                others = [each for each in id_digests if each not in used]
                if not others or self._keys.unsettled:  # a rotation may have given them another digest
                    return {}
                there = await store.held(connection, others)
        except PostgresError as fault:
            if len(id_digests) == 1:
                log.warning("a first use could not be recorded: %s", type(fault).__name__)
                return {id_digests[0]: Unavailable("The first use could not be recorded.")}
            failed: dict[bytes, Exception] = {}
            for digest in id_digests:
                failed |= await self._use([digest])
            return failed
        return {each: Unavailable("The credentials went just now.") for each in others if each not in there}


async def _counted(peer: Peer, judging: Awaitable[Authenticated | Denial]) -> Authenticated | Denial:
    try:
        found = await judging
    except Unavailable:
        metrics.AUTHENTICATIONS.cell(peer.transport.value, metrics.UNAVAILABLE).value += 1
        raise
    if isinstance(found, Denial):
        metrics.AUTHENTICATIONS.cell(peer.transport.value, found.name.lower()).value += 1
    else:
        _ACCEPTED[peer.transport].value += 1
    return found


def _device_id(identity: str) -> UUID | None:
    """The device id that a text is, in the one form that devices are told it in."""
    try:
        id_ = UUID(identity)
    except ValueError:
        return None
    return id_ if str(id_) == identity.lower() else None

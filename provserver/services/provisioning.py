"""The one entrance for every transport: a payload and a peer in, an answer out.

Decode and admit here; what is admitted is settled in groups (`settlement.py`); every attempt is recorded.
"""

import asyncio
import logging
import os
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Hashable, Sequence
from functools import partial
from operator import attrgetter
from typing import NamedTuple
from uuid import UUID

from msgspec import Struct

from provserver import metrics
from provserver.core import ids, sealed, signing, wire
from provserver.core.decision import Intent, Reason, Refusal, admit
from provserver.core.events import EventType
from provserver.core.model import Peer, ProvisionKey, ProvisionStrategy, Transport
from provserver.core.secrets import ServerKeys
from provserver.core.wire import Granted, ProvisionRequest
from provserver.errors import RENDERINGS, Outcome, Unavailable, described
from provserver.services.attempts import Attempts
from provserver.services.clones import Clones
from provserver.services.grouping import Grouper
from provserver.services.limits import GUESSES, TOLD, Limits, Turns, retry_after, source_of
from provserver.services.provision_writes import HINT_LENGTH
from provserver.services.request_keys import Opening
from provserver.services.settlement import Settlement
from provserver.services.ticket import StaleProfile, Ticket
from provserver.store import profiles
from provserver.store.database import Database
from provserver.store.profiles import Unproven

log = logging.getLogger("provserver.provisioning")

_SUCCESS = Outcome.SUCCESS  # found once: see core/decision.py
_ALLOW_CREATE = ProvisionStrategy.ALLOW_CREATE_NEW_DEVICES
_CHECK = ProvisionStrategy.CHECK_PRE_PROVISIONED_DEVICES

_UNPROVEN = {Reason.NAME_BLANK, Reason.KEY_MISSING, Reason.KEY_UNKNOWN, Reason.SECRET_WRONG}

_ON_PROFILE = {
    Reason.KEY_UNKNOWN,
    Reason.SECRET_WRONG,
    Reason.KEY_NOT_YET_VALID,
    Reason.KEY_EXPIRED,
    Reason.NETWORK_EXCLUDED,
    Reason.PROFILE_DISABLED,
    Reason.CHAIN_ONLY,
    Reason.NAME_REQUIRED,
    Reason.APPROVAL_UNNAMED,
    Reason.KEY_BUSY,
}
"""Refusals that rest on the profile and its keys alone, hence on a copy that may be old."""


_LOOK_AT_KEYS = 10.0
"""Seconds between two looks at how many devices came by each provision key."""

_HEARD, _GUESSED, _COUNTED, _WENT, _DOUBTED = 1, 2, 4, 8, 16
"""What was counted of a request: heard although its address is locked; a guess; one of its key's; its turn came to have
its name looked for; among those of its address whose look-up says whether they are guesses."""


class _Wanted(NamedTuple):
    """A provision key to look up, and the secret that it came with. sharer: who takes turns with others."""

    key: str
    secret: str
    sharer: Hashable


class Answer(Struct, frozen=True, gc=False):
    """What a transport sends back.

    body: the reply's bytes, JSON or protobuf as the request was; empty when the outcome has no reply.
    retry_after: seconds after which to ask again; 0 when nothing is said of it.
    """

    outcome: Outcome
    body: bytes
    protobuf: bool = False
    retry_after: int = 0

    def __repr__(self) -> str:  # the body is full of secrets
        return f"<Answer {self.outcome}>"


Done = Callable[[Answer], None]


class Provisioning:
    """Decides and records provision requests. wait_limit: seconds a request may wait for Postgres.

    limits: who asks too often; None: nobody.
    """

    def __init__(
        self,
        database: Database,
        keys: ServerKeys,
        *,
        limits: Limits | None = None,
        wait_limit: float = 10.0,
        random: ids.Randomness = os.urandom,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._database = database
        self._limits = limits or Limits()
        self._keys = keys
        self._wait_limit = wait_limit
        self._clock = clock
        self._granted = {each: metrics.PROVISIONS.cell(each.value, _SUCCESS.value) for each in Transport}
        self._seconds = metrics.PROVISION_SECONDS.cell()
        self._recognised: dict[str, ProvisionKey] = {}
        self._made: dict[str, int] = defaultdict(int)  # devices, by their provision keys, since these were looked at
        self._next_look: asyncio.TimerHandle | None = None
        self._tickets: Grouper[Ticket, Granted | Refusal] = Grouper(
            "provision",
            self._settle,
            sharer=lambda ticket: ticket.intent.profile.id,
        )
        self._turns = Turns(self._limits)
        self._doubts: Counter[Hashable] = Counter()  # by address: what is looked up and may be a guess
        self._clones = Clones(database, random)
        self._settlement = Settlement(database, keys, random, clock, self._clones)
        self._lookups: Grouper[_Wanted, ProvisionKey | Unproven | None] = Grouper(
            "provision-key", self._recognise, sharer=attrgetter("sharer")
        )
        self._opening = Opening(database, keys)
        self._attempts = Attempts(database, random, clock)
        self._under_way: deque[_Request] = deque()  # in the order in which their time is up; some are answered
        self._timer: asyncio.TimerHandle | None = None

    async def answer(self, payload: bytes, peer: Peer, *, accept_protobuf: bool = True) -> Answer:
        """As `request`, for those who can wait."""
        answered: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()

        def done(answer: Answer) -> None:
            if not answered.done():
                answered.set_result(answer)

        self.request(payload, peer, done, accept_protobuf=accept_protobuf)
        return await answered

    def request(
        self,
        payload: bytes,
        peer: Peer,
        done: Done,
        *,
        accept_protobuf: bool = True,
        opened: bytes | None = None,
        heard: bool = False,
    ) -> None:
        """Decode, decide, commit, encode; `done` is called once with the answer, at once or later. No task is made.

        Never raises, and there is always an answer, whatever a device sent and whether Postgres is there or not.
        opened: the sealed request that the payload was in. heard: it was, although its address is locked.
        """
        try:
            decoded = wire.decode(payload, accept_protobuf=accept_protobuf, proved=_proved(peer))
        except wire.Undecodable:
            if opened is None and self._turn_away(peer, "UNDECODABLE", done):
                return
            if self._limits.recorded(peer, "UNDECODABLE"):
                self._attempts.note(peer, Outcome.UNDECODABLE, "UNDECODABLE")
            _count_refused(peer, Outcome.UNDECODABLE, "UNDECODABLE")
            done(Answer(Outcome.UNDECODABLE, b""))
            return
        except wire.InvalidRequest as fault:
            if opened is not None or not self._turn_away(peer, "INVALID", done, protobuf=fault.protobuf):
                self._invalid(str(fault), peer, done, protobuf=fault.protobuf)
            return
        except wire.Sealed as fault:
            self._open(fault.request, peer, done, nested=opened is not None)
            return
        if decoded.answer_key is not None:
            done = _sealing(decoded.answer_key, opened or b"", done)
        elif opened is not None:
            self._invalid("Failed to find the field answerKey!", peer, done)
            return
        loop = asyncio.get_running_loop()
        asked = _Request(self, decoded, peer, done, loop.time() + self._wait_limit)
        if heard:
            asked.limits = _HEARD
        elif self._limits.watchful() and not self._hear(asked, provisions=opened is None):
            return
        asked.key = self._recognised.get(decoded.key)
        self._consider(asked)
        if asked.done is not None:
            self._under_way.append(asked)
            if self._timer is None:
                self._timer = loop.call_at(asked.deadline, self._expire)

    async def drain(self) -> None:
        """Wait until everything that was asked is settled and recorded."""
        while self._opening.busy or self._lookups.busy or self._tickets.busy:  # what is settled may be looked up again
            await self._opening.drain()
            await self._lookups.drain()
            await self._tickets.drain()
        self._look_at_keys()
        await self._attempts.drain()
        await self._clones.drain()

    def _invalid(self, message: str, peer: Peer, done: Done, *, protobuf: bool = False) -> None:
        if self._limits.recorded(peer, "INVALID"):
            self._attempts.note(peer, Outcome.INVALID, "INVALID", message)
        _count_refused(peer, Outcome.INVALID, "INVALID")
        body = wire.encode_refusal(Outcome.INVALID, protobuf=protobuf, message=message)
        done(Answer(Outcome.INVALID, body, protobuf))

    def _turn_away(
        self, peer: Peer, what: Hashable, done: Done, *, provisions: bool = True, protobuf: bool = False
    ) -> bool:
        """Whether what cannot be read is not even heard; it is answered then."""
        limits = self._limits
        if not limits.watchful() or (reason := limits.hold(peer, what, provisions=provisions)) is None:
            return False
        if limits.noteworthy(peer, reason.name):
            self._attempts.note(peer, reason.outcome, reason.name)
        _count_refused(peer, reason.outcome, reason.name)
        done(_refused(ProvisionRequest("", "", protobuf=protobuf), reason.outcome))
        return True

    def _open(self, request: wire.SealedRequest, peer: Peer, done: Done, *, nested: bool) -> None:
        limits, told, heard = self._limits, False, False

        def listen(*, provisions: bool = False) -> bool:
            nonlocal told, heard
            if not heard and limits.watchful():  # of many that came at once, the first may have had the address locked
                told = self._turn_away(peer, request.sealed, done, provisions=provisions)
                heard = not told and limits.locked(peer)
            return not told

        def opened(payload: bytes | Exception | None) -> None:
            if told or (payload is None and not listen()):
                return
            if payload is None:
                limits.guessed(peer, request.sealed)
                self._invalid("sealed cannot be opened with the key of this keyId!", peer, done)
            elif isinstance(payload, Exception):
                if not isinstance(payload, Unavailable):
                    log.error("a sealed request failed: %s", described(payload))
                _count_refused(peer, Outcome.UNAVAILABLE)
                done(_refused(_FORGOTTEN, Outcome.UNAVAILABLE))
            else:
                self.request(payload, peer, done, accept_protobuf=False, opened=request.sealed, heard=heard)

        if nested:
            self._invalid("sealed must hold a request in the clear!", peer, done)
        elif listen(provisions=True):
            self._opening.submit_to(request, opened, source=source_of(peer), heard=listen)

    def _consider(self, asked: "_Request", *, fresh: bool = False) -> None:
        """Admit a request, on the profile as it is in memory or, fresh, in the database; have it settled."""
        try:
            verdict = admit(asked.request, asked.key, self._secret_matches, asked.peer.address, self._clock)
            if asked.request.csr is not None and isinstance(verdict, Intent):
                verdict = signing.requested(verdict, asked.request)
            found = self._ticket(verdict, asked) if isinstance(verdict, Intent) else verdict
        except Exception as fault:
            asked.settled(fault)
            return
        if isinstance(found, Ticket):
            if not fresh and self._doubts and self._limits.short(asked.peer, self._doubts[source_of(asked.peer)]):
                self._doubt(asked)  # guesses are looked up that may have its address locked: it is judged after them
                return
            if (over := self._count(asked)) is None:
                if found.intent.profile.strategy is not _CHECK or asked.limits & _WENT:
                    self._tickets.submit_to(found, asked.settled)
                elif not self._turns.enter(asked.peer, partial(self._go, asked, found)):
                    asked.settled(Unavailable("Too many names are waiting to be looked for."))
                return
            found = over
        if fresh or found.reason not in _ON_PROFILE:
            self._refuse(asked, found)
        else:  # nobody is turned away on an old copy of what the database says
            if found.reason in GUESSES:
                self._doubt(asked)
            else:
                self._look_again(asked)

    def _go(self, asked: "_Request", ticket: Ticket) -> bool:
        """Look for a name, now that it is its turn; whether it came to that."""
        if asked.done is None or (not asked.limits & _HEARD and self._limits.watchful() and not self._hear(asked)):
            return False
        asked.limits |= _WENT
        self._tickets.submit_to(ticket, asked.settled)
        return True

    def _hear(self, asked: "_Request", *, provisions: bool = False) -> bool:
        """Whether a request is heard; if not, it is answered."""
        reason = self._limits.hold(asked.peer, _presented(asked.request), provisions=provisions)
        if reason is None:
            if self._limits.locked(asked.peer):
                asked.limits |= _HEARD
            return True
        self._refuse(asked, Refusal(reason))
        return False

    def _count(self, asked: "_Request") -> Refusal | None:
        """Why a request that is right is one too many."""
        key = asked.key
        if key is None or asked.limits & _COUNTED or not self._limits.counts(key):
            return None
        reason = self._limits.count(asked.peer, key, _called(asked.request))
        if reason is None:
            asked.limits |= _COUNTED
            return None
        return Refusal(reason)

    def _charge(self, asked: "_Request", refusal: Refusal) -> bool:
        """Count a refusal for what it is; returns whether it is to be recorded."""
        limits, peer, key, reason = self._limits, asked.peer, asked.key, refusal.reason
        if reason in GUESSES:
            limits.guessed(peer, _presented(asked.request))
            asked.limits |= _GUESSED
        if key is not None and reason in TOLD:
            limits.refused(peer, key, _called(asked.request))
        if reason is Reason.KEY_BUSY and key is not None and key.budget is not None:
            self._tell_of(key, key.budget.per_minute or 0)
        return refusal.outcome is not Outcome.LIMITED or limits.noteworthy(peer, reason.name)

    def _look_at_keys(self) -> None:
        """Tell of those by which more devices came than usually come: of a key that has leaked, that is."""
        if self._next_look is not None:
            self._next_look.cancel()
            self._next_look = None
        made, self._made = self._made, defaultdict(int)
        for name, devices in made.items():
            key = self._recognised.get(name)
            if key is None or (key.budget is not None and key.budget.per_minute):  # which has a rate of its own
                continue
            if self._limits.burns(key, devices):
                self._tell_of(key, self._limits.usual_rate)

    def _tell_of(self, key: ProvisionKey, per_minute: int) -> None:
        self._attempts.signals.note(
            EventType.PROVISION_KEY_BURNING,
            (key.profile.id, key.key),
            {
                "profileId": str(key.profile.id),
                "hint": key.key[:HINT_LENGTH],
                "cause": "rate",
                "perMinute": per_minute,
            },
            organization_id=key.profile.organization_id,
        )

    def _doubt(self, asked: "_Request") -> None:
        """Look up what may be a guess: a wrong secret as an unknown key, lest the order of answers tells them apart."""
        asked.limits |= _DOUBTED
        self._doubts[source_of(asked.peer)] += 1
        self._look_again(asked)

    def _judge(self, asked: "_Request") -> None:
        """It is looked up: no doubt any more."""
        source = source_of(asked.peer)
        asked.limits &= ~_DOUBTED
        self._doubts[source] -= 1
        if not self._doubts[source]:
            del self._doubts[source]

    def _look_again(self, asked: "_Request") -> None:
        request, key = asked.request, asked.key
        if "\0" in request.key:  # no text of Postgres has one
            asked.looked_up(None)
            return
        # Profiles take turns, and addresses of whom nobody knows to be of one; what is in doubt stays in its address'
        # order, and what a guess is for tells nothing.
        sharer = source_of(asked.peer) if key is None or asked.limits & _DOUBTED else key.profile.id
        self._lookups.submit_to(_Wanted(request.key, request.secret, sharer), asked.looked_up)

    def _refuse(self, asked: "_Request", refusal: Refusal, profile_id: UUID | None = None) -> None:
        request = asked.request
        if asked.key is not None:
            profile_id = asked.key.profile.id
        # Before the secret is known to be right, what stands as a name may be a secret in the wrong member.
        name = request.device_name if refusal.reason not in _UNPROVEN else None
        if self._charge(asked, refusal):
            self._attempts.note(
                asked.peer, refusal.outcome, refusal.reason.name, refusal.detail, profile_id=profile_id, name=name
            )
        _count_refused(asked.peer, refusal.outcome, refusal.reason.name)
        message = f"{refusal.reason.text}!" if refusal.outcome is Outcome.INVALID else None
        self._answer(asked, _refused(request, refusal.outcome, message))

    def _answer(self, asked: "_Request", answer: Answer) -> None:
        done, asked.done = asked.done, None
        if done is None:
            return  # its time was up
        asked.request = _FORGOTTEN  # as it may stand behind one that is answered much later
        if asked.limits & _WENT:
            self._turns.leave(asked.peer, wrong=bool(asked.limits & _GUESSED))
        under_way = self._under_way
        while under_way and under_way[0].done is None:
            under_way.popleft()
        try:
            done(answer)
        except Exception as fault:
            log.error("an answer failed: %s", described(fault))  # noqa: TRY400 - it may quote the request

    def _expire(self) -> None:
        """Answer those whose time is up."""
        loop = asyncio.get_running_loop()
        under_way, now = self._under_way, loop.time()
        while under_way and (under_way[0].done is None or under_way[0].deadline <= now):
            asked = under_way.popleft()
            if asked.done is not None:
                _count_refused(asked.peer, Outcome.UNAVAILABLE)
                self._answer(asked, _refused(asked.request, Outcome.UNAVAILABLE))
        self._timer = loop.call_at(under_way[0].deadline, self._expire) if under_way else None

    def _ticket(self, intent: Intent, asked: "_Request") -> Ticket:
        keys, nonce, supplied = self._keys, intent.nonce, intent.supplied
        return Ticket(
            intent,
            asked.peer,
            asked.deadline,
            keys.digest("request-nonce", intent.profile.id.bytes, nonce) if nonce else None,
            keys.digest("request", asked.request.canonical()) if nonce else None,
            keys.digest("credentials", supplied.id) if supplied else None,
            # A key that is used up is still good for a repeat, which only a look tells from the first request.
            look=intent.profile.strategy is not _ALLOW_CREATE or intent.profile.approval or intent.metered is not None,
            canonical=asked.request.canonical if nonce else None,
        )

    async def _settle(self, tickets: Sequence[Ticket]) -> list[Granted | Refusal | Exception]:
        results = await self._settlement.settle(tickets)
        loop = asyncio.get_running_loop()
        self._seconds.observe(loop.time() - tickets[0].deadline + self._wait_limit)
        if self._next_look is None:
            self._next_look = loop.call_later(_LOOK_AT_KEYS, self._look_at_keys)
        return results

    def _secret_matches(self, digest: bytes, secret: str) -> bool:
        return self._keys.verify(digest, "provision-secret", secret)

    async def _recognise(self, wanted: Sequence[_Wanted]) -> list[ProvisionKey | Unproven | Exception | None]:
        """Look up provision keys, each with the secret that it came with."""
        keys, epoch = self._keys, 0
        found: dict[str, ProvisionKey | Unproven] = {}
        async with self._database.connection() as connection:
            while epoch != keys.epoch:  # versions of the keys may come while we look
                epoch = keys.epoch
                digests = {digest for each in wanted for digest in keys.digests("provision-secret", each.secret)}
                found = await profiles.prove(connection, list({each.key for each in wanted}), list(digests))
        recognised = self._recognised  # holds keys that exist only, so guesses cannot fill it
        for key, _, _ in wanted:
            known, now = recognised.get(key), found.get(key)
            if isinstance(now, ProvisionKey):
                recognised[key] = now
            elif known is not None and (now is None or now.secret_digest != known.secret_digest):
                del recognised[key]
        return [found.get(each.key) for each in wanted]


class _Request:
    """A request on its way. done: None once it is answered. key: what its provision key is known as.

    limits: of _HEARD, _GUESSED, _COUNTED, _WENT, _DOUBTED.
    """

    __slots__ = ("_provisioning", "deadline", "done", "key", "limits", "peer", "request")

    def __init__(
        self, provisioning: Provisioning, request: ProvisionRequest, peer: Peer, done: Done, deadline: float
    ) -> None:
        self._provisioning = provisioning
        self.request = request
        self.peer = peer
        self.done: Done | None = done
        self.deadline = deadline
        self.key: ProvisionKey | None = None
        self.limits = 0

    def settled(self, result: Granted | Refusal | Exception) -> None:
        """What became of its ticket."""
        if self.done is None:
            return
        provisioning, request = self._provisioning, self.request
        if isinstance(result, Granted):
            if (key := self.key) is not None:
                if result.repeated:
                    provisioning._limits.repeated(self.peer, key, _called(request))  # noqa: SLF001
                else:
                    provisioning._made[key.key] += 1  # noqa: SLF001
            body = wire.encode_granted(result, protobuf=request.protobuf)
            provisioning._granted[self.peer.transport].value += 1  # noqa: SLF001
            provisioning._answer(self, Answer(_SUCCESS, body, request.protobuf))  # noqa: SLF001 - one thing
        elif isinstance(result, Refusal):
            provisioning._refuse(self, result)  # noqa: SLF001
        elif isinstance(result, StaleProfile):
            provisioning._look_again(self)  # noqa: SLF001
        else:
            if not isinstance(result, Unavailable):
                log.error("a provision request failed: %s", described(result))
            _count_refused(self.peer, Outcome.UNAVAILABLE)
            provisioning._answer(self, _refused(request, Outcome.UNAVAILABLE))  # noqa: SLF001

    def looked_up(self, result: ProvisionKey | Unproven | Exception | None) -> None:
        """What its provision key is, in the database."""
        provisioning, doubted = self._provisioning, self.limits & _DOUBTED
        if doubted:
            provisioning._judge(self)  # noqa: SLF001
        if isinstance(result, Exception):
            self.settled(result)
        elif self.done is not None:
            self.key = result if isinstance(result, ProvisionKey) else None
            # Of many that came at once, the guesses among the first may have had the address locked.
            late = doubted and not self.limits & _HEARD and provisioning._limits.watchful()  # noqa: SLF001
            if late and not provisioning._hear(self):  # noqa: SLF001
                return
            if self.key is not None:
                provisioning._consider(self, fresh=True)  # noqa: SLF001
            elif isinstance(result, Unproven):
                provisioning._refuse(self, _SECRET_WRONG, result.profile_id)  # noqa: SLF001
            else:
                provisioning._refuse(self, _KEY_UNKNOWN)  # noqa: SLF001


_FORGOTTEN = ProvisionRequest("", "")
_KEY_UNKNOWN, _SECRET_WRONG = Refusal(Reason.KEY_UNKNOWN), Refusal(Reason.SECRET_WRONG)


def _refused(request: ProvisionRequest, outcome: Outcome, message: str | None = None) -> Answer:
    wait = retry_after() if RENDERINGS[outcome].retried else 0
    body = wire.encode_refusal(outcome, protobuf=request.protobuf, message=message, retry_after=wait)
    return Answer(outcome, body, request.protobuf, wait)


def _sealing(key: bytes, request: bytes, done: Done) -> Done:
    """Answers, sealed to a device's key, of what came sealed or, request being empty, in the clear."""

    def answer(plain: Answer) -> None:
        body = sealed.seal_answer(plain.body, key, request)
        done(Answer(plain.outcome, body, plain.protobuf, plain.retry_after))

    return answer


def _presented(request: ProvisionRequest) -> Hashable:
    """By what a request is told from others of its address."""
    return request.key, request.secret, request.device_name


def _called(request: ProvisionRequest) -> str | None:
    """By what a device is told from others that have its key."""
    return request.device_name or request.request_nonce


def _count_refused(peer: Peer, outcome: Outcome, reason: str | None = None) -> None:
    metrics.PROVISIONS.cell(peer.transport.value, outcome.value).value += 1
    if reason is not None:
        metrics.REFUSALS.cell(reason).value += 1


def _proved(peer: Peer) -> tuple[str, str] | None:
    """The provision key and secret that a PSK or OSCORE channel is protected with."""
    psk = peer.psk
    return None if psk is None or psk.id_digest is not None else (psk.identity, psk.key.decode())

"""The one entrance for every transport: a payload and a peer in, an answer out.

Decode and admit here; what is admitted is settled in groups (`settlement.py`); every attempt is recorded.
"""

import asyncio
import logging
import os
import time
import traceback
from collections import deque
from collections.abc import Callable, Sequence

from msgspec import Struct

from provserver.core import ids, wire
from provserver.core.decision import Intent, Reason, Refusal, admit
from provserver.core.model import Peer, ProvisionKey, ProvisionStrategy
from provserver.core.secrets import ServerKeys
from provserver.core.wire import Granted, ProvisionRequest
from provserver.errors import Outcome, Unavailable
from provserver.services.attempts import Attempts
from provserver.services.grouping import Grouper
from provserver.services.settlement import Settlement, StaleProfile, Ticket
from provserver.store import profiles
from provserver.store.database import Database

log = logging.getLogger("provserver.provisioning")

_SUCCESS = Outcome.SUCCESS  # found once: see core/decision.py
_ALLOW_CREATE = ProvisionStrategy.ALLOW_CREATE_NEW_DEVICES

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
}
"""Refusals that rest on the profile and its keys alone, hence on a copy that may be old."""


class Answer(Struct, frozen=True, gc=False):
    """What a transport sends back.

    body: the reply's bytes, JSON or protobuf as the request was; empty when the outcome has no reply.
    """

    outcome: Outcome
    body: bytes
    protobuf: bool = False

    def __repr__(self) -> str:  # the body is full of secrets
        return f"<Answer {self.outcome}>"


Done = Callable[[Answer], None]


class Provisioning:
    """Decides and records provision requests. wait_limit: seconds a request may wait for Postgres."""

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
        self._clock = clock
        self._recognised: dict[str, ProvisionKey] = {}
        self._tickets: Grouper[Ticket, Granted | Refusal] = Grouper(
            "provision",
            Settlement(database, keys, random, clock).settle,
            sharer=lambda ticket: ticket.intent.profile.id,
        )
        self._lookups = Grouper("provision-key", self._recognise)
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

    def request(self, payload: bytes, peer: Peer, done: Done, *, accept_protobuf: bool = True) -> None:
        """Decode, decide, commit, encode; `done` is called once with the answer, at once or later. No task is made.

        Never raises, and there is always an answer, whatever a device sent and whether Postgres is there or not.
        """
        try:
            decoded = wire.decode(payload, accept_protobuf=accept_protobuf, proved=_proved(peer))
        except wire.Undecodable:
            self._attempts.note(peer, Outcome.UNDECODABLE, "UNDECODABLE")
            done(Answer(Outcome.UNDECODABLE, b""))
            return
        except wire.InvalidRequest as fault:
            self._attempts.note(peer, Outcome.INVALID, "INVALID", str(fault))
            body = wire.encode_refusal(Outcome.INVALID, protobuf=fault.protobuf, message=str(fault))
            done(Answer(Outcome.INVALID, body, fault.protobuf))
            return
        loop = asyncio.get_running_loop()
        asked = _Request(self, decoded, peer, done, loop.time() + self._wait_limit)
        asked.key = self._recognised.get(decoded.key)
        self._consider(asked)
        if asked.done is not None:
            self._under_way.append(asked)
            if self._timer is None:
                self._timer = loop.call_at(asked.deadline, self._expire)

    async def drain(self) -> None:
        """Wait until everything that was asked is settled and recorded."""
        while self._lookups.busy or self._tickets.busy:  # what is settled may have to be looked up again
            await self._lookups.drain()
            await self._tickets.drain()
        await self._attempts.drain()

    def _consider(self, asked: "_Request", *, fresh: bool = False) -> None:
        """Admit a request, on the profile as it is in memory or, fresh, in the database; have it settled."""
        try:
            verdict = admit(asked.request, asked.key, self._secret_matches, asked.peer.address, self._clock)
            found = self._ticket(verdict, asked) if isinstance(verdict, Intent) else verdict
        except Exception as fault:
            asked.settled(fault)
            return
        if isinstance(found, Ticket):
            self._tickets.submit_to(found, asked.settled)
        elif fresh or found.reason not in _ON_PROFILE:
            self._refuse(asked, found)
        else:  # nobody is turned away on an old copy of what the database says
            self._look_again(asked)

    def _look_again(self, asked: "_Request") -> None:
        if "\0" in asked.request.key:  # no text of Postgres has one
            asked.looked_up(None)
        else:
            self._lookups.submit_to(asked.request.key, asked.looked_up)

    def _refuse(self, asked: "_Request", refusal: Refusal) -> None:
        request = asked.request
        profile_id = asked.key.profile.id if asked.key is not None else None
        # Before the secret is known to be right, what stands as a name may be a secret in the wrong member.
        name = request.device_name if refusal.reason not in _UNPROVEN else None
        self._attempts.note(
            asked.peer, refusal.outcome, refusal.reason.name, refusal.detail, profile_id=profile_id, name=name
        )
        message = f"{refusal.reason.text}!" if refusal.outcome is Outcome.INVALID else None
        body = wire.encode_refusal(refusal.outcome, protobuf=request.protobuf, message=message)
        self._answer(asked, Answer(refusal.outcome, body, request.protobuf))

    def _answer(self, asked: "_Request", answer: Answer) -> None:
        done, asked.done = asked.done, None
        if done is None:
            return  # its time was up
        asked.request = _FORGOTTEN  # as it may stand behind one that is answered much later
        under_way = self._under_way
        while under_way and under_way[0].done is None:
            under_way.popleft()
        try:
            done(answer)
        except Exception as fault:
            _log_failure("an answer", fault)

    def _expire(self) -> None:
        """Answer those whose time is up."""
        loop = asyncio.get_running_loop()
        under_way, now = self._under_way, loop.time()
        while under_way and (under_way[0].done is None or under_way[0].deadline <= now):
            asked = under_way.popleft()
            if asked.done is not None:
                self._answer(asked, _unavailable(asked.request))
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
            look=intent.profile.strategy is not _ALLOW_CREATE,
        )

    def _secret_matches(self, digest: bytes, secret: str) -> bool:
        return self._keys.verify(digest, "provision-secret", secret)

    async def _recognise(self, wanted: Sequence[str]) -> list[ProvisionKey | Exception | None]:
        async with self._database.connection() as connection:
            found = await profiles.recognise(connection, list(set(wanted)))
        for key in wanted:
            self._recognised.pop(key, None)
        self._recognised.update(found)  # holds keys that exist only, so guesses cannot fill it
        return [found.get(key) for key in wanted]


class _Request:
    """A request on its way. done: None once it is answered. key: what its provision key is known as."""

    __slots__ = ("_provisioning", "deadline", "done", "key", "peer", "request")

    def __init__(
        self, provisioning: Provisioning, request: ProvisionRequest, peer: Peer, done: Done, deadline: float
    ) -> None:
        self._provisioning = provisioning
        self.request = request
        self.peer = peer
        self.done: Done | None = done
        self.deadline = deadline
        self.key: ProvisionKey | None = None

    def settled(self, result: Granted | Refusal | Exception) -> None:
        """What became of its ticket."""
        if self.done is None:
            return
        provisioning, request = self._provisioning, self.request
        if isinstance(result, Granted):
            body = wire.encode_granted(result, protobuf=request.protobuf)
            provisioning._answer(self, Answer(_SUCCESS, body, request.protobuf))  # noqa: SLF001 - one thing
        elif isinstance(result, Refusal):
            provisioning._refuse(self, result)  # noqa: SLF001
        elif isinstance(result, StaleProfile):
            provisioning._look_again(self)  # noqa: SLF001
        else:
            if not isinstance(result, Unavailable):
                _log_failure("a provision request", result)
            provisioning._answer(self, _unavailable(request))  # noqa: SLF001

    def looked_up(self, result: ProvisionKey | Exception | None) -> None:
        """What its provision key is, in the database."""
        if isinstance(result, Exception):
            self.settled(result)
        elif self.done is not None:
            self.key = result
            self._provisioning._consider(self, fresh=True)  # noqa: SLF001


_FORGOTTEN = ProvisionRequest("", "")


def _unavailable(request: ProvisionRequest) -> Answer:
    body = wire.encode_refusal(Outcome.UNAVAILABLE, protobuf=request.protobuf)
    return Answer(Outcome.UNAVAILABLE, body, request.protobuf)


def _log_failure(what: str, fault: Exception) -> None:
    """Where and what it was; not its message, which may quote the request."""
    at = traceback.extract_tb(fault.__traceback__)[-1]
    log.error("%s failed: %s at %s:%s", what, type(fault).__qualname__, at.filename, at.lineno)


def _proved(peer: Peer) -> tuple[str, str] | None:
    """The provision key and secret that a PSK or OSCORE channel is protected with."""
    psk = peer.psk
    return None if psk is None or psk.id_digest is not None else (psk.identity, psk.key.decode())

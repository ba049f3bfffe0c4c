"""The one entrance for every transport: a payload and a peer in, an answer out.

Decode and admit here; what is admitted is settled in groups (`settlement.py`); every attempt is recorded.
"""

import asyncio
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from provserver.core import ids, wire
from provserver.core.decision import Fresh, Intent, Reason, Refusal, admit
from provserver.core.model import Peer, ProvisionKey, ProvisionStrategy
from provserver.core.secrets import ServerKeys
from provserver.core.wire import Granted, ProvisionRequest
from provserver.errors import Outcome, Unavailable
from provserver.services.attempts import Attempts
from provserver.services.grouping import Grouper
from provserver.services.settlement import Settlement, StaleProfile, Ticket
from provserver.store import profiles
from provserver.store.database import Database

_UNPROVEN = {Reason.NAME_BLANK, Reason.KEY_MISSING, Reason.KEY_UNKNOWN, Reason.SECRET_WRONG}

_ON_PROFILE = {
    Reason.KEY_UNKNOWN,
    Reason.SECRET_WRONG,
    Reason.PROFILE_DISABLED,
    Reason.CHAIN_ONLY,
    Reason.NAME_REQUIRED,
}
"""Refusals that rest on the profile and its keys alone, hence on a copy that may be old."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a transport sends back.

    body: the reply's bytes, JSON or protobuf as the request was; empty when the outcome has no reply.
    """

    outcome: Outcome
    body: bytes
    protobuf: bool = False


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
        self._random = random
        self._clock = clock
        self._recognised: dict[str, ProvisionKey] = {}
        self._tickets: Grouper[Ticket, Granted | Refusal] = Grouper(
            "provision", Settlement(database, keys, random, clock).settle
        )
        self._lookups = Grouper("provision-key", self._recognise)
        self._attempts = Attempts(database, random, clock)

    async def answer(self, payload: bytes, peer: Peer, *, accept_protobuf: bool = True) -> Answer:
        """Decode, decide, commit, encode. Never raises for what a device sent or for an absent Postgres."""
        try:
            request = wire.decode(payload, accept_protobuf=accept_protobuf, proved=_proved(peer))
        except wire.Undecodable:
            self._attempts.note(peer, Outcome.UNDECODABLE, "UNDECODABLE")
            return Answer(Outcome.UNDECODABLE, b"")
        except wire.InvalidRequest as fault:
            self._attempts.note(peer, Outcome.INVALID, "INVALID", str(fault))
            body = wire.encode_refusal(Outcome.INVALID, protobuf=fault.protobuf, message=str(fault))
            return Answer(Outcome.INVALID, body, fault.protobuf)
        try:
            async with asyncio.timeout(self._wait_limit):
                verdict = await self.provision(request, peer)
        except (Unavailable, TimeoutError):
            body = wire.encode_refusal(Outcome.UNAVAILABLE, protobuf=request.protobuf)
            return Answer(Outcome.UNAVAILABLE, body, request.protobuf)
        if isinstance(verdict, Granted):
            body = wire.encode_granted(verdict, protobuf=request.protobuf)
            return Answer(Outcome.SUCCESS, body, request.protobuf)
        message = f"{verdict.reason.text}!" if verdict.outcome is Outcome.INVALID else None
        body = wire.encode_refusal(verdict.outcome, protobuf=request.protobuf, message=message)
        return Answer(verdict.outcome, body, request.protobuf)

    async def provision(self, request: ProvisionRequest, peer: Peer) -> Granted | Refusal:
        """Decide one request, commit what it deserves, record the attempt. Raises Unavailable."""
        key = self._recognised.get(request.key)
        verdict = admit(request, key, self._secret_matches)
        if isinstance(verdict, Refusal) and verdict.reason in _ON_PROFILE:
            # Nobody is turned away on an old copy of what the database says.
            key = await self._fresh_key(request.key)
            verdict = admit(request, key, self._secret_matches)
        while isinstance(verdict, Intent):
            try:
                settled = await self._tickets.submit(self._ticket(verdict, request, peer))
            except StaleProfile:
                key = await self._fresh_key(request.key)
                verdict = admit(request, key, self._secret_matches)
                continue
            if isinstance(settled, Granted):
                return settled
            verdict = settled
        profile_id = key.profile.id if key is not None else None
        # Before the secret is known to be right, what stands as a name may be a secret in the wrong member.
        name = request.device_name if verdict.reason not in _UNPROVEN else None
        self._attempts.note(
            peer, verdict.outcome, verdict.reason.name, verdict.detail, profile_id=profile_id, name=name
        )
        return verdict

    async def drain(self) -> None:
        """Wait until everything that was asked is settled and recorded."""
        for part in (self._lookups, self._tickets, self._attempts):
            await part.drain()

    def _ticket(self, intent: Intent, request: ProvisionRequest, peer: Peer) -> Ticket:
        now = self._clock()
        keys, nonce, supplied = self._keys, intent.nonce, intent.supplied
        return Ticket(
            intent,
            peer,
            asyncio.get_running_loop().time() + self._wait_limit,
            ids.uuid7(now, self._random),
            ids.uuid7(now, self._random),
            Fresh(ids.token(self._random), ids.device_name(self._random)),
            keys.digest("request-nonce", intent.profile.id.bytes, nonce) if nonce else None,
            keys.digest("request", request.canonical()) if nonce else None,
            keys.digest("credentials", supplied.id) if supplied else None,
            look=intent.profile.strategy is not ProvisionStrategy.ALLOW_CREATE_NEW_DEVICES,
        )

    def _secret_matches(self, digest: bytes, secret: str) -> bool:
        return self._keys.verify(digest, "provision-secret", secret)

    async def _fresh_key(self, key: str) -> ProvisionKey | None:
        if "\0" in key:  # no text of Postgres has one
            return None
        return await self._lookups.submit(key)

    async def _recognise(self, wanted: Sequence[str]) -> list[ProvisionKey | Exception | None]:
        async with self._database.connection() as connection:
            found = await profiles.recognise(connection, list(set(wanted)))
        for key in wanted:
            self._recognised.pop(key, None)
        self._recognised.update(found)  # holds keys that exist only, so guesses cannot fill it
        return [found.get(key) for key in wanted]


def _proved(peer: Peer) -> tuple[str, str] | None:
    """The provision key and secret that a PSK or OSCORE channel is protected with."""
    psk = peer.psk
    return None if psk is None or psk.id_digest is not None else (psk.identity, psk.key.decode())

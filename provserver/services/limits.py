"""Who asks too often is told to come back: the one gate before provisioning and access.

Addresses are locked for guessing, and nothing else ever is by what is not proven. A locked address is still heard at a
low rate, so that right devices behind it get through. All is counted in memory that processes share; while nobody is
locked, a request pays for one look at a clock.
"""

import logging
import random
import secrets
import time
from array import array
from collections import deque
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from math import inf

from provserver import metrics
from provserver.core import limits
from provserver.core.decision import Reason
from provserver.core.limits import Buckets, network
from provserver.core.model import Peer, PreSharedKey, ProvisionKey, Transport
from provserver.errors import RETRY_AFTER_SECONDS
from provserver.services.claiming import ClaimLimits
from provserver.services.sign_in import SignInLimits
from provserver.services.users import sign_up_limit

log = logging.getLogger("provserver.limits")

GUESSES = frozenset({Reason.KEY_UNKNOWN, Reason.SECRET_WRONG, Reason.NOT_PRE_PROVISIONED})
"""Refusals that count as guesses of the address they go to."""

TOLD = frozenset(
    {
        Reason.ALREADY_PROVISIONED,
        Reason.ALREADY_USED,
        Reason.CREDENTIALS_TAKEN,
        Reason.NAME_ELSEWHERE,
        Reason.NAME_TAKEN,
        Reason.NONCE_REUSED,
        Reason.NOT_PRE_PROVISIONED,
        Reason.OTHER_CREDENTIALS,
        Reason.STATE_UNKNOWN,
    }
)
"""Refusals that tell who has the key and secret something of a device."""

BURST = 10.0
"""Seconds' worth of requests that an address or an organization may make at once."""

REFUSALS_AT_ONCE = 1_000

WRONG_FOR = 600.0
"""Seconds for which what an address has presented in vain is not preferred when it comes again."""

RECORDED = 5
"""Requests of an address that cannot be read, and are recorded in a minute; of each kind."""

_MINUTE = 60.0
_UNPROVEN = PreSharedKey("", b"")
_COAP = Transport.COAP

_LOCKED, _ADDRESS, _KEY, _NAME, _ORGANIZATION = (
    metrics.LIMITED.cell(name) for name in ("lockout", "address", "provision_key", "name", "organization")
)


def retry_after() -> int:
    """Seconds after which one is to come back who is told so now."""
    return limits.retry_after(random.random())  # noqa: S311 - nothing secret


@dataclass(frozen=True, slots=True)
class Rates:
    """How much is too much; as the options of the same names. Intervals are seconds, 0.0 for no limit.

    guess_limit, guess_interval: wrong guesses of an address: at once, and then one each interval.
    locked_interval: between two requests of a locked address that are heard.
    repeat_limit, repeat_interval: the same of a device whose secret is right, and that asks again or is refused.
    refusal_interval: between two refusals that tell an address something; past REFUSALS_AT_ONCE.
    address_interval, organization_interval: between two provision requests; BURST seconds' worth at once.
    burning_interval: between two devices that a provision key makes which has no rate of its own; a minute's worth at
        once. Whoever is past it is told of, and served.
    """

    guess_limit: int = 20
    guess_interval: float = 3.0
    locked_interval: float = 0.2
    repeat_limit: int = 20
    repeat_interval: float = 10.0
    refusal_interval: float = 0.1
    address_interval: float = 0.0
    organization_interval: float = 0.0
    burning_interval: float = 0.1


UNLIMITED = Rates(guess_interval=0.0, repeat_interval=0.0, refusal_interval=0.0, burning_interval=0.0)


def wifi_limits() -> ClaimLimits:
    """Of WiFi sessions: those of claims, counted beside them, lest who mistypes a password cannot claim."""
    return ClaimLimits(what="tries to put devices onto WiFi")


@dataclass(frozen=True, slots=True)
class PeopleLimits:
    """How often people may try; made where the processes come from, as `Limits` is."""

    claims: ClaimLimits = field(default_factory=ClaimLimits)
    wifi: ClaimLimits = field(default_factory=wifi_limits)
    sign_in: SignInLimits = field(default_factory=SignInLimits)
    sign_ups: Buckets = field(default_factory=sign_up_limit)


@dataclass(frozen=True, slots=True)
class RotationLimits:
    """How often a device may ask for other credentials; made where the processes come from, as `Limits` is.

    asked: whatever comes of it. told: to hear that the credentials it brings are another's. noted: to have it recorded
    that it asks too often.
    """

    asked: Buckets = field(default_factory=lambda: Buckets(20, 1 / _MINUTE, 65_536))
    told: Buckets = field(default_factory=lambda: Buckets(5, 1 / _MINUTE))
    noted: Buckets = field(default_factory=lambda: Buckets(1, 1 / _MINUTE))


class Limits:
    """What devices may ask, counted by all processes that are forked after it was made.

    clock: seconds that never go back, and are the same in all processes. people: who is no device. rotations: of
    devices that ask for other credentials. at_once: how many guesses an address has; 0: as many as it likes. secret: 32
    bytes that these processes share and nobody else has. usual_rate: how many devices a provision key may make in a
    minute before that is told of; 0: as many as it likes.
    """

    def __init__(self, rates: Rates = UNLIMITED, clock: Callable[[], float] = time.monotonic) -> None:
        self.people = PeopleLimits()
        self.rotations = RotationLimits()
        self.at_once = rates.guess_limit if rates.guess_interval else 0
        self.secret = secrets.token_bytes(32)
        self.usual_rate = max(round(_MINUTE / rates.burning_interval), 1) if rates.burning_interval else 0
        self._clock = clock
        self._guesses = _buckets(rates.guess_limit, rates.guess_interval, 65_536)
        heard = rates.locked_interval * 2  # half of them for who comes back as he was told
        self._heard = _buckets(max(1 / heard, 1) if heard else 1, heard, 8_192)
        self._heard_again = _buckets(max(1 / heard, 1) if heard else 1, heard, 8_192)
        self._sent_away = Buckets(1, 1 / _MINUTE, 65_536)
        self._wrong = Buckets(1, 1 / WRONG_FOR, 65_536)
        self._noted = Buckets(1, 1 / _MINUTE)
        self._recorded = Buckets(RECORDED, RECORDED / _MINUTE)
        self._addresses = _rate(rates.address_interval, 65_536)
        self._organizations = _rate(rates.organization_interval, 8_192)
        self._keys = Buckets(1, 1 / _MINUTE)
        self._made = Buckets(self.usual_rate, self.usual_rate / _MINUTE) if self.usual_rate else None
        self._repeats = _buckets(rates.repeat_limit, rates.repeat_interval, 65_536)
        self._refusals = _buckets(REFUSALS_AT_ONCE, rates.refusal_interval, 8_192)
        self._locked_until = _until(self._guesses, always=self._addresses is not None)
        self._named_until = _until(self._repeats, always=self._organizations is not None)
        self._refused_until = _until(self._refusals)

    # Before anything is looked at

    def watchful(self) -> bool:
        """Whether `hold` has anything to look at."""
        return self._locked_until[0] > self._clock()

    def hold(self, peer: Peer, what: Hashable, *, provisions: bool = False) -> Reason | None:
        """Why a request is not to be heard now. Of a locked address some are, and rather those that come back.

        what: tells the request from others. provisions: whether it counts as a provision request.
        """
        now, source = self._clock(), source_of(peer)
        if self._guesses is not None and self._guesses.wait(source, now):
            if self._heard is not None and self._heard.take(source, now):
                waited = _MINUTE - self._sent_away.take((source, what), now)
                again = RETRY_AFTER_SECONDS <= waited < _MINUTE and not self._wrong.wait((source, what), now)
                if not again or self._heard_again is None or self._heard_again.take(source, now):
                    _LOCKED.value += 1
                    return Reason.ADDRESS_LOCKED
        elif provisions and self._addresses is not None and self._addresses.take(source, now):
            _ADDRESS.value += 1
            return Reason.ADDRESS_BUSY
        return None

    def locked(self, peer: Peer) -> bool:
        """Whether a peer's address is locked; what is heard of it all the same is not counted."""
        return self._guesses is not None and self._guesses.wait(source_of(peer), self._clock()) > 0

    def short(self, peer: Peer, doubts: int) -> bool:
        """Whether a peer's address is locked, or would be if what is in doubt of it were guesses."""
        return self._guesses is not None and self._guesses.wait(source_of(peer), self._clock(), doubts + 1) > 0

    def guessed(self, peer: Peer, what: Hashable = None) -> bool:
        """What a peer has presented was wrong; whether that was counted: of a locked address nothing is.

        what: it, as `hold` is told; it comes again in vain for some minutes.
        """
        guesses = self._guesses
        if guesses is None:
            return False
        if what is not None:
            self.came_in_vain(peer, what)
        now, source = self._clock(), source_of(peer)
        if guesses.take(source, now):
            return False
        if guesses.wait(source, now) and self.noteworthy(peer, "locked"):
            log.warning("%s is locked for guessing: it is heard at a low rate until it stops", peer.address)
        return True

    def came_in_vain(self, peer: Peer, what: Hashable) -> None:
        """What a peer has presented was wrong, and is counted already."""
        if self._guesses is not None:
            self._wrong.take((source_of(peer), what), self._clock())

    def pardon(self, peer: Peer, what: Hashable = None) -> None:
        """What was counted as a guess was none."""
        if self._guesses is not None:
            if what is not None:
                self._wrong.give_back((source_of(peer), what), self._clock())
            self._guesses.give_back(source_of(peer), self._clock())

    def noteworthy(self, peer: Peer, what: str) -> bool:
        """Whether this is to be written down of a peer's address: once a minute."""
        return not self._noted.take((source_of(peer), what), self._clock())

    def recorded(self, peer: Peer, what: str) -> bool:
        """Whether what a peer has sent in vain is to be recorded: a few times a minute for each address.

        Always where guesses are not limited: who wants all of them heard wants all of them recorded.
        """
        return self._guesses is None or not self._recorded.take((source_of(peer), what), self._clock())

    # Once key and secret are right

    def counts(self, key: ProvisionKey) -> bool:
        """Whether `count` has anything to look at."""
        now = self._clock()
        return key.budget is not None or self._named_until[0] > now or self._refused_until[0] > now

    def count(self, peer: Peer, key: ProvisionKey, name: str | None) -> Reason | None:
        """Count a request, or say why it is refused. name: by which it is told from others; None: by nothing."""
        now, source, budget = self._clock(), source_of(peer), key.budget
        if name is not None and self._repeats is not None and self._repeats.wait(_named(source, key, name), now):
            _NAME.value += 1
            return Reason.NAME_REPEATED
        if self._refusals is not None and self._refusals.wait(source, now):
            _ADDRESS.value += 1
            return Reason.REFUSED_OFTEN
        organization = key.profile.organization_id.bytes
        if self._organizations is not None and self._organizations.take(organization, now):
            _ORGANIZATION.value += 1
            return Reason.ORGANIZATION_BUSY
        if budget is not None and budget.per_minute and self._keys.take(key.key, now, 1 / budget.per_minute):
            if self._organizations is not None:
                self._organizations.give_back(organization, now)
            _KEY.value += 1
            return Reason.KEY_BUSY
        return None

    def burns(self, key: ProvisionKey, devices: int) -> bool:
        """Count devices that a provision key has made lately; whether these are more than keys usually make."""
        return self._made is not None and self._made.take(key.key, self._clock(), devices) > 0

    def refused(self, peer: Peer, key: ProvisionKey, name: str | None) -> None:
        """Who has the key and secret was told something of a device."""
        now, source = self._clock(), source_of(peer)
        if self._refusals is not None:
            self._refusals.take(source, now)
        self._repeat(source, key, name, now)

    def repeated(self, peer: Peer, key: ProvisionKey, name: str | None) -> None:
        """A device was given again what it has."""
        self._repeat(source_of(peer), key, name, self._clock())

    def _repeat(self, source: str, key: ProvisionKey, name: str | None, now: float) -> None:
        if name is not None and self._repeats is not None:
            self._repeats.take(_named(source, key, name), now)


class Turns:
    """Who has names looked for, where a right one cannot be taken back: of each source as many as it may guess at once.

    The others wait until it is known what became of those before. Each that was right has two follow, so many that are
    right are soon as fast as ever; who guesses wrong goes on one by one.
    """

    def __init__(self, limits: Limits, max_waiting: int = 10_000) -> None:
        self._limits = limits
        self._at_once = limits.at_once
        self._max_waiting = max_waiting
        self._waiting = 0
        self._lines: dict[str, _Line] = {}

    def enter(self, peer: Peer, go: Callable[[], bool]) -> bool:
        """Have `go` called at once, or when it is its turn; False: too many wait. go: whether it is to `leave`."""
        if not self._at_once:
            return go() or True
        source = source_of(peer)
        line = self._lines.get(source)
        if line is None:
            line = self._lines[source] = _Line(1 if self._limits.short(peer, self._at_once - 1) else self._at_once)
        elif not line.room and self._waiting >= self._max_waiting:
            return False
        line.waiting.append(go)
        self._waiting += 1
        self._serve(source, line)
        return True

    def leave(self, peer: Peer, *, wrong: bool) -> None:
        """It is known what became of one that went."""
        line = self._lines.get(source := source_of(peer))
        if line is not None:
            line.inside -= 1
            if not wrong:
                line.room += 2 if line.waiting else 1
            elif not line.inside:  # one by one from now on, until one is right
                line.room = 1
            self._serve(source, line)

    def _serve(self, source: str, line: "_Line") -> None:
        if line.serving:  # by who has called us
            return
        line.serving = True
        while line.room and line.waiting:
            go = line.waiting.popleft()
            self._waiting -= 1
            line.inside += 1
            line.room -= 1
            if not go():
                line.inside -= 1
                line.room += 1
        line.serving = False
        if not line.inside:
            del self._lines[source]


class _Line:
    """Those of one source. room: how many more may go."""

    __slots__ = ("inside", "room", "serving", "waiting")

    def __init__(self, room: int) -> None:
        self.inside = 0
        self.room = room
        self.serving = False
        self.waiting: deque[Callable[[], bool]] = deque()


class Trial:
    """A stranger's one try at the key of what it names.

    Ask `heard` right before the verdict, whatever was waited for before: of many that go on at once, the first may
    have had the address locked. Count right after it, or right before and `proved` takes it back: in between nothing
    may be waited for, so nobody is locked for what is under way.
    """

    __slots__ = ("_counted", "_heard", "_limits", "_note", "peer", "tried", "what")

    def __init__(self, limits: Limits, peer: Peer, what: Hashable, note: Callable[[Peer], None] | None = None) -> None:
        self.peer = peer
        self.what = what
        self.tried = False
        self._limits = limits
        self._note = note
        self._heard = False  # although the address is locked: it need not ask again
        self._counted = False

    def heard(self) -> bool:
        """Whether there may be a verdict now."""
        limits = self._limits
        if self._heard or not limits.watchful():
            return True
        if limits.hold(self.peer, self.what) is not None:
            return False
        self._heard = limits.locked(self.peer)
        return True

    def charge(self) -> None:
        """Count it as a guess, once."""
        if not self.tried:
            self.tried = True
            self._counted = self._limits.guessed(self.peer)

    def proved(self) -> None:
        """It was none."""
        if self._counted:
            self._counted = False
            self._limits.pardon(self.peer)

    def lost(self) -> None:
        """It was in vain."""
        self.charge()
        self._limits.came_in_vain(self.peer, self.what)
        if self._note is not None and self._limits.recorded(self.peer, "PSK_UNPROVEN"):
            self._note(self.peer)


class Strangers:
    """Who names an identity in a handshake, and has yet to prove its pre-shared key; by one transport.

    note: told of who has not.
    """

    def __init__(self, limits: Limits, transport: Transport, note: Callable[[Peer], None] | None = None) -> None:
        self._limits = limits
        self._note = note
        self._transport = transport

    def trial(self, address: str, identity: str) -> Trial:
        """One try of an address, which the handshake has proved, at the key of an identity."""
        return Trial(self._limits, Peer(self._transport, address, psk=_UNPROVEN), identity, self._note)


def source_of(peer: Peer) -> str:
    """Whom guesses are charged to. The source of a plain datagram can be forged: it holds up nothing else."""
    where = network(peer.address)
    return f"{where} by datagram" if forgeable(peer) else where


def forgeable(peer: Peer) -> bool:
    """Whether nothing but the source of a datagram says where a peer is."""
    return peer.transport is _COAP and not (peer.proved or peer.psk or peer.certificates)


def _named(source: str, key: ProvisionKey, name: str) -> Hashable:
    """A device, as one address calls it: who knows its name elsewhere holds it up nowhere."""
    return source, key.profile.id.bytes, name


def _buckets(capacity: float, interval: float, keys: int) -> Buckets | None:
    return Buckets(capacity, 1 / interval, keys) if interval else None


def _rate(interval: float, keys: int) -> Buckets | None:
    return Buckets(max(BURST / interval, 1), 1 / interval, keys) if interval else None


def _until(buckets: Buckets | None, *, always: bool = False) -> "memoryview[float] | array[float]":
    """Until when a look at these buckets may find an empty one."""
    if always:
        return array("d", [inf])
    return buckets.drained if buckets is not None else array("d", [0.0])

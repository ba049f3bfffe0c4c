"""Static tokens into a ledger of Particle's: looked at, planned, bound, written, read back; again whenever it is asked.

What a device is to have is recorded before it is written, so whatever fails, or is killed, leaves a device with its
token: who runs it again goes on, and gives nobody another one.
"""

import asyncio
import os
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, Protocol, TypeVar

from provserver.adapters.particle import Denied, Later, Ledger, ParticleCloud
from provserver.core import ids, particle
from provserver.core.particle import (
    CHANGES,
    MAX_ENTRIES,
    SETTLED,
    Acting,
    Action,
    Content,
    Device,
    Entry,
    Pace,
    Place,
    Run,
    Token,
)
from provserver.errors import Conflict, Invalid, Refused
from provserver.services.lead import backoff

SOON = timedelta(days=14)
"""An access token that ends sooner is warned of."""

ROUNDS = 5
"""How often a plan is made anew because others took tokens meanwhile."""

BATCH = 100
"""Devices between which a run can be ended."""

IN_A_ROW = 5
"""So many devices after one another that Particle does not take: it is no matter of theirs, so all wait."""

ANOTHER_TOKEN = "make another (particle token create), and set it."  # noqa: S105 - a text

EVENT_STREAM = (
    "The token travels in the data of the events that devices publish: everybody who sees the product's event stream "
    "in Particle's console sees it there."
)

Answer = TypeVar("Answer")
Item = TypeVar("Item")
Progress = Callable[[int, int | None], None]
Step = Callable[[str, Callable[[], Awaitable[object]]], Awaitable[object]]
"""Does a piece of the work, of a name, and keeps what it comes to; in between a run can be ended."""


class Tokens(Protocol):
    """Where static tokens are, and the record of which device has which. All raise Refused, Unavailable.

    certain: tokens that nobody has had are known as such, so that no ledger need be looked through for them.
    """

    certain: bool

    def alone(self) -> AbstractAsyncContextManager[None]:
        """Have the record to oneself: two runs at once would undo each other's work."""

    async def held(self, devices: Sequence[str]) -> Mapping[str, Token]:
        """The token that is kept for each of these devices."""

    async def revoked(self, devices: Sequence[str]) -> Collection[str]:
        """Those whose token was given up, and that have no other."""

    async def matching(self, devices: Sequence[Device]) -> Mapping[str, Sequence[Token]]:
        """The tokens whose metadata names a device, by the surest field that any does."""

    async def free(self, count: int, *, exported: bool = False) -> Sequence[Token]:
        """So many, at most, that nobody has had and that name nobody; always in the same order.

        exported: also those that were only exported or shown.
        """

    async def lacking(self) -> str:
        """Why `free` has not found more."""

    async def identify(self, values: Sequence[str]) -> Mapping[str, Token]:
        """Which of these secrets are tokens of ours."""

    async def bind(self, pairs: Sequence[tuple[Token, str]]) -> bool:
        """Record which device a token is kept for, all or none; False when one is another's by now."""

    async def open(self, token: Token) -> str:
        """The secret."""

    async def written(self, token: Token, device: str) -> None:
        """Record that a device's ledger has its token. Raises Conflict when it is not to have it any more."""

    async def give_up(self, token: Token, device: str) -> bool:
        """Record that a token, a device's or nobody's, is good for no device any more; False when it is claimed."""


@dataclass(slots=True)
class Report:
    """What a run found, and did. ledger: whether it was there, or was made. entries: in order of devices."""

    acting: Acting
    place: Place
    devices: int = 0
    entries: list[Entry] = field(default_factory=list)
    ledger_missing: bool = False
    warnings: list[str] = field(default_factory=list)
    later: str | None = None

    @property
    def settled(self) -> bool:
        """Whether nobody has to look at it."""
        wanted = SETTLED if self.acting is Acting.VERIFY else SETTLED | CHANGES
        return all(entry.action in wanted for entry in self.entries)

    @property
    def changes(self) -> int:
        """How many devices were, or would be, changed."""
        return sum(entry.action in CHANGES for entry in self.entries)

    def to_json(self) -> dict[str, Any]:
        """For people and programs: no secret in it. Of those that stay as they are, the number alone."""
        told = [entry for entry in self.entries if entry.action is not Action.KEEP]
        return {
            "action": self.acting.value,
            "product": self.place.product,
            "ledger": self.place.ledger,
            "ledgerMissing": self.ledger_missing,
            "devices": self.devices,
            "settled": self.settled,
            "changes": self.changes,
            "counts": dict(sorted(Counter(entry.action.value for entry in self.entries).items())),
            "entries": [_described(entry) for entry in told[:MAX_ENTRIES]],
            "omitted": max(0, len(told) - MAX_ENTRIES),
            "warnings": self.warnings,
        }


class Delivery:
    """One product's tokens into one ledger. May be run as often as is wanted."""

    def __init__(
        self,
        cloud: ParticleCloud,
        place: Place,
        tokens: Tokens,
        pace: Pace = Pace(),  # noqa: B008 - immutable
        random: ids.Randomness = os.urandom,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        step: Step = lambda _name, work: work(),
    ) -> None:
        self._cloud = cloud
        self._place = place
        self._tokens = tokens
        self._pace = pace
        self._random = random
        self._now = now
        self._step = step
        self._next = 0.0
        self.expires_at: datetime | None = None
        self._in_a_row = 0

    async def run(self, acting: Acting, run: Run, progress: Progress = lambda _done, _total: None) -> Report:
        """Do it. Raises Refused, Denied; Later when Particle has to be asked again, with all kept that was done."""
        run = _checked(run, acting)
        if acting in (Acting.PLAN, Acting.VERIFY):
            return await self._run(acting, run, progress)
        async with self._tokens.alone():
            return await self._run(acting, run, progress)

    async def _run(self, acting: Acting, run: Run, progress: Progress) -> Report:
        report = Report(acting, self._place)
        await self._call(self._cloud.check_address)
        await self._check_access(report)
        report.ledger_missing = not await self._has_ledger()
        devices = await self._devices()
        wanted = [device for device in devices if run.selects(device)]
        if missing := set(run.devices) - {device.id for device in devices}:
            raise Invalid(f"The product {self._place.product!r} has no device {min(missing)}. Add it to the product.")
        if run.narrow and not wanted:
            raise Invalid(f"No device of the product {self._place.product!r} is of that group or serial number.")
        if acting is Acting.APPLY and report.ledger_missing:
            await self._call(self._cloud.create_ledger)
        report.devices = len(wanted)
        picture = _Picture(devices, wanted, run)
        await picture.look_up(self._tokens)
        looked_at = wanted if self._tokens.certain or acting is Acting.REVOKE or not picture.lacking else devices
        done = _Done(progress, len(looked_at))
        await self._look(picture, looked_at, done, nothing=report.ledger_missing)
        if acting is Acting.REVOKE:
            report.entries = [self._to_revoke(picture, device) for device in sorted(wanted, key=lambda each: each.id)]
            await self._change(report, self._revoke, done)
        elif acting is Acting.APPLY:
            report.entries = await self._bound(picture)
            await self._change(report, self._write, done)
        else:
            report.entries = await picture.plan(self._tokens)
        if acting is not Acting.REVOKE and wanted:
            report.warnings.append(EVENT_STREAM)
        return report

    async def _check_access(self, report: Report) -> None:
        self.expires_at = ends = await self._call(self._cloud.expires_at)
        if ends is not None and ends < self._now() + SOON:
            report.warnings.append(f"{ends_at(ends)}: {ANOTHER_TOKEN}")

    async def _has_ledger(self) -> bool:
        found: Ledger | None = await self._call(self._cloud.ledger)
        if found is not None:
            check_ledger(found, self._place)
        return found is not None

    async def _devices(self) -> list[Device]:
        found: dict[str, Device] = {}
        async for page in self._pages(self._cloud.devices):
            found |= {device.id: device for device in page}
        return list(found.values())

    async def _pages(self, ask: Callable[[int], Awaitable[tuple[list[Item], bool]]]) -> AsyncIterator[list[Item]]:
        page, more = 1, True
        seen: set[Item] = set()
        while more:
            number = page
            items, more = await self._call(lambda: ask(number))  # noqa: B023 - is called before the next
            if seen.issuperset(items):  # so pages are not what is asked for
                return
            seen.update(items)
            yield items
            page += 1

    async def _look(self, picture: "_Picture", devices: Sequence[Device], done: "_Done", *, nothing: bool) -> None:
        """Read what the ledger has for devices. nothing: there was no ledger."""
        existing: set[str] = set()
        if not nothing:
            async for page in self._pages(self._cloud.instances):
                existing.update(page)
        values: dict[str, str] = {}

        async def read(device: Device) -> None:
            if device.id in existing:
                value = await self._call(lambda: self._cloud.token(device.id))
                if value is not None:
                    values[device.id] = value
            done.one()

        await self._each("read", devices, read)
        ours = await self._tokens.identify(list(set(values.values())))
        for device_id, value in values.items():
            token = ours.get(value)
            picture.contents[device_id] = Content(token.label if token else particle.fingerprint(value), token)

    async def _bound(self, picture: "_Picture") -> list[Entry]:
        """The plan, with a record of all that it gives to devices."""
        for _ in range(ROUNDS):
            entries = await picture.plan(self._tokens)
            pairs = [
                (entry.token, entry.device.id)
                for entry in entries
                if entry.action in CHANGES and entry.token is not None and entry.token.holder != entry.device.id
            ]
            if not pairs or await self._tokens.bind(pairs):
                return entries
            await picture.look_up(self._tokens)
        raise Conflict("Others take static tokens of this profile all the time. Try again.")

    async def _change(self, report: Report, change: Callable[[Entry], Awaitable[Entry]], done: "_Done") -> None:
        """Do what was planned, device by device; one that fails leaves the others alone."""
        places = [place for place, entry in enumerate(report.entries) if _is_work(entry)]
        done.more(len(places))

        async def one(place: int) -> dict[str, Any]:
            entry = report.entries[place]
            try:
                report.entries[place] = await change(entry)
                self._in_a_row = 0
            except Later as fault:
                self._in_a_row += 1
                report.later = fault.reason
                report.entries[place] = entry._replace(action=Action.FAILED, reason=f"{fault.reason}; run it again")
                if self._in_a_row >= IN_A_ROW:
                    raise
            except Denied as fault:
                if fault.status in (401, 403):
                    raise
                report.entries[place] = entry._replace(action=Action.FAILED, reason=f"{fault.reason} {fault.remedy}")
            except Refused as fault:
                report.entries[place] = entry._replace(action=Action.FAILED, reason=str(fault))
            done.one()
            return _described(report.entries[place])

        await self._each("write", places, one)

    async def _write(self, entry: Entry) -> Entry:
        token, device = entry.token, entry.device.id
        assert token is not None  # noqa: S101 - as it is planned
        if entry.action is Action.WRITE:
            secret = await self._tokens.open(token)
            await self._call(lambda: self._cloud.write(device, secret))
        await self._tokens.written(token, device)
        return entry

    def _to_revoke(self, picture: "_Picture", device: Device) -> Entry:
        content = picture.contents.get(device.id, particle.NOTHING)
        return particle.revocation(device, content, picture.held.get(device.id), force=picture.run.force)

    async def _revoke(self, entry: Entry) -> Entry:
        """Out of the ledger first: killed in between, it is given up by the next run. One without a record is first
        given up, as nobody would know of it any more.
        """
        if entry.action is not Action.REVOKE:
            return entry
        claimed = entry._replace(action=Action.CLAIMED, reason=particle.REASONS[Action.CLAIMED])
        if entry.loose is not None and not await self._tokens.give_up(entry.loose, entry.device.id):
            return claimed
        if entry.before is not None:
            await self._call(lambda: self._cloud.write(entry.device.id, ""))
        if entry.token not in (None, entry.loose) and not await self._tokens.give_up(entry.token, entry.device.id):
            return claimed
        return entry

    async def _each(self, name: str, items: Sequence[Item], work: Callable[[Item], Awaitable[object]]) -> None:
        """Do something for each, several at once and a batch after the other; the first fault ends it."""
        for first in range(0, len(items), BATCH):
            await self._step(name, partial(self._all, items[first : first + BATCH], work))

    async def _all(self, items: Sequence[Item], work: Callable[[Item], Awaitable[object]]) -> list[object]:
        """What came of each, of which there is something to tell."""
        left = iter(items)
        told: list[object] = []

        async def worker() -> None:
            for item in left:
                came = await work(item)
                told.extend(() if came is None else (came,))

        workers = [asyncio.create_task(worker()) for _ in range(min(self._pace.parallel, len(items)))]
        try:
            await asyncio.gather(*workers)
        finally:
            for each in workers:
                each.cancel()
            await asyncio.gather(*workers, return_exceptions=True)
        return told

    async def _call(self, ask: Callable[[], Awaitable[Answer]]) -> Answer:
        """One answer of Particle's, asked for again while it may help. Raises Later, Denied."""
        clock = asyncio.get_running_loop().time
        failures = 0
        while True:
            turn = max(clock(), self._next)
            self._next = turn + 1 / self._pace.rate
            if (wait := turn - clock()) > 0:
                await asyncio.sleep(wait)
            try:
                return await ask()
            except Later as fault:
                failures += 1
                if failures >= self._pace.tries:
                    raise
                wait = max(fault.after, backoff(failures, self._pace.first, self._pace.last, self._random))
                if fault.limited:  # that is for all of us
                    self._next = max(self._next, clock() + wait)
                    continue
            await asyncio.sleep(wait)


class _Picture:
    """What is known of devices and tokens. devices: of the product. wanted: those that a run is about."""

    def __init__(self, devices: Sequence[Device], wanted: Sequence[Device], run: Run) -> None:
        self.devices = devices
        self.wanted = wanted
        self.run = run
        self.contents: dict[str, Content] = {}
        self.held: Mapping[str, Token] = {}
        self.matched: Mapping[str, Sequence[Token]] = {}
        self.revoked: Collection[str] = ()

    async def look_up(self, tokens: Tokens) -> None:
        """See what is recorded."""
        ids_ = [device.id for device in self.wanted]
        self.held = await tokens.held(ids_)
        self.revoked = await tokens.revoked(ids_)
        self.matched = await tokens.matching(self.devices)  # all: a token may name others than are wanted, too

    @property
    def lacking(self) -> int:
        """Devices that have to get a token that is nobody's."""
        return sum(device.id not in self.held and not self.matched.get(device.id) for device in self.wanted)

    async def plan(self, tokens: Tokens) -> list[Entry]:
        """What is to be done."""
        count = 0
        if self.lacking or self.run.force:
            there = {content.token.id for content in self.contents.values() if content.token}
            count = len(self.wanted) + len(there)
        free = await tokens.free(count, exported=self.run.exported) if count else ()
        entries = particle.plan(
            self.wanted, self.contents, self.held, self.matched, free, run=self.run, revoked=self.revoked
        )
        if all(entry.action is not Action.NO_TOKEN for entry in entries):
            return entries
        why = await tokens.lacking()
        return [entry._replace(reason=why) if entry.action is Action.NO_TOKEN else entry for entry in entries]


class _Done:
    """Counts what is done, for who watches."""

    def __init__(self, progress: Progress, total: int) -> None:
        self._progress = progress
        self._done, self._total = 0, total
        progress(0, total)

    def more(self, count: int) -> None:
        """There is more to do than was known."""
        self._total += count
        self._progress(self._done, self._total)

    def one(self) -> None:
        """One is done."""
        self._done += 1
        self._progress(self._done, self._total)


def ends_at(time: datetime) -> str:
    """Said of an access token that ends."""
    return f"The access token ends at {time:%F %H:%M} UTC"


def check_ledger(found: Ledger, place: Place) -> None:
    """Whether the ledger is for tokens. Raises Denied."""
    if found.archived_at or (found.scope, found.direction) != ("Device", "Downstream"):
        was = "archived" if found.archived_at else f"{found.scope}, {found.direction}"
        raise Denied(
            f"The ledger {place.ledger!r} is not from the cloud to devices ({was}).",
            "Name another ledger: what one is for cannot be changed.",
        )


def _checked(run: Run, acting: Acting) -> Run:
    if len(run.devices) > particle.MAX_SELECTED:
        raise Invalid(f"A run names {particle.MAX_SELECTED:,} devices at most. Run it for some after the others.")
    if acting is Acting.REVOKE and not run.narrow:
        raise Invalid("Say whose tokens are revoked: name devices, a group or a serial number.")
    try:
        devices = tuple(particle.device_id(each) for each in run.devices)
    except particle.InvalidName as fault:
        raise Invalid(str(fault)) from None
    return Run(devices, run.group, run.serial, run.force, run.exported)


def _is_work(entry: Entry) -> bool:
    """Whether there is something to write, be it down."""
    return entry.action in CHANGES or (
        entry.action is Action.KEEP and entry.token is not None and not entry.token.written
    )


def _described(entry: Entry) -> dict[str, Any]:
    return {
        "device": entry.device.id,
        "name": entry.device.name,
        "action": entry.action.value,
        "token": None if entry.token is None else entry.token.label,
        "before": entry.before,
        "reason": entry.reason or None,
    }

"""Runs durable jobs: those that wait in Postgres, whichever process asked for them, until they are done or given up.

A process takes as many as it has room for, and has them for as long as it says in time that it lives: when it is
killed, another goes on at the step that was under way. Each step is written down before it begins and after it is done,
so a job knows of each what it did, did not, or may have done. One that fails for good, or is cancelled, is undone.
"""

import asyncio
import logging
import os
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from uuid import UUID

from asyncpg import PostgresError

from provserver import metrics
from provserver.core import ids
from provserver.errors import ProvserverError, Unavailable, described
from provserver.services.job_steps import Cancelled, Failed, Interrupted, JobKind, Lost, Retry, Steps
from provserver.services.lead import IDLE, backoff
from provserver.store import job_queue as store
from provserver.store.database import Database
from provserver.store.job_queue import Taken
from provserver.store.jobs import CHANNEL, Job
from provserver.store.notifications import Notifications

__all__ = ["Failed", "Job", "JobKind", "JobRunner", "Retry", "Steps"]

log = logging.getLogger("provserver.jobs")

MAX_AT_ONCE = 16
"""Jobs of a process at once."""

LANE_LIMIT = 4
"""Jobs of a lane at once, all processes together."""

LEASE = 60.0
"""Seconds after which a process that has not said that it lives has its jobs taken over."""

_BEATS = 4
"""Times that it says so meanwhile."""

MAX_FAULTS = 5
"""Tries in a row that end in a fault of ours, or with the process, until a job has failed."""

_FIRST_DELAY, _LAST_DELAY = 2.0, 900.0
"""Seconds between tries."""

_SORTED_AT_ONCE = 500

_COUNT_EVERY = 15.0

_FAULT = "A fault of the server; its log has more."
_FAULT_REMEDY = "Look into the log of the server, then have the job tried again."
_RETRY_REMEDY = "See to what it says, then have the job tried again: provserver job retry."


@dataclass(frozen=True, slots=True)
class _Later:
    """What a try came to: another one. after: as asked for. fault: whether it was ours."""

    reason: str
    after: float | None = None
    fault: bool = False


@dataclass(frozen=True, slots=True)
class _Over:
    """What a try came to: there is no other."""

    ending: str
    reason: str | None = None
    remedy: str | None = None


@dataclass(frozen=True, slots=True)
class _Done:
    """What a try came to: all that was wanted."""

    result: object


class _Running:
    """A job that this process has. settled: what came of this try is being written."""

    def __init__(self, steps: Steps, task: asyncio.Task[None]) -> None:
        self.steps = steps
        self.task = task
        self.settled = False


class JobRunner:
    """Runs durable jobs of the kinds, several at a time, as long as this process does.

    only: this job. max_at_once: jobs of this process. lane_limit: see LANE_LIMIT. lease: see LEASE. idle: seconds
    between looks for what has become due. first_delay, last_delay: seconds between tries. clock: by which jobs are due.
    """

    def __init__(
        self,
        database: Database,
        kinds: Mapping[str, JobKind],
        *,
        only: UUID | None = None,
        max_at_once: int = MAX_AT_ONCE,
        lane_limit: int = LANE_LIMIT,
        lease: float = LEASE,
        idle: float = IDLE,
        first_delay: float = _FIRST_DELAY,
        last_delay: float = _LAST_DELAY,
        random: ids.Randomness = os.urandom,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._database = database
        self._kinds = kinds
        self._only = only
        self._max_at_once = max_at_once
        self._lane_limit = lane_limit
        self._lease = lease
        self._idle = idle
        self._delays = (first_delay, last_delay)
        self._random = random
        self._clock = clock
        self._monotonic = monotonic
        self._id = ids.uuid7(clock(), random)
        self._running: dict[UUID, _Running] = {}
        self._woken = asyncio.Event()
        self._stopping = False
        self._good_until = 0.0
        self._counted_at = 0.0
        self._notifications = Notifications(database, {CHANNEL: self._heard}, self._caught_up)
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Run jobs from now on."""
        if not self._kinds:
            return
        await self._notifications.start()
        self._tasks = [
            asyncio.create_task(self._take_turns(), name="jobs"),
            asyncio.create_task(self._beat(), name="jobs beat"),
        ]

    async def stop(self, grace: float) -> None:
        """Let steps that are under way end within `grace` seconds; others go on with the jobs."""
        self._stopping = True
        self.wake()
        if self._tasks:  # who is taking jobs has them to give back
            await asyncio.wait(self._tasks[:1], timeout=grace)
        if running := [each.task for each in self._running.values()]:
            await asyncio.wait(running, timeout=grace)
        for each in running:
            each.cancel()
        for each in self._tasks:
            each.cancel()
        await asyncio.gather(*running, *self._tasks, return_exceptions=True)
        await self._notifications.stop()

    def wake(self) -> None:
        """Look now for jobs that are due."""
        self._woken.set()

    def _heard(self, _payload: str) -> None:
        self.wake()

    async def _caught_up(self) -> None:
        self.wake()

    # --- taking and holding

    async def _take_turns(self) -> None:
        away = False
        while not self._stopping:
            self._woken.clear()
            try:
                await self._take()
                await self._count()
                away = False
            except (Unavailable, PostgresError) as fault:
                if not away:
                    log.warning("durable jobs wait for the database: %s", type(fault).__name__)
                away = True
            except Exception as fault:  # whatever it is, jobs must not wait for ever
                log.error("durable jobs could not be taken: %s", described(fault))  # noqa: TRY400 - Postgres quotes
            with suppress(TimeoutError):
                async with asyncio.timeout(self._idle):  # `wait_for` may lose a cancellation until Python 3.12
                    await self._woken.wait()

    async def _take(self) -> None:
        """Begin what there is room for."""
        room = self._max_at_once - len(self._running)
        if room <= 0:
            return
        now, kinds = self._now(), list(self._kinds)
        async with self._database.connection() as connection:
            if not await store.ready(connection, kinds, now, self._only):
                return
            async with connection.transaction():
                await store.one_at_a_time(connection)
                fresh = await store.unsorted(connection, kinds, _SORTED_AT_ONCE)
                if fresh:
                    await store.sort(connection, {job.id: self._lane(job) for job in fresh})
                taken = await store.take(
                    connection,
                    self._id,
                    kinds,
                    now,
                    room=room,
                    lane_limit=self._lane_limit,
                    lease=timedelta(seconds=self._lease),
                    only=self._only,
                    but=self._running,  # after a standstill: it goes on with them, or lets them go first
                )
        for each in taken:
            self._begin(each)
        if len(fresh) == _SORTED_AT_ONCE:
            self.wake()

    def _lane(self, job: Job) -> str:
        try:
            return self._kinds[job.kind].lane(job)
        except Exception as fault:
            log.error("the lane of a job is not known: %s: %s", job.kind, described(fault))  # noqa: TRY400
            return job.kind

    def _begin(self, taken: Taken) -> None:
        job = taken.job
        steps = Steps(self._database, self._id, job, taken.steps, lambda: self._stopping)
        task = asyncio.create_task(self._work(taken, steps), name=f"job:{job.kind}")
        self._running[job.id] = _Running(steps, task)
        task.add_done_callback(lambda _: self._ended(job.id))

    def _ended(self, id_: UUID) -> None:
        del self._running[id_]
        _RUNNING.value = len(self._running)
        self.wake()

    async def _beat(self) -> None:
        """Say that the jobs go on; when that cannot be said in time, they do not."""
        pause = self._lease / _BEATS
        self._good_until = self._monotonic() + self._lease
        while True:
            began = self._monotonic()
            try:
                async with asyncio.timeout(pause):
                    await self._hold()
                self._good_until = began + self._lease
            except Exception as fault:  # whatever it is: what cannot be said in time is what counts
                log.warning("it could not be said that jobs go on: %s", described(fault))
            if self._monotonic() + pause >= self._good_until:
                for each in self._running.values():
                    each.task.cancel()
            await asyncio.sleep(max(0.0, began + pause - self._monotonic()))

    async def _hold(self) -> None:
        held = {id_: each for id_, each in self._running.items() if not each.settled}
        _RUNNING.value = len(self._running)
        if not held:
            return
        async with self._database.connection() as connection:
            reaches = {id_: each.steps.reach for id_, each in held.items()}
            still = await store.beat(connection, self._id, reaches, timedelta(seconds=self._lease))
        for id_, each in held.items():
            if id_ not in still and not each.settled:
                each.task.cancel()

    async def _count(self) -> None:
        now = self._clock()
        if now < self._counted_at + _COUNT_EVERY:
            return
        self._counted_at = now
        async with self._database.connection() as connection:
            await store.forget_lanes(connection, self._now())
            number, since = await store.waiting(connection, self._now())
        _WAITING.value = number
        _LAG.value = 0.0 if since is None else max(0.0, now - since.timestamp())

    # --- a try

    async def _work(self, taken: Taken, steps: Steps) -> None:
        """One try of a job. Whatever cannot be written is another's to do again, once the lease is over."""
        job = taken.job
        try:
            await self._try(taken, steps)
        except (asyncio.CancelledError, Interrupted):
            if self._stopping:
                await self._release(job.id)
            else:
                log.warning("job %s is not held any more, and goes on elsewhere", job.id)
        except Lost:
            log.warning("job %s is not held any more, and goes on elsewhere", job.id)
        except Exception as fault:
            log.warning("what came of job %s could not be written: %s", job.id, described(fault))

    async def _try(self, taken: Taken, steps: Steps) -> None:
        job, faults, since = taken.job, taken.faults, taken.since
        kind = self._kinds[job.kind]
        if job.ending is None:
            outcome = await self._outcome(kind, kind.run, job, steps, faults, since)
            if isinstance(outcome, _Done):
                await self._finish(job, steps, "done", result=outcome.result)
                return
            if isinstance(outcome, _Later):
                await self._put_back(kind, job, steps, faults, outcome)
                return
            job, faults, since = await self._turn(job, steps, outcome), 0, self._now()
        undone = await self._outcome(kind, kind.give_up, job, steps, faults, since)
        if isinstance(undone, _Done):
            await self._finish(job, steps, job.ending or "failed", error=job.error, remedy=job.remedy)
        elif isinstance(undone, _Later):
            await self._put_back(kind, job, steps, faults, undone)
        else:
            error = f"{job.error or 'It was cancelled.'} What it had done could not be undone: {undone.reason}"
            await self._finish(job, steps, "failed", error=error, remedy=undone.remedy or job.remedy)

    async def _outcome(
        self,
        kind: JobKind,
        work: Callable[[Job, Steps], Awaitable[object]],
        job: Job,
        steps: Steps,
        faults: int,
        since: datetime,
    ) -> _Done | _Later | _Over:
        """What one try comes to. Raises Lost, Interrupted."""
        if faults >= MAX_FAULTS:  # processes that were killed at it, else it would have ended
            return _Over("failed", _FAULT, _FAULT_REMEDY)
        try:
            return _Done(await work(job, steps))
        except Retry as again:
            after = again.after if again.after is not None and again.after > 0 else None
            if (after is None and job.tries >= kind.tries) or self._now() - since >= timedelta(seconds=kind.age):
                return _Over("failed", f"Given up after {job.tries} tries: {again.reason}", _RETRY_REMEDY)
            return _Later(again.reason, after)
        except Failed as refused:
            return _Over("failed", refused.reason, refused.remedy)
        except Cancelled:
            return _Over("cancelled")
        except (Lost, Interrupted):
            raise
        except Unavailable:
            return _Later("The database could not be used.")
        except ProvserverError as refused:
            return _Over("failed", str(refused))
        except Exception as fault:
            if self._database.is_lock_timeout(fault):
                return _Later("The database was busy.")
            log.error("a job has failed: %s: %s", job.kind, described(fault))  # noqa: TRY400 - Postgres quotes rows
            _TRIES["fault"].value += 1
            return _Later(_FAULT, fault=True) if faults + 1 < MAX_FAULTS else _Over("failed", _FAULT, _FAULT_REMEDY)

    async def _turn(self, job: Job, steps: Steps, why: _Over) -> Job:
        """From now on it is undone, whoever does it."""
        async with self._database.connection() as connection:
            ending = await store.end(connection, job.id, self._id, why.ending, why.reason, why.remedy)
        if ending is None:
            raise Lost
        steps.turn()
        return replace(job, ending=ending, error=why.reason, remedy=why.remedy, tries=1)

    async def _finish(
        self,
        job: Job,
        steps: Steps,
        state: str,
        *,
        result: object = None,
        error: str | None = None,
        remedy: str | None = None,
    ) -> None:
        self._running[job.id].settled = True
        async with self._database.connection() as connection:
            if not await store.finish(
                connection, job.id, self._id, state, steps.reach, result=result, error=error, remedy=remedy
            ):
                raise Lost
        metrics.JOBS.cell(state).value += 1
        if state == "failed":
            log.warning("job %s has failed: %s", job.id, job.kind)

    async def _put_back(self, kind: JobKind, job: Job, steps: Steps, faults: int, why: _Later) -> None:
        self._running[job.id].settled = True
        after = None if why.after is None else min(why.after, kind.age)
        if after is None:
            delay = backoff(job.tries, *self._delays, self._random)
        else:
            delay = after * (1 + self._random(1)[0] / 1024)  # up to a quarter more: not all at once
        now = self._now()
        async with self._database.transaction() as connection:
            if after is not None:
                await store.rest(connection, job.id, now + timedelta(seconds=after))
            await store.put_back(
                connection,
                job.id,
                self._id,
                now + timedelta(seconds=delay),
                steps.reach,
                faults=faults + 1 if why.fault else 0,
                error=why.reason,
                undoing=job.ending is not None,
                counts=after is None,
            )
        _TRIES["later"].value += 1

    async def _release(self, id_: UUID) -> None:
        with suppress(Unavailable, PostgresError):
            async with self._database.transaction() as connection:
                await store.release(connection, id_, self._id)

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._clock(), UTC)


_WAITING, _LAG, _RUNNING = (family.cell() for family in (metrics.JOBS_WAITING, metrics.JOBS_LAG, metrics.JOBS_RUNNING))
_TRIES = {result: metrics.JOB_TRIES.cell(result) for result in ("later", "fault")}

"""Jobs: work that takes longer than a request should, watched and cancelled from any process.

Most are done in the process that was asked for them; the durable ones by `job_runner.py`, in any.
"""

import asyncio
import logging
import os
import time
from collections.abc import Awaitable, Callable, Collection
from datetime import timedelta
from uuid import UUID

from asyncpg import UniqueViolationError

from provserver import metrics
from provserver.core import ids
from provserver.core.authorization import Permission, Principal
from provserver.errors import Conflict, Invalid, NotFound, ProvserverError, TooManyRequests, Unavailable, described
from provserver.store import actors, audit
from provserver.store import jobs as store
from provserver.store.database import Connection, Database
from provserver.store.jobs import Job, Step

__all__ = ["Job", "Jobs", "Progress", "Work"]

log = logging.getLogger("provserver.jobs")

MAX_RUNNING = 8
"""Jobs of a process at once."""

_BEAT = 0.5
_SILENCE = timedelta(seconds=60)
"""After so long without a word of its process, a job has failed."""

_INTERRUPTED = "The server stopped while it ran. Look at what there is, then start it again."

_MAX_STEPS = 1000
"""Steps of a job that are shown: the newest."""


class Progress:
    """What a job tells of itself: `progress(done)`, or `progress(done, total)` once the total is known."""

    def __init__(self, total: int | None = None) -> None:
        self.done = 0
        self.total = total

    def __call__(self, done: int, total: int | None = None) -> None:
        """It is so far. Costs nothing: it is written every half second."""
        self.done = done
        if total is not None:
            self.total = total


Work = Callable[[Progress], Awaitable[object]]
"""What a job does. Its result is kept as JSON, for all who may see the job: nothing secret is in it."""


class Jobs:
    """The jobs of this process, and the record of everybody's."""

    def __init__(
        self,
        database: Database,
        random: ids.Randomness = os.urandom,
        clock: Callable[[], float] = time.time,
        beat: float = _BEAT,
    ) -> None:
        self._database = database
        self._random = random
        self._clock = clock
        self._beat = beat
        self._running: dict[UUID, asyncio.Task[None]] = {}

    async def start(self, principal: Principal, kind: str, work: Work, total: int | None = None) -> Job:
        """Begin; the caller has checked that the principal may. Raises TooManyRequests."""
        if len(self._running) >= MAX_RUNNING:
            raise TooManyRequests(f"{MAX_RUNNING} jobs are running. Wait until one is done.", retry_after=10)
        id_ = ids.uuid7(self._clock(), self._random)
        async with self._database.connection() as connection:
            job = await store.insert(connection, id_, principal.organization_id, kind, principal.actor, total)
        self._running[id_] = task = asyncio.create_task(self._run(id_, kind, work, Progress(total)), name=f"job:{kind}")
        task.add_done_callback(lambda _: self._running.pop(id_, None))
        await asyncio.sleep(0)  # a task that is cancelled before it has begun would leave its job running
        return job

    async def show(self, principal: Principal, id_: UUID) -> Job:
        """A job. Raises NotFound."""
        async with self._database.connection() as connection:
            await store.bury(connection, _SILENCE, _INTERRUPTED)
            job = await store.find(connection, principal.organization_id, _only(principal), id_)
        if job is None:
            raise NotFound("There is no such job.")
        return job

    async def details(self, principal: Principal, id_: UUID) -> tuple[Job, list[Step]]:
        """A job, and its steps if it is durable: the newest, in their order. Raises NotFound."""
        job = await self.show(principal, id_)
        async with self._database.connection() as connection:
            return job, await store.steps(connection, id_, _MAX_STEPS)

    async def list_(
        self,
        principal: Principal,
        before: UUID | None = None,
        limit: int = 50,
        *,
        state: str | None = None,
        kind: str | None = None,
        subject_id: UUID | None = None,
    ) -> list[Job]:
        """Jobs, newest first, from before one on; of a state, a kind, about a device or whatever else, or all."""
        async with self._database.connection() as connection:
            await store.bury(connection, _SILENCE, _INTERRUPTED)
            return await store.newest(
                connection,
                principal.organization_id,
                _only(principal),
                before,
                limit,
                state=state,
                kind=kind,
                subject_id=subject_id,
            )

    async def names(self, principal: Principal, given: Collection[str]) -> dict[str, str]:
        """What those who asked for jobs are called, by actor, of the principal's organization and those below it."""
        async with self._database.connection() as connection:
            return await actors.names(connection, principal.organization_id, given)

    async def cancel(self, principal: Principal, id_: UUID) -> Job:
        """Have a job end; what it has not committed is undone. Raises NotFound, Conflict.

        A durable one ends between two steps, and what it did is undone before it is cancelled.
        """
        async with self._database.transaction() as connection:
            cancelled = await store.cancel(connection, principal.organization_id, _only(principal), id_)
            job = await store.find(connection, principal.organization_id, _only(principal), id_)
            if job is None:
                raise NotFound("There is no such job.")
            if not cancelled:
                raise Conflict(_not_cancelled(job))
            await self._record(connection, principal, job, "job.cancelled")
        if id_ in self._running:
            self._running[id_].cancel()
        return job

    async def retry(self, principal: Principal, id_: UUID) -> Job:
        """Have a durable job that failed be tried again: what is done, and not undone, is not done again.

        Raises NotFound, Conflict.
        """
        only = _only(principal)
        try:
            async with self._database.transaction() as connection:
                waits = await store.retry(connection, principal.organization_id, only, id_)
                job = await store.find(connection, principal.organization_id, only, id_)
                if job is None:
                    raise NotFound("There is no such job.")
                if not waits and job.state != "failed":
                    raise Conflict(f"Only a job that has failed is tried again: it is {job.state}.")
                if not waits:
                    raise Conflict("A job of this kind is not tried again. Ask for what it was to do once more.")
                await self._record(connection, principal, job, "job.retried")
        except UniqueViolationError:
            raise Conflict("Another job is at the same already. Look in the list of jobs.") from None
        return job

    async def stop(self) -> None:
        """End those of this process."""
        for task in (running := tuple(self._running.values())):
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    async def _run(self, id_: UUID, kind: str, work: Work, progress: Progress) -> None:
        task = asyncio.ensure_future(work(progress))
        state, result, error = "done", None, None
        try:
            while not (await asyncio.wait({task}, timeout=self._beat))[0]:
                if not await self._advance(id_, progress):
                    task.cancel()
            result = task.result()
        except asyncio.CancelledError:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            state, error = "failed", _INTERRUPTED
        except Invalid as fault:
            state, error, result = "failed", str(fault), {"errors": fault.errors}
        except ProvserverError as fault:
            state, error = "failed", str(fault)
        except Exception as fault:
            log.error("a job has failed: %s: %s", kind, described(fault))  # noqa: TRY400 - Postgres quotes rows
            state, error = "failed", "A fault of the server; its log has more."
        metrics.JOBS.cell(state).value += 1
        await self._finish(id_, state, progress.done, result, error)

    async def _advance(self, id_: UUID, progress: Progress) -> bool:
        try:
            async with self._database.connection() as connection:
                return await store.advance(connection, id_, progress.done, progress.total)
        except Unavailable:
            return True

    async def _finish(self, id_: UUID, state: str, done: int, result: object, error: str | None) -> None:
        try:
            async with self._database.connection() as connection:
                await store.finish(connection, id_, state, done, result, error)
        except Unavailable:
            log.warning("that a job is %s could not be written", state)

    async def _record(self, connection: Connection, principal: Principal, job: Job, action: str) -> None:
        id_ = ids.uuid7(self._clock(), self._random)
        await audit.record(connection, id_, job.organization_id, principal.actor, action, job.id, kind=job.kind)


def _not_cancelled(job: Job) -> str:
    if job.ending is not None:
        return f"The job ends already: it is {job.ending} as soon as what it did is undone."
    return f"The job has ended: it is {job.state}."


def _only(principal: Principal) -> str | None:
    """Whose jobs the principal sees: with tokens:manage everybody's in its tree, else its own."""
    return None if Permission.TOKENS_MANAGE in principal.permissions else principal.actor

"""What a kind of durable jobs is, and the steps of a job, each written down before it begins and after it is done."""

from collections.abc import Awaitable, Callable, Iterable
from typing import Protocol
from uuid import UUID

import msgspec

from provserver.store import job_queue as store
from provserver.store.database import Database
from provserver.store.job_queue import Reach
from provserver.store.jobs import Job, Step


class Retry(Exception):  # noqa: N818 - reads as what it says
    """It did not work, and may work later. reason: for people, no secret in it.

    after: seconds for which the other side asked to be left alone: no job of the lane begins meanwhile, and it was no
    try.
    """

    def __init__(self, reason: str, after: float | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.after = after


class Failed(Exception):  # noqa: N818
    """It cannot work as things are. reason, remedy: for people, no secret in them.

    Raised by the work of a step, it also says that this try of the step has had no effect.
    """

    def __init__(self, reason: str, remedy: str) -> None:
        super().__init__(reason)
        self.reason = reason
        self.remedy = remedy


class Cancelled(Exception):  # noqa: N818 - it is no fault
    """The job is to be undone."""


class Lost(Exception):  # noqa: N818
    """The job is another process', which took this one for dead."""


class Interrupted(Exception):  # noqa: N818
    """It is to be let go, as this process stops."""


class JobKind(Protocol):
    """What jobs of a kind do. Derive from it.

    What `run` and `give_up` raise: Retry; Failed; Unavailable, which is as Retry; any other error for people, which is
    as Failed; anything else is a fault, and tried again a few times.

    tries: after so many, the last ended by Retry, a job has failed; so has its undoing. age: seconds after which that
    is so however many tries it were.
    """

    tries: int = 100
    age: float = 3 * 86_400.0

    def lane(self, job: Job) -> str:
        """Jobs of one lane share limits: of how many run at once, and of the pauses that Retry asks for."""

    async def run(self, job: Job, steps: "Steps") -> object:
        """Do it, in steps; its result: JSON, no secret in it. May be called again after any await of an earlier try."""

    async def give_up(self, job: Job, steps: "Steps") -> None:
        """Undo what was done, as the job failed for good or was cancelled: `job.ending`, `job.error`, `job.remedy`.

        Also called when nothing was begun. May be called again after any await of an earlier try.
        """


class Steps:
    """The steps of one job: what earlier tries did of them, and doing the others."""

    def __init__(
        self, database: Database, holder: UUID, job: Job, known: Iterable[Step], stopping: Callable[[], bool]
    ) -> None:
        self._database = database
        self._holder = holder
        self._id = job.id
        self._undoing = job.ending is not None
        self._states = {step.name: step.state for step in known}
        self._results = {step.name: step.result for step in known}
        self._stopping = stopping
        self.reach = Reach(job.done, job.total)

    async def do(self, name: str, work: Callable[[], Awaitable[object]]) -> object:
        """Do a step, unless it is done; its result, as JSON gives it back. That it begins, and is done, is committed.

        Ends the job when it is to end: everything in it goes on from one step to the next only.
        """
        if self.done(name):
            return self._results[name]
        if self._stopping():
            raise Interrupted
        async with self._database.connection() as connection:
            begun = await store.begin_step(connection, self._id, self._holder, name, self.reach, undoing=self._undoing)
            if not begun:
                cancelled = await store.ending(connection, self._id, self._holder) is not None
                raise Cancelled if cancelled else Lost
        try:
            result = msgspec.json.decode(msgspec.json.encode(await work()))
        except Failed:
            if not self.begun(name):
                await self._end(name, "failed")
            raise
        except BaseException:
            self._states[name] = "begun"
            raise
        self._states[name] = "begun"
        await self._end(name, "done", result)
        return result

    async def undo(self, name: str, work: Callable[[], Awaitable[object]]) -> None:
        """Undo a step, if an effect of it may be there, and not yet undone."""
        if not self.begun(name):
            return
        if self._stopping():
            raise Interrupted
        async with self._database.connection() as connection:
            if await store.ending(connection, self._id, self._holder) is None:
                raise Lost
        await work()
        await self._end(name, "undone")

    def begun(self, name: str) -> bool:
        """Whether an earlier try began it, so that it may have had its effect; true as well when it is done.

        Of a try that is under way nothing is said: its work learns what was before.
        """
        return self._states.get(name) in ("begun", "done")

    def done(self, name: str) -> bool:
        """Whether it is done."""
        return self._states.get(name) == "done"

    def result(self, name: str) -> object:
        """What it returned, as JSON gives it back; None unless it is done."""
        return self._results.get(name) if self.done(name) else None

    def progress(self, done: int, total: int | None = None) -> None:
        """How far the job is. Costs nothing: it is written with the steps, and once in a while."""
        self.reach = Reach(done, self.reach.total if total is None else total)

    def turn(self) -> None:
        """What follows undoes."""
        self._undoing = True

    async def _end(self, name: str, state: str, result: object = None) -> None:
        async with self._database.connection() as connection:
            if not await store.end_step(connection, self._id, self._holder, name, self.reach, state, result):
                raise Lost
        self._states[name], self._results[name] = state, result

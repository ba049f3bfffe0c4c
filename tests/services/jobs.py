"""Durable jobs for tests: kinds that do what a test says, runners, and waiting for what comes of them."""

import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, Self
from uuid import UUID

from provserver.core import ids
from provserver.core.authorization import OPERATOR, Principal
from provserver.core.job import LIVE
from provserver.services.job_runner import Job, JobKind, JobRunner, Steps
from provserver.services.jobs import Jobs
from provserver.store import jobs as store
from provserver.store.database import Database
from tests.conftest import Space

Doing = Callable[[Job, Steps], Awaitable[object]]


async def nothing(_job: Job, _steps: Steps) -> None:
    pass


class Kind(JobKind):
    """Does what the test says. given_up: the jobs that were to be undone, as they were then."""

    tries = 3

    def __init__(self, run: Doing, give_up: Doing = nothing, lane: Callable[[Job], str] = lambda _: "lane") -> None:
        self._run = run
        self._give_up = give_up
        self._lane = lane
        self.given_up: list[Job] = []

    def lane(self, job: Job) -> str:
        return self._lane(job)

    async def run(self, job: Job, steps: Steps) -> object:
        return await self._run(job, steps)

    async def give_up(self, job: Job, steps: Steps) -> None:
        self.given_up.append(job)
        await self._give_up(job, steps)


class Yard:
    """A workspace with runners, that end with it."""

    def __init__(self, space: Space) -> None:
        self.space = space
        self.jobs = Jobs(space.database)
        self.operator = Principal(OPERATOR, space.organization_id)
        self.runners: list[JobRunner] = []

    @classmethod
    @asynccontextmanager
    async def open(cls, space: Space) -> AsyncIterator[Self]:
        yard = cls(space)
        try:
            yield yard
        finally:
            for runner in yard.runners:
                await runner.stop(0)

    async def enqueue(self, kind: str = "test", **more: Any) -> UUID:
        """Have one run; its id."""
        job = await self.offer(kind, **more)
        assert job is not None
        return job.id

    async def offer(self, kind: str = "test", **more: Any) -> Job | None:
        id_ = ids.uuid7(time.time(), os.urandom)
        async with self.space.database.transaction() as connection:
            return await store.enqueue(connection, id_, self.space.organization_id, kind, OPERATOR, **more)

    async def runner(
        self, kinds: JobKind | Mapping[str, JobKind], database: Database | None = None, **more: Any
    ) -> JobRunner:
        """Run jobs from now on, with hardly a pause."""
        named = kinds if isinstance(kinds, Mapping) else {"test": kinds}
        pauses = {"idle": 0.01, "first_delay": 0.001, "last_delay": 0.01}
        made = JobRunner(database or self.space.database, named, **(pauses | more))
        self.runners.append(made)
        await made.start()
        return made

    async def show(self, id_: UUID) -> Job:
        return await self.jobs.show(self.operator, id_)

    async def steps(self, id_: UUID) -> dict[str, str]:
        """Their states."""
        _, found = await self.jobs.details(self.operator, id_)
        return {step.name: step.state for step in found}

    async def until(self, id_: UUID, holds: Callable[[Job], bool]) -> Job:
        while not holds(job := await self.show(id_)):
            pass
        return job

    async def ended(self, id_: UUID) -> Job:
        return await self.until(id_, lambda job: job.state not in LIVE)

    async def expire(self, id_: UUID) -> None:
        """Have the time be over in which its process was to say that it lives."""
        await self.space.rows("UPDATE job SET lease_until = now() - interval '1 second' WHERE id = $1", id_)

"""A process that runs durable jobs, until it is killed: `-m tests.faults.job_worker DSN FILE ROOM`, ROOM at once.

Of each job it does the steps a, b and c, or undoes them, up to where the job's input says: "PLACE STEP", a place being
"before", "in" or "after" a step, or "undoing" one. There it writes the input to stdout, and waits. What it does it
writes to the file, a line each.
"""

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable

import uvloop

from provserver.services.job_runner import Failed, Job, JobKind, JobRunner, Steps
from provserver.store.database import Database

STEPS = ("a", "b", "c")
LEASE = 8.0

Reached = Callable[[Job, str], Awaitable[None]]


class Work(JobKind):
    """The steps, and who does them. reached: called at each place, "PLACE STEP"."""

    def __init__(self, file: str, who: str, reached: Reached) -> None:
        self._file = file
        self._who = who
        self._reached = reached

    def lane(self, job: Job) -> str:
        return str(job.id)

    async def run(self, job: Job, steps: Steps) -> object:
        for name in STEPS:
            await self._reached(job, f"before {name}")
            await steps.do(name, lambda name=name: self._make(job, steps, name))  # type: ignore[misc]
            await self._reached(job, f"after {name}")
        if str(job.input).startswith("undoing"):
            raise Failed("It is refused.", "Ask for another.")
        return self._who

    async def give_up(self, job: Job, steps: Steps) -> None:
        for name in reversed(STEPS):
            await steps.undo(name, lambda name=name: self._unmake(job, name))  # type: ignore[misc]

    async def _make(self, job: Job, steps: Steps, name: str) -> None:
        self._write(job, name + ("?" if steps.begun(name) else ""))
        await self._reached(job, f"in {name}")

    async def _unmake(self, job: Job, name: str) -> None:
        self._write(job, f"-{name}")
        await self._reached(job, f"undoing {name}")

    def _write(self, job: Job, what: str) -> None:
        descriptor = os.open(self._file, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.write(descriptor, f"{job.input}:{self._who}:{what}\n".encode())
        os.close(descriptor)


async def run(dsn: str, file: str, room: int) -> None:
    async def reached(job: Job, place: str) -> None:
        if job.input == place:
            print(place, flush=True)  # noqa: T201 - what it is for
            await asyncio.Event().wait()

    database = Database(dsn)
    await database.open()
    await JobRunner(database, {"test": Work(file, "first", reached)}, idle=0.05, lease=LEASE, max_at_once=room).start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(run(sys.argv[1], sys.argv[2], int(sys.argv[3])))

"""The SQL of jobs, as people ask for them and look at them. How the durable ones are run: `job_queue.py`."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg

from provserver.core.job import JobState
from provserver.store.database import Connection

CHANNEL = "job"
"""Of notifications that there may be a durable job to run."""


@dataclass(frozen=True, slots=True)
class Job:
    """A job. state: waiting, running, done, failed or cancelled. total: None while nobody knows.

    result: of one that is done. error: why it failed, or why it is tried again. remedy: what a person does about it.
    step: the one begun last. due_at: when it is tried (again), None for at once. ending: failed or cancelled, of one
    that is that as soon as what it has done is undone. durable: it outlives its process, and may be tried again.
    """

    id: UUID
    organization_id: UUID
    kind: str
    actor: str
    state: JobState
    done: int
    total: int | None
    result: object
    error: str | None
    created_at: datetime
    updated_at: datetime
    finished_at: datetime | None
    subject_id: UUID | None = None
    input: object = None
    step: str | None = None
    tries: int = 0
    due_at: datetime | None = None
    ending: str | None = None
    remedy: str | None = None
    durable: bool = False


@dataclass(frozen=True, slots=True)
class Step:
    """A step of a durable job. state: begun, done, failed (and so without effect) or undone. tries: how often begun."""

    name: str
    state: str
    tries: int
    result: object
    begun_at: datetime
    ended_at: datetime | None


JOB = """j.id, j.organization_id, j.kind, j.actor, j.state, j.done, j.total, j.result, j.error, j.created_at,
    j.updated_at, j.finished_at, j.subject_id, j.input, j.step, j.tries, j.due_at, j.ending, j.remedy, j.durable"""
"""Its columns, in the order of the members of `Job`."""

_SEEN = "o.path @> ARRAY[$1::uuid] AND ($2::text IS NULL OR j.actor = $2)"

_ENQUEUE = f"""
INSERT INTO job AS j (id, organization_id, kind, actor, state, durable, subject_id, input, key, due_at)
VALUES ($1, $2, $3, $4, 'waiting', true, $5, $6, $7, $8)
ON CONFLICT (kind, key) WHERE key IS NOT NULL AND state IN ('waiting', 'running') DO NOTHING
RETURNING {JOB}
"""

_CANCEL = f"""
UPDATE job j SET
    state = CASE WHEN j.durable THEN j.state ELSE 'cancelled' END,
    ending = CASE WHEN j.durable THEN 'cancelled' END,
    tries = CASE WHEN j.state = 'waiting' THEN 0 ELSE j.tries END,
    faults = CASE WHEN j.state = 'waiting' THEN 0 ELSE j.faults END,
    due_at = NULL,
    finished_at = CASE WHEN j.durable THEN NULL ELSE now() END
FROM organization o
WHERE o.id = j.organization_id AND {_SEEN} AND j.id = $3 AND j.state IN ('waiting', 'running') AND j.ending IS NULL
"""

_RETRY = f"""
UPDATE job j SET state = 'waiting', since = now(), updated_at = now(), finished_at = NULL, due_at = NULL, tries = 0,
    faults = 0, lane = NULL, error = NULL, remedy = NULL
FROM organization o
WHERE o.id = j.organization_id AND {_SEEN} AND j.id = $3 AND j.state = 'failed' AND j.durable
"""


async def enqueue(
    connection: Connection,
    id_: UUID,
    organization_id: UUID,
    kind: str,
    actor: str,
    *,
    subject_id: UUID | None = None,
    input: object = None,  # noqa: A002 - as the column
    key: str | None = None,
    due_at: datetime | None = None,
) -> Job | None:
    """Have a durable job run once the caller's transaction is committed, by any process that runs its kind.

    input: JSON, of the kind, for all who may see the job: never a secret. key: of the kind, at most one live job
    (waiting, running, or being undone) has it; None is returned when there is one. due_at: not before then.
    """
    row = await connection.fetchrow(_ENQUEUE, id_, organization_id, kind, actor, subject_id, input, key, due_at)
    if row is None:
        return None
    await wake(connection)
    return _job(row)


async def wake(connection: Connection) -> None:
    """Have the runners look, once the transaction is committed."""
    await connection.execute("SELECT pg_notify($1, '')", CHANNEL)


async def insert(
    connection: Connection, id_: UUID, organization_id: UUID, kind: str, actor: str, total: int | None
) -> Job:
    """Add one that runs."""
    row = await connection.fetchrow(
        "INSERT INTO job AS j (id, organization_id, kind, actor, state, total) VALUES ($1, $2, $3, $4, 'running', $5)"
        f" RETURNING {JOB}",
        id_,
        organization_id,
        kind,
        actor,
        total,
    )
    return _job(row)


async def advance(connection: Connection, id_: UUID, done: int, total: int | None) -> bool:
    """Say how far it is, and that it lives; False when it is to end."""
    status = await connection.execute(
        "UPDATE job SET done = $2, total = $3, updated_at = now() WHERE id = $1 AND state = 'running'", id_, done, total
    )
    return status != "UPDATE 0"


async def finish(
    connection: Connection, id_: UUID, state: str, done: int, result: object = None, error: str | None = None
) -> None:
    """Say what came of it; one that has ended stays as it is, but for the result of what could not be stopped."""
    await connection.execute(
        "UPDATE job SET state = CASE WHEN state = 'running' THEN $2 ELSE state END,"
        " done = CASE WHEN state = 'running' THEN $3 ELSE done END, result = $4,"
        " error = CASE WHEN state = 'running' THEN $5 ELSE error END, updated_at = now(),"
        " finished_at = coalesce(finished_at, now()) WHERE id = $1",
        id_,
        state,
        done,
        result,
        error,
    )


async def cancel(connection: Connection, organization_id: UUID, actor: str | None, id_: UUID) -> bool:
    """Have one end; False when none that this organization, or this actor of it, may see is to be ended.

    A durable one is undone first, by whoever runs it.
    """
    status = await connection.execute(_CANCEL, organization_id, actor, id_)
    if status == "UPDATE 0":
        return False
    await wake(connection)
    return True


async def fail_all(connection: Connection, error: str, remedy: str) -> None:
    """Have every durable job fail that waits or runs, with what it did left as it is. Only where none is run."""
    await connection.execute(
        "UPDATE job SET state = 'failed', error = $1, remedy = $2, ending = NULL, holder = NULL, lease_until = NULL,"
        " updated_at = now(), finished_at = now() WHERE durable AND state IN ('waiting', 'running')",
        error,
        remedy,
    )


async def retry(connection: Connection, organization_id: UUID, actor: str | None, id_: UUID) -> bool:
    """Have a durable one that failed wait again; False when there is none such.

    Raises UniqueViolationError when there is a live one of its kind and key.
    """
    status = await connection.execute(_RETRY, organization_id, actor, id_)
    if status == "UPDATE 0":
        return False
    await wake(connection)
    return True


async def bury(connection: Connection, silence: timedelta, error: str) -> None:
    """Jobs of a process that nobody has spoken for have failed: it is gone."""
    await connection.execute(
        "UPDATE job SET state = 'failed', error = $2, finished_at = now()"
        " WHERE state = 'running' AND NOT durable AND updated_at < now() - $1::interval",
        silence,
        error,
    )


async def find(connection: Connection, organization_id: UUID, actor: str | None, id_: UUID) -> Job | None:
    """One of an organization or those below it; actor: only if it is this one's."""
    row = await connection.fetchrow(
        f"SELECT {JOB} FROM job j JOIN organization o ON o.id = j.organization_id WHERE {_SEEN} AND j.id = $3",
        organization_id,
        actor,
        id_,
    )
    return None if row is None else _job(row)


async def newest(
    connection: Connection,
    organization_id: UUID,
    actor: str | None,
    before: UUID | None,
    limit: int,
    *,
    state: str | None = None,
    kind: str | None = None,
    subject_id: UUID | None = None,
) -> list[Job]:
    """Those of an organization and those below it, newest first; actor and the others: only these."""
    rows = await connection.fetch(
        f"SELECT {JOB} FROM job j JOIN organization o ON o.id = j.organization_id WHERE {_SEEN}"
        " AND ($3::uuid IS NULL OR j.id < $3) AND ($5::text IS NULL OR j.state = $5)"
        " AND ($6::text IS NULL OR j.kind = $6) AND ($7::uuid IS NULL OR j.subject_id = $7)"
        " ORDER BY j.id DESC LIMIT $4",
        organization_id,
        actor,
        before,
        limit,
        state,
        kind,
        subject_id,
    )
    return [_job(row) for row in rows]


async def steps(connection: Connection, id_: UUID, limit: int | None = None) -> list[Step]:
    """A job's steps, in the order in which they were first begun; limit: only so many, the newest."""
    rows = await connection.fetch(
        "SELECT name, state, tries, result, begun_at, ended_at FROM job_step WHERE job_id = $1"
        " ORDER BY number DESC LIMIT $2",
        id_,
        limit,
    )
    return [Step(*row) for row in reversed(rows)]


def job_of(row: Iterable[Any]) -> Job:
    """A job from its columns."""
    id_, organization_id, kind, actor, state, *rest = row
    return Job(id_, organization_id, kind, actor, JobState(state), *rest)


def _job(row: asyncpg.Record | None) -> Job:
    assert row is not None  # noqa: S101 - a row was asked for
    return job_of(row)

"""The SQL of jobs: work that takes longer than a request should."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

import asyncpg

from provserver.store.database import Connection


@dataclass(frozen=True, slots=True)
class Job:
    """A job. state: running, done, failed or cancelled. total: None while nobody knows. result: of one that ended."""

    id: UUID
    organization_id: UUID
    kind: str
    actor: str
    state: str
    done: int
    total: int | None
    result: object
    error: str | None
    created_at: datetime
    updated_at: datetime
    finished_at: datetime | None


_JOB = """j.id, j.organization_id, j.kind, j.actor, j.state, j.done, j.total, j.result, j.error, j.created_at,
    j.updated_at, j.finished_at"""

_SEEN = "o.path @> ARRAY[$1::uuid] AND ($2::text IS NULL OR j.actor = $2)"


async def insert(
    connection: Connection, id_: UUID, organization_id: UUID, kind: str, actor: str, total: int | None
) -> Job:
    """Add one that runs."""
    row = await connection.fetchrow(
        "INSERT INTO job AS j (id, organization_id, kind, actor, state, total) VALUES ($1, $2, $3, $4, 'running', $5)"
        f" RETURNING {_JOB}",
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
    """Have one end that runs; False when none does that this organization, or this actor of it, may see."""
    status = await connection.execute(
        "UPDATE job j SET state = 'cancelled', finished_at = now() FROM organization o"
        f" WHERE o.id = j.organization_id AND {_SEEN} AND j.id = $3 AND j.state = 'running'",
        organization_id,
        actor,
        id_,
    )
    return status != "UPDATE 0"


async def bury(connection: Connection, silence: timedelta, error: str) -> None:
    """Jobs that nobody has spoken for have failed: their process is gone."""
    await connection.execute(
        "UPDATE job SET state = 'failed', error = $2, finished_at = now()"
        " WHERE state = 'running' AND updated_at < now() - $1::interval",
        silence,
        error,
    )


async def find(connection: Connection, organization_id: UUID, actor: str | None, id_: UUID) -> Job | None:
    """One of an organization or those below it; actor: only if it is this one's."""
    row = await connection.fetchrow(
        f"SELECT {_JOB} FROM job j JOIN organization o ON o.id = j.organization_id WHERE {_SEEN} AND j.id = $3",
        organization_id,
        actor,
        id_,
    )
    return None if row is None else _job(row)


async def newest(
    connection: Connection, organization_id: UUID, actor: str | None, before: UUID | None, limit: int
) -> list[Job]:
    """Those of an organization and those below it, newest first; actor: only this one's."""
    rows = await connection.fetch(
        f"SELECT {_JOB} FROM job j JOIN organization o ON o.id = j.organization_id WHERE {_SEEN}"
        " AND ($3::uuid IS NULL OR j.id < $3) ORDER BY j.id DESC LIMIT $4",
        organization_id,
        actor,
        before,
        limit,
    )
    return [_job(row) for row in rows]


def _job(row: asyncpg.Record | None) -> Job:
    assert row is not None  # noqa: S101 - a row was asked for
    return Job(*row)

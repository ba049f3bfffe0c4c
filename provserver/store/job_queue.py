"""The SQL of running durable jobs: taking them, holding them, and writing what comes of each step.

Whatever is written of a job is written only for as long as its holder has it: a process that was taken for dead, and
was not, changes nothing any more.
"""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta
from typing import NamedTuple
from uuid import UUID

from provserver.store import jobs
from provserver.store.database import Connection
from provserver.store.jobs import JOB, Job, Step

_LOCK = 0x6A6F6273  # "jobs": who takes some counts those of each lane first

_MINE = "id = $1 AND holder = $2 AND state = 'running'"

_READY = """
SELECT EXISTS (
        SELECT FROM job WHERE state = 'waiting' AND kind = ANY($1::text[]) AND (due_at IS NULL OR due_at <= $2)
            AND ($3::uuid IS NULL OR id = $3)
    )
    OR EXISTS (SELECT FROM job WHERE state = 'running' AND lease_until < now())
"""

_FREE = """
UPDATE job SET state = 'waiting', due_at = NULL, holder = NULL, lease_until = NULL, faults = faults + 1
WHERE id = ANY(ARRAY(
    SELECT id FROM job WHERE state = 'running' AND lease_until < now() AND id <> ALL($1::uuid[]) FOR UPDATE SKIP LOCKED
))
"""

# The lanes are found one by one in the index, however many jobs wait in each. In a lane the oldest comes first.
_TAKE = f"""
WITH RECURSIVE lanes AS (
    (SELECT lane FROM job WHERE state = 'waiting' ORDER BY lane LIMIT 1)
    UNION ALL
    SELECT (SELECT n.lane FROM job n WHERE n.state = 'waiting' AND n.lane > l.lane ORDER BY n.lane LIMIT 1)
    FROM lanes l WHERE l.lane IS NOT NULL
), free AS (
    SELECT l.lane, greatest(0, $4 - (SELECT count(*) FROM job r WHERE r.state = 'running' AND r.lane = l.lane)) AS room
    FROM lanes l WHERE l.lane IS NOT NULL
        AND NOT EXISTS (SELECT FROM job_lane p WHERE p.lane = l.lane AND p.rests_until > $2)
), chosen AS (
    SELECT c.id FROM free f CROSS JOIN LATERAL (
        SELECT w.id FROM job w WHERE w.state = 'waiting' AND w.lane = f.lane AND w.kind = ANY($1::text[])
            AND (w.due_at IS NULL OR w.due_at <= $2) AND ($7::uuid IS NULL OR w.id = $7) AND w.id <> ALL($8::uuid[])
        ORDER BY w.id LIMIT f.room FOR UPDATE SKIP LOCKED
    ) AS c ORDER BY c.id LIMIT $3
)
UPDATE job j SET state = 'running', holder = $5, lease_until = now() + $6::interval, tries = tries + 1, due_at = NULL,
    updated_at = now()
FROM chosen WHERE j.id = chosen.id RETURNING j.faults, j.since, {JOB}
"""

_BEGIN_STEP = f"""
WITH held AS (
    UPDATE job SET step = $3, done = $4, total = $5, updated_at = now()
    WHERE {_MINE} AND (ending IS NULL OR $6) RETURNING id
), begun AS (
    INSERT INTO job_step AS s (job_id, name, state) SELECT id, $3, 'begun' FROM held
    ON CONFLICT (job_id, name) DO UPDATE SET state = 'begun', tries = s.tries + 1, result = NULL, begun_at = now(),
        ended_at = NULL
)
SELECT EXISTS (SELECT FROM held)
"""

_END_STEP = f"""
WITH held AS (
    UPDATE job SET done = $4, total = $5, faults = 0, updated_at = now() WHERE {_MINE} RETURNING id
), ended AS (
    UPDATE job_step s SET state = $6, result = $7, ended_at = now() FROM held WHERE s.job_id = held.id AND s.name = $3
)
SELECT EXISTS (SELECT FROM held)
"""

_BEAT = """
UPDATE job SET lease_until = now() + $5::interval, done = b.done, total = b.total, updated_at = now()
FROM unnest($2::uuid[], $3::bigint[], $4::bigint[]) AS b(id, done, total)
WHERE job.id = b.id AND holder = $1 AND state = 'running' RETURNING job.id
"""

_END = f"""
UPDATE job SET ending = coalesce(ending, $3), error = $4, remedy = $5, tries = 1, faults = 0, since = now(),
    updated_at = now() WHERE {_MINE} RETURNING ending
"""

_FINISH = f"""
UPDATE job SET state = $3, done = $4, total = $5, result = $6, error = $7, remedy = $8, ending = NULL, holder = NULL,
    lease_until = NULL, step = CASE WHEN $3 = 'done' THEN NULL ELSE step END, updated_at = now(), finished_at = now()
WHERE {_MINE}
"""

# One that was cancelled meanwhile waits for nothing. What an undoing is tried again for does not hide what it is for.
_PUT_BACK = f"""
UPDATE job SET state = 'waiting', due_at = CASE WHEN ending IS NULL OR $8 THEN $3::timestamptz END, done = $4,
    total = $5, tries = tries - $9::boolean::integer, faults = $6, error = CASE WHEN $8 THEN error ELSE $7 END,
    holder = NULL, lease_until = NULL, updated_at = now()
WHERE {_MINE}
"""

_RELEASE = f"""
UPDATE job SET state = 'waiting', due_at = NULL, tries = tries - 1, holder = NULL, lease_until = NULL,
    updated_at = now()
WHERE {_MINE}
"""


class Taken(NamedTuple):
    """A job that this process is to run. faults: tries in a row that ended in a fault. since: when it was asked for."""

    job: Job
    faults: int
    since: datetime
    steps: Sequence[Step]


class Reach(NamedTuple):
    """How far a job is."""

    done: int
    total: int | None


async def ready(connection: Connection, kinds: Collection[str], now: datetime, only: UUID | None) -> bool:
    """Whether there may be something to take; only: this one."""
    found: bool = await connection.fetchval(_READY, list(kinds), now, only)
    return found


async def unsorted(connection: Connection, kinds: Collection[str], limit: int) -> list[Job]:
    """Jobs that have no lane yet, locked."""
    rows = await connection.fetch(
        f"SELECT {JOB} FROM job j WHERE state = 'waiting' AND lane IS NULL AND kind = ANY($1::text[])"
        " ORDER BY id LIMIT $2 FOR UPDATE SKIP LOCKED",
        list(kinds),
        limit,
    )
    return [jobs.job_of(row) for row in rows]


async def sort(connection: Connection, lanes: Mapping[UUID, str]) -> None:
    """Put each into its lane."""
    await connection.execute(
        "UPDATE job SET lane = s.lane FROM unnest($1::uuid[], $2::text[]) AS s(id, lane) WHERE job.id = s.id",
        list(lanes),
        list(lanes.values()),
    )


async def one_at_a_time(connection: Connection) -> None:
    """Have no other process take jobs until the transaction is over."""
    await connection.execute("SELECT pg_advisory_xact_lock($1)", _LOCK)


async def take(
    connection: Connection,
    holder: UUID,
    kinds: Collection[str],
    now: datetime,
    *,
    room: int,
    lane_limit: int,
    lease: timedelta,
    only: UUID | None,
    but: Collection[UUID],
) -> list[Taken]:
    """Jobs that are due, and are this process' from now on; those of processes that are gone among them.

    room: so many at most. lane_limit: so many of a lane at most, all processes together. only: this one. but: none of
    these, which this process is still at.
    """
    await connection.execute(_FREE, list(but))
    rows = await connection.fetch(_TAKE, list(kinds), now, room, lane_limit, holder, lease, only, list(but))
    taken = [(faults, since, jobs.job_of(job)) for faults, since, *job in rows]
    return [
        Taken(job, faults, since, await jobs.steps(connection, job.id) if job.step else [])
        for faults, since, job in sorted(taken, key=lambda each: each[2].id)
    ]


async def beat(
    connection: Connection, holder: UUID, reaches: Mapping[UUID, Reach], lease: timedelta
) -> frozenset[UUID]:
    """Say that these go on, and how far they are; which of them are still this process'."""
    dones, totals = [each.done for each in reaches.values()], [each.total for each in reaches.values()]
    rows = await connection.fetch(_BEAT, holder, list(reaches), dones, totals, lease)
    return frozenset(row[0] for row in rows)


async def ending(connection: Connection, id_: UUID, holder: UUID) -> str | None:
    """What it is to be once it is undone; None also when it is this process' no more."""
    found: str | None = await connection.fetchval(f"SELECT ending FROM job WHERE {_MINE}", id_, holder)
    return found


async def begin_step(
    connection: Connection, id_: UUID, holder: UUID, name: str, reach: Reach, *, undoing: bool
) -> bool:
    """Say that a step begins; False when it is not to: the job is this process' no more, or is cancelled."""
    begun: bool = await connection.fetchval(_BEGIN_STEP, id_, holder, name, *reach, undoing)
    return begun


async def end_step(
    connection: Connection, id_: UUID, holder: UUID, name: str, reach: Reach, state: str, result: object = None
) -> bool:
    """Say what came of a step; False when the job is this process' no more."""
    held: bool = await connection.fetchval(_END_STEP, id_, holder, name, *reach, state, result)
    return held


async def end(
    connection: Connection, id_: UUID, holder: UUID, ending_: str, error: str | None, remedy: str | None
) -> str | None:
    """Say that it is to be undone, and why. What it is to be then; None when it is this process' no more."""
    found: str | None = await connection.fetchval(_END, id_, holder, ending_, error, remedy)
    return found


async def finish(
    connection: Connection,
    id_: UUID,
    holder: UUID,
    state: str,
    reach: Reach,
    *,
    result: object = None,
    error: str | None = None,
    remedy: str | None = None,
) -> bool:
    """Say what came of it in the end; False when it is this process' no more."""
    status = await connection.execute(_FINISH, id_, holder, state, *reach, result, error, remedy)
    return status != "UPDATE 0"


async def put_back(
    connection: Connection,
    id_: UUID,
    holder: UUID,
    due_at: datetime,
    reach: Reach,
    *,
    faults: int,
    error: str | None,
    undoing: bool,
    counts: bool,
) -> None:
    """Have it tried again. error: why; undoing: whether it is being undone; counts: whether this was a try."""
    await connection.execute(_PUT_BACK, id_, holder, due_at, *reach, faults, error, undoing, not counts)


async def release(connection: Connection, id_: UUID, holder: UUID) -> None:
    """Let others have it, as this process stops; that was no try."""
    await connection.execute(_RELEASE, id_, holder)
    await jobs.wake(connection)


async def rest(connection: Connection, id_: UUID, until: datetime) -> None:
    """Have no job of this one's lane begin before then."""
    await connection.execute(
        "INSERT INTO job_lane AS l (lane, rests_until) SELECT lane, $2 FROM job WHERE id = $1 AND lane IS NOT NULL"
        " ON CONFLICT (lane) DO UPDATE SET rests_until = greatest(l.rests_until, $2)",
        id_,
        until,
    )


async def forget_lanes(connection: Connection, now: datetime) -> None:
    """Remove lanes that rest no more."""
    await connection.execute("DELETE FROM job_lane WHERE rests_until <= $1", now)


async def waiting(connection: Connection, now: datetime) -> tuple[int, datetime | None]:
    """How many wait, and since when the first that is due has been."""
    row = await connection.fetchrow(
        "SELECT count(*), min(coalesce(due_at, updated_at)) FILTER (WHERE due_at IS NULL OR due_at <= $1)"
        " FROM job WHERE state = 'waiting'",
        now,
    )
    assert row is not None  # noqa: S101 - an aggregate has a row
    return row[0], row[1]

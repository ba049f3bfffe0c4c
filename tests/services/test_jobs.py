import asyncio
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import pytest

from provserver.core.authorization import ALL, OPERATOR, Permission, Principal
from provserver.errors import Conflict, Invalid, NotFound, Refused, TooManyRequests
from provserver.services.jobs import MAX_RUNNING, Job, Jobs, Progress
from tests.conftest import Space


@pytest.fixture
async def jobs(space: Space) -> AsyncIterator[Jobs]:
    running = Jobs(space.database, beat=0.01)
    yield running
    await running.stop()


@pytest.fixture
def operator(space: Space) -> Principal:
    return Principal(OPERATOR, space.organization_id)


async def ended(jobs: Jobs, principal: Principal, job: Job) -> Job:
    while (job := await jobs.show(principal, job.id)).state == "running" or job.id in jobs._running:
        pass
    return job


async def test_a_job_tells_how_far_it_is_and_what_came_of_it(jobs: Jobs, operator: Principal) -> None:
    go_on = asyncio.Event()

    async def work(progress: Progress) -> dict[str, int]:
        progress(3, 10)
        await go_on.wait()
        progress(10)
        return {"made": 10}

    job = await jobs.start(operator, "static_tokens.make", work)
    assert (job.state, job.done, job.total, job.result) == ("running", 0, None, None)
    while (shown := await jobs.show(operator, job.id)).done < 3:
        pass
    assert (shown.state, shown.total, shown.finished_at) == ("running", 10, None)
    go_on.set()
    job = await ended(jobs, operator, job)
    assert (job.state, job.done, job.result, job.error) == ("done", 10, {"made": 10}, None)
    assert job.finished_at is not None
    assert [each.id for each in await jobs.list_(operator)] == [job.id]


@pytest.mark.parametrize(
    ("fault", "error", "result"),
    [
        (Refused("There is no room."), "There is no room.", None),
        (Invalid("A row is wrong.", [{"row": 3}]), "A row is wrong.", {"errors": [{"row": 3}]}),
        (ValueError("a secret"), "A fault of the server; its log has more.", None),
    ],
)
async def test_a_job_that_fails_says_why(
    jobs: Jobs, operator: Principal, fault: Exception, error: str, result: Any
) -> None:
    async def work(_: Progress) -> None:
        raise fault

    job = await ended(jobs, operator, await jobs.start(operator, "test", work))
    assert (job.state, job.error, job.result) == ("failed", error, result)


async def test_a_job_is_cancelled_from_another_process(space: Space, jobs: Jobs, operator: Principal) -> None:
    cancelled = asyncio.Event()

    async def work(_: Progress) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    job = await jobs.start(operator, "test", work)
    elsewhere = Jobs(space.database)
    assert (await elsewhere.cancel(operator, job.id)).state == "cancelled"
    await cancelled.wait()
    job = await ended(jobs, operator, job)
    assert (job.state, job.error) == ("cancelled", None)
    with pytest.raises(Conflict, match="cancelled"):
        await jobs.cancel(operator, job.id)
    assert await space.value("SELECT action FROM audit WHERE subject_id = $1", str(job.id)) == "job.cancelled"


async def test_a_cancelled_job_counts_no_more(space: Space, jobs: Jobs, operator: Principal) -> None:
    async def work(progress: Progress) -> None:
        progress(3, 10)
        try:
            await asyncio.Event().wait()
        finally:
            progress(10)

    job = await jobs.start(operator, "static_tokens.make", work)
    while (await jobs.show(operator, job.id)).done < 3:
        pass
    cancelled = await Jobs(space.database).cancel(operator, job.id)
    shown = await ended(jobs, operator, job)
    assert (shown.state, shown.done, shown.finished_at) == ("cancelled", 3, cancelled.finished_at)


async def test_a_job_ends_with_its_server(jobs: Jobs, operator: Principal) -> None:
    async def work(_: Progress) -> None:
        await asyncio.Event().wait()

    job = await jobs.start(operator, "test", work)
    await jobs.stop()
    assert (await jobs.show(operator, job.id)).state == "failed"


async def test_a_job_whose_process_is_gone_has_failed(space: Space, jobs: Jobs, operator: Principal) -> None:
    await space.rows(
        "INSERT INTO job (id, organization_id, kind, actor, state, updated_at)"
        " VALUES ($1, $2, 'test', 'operator', 'running', now() - interval '1 hour')",
        id_ := uuid4(),
        space.organization_id,
    )
    assert (await jobs.show(operator, id_)).state == "failed"


async def test_jobs_are_seen_down_the_tree_and_by_who_may(space: Space, jobs: Jobs, operator: Principal) -> None:
    async def work(_: Progress) -> None:
        pass

    child = await space.value(
        "INSERT INTO organization (id, parent_id, name, path) SELECT i, $1, 'child', ARRAY[$1, i]"
        " FROM gen_random_uuid() AS i RETURNING id",
        space.organization_id,
    )
    few = frozenset(ALL - {Permission.TOKENS_MANAGE})
    of_child = Principal("key:1", child, few)
    beside = Principal("key:2", child, few)
    job = await jobs.start(of_child, "test", work)
    assert (await jobs.show(operator, job.id)).id == job.id
    assert (await jobs.show(of_child, job.id)).id == job.id
    with pytest.raises(NotFound):
        await jobs.show(beside, job.id)
    with pytest.raises(NotFound):
        await jobs.cancel(beside, job.id)
    assert await jobs.list_(beside) == []
    above = await jobs.start(operator, "test", work)
    with pytest.raises(NotFound):
        await jobs.show(Principal("key:3", child), above.id)


async def test_so_many_jobs_run_at_once(jobs: Jobs, operator: Principal) -> None:
    async def work(_: Progress) -> None:
        await asyncio.Event().wait()

    for _ in range(MAX_RUNNING):
        await jobs.start(operator, "test", work)
    with pytest.raises(TooManyRequests):
        await jobs.start(operator, "test", work)

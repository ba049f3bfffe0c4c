import asyncio
import random
import time
from collections import Counter
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest

from provserver import metrics
from provserver.errors import Conflict, NotFound, Refused, Unavailable
from provserver.services.job_runner import MAX_FAULTS, Failed, Job, Retry, Steps
from provserver.services.retention import Retention
from provserver.store.database import Database
from tests.conftest import Space
from tests.services.conftest import Outage, until
from tests.services.jobs import Kind, Yard, nothing


@pytest.fixture
async def yard(space: Space) -> AsyncIterator[Yard]:
    async with Yard.open(space) as opened:
        yield opened


@pytest.fixture
async def elsewhere(database_url: str) -> AsyncIterator[Database]:
    """What another process has of the database."""
    opened = Database(database_url, size=4, serving=True)
    await opened.open()
    yield opened
    await opened.close()


class Gate:
    """Work that waits for the test. begun: once it does."""

    def __init__(self) -> None:
        self.begun = asyncio.Event()
        self.go_on = asyncio.Event()

    async def __call__(self) -> str:
        self.begun.set()
        await self.go_on.wait()
        return "through"


def does(log: list[str], name: str, result: object = None) -> Any:
    async def work() -> object:
        log.append(name)
        return result

    return work


async def test_a_job_is_begun_at_once_and_tells_of_its_steps(yard: Yard) -> None:
    log: list[str] = []

    async def run(job: Job, steps: Steps) -> object:
        steps.progress(1, 2)
        made = await steps.do("make", does(log, "make", {"n": (1, 2)}))
        steps.progress(2)
        assert await steps.do("make", does(log, "again")) == made == steps.result("make") == {"n": [1, 2]}
        return {"of": job.input, "about": job.subject_id, "made": made}

    await yard.runner(Kind(run), idle=3600)
    subject = uuid4()
    job = await yard.ended(await yard.enqueue(input={"a": 1}, subject_id=subject))
    assert (job.state, job.done, job.total, job.tries, job.error, job.step) == ("done", 2, 2, 1, None, None)
    assert job.result == {"of": {"a": 1}, "about": str(subject), "made": {"n": [1, 2]}}
    assert job.finished_at is not None
    assert log == ["make"]
    _, (step,) = await yard.jobs.details(yard.operator, job.id)
    assert (step.name, step.state, step.tries, step.result) == ("make", "done", 1, {"n": [1, 2]})
    assert step.ended_at is not None
    assert step.begun_at <= step.ended_at


async def test_a_job_is_not_begun_before_it_is_committed_or_due(yard: Yard, space: Space) -> None:
    ran: list[UUID] = []

    async def run(job: Job, _: Steps) -> None:
        ran.append(job.id)

    now = 1e9
    runner = await yard.runner(Kind(run), clock=lambda: now)
    later = await yard.enqueue(due_at=datetime.fromtimestamp(now + 60, UTC))
    at_once = await yard.enqueue()
    await yard.ended(at_once)
    assert ran == [at_once]
    assert (await yard.show(later)).due_at == datetime.fromtimestamp(now + 60, UTC)
    now += 60
    runner.wake()
    await yard.ended(later)
    assert ran == [at_once, later]
    assert await space.value("SELECT count(*) FROM job WHERE state = 'running'") == 0


async def test_what_is_done_is_not_done_again_and_what_was_begun_is_known(yard: Yard) -> None:
    log: list[str] = []
    seen: list[tuple[bool, bool]] = []

    async def run(job: Job, steps: Steps) -> object:
        first = await steps.do("first", does(log, "first", 7))

        async def work() -> int:
            log.append("second")
            seen.append((steps.begun("second"), steps.done("second")))
            if len(seen) < 3:
                raise Retry("It does not answer.")
            return 8

        second = await steps.do("second", work)
        assert steps.begun("second")
        assert not steps.begun("third")
        return [first, second, job.tries]

    await yard.runner(Kind(run))
    job = await yard.ended(await yard.enqueue())
    assert (job.state, job.result, job.tries) == ("done", [7, 8, 3], 3)
    assert log == ["first", "second", "second", "second"]
    assert seen == [(False, False), (True, False), (True, False)]


async def test_a_try_that_did_not_work_says_why_until_the_next(yard: Yard) -> None:
    now = 1e9
    outcomes = iter([Retry("It is busy."), Unavailable("Postgres is away."), None])

    async def run(_: Job, __: Steps) -> None:
        if (fault := next(outcomes)) is not None:
            raise fault

    runner = await yard.runner(Kind(run), clock=lambda: now, first_delay=10, last_delay=10)
    id_ = await yard.enqueue()
    job = await yard.until(id_, lambda job: job.due_at is not None)
    assert (job.state, job.error, job.tries) == ("waiting", "It is busy.", 1)
    due = [job.due_at]
    now += 10
    runner.wake()
    job = await yard.until(id_, lambda job: job.due_at not in (None, *due))
    assert (job.state, job.tries) == ("waiting", 2)
    for each, begun in zip((*due, job.due_at), (1e9, 1e9 + 10), strict=True):
        assert each is not None
        assert begun + 5 <= each.timestamp() <= begun + 10
    now += 10
    runner.wake()
    job = await yard.ended(id_)
    assert (job.state, job.error, job.due_at, job.tries) == ("done", None, None, 3)


async def test_a_lane_rests_for_as_long_as_it_was_asked_to(yard: Yard, space: Space) -> None:
    now = 1e9
    ran: list[object] = []

    async def run(job: Job, _: Steps) -> None:
        ran.append(job.input)
        if len(ran) == 1:
            raise Retry("There were too many requests.", after=60)

    kind = Kind(run, lane=lambda job: str(job.input)[0])
    kind.tries = 1  # which does not count
    runner = await yard.runner(kind, clock=lambda: now, lane_limit=1)
    held = [await yard.enqueue(input="a1")]
    job = await yard.until(held[0], lambda job: job.due_at is not None)
    assert job.due_at is not None
    assert 60 <= job.due_at.timestamp() - now <= 75
    assert (job.tries, job.error) == (0, "There were too many requests.")
    held.append(await yard.enqueue(input="a2"))
    await yard.ended(await yard.enqueue(input="b1"))
    assert ran == ["a1", "b1"]
    now += 76
    runner.wake()
    for each in held:
        assert (await yard.ended(each)).state == "done"
    assert ran[2:] == ["a1", "a2"]
    await runner._count()
    assert await space.value("SELECT count(*) FROM job_lane") == 0


async def test_so_many_of_a_lane_run_at_once_in_all_processes_together(yard: Yard, elsewhere: Database) -> None:
    running: Counter[str] = Counter()
    most: Counter[str] = Counter()
    ran: Counter[UUID] = Counter()

    async def run(job: Job, steps: Steps) -> None:
        lane = str(job.input)
        ran[job.id] += 1
        running[lane] += 1
        most[lane] = max(most[lane], running[lane])
        await steps.do("step", nothing_at_all)
        running[lane] -= 1

    async def nothing_at_all() -> None:
        pass

    kind = Kind(run, lane=lambda job: str(job.input))
    made = [await yard.enqueue(input=lane) for lane in ("a", "a", "b") for _ in range(8)]
    for database in (None, elsewhere):
        await yard.runner(kind, database, lane_limit=3, max_at_once=5)
    for id_ in made:
        assert (await yard.ended(id_)).state == "done"
    assert ran == dict.fromkeys(made, 1)
    assert set(most) == {"a", "b"}
    assert max(most.values()) <= 3


async def test_a_full_lane_is_not_in_the_way_of_another(yard: Yard) -> None:
    gate = Gate()

    async def run(job: Job, steps: Steps) -> None:
        if job.input == "slow":
            await steps.do("wait", gate)

    await yard.runner(Kind(run, lane=lambda job: str(job.input)), lane_limit=2)
    slow = [await yard.enqueue(input="slow") for _ in range(5)]
    quick = await yard.enqueue(input="quick")
    assert (await yard.ended(quick)).state == "done"
    assert [(await yard.show(each)).tries for each in slow].count(0) == 3
    gate.go_on.set()
    for each in slow:
        await yard.ended(each)


async def test_a_job_that_cannot_work_is_undone_and_says_what_to_do(yard: Yard) -> None:
    log: list[str] = []

    async def refused() -> None:
        raise Failed("The name is taken there.", "Choose another name.")

    async def run(_: Job, steps: Steps) -> None:
        await steps.do("first", does(log, "first"))
        await steps.do("second", does(log, "second"))
        await steps.do("third", refused)

    async def give_up(_: Job, steps: Steps) -> None:
        for name in ("fourth", "third", "second", "first"):
            await steps.undo(name, does(log, f"not {name}"))
            await steps.undo(name, does(log, f"not {name}"))
            assert not steps.begun(name)

    kind = Kind(run, give_up)
    await yard.runner(kind)
    job = await yard.ended(await yard.enqueue())
    assert (job.state, job.error, job.remedy) == ("failed", "The name is taken there.", "Choose another name.")
    assert (job.ending, job.step) == (None, "third")
    assert log == ["first", "second", "not second", "not first"]
    assert await yard.steps(job.id) == {"first": "undone", "second": "undone", "third": "failed"}
    (given_up,) = kind.given_up
    assert (given_up.ending, given_up.error, given_up.remedy) == ("failed", job.error, job.remedy)


async def test_a_refusal_after_a_try_that_may_have_worked_leaves_something_to_undo(yard: Yard) -> None:
    log: list[str] = []
    faults = iter([Retry("No answer came."), Failed("There is one.", "Look.")])

    async def run(_: Job, steps: Steps) -> None:
        async def work() -> None:
            raise next(faults)

        await steps.do("make", work)

    async def give_up(_: Job, steps: Steps) -> None:
        await steps.undo("make", does(log, "undone"))

    await yard.runner(Kind(run, give_up))
    job = await yard.ended(await yard.enqueue())
    assert (job.state, log) == ("failed", ["undone"])


@pytest.mark.parametrize(
    ("faults", "error", "remedy"),
    [
        ([Retry("It is down.")] * 3, "Given up after 3 tries: It is down.", "provserver job retry"),
        ([ValueError("pl4nted")] * MAX_FAULTS, "A fault of the server; its log has more.", "log"),
        ([Refused("There is no such device.")], "There is no such device.", None),
    ],
)
async def test_a_job_is_given_up(
    yard: Yard, faults: list[Exception], error: str, remedy: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    left = iter(faults)

    async def run(_: Job, __: Steps) -> None:
        raise next(left)

    await yard.runner(kind := Kind(run))
    job = await yard.ended(await yard.enqueue())
    assert (job.state, job.error) == ("failed", error)
    assert remedy is None or remedy in str(job.remedy)
    assert next(left, None) is None
    assert len(kind.given_up) == 1
    assert "pl4nted" not in caplog.text


async def test_a_job_that_is_too_old_is_given_up(yard: Yard) -> None:
    async def run(_: Job, __: Steps) -> None:
        raise Retry("It is busy.", after=1)

    now = time.time()
    kind = Kind(run)
    kind.age = 3600.0
    runner = await yard.runner(kind, clock=lambda: now)
    id_ = await yard.enqueue()
    await yard.until(id_, lambda job: job.due_at is not None)
    now += 3601
    runner.wake()
    assert (await yard.ended(id_)).error == "Given up after 1 tries: It is busy."


async def test_an_undoing_is_tried_again_and_given_up_at_last(yard: Yard) -> None:
    async def run(_: Job, __: Steps) -> None:
        raise Failed("It is taken.", "Choose another.")

    async def give_up(job: Job, __: Steps) -> None:
        if job.input == "hopeless" or len(kind.given_up) < 3:
            raise Retry("It is down.")

    kind = Kind(run, give_up)
    await yard.runner(kind)
    job = await yard.ended(await yard.enqueue())
    assert (job.state, job.error, job.remedy) == ("failed", "It is taken.", "Choose another.")
    assert len(kind.given_up) == 3
    job = await yard.ended(await yard.enqueue(input="hopeless"))
    assert job.state == "failed"
    assert job.error == "It is taken. What it had done could not be undone: Given up after 3 tries: It is down."


async def test_a_running_job_is_cancelled_between_steps_and_undone(yard: Yard, space: Space) -> None:
    gate, log = Gate(), list[str]()

    async def run(_: Job, steps: Steps) -> None:
        await steps.do("first", gate)
        await steps.do("second", does(log, "second"))

    async def give_up(_: Job, steps: Steps) -> None:
        for name in ("second", "first"):
            await steps.undo(name, does(log, f"not {name}"))

    kind = Kind(run, give_up)
    await yard.runner(kind)
    id_ = await yard.enqueue()
    await gate.begun.wait()
    cancelled = await yard.jobs.cancel(yard.operator, id_)
    assert (cancelled.state, cancelled.ending) == ("running", "cancelled")
    with pytest.raises(Conflict, match="as soon as what it did is undone"):
        await yard.jobs.cancel(yard.operator, id_)
    gate.go_on.set()
    job = await yard.ended(id_)
    assert (job.state, job.error, job.ending, log) == ("cancelled", None, None, ["not first"])
    assert kind.given_up[0].ending == "cancelled"
    with pytest.raises(Conflict, match="cancelled"):
        await yard.jobs.cancel(yard.operator, id_)
    assert await space.value("SELECT action FROM audit WHERE subject_id = $1", str(id_)) == "job.cancelled"


async def test_a_job_that_was_done_before_it_could_be_cancelled_is_done(yard: Yard) -> None:
    gate = Gate()

    async def run(_: Job, steps: Steps) -> object:
        return await steps.do("only", gate)

    await yard.runner(Kind(run))
    id_ = await yard.enqueue()
    await gate.begun.wait()
    await yard.jobs.cancel(yard.operator, id_)
    gate.go_on.set()
    job = await yard.ended(id_)
    assert (job.state, job.result, job.ending) == ("done", "through", None)


async def test_a_waiting_job_is_cancelled(yard: Yard) -> None:
    async def run(_: Job, __: Steps) -> None:
        raise AssertionError

    id_ = await yard.enqueue(due_at=datetime.now(UTC) + timedelta(days=1))
    assert (await yard.jobs.cancel(yard.operator, id_)).state == "waiting"
    await yard.runner(kind := Kind(run))
    assert (await yard.ended(id_)).state == "cancelled"
    assert len(kind.given_up) == 1


async def test_a_job_that_failed_is_tried_again(yard: Yard, space: Space) -> None:
    log: list[str] = []
    well = False

    async def run(_: Job, steps: Steps) -> None:
        await steps.do("kept", does(log, "kept"))
        await steps.do("undone", does(log, "undone"))
        if not well:
            raise Failed("It is not well.", "Make it well.")

    async def give_up(_: Job, steps: Steps) -> None:
        await steps.undo("undone", does(log, "not undone"))

    await yard.runner(Kind(run, give_up))
    id_ = await yard.enqueue(key="k")
    assert (await yard.ended(id_)).state == "failed"
    well = True
    again = await yard.jobs.retry(yard.operator, id_)
    assert (again.state, again.error, again.remedy, again.tries) == ("waiting", None, None, 0)
    assert (await yard.ended(id_)).state == "done"
    assert log == ["kept", "undone", "not undone", "undone"]
    assert await space.value("SELECT action FROM audit WHERE subject_id = $1", str(id_)) == "job.retried"
    with pytest.raises(Conflict, match="it is done"):
        await yard.jobs.retry(yard.operator, id_)
    with pytest.raises(NotFound):
        await yard.jobs.retry(yard.operator, uuid4())


async def test_what_is_not_durable_is_not_tried_again(yard: Yard) -> None:
    async def work(_: object) -> None:
        raise Refused("There is no room.")

    job = await yard.jobs.start(yard.operator, "test", work)
    await yard.ended(job.id)
    with pytest.raises(Conflict, match="not tried again"):
        await yard.jobs.retry(yard.operator, job.id)


async def test_one_job_at_a_time_has_a_key(yard: Yard) -> None:
    async def run(_: Job, __: Steps) -> None:
        raise Failed("No.", "None.")

    id_ = await yard.enqueue(key="device 1")
    assert await yard.offer(key="device 1") is None
    assert await yard.offer("another", key="device 1") is not None
    assert await yard.offer(key="device 2") is not None
    assert await yard.offer() is not None
    await yard.runner(Kind(run))
    await yard.ended(id_)
    assert await yard.offer("test", key="device 1", due_at=datetime.now(UTC) + timedelta(days=1)) is not None
    with pytest.raises(Conflict, match="at the same"):
        await yard.jobs.retry(yard.operator, id_)


async def test_jobs_are_listed_by_state_kind_and_what_they_are_about(yard: Yard) -> None:
    subject = uuid4()
    a = await yard.enqueue("a", subject_id=subject)
    b = await yard.enqueue("b", subject_id=subject)
    c = await yard.enqueue("b")

    def newest(*ids: UUID) -> list[UUID]:  # of one millisecond in any order
        return sorted(ids, reverse=True)

    async def listed(**chosen: Any) -> list[UUID]:
        return [job.id for job in await yard.jobs.list_(yard.operator, **chosen)]

    assert await listed() == await listed(state="waiting") == newest(a, b, c)
    assert await listed(state="failed") == []
    assert await listed(kind="b") == newest(b, c)
    assert await listed(subject_id=subject) == newest(a, b)
    assert await listed(subject_id=subject, kind="b", state="waiting") == [b]


async def test_a_job_whose_process_is_gone_goes_on_elsewhere(yard: Yard, elsewhere: Database) -> None:
    gate, log = Gate(), list[str]()

    async def run(job: Job, steps: Steps) -> object:
        await steps.do("first", does(log, "first"))
        if job.tries == 1:
            await steps.do("second", gate)
        return await steps.do("second", does(log, f"second, begun before: {steps.begun('second')}", "elsewhere"))

    await yard.runner(Kind(run), lease=3600)
    id_ = await yard.enqueue()
    await gate.begun.wait()
    await yard.runner(Kind(run), elsewhere)
    await yard.expire(id_)
    job = await yard.ended(id_)
    assert (job.state, job.result, job.tries) == ("done", "elsewhere", 2)
    assert log == ["first", "second, begun before: True"]
    gate.go_on.set()  # whoever was taken for dead writes nothing any more
    await until(lambda: not yard.runners[0]._running)
    assert (await yard.show(id_)).result == "elsewhere"
    _, steps = await yard.jobs.details(yard.operator, id_)
    assert [(step.name, step.result, step.tries) for step in steps] == [("first", None, 1), ("second", "elsewhere", 2)]


_FREED = "UPDATE job SET state = 'waiting', holder = NULL, lease_until = NULL, faults = faults + 1 WHERE id = $1"


@pytest.mark.parametrize("freed", [False, True])
async def test_who_was_taken_for_dead_does_not_begin_a_job_that_he_is_still_at(
    yard: Yard, space: Space, freed: bool
) -> None:
    """Another process may have freed it by then; if none has, he goes on."""
    gate, at_it = Gate(), list[bool]()

    async def run(job: Job, steps: Steps) -> None:
        if job.input == "other":
            return
        at_it.append(True)
        try:
            await steps.do("first", gate)
        finally:
            at_it.pop()

    await yard.runner(Kind(run), lease=3600)
    id_ = await yard.enqueue()
    await gate.begun.wait()
    await yard.expire(id_)
    if freed:
        await space.rows(_FREED, id_)
    await yard.ended(await yard.enqueue(input="other"))  # after which it has looked
    assert (await yard.show(id_)).state == ("waiting" if freed else "running")
    assert len(at_it) == 1
    gate.go_on.set()
    job = await yard.ended(id_)
    assert (job.state, job.tries) == ("done", 2 if freed else 1)
    assert not at_it


async def test_who_is_told_that_a_job_is_anothers_lets_it_go(yard: Yard, space: Space) -> None:
    gate = Gate()

    async def run(_: Job, steps: Steps) -> None:
        await steps.do("first", gate)

    runner = await yard.runner(Kind(run), lease=1)
    id_ = await yard.enqueue()
    await gate.begun.wait()
    tasks = [each.task for each in runner._running.values()]
    await space.rows("UPDATE job SET holder = $2, lease_until = now() + interval '1 hour' WHERE id = $1", id_, uuid4())
    await asyncio.wait(tasks)
    assert (await yard.show(id_)).state == "running"


async def test_who_cannot_say_that_it_lives_ends_what_it_does(yard: Yard, outage: Outage) -> None:
    gate = Gate()

    async def run(_: Job, steps: Steps) -> None:
        await steps.do("first", gate)

    runner = await yard.runner(Kind(run), outage.database, lease=1)
    id_ = await yard.enqueue()
    await gate.begun.wait()
    tasks = [each.task for each in runner._running.values()]
    await outage.begin()
    await asyncio.wait(tasks)
    gate.go_on.set()
    outage.end()
    job = await yard.ended(id_)
    assert job.state == "done"
    assert job.tries > 1


async def test_a_job_that_kills_every_process_is_given_up(yard: Yard, space: Space) -> None:
    died = asyncio.Event()

    async def run(_: Job, __: Steps) -> None:
        died.set()
        raise asyncio.CancelledError  # as if the process had ended

    await yard.runner(kind := Kind(run), lease=3600)
    id_ = await yard.enqueue()
    while (await yard.show(id_)).state != "failed":
        if died.is_set():  # who undoes it lives
            died.clear()
            await yard.expire(id_)
    job = await yard.show(id_)
    assert (job.error, job.tries) == ("A fault of the server; its log has more.", 1)
    assert len(kind.given_up) == 1
    assert await space.value("SELECT faults FROM job") == 0


async def test_a_process_that_stops_lets_others_go_on(yard: Yard, elsewhere: Database) -> None:
    gate, log = Gate(), list[str]()

    async def run(_: Job, steps: Steps) -> object:
        result = await steps.do("first", gate)
        await steps.do("second", does(log, "second"))
        return result

    first = await yard.runner(Kind(run), lease=3600)
    ids_ = [await yard.enqueue(), await yard.enqueue(due_at=datetime.now(UTC) + timedelta(days=1))]
    await gate.begun.wait()
    stopping = asyncio.create_task(first.stop(3600))
    await until(lambda: first._stopping)
    gate.go_on.set()
    await stopping
    job = await yard.show(ids_[0])
    assert (job.state, job.tries, job.step, log) == ("waiting", 0, "first", [])
    await yard.runner(Kind(run), elsewhere)
    job = await yard.ended(ids_[0])
    assert (job.state, job.result, job.tries, log) == ("done", "through", 1, ["second"])


async def test_a_step_that_does_not_end_in_time_is_begun_again(yard: Yard) -> None:
    gate = Gate()

    async def run(_: Job, steps: Steps) -> bool:
        known = steps.begun("first")
        await steps.do("first", gate)
        return known

    first = await yard.runner(Kind(run), lease=3600)
    id_ = await yard.enqueue()
    await gate.begun.wait()
    await first.stop(0)
    assert (await yard.show(id_)).state == "waiting"
    gate.go_on.set()
    await yard.runner(Kind(run))
    job = await yard.ended(id_)
    assert (job.result, job.tries) == (True, 1)


async def test_a_runner_does_the_kinds_and_the_job_that_it_was_given(yard: Yard) -> None:
    foreign = await yard.enqueue("another")
    other, wanted = await yard.enqueue(), await yard.enqueue()
    await yard.runner(Kind(nothing), only=wanted)
    await yard.ended(wanted)
    assert [(await yard.show(each)).tries for each in (foreign, other)] == [0, 0]
    await yard.runner(Kind(nothing))
    await yard.ended(other)
    assert (await yard.show(foreign)).state == "waiting"


async def test_a_lane_that_cannot_be_named_is_the_kinds(
    yard: Yard, space: Space, caplog: pytest.LogCaptureFixture
) -> None:
    def lane(_: Job) -> str:
        raise ValueError("pl4nted")

    await yard.runner(Kind(nothing, lane=lane))
    await yard.ended(await yard.enqueue())
    assert await space.value("SELECT lane FROM job") == "test"
    assert "ValueError" in caplog.text
    assert "pl4nted" not in caplog.text


async def test_jobs_are_counted(yard: Yard) -> None:
    before = {labels: cell.value for labels, cell in metrics.JOBS.cells.items()}
    faults = iter([Retry("Later."), None, Failed("No.", "None.")])

    async def run(_: Job, __: Steps) -> None:
        if (fault := next(faults)) is not None:
            raise fault

    kinds = {"test": Kind(run)}
    await yard.enqueue("unknown")
    for _ in range(2):
        runner = await yard.runner(kinds)
        await yard.ended(await yard.enqueue())
        await until(lambda runner=runner: not runner._running)  # type: ignore[misc] # it is counted once it is written
        await runner.stop(0)
    after = {labels: cell.value - before[labels] for labels, cell in metrics.JOBS.cells.items()}
    assert after == {("done",): 1, ("failed",): 1, ("cancelled",): 0}
    runner._counted_at = 0.0
    await runner._count()
    assert metrics.JOBS_WAITING.cell().value == 1
    assert metrics.JOBS_LAG.cell().value >= 0


async def test_jobs_that_ended_long_ago_are_forgotten_with_their_steps(yard: Yard, space: Space) -> None:
    async def run(_: Job, steps: Steps) -> None:
        await steps.do("only", does([], ""))

    await yard.runner(Kind(run))
    old = await yard.ended(await yard.enqueue())
    waiting = await yard.enqueue("unknown")
    await space.rows("UPDATE job SET finished_at = finished_at - interval '31 days' WHERE id = $1", old.id)
    async with space.database.connection() as connection:
        await Retention(0).sweep(connection)
    assert [job.id for job in await yard.jobs.list_(yard.operator)] == [waiting]
    assert await space.value("SELECT count(*) FROM job_step") == 0


NAMES = ("a", "b", "c")


class World:
    """What jobs make elsewhere, by a script of what happens to each step: and what must hold of it all the time."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self.there: set[tuple[UUID, str]] = set()
        self.finished: set[tuple[UUID, str]] = set()
        self.died: set[UUID] = set()

    async def run(self, job: Job, steps: Steps) -> None:
        for name in NAMES:
            await steps.do(name, lambda name=name: self._make(job, steps, name))  # type: ignore[misc]

    async def give_up(self, job: Job, steps: Steps) -> None:
        for name in reversed(NAMES):
            await steps.undo(name, lambda name=name: self._unmake(job, name))  # type: ignore[misc]

    async def _make(self, job: Job, steps: Steps, name: str) -> None:
        place = (job.id, name)
        assert place not in self.finished
        assert steps.begun(name) or place not in self.there
        before = self._chance.choice(["well", "well", "well", "retry", "died", "failed"])
        if before == "failed" and place not in self.there:
            raise Failed("It is refused.", "None.")
        self._misfortune(job, before)
        self.there.add(place)
        self._misfortune(job, self._chance.choice(["well", "well", "retry", "fault", "died"]))
        self.finished.add(place)

    async def _unmake(self, job: Job, name: str) -> None:
        self._misfortune(job, self._chance.choice(["well", "well", "retry", "died"]))
        self.there.discard((job.id, name))
        self.finished.discard((job.id, name))

    def _misfortune(self, job: Job, kind: str) -> None:
        if kind == "retry":
            raise Retry("It does not answer.")
        if kind == "fault":
            raise ValueError
        if kind == "died":
            self.died.add(job.id)
            raise asyncio.CancelledError


@pytest.mark.parametrize("seed", range(4))
async def test_whatever_happens_a_job_ends_with_all_or_nothing(yard: Yard, elsewhere: Database, seed: int) -> None:
    world = World(random.Random(seed))
    kind = Kind(world.run, world.give_up)
    kind.tries = 1000
    ids_ = {await yard.enqueue() for _ in range(12)}
    for database in (None, elsewhere):
        await yard.runner(kind, database, lease=3600)
    states: dict[UUID, str] = {}
    while len(states) < len(ids_):
        while world.died:
            await yard.expire(world.died.pop())
        states |= {job.id: job.state for job in await yard.jobs.list_(yard.operator) if job.finished_at is not None}
    for id_, state in states.items():
        made = {name for job, name in world.there if job == id_}
        shown = await yard.show(id_)
        if "could not be undone" not in str(shown.error):
            assert made == (set(NAMES) if state == "done" else set()), (shown, await yard.steps(id_))

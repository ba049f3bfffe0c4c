"""The process that runs durable jobs is killed in and between steps: another goes on, and no sooner."""

import asyncio
import sys
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from uuid import UUID

from tests.conftest import Space
from tests.faults.job_worker import Work
from tests.services.jobs import Yard

EXPECTED = {
    "before a": ("", "a b c"),
    "in a": ("a", "a? b c"),
    "after a": ("a", "b c"),
    "before b": ("a", "b c"),
    "in b": ("a b", "b? c"),
    "after b": ("a b", "c"),
    "in c": ("a b c", "c?"),
    "after c": ("a b c", ""),
    "undoing c": ("a b c -c", "-c -b -a"),
    "undoing a": ("a b c -c -b -a", "-a"),
}
"""By where the first process is killed: what it has done, and what the other does. "?": that it may be done already."""


def done(file: Path, who: str) -> dict[str, str]:
    """What a process has done, by job."""
    found: dict[str, list[str]] = {place: [] for place in EXPECTED}
    for line in file.read_text().splitlines():
        place, whose, what = line.split(":")
        if whose == who:
            found.setdefault(place, []).append(what)
    return {place: " ".join(each) for place, each in found.items()}


async def kill(process: asyncio.subprocess.Process) -> None:
    with suppress(ProcessLookupError):
        process.kill()
    await process.wait()


async def leases(space: Space) -> dict[UUID, object]:
    rows = await space.rows("SELECT id, lease_until FROM job WHERE state = 'running' AND holder IS NOT NULL")
    return {row[0]: row[1] for row in rows}


async def test_jobs_of_a_killed_process_go_on_where_they_were(space: Space, database_url: str, tmp_path: Path) -> None:
    file = tmp_path / "done"
    command = [sys.executable, "-m", "tests.faults.job_worker", database_url, str(file), str(len(EXPECTED))]
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    assert process.stdout is not None
    async with AsyncExitStack() as stack:
        stack.push_async_callback(kill, process)
        yard = await stack.enter_async_context(Yard.open(space))
        ids = {place: await yard.enqueue(input=place) for place in EXPECTED}
        reached = {(await process.stdout.readline()).decode().strip() for _ in EXPECTED}
        assert reached == set(EXPECTED)

        async def go_on(_job: object, _place: str) -> None:
            pass

        await yard.runner(Work(str(file), "second", go_on))
        assert (await yard.ended(await yard.enqueue(input="beside"))).result == "second"
        before = await leases(space)
        while any(now == before[id_] for id_, now in (await leases(space)).items()):
            pass
        assert set(await leases(space)) == set(ids.values())
        assert done(file, "second") == dict.fromkeys(EXPECTED, "") | {"beside": "a b c"}

        await kill(process)
        for id_ in ids.values():
            await yard.expire(id_)
        for place, id_ in ids.items():
            job = await yard.ended(id_)
            assert (job.state, job.result) == (
                ("failed", None) if place.startswith("undoing") else ("done", "second")
            ), place
    assert done(file, "first") == {place: first for place, (first, _) in EXPECTED.items()}
    assert done(file, "second") == {place: second for place, (_, second) in EXPECTED.items()} | {"beside": "a b c"}

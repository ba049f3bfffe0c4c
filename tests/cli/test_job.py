import asyncio
import json
import time
from collections.abc import Callable
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from provserver import workspace
from provserver.core import ids
from provserver.services.job_runner import Failed, Job, Steps
from tests.cli.conftest import Cli
from tests.services.jobs import Kind

ABSENT = "01a20143-c9e8-78ff-bcb8-47a0e6b10c00"


@pytest.fixture
def cli(everywhere: Cli) -> Cli:
    """Commands, on the database and on a server."""
    return everywhere


@pytest.fixture
def durable(url: str, cli_data_dir: object) -> Callable[..., str]:  # noqa: ARG001 - which makes an organization
    """Makes a durable job, as it is to be; its id."""

    async def make(state: str, kind: str, columns: dict[str, Any]) -> str:
        connection = await asyncpg.connect(url)
        id_ = ids.uuid7(time.time(), lambda length: uuid4().bytes[-length:])
        given = {"id": id_, "kind": kind, "actor": "operator", "state": state, "durable": True} | columns
        root = await connection.fetchval("SELECT id FROM organization WHERE parent_id IS NULL")
        names = ", ".join(("organization_id", *given))
        places = ", ".join(f"${n + 1}" for n in range(len(given) + 1))
        await connection.execute(f"INSERT INTO job ({names}) VALUES ({places})", root, *given.values())
        await connection.execute("INSERT INTO job_step (job_id, name, state) VALUES ($1, 'keys', 'begun')", id_)
        await connection.close()
        return str(id_)

    def run(state: str, kind: str = "test", **columns: Any) -> str:
        return asyncio.run(make(state, kind, columns))

    return run


def test_jobs_are_listed_and_shown(cli: Cli, profile: str) -> None:
    batch = cli.json("token", "create", "--profile", profile, "--count", "1001")

    job, *_ = cli.json("job", "list", "--limit", "1")

    assert UUID(job["id"])
    assert (job["kind"], job["state"], job["done"]) == ("static_tokens.make", "done", 1001)
    assert job["result"] == batch
    assert cli.json("job", "show", job["id"]) == job | {"steps": []}
    assert cli.json("job", "watch", job["id"]) == job | {"steps": []}
    assert cli.run("job", "list", "--limit", "1").out.split()[:6] == ["ID", "KIND", "ACTOR", "STATE", "DONE", "TOTAL"]


def test_jobs_are_chosen(cli: Cli, durable: Callable[..., str]) -> None:
    subject, kind = uuid4(), f"kind-{uuid4()}"
    waiting = durable("waiting", kind, subject_id=subject)
    failed = durable("failed", kind)

    def listed(*options: str) -> list[str]:
        return [job["id"] for job in cli.json("job", "list", *options)]

    assert listed("--kind", kind) == [failed, waiting]
    assert listed("--kind", kind, "--state", "failed") == [failed]
    assert listed("--subject", str(subject)) == [waiting]
    assert listed("--subject", str(uuid4())) == []
    cli.refused("job", "list", "--state", "lost", code=2)
    cli.refused("job", "list", "--kind", "")


def test_a_job_that_has_ended_or_is_not_there_is_not_cancelled(cli: Cli, profile: str) -> None:
    cli.json("token", "create", "--profile", profile, "--count", "1001")
    job, *_ = cli.json("job", "list", "--limit", "1")

    assert "ended" in cli.refused("job", "cancel", job["id"])
    for command in ("show", "cancel", "retry", "watch"):
        cli.refused("job", command, ABSENT)


def test_a_job_that_failed_says_what_to_do_and_is_tried_again(cli: Cli, durable: Callable[..., str]) -> None:
    job = durable("failed", error="The key is refused.", remedy="Make another key.", step="keys", tries=2)

    watched = cli.run("job", "watch", job)
    assert watched.code == 1
    assert [line.split(maxsplit=1)[1] for line in watched.out.splitlines() if line.startswith(("error", "remedy"))] == [
        "The key is refused.",
        "Make another key.",
    ]
    (step,) = cli.json("job", "show", job)["steps"]
    assert (step["name"], step["state"], step["tries"]) == ("keys", "begun", 1)
    again = cli.json("job", "retry", job)
    assert (again["state"], again["error"], again["remedy"], again["tries"]) == ("waiting", None, None, 0)
    assert "it is waiting" in cli.refused("job", "retry", job)
    assert cli.json("job", "cancel", job)["ending"] == "cancelled"
    assert "as soon as what it did is undone" in cli.refused("job", "cancel", job)


@pytest.mark.parametrize("well", [True, False])
def test_on_the_database_a_job_that_is_waited_for_is_done_by_who_waits(
    local: Cli, durable: Callable[..., str], monkeypatch: pytest.MonkeyPatch, well: bool
) -> None:
    async def run(_: Job, steps: Steps) -> object:
        steps.progress(3, 4)
        if not well:
            raise Failed("There is no room.", "Make room.")
        return await steps.do("keys", run_step)

    async def run_step() -> int:
        return 7

    monkeypatch.setattr(workspace, "job_kinds", lambda *_: {"test": Kind(run)})
    job = durable("waiting", step="keys")
    beside = durable("waiting")

    watched = local.run("job", "watch", job, "--json")

    found = json.loads(watched.out)
    expected = ("done", 7, None, "done") if well else ("failed", None, "Make room.", "begun")
    assert (found["state"], found["result"], found["remedy"], found["steps"][0]["state"]) == expected
    assert (watched.code, found["done"], found["total"]) == (0 if well else 1, 3, 4)
    assert local.json("job", "show", beside)["state"] == "waiting"


def test_who_watches_sees_how_far_it_is(cli: Cli, profile: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    for options, shown in (
        ((), True),
        (("--no-progress",), False),
        (("--json",), False),
        (("--json", "--progress"), True),
    ):
        done = cli.run("token", "create", "--profile", profile, "--count", "1001", *options)
        assert (done.code, "1,001 tokens" in done.err) == (0, shown), options
    job, *_ = cli.json("job", "list", "--limit", "1")
    for options, shown in (((), True), (("--json",), False)):
        done = cli.run("job", "watch", job["id"], *options)
        assert (done.code, "1,001 done" in done.err) == (0, shown), options

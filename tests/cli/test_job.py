from uuid import UUID

import pytest

from tests.cli.conftest import Cli


@pytest.fixture
def cli(everywhere: Cli) -> Cli:
    """Commands, on the database and on a server."""
    return everywhere


def test_jobs_are_listed_and_shown(cli: Cli, profile: str) -> None:
    batch = cli.json("token", "create", "--profile", profile, "--count", "1001")

    job, *_ = cli.json("job", "list", "--limit", "1")

    assert UUID(job["id"])
    assert (job["kind"], job["state"], job["done"]) == ("static_tokens.make", "done", 1001)
    assert job["result"] == batch
    assert cli.json("job", "show", job["id"]) == job
    assert cli.run("job", "list", "--limit", "1").out.split()[:6] == ["ID", "KIND", "ACTOR", "STATE", "DONE", "TOTAL"]


def test_a_job_that_has_ended_or_is_not_there_is_not_cancelled(cli: Cli, profile: str) -> None:
    cli.json("token", "create", "--profile", profile, "--count", "1001")
    job, *_ = cli.json("job", "list", "--limit", "1")

    assert "ended" in cli.refused("job", "cancel", job["id"])
    for command in ("show", "cancel"):
        cli.refused("job", command, "01a20143-c9e8-78ff-bcb8-47a0e6b10c00")


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

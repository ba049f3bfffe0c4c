"""`provserver job`: work that takes longer than a request should."""

from typing import Annotated
from uuid import UUID

import typer

from provserver.admin.client import Client, path
from provserver.cli import options, output
from provserver.cli.output import Json
from provserver.cli.target import acting
from provserver.core.job import JobState

cli = typer.Typer(help="Jobs: long work that was asked for, and what came of it.", no_args_is_help=True)

Reference = Annotated[str, typer.Argument(metavar="JOB", help="Its id.", callback=options.reference("job"))]


@cli.command("list")
@acting()
async def list_(
    api: Client,
    state: Annotated[JobState | None, typer.Option(help="Only those.", show_default=False)] = None,
    kind: Annotated[str | None, typer.Option(help="Only those, as network.onboard.", show_default=False)] = None,
    subject: Annotated[
        UUID | None, typer.Option(help="Only those about it: the id of a device, for example.", show_default=False)
    ] = None,
    limit: Annotated[int, typer.Option(help="How many at most.", min=1)] = 50,
    json: Json = False,
) -> None:
    """List the jobs, the newest first."""
    members = ("id", "kind", "actor", "state", "done", "total", "tries", "error")
    columns = {name.upper(): name for name in members} | {"BEGUN": "createdAt", "ENDED": "finishedAt"}
    query = {"state": state, "kind": kind, "subject": None if subject is None else str(subject)}
    spare = ("ACTOR", "TRIES", "ENDED")
    await output.print_list(api.items("/jobs", query=query, limit=limit), columns, json=json, spare=spare)


@cli.command()
@acting()
async def show(api: Client, job: Reference, json: Json = False) -> None:
    """Show a job: how far it is, its steps, its result, or why it failed and what to do about it."""
    output.print_object(await api.call("GET", path("jobs", job)), json=json)


@cli.command()
@acting()
async def watch(api: Client, job: Reference, json: Json = False) -> None:
    """Wait until a job has ended, with a bar on a terminal, and show it. Exits with 1 unless it is done."""
    found = await api.call("GET", path("jobs", job))
    with output.progress("done", quiet=json) as told:
        told(found["done"], found["total"])
        found = await api.watched(found, told)
    output.print_object(found, json=json)
    if found["state"] != JobState.DONE:
        raise typer.Exit(1)


@cli.command()
@acting()
async def cancel(api: Client, job: Reference, json: Json = False) -> None:
    """Have a job end; what it has not committed is undone."""
    output.print_object(await api.call("POST", path("jobs", job, "cancel")), json=json)


@cli.command()
@acting()
async def retry(api: Client, job: Reference, json: Json = False) -> None:
    """Have a job that failed be tried again; what it did, and has not undone, is not done again."""
    output.print_object(await api.call("POST", path("jobs", job, "retry")), json=json)

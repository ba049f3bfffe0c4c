"""`provserver job`: work that takes longer than a request should."""

from typing import Annotated

import typer

from provserver.admin.client import Client, path
from provserver.cli import options, output
from provserver.cli.output import Json
from provserver.cli.target import acting

cli = typer.Typer(help="Jobs: long work that was asked for, and what came of it.", no_args_is_help=True)

Reference = Annotated[str, typer.Argument(metavar="JOB", help="Its id.", callback=options.reference("job"))]


@cli.command("list")
@acting()
async def list_(
    api: Client,
    limit: Annotated[int, typer.Option(help="How many at most.", min=1)] = 50,
    json: Json = False,
) -> None:
    """List the jobs."""
    members = ("id", "kind", "actor", "state", "done", "total")
    columns = {name.upper(): name for name in members} | {"BEGUN": "createdAt", "ENDED": "finishedAt"}
    await output.print_list(api.items("/jobs", limit=limit), columns, json=json)


@cli.command()
@acting()
async def show(api: Client, job: Reference, json: Json = False) -> None:
    """Show a job: how far it is, its result, or why it failed."""
    output.print_object(await api.call("GET", path("jobs", job)), json=json)


@cli.command()
@acting()
async def cancel(api: Client, job: Reference, json: Json = False) -> None:
    """Have a job end; what it has not committed is undone."""
    output.print_object(await api.call("POST", path("jobs", job, "cancel")), json=json)

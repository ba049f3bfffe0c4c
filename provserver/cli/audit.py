"""`provserver audit`: who did what."""

from typing import Annotated

import typer

from provserver.admin.client import Client
from provserver.cli import options, output
from provserver.cli.organization import OrganizationChoice
from provserver.cli.output import Json
from provserver.cli.target import acting

cli = typer.Typer(help="The audit: what was done, by whom, in whose organization.", no_args_is_help=True)

MAX_LIMIT = 100_000


@cli.command("list")
@acting()
async def list_(
    api: Client,
    subject: Annotated[
        str | None,
        typer.Option(help="Only what was done to this id.", callback=options.reference("subject"), show_default=False),
    ] = None,
    organization: OrganizationChoice = None,
    limit: Annotated[int, typer.Option(help="How many at most.", min=1, max=MAX_LIMIT)] = 50,
    json: Json = False,
) -> None:
    """List what was done last in one's organization and those below it, newest first."""
    columns = {"TIME": "at", "ACTOR": "actor", "ACTION": "action", "SUBJECT": "subjectId", "DETAIL": "detail"}
    await output.print_list(
        api.items("/audit", query={"subject": subject, "organization": organization}, limit=limit), columns, json=json
    )

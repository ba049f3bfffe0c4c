"""`provserver attempt`: what devices asked for, and why they were refused."""

from typing import Annotated

import typer

from provserver.admin.client import Client
from provserver.cli import options, output
from provserver.cli.output import Json
from provserver.cli.target import acting

cli = typer.Typer(help="Attempts to provision: what came of each, and why it was refused.", no_args_is_help=True)

MAX_LIMIT = 100_000

_SPARE = ("TRANSPORT", "ADDRESS", "PROFILE", "DETAIL")  # `provserver explain ID` has them


@cli.command("list")
@acting()
async def list_(
    api: Client,
    profile: Annotated[
        str | None,
        typer.Option(help="Only this profile's.", callback=options.reference("profile"), show_default=False),
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(
            help="Only those of this device's name or id.", callback=options.reference("device"), show_default=False
        ),
    ] = None,
    refused: Annotated[bool, typer.Option("--refused", help="Only those that were refused.")] = False,
    limit: Annotated[int, typer.Option(help="How many at most.", min=1, max=MAX_LIMIT)] = 50,
    json: Json = False,
) -> None:
    """List the last attempts, newest first."""
    chosen = {"profile": profile, "device": device, "refused": refused or None}
    members = ("id", "time", "transport", "address", "outcome", "reason", "device", "profile", "detail")
    found = api.items("/attempts", query=chosen, limit=limit)
    await output.print_list(found, {name.upper(): name for name in members}, json=json, spare=_SPARE, whole="ID")

"""`provserver attempt`: what devices asked for, and why they were refused."""

import asyncio
from typing import Annotated

import typer

from provserver.cli import options, output
from provserver.cli.options import ConfigFile, DatabaseUrl, DataDir
from provserver.cli.output import Json
from provserver.store.attempts import AttemptSummary
from provserver.workspace import workspace

cli = typer.Typer(help="Attempts to provision: what came of each, and why it was refused.", no_args_is_help=True)

MAX_LIMIT = 100_000


@cli.command("list")
def list_(
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
    config: ConfigFile = None,
    data_dir: DataDir = None,
    database_url: DatabaseUrl = None,
    json: Json = False,
) -> None:
    """List the last attempts, newest first."""

    async def act() -> list[AttemptSummary]:
        async with workspace(settings) as space:
            return await space.attempts.newest(limit, profile=profile, device=device, refused=refused)

    settings = options.load(config, data_dir=data_dir, database_url=database_url)
    found = asyncio.run(act())
    if json:
        output.print_json([_attempt(each) for each in found])
    else:
        output.print_table(
            ["TIME", "TRANSPORT", "ADDRESS", "OUTCOME", "REASON", "DEVICE", "PROFILE", "DETAIL"],
            [
                (f"{a.at:%F %T}", a.transport, a.address, a.outcome, a.reason, a.device, a.profile, a.detail)
                for a in found
            ],
        )


def _attempt(attempt: AttemptSummary) -> dict[str, object]:
    return {
        "id": attempt.id,
        "time": attempt.at,
        "transport": attempt.transport,
        "address": attempt.address,
        "outcome": attempt.outcome,
        "reason": attempt.reason,
        "device": attempt.device,
        "deviceId": attempt.device_id,
        "profile": attempt.profile,
        "profileId": attempt.profile_id,
        "detail": attempt.detail,
    }

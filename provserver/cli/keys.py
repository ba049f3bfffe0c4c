"""`provserver keys`: the versions of the server's own keys."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated

import typer

from provserver import workspace
from provserver.cli import options, output
from provserver.cli.options import ConfigFile, DatabaseUrl, DataDir
from provserver.cli.output import Json
from provserver.config import Config
from provserver.errors import Refused
from provserver.services.key_rotation import KeyRotation
from provserver.store.server_keys import Remains

cli = typer.Typer(help="Rotate the server's own keys, list or retire their versions.", no_args_is_help=True)

_MEANINGS = {
    "new": "known, not written with yet",
    "current": "written with",
    "old": "being replaced",
    "settled": "replaced; can be retired",
    "retired": "gone",
}


@cli.command()
def rotate(
    write: Annotated[
        Path | None,
        typer.Option(
            help="Where to put the keys with a new version, when they come from PROVSERVER_KEYS.", show_default=False
        ),
    ] = None,
    config: ConfigFile = None,
    data_dir: DataDir = None,
    database_url: DatabaseUrl = None,
    json: Json = False,
) -> None:
    """Bring a new version of the keys, and have all that is sealed sealed anew, while the server runs.

    Again after an interruption goes on where it was.
    """
    settings = options.load(config, data_dir=data_dir, database_url=database_url)

    async def run() -> None:
        async with _rotation(settings) as rotation:
            with output.progress("rows", quiet=json) as told:
                rotated = await rotation.rotate(told, write)
        if json:
            output.print_json({"version": rotated.version, "converted": rotated.converted, "old": rotated.old})
            return
        output.say(f"Version {rotated.version} of the keys is in use; {rotated.converted} rows were sealed anew.")
        output.say("Back the keys up again: the old backup of them does not open what is written from now on.")
        for old in rotated.old:
            output.say(f"Version {old} can be taken away: provserver keys retire {old}")

    asyncio.run(run())


@cli.command("list")
def list_(
    config: ConfigFile = None, data_dir: DataDir = None, database_url: DatabaseUrl = None, json: Json = False
) -> None:
    """List the versions of the keys, and the processes that work with them."""
    settings = options.load(config, data_dir=data_dir, database_url=database_url)

    async def run() -> None:
        async with _rotation(settings) as rotation:
            versions, processes = await rotation.list_()
        if json:
            output.print_json(
                {
                    "versions": [{"version": each.number, "state": each.state} for each in versions],
                    "processes": [
                        {
                            "host": each.host,
                            "pid": each.pid,
                            "known": each.known,
                            "writes": each.writes,
                            "alive": not each.stale,
                        }
                        for each in processes
                    ],
                }
            )
            return
        output.print_table(
            ["VERSION", "STATE", ""], [(each.number, each.state, _MEANINGS[each.state]) for each in versions]
        )
        if processes:
            output.print_table(
                ["HOST", "PID", "KNOWS", "WRITES", "ALIVE"],
                [(each.host, each.pid, each.known, each.writes, not each.stale) for each in processes],
            )

    asyncio.run(run())


@cli.command()
def retire(
    version: Annotated[int, typer.Argument(min=1, max=255)],
    yes: Annotated[bool, typer.Option("--yes", help="Do it, whatever is lost.")] = False,
    config: ConfigFile = None,
    data_dir: DataDir = None,
    database_url: DatabaseUrl = None,
    json: Json = False,
) -> None:
    """Take an old version of the keys away; what would be lost with it is named first."""
    settings = options.load(config, data_dir=data_dir, database_url=database_url)

    async def run() -> None:
        async with _rotation(settings) as rotation:
            if not yes and (lost := _lost(await rotation.remains(version))):
                raise Refused(f"With version {version} would be lost: {lost}. Wait until they are over, or add --yes.")
            dropped = await rotation.retire(version)
        if json:
            output.print_json({"version": version, "removed": dropped})
            return
        output.say(f"Version {version} of the keys is retired.")
        if not dropped:
            output.say(f"Take version {version} out of PROVSERVER_KEYS when you like: it is ignored from now on.")

    asyncio.run(run())


def _lost(remains: Remains) -> str:
    counted = {
        "sessions of people who are signed in": remains.sessions,
        "links that were not used": remains.links,
        "claims that devices offer": remains.claims,
        "nonces by which a device that lost its answer would get it again": remains.nonces,
    }
    return ", ".join(f"{number} {what}" for what, number in counted.items() if number)


@asynccontextmanager
async def _rotation(settings: Config) -> AsyncIterator[KeyRotation]:
    async with workspace.workspace(settings) as space:
        yield KeyRotation(
            space.database, space.keys, workspace.key_source(settings), file=workspace.head_file(settings)
        )

"""`provserver db`: the schema's state."""

import asyncio

import typer

from provserver import workspace
from provserver.cli import options, output
from provserver.cli.options import ConfigFile, DatabaseUrl, DataDir
from provserver.cli.output import Json
from provserver.config import Config
from provserver.store import schema
from provserver.store.schema import Migration

cli = typer.Typer(help="Upgrade the database schema, or show its state.", no_args_is_help=True)


@cli.command()
def upgrade(
    config: ConfigFile = None, data_dir: DataDir = None, database_url: DatabaseUrl = None, json: Json = False
) -> None:
    """Apply the migrations that are missing, all or none."""
    applied = asyncio.run(_upgrade(options.load(config, data_dir=data_dir, database_url=database_url)))
    if json:
        output.print_json([{"number": m.number, "name": m.name} for m in applied])
    for migration in [] if json else applied:
        output.say(f"applied {migration.number:04}_{migration.name}")
    output.say("The database is up to date.", quiet=json)


@cli.command()
def status(
    config: ConfigFile = None, data_dir: DataDir = None, database_url: DatabaseUrl = None, json: Json = False
) -> None:
    """Show which migrations are applied and which are missing; exit code 1 when some are."""
    pending = asyncio.run(_pending(options.load(config, data_dir=data_dir, database_url=database_url)))
    missing = {migration.number for migration in pending}
    rows = [
        {"number": m.number, "name": m.name, "applied": m.number not in missing, "checksum": m.checksum}
        for m in schema.known()
    ]
    if json:
        output.print_json(rows)
    else:
        output.print_table(
            ["MIGRATION", "STATE"],
            [(f"{r['number']:04}_{r['name']}", "applied" if r["applied"] else "missing") for r in rows],
        )
    if missing:
        output.say("Apply them with: provserver db upgrade", quiet=json)
        raise typer.Exit(1)


async def _upgrade(settings: Config) -> list[Migration]:
    async with workspace.database(settings, make=True) as database:
        return await schema.upgrade(database)


async def _pending(settings: Config) -> list[Migration]:
    async with workspace.database(settings) as database:
        return await schema.pending(database)

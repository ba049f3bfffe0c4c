"""`provserver backup` and `provserver restore`."""

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from provserver import workspace
from provserver.cli import options, output
from provserver.cli.options import ConfigFile, DatabaseUrl, DataDir
from provserver.cli.output import Json
from provserver.errors import Misconfigured
from provserver.services import backup as service
from provserver.store.keyfile import check_private

MIN_PASSPHRASE = 12

BackupFile = Annotated[Path, typer.Argument(metavar="FILE")]
PassphraseFile = Annotated[
    Path | None,
    typer.Option(help="What the keys are sealed under; without it you are asked.", show_default=False),
]


def backup(
    file: BackupFile,
    passphrase_file: PassphraseFile = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the file if it exists.")] = False,
    config: ConfigFile = None,
    data_dir: DataDir = None,
    database_url: DatabaseUrl = None,
    json: Json = False,
) -> None:
    """Write the database and the server's keys to one file, while the server runs or not."""
    settings = options.load(config, data_dir=data_dir, database_url=database_url)
    if file.exists() and not force:
        raise typer.BadParameter(f"{file} exists; --force replaces it.", param_hint="FILE")
    passphrase = _passphrase(passphrase_file, confirm=True)

    async def run() -> int:
        async with workspace.workspace(settings) as space:
            content = service.backup(space.database, workspace.key_source(settings), passphrase)
            with output.progress("bytes", quiet=json) as told:
                return await output.save(file, content, told)

    size = asyncio.run(run())
    if json:
        output.print_json({"file": str(file), "bytes": size})
    else:
        output.say(f"{file} has the database and the keys: {size:,} bytes. Without its passphrase it is of no use.")


def restore(
    file: BackupFile,
    passphrase_file: PassphraseFile = None,
    webhooks_off: Annotated[
        bool,
        typer.Option(
            "--webhooks-off",
            help="For a server that is only to be tried: disable webhooks and integrations, fail the jobs that wait.",
        ),
    ] = False,
    config: ConfigFile = None,
    data_dir: DataDir = None,
    database_url: DatabaseUrl = None,
    json: Json = False,
) -> None:
    """Fill a new data directory, or an empty database of yours, with a backup."""
    settings = options.load(config, data_dir=data_dir, database_url=database_url)
    passphrase = _passphrase(passphrase_file, confirm=False)

    async def run() -> tuple[service.Found, service.Restored]:
        with output.progress("bytes", quiet=json) as told:
            found = service.examine(file, passphrase, told)
        async with workspace.database(settings, make=True) as opened:
            with output.progress("bytes", quiet=json) as told:
                source = workspace.key_source(settings)
                head_file = workspace.head_file(settings)
                restored = await service.restore(
                    opened, source, file, found, told, head_file, webhooks_off=webhooks_off
                )
                return found, restored

    found, restored = asyncio.run(run())
    if json:
        migrations = [{"number": each.number, "name": each.name} for each in restored.applied]
        output.print_json(
            {
                "file": str(file),
                "createdAt": found.head.created_at,
                "applied": migrations,
                "webhooksDisabled": restored.silenced,
            }
        )
    else:
        if webhooks_off:
            output.say(f"{restored.silenced} webhooks are disabled (provserver webhook update ID --enable).")
        output.say(f"The backup of {found.head.created_at} is restored. Start the server: provserver serve")


def _passphrase(file: Path | None, *, confirm: bool) -> str:
    if file is None:
        given: str = typer.prompt("Passphrase", hide_input=True, confirmation_prompt=confirm, err=True)
    else:
        try:
            check_private(file)
            given = file.read_text().rstrip("\r\n")
        except OSError as fault:
            raise Misconfigured(f"{file} cannot be read: {fault.strerror}.") from None
        except UnicodeDecodeError:
            raise Misconfigured(f"{file} cannot be read: it is not UTF-8.") from None
    if confirm and len(given) < MIN_PASSPHRASE:
        raise typer.BadParameter(f"must have {MIN_PASSPHRASE} characters or more.", param_hint="the passphrase")
    return given

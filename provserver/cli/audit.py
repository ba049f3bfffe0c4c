"""`provserver audit`: who did what, and the proof that it is all there."""

import sys
from contextlib import aclosing
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from provserver.admin.client import Client
from provserver.cli import files, options, output
from provserver.cli.organization import OrganizationChoice
from provserver.cli.output import Json
from provserver.cli.target import acting
from provserver.errors import Misconfigured

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
        api.items("/audit", query={"subject": subject, "organization": organization}, limit=limit),
        columns,
        json=json,
        cut={"DETAIL"},
    )


@cli.command()
@acting()
async def export(
    api: Client,
    file: Annotated[Path, typer.Argument(help="Where to write it; - is standard output.", allow_dash=True)],
    organization: OrganizationChoice = None,
    json: Json = False,
) -> None:
    """Export what was done as JSON lines, oldest first. That it was exported is in the audit, too."""
    content = api.stream("/audit/export", query={"organization": organization}, accept="application/jsonl")
    async with aclosing(content) as parts:
        if str(file) == "-":
            async for part in parts:
                sys.stdout.write(part.decode())
            return
        with output.progress("bytes", quiet=json) as told:
            size = await output.save(file, parts, told)
    output.print_object({"file": str(file), "bytes": size}, json=json)


@cli.command()
@acting()
async def head(api: Client, json: Json = False) -> None:
    """Print the signed end of the chain. Keep it with --json where nobody who has the database can change it."""
    output.print_object(await api.call("GET", "/audit/head"), json=json)


@cli.command()
@acting()
async def verify(
    api: Client,
    head_file: Annotated[
        Path | None,
        typer.Option("--head", help="What `audit head --json` printed before: the chain must have it.", dir_okay=False),
    ] = None,
    json: Json = False,
) -> None:
    """Verify that no entry was altered, removed or moved; exits with 1 and names the first that is wrong."""
    known: Any = None
    if head_file is not None:
        try:
            known = msgspec.json.decode(files.text(head_file))
        except msgspec.DecodeError:
            raise Misconfigured(f"{head_file} is not what `provserver audit head --json` prints.") from None
    found = await api.call("POST", "/audit/verify", body={"head": known})
    broken = found["broken"]
    if json:
        output.print_json(found)
    elif broken is None:
        waiting = f"; {found['waiting']} more wait for their place" if found["waiting"] else ""
        against = "" if known is None else f", and the head of {head_file} is among them"
        output.print_object({"verified": f"{found['entries']} entries{against}{waiting}"})
    else:
        entry = f"entry {broken['seq']}" + (f", {broken['id']}" if broken["id"] else "")
        output.say(f"broken at {entry}: {broken['text']}")
        output.say(f"The {found['entries']} entries before it are right.")
    if broken is not None:
        raise typer.Exit(1)

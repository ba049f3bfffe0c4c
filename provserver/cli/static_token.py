"""`provserver token`: static tokens, each with the QR token that claims its device."""

from collections.abc import Mapping
from contextlib import aclosing
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from provserver.admin.client import Client, Query, given, path
from provserver.cli import files, options, output
from provserver.cli.device import print_device, say_left
from provserver.cli.output import Json
from provserver.cli.target import acting

cli = typer.Typer(
    help="Static tokens: made before their devices are, written in the factory, claimed by QR.", no_args_is_help=True
)


class Status(StrEnum):
    """Whether somebody has claimed it."""

    UNCLAIMED = "unclaimed"
    CLAIMED = "claimed"


class Image(StrEnum):
    """What QR codes are drawn as."""

    PNG = "png"
    SVG = "svg"


Reference = Annotated[
    str, typer.Argument(metavar="TOKEN", help="Number or id.", callback=options.reference("token", "token list"))
]
ProfileOption = Annotated[
    str,
    typer.Option("--profile", help="Name, template id (TMPL…) or id.", callback=options.reference("profile")),
]
ProfileChoice = Annotated[
    str | None,
    typer.Option(
        "--profile", help="Only those of this profile.", callback=options.reference("profile"), show_default=False
    ),
]
BatchChoice = Annotated[
    str | None,
    typer.Option(
        "--batch",
        metavar="ID",
        help="Only those that were made together, as create and import name them.",
        callback=options.reference("batch", "token list"),
        show_default=False,
    ),
]
StatusChoice = Annotated[Status | None, typer.Option("--status", help="Only those of this status.", show_default=False)]
ShowProgress = Annotated[
    bool | None,
    typer.Option(
        "--progress/--no-progress", help="A progress bar on stderr. (default: without --json)", show_default=False
    ),
]


@cli.command()
@acting()
async def create(
    api: Client,
    profile: ProfileOption,
    count: Annotated[int, typer.Option(min=1, help="How many to make.")] = 1,
    progress: ShowProgress = None,
    json: Json = False,
) -> None:
    """Make static tokens. `token export` writes them to a file, for the factory and the printer."""
    with output.progress("tokens", quiet=_quiet(progress, json)) as told:
        made = await api.call("POST", "/static-tokens", body={"profile": profile, "count": count})
        batch = await api.finished(made["job"], told) if "job" in made else made["batch"]
    if json:
        output.print_json(batch)
    output.say(_made(batch), quiet=json)


@cli.command("import")
@acting()
async def import_(
    api: Client,
    file: Annotated[Path, typer.Argument(metavar="CSV", help="A file with a header row; - for standard input.")],
    profile: ProfileOption,
    mapping: Annotated[
        list[str] | None,
        typer.Option(
            "--map",
            metavar="COLUMN=FIELD",
            help="The metadata field that a column is for; may be repeated. (default: of the same name; no FIELD: "
            "leave the column out)",
            show_default=False,
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check everything, make nothing.")] = False,
    progress: ShowProgress = None,
    json: Json = False,
) -> None:
    """Make a static token for each row of a CSV file, all or none; exit code 1 when a row was wrong.

    Columns are metadata fields of the profile, and Device Name.
    """
    for each in mapping or ():
        if "=" not in each[1:]:
            raise typer.BadParameter(f"must be COLUMN=FIELD, not {each!r}.", param_hint="--map")
    query: Query = {"profile": profile, "map": mapping or None, "dryRun": dry_run}
    report = await files.import_(api, "/static-tokens/import", file, query, quiet=_quiet(progress, json))
    output.print_report(report, _summary(report), json=json)


@cli.command("list")
@acting()
async def list_(
    api: Client,
    profile: ProfileChoice = None,
    status: StatusChoice = None,
    batch: BatchChoice = None,
    limit: Annotated[int | None, typer.Option(min=1, help="How many at most.", show_default=False)] = None,
    json: Json = False,
) -> None:
    """List static tokens in order of making, without their secrets."""
    columns = {
        "NUMBER": "number",
        "NAME": "name",
        "PROFILE": "profile",
        "STATUS": "status",
        "METADATA": "metadata",
        "UNIT": "unit",
        "MADE": "createdAt",
    }
    chosen = {"profile": profile, "status": _status(status), "batch": batch}
    await output.print_list(api.items("/static-tokens", query=chosen, limit=limit), columns, json=json)


@cli.command()
@acting()
async def show(
    api: Client,
    token: Reference,
    open_: Annotated[
        bool, typer.Option("--open", help="Show the AuthToken and the QR token in clear, too; the maker alone may.")
    ] = False,
    json: Json = False,
) -> None:
    """Show a static token: its status, its metadata, its device."""
    query = {"open": open_ or None}
    output.print_object(await api.call("GET", path("static-tokens", token), query=query), json=json)


@cli.command()
@acting()
async def delete(
    api: Client,
    token: Reference,
    yes: Annotated[
        bool, typer.Option("--yes", help="Also when it is claimed: its device goes with it, for good.")
    ] = False,
    from_network: Annotated[
        bool, typer.Option("--from-network", help="Also what was made of its device in the LoRaWAN network.")
    ] = False,
    json: Json = False,
) -> None:
    """Delete a static token and its device: neither AuthToken nor QR code is good any more. Cannot be undone."""
    query: Query = {"confirm": yes or None, "fromNetwork": from_network or None}
    deleted = await api.call("DELETE", path("static-tokens", token), query=query)
    if json:
        output.print_json(deleted)
    output.say(f"Deleted static token {deleted['number']}.", quiet=json)
    if not from_network and not json:
        await say_left(api, deleted["id"])


@cli.command()
@acting()
async def claim(
    api: Client,
    qr: Annotated[
        str,
        typer.Argument(
            metavar="QR", help="What the QR code says: sqr_…, with +number or without, or a LoRaWAN device's LW:D0:…."
        ),
    ],
    user: Annotated[
        str | None,
        typer.Option(
            "--user",
            help="E-mail or id of who is to own the device. (default: nobody)",
            callback=options.reference("user"),
            show_default=False,
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Claim the device of a QR code for one's organization."""
    claimed = await api.call("POST", "/static-tokens/claim", body=given({"qr": qr, "user": user}))
    if json:
        output.print_json(claimed)
    elif claimed["device"] is None:
        output.say(f"The device has until {claimed['expiresAt']} to agree: press its button, or whatever it asks for.")
    else:
        print_device(claimed["device"], json=False)


@cli.command()
@acting()
async def unclaim(api: Client, token: Reference, json: Json = False) -> None:
    """Take a claim back: whoever has the QR code may claim the device again. Its owner's data is wiped."""
    await _release(api, token, "unclaim", json)


@cli.command()
@acting()
async def disclaim(api: Client, token: Reference, json: Json = False) -> None:
    """Take a device back from who claimed it, as its maker: it returns to the maker's organization, unclaimed."""
    await _release(api, token, "disclaim", json)


@cli.command()
@acting()
async def export(
    api: Client,
    csv: Annotated[
        Path | None, typer.Option("--csv", help="Write a CSV of AuthTokens, QR tokens and metadata.")
    ] = None,
    zip_: Annotated[Path | None, typer.Option("--zip", help="Write a zip of that CSV and QR codes.")] = None,
    labels: Annotated[Path | None, typer.Option("--labels", help="Write a PDF of labels to print.")] = None,
    name_by: Annotated[
        str | None,
        typer.Option(
            metavar="serial|auth-token|FIELD",
            help="What images in the zip are named by: the token's number, its AuthToken as Blynk does, a metadata "
            "field, or Device Name. By default by a field that is unique, else by number.",
            show_default=False,
        ),
    ] = None,
    sheet: Annotated[str, typer.Option(metavar="L7160|62x29", help="The sheet or roll of labels.")] = "L7160",
    label_field: Annotated[
        str | None, typer.Option(metavar="FIELD", help="A metadata field that labels show, too.", show_default=False)
    ] = None,
    format_: Annotated[Image, typer.Option("--format", help="What QR codes in the zip are drawn as.")] = Image.PNG,
    profile: ProfileChoice = None,
    status: StatusChoice = None,
    batch: BatchChoice = None,
    progress: ShowProgress = None,
    json: Json = False,
) -> None:
    """Write static tokens with their secrets to a file that its owner alone may read; one that is there is replaced."""
    chosen = {"profile": profile, "status": _status(status), "batch": batch}
    wanted: list[tuple[Path | None, str, str, dict[str, Any]]] = [
        (csv, "csv", "text/csv", {}),
        (
            zip_,
            "zip",
            "application/zip",
            {"nameBy": name_by, "format": format_},
        ),
        (labels, "pdf", "application/pdf", {"sheet": sheet, "field": label_field}),
    ]
    if not any(file for file, *_ in wanted):
        raise typer.BadParameter("is needed, or --zip or --labels.", param_hint="--csv")
    written = []
    for file, kind, accept, more in wanted:
        if file is not None:
            content = api.stream(f"/static-tokens/export.{kind}", query=chosen | more, accept=accept)
            with output.progress("bytes", quiet=_quiet(progress, json)) as told:
                async with aclosing(content):
                    size = await output.save(file, content, told)
            written.append({"file": str(file), "bytes": size})
            output.say(f"Wrote {file}: it holds secrets.", quiet=json)
    if json:
        output.print_json(written)


async def _release(api: Client, token: str, verb: str, json: bool) -> None:
    await api.call("POST", path("static-tokens", token, verb))
    if json:
        output.print_json({"token": token, "status": "UNCLAIMED"})
    output.say(f"Static token {token} is unclaimed.", quiet=json)


def _made(batch: Mapping[str, Any]) -> str:
    return (
        f"Made {batch['count']} static tokens, numbers {batch['firstNumber']} to {batch['lastNumber']}. "
        f"To write them to a file: provserver token export --batch {batch['id']} --csv tokens.csv"
    )


def _summary(report: Mapping[str, Any]) -> str:
    if report["batch"] is not None:
        return _made(report["batch"])
    if report["errorCount"]:
        return f"{report['errorCount']} errors in {report['rows']} rows; no static token was made."
    return f"{report['rows']} static tokens would be made."


def _status(status: Status | None) -> str | None:
    return status.upper() if status is not None else None


def _quiet(progress: bool | None, json: bool) -> bool:
    return json if progress is None else not progress

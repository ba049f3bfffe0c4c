"""`provserver device`: devices, pre-provisioned or provisioned."""

import asyncio
import os
import shlex
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import aclosing, contextmanager
from io import TextIOWrapper
from pathlib import Path
from typing import Annotated, TypeVar, cast

import msgspec
import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from provserver.cli import options, output
from provserver.cli.options import ConfigFile, DatabaseUrl, DataDir
from provserver.cli.output import Json
from provserver.core import csvfile
from provserver.core.model import Credentials, MqttBasic
from provserver.errors import Misconfigured, Refused
from provserver.services.devices import AttributeChange, DeviceDetails, Devices, ImportReport
from provserver.store.devices import DeviceSummary
from provserver.workspace import workspace

cli = typer.Typer(
    help="Devices: make or import them beforehand, list, show, update, revoke, re-arm, delete.", no_args_is_help=True
)

SHOWN = 20
"""Telemetry keys that `show` prints for people."""

Result = TypeVar("Result")
Reference = Annotated[str, typer.Argument(metavar="DEVICE", help="Name or id.", callback=options.reference("device"))]
ProfileOption = Annotated[
    str,
    typer.Option("--profile", help="Name, template id (TMPL…) or id.", callback=options.reference("profile")),
]


@cli.command()
def create(
    name: str,
    profile: ProfileOption,
    token: Annotated[str, typer.Option(help="Its access token. [default: generated]", show_default=False)] = "",
    client_id: Annotated[str, typer.Option(help="MQTT basic client id.", show_default=False)] = "",
    username: Annotated[str, typer.Option(help="MQTT basic user name.", show_default=False)] = "",
    password: Annotated[str, typer.Option(help="MQTT basic password.", show_default=False)] = "",
    certificate: Annotated[
        Path | None, typer.Option(help="Its X.509 certificate, a PEM file.", show_default=False)
    ] = None,
    gateway: Annotated[bool, typer.Option("--gateway", help="It is a gateway.")] = False,
    config: ConfigFile = None,
    data_dir: DataDir = None,
    database_url: DatabaseUrl = None,
    json: Json = False,
) -> None:
    """Make a device beforehand, for a profile that checks pre-provisioned devices."""
    pem = _read(certificate) if certificate is not None else ""
    columns = {
        "name": name,
        "token": token,
        "clientId": client_id,
        "username": username,
        "password": password,
        "certificate": pem,
        "gateway": str(gateway),
    }
    row = csvfile.device_row(1, columns)
    if isinstance(row, csvfile.RowError):
        raise Refused(f"{row.column}: {row.reason}.")
    device = _on(config, data_dir, database_url, lambda devices: devices.create(row, profile))
    output.print_object(_device(device), json=json)


@cli.command("import")
def import_(
    file: Annotated[Path, typer.Argument(metavar="CSV", help="A file with a header row; - for standard input.")],
    profile: ProfileOption,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check everything, keep nothing.")] = False,
    partial: Annotated[
        bool, typer.Option("--partial", help="Keep the rows that are right although others are not.")
    ] = False,
    config: ConfigFile = None,
    data_dir: DataDir = None,
    database_url: DatabaseUrl = None,
    json: Json = False,
) -> None:
    """Import devices beforehand from CSV, all or none; exit code 1 when a row was wrong.

    Columns: name; token, or clientId username password, or certificate (none: a token is generated); gateway;
    attribute:KEY and shared:KEY.
    """
    try:
        with _lines(file, quiet=json) as (lines, progress):
            report = _on(
                config,
                data_dir,
                database_url,
                lambda devices: devices.import_(
                    csvfile.read_devices(lines), profile, dry_run=dry_run, partial=partial, progress=progress
                ),
            )
    except csvfile.HeaderFault as fault:
        raise Refused(str(fault)) from None
    if json:
        output.print_json(_report(report, dry_run))
    else:
        _say_report(report, dry_run)
    if report.error_count:
        raise typer.Exit(1)


@cli.command("list")
def list_(
    profile: Annotated[
        str | None,
        typer.Option(help="Only this profile's.", callback=options.reference("profile"), show_default=False),
    ] = None,
    config: ConfigFile = None,
    data_dir: DataDir = None,
    database_url: DatabaseUrl = None,
    json: Json = False,
) -> None:
    """List the devices in order of making."""

    async def print_(devices: Devices) -> None:
        async with aclosing(cast("AsyncGenerator[DeviceSummary, None]", devices.stream(profile))) as found:
            if json:
                await output.print_json_array(_device(device) async for device in found)
            else:
                output.print_table(
                    ["NAME", "PROFILE", "CREDENTIALS", "PROVISION STATE", "MADE"],
                    [
                        (d.name, d.profile, d.credentials_type, d.provision_state, f"{d.created_at:%F %T}")
                        async for d in found
                    ],
                )

    _on(config, data_dir, database_url, print_)


@cli.command()
def show(
    device: Reference,
    credentials: Annotated[bool, typer.Option("--credentials", help="Show the credentials in clear, too.")] = False,
    config: ConfigFile = None,
    data_dir: DataDir = None,
    database_url: DatabaseUrl = None,
    json: Json = False,
) -> None:
    """Show a device with its attributes, its credentials and what it last sent."""
    details = _on(config, data_dir, database_url, lambda devices: devices.show(device, open_=credentials))
    _print_details(details, json)


@cli.command()
def update(
    device: Reference,
    shared: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="Write a shared attribute.", show_default=False)
    ] = None,
    server: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="Write a server attribute.", show_default=False)
    ] = None,
    delete_shared: Annotated[
        list[str] | None, typer.Option(metavar="KEY", help="Remove a shared attribute.", show_default=False)
    ] = None,
    delete_server: Annotated[
        list[str] | None, typer.Option(metavar="KEY", help="Remove a server attribute.", show_default=False)
    ] = None,
    config: ConfigFile = None,
    data_dir: DataDir = None,
    database_url: DatabaseUrl = None,
    json: Json = False,
) -> None:
    """Change a device's attributes. Values that are JSON are taken as such, others as text.

    The device reads shared ones and is told when they change; it never sees server ones.
    """
    change = AttributeChange(
        _pairs("--shared", shared), _pairs("--server", server), delete_shared or (), delete_server or ()
    )
    details = _on(config, data_dir, database_url, lambda devices: devices.update(device, change))
    _print_details(details, json)


@cli.command()
def revoke(
    device: Reference,
    config: ConfigFile = None,
    data_dir: DataDir = None,
    database_url: DatabaseUrl = None,
    json: Json = False,
) -> None:
    """Take a device's credentials away: it is cut off, and cannot come back with them."""
    revoked = _on(config, data_dir, database_url, lambda devices: devices.revoke(device))
    if json:
        output.print_json(_device(revoked))
    output.say(
        f"{revoked.name} has no credentials any more. "
        f"To let it provision itself again: provserver device rearm {shlex.quote(revoked.name)}",
        quiet=json,
    )


@cli.command()
def rearm(
    device: Reference,
    config: ConfigFile = None,
    data_dir: DataDir = None,
    database_url: DatabaseUrl = None,
    json: Json = False,
) -> None:
    """Let a device provision itself once more, with fresh credentials: for one that lost its own."""
    rearmed = _on(config, data_dir, database_url, lambda devices: devices.rearm(device))
    if json:
        output.print_json(_device(rearmed))
    output.say(f"{rearmed.name} may provision itself once more.", quiet=json)


@cli.command()
def delete(
    device: Reference,
    config: ConfigFile = None,
    data_dir: DataDir = None,
    database_url: DatabaseUrl = None,
    json: Json = False,
) -> None:
    """Delete a device; its credentials die with it."""
    deleted = _on(config, data_dir, database_url, lambda devices: devices.delete(device))
    if json:
        output.print_json(_device(deleted))
    output.say(f"Deleted {deleted.name}.", quiet=json)


def _on(
    config: ConfigFile,
    data_dir: DataDir,
    database_url: DatabaseUrl,
    work: Callable[[Devices], Awaitable[Result]],
) -> Result:
    async def act() -> Result:
        async with workspace(settings) as space:
            return await work(space.devices)

    settings = options.load(config, data_dir=data_dir, database_url=database_url)
    return asyncio.run(act())


@contextmanager
def _lines(file: Path, *, quiet: bool) -> Iterator[tuple[Iterator[str], Callable[[int], None]]]:
    """The file's lines, and what to tell about the rows done: a bar on a terminal, by the bytes read."""
    piped = str(file) == "-"
    try:
        content = open(0 if piped else file, "rb", closefd=not piped)  # noqa: SIM115 - closed below
        total = os.fstat(content.fileno()).st_size or None
    except OSError as fault:
        raise Refused(f"{file} cannot be read: {fault.strerror}.") from None
    columns = (
        TextColumn("{task.fields[rows]} rows"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        TimeElapsedColumn(),
    )
    # What is not UTF-8 becomes lone surrogates, which `csvfile` reports where they are.
    stream = TextIOWrapper(content, encoding="utf-8", errors="surrogateescape", newline="")
    with stream, Progress(*columns, console=Console(stderr=True), disable=quiet) as bar:
        task = bar.add_task("", total=total, rows=0)

        def advance(rows: int) -> None:
            bar.update(task, rows=rows, completed=content.tell() if total else None)

        yield stream, advance


def _read(file: Path) -> str:
    try:
        return file.read_text()
    except (OSError, UnicodeDecodeError) as fault:
        raise Misconfigured(f"{file} cannot be read: {fault}.") from None


def _device(device: DeviceSummary) -> dict[str, object]:
    return {
        "id": device.id,
        "name": device.name,
        "profile": device.profile,
        "profileId": device.profile_id,
        "gateway": device.gateway,
        "provisionState": device.provision_state,
        "rearmed": device.rearmed,
        "credentialsType": device.credentials_type,
        "createdAt": device.created_at,
    }


def _details(details: DeviceDetails) -> dict[str, object]:
    credentials: list[dict[str, object]] = [
        {
            "credentialsType": row.type,
            "origin": row.origin,
            "pending": row.pending,
            "firstUsedAt": row.first_used_at,
            "createdAt": row.created_at,
        }
        for row in details.credentials
    ]
    for members, opened in zip(credentials, details.opened, strict=False):
        members["credentialsValue"] = _value(opened)
    return _device(details.device) | {
        "attributes": [
            {"scope": a.scope, "key": a.key, "value": a.value, "updatedAt": a.updated_at} for a in details.attributes
        ],
        "credentials": credentials,
        "telemetry": [{"key": each.key, "ts": each.ts, "value": each.value} for each in details.telemetry],
    }


def _print_details(details: DeviceDetails, json: bool) -> None:
    members = _details(details)
    if not json:
        lines = [f"{sample.key}={msgspec.json.encode(sample.value).decode()}" for sample in details.telemetry[:SHOWN]]
        more = len(details.telemetry) - SHOWN
        members["telemetry"] = lines + ([f"… and {more} more"] if more > 0 else [])
    output.print_object(members, json=json)


def _pairs(option: str, texts: list[str] | None) -> dict[str, str]:
    pairs = {}
    for text in texts or []:
        key, sign, value = text.partition("=")
        if not sign:
            raise typer.BadParameter(f"must be KEY=VALUE, not {text!r}.", param_hint=option)
        pairs[key] = value
    return pairs


def _value(credentials: Credentials) -> object:
    value = credentials.value
    if isinstance(value, MqttBasic):
        return {"clientId": value.client_id, "userName": value.user_name, "password": value.password}
    return value


def _report(report: ImportReport, dry_run: bool) -> dict[str, object]:
    return {
        "imported": report.imported,
        "dryRun": dry_run,
        "errorCount": report.error_count,
        "errors": [{"line": e.line, "column": e.column, "reason": e.reason} for e in report.errors],
    }


def _say_report(report: ImportReport, dry_run: bool) -> None:
    for error in report.errors:
        where = f"line {error.line}" + (f", column {error.column}" if error.column else "")
        output.say(f"{where}: {error.reason}")
    if report.error_count > len(report.errors):
        output.say(f"… and {report.error_count - len(report.errors)} more errors")
    verb = "would be imported" if dry_run else "imported"
    output.say(f"{report.imported} devices {verb}, {report.error_count} rows refused.")

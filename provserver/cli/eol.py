"""`provserver eol`: the end of the production line, where each unit gets its static token."""

import asyncio
from collections.abc import Awaitable, Callable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from provserver.cli import options, output
from provserver.cli.options import ConfigFile, DatabaseUrl, DataDir
from provserver.cli.output import Json
from provserver.core import edgent, nvs
from provserver.core.authorization import OPERATOR, Principal
from provserver.core.edgent import InvalidSettings, Settings
from provserver.errors import Invalid

if TYPE_CHECKING:  # what is slow to load is loaded by the commands that need it
    from provserver.services.eol import Done, EndOfLine, LineStatus
    from provserver.services.injection import Way
    from provserver.store.eol import UnitRow

cli = typer.Typer(
    help="The end of the production line: give each unit a static token of its own, and its label.",
    no_args_is_help=True,
)

Result = TypeVar("Result")
WAYS = "How it gets into the unit: one of these"
NETWORK = "What the unit gets beside its token"


class State(StrEnum):
    """What has become of a unit's token."""

    RESERVED = "reserved"
    WRITTEN = "written"
    FAILED = "failed"


def _size(given: str | int) -> int:
    """A number of bytes, decimal or 0x…; the default comes here as the number that it is."""
    try:
        return int(str(given), 0)
    except ValueError:
        raise typer.BadParameter(f"must be a number of bytes, such as 0x6000, not {given!r}.") from None


ProfileOption = Annotated[
    str,
    typer.Option("--profile", help="Name, template id (TMPL…) or id.", callback=options.reference("profile")),
]
UnitOption = Annotated[str, typer.Option("--unit", metavar="SERIAL", help="The unit's serial number.")]


@cli.command()
def write(
    profile: ProfileOption,
    unit: UnitOption,
    nvs_file: Annotated[
        Path | None,
        typer.Option(
            "--nvs",
            metavar="OUT",
            help="Write an image of the unit's NVS partition (ESP-IDF).",
            show_default=False,
            rich_help_panel=WAYS,
        ),
    ] = None,
    firmware: Annotated[
        tuple[Path, Path] | None,
        typer.Option(
            metavar="IN OUT",
            help="Write a copy of a firmware for ESP32 or ESP8266 with the unit's values in its tag blnkopt.",
            show_default=False,
            rich_help_panel=WAYS,
        ),
    ] = None,
    serial: Annotated[
        Path | None,
        typer.Option(
            metavar="TTY",
            help="Tell the unit at its console, on a serial port.",
            show_default=False,
            rich_help_panel=WAYS,
        ),
    ] = None,
    nvs_size: Annotated[
        int, typer.Option(metavar="BYTES", parser=_size, help="Size of the NVS partition.", rich_help_panel=WAYS)
    ] = nvs.SIZE,
    baud: Annotated[int, typer.Option(help="Speed of the serial port.", rich_help_panel=WAYS)] = edgent.BAUD,
    host: Annotated[
        str, typer.Option(help="Where it finds the server.", show_default=False, rich_help_panel=NETWORK)
    ] = "",
    port: Annotated[
        int | None, typer.Option(help="The server's port.", show_default=False, rich_help_panel=NETWORK)
    ] = None,
    ssid: Annotated[str, typer.Option(help="Its WiFi.", show_default=False, rich_help_panel=NETWORK)] = "",
    password: Annotated[
        str,
        typer.Option(
            "--pass",
            envvar="EOL_WIFI_PASSWORD",
            help="The WiFi's password.",
            show_default=False,
            rich_help_panel=NETWORK,
        ),
    ] = "",
    label: Annotated[
        Path | None,
        typer.Option(
            metavar="OUT", help="Write its label: a file that ends in .png (the QR code) or .pdf.", show_default=False
        ),
    ] = None,
    match: Annotated[
        str | None,
        typer.Option(
            metavar="FIELD",
            help="Take the token whose metadata field FIELD is the unit's serial number.",
            show_default=False,
        ),
    ] = None,
    config: ConfigFile = None,
    data_dir: DataDir = None,
    database_url: DatabaseUrl = None,
    json: Json = False,
) -> None:
    """Give a unit its static token, and read it back. Whatever fails, run it again: the unit gets the same token."""
    from provserver.services.eol import Work
    from provserver.services.injection import FirmwareImage, NvsPartition, SerialPort

    ways: list[Way] = []
    if nvs_file is not None:
        ways.append(NvsPartition(nvs_file, nvs_size))
    if firmware is not None:
        ways.append(FirmwareImage(*firmware))
    if serial is not None:
        ways.append(SerialPort(serial, baud))
    if len(ways) != 1:
        raise typer.BadParameter("give one of them.", param_hint="--nvs, --firmware, --serial")
    try:
        settings = Settings(edgent.BLANK, host, port, ssid, password)
    except InvalidSettings as fault:
        raise Invalid(f"{str(fault)[:1].upper()}{str(fault)[1:]}.") from None
    work = Work(ways[0], settings, label, match)
    done = _on(config, data_dir, database_url, lambda line, operator: line.write(operator, profile, unit, work))
    output.print_object(_done(done), json=json)


@cli.command()
def status(
    profile: ProfileOption,
    unit: Annotated[str | None, typer.Option(metavar="SERIAL", help="Only this unit's.", show_default=False)] = None,
    state: Annotated[State | None, typer.Option(help="Only those in this state.", show_default=False)] = None,
    limit: Annotated[int, typer.Option(min=1, max=500, help="How many units.")] = 50,
    config: ConfigFile = None,
    data_dir: DataDir = None,
    database_url: DatabaseUrl = None,
    json: Json = False,
) -> None:
    """Show how many tokens are left, and which unit has which; the last one first."""
    found = _on(
        config,
        data_dir,
        database_url,
        lambda line, operator: line.status(
            operator, profile, unit=unit, state=None if state is None else state.value, limit=limit
        ),
    )
    if json:
        output.print_json(_status(found))
        return
    output.print_table(
        ["UNIT", "STATE", "TOKEN", "AT", "CONNECTED"],
        [
            (u.unit, u.state, u.number, f"{u.at:%F %T}", u.connected_at and f"{u.connected_at:%F %T}")
            for u in found.units
        ],
    )
    counts = found.counts
    output.say(
        f"{found.profile}: {counts.free} tokens free, {counts.reserved} reserved, {counts.written} written, "
        f"{counts.failed} failed."
    )


@cli.command()
def fail(
    profile: ProfileOption,
    unit: UnitOption,
    reason: Annotated[str, typer.Option(help="For the audit.", show_default=False)] = "",
    config: ConfigFile = None,
    data_dir: DataDir = None,
    database_url: DatabaseUrl = None,
    json: Json = False,
) -> None:
    """Give a unit's token up, for good: nobody gets it again. The unit may get another."""
    failed = _on(config, data_dir, database_url, lambda line, operator: line.fail(operator, profile, unit, reason))
    if json:
        output.print_json(_unit(failed))
    output.say(f"The token number {failed.number} of the unit {failed.unit} is given up.", quiet=json)


def _on(
    config: ConfigFile,
    data_dir: DataDir,
    database_url: DatabaseUrl,
    work: "Callable[[EndOfLine, Principal], Awaitable[Result]]",
) -> Result:
    from provserver.services.eol import EndOfLine
    from provserver.workspace import workspace

    async def act() -> Result:
        async with workspace(settings) as space:
            return await work(EndOfLine(space.database, space.keys), Principal(OPERATOR, space.organization_id))

    settings = options.load(config, data_dir=data_dir, database_url=database_url)
    return asyncio.run(act())


def _unit(row: "UnitRow") -> dict[str, object]:
    return {
        "unit": row.unit,
        "state": row.state,
        "token": row.number,
        "tokenId": row.token_id,
        "at": row.at,
        "connectedAt": row.connected_at,
    }


def _done(done: "Done") -> dict[str, object]:
    reservation = done.reservation
    return _unit(done.row) | {"profile": reservation.profile, "resumed": reservation.resumed, **done.about}


def _status(found: "LineStatus") -> dict[str, object]:
    return {
        "profile": found.profile,
        **found.counts._asdict(),
        "units": [_unit(row) for row in found.units],
    }

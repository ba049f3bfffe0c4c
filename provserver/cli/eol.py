"""`provserver eol`: the end of the production line, where each unit gets its static token."""

from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from provserver.admin.client import Client, given
from provserver.cli import options, output
from provserver.cli.output import Json
from provserver.cli.target import acting
from provserver.core import edgent, nvs
from provserver.core.edgent import InvalidSettings, Settings
from provserver.errors import Invalid, Unavailable

if TYPE_CHECKING:  # what is slow to load is loaded by the command that needs it
    from provserver.services.eol import Reservation
    from provserver.services.injection import Way

cli = typer.Typer(
    help="The end of the production line: give each unit a static token of its own, and its label.",
    no_args_is_help=True,
)

UNITS = "/static-tokens/units"
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
@acting()
async def write(
    api: Client,
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
    json: Json = False,
) -> None:
    """Give a unit its static token, and read it back. Whatever fails, run it again: the unit gets the same token."""
    from provserver.services import station
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
    done = await station.write(_Line(api, profile), unit, station.Work(ways[0], settings, label, match))
    reservation = done.reservation
    written = {**done.record, "profile": reservation.profile, "resumed": reservation.resumed, **done.about}
    output.print_object(written, json=json)


@cli.command()
@acting()
async def status(
    api: Client,
    profile: ProfileOption,
    unit: Annotated[str | None, typer.Option(metavar="SERIAL", help="Only this unit's.", show_default=False)] = None,
    state: Annotated[State | None, typer.Option(help="Only those in this state.", show_default=False)] = None,
    limit: Annotated[int, typer.Option(min=1, max=500, help="How many units.")] = 50,
    json: Json = False,
) -> None:
    """Show how many tokens are left, and which unit has which; the last one first."""
    query = {"profile": profile, "unit": unit, "state": None if state is None else state.value, "limit": limit}
    found = await api.call("GET", UNITS, query=query)
    if json:
        output.print_json(found)
        return

    async def units() -> AsyncIterator[dict[str, Any]]:
        for each in found["units"]:
            yield each

    columns = {"UNIT": "unit", "STATE": "state", "TOKEN": "token", "AT": "at", "CONNECTED": "connectedAt"}
    await output.print_list(units(), columns, json=False)
    output.say(
        f"{found['profile']}: {found['free']} tokens free, {found['reserved']} reserved, {found['written']} written, "
        f"{found['failed']} failed."
    )


@cli.command()
@acting()
async def fail(
    api: Client,
    profile: ProfileOption,
    unit: UnitOption,
    reason: Annotated[str, typer.Option(help="For the audit.", show_default=False)] = "",
    json: Json = False,
) -> None:
    """Give a unit's token up, for good: nobody gets it again. The unit may get another."""
    failed = await api.call("POST", f"{UNITS}/fail", body={"profile": profile, "unit": unit, "reason": reason})
    if json:
        output.print_json(failed)
    output.say(f"The token number {failed['token']} of the unit {failed['unit']} is given up.", quiet=json)


class _Line:
    """The tokens of a profile, through the admin API (see `station.Line`)."""

    def __init__(self, api: Client, profile: str) -> None:
        self._api = api
        self._profile = profile

    @asynccontextmanager
    async def hold(self, unit: str) -> AsyncIterator[str]:
        query = {"profile": self._profile, "unit": unit}
        async with aclosing(self._api.stream(f"{UNITS}/hold", query=query, accept="application/jsonl")) as parts:
            said = b""
            async for part in parts:
                said += part
                if b"\n" in said:
                    break
            else:
                raise Unavailable("The server broke off before the unit was held. Run the unit again.")
            yield msgspec.json.decode(said.partition(b"\n")[0])["templateId"]

    async def reserve(self, unit: str, match: str | None) -> "Reservation":
        from provserver.services.eol import Reservation

        body = given({"profile": self._profile, "unit": unit, "match": match})
        made = await self._api.call("POST", f"{UNITS}/reserve", body=body)
        return Reservation(
            token_id=made["tokenId"],
            number=made["number"],
            unit=made["unit"],
            profile=made["profile"],
            template_id=made["templateId"],
            organization_number=made["organizationNumber"],
            resumed=made["resumed"],
            auth=made["authToken"],
            qr=made["qrToken"],
            payload=made["qrPayload"],
        )

    async def written(self, reservation: "Reservation") -> dict[str, Any]:
        body = {"tokenId": reservation.token_id, "unit": reservation.unit}
        written: dict[str, Any] = await self._api.call("POST", f"{UNITS}/written", body=body)
        return written

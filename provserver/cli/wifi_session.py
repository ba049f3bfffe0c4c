"""`provserver wifi-session`: tokens for devices that a person puts onto WiFi, and what became of them."""

from datetime import UTC, datetime
from typing import Annotated

import typer

from provserver.admin.client import Client, given, path
from provserver.cli import options, output
from provserver.cli.device import Reference as DeviceReference
from provserver.cli.organization import OrganizationChoice, OrganizationOption
from provserver.cli.output import Json
from provserver.cli.target import acting
from provserver.core.wifisession import WifiState

cli = typer.Typer(help="WiFi sessions: tokens for devices to be put onto WiFi.", no_args_is_help=True)

Reference = Annotated[str, typer.Argument(metavar="SESSION", help="Its id.", callback=options.reference("session"))]


def _time(given_: datetime | None) -> datetime | None:
    return given_ if given_ is None or given_.tzinfo is not None else given_.replace(tzinfo=UTC)


@cli.command()
@acting()
async def request(
    api: Client,
    template: Annotated[
        str | None,
        typer.Option(
            help="Name, template id (TMPL…) or id of the device's profile. (default: the device says it)",
            show_default=False,
        ),
    ] = None,
    name: Annotated[str | None, typer.Option(help="What the device is to be called.", show_default=False)] = None,
    owner: Annotated[
        str | None, typer.Option(help="The user who is to own it: id or e-mail.", show_default=False)
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(help="A device that is there, by name or id: it gets another token.", show_default=False),
    ] = None,
    organization: OrganizationOption = None,
    json: Json = False,
) -> None:
    """Request a token for a device to be, or the next one of a device that is there; it is shown this once."""
    body = {
        "organization": organization,
        "owner": owner,
        "template": template,
        "name": name,
        "device": device,
        "client": "cli",
    }
    made = await api.call("POST", "/wifi-sessions", body=given(body))
    output.print_object(made, json=json)
    output.say(f"The token is shown this once; it waits for the device until {made['expiresAt']}.", quiet=json)


@cli.command("list")
@acting()
async def list_(
    api: Client,
    organization: OrganizationChoice = None,
    state: Annotated[WifiState | None, typer.Option(help="Only those.", show_default=False)] = None,
    limit: Annotated[int, typer.Option(help="How many at most.", min=1)] = 50,
    json: Json = False,
) -> None:
    """List the WiFi sessions, the newest first."""
    columns = {
        "ID": "id",
        "STATE": "state",
        "DEVICE": "deviceName",
        "PROFILE": "profile",
        "CLIENT": "client",
        "STARTED": "startedAt",
        "SECONDS": "duration",
        "ERROR": "lastError",
    }
    found = api.items("/wifi-sessions", query={"organization": organization, "state": state}, limit=limit)
    await output.print_list(found, columns, json=json)


@cli.command()
@acting()
async def show(api: Client, session: Reference, json: Json = False) -> None:
    """Show a WiFi session, and its log."""
    output.print_object(await api.call("GET", path("wifi-sessions", session)), json=json)


@cli.command()
@acting()
async def summary(
    api: Client,
    organization: OrganizationChoice = None,
    since: Annotated[
        datetime | None,
        typer.Option(help="Those begun from a time on, in UTC.", callback=_time, show_default=False),
    ] = None,
    json: Json = False,
) -> None:
    """Tell how many WiFi sessions succeeded, how long they took, and what went wrong most often."""
    query = {"organization": organization, "since": None if since is None else since.isoformat()}
    output.print_object(await api.call("GET", "/wifi-sessions/summary", query=query), json=json)


@cli.command()
@acting()
async def cancel(api: Client, session: Reference, json: Json = False) -> None:
    """End a WiFi session: its token is good no more."""
    cancelled = await api.call("POST", path("wifi-sessions", session, "cancel"))
    if json:
        output.print_json(cancelled)
    output.say("The session is over; its token is good no more.", quiet=json)


@acting()
async def reconfigure(api: Client, device: DeviceReference, json: Json = False) -> None:
    """Have a device open its access point, to be put onto another WiFi; its token and its data stay."""
    told = await api.call("POST", path("devices", device, "reconfigure"))
    if json:
        output.print_json(told)
    if told["deviceIsOffline"]:
        output.say("The device is offline: open its access point by its button.", quiet=json)
    else:
        output.say("The device was told to open its access point.", quiet=json)

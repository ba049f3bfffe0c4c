"""`provserver device …` about the network that a device is onboarded into."""

from pathlib import Path
from typing import Annotated, Any

import typer

from provserver.admin.client import Client, given, path
from provserver.cli import files, output
from provserver.cli.device import Reference
from provserver.cli.output import Json
from provserver.cli.target import acting


@acting()
async def show(api: Client, device: Reference, json: Json = False) -> None:
    """Show how a device stands with the network that it is onboarded into."""
    output.print_object(await api.call("GET", path("devices", device, "network")), json=json)


@acting()
async def onboard(
    api: Client,
    device: Reference,
    adopt: Annotated[
        bool, typer.Option("--adopt", help="Also take over what is there under its EUIs and was made by somebody else.")
    ] = False,
    json: Json = False,
) -> None:
    """Have a device be in its network as its metadata say; a job sees to it."""
    _print(await api.call("POST", path("devices", device, "network"), body={"adopt": adopt}), json=json)


@acting()
async def replace_hardware(
    api: Client,
    device: Reference,
    device_eui: Annotated[str, typer.Option(help="DevEUI of the new hardware, 16 hexadecimal digits.")],
    key_file: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="A file that holds its Application Key, and for LoRaWAN 1.1 its Network Key on the next line. "
            "(default: the first is asked for)",
            show_default=False,
        ),
    ] = None,
    join_eui: Annotated[
        str | None, typer.Option(help="Its JoinEUI. (default: the one there is)", show_default=False)
    ] = None,
    network_device_id: Annotated[
        str | None, typer.Option(help="Its id in the network. (default: made of the DevEUI)", show_default=False)
    ] = None,
    json: Json = False,
) -> None:
    """Have a device be other hardware from now on; it keeps its name, owner, settings and data."""
    keys = _keys(key_file)
    body = {
        "deviceEui": device_eui,
        "joinEui": join_eui,
        "applicationKey": keys[0],
        "networkKey": keys[1] if len(keys) > 1 else None,
        "networkDeviceId": network_device_id,
    }
    _print(await api.call("POST", path("devices", device, "network", "replace"), body=given(body)), json=json)


@acting()
async def leave_network(api: Client, device: Reference, json: Json = False) -> None:
    """Remove from a device's network what was made of it there; a job sees to it, and the device stays."""
    _print(await api.call("DELETE", path("devices", device, "network")), json=json)


def _keys(file: Path | None) -> list[str]:
    """Root keys: options would show them to other users of the machine."""
    if file is None:
        return [typer.prompt("Application Key", hide_input=True, err=True)]
    return files.secret(file).split() or [""]


def _print(device: dict[str, Any], *, json: bool) -> None:
    output.print_object(device, json=json)
    if device["jobId"] is not None:
        output.say(f"To see how far it is: provserver job watch {device['jobId']}", quiet=json)

"""`provserver sighting`: devices that a LoRaWAN network tells of, and that are none of ours."""

from typing import Annotated

import typer

from provserver.admin.client import Client, path
from provserver.cli import options, output
from provserver.cli.device import print_device
from provserver.cli.output import Json
from provserver.cli.target import acting

cli = typer.Typer(
    help="Devices that a LoRaWAN network tells of, and that are none of ours: to import, or to merge.",
    no_args_is_help=True,
)

Integration = Annotated[
    str, typer.Argument(metavar="INTEGRATION", help="Its id.", callback=options.reference("integration"))
]
NetworkDevice = Annotated[str, typer.Argument(metavar="NETWORK_DEVICE", help="Its id in the network.")]


@cli.command("list")
@acting()
async def list_(api: Client, integration: Integration, json: Json = False) -> None:
    """List devices of an integration's network that are none of ours."""
    columns = {
        "NETWORK DEVICE": "networkDeviceId",
        "DEVICE EUI": "deviceEui",
        "TIMES": "times",
        "LAST": "lastAt",
        "OBSTACLE": "obstacle",
    }
    await output.print_list(api.items(path("integrations", integration, "sightings")), columns, json=json)


@cli.command("import")
@acting()
async def import_(api: Client, integration: Integration, network_device: NetworkDevice, json: Json = False) -> None:
    """Make a device of one, for the organization of the integration."""
    body = {"networkDeviceId": network_device}
    print_device(await api.call("POST", path("integrations", integration, "import"), body=body), json=json)


@cli.command()
@acting()
async def merge(
    api: Client,
    network_device: NetworkDevice,
    device: Annotated[
        str,
        typer.Argument(metavar="DEVICE", help="Ours that it is: its name or id.", callback=options.reference("device")),
    ],
    yes: Annotated[
        bool, typer.Option("--yes", help="Also when it was imported: that device is deleted, with what it has sent.")
    ] = False,
    json: Json = False,
) -> None:
    """Have a device be another one of its network from now on; it keeps its name, owner, settings and data."""
    body = {"networkDeviceId": network_device, "confirm": yes}
    output.print_object(await api.call("POST", path("devices", device, "network", "merge"), body=body), json=json)

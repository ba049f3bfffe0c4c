"""`firmware-sim pki`: the certificates of a simulated factory."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import track

from firmware_sim.cli.options import Json, print_json
from firmware_sim.errors import SimulatorError
from firmware_sim.pki import DEVICE_PREFIX, Factory

app = typer.Typer(no_args_is_help=True, help="Certificates of a simulated factory, for --credentials chain.")


@app.callback()
def pki() -> None:
    """Certificates of a simulated factory, for --credentials chain."""


@app.command(epilog="Exit codes: 0 done; 2 wrong usage, or the directory cannot be written.")
def init(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Where to put them; what is there is kept.")],
    count: Annotated[
        int, typer.Option(min=0, help="Devices to make certificates for now; the others get theirs on demand.")
    ] = 0,
    name_prefix: Annotated[str, typer.Option(help="Names of the devices are PREFIX-000001 and so on.")] = DEVICE_PREFIX,
    as_json: Json = False,
) -> None:
    """Make a root CA and an intermediate CA, and say which file to register with the server."""
    try:
        factory = Factory.create(directory)
        numbers = range(1, count + 1)
        for number in track(numbers, "certificates", console=Console(stderr=True)) if count else numbers:
            factory.device(f"{name_prefix}-{number:06}")
    except SimulatorError as error:
        Console(stderr=True, highlight=False).print(f"{error.status}: {error}", markup=False, soft_wrap=True)
        raise typer.Exit(error.exit_code) from None
    if as_json:
        print_json({"ca": str(factory.root_file), "directory": str(directory), "devices": count})
        return
    lines = (
        f"CA to register: {factory.root_file}",
        f"  provserver profile create NAME --strategy x509-chain --ca {factory.root_file}",
        f"  firmware-sim fleet --count 500 --credentials chain --pki {directory} --transport mqtts --ca SERVER_CA",
    )
    Console(highlight=False).print("\n".join(lines), markup=False, soft_wrap=True)

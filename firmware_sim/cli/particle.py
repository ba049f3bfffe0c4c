"""`firmware-sim particle`."""

from typing import Annotated

import typer
from rich.console import Console

from firmware_sim.cli.loop import run
from firmware_sim.cli.options import Attempts, Json, Timeout, print_json
from firmware_sim.errors import SimulatorError
from firmware_sim.log import SerialLog
from firmware_sim.particle import LEDGER, ParticleDevice
from firmware_sim.retry import Retry


def particle(
    cloud: Annotated[str, typer.Option(metavar="URL", help="Stand-in for Particle's device service.")],
    device: Annotated[str, typer.Option("--device", metavar="ID", help="The device's id.")],
    ledger: Annotated[str, typer.Option(help="Where its token is.")] = LEDGER,
    events: Annotated[int, typer.Option(metavar="N", min=0, help="Publish N events with it.")] = 1,
    interval: Annotated[float, typer.Option(metavar="S", min=0.01, help="Seconds between two events.")] = 1.0,
    attempts: Attempts = 5,
    timeout: Timeout = 10.0,
    as_json: Json = False,
) -> None:
    """Boot one Particle device: take its token from the ledger, then publish events that carry it."""
    log = SerialLog(Console(stderr=as_json, highlight=False))

    async def live() -> None:
        async with ParticleDevice(cloud, device, ledger, log, Retry(attempts), timeout) as booted:
            await booted.sync()
            await booted.run(events, interval)

    try:
        run(live())
    except SimulatorError as error:
        log.failure("boot", f"{error.status}: {error}")
        if as_json:
            print_json({"status": error.status, "reason": str(error)})
        raise typer.Exit(error.exit_code) from None
    if as_json:
        print_json({"status": "published", "device": device, "ledger": ledger, "events": events})

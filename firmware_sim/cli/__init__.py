"""The command line: `firmware-sim device`, `firmware-sim fleet` and `firmware-sim pki`."""

import typer

from firmware_sim.cli import device, fleet, lorawan, particle, pki, wifi
from firmware_sim.cli.options import EXIT_CODES

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,  # its tracebacks could show secrets
    help="Simulated devices that provision themselves, and come back. " + EXIT_CODES,
)
app.command(epilog=EXIT_CODES)(device.device)
app.command(epilog=EXIT_CODES + " Of several failures, the least. --scenario: 0 if all limits hold, else 8.")(
    fleet.fleet
)
app.command(epilog=EXIT_CODES)(lorawan.lorawan)
app.command(epilog=EXIT_CODES)(particle.particle)
app.command(epilog=EXIT_CODES)(wifi.wifi)
app.add_typer(pki.app, name="pki")


def main() -> None:
    """Entry point of the console script `firmware-sim`."""
    app()

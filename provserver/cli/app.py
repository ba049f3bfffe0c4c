"""The commands, put together."""

import sys
from typing import Annotated

import typer

from provserver.cli import (
    approval,
    attempt,
    audit,
    backup,
    ca,
    db,
    device,
    eol,
    explain,
    inject,
    integration,
    issuing,
    job,
    key,
    keys,
    network_device,
    organization,
    output,
    particle,
    profile,
    provision_key,
    request_key,
    serve,
    sighting,
    static_token,
    user,
    webhook,
    wifi_session,
)
from provserver.errors import ProvserverError

cli = typer.Typer(
    name="provserver",
    help="The server a new IoT device talks to first: it provisions devices over MQTT, CoAP and HTTP.",
    epilog="Exit codes: 0 done, 1 refused, 2 wrong command line, 3 wrong configuration, "
    "4 Postgres or the server does not answer.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
cli.command("serve")(serve.serve)
cli.add_typer(db.cli, name="db")
profile.cli.add_typer(provision_key.cli, name="key")
profile.cli.add_typer(issuing.cli, name="ca")
cli.add_typer(profile.cli, name="profile")
device.cli.command("network")(network_device.show)
device.cli.command("onboard")(network_device.onboard)
device.cli.command("replace-hardware")(network_device.replace_hardware)
device.cli.command("leave-network")(network_device.leave_network)
device.cli.command("reconfigure")(wifi_session.reconfigure)
cli.add_typer(device.cli, name="device")
cli.add_typer(approval.cli, name="approval")
cli.add_typer(static_token.cli, name="token")
cli.add_typer(eol.cli, name="eol")
cli.add_typer(attempt.cli, name="attempt")
cli.add_typer(attempt.cli, name="attempts", hidden=True)
cli.command("explain")(explain.explain)
cli.command("inject")(inject.inject)
cli.add_typer(organization.cli, name="organization")
cli.add_typer(user.cli, name="user")
cli.add_typer(key.cli, name="key")
cli.add_typer(request_key.cli, name="request-key")
cli.add_typer(keys.cli, name="keys")
cli.command("backup")(backup.backup)
cli.command("restore")(backup.restore)
cli.add_typer(webhook.cli, name="webhook")
cli.add_typer(integration.cli, name="integration")
cli.add_typer(sighting.cli, name="sighting")
cli.add_typer(particle.cli, name="particle")
cli.add_typer(wifi_session.cli, name="wifi-session")
cli.add_typer(job.cli, name="job")
cli.add_typer(audit.cli, name="audit")
cli.add_typer(ca.cli, name="ca")


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version  # here, as it takes a twentieth of every command's start

        typer.echo(f"provserver {version('provserver')}")
        raise typer.Exit


@cli.callback()
def _root(
    _: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")] = False,
) -> None:
    """Take the options that stand before a command."""


def main() -> None:
    """Entry point of the console script."""
    try:
        cli()
    except ProvserverError as fault:
        sys.exit(output.report(fault))
    except KeyboardInterrupt:
        sys.exit(130)

"""`firmware-sim fleet --scenario FILE`."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from firmware_sim.address import Address
from firmware_sim.cli.loop import run
from firmware_sim.cli.options import Dtls, check_trust, key_of, print_json, secret_of, speaks_by_key
from firmware_sim.cli.progress import progress
from firmware_sim.errors import WrongUsage
from firmware_sim.findings import Findings
from firmware_sim.phone import Phone
from firmware_sim.pki import Factory
from firmware_sim.scenario import Brought, Scenario
from firmware_sim.stage import Stage
from firmware_sim.tls import Trust
from firmware_sim.transports import TransportName

_SCENARIO = "Scenarios"
_ADMIN_PORT = 8081

ScenarioFile = Annotated[
    Path | None,
    typer.Option(
        "--scenario",
        metavar="FILE",
        help="Play this scenario (TOML); its own limits decide the exit code.",
        exists=True,
        dir_okay=False,
        rich_help_panel=_SCENARIO,
    ),
]
Scale = Annotated[
    float,
    typer.Option(min=0.0001, help="So many times the devices, tries and rates.", rich_help_panel=_SCENARIO),
]
TimeScale = Annotated[
    float,
    typer.Option(
        min=0.0001, help="Times so many times as long. Scaled, limits of speed do not hold.", rich_help_panel=_SCENARIO
    ),
]
Svg = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Write the latency histograms there, as a picture.",
        dir_okay=False,
        rich_help_panel=_SCENARIO,
    ),
]
Api = Annotated[
    str,
    typer.Option(
        "--api",
        metavar="H:P",
        help="The admin API, of which WiFi devices' owners ask tokens.",
        rich_help_panel=_SCENARIO,
    ),
]
ApiKey = Annotated[
    str | None,
    typer.Option(
        "--api-key",
        envvar="FIRMWARE_SIM_API_KEY",
        help="An API key that may claim devices. Better by the environment: others can read a command line.",
        show_default=False,
        rich_help_panel=_SCENARIO,
    ),
]
Template = Annotated[
    str | None,
    typer.Option(metavar="TMPL…", help="Template of the WiFi devices.", show_default=False, rich_help_panel=_SCENARIO),
]

SAID_BY_THE_SCENARIO = (
    "count",
    "transport",
    "rate",
    "concurrency",
    "credentials",
    "flash_dir",
    "attempts",
    "timeout",
    "mqtt_version",
    "connecting",
    "telemetry",
    "interval",
    "connect_transport",
)
"""Parameters of the command that have no place beside --scenario."""


@dataclass(frozen=True, slots=True)
class Given:
    """What the command line says beside the scenario."""

    ctx: typer.Context
    servers: Mapping[TransportName, Address]
    trust: Trust
    dtls: Dtls
    key: str | None
    secret: str | None
    secret_file: Path | None
    pki: Path | None
    api: str
    api_key: str | None
    template: str | None
    name_prefix: str | None
    scale: float
    time_scale: float
    svg: Path | None
    as_json: bool


def play(file: Path, given: Given) -> int:
    """Play it and print what became of it; returns the exit code."""
    for name in SAID_BY_THE_SCENARIO:
        source = given.ctx.get_parameter_source(name)
        if source and source.name == "COMMANDLINE":
            raise typer.BadParameter("the scenario says this itself", param_hint=_option(given.ctx, name))
    try:
        scenario = Scenario.read(file).at_scale(given.scale, given.time_scale)
        stage = _stage(scenario, given)
    except WrongUsage as error:
        raise typer.BadParameter(str(error), param_hint="--scenario") from None
    findings = Findings(scenario)

    def update(so_far: Findings) -> None:
        bars(so_far)

    threads = scenario.concurrency * (len(scenario.group) + len(scenario.attack))
    try:
        connecting = sum(group.count for group in scenario.group if group.connects)
        with progress(findings.count, connecting) as bars:
            run(stage.play(findings, update), threads=threads)
    finally:
        if given.svg:
            given.svg.write_text(findings.to_svg(), encoding="utf-8")
        if given.as_json:
            print_json(findings.to_json())
        else:
            Console(highlight=False).print(findings.to_table())
    return findings.exit_code


def _stage(scenario: Scenario, given: Given) -> Stage:
    for name in scenario.transports:
        if name not in given.servers:
            raise WrongUsage(f"no transport {name} in scenarios")
        check_trust(name, given.trust, by_key=speaks_by_key(name, given.dtls))
    brought = {group.credentials for group in scenario.group}
    asking = scenario.attack or any(each.kind for each in brought)
    if Brought.CHAIN in brought and not given.pki:
        raise typer.BadParameter("the scenario's devices have certificates: name a directory", param_hint="--pki")
    return Stage(
        scenario,
        given.servers,
        key_of(given.key) if asking else "",
        secret_of(given.ctx, given.secret, given.secret_file) if asking else "",
        given.trust,
        given.dtls is Dtls.PSK,
        Factory.load(given.pki) if given.pki else None,
        _phone(given) if Brought.WIFI in brought else None,
        given.name_prefix,
        given.time_scale,
    )


def _phone(given: Given) -> Phone:
    if not given.api_key:
        raise typer.BadParameter(
            "the scenario's WiFi devices need one, with the permission devices:claim: `provserver key create`",
            param_hint="--api-key or the environment variable FIRMWARE_SIM_API_KEY",
        )
    if not given.template:
        raise typer.BadParameter(
            "the scenario's WiFi devices need one: `provserver profile show`", param_hint="--template"
        )
    try:
        api = Address.parse(given.api, _ADMIN_PORT)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--api") from None
    return Phone(api, given.api_key, given.template)


def _option(ctx: typer.Context, name: str) -> str:
    return next(parameter.opts[0] for parameter in ctx.command.params if parameter.name == name)

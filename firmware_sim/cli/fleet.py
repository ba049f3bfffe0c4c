"""`firmware-sim fleet`."""

import contextlib
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from firmware_sim.cli.loop import run
from firmware_sim.cli.options import (
    Attempts,
    Ca,
    Connect,
    ConnectTransport,
    Dtls,
    DtlsMode,
    Insecure,
    Interval,
    Json,
    Key,
    Offer,
    Secret,
    SecretFile,
    Telemetry,
    Timeout,
    Version,
    address,
    check_link,
    check_trust,
    key_of,
    print_json,
    secret_of,
    speaks_by_key,
    trust_of,
)
from firmware_sim.cli.progress import progress
from firmware_sim.cli.scenario import Api, ApiKey, Given, Scale, ScenarioFile, Svg, Template, TimeScale, play
from firmware_sim.credentials import Kind
from firmware_sim.errors import SimulatorError
from firmware_sim.fleet import Fleet, Life
from firmware_sim.pki import DEVICE_PREFIX, Factory
from firmware_sim.retry import Retry
from firmware_sim.transports import MqttVersion, TransportName


class FleetTransport(StrEnum):
    """A protocol for the whole fleet, or several in turn."""

    MIX = "mix"
    MIX_TLS = "mix-tls"
    HTTP = "http"
    MQTT = "mqtt"
    COAP = "coap"
    HTTPS = "https"
    MQTTS = "mqtts"
    COAPS = "coaps"
    OSCORE = "coap+oscore"

    @property
    def names(self) -> tuple[TransportName, ...]:
        """The protocols, in turn."""
        match self:
            case FleetTransport.MIX:
                return (TransportName.HTTP, TransportName.MQTT, TransportName.COAP)
            case FleetTransport.MIX_TLS:
                return (TransportName.HTTPS, TransportName.MQTTS, TransportName.COAPS)
            case _:
                return (TransportName(self),)


def fleet(
    ctx: typer.Context,
    count: Annotated[
        int | None, typer.Option(min=1, help="Devices to boot; needed without --scenario.", show_default=False)
    ] = None,
    key: Key = None,
    secret: Secret = None,
    secret_file: SecretFile = None,
    transport: Annotated[
        FleetTransport, typer.Option(help="mix takes http, mqtt and coap in turn; mix-tls https, mqtts and coaps.")
    ] = FleetTransport.MIX,
    http: Annotated[str, typer.Option(metavar="H:P", help="HTTP server.")] = "127.0.0.1:8080",
    mqtt: Annotated[str, typer.Option(metavar="H:P", help="MQTT server.")] = "127.0.0.1:1883",
    coap: Annotated[str, typer.Option(metavar="H:P", help="CoAP server, with or without OSCORE.")] = "127.0.0.1:5683",
    https: Annotated[str, typer.Option(metavar="H:P", help="HTTPS server.")] = "127.0.0.1:8443",
    mqtts: Annotated[str, typer.Option(metavar="H:P", help="MQTTS server.")] = "127.0.0.1:8883",
    coaps: Annotated[str, typer.Option(metavar="H:P", help="CoAPS server.")] = "127.0.0.1:5684",
    blynk: Annotated[str, typer.Option(metavar="H:P", help="Server of Blynk's protocol.")] = "127.0.0.1:8442",
    blynks: Annotated[str, typer.Option(metavar="H:P", help="The same over TLS.")] = "127.0.0.1:8441",
    rate: Annotated[
        float,
        typer.Option(min=0, help="Devices to switch on per second; 0: as fast as --concurrency allows."),
    ] = 0.0,
    concurrency: Annotated[int, typer.Option(min=1, help="Requests under way at once.")] = 64,
    credentials: Annotated[
        Offer,
        typer.Option(help="Let the server generate tokens, bring own credentials, or connect with certificates."),
    ] = Offer.GENERATED,
    pki: Annotated[
        Path | None,
        typer.Option(
            exists=True, file_okay=False, help="Chain: the directory that `pki init` made.", show_default=False
        ),
    ] = None,
    name_prefix: Annotated[
        str | None,
        typer.Option(
            help="Names are PREFIX-000001 and so on.",
            show_default=f"sim- and a new number for each run; {DEVICE_PREFIX} for chain",
        ),
    ] = None,
    flash_dir: Annotated[
        Path | None,
        typer.Option(exists=True, file_okay=False, help="Keep a flash file per device there; default: in memory."),
    ] = None,
    attempts: Attempts = 5,
    timeout: Timeout = 10.0,
    mqtt_version: Version = MqttVersion.V311,
    ca: Ca = None,
    insecure: Insecure = False,
    dtls: DtlsMode = Dtls.PSK,
    connecting: Connect = False,
    telemetry: Telemetry = None,
    interval: Interval = 1.0,
    connect_transport: ConnectTransport = None,
    scenario: ScenarioFile = None,
    scale: Scale = 1.0,
    time_scale: TimeScale = 1.0,
    svg: Svg = None,
    api: Api = "127.0.0.1:8081",
    api_key: ApiKey = None,
    template: Template = None,
    as_json: Json = False,
) -> None:
    """Boot many devices, let them connect if asked to, and report counts, latencies and failures."""
    trust = trust_of(ca, insecure=insecure)
    addresses = {
        TransportName.HTTP: http,
        TransportName.MQTT: mqtt,
        TransportName.COAP: coap,
        TransportName.HTTPS: https,
        TransportName.MQTTS: mqtts,
        TransportName.COAPS: coaps,
        TransportName.OSCORE: coap,
        TransportName.BLYNK: blynk,
        TransportName.BLYNKS: blynks,
    }
    options = {TransportName.OSCORE: "--coap"}
    servers = {name: address(options.get(name, f"--{name}"), text, name) for name, text in addresses.items()}
    if scenario:
        _allow_many_files()
        given = Given(
            ctx,
            servers,
            trust,
            dtls,
            key,
            secret,
            secret_file,
            pki,
            api,
            api_key,
            template,
            name_prefix,
            scale,
            time_scale,
            svg,
            as_json,
        )
        raise typer.Exit(play(scenario, given))
    if count is None:
        raise typer.BadParameter("needs --count, or a --scenario that says it", param_hint="--count")
    names = transport.names
    if credentials is Offer.STATIC:
        raise typer.BadParameter(
            "static tokens are flashed one by one: firmware-sim device", param_hint="--credentials"
        )
    chain = credentials is Offer.CHAIN
    life: Life | None = None
    if chain or connecting or telemetry is not None:
        messages = telemetry if telemetry is not None else int(chain)
        life = Life(connect_transport, servers, messages, interval)
    for name in names:
        if life:
            check_link(connect_transport or name, credentials, trust, dtls)
        if not chain:
            check_trust(name, trust, by_key=speaks_by_key(name, dtls))
    if chain and connect_transport:
        raise typer.BadParameter("a device with a certificate connects once", param_hint="--connect-transport")
    if chain is not (pki is not None):
        raise typer.BadParameter("goes with --credentials chain, and that with it", param_hint="--pki")
    try:
        devices = Fleet(
            "" if chain else key_of(key),
            "" if chain else secret_of(ctx, secret, secret_file),
            {name: servers[name] for name in names},
            count,
            rate,
            concurrency,
            credentials.kind or Kind.X509,
            name_prefix or (DEVICE_PREFIX if chain else None),
            flash_dir,
            mqtt_version,
            Retry(attempts),
            timeout,
            trust,
            dtls is Dtls.PSK,
            life,
            Factory.load(pki) if pki else None,
        )
    except SimulatorError as error:
        raise typer.BadParameter(str(error), param_hint="--pki") from None
    _allow_many_files()
    report = devices.report()
    try:
        with progress(count, count if life else 0) as update:
            run(devices.run(report, update), threads=concurrency)
    finally:
        if svg:
            svg.write_text(report.to_svg(), encoding="utf-8")
        if as_json:
            print_json(report.to_json())
        else:
            Console(highlight=False).print(report.to_table())
    raise typer.Exit(report.exit_code)


def _allow_many_files() -> None:
    """As many sockets as the system lets this user have."""
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))

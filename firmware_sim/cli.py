"""The command line: `firmware-sim device` and `firmware-sim fleet`."""

import asyncio
import logging
import sys
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from firmware_sim.address import Address
from firmware_sim.credentials import Kind
from firmware_sim.device import Device, Firmware, Provisioned
from firmware_sim.errors import SimulatorError
from firmware_sim.flash import FileFlash, VolatileFlash
from firmware_sim.fleet import Fleet
from firmware_sim.log import SerialLog, mask
from firmware_sim.report import Report
from firmware_sim.retry import Retry
from firmware_sim.transports import DEFAULT_PORTS, MqttVersion, TransportName, connect

_EXIT_CODES = (
    "Exit codes: 0 provisioned; 1 refused by the server; 2 wrong usage; 3 server unreachable, silent or "
    "unavailable; 4 a reply that no device should act on; 5 flash unreadable or another device's; "
    "130 interrupted."
)
_INTERRUPTED = 130

T = TypeVar("T")

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,  # its tracebacks could show secrets
    help="Simulated devices that provision themselves. " + _EXIT_CODES,
)


class FleetTransport(StrEnum):
    """A protocol for the whole fleet, or all of them in turn."""

    MIX = "mix"
    HTTP = "http"
    MQTT = "mqtt"
    COAP = "coap"


Key = Annotated[str, typer.Option("--key", envvar="FIRMWARE_SIM_KEY", help="Provision key.", show_default=False)]
Secret = Annotated[
    str | None,
    typer.Option(
        envvar="FIRMWARE_SIM_SECRET",
        help="Provision secret. Other users can read a command line, but not the environment or a file.",
        show_default=False,
    ),
]
SecretFile = Annotated[
    Path | None,
    typer.Option(help="File whose first line is the provision secret.", exists=True, dir_okay=False),
]
Attempts = Annotated[int, typer.Option(min=1, help="Requests to send at most while no answer comes.")]
Timeout = Annotated[float, typer.Option(min=0.01, help="Seconds to wait for each answer.")]
Version = Annotated[MqttVersion, typer.Option(help="MQTT version to speak.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout; all else goes to stderr.")]


@app.command(epilog=_EXIT_CODES)
def device(
    ctx: typer.Context,
    transport: Annotated[TransportName, typer.Option(help="Protocol to ask by.", show_default=False)],
    key: Key,
    secret: Secret = None,
    secret_file: SecretFile = None,
    server: Annotated[
        str, typer.Option(metavar="H:P", help="Without a port, the protocol's: 8080, 1883 or 5683.")
    ] = "127.0.0.1",
    name: Annotated[str | None, typer.Option(help="Device name; the server chooses one if absent.")] = None,
    credentials: Annotated[
        Kind | None,
        typer.Option(help="Let the server generate a token, or bring own credentials.", show_default="generated"),
    ] = None,
    gateway: Annotated[bool, typer.Option("--gateway", help="Register as a gateway.")] = False,
    flash: Annotated[
        Path | None,
        typer.Option(dir_okay=False, help="The device's memory; a second boot finds its credentials there."),
    ] = None,
    erase: Annotated[bool, typer.Option("--erase", help="Erase the flash file before booting.")] = False,
    attempts: Attempts = 5,
    timeout: Timeout = 10.0,
    mqtt_version: Version = MqttVersion.V311,
    show_credentials: Annotated[
        bool,
        typer.Option("--show-credentials", help="Print credentials in clear, private key included in --json."),
    ] = False,
    as_json: Json = False,
) -> None:
    """Boot one device: find its credentials in flash, or ask for them and save them there."""
    firmware = Firmware(key, _secret(ctx, secret, secret_file), name, credentials, gateway)
    address = _address("--server", server, transport)
    log = SerialLog(Console(stderr=as_json, highlight=False), show=show_credentials)
    memory = FileFlash(flash) if flash else VolatileFlash()

    async def boot() -> Provisioned:
        async with connect(transport, address, mqtt_version=mqtt_version) as way:
            retry = Retry(attempts)
            return await Device(firmware, memory, way, log, retry, timeout).boot()

    try:
        log.info("boot", f"{transport} device, provision key {log.secret(key)}")
        if isinstance(memory, FileFlash) and erase:
            memory.erase()
        elif not flash:
            log.warning("flash", "no --flash file: all is forgotten at power-off")
        outcome = _run(boot())
    except SimulatorError as error:
        log.failure("boot", f"{error.status}: {error}")
        if as_json:
            _print_json({"status": error.status, "reason": str(error), "transport": transport})
        raise typer.Exit(error.exit_code) from None
    log.info("boot", "provisioned")
    if as_json:
        _print_json(_describe(outcome, transport, show=show_credentials))


@app.command(epilog=_EXIT_CODES + " Of several failures, the least.")
def fleet(
    ctx: typer.Context,
    count: Annotated[int, typer.Option(min=1, help="Devices to boot.", show_default=False)],
    key: Key,
    secret: Secret = None,
    secret_file: SecretFile = None,
    transport: Annotated[FleetTransport, typer.Option(help="mix takes all three in turn.")] = FleetTransport.MIX,
    http: Annotated[str, typer.Option(metavar="H:P", help="HTTP server.")] = "127.0.0.1:8080",
    mqtt: Annotated[str, typer.Option(metavar="H:P", help="MQTT server.")] = "127.0.0.1:1883",
    coap: Annotated[str, typer.Option(metavar="H:P", help="CoAP server.")] = "127.0.0.1:5683",
    rate: Annotated[
        float,
        typer.Option(min=0, help="Devices to switch on per second; 0: as fast as --concurrency allows."),
    ] = 0.0,
    concurrency: Annotated[int, typer.Option(min=1, help="Requests under way at once.")] = 64,
    credentials: Annotated[
        Kind, typer.Option(help="Let the server generate tokens, or bring own credentials.")
    ] = Kind.GENERATED,
    name_prefix: Annotated[
        str | None,
        typer.Option(help="Names are PREFIX-000001 and so on.", show_default="sim- and a new number for each run"),
    ] = None,
    flash_dir: Annotated[
        Path | None,
        typer.Option(exists=True, file_okay=False, help="Keep a flash file per device there; default: in memory."),
    ] = None,
    attempts: Attempts = 5,
    timeout: Timeout = 10.0,
    mqtt_version: Version = MqttVersion.V311,
    as_json: Json = False,
) -> None:
    """Boot many devices and report counts, latencies and failures."""
    addresses = {
        TransportName.HTTP: _address("--http", http, TransportName.HTTP),
        TransportName.MQTT: _address("--mqtt", mqtt, TransportName.MQTT),
        TransportName.COAP: _address("--coap", coap, TransportName.COAP),
    }
    if transport is not FleetTransport.MIX:
        only = TransportName(transport)
        addresses = {only: addresses[only]}
    devices = Fleet(
        key,
        _secret(ctx, secret, secret_file),
        addresses,
        count,
        rate,
        concurrency,
        credentials,
        name_prefix,
        flash_dir,
        mqtt_version,
        Retry(attempts),
        timeout,
    )
    report = devices.report()
    try:
        _run_with_progress(devices, report)
    finally:
        if as_json:
            _print_json(report.to_json())
        else:
            Console(highlight=False).print(report.to_table())
    raise typer.Exit(report.exit_code)


def _run_with_progress(devices: Fleet, report: Report) -> None:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]:.0f}/s  {task.fields[failed]} failed"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        bar = progress.add_task("provisioning", total=devices.count, rate=0.0, failed=0)

        def update(so_far: Report) -> None:
            finished = so_far.finished
            progress.update(
                bar,
                completed=finished,
                rate=finished / so_far.seconds if so_far.seconds else 0.0,
                failed=so_far.failures.total(),
            )

        _run(devices.run(report, update), threads=devices.concurrency)


def _run(main: Coroutine[Any, Any, T], threads: int = 1) -> T:
    """Run on uvloop where there is one. threads: aiomqtt connects, and FileFlash syncs, in one."""
    logging.getLogger().addHandler(logging.NullHandler())  # what the libraries log is in the errors we report
    if sys.platform == "win32":
        loop_factory = asyncio.new_event_loop
    else:
        import uvloop

        loop_factory = uvloop.new_event_loop
    try:
        with asyncio.Runner(loop_factory=loop_factory) as runner:
            runner.get_loop().set_default_executor(ThreadPoolExecutor(threads))
            return runner.run(main)
    except KeyboardInterrupt:
        raise typer.Exit(_INTERRUPTED) from None


def _secret(ctx: typer.Context, secret: str | None, file: Path | None) -> str:
    if file:
        source = ctx.get_parameter_source("secret")
        if source and source.name == "COMMANDLINE":
            raise typer.BadParameter("give either --secret or --secret-file", param_hint="--secret-file")
        secret = file.read_text(encoding="utf-8").partition("\n")[0].rstrip("\r")
    if not secret:
        raise typer.BadParameter(
            "needs --secret, --secret-file or the environment variable FIRMWARE_SIM_SECRET",
            param_hint="--secret",
        )
    return secret


def _address(option: str, text: str, transport: TransportName) -> Address:
    try:
        return Address.parse(text, DEFAULT_PORTS[transport])
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=option) from None


def _describe(outcome: Provisioned, transport: TransportName, *, show: bool) -> dict[str, object]:
    granted = outcome.credentials
    value = granted.credentials_value
    if not show:
        value = mask(value) if isinstance(value, str) else {name: part and mask(part) for name, part in value.items()}
    described: dict[str, object] = {
        "status": "provisioned",
        "source": "server" if outcome.attempts else "flash",
        "transport": transport,
        "attempts": outcome.attempts,
        "deviceName": granted.device_name,
        "deviceId": granted.device_id,
        "credentialsType": granted.credentials_type,
        "credentialsValue": value,
    }
    if show and outcome.private_key:
        described["privateKey"] = outcome.private_key
    return described


def _print_json(value: object) -> None:
    typer.echo(msgspec.json.encode(value))


def main() -> None:
    """Entry point of the console script `firmware-sim`."""
    app()

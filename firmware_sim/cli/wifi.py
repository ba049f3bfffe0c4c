"""`firmware-sim wifi`."""

import asyncio
import contextlib
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Annotated, TypeVar

import msgspec
import typer
from rich.console import Console

from firmware_sim.address import Address
from firmware_sim.board import Board, Generation
from firmware_sim.board_view import BoardView, LastLines
from firmware_sim.cli.loop import run, until_stopped
from firmware_sim.cli.options import Ca, Insecure, Json, Timeout, address, check_trust, print_json, trust_of
from firmware_sim.config_store import FileStore, Store, VolatileStore
from firmware_sim.control import described
from firmware_sim.control import served as controlled
from firmware_sim.dns import PORT as DNS_PORT
from firmware_sim.dns import own_address
from firmware_sim.dns import served as names_served
from firmware_sim.edgent_state import CONFIG_TIMEOUT, State
from firmware_sim.errors import SimulatorError, WrongUsage
from firmware_sim.flash import replace_file
from firmware_sim.links.cloud import Cloud
from firmware_sim.log import SerialLog
from firmware_sim.transports import TransportName
from firmware_sim.wifi_device import WifiDevice
from firmware_sim.wifi_networks import Networks, home

_MAC = 6
_MAX_VENDOR = 20
_POLL = 10.0
_TRANSPORTS = (
    TransportName.MQTT,
    TransportName.MQTTS,
    TransportName.HTTP,
    TransportName.HTTPS,
    TransportName.COAP,
    TransportName.BLYNK,
    TransportName.BLYNKS,
)
_WAYS = "Other ways to be provisioned"

T = TypeVar("T")


def wifi(
    template: Annotated[str, typer.Option(metavar="TMPL…", help="Template id in the firmware's image.")],
    template_name: Annotated[str, typer.Option(help="Name of the product in it.")],
    mac: Annotated[str, typer.Option(metavar="AA:BB:…", help="The chip's address; it makes the end of its name.")],
    softap: Annotated[
        str, typer.Option(metavar="H:P", help="Where phones reach the access point; port 0: any that is free.")
    ] = "127.0.0.1:0",
    dns: Annotated[
        str | None, typer.Option(metavar="H:P", help="Its name server for blynk.setup there, over UDP.")
    ] = None,
    generation: Annotated[
        Generation, typer.Option(help="Of the firmware: as since 2021, or the new one of 2026.")
    ] = Generation.CLASSIC,
    vendor: Annotated[str, typer.Option(help="Before the product's name, in that of the access point.")] = "Blynk",
    firmware_type: Annotated[str, typer.Option(show_default="the template", help="What it calls itself.")] = "",
    firmware_version: Annotated[str, typer.Option(help="And its version.")] = "0.1.0",
    networks: Annotated[
        Path | None,
        typer.Option(
            exists=True, dir_okay=False, help="The WiFi around, TOML.", show_default="Home, password: correct horse"
        ),
    ] = None,
    flash: Annotated[Path | None, typer.Option(dir_okay=False, help="The device's memory.")] = None,
    erase: Annotated[bool, typer.Option("--erase", help="Erase the flash file before booting.")] = False,
    time_scale: Annotated[
        float,
        typer.Option(min=0.0001, metavar="X", help="Multiply the firmware's waits by this, except those for people."),
    ] = 1.0,
    window: Annotated[
        float, typer.Option("--config-window", min=0.1, metavar="S", help="New firmware: seconds to wait for a phone.")
    ] = CONFIG_TIMEOUT,
    transport: Annotated[TransportName, typer.Option(help="What it speaks with the server.")] = TransportName.MQTT,
    server: Annotated[
        str | None, typer.Option(metavar="H:P", help="Connect there.", show_default="where the phone says")
    ] = None,
    ca: Ca = None,
    insecure: Insecure = False,
    timeout: Timeout = 10.0,
    control: Annotated[
        str | None, typer.Option(metavar="H:P|PATH", help="Take lines there: press, join, leave, off, on, wait, …")
    ] = None,
    ble: Annotated[
        str | None, typer.Option(metavar="H:P", help="BLE Inject's messages there.", rich_help_panel=_WAYS)
    ] = None,
    improv: Annotated[
        bool, typer.Option("--improv", help="Improv on a pseudo-terminal.", rich_help_panel=_WAYS)
    ] = False,
    esp: Annotated[
        str | None, typer.Option(metavar="H:P", help="ESP-IDF's provisioning by HTTP there.", rich_help_panel=_WAYS)
    ] = None,
    esp_proof: Annotated[
        Path | None,
        typer.Option(
            exists=True, dir_okay=False, help="What its QR code says, or name and proof.", rich_help_panel=_WAYS
        ),
    ] = None,
    ready_file: Annotated[
        Path | None, typer.Option(dir_okay=False, help="Written once it can be reached: JSON with its addresses.")
    ] = None,
    ui: Annotated[bool, typer.Option("--ui", help="Show the board on the whole terminal.")] = False,
    as_json: Json = False,
) -> None:
    """Boot one WiFi device: it opens its access point, takes what a phone gives it, and goes online; until Ctrl-C."""
    if transport not in _TRANSPORTS:
        raise typer.BadParameter(f"is one of {', '.join(_TRANSPORTS)}", param_hint="--transport")
    trust = trust_of(ca, insecure=insecure)
    check_trust(transport, trust, by_key=False)
    if len(vendor.encode()) > _MAX_VENDOR:
        raise typer.BadParameter(f"at most {_MAX_VENDOR} characters", param_hint="--vendor")
    if (esp is None) is not (esp_proof is None):
        raise typer.BadParameter("goes with --esp-proof, and that with it", param_hint="--esp")
    chip = mac.replace(":", "").replace("-", "")
    try:
        board = Board(bytes.fromhex(chip), template, template_name, generation, vendor, firmware_type, firmware_version)
    except ValueError:
        chip = ""
    if len(chip) != 2 * _MAC:
        raise typer.BadParameter("is not six bytes, as in AA:BB:CC:DD:EE:FF", param_hint="--mac")
    there = address("--server", server, transport) if server else None
    names = _listening("--dns", dns, DNS_PORT) if dns else None
    if control and "/" not in control:
        control = str(_listening("--control", control))
    lines = LastLines()
    console = Console(file=lines, width=200) if ui else Console(stderr=as_json, highlight=False)
    log = SerialLog(console)
    store: Store = VolatileStore()

    async def live() -> dict[str, object]:
        cloud = Cloud(transport, there, trust, timeout, max(_POLL * time_scale, 0.1))
        try:
            device = WifiDevice(
                board,
                store,
                Networks.load(networks) if networks else home(),
                cloud,
                log,
                time_scale,
                _listening("--softap", softap),
                window,
            )
        except OSError as error:
            raise WrongUsage(f"cannot listen on {softap}: {error.strerror}") from None
        async with contextlib.AsyncExitStack() as stack:
            stack.push_async_callback(device.give_up_port)
            ready: dict[str, object] = {"softap": str(device.access_point), "name": device.board.name}
            ready["control"] = await _there(stack, control, controlled(control, device)) if control else None
            if names:
                serving = names_served(names, own_address(device.access_point), lambda: device.access_point_open)
                ready["dns"] = str(await _there(stack, str(names), serving))
            ready |= await _other_ways(stack, device, log, ble, improv, esp, esp_proof)
            if ready_file:
                device.changed = _Ready(ready_file, ready).changed
            await _lived(device, BoardView(device, lines) if ui else None)
            return dict(described(device))

    try:
        if flash:
            store = FileStore(flash)
            if erase:
                store.erase()
        else:
            log.warning("flash", "no --flash file: all is forgotten at the end")
        outcome = run(live(), threads=2)
    except SimulatorError as error:
        log.failure("boot", f"{error.status}: {error}")
        if as_json:
            print_json({"status": error.status, "reason": str(error)})
        elif ui:
            Console(stderr=True).print(f"{error.status}: {error}", markup=False)
        raise typer.Exit(error.exit_code) from None
    if as_json:
        print_json(outcome)


class _Ready:
    """Writes the ready file when the device can be reached for the first time, or goes online by itself."""

    def __init__(self, path: Path, content: dict[str, object]) -> None:
        self._path = path
        self._content = content
        self._written = False

    def changed(self, device: WifiDevice) -> None:
        """The device has done something."""
        if not self._written and (device.access_point_open or device.state in (State.CONNECTING_NET, State.IDLE)):
            self._written = True
            replace_file(self._path, msgspec.json.encode(self._content))


async def _lived(device: WifiDevice, view: BoardView | None) -> None:
    if view is None:
        await until_stopped(device.run())
        return

    async def shown() -> None:
        living = asyncio.create_task(device.run())
        showing = asyncio.create_task(view.show(Console()))
        try:
            await asyncio.wait({living, showing}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (living, showing):
                task.cancel()
            await asyncio.gather(living, showing, return_exceptions=True)
        if not living.cancelled():
            living.result()

    await until_stopped(shown())


async def _other_ways(
    stack: contextlib.AsyncExitStack,
    device: WifiDevice,
    log: SerialLog,
    ble: str | None,
    improv: bool,
    esp: str | None,
    esp_proof: Path | None,
) -> dict[str, object]:
    """Where the device can be provisioned, but for its access point."""
    ways: dict[str, object] = {}
    if ble:
        from firmware_sim import ble_inject

        ways["ble"] = str(await _there(stack, ble, ble_inject.served(_listening("--ble", ble), device, log)))
    if improv:
        from firmware_sim import improv as improv_serial

        ways["improv"] = str(await stack.enter_async_context(improv_serial.served(device, log)))
    if esp and esp_proof:
        from firmware_sim import esp_prov

        possession = esp_prov.Possession.read(esp_proof)
        served = esp_prov.served(_listening("--esp", esp), device, log, possession)
        ways["esp"] = str(await _there(stack, esp, served))
    return ways


async def _there(stack: contextlib.AsyncExitStack, where: str, served: AbstractAsyncContextManager[T]) -> T:
    """What listens there, until the end."""
    try:
        return await stack.enter_async_context(served)
    except OSError as error:
        raise WrongUsage(f"cannot listen on {where}: {error.strerror or error}") from None


def _listening(option: str, text: str, default_port: int = 80) -> Address:
    """Port 0 may be given, as nowhere else."""
    host, _, port = text.rpartition(":")
    if port == "0" and host:
        return Address(host.strip("[]"), 0)
    try:
        return Address.parse(text, default_port)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=option) from None

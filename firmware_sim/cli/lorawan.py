"""`firmware-sim lorawan`."""

import asyncio
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from firmware_sim.address import Address
from firmware_sim.cli.loop import run
from firmware_sim.cli.options import Attempts, Interval, Json, Timeout, print_json
from firmware_sim.end_device import EndDevice
from firmware_sim.errors import SimulatorError
from firmware_sim.flash import FileFlash, VolatileFlash
from firmware_sim.forwarder import Forwarder
from firmware_sim.log import SerialLog
from firmware_sim.lorawan import Identity, Session
from firmware_sim.retry import Retry

DEFAULT_PORT = 1700
_EUI, _KEY = 8, 16


class LorawanVersion(StrEnum):
    """Of the link layer."""

    V1_0 = "1.0"
    V1_0_1 = "1.0.1"
    V1_0_2 = "1.0.2"
    V1_0_3 = "1.0.3"
    V1_0_4 = "1.0.4"
    V1_1 = "1.1"


def lorawan(
    gateway: Annotated[
        str,
        typer.Option(
            metavar="H:P", help="Network server of the gateway, Semtech's UDP protocol. Port if absent: 1700."
        ),
    ],
    device_eui: Annotated[str, typer.Option("--device-eui", metavar="HEX", help="DevEUI, 16 digits.")],
    join_eui: Annotated[str, typer.Option("--join-eui", metavar="HEX", help="JoinEUI (AppEUI), 16 digits.")],
    key_file: Annotated[
        Path,
        typer.Option(
            help="File with the Application Key, 32 digits; for LoRaWAN 1.1 the Network Key on the next line.",
            exists=True,
            dir_okay=False,
        ),
    ],
    version: Annotated[
        LorawanVersion, typer.Option("--lorawan-version", help="Of the device.")
    ] = LorawanVersion.V1_0_3,
    payload: Annotated[str, typer.Option(metavar="HEX", help="What each uplink holds.")] = "00",
    port: Annotated[int, typer.Option(min=1, max=223, help="FPort of the uplinks.")] = 1,
    uplinks: Annotated[int, typer.Option(min=0, metavar="N", help="How many to send after joining.")] = 1,
    interval: Interval = 1.0,
    gateway_eui: Annotated[
        str, typer.Option(metavar="HEX", help="EUI of the gateway, 16 digits.")
    ] = "B827EB0000000001",
    rssi: Annotated[int, typer.Option(help="dBm at which the gateway hears the device.")] = -60,
    snr: Annotated[float, typer.Option(help="dB at which the gateway hears the device.")] = 9.5,
    flash: Annotated[
        Path | None,
        typer.Option(dir_okay=False, help="The device's memory; 1.0.4 and 1.1 count their joins there."),
    ] = None,
    attempts: Attempts = 5,
    timeout: Timeout = 10.0,
    window: Annotated[
        float | None,
        typer.Option(min=0.01, help="Seconds to wait for each join accept.", show_default="as --timeout"),
    ] = None,
    as_json: Json = False,
) -> None:
    """Join a LoRaWAN network over the air, then send uplinks."""
    if len(payload) % 2 or len(payload) > 2 * 222:
        raise typer.BadParameter("at most 222 bytes, two digits each", param_hint="--payload")
    data = _digits("--payload", payload, len(payload) // 2)
    try:
        server = Address.parse(gateway, DEFAULT_PORT)
    except ValueError as fault:
        raise typer.BadParameter(str(fault), param_hint="--gateway") from None
    identity = _identity(device_eui, join_eui, key_file, version)
    forwarder = Forwarder(
        server, _digits("--gateway-eui", gateway_eui, _EUI), timeout, window=window, rssi=rssi, snr=snr
    )
    log = SerialLog(Console(stderr=as_json, highlight=False))
    if identity.counts and flash is None:
        log.warning("flash", "no --flash file: a network that has seen the device join does not let it join again")
    memory = FileFlash(flash) if flash else VolatileFlash()
    device = EndDevice(identity, memory, forwarder, log, Retry(attempts))

    async def live() -> Session:
        async with forwarder:
            session = await device.join()
            for number in range(uplinks):
                if number:
                    await asyncio.sleep(interval)
                await device.send(session, data, port)
            return session

    try:
        session = run(live())
    except SimulatorError as error:
        log.failure("boot", f"{error.status}: {error}")
        if as_json:
            print_json({"status": error.status, "reason": str(error), "attempts": device.attempts})
        raise typer.Exit(error.exit_code) from None
    if as_json:
        described = {"status": "joined", "deviceAddress": session.address.hex().upper()}
        print_json(described | {"attempts": device.attempts, "uplinks": device.sent})


def _identity(device_eui: str, join_eui: str, key_file: Path, version: LorawanVersion) -> Identity:
    lines = key_file.read_text(encoding="utf-8").split()
    needed = 2 if version is LorawanVersion.V1_1 else 1
    if len(lines) < needed:
        raise typer.BadParameter(f"LoRaWAN {version} needs {needed} of 32 digits", param_hint="--key-file")
    keys = [_digits("--key-file", line, _KEY) for line in lines[:needed]]
    return Identity(
        _digits("--device-eui", device_eui, _EUI),
        _digits("--join-eui", join_eui, _EUI),
        keys[0],
        keys[1] if version is LorawanVersion.V1_1 else None,
        counts=version in (LorawanVersion.V1_0_4, LorawanVersion.V1_1),
    )


def _digits(option: str, text: str, size: int) -> bytes:
    try:
        value = bytes.fromhex(text)
    except ValueError:
        value = b""
    if len(value) != size:
        raise typer.BadParameter(f"is not {2 * size} hexadecimal digits", param_hint=option)
    return value

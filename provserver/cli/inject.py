"""`provserver inject`: the phone's side of WiFi provisioning."""

import signal
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from enum import StrEnum
from pathlib import Path
from threading import current_thread, main_thread
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import urlsplit

import typer

from provserver.admin.client import Client, given, path
from provserver.cli import files, options, output
from provserver.cli.organization import OrganizationOption
from provserver.cli.output import Json
from provserver.cli.target import LOCAL, acting
from provserver.config import split_address
from provserver.core import edgent
from provserver.core.attributes import METADATA, Scope
from provserver.core.board import OPEN, Board, WifiNetwork
from provserver.core.wifisession import WifiState
from provserver.errors import Forbidden, Misconfigured

if TYPE_CHECKING:  # what is slow to load is loaded by the command that needs it
    from provserver.services.inject import Choice, Existing, NotConnected, Standing, Token, Wanted, Way

CLIENT = "cli"
ACCESS_POINT = METADATA + "Hotspot Name"
"""The attribute in which firmware keeps what its access point was called."""

WAYS = "How the device is reached"
NETWORK = "What the device gets"
DEVICE = "Which device it is to be"
THERE = "With a device that is there already"


class WayName(StrEnum):
    """How to speak with the device."""

    SOFTAP = "softap"
    BLE = "ble"
    IMPROV = "improv"
    ESP = "esp"


def _bridge(given_: str | None) -> str | None:
    if given_ is not None:
        try:
            split_address(given_)
        except Misconfigured:
            raise typer.BadParameter(f'must be "host:port", not {given_!r}.') from None
    return given_


def _device(option: str, help_: str) -> Any:
    return typer.Option(
        option,
        metavar="DEVICE",
        help=help_,
        callback=options.reference("device"),
        show_default=False,
        rich_help_panel=THERE,
    )


@acting()
async def inject(
    api: Client,
    way: Annotated[
        WayName,
        typer.Option(
            help="By its access point (softap), Bluetooth behind a bridge (ble), a serial port (improv), or ESP-IDF's "
            "encrypted provisioning on its access point (esp).",
            rich_help_panel=WAYS,
        ),
    ] = WayName.SOFTAP,
    access_point: Annotated[
        str | None,
        typer.Option(
            metavar="HOST[:PORT]",
            help="Its address in its own network. (default: 192.168.4.1, or this network's gateway)",
            show_default=False,
            rich_help_panel=WAYS,
        ),
    ] = None,
    bridge: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT",
            help="For ble: who speaks Bluetooth with it.",
            callback=_bridge,
            show_default=False,
            rich_help_panel=WAYS,
        ),
    ] = None,
    serial: Annotated[
        Path | None,
        typer.Option(metavar="TTY", help="For improv: its serial port.", show_default=False, rich_help_panel=WAYS),
    ] = None,
    baud: Annotated[int, typer.Option(help="For improv: speed of the port.", rich_help_panel=WAYS)] = edgent.BAUD,
    proof_file: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="For esp: what its QR code says, or a line with the user name and one with the proof of possession.",
            show_default=False,
            rich_help_panel=WAYS,
        ),
    ] = None,
    ssid: Annotated[
        str | None,
        typer.Option(help="Its WiFi network. (asked, with what it sees)", show_default=False, rich_help_panel=NETWORK),
    ] = None,
    password_file: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="The WiFi's password, in a file that its owner alone may read; - for standard input. (asked)",
            show_default=False,
            rich_help_panel=NETWORK,
        ),
    ] = None,
    host: Annotated[
        str | None,
        typer.Option(
            help="Where the device finds the server. (default: where --server is)",
            show_default=False,
            rich_help_panel=NETWORK,
        ),
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(
            help="The server's port, of firmware that can be told it. (default: the firmware's, 443)",
            show_default=False,
            rich_help_panel=NETWORK,
        ),
    ] = None,
    template: Annotated[
        str | None,
        typer.Option(
            help="Its profile: name, template id (TMPL…) or id. (default: as the device says)",
            callback=options.reference("profile"),
            show_default=False,
            rich_help_panel=DEVICE,
        ),
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="What it is to be called.", show_default=False, rich_help_panel=DEVICE)
    ] = None,
    organization: OrganizationOption = None,
    owner: Annotated[
        str | None,
        typer.Option(
            help="E-mail or id of the user whose it is to be.",
            callback=options.reference("user"),
            show_default=False,
            rich_help_panel=DEVICE,
        ),
    ] = None,
    device: Annotated[
        str | None, _device("--device", "Give this one new WiFi; it keeps its id and data. Its access point is open.")
    ] = None,
    reconfigure: Annotated[
        str | None, _device("--reconfigure", "The same, after telling it to open its access point.")
    ] = None,
    another_unit: Annotated[
        bool,
        typer.Option("--another-unit", help="The device may get other hardware than it had.", rich_help_panel=THERE),
    ] = False,
    erase: Annotated[str | None, _device("--erase", "Forget all that this one has sent, and do nothing else.")] = None,
    delete: Annotated[str | None, _device("--delete", "Delete this one, and do nothing else.")] = None,
    timeout: Annotated[float, typer.Option(min=1, help="Seconds to wait for what becomes of it.")] = 150.0,
    json: Json = False,
) -> None:
    """Set a device up that waits for its WiFi: hand it a network and a token, and see it come online.

    Join its access point first, a WiFi network such as "Blynk Thermostat-8DCF". What is not given is asked for.
    """
    from provserver.services.inject import NotConnected, Patience, Wanted, Work
    from provserver.services.inject import inject as set_up

    of = [each for each in (device, reconfigure, erase, delete) if each is not None]
    if len(of) > 1:
        raise typer.BadParameter("goes alone.", param_hint="--device, --reconfigure, --erase, --delete")
    if erase is not None:
        await _erase(api, erase, json=json)
        return
    if delete is not None:
        await _delete(api, delete, json=json)
        return
    if of and (template or name or organization or owner):
        raise typer.BadParameter(
            "say what a new device is to be: leave them out.", param_hint="--template, --name, --organization, --owner"
        )
    asking = _Asking(ssid, password_file, None if of else name or "", interactive=sys.stdin.isatty() and not json)
    work = Work(
        host=host or asking.host(api.url),
        port=port,
        wanted=Wanted(organization, owner, template, name, of[0] if of else None),
        another_unit=another_unit,
        awaited=reconfigure is not None,
    )
    if reconfigure is not None:
        await _reconfigure(api, reconfigure, json=json)

    def told(message: str) -> None:
        output.say(message, quiet=json)

    async with _reached(way, access_point, bridge, serial, baud, proof_file) as reached:
        while True:
            try:
                done = await set_up(reached, _Server(api), work, asking.choose, told, Patience(timeout))
                break
            except NotConnected as fault:
                if not asking.again(fault):
                    raise
    result = {
        "deviceId": done.device_id,
        "deviceName": done.device,
        "templateId": done.board.template_id or None,
        "accessPoint": done.board.name or None,
        "ssid": done.ssid,
        "wifiSession": done.session,
    }
    output.print_object(result, json=json)
    told(f"{done.device} is online.")


async def _erase(api: Client, device: str, *, json: bool) -> None:
    erased = await api.call("POST", path("devices", device, "erase-data"))
    if json:
        output.print_json(erased)
    output.say(f"What {erased['name']} had sent is erased. The device itself goes on as it is.", quiet=json)


async def _delete(api: Client, device: str, *, json: bool) -> None:
    deleted = await api.call("DELETE", path("devices", device))
    if json:
        output.print_json(deleted)
    output.say(
        f"Deleted {deleted['name']}. The unit opens its access point again when it next reaches the server; hold the "
        "button of one that does not for 10 s.",
        quiet=json,
    )


async def _reconfigure(api: Client, device: str, *, json: bool) -> None:
    """Tell a device to open its access point."""
    if (await api.call("POST", path("devices", device, "reconfigure")))["deviceIsOffline"]:
        output.say(f"{device} is offline: hold its button for 10 s, until its LED blinks quickly.", quiet=json)
    else:
        output.say(f"{device} was told to open its access point: join it.", quiet=json)


@asynccontextmanager
async def _reached(
    way: WayName,
    address: str | None,
    bridge: str | None,
    serial: Path | None,
    baud: int,
    proof_file: Path | None,
) -> AsyncIterator["Way"]:
    """A way to the device. Raises Refused, BadParameter."""
    for option, value, of in (
        ("--access-point", address, (WayName.SOFTAP, WayName.ESP)),
        ("--bridge", bridge, (WayName.BLE,)),
        ("--serial", serial, (WayName.IMPROV,)),
        ("--proof-file", proof_file, (WayName.ESP,)),
    ):
        if value is not None and way not in of:
            raise typer.BadParameter(f"goes with --way {' or '.join(of)}.", param_hint=option)
        if value is None and way in of and option != "--access-point":
            raise typer.BadParameter(f"is needed with --way {way}.", param_hint=option)
    match way:
        case WayName.SOFTAP:
            from provserver.adapters.access_point import access_point

            async with access_point(address) as softap:
                yield softap
        case WayName.BLE:
            from provserver.adapters.ble_inject import ble_inject

            assert bridge is not None  # noqa: S101 - seen to above
            async with ble_inject(*split_address(bridge)) as ble:
                yield ble
        case WayName.IMPROV:
            from provserver.adapters.improv import improv

            assert serial is not None  # noqa: S101
            async with improv(serial, baud) as port:
                yield port
        case WayName.ESP:
            from provserver.adapters.esp_provisioning import esp_provisioning

            assert proof_file is not None  # noqa: S101
            async with esp_provisioning(address, _possession(proof_file)) as esp:
                yield esp


def _possession(file: Path) -> Any:
    from provserver.core.espprov import InvalidPossession, possession

    try:
        return possession(files.secret(file).encode())
    except InvalidPossession as fault:
        raise Misconfigured(f"{file}: {fault}.") from None


class _Asking:
    """What was given, and what a person at the terminal is asked for. name: None where there is none to choose."""

    def __init__(self, ssid: str | None, password_file: str | None, name: str | None, *, interactive: bool) -> None:
        self._ssid = ssid
        self._password_file = password_file
        self._name = name
        self._interactive = interactive
        self._password = None if password_file is None else _password(password_file)

    def host(self, url: str) -> str:
        """Where the device finds the server. Raises BadParameter."""
        host = urlsplit(url).hostname or ""
        if host and host not in LOCAL:
            return host
        if not self._interactive:
            raise typer.BadParameter("is needed: the server's address, as the device sees it.", param_hint="--host")
        return _prompt("Address of the server, as the device sees it")

    def choose(self, board: Board, networks: Sequence[WifiNetwork]) -> "Choice":
        """See `services.inject.Choose`."""
        from provserver.services.inject import Choice

        ssid = self._ssid if self._ssid is not None else self._network(networks)
        password = self._password
        seen = next((each for each in networks if each.ssid == ssid), None)
        if password is None and self._interactive and (seen is None or seen.security != OPEN):
            password = _prompt("Password (empty: none)", default="", hide_input=True, show_default=False)
        name = self._name
        if name == "" and self._interactive:
            offer = board.name if board.name.isprintable() else ""
            name = self._name = _prompt("Name of the device", default=offer)
        return Choice(ssid, password or "", name or "")

    def again(self, fault: "NotConnected") -> bool:
        """Whether the person tries again, with another network or password. Raises Exit when he will not."""
        if not self._interactive or not fault.trouble.code:
            return False
        output.report(fault)
        with _interruptible():
            if not typer.confirm("Try again?", default=True, err=True):
                raise typer.Exit(1)
        self._ssid = self._password = None
        return True

    def _network(self, networks: Sequence[WifiNetwork]) -> str:
        if not self._interactive:
            return ""
        for number, each in enumerate(networks, 1):
            output.say(f"{number:>3}  {each.ssid}  ({each.rssi} dBm, {each.security})")
        answer = _prompt("WiFi network, its number or name")
        if answer.isdecimal() and 1 <= int(answer) <= len(networks):
            return networks[int(answer) - 1].ssid
        return answer


def _prompt(text: str, **how: Any) -> str:
    with _interruptible():
        answer: str = typer.prompt(text, err=True, **how)
    return answer


@contextmanager
def _interruptible() -> Iterator[None]:
    """Have Ctrl-C end what is asked: asyncio would cancel the task, which is waiting for just that answer."""
    if current_thread() is not main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _password(file: str) -> str:
    """A WiFi password, whose blanks belong to it. Raises Misconfigured."""
    if file == "-":
        return sys.stdin.readline().rstrip("\r\n")
    return files.secret(Path(file), blanks=True)


class _Server:
    """The server, through the admin API: see `services.inject.Server`."""

    def __init__(self, api: Client) -> None:
        self._api = api

    async def template_id(self, profile: str) -> str:
        if profile.startswith("TMPL"):
            return profile
        found: str = (await self._api.call("GET", path("profiles", profile)))["templateId"]
        return found

    async def device(self, reference: str) -> "Existing":
        from provserver.services.inject import Existing

        found = await self._api.call("GET", path("devices", reference))
        names = [
            each["value"]
            for each in found["attributes"]
            if (each["scope"], each["key"]) == (Scope.SERVER, ACCESS_POINT)
        ]
        try:
            template_id = await self.template_id(found["profileId"])
        except Forbidden:  # the session will say
            template_id = ""
        return Existing(found["id"], found["name"], template_id, str(names[0]) if names else "")

    async def request(self, wanted: "Wanted") -> "Token":
        from provserver.services.inject import Token

        body = {
            "organization": wanted.organization,
            "owner": wanted.owner,
            "template": wanted.template,
            "name": wanted.name,
            "device": wanted.device,
            "client": CLIENT,
        }
        made = await self._api.call("POST", "/wifi-sessions", body=given(body))
        return Token(made["id"], made["token"], made["templateId"] or "")

    async def standing(self, session: str) -> "Standing":
        from provserver.services.inject import Standing

        found = await self._api.call("GET", path("wifi-sessions", session))
        return Standing(
            WifiState(found["state"]), found["lastError"] or "", found["deviceId"], found["deviceName"] or ""
        )

    async def saw(self, session: str, event: str, error: str = "") -> None:
        body = given({"event": event, "error": error or None})
        await self._api.call("POST", path("wifi-sessions", session, "events"), body=body)

    async def fail(self, session: str, error: str) -> None:
        await self._api.call("POST", path("wifi-sessions", session, "fail"), body={"error": error})

    async def cancel(self, session: str) -> None:
        await self._api.call("POST", path("wifi-sessions", session, "cancel"))

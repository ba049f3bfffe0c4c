"""One run of a case on one channel: its values, its devices' files, and the program that its channel has."""

import itertools
from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from uuid import UUID

from provserver.core import csvfile
from provserver.core.csvfile import DeviceRow
from tests.conformance.bench import Bench
from tests.conformance.channels.model import KEYED, Case, Channel, Device, Login, Pki
from tests.conformance.channels.programs import oscore
from tests.conformance.channels.programs.base import Client, Place, Presented
from tests.conformance.channels.programs.curl import Curl
from tests.conformance.channels.programs.libcoap import CoapClient
from tests.conformance.channels.programs.mosquitto import Mosquitto
from tests.conformance.channels.programs.oscore import OscoreClient
from tests.conformance.values import Values
from tests.pki import Issued, self_signed
from tests.transports.oscore_client import DeviceContext

_addresses = itertools.count(2)


class Stage:
    """One run. profile: the name of its profile; login: what its usual device presents."""

    def __init__(self, bench: Bench, case: Case, channel: Channel, directory: Path, tool: Callable[[str], str]) -> None:
        self.bench = bench
        self.case = case
        self.channel = channel
        self.values = Values()
        self.place = Place(bench.server, _address(channel), directory / self.values.tag, tool)
        self.profile = ""
        self.profile_id: UUID | None = None
        self.device = _usual(case.device, channel)
        self.login = _login(self.device)
        self._contexts: dict[tuple[str, str], DeviceContext] = {}
        self._files: dict[str, tuple[Path, Path]] = {}

    @cached_property
    def pki(self) -> Pki:
        """What is issued for this run."""
        tag = self.values.tag
        return self.case.pki(tag) if self.case.pki is not None else Pki(devices={"device": self_signed(tag)})

    def row(self, line: int) -> DeviceRow:
        """The usual device, for an import."""
        assert self.device is not None
        device, text = self.device, self.values.text
        own = self.pki.devices[device.certificate] if device.certificate else None
        cells = {
            "name": device.name,
            "token": device.token,
            "clientId": device.client_id,
            "username": device.username,
            "password": device.password,
        }
        filled = {column: text(cell) for column, cell in cells.items()}
        row = csvfile.device_row(line, filled | {"certificate": own.pem if isinstance(own, Issued) else ""})
        assert isinstance(row, DeviceRow), row
        return row

    def made(self, id_: UUID, token: str | None = None) -> None:
        """The usual device is there; token: that was generated."""
        assert self.device is not None
        self.values.add(id=str(id_), token=token or self.values.text(self.device.token))

    def presented(self, login: Login | None, patience: int = 60) -> Presented:
        """What a login is on this channel: one that is keyed has a token as its key."""
        login = login or self.login
        text = self.values.text
        token, identity, key = login.token, login.identity, login.key
        if self.channel in KEYED:
            token, identity, key = "", identity or "«id»", key or token
        elif token:
            identity = key = ""
        return Presented(
            token=text(token),
            client_id=text(login.client_id),
            username=text(login.username),
            password=text(login.password),
            certificate=self.files(login.certificate) if login.certificate else None,
            identity=text(identity),
            key=text(key),
            gnutls=login.gnutls,
            weak=login.weak,
            patience=patience,
        )

    def client(self, login: Login | None = None, patience: int = 60) -> Client:
        """The channel's program. Under OSCORE a device goes on with the numbers it has come to."""
        presented = self.presented(login, patience)
        if self.channel is not Channel.OSCORE:
            return program(self.place, presented, self.channel)
        key = presented.identity, presented.key
        return OscoreClient(self.place, self._contexts.setdefault(key, oscore.context(*key)))

    def files(self, name: str) -> tuple[Path, Path]:
        """A device's chain and key, written once."""
        if name not in self._files:
            self.place.directory.mkdir(exist_ok=True)
            self._files[name] = self.pki.devices[name].write(self.place.directory, name)
        return self._files[name]


def program(place: Place, presented: Presented, channel: Channel) -> Client:
    """What a device is made of on a channel."""
    match channel:
        case Channel.HTTP | Channel.HTTPS:
            return Curl(place, presented, tls=channel is Channel.HTTPS)
        case Channel.OSCORE:
            return OscoreClient(place, oscore.context(presented.identity, presented.key))
        case Channel.COAP | Channel.PSK | Channel.X509:
            return CoapClient(place, presented, channel)
        case _:
            return Mosquitto(place, presented, channel)


def _usual(device: Device | None, channel: Channel) -> Device | None:
    """Credentials that the channel is made for, where a case does not say which."""
    if device != Device():
        return device
    own = channel is Channel.X509
    return replace(device, certificate="device") if own else replace(device, token="token-«tag»")


def _login(device: Device | None) -> Login:
    if device is None:
        return Login()
    if device.certificate:
        return Login(certificate=device.certificate)
    if device.username or device.client_id:
        return Login(client_id=device.client_id, username=device.username, password=device.password)
    return Login(token="«token»")


def _address(channel: Channel) -> str:
    """One that no other run has, so that its attempts are told apart: all of 127/8 is this machine."""
    number = next(_addresses)
    return "127.0.0.1" if channel is Channel.OSCORE else f"127.{1 + (number >> 16)}.{number >> 8 & 255}.{number & 255}"

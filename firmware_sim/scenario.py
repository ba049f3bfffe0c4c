"""A scenario: which devices come, what befalls them, who attacks meanwhile, and what must hold in the end. From TOML.

`docs/scenarios.md` explains each key; one that is not known is an error that names it.
"""

import tomllib
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Self

import msgspec
from msgspec import Meta

from firmware_sim.credentials import Kind
from firmware_sim.errors import WrongUsage
from firmware_sim.proxy import Chance, Conditions, Seconds, over_datagrams
from firmware_sim.transports import MqttVersion, TransportName

Count = Annotated[int, Meta(ge=1)]
Share = Annotated[float, Meta(gt=0, le=1)]
Name = Annotated[str, Meta(pattern="^[a-z0-9][a-z0-9-]{0,31}$")]
SourceAddress = Annotated[str, Meta(pattern=r"^\d{1,3}\.\d{1,3}\.\d{1,3}\.\d{1,3}$")]

_BLYNK = (TransportName.BLYNK, TransportName.BLYNKS)
_WIFI = (
    *(TransportName.MQTT, TransportName.MQTTS, TransportName.HTTP, TransportName.HTTPS, TransportName.COAP),
    *_BLYNK,
)


class _Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A table of the file."""


class Brought(StrEnum):
    """How a group's devices come by credentials: a `Kind`, a certificate of the factory's, or over WiFi."""

    GENERATED = "generated"
    TOKEN = "token"  # noqa: S105 - the name of a kind
    BASIC = "basic"
    X509 = "x509"
    CSR = "csr"
    CHAIN = "chain"
    WIFI = "wifi"

    @property
    def kind(self) -> Kind | None:
        """What to ask with; None for those that do not ask."""
        return None if self in (Brought.CHAIN, Brought.WIFI) else Kind(self)


class Group(_Table, frozen=True, kw_only=True):
    """Devices that are alike. transports: taken in turn. rate: switched on a second, 0 for all at once.

    ramp: seconds in which the rate is reached. at: seconds after the beginning. telemetry: messages each; 0: connect
    alone; None: end once provisioned. interval: seconds between two. connect: by which transport, None for the one
    that provisioned it. clock_skew: seconds that clocks are wrong, at least and at most. address: of this machine,
    from which the server sees them come. mistakes: the chance of an owner to mistype the WiFi password at first.
    """

    name: Name
    count: Count
    transports: Annotated[tuple[TransportName, ...], Meta(min_length=1)] = (TransportName.HTTP,)
    credentials: Brought = Brought.GENERATED
    rate: Seconds = 0.0
    ramp: Seconds = 0.0
    at: Seconds = 0.0
    telemetry: Annotated[int, Meta(ge=0)] | None = None
    interval: Annotated[float, Meta(gt=0)] = 1.0
    connect: TransportName | None = None
    clock_skew: tuple[float, float] | None = None
    address: SourceAddress | None = None
    mqtt_version: MqttVersion = MqttVersion.V311
    mistakes: Chance = 0.0

    def __post_init__(self) -> None:
        if self.connect and self.telemetry is None:
            raise ValueError("connect goes with telemetry, 0 if they are to send nothing")
        if self.connect and self.credentials is Brought.CHAIN:
            raise ValueError("connect: a device with a certificate connects once, by one of transports")
        if self.mistakes and self.credentials is not Brought.WIFI:
            raise ValueError("mistakes are made with wifi")
        if self.credentials is Brought.WIFI:
            for way in self.transports:
                if way not in _WIFI:
                    raise ValueError(f"WiFi firmware does not speak {way}: {', '.join(_WIFI)}")
        if self.credentials.kind and (wrong := [way for way in self.transports if way in _BLYNK]):
            raise ValueError(f"nobody is provisioned by {wrong[0]}: name it in connect")
        if self.ramp and not self.rate:
            raise ValueError("ramp goes with a rate")
        if self.clock_skew and self.clock_skew[0] > self.clock_skew[1]:
            raise ValueError("clock_skew is [at least, at most], in seconds")
        if self.credentials in (Brought.X509, Brought.CSR, Brought.CHAIN) and self.connects:
            for way in (self.connect,) if self.connect else self.transports:
                if not way.by_certificate:
                    raise ValueError(f"a certificate opens no {way} connection: mqtts, https or coaps")
        if self.credentials is Brought.BASIC and self.connects:
            for way in (self.connect,) if self.connect else self.transports:
                if way not in (TransportName.MQTT, TransportName.MQTTS):
                    raise ValueError(f"MQTT basic credentials open no {way} connection: mqtt or mqtts")

    @property
    def connects(self) -> bool:
        """Whether devices do more than to be provisioned."""
        return self.telemetry is not None or self.credentials is Brought.CHAIN


class Crime(StrEnum):
    """What an attacker does."""

    GUESS = "guess"
    IMPERSONATE = "impersonate"
    CLONE = "clone"
    SLOW_LORIS = "slow-loris"


class Attack(_Table, frozen=True, kw_only=True):
    """Malicious devices. count: tries, or connections. victims: the group whose names or credentials they have.

    seconds: for which a slow-loris holds on to what the server does not close; interval: between two of its bytes.
    """

    kind: Crime
    count: Count
    name: Name | None = None
    victims: Name | None = None
    transports: Annotated[tuple[TransportName, ...], Meta(min_length=1)] = (TransportName.HTTP,)
    rate: Seconds = 0.0
    ramp: Seconds = 0.0
    at: Seconds = 0.0
    address: SourceAddress | None = None
    seconds: Annotated[float, Meta(gt=0)] = 30.0
    interval: Annotated[float, Meta(gt=0)] = 1.0

    def __post_init__(self) -> None:
        if (self.victims is None) is (self.kind in (Crime.IMPERSONATE, Crime.CLONE)):
            raise ValueError("victims, a group's name, goes with impersonate and clone, and these with it")
        if self.kind is Crime.SLOW_LORIS and (wrong := [way for way in self.transports if over_datagrams(way)]):
            raise ValueError(f"slow-loris needs connections, of which {wrong[0]} has none")
        if not {TransportName.OSCORE, *_BLYNK}.isdisjoint(self.transports):
            raise ValueError("attacks use http, mqtt, coap, https, mqtts or coaps")
        if self.ramp and not self.rate:
            raise ValueError("ramp goes with a rate")

    @property
    def title(self) -> str:
        """What the report calls it."""
        return self.name or self.kind


class PowerCut(_Table, frozen=True, kw_only=True):
    """A share of the devices is without power for some seconds; spread: over which it comes back, 0 for at once."""

    at: Seconds
    seconds: Seconds
    share: Share = 1.0
    spread: Seconds = 0.0
    groups: tuple[Name, ...] = ()


class NetworkCut(_Table, frozen=True, kw_only=True):
    """Nothing passes for some seconds: connections break, datagrams are lost. Then everybody comes back."""

    at: Seconds
    seconds: Seconds
    groups: tuple[Name, ...] = ()


class Limits(_Table, frozen=True, kw_only=True):
    """What must hold in the end: `…_min` at least, all others at most. None: whatever it is.

    failures: devices that were not provisioned, or lost their connection for good. breaches: attackers who were let in
    with what is not theirs. held: connections that a slow-loris still had in the end. Times: of provisioning, and of
    being let in, in milliseconds.
    """

    failures: int | None = 0
    duplicates: int | None = 0
    breaches: int | None = 0
    held: int | None = None
    p50_ms: float | None = None
    p90_ms: float | None = None
    p99_ms: float | None = None
    max_ms: float | None = None
    connect_p99_ms: float | None = None
    provisioned_min: int | None = None
    messages_min: int | None = None
    connections_min: int | None = None
    power_cuts_min: int | None = None
    refused_guesses_min: int | None = None
    rate_min: float | None = None


SPEEDS = frozenset(("p50_ms", "p90_ms", "p99_ms", "max_ms", "connect_p99_ms", "rate_min"))
"""Limits that hold for the scenario as it is written alone."""


class Scenario(_Table, frozen=True, kw_only=True):
    """All of it. concurrency: requests under way at once, of each group. attempts, timeout: as of the command's."""

    name: Annotated[str, Meta(min_length=1)]
    about: str = ""
    concurrency: Count = 64
    attempts: Count = 8
    timeout: Annotated[float, Meta(gt=0)] = 10.0
    group: Annotated[tuple[Group, ...], Meta(min_length=1)]
    attack: tuple[Attack, ...] = ()
    power_cut: tuple[PowerCut, ...] = ()
    network_cut: tuple[NetworkCut, ...] = ()
    network: Conditions = Conditions()
    limits: Limits = Limits()

    def __post_init__(self) -> None:
        names = [group.name for group in self.group]
        if len(set(names)) < len(names):
            raise ValueError("each group needs a name of its own")
        for named in (*(cut.groups for cut in self.power_cut), *(cut.groups for cut in self.network_cut)):
            _expect_known(named, names)
        for attack in self.attack:
            _expect_known((attack.victims,) if attack.victims else (), names)
        titles = [attack.title for attack in self.attack]
        if len(set(titles)) < len(titles):
            raise ValueError("attacks of one kind need names of their own")

    @classmethod
    def read(cls, path: Path) -> Self:
        """A file. Raises WrongUsage that names what is wrong in it."""
        try:
            text = path.read_text(encoding="utf-8")
        except OSError as error:
            raise WrongUsage(f"cannot read {path}: {error.strerror}") from None
        except UnicodeDecodeError:
            raise WrongUsage(f"{path} is not text in UTF-8") from None
        try:
            return cls.parse(text)
        except ValueError as error:
            raise WrongUsage(f"{path}: {error}") from None

    @classmethod
    def parse(cls, text: str) -> Self:
        """What a file says. Raises ValueError that names what is wrong."""
        try:
            return msgspec.convert(tomllib.loads(text), cls, strict=True)
        except msgspec.ValidationError as error:
            raise ValueError(f"{error}") from None

    def at_scale(self, scale: float, time_scale: float) -> "Scenario":
        """The same with so many times the devices and tries, and with times so many times as long.

        Rates follow, and the limits that count at least; those of speed hold no more.
        """
        if scale == time_scale == 1:
            return self

        def count(number: int) -> int:
            return max(1, round(number * scale))

        def paced(table: Any, **more: Any) -> Any:
            rate, at, ramp = table.rate * scale / time_scale, table.at * time_scale, table.ramp * time_scale
            return msgspec.structs.replace(table, count=count(table.count), rate=rate, at=at, ramp=ramp, **more)

        limits: dict[str, int | None] = {
            name: int(least * scale)
            for name, least in msgspec.structs.asdict(self.limits).items()
            if name.endswith("_min") and name not in SPEEDS and least is not None
        } | dict.fromkeys(SPEEDS)
        return msgspec.structs.replace(
            self,
            group=tuple(paced(group, interval=group.interval * time_scale) for group in self.group),
            attack=tuple(paced(attack) for attack in self.attack),
            power_cut=tuple(
                msgspec.structs.replace(
                    cut, at=cut.at * time_scale, seconds=cut.seconds * time_scale, spread=cut.spread * time_scale
                )
                for cut in self.power_cut
            ),
            network_cut=tuple(
                msgspec.structs.replace(cut, at=cut.at * time_scale, seconds=cut.seconds * time_scale)
                for cut in self.network_cut
            ),
            limits=msgspec.structs.replace(self.limits, **limits),
        )

    @property
    def transports(self) -> set[TransportName]:
        """All that are needed of the server."""
        ways = {way for group in self.group for way in group.transports}
        ways |= {way for attack in self.attack for way in attack.transports}
        return ways | {group.connect for group in self.group if group.connect}


def _expect_known(named: tuple[str, ...], groups: list[str]) -> None:
    for name in named:
        if name not in groups:
            raise ValueError(f"there is no group {name!r}, but {', '.join(groups)}")

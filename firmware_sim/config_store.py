"""What WiFi firmware remembers: classic firmware one packed structure, new firmware some named values.

Whatever is in the memory, garbage of a write that was cut included, reads as a configuration: a device must not stop
for it, or nobody could give it another.
"""

import asyncio
import ipaddress
import struct
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, Protocol

import msgspec

from firmware_sim import power
from firmware_sim.errors import FlashError
from firmware_sim.flash import replace_file

DEFAULT_HOST, DEFAULT_PORT, DEFAULT_VERSION = "blynk.cloud", 443, "0.1.0"
NO_TOKEN: Final = "invalid token"  # noqa: S105 - what firmware writes where it has none
TOKEN_LENGTH = 32

MAGIC: Final = 0x626C6E6B
_PACKED = struct.Struct("<I15sB34s64s34s34sH4s4s4s4s4si")
_VALID, _STATIC = 1, 2
_NOWHERE = "0.0.0.0"  # noqa: S104 - an address that was not given
_MOST_PORT = 0xFFFF


class WifiLogin(msgspec.Struct, frozen=True):
    """A network that the device was told of. password: never printed."""

    ssid: str
    password: str = ""

    def __repr__(self) -> str:
        return f"WifiLogin({self.ssid!r})"


class Static(msgspec.Struct, frozen=True):
    """Addresses that the device uses instead of those of DHCP, dotted."""

    ip: str = _NOWHERE
    mask: str = _NOWHERE
    gateway: str = _NOWHERE
    dns: str = _NOWHERE
    dns2: str = _NOWHERE


NOWHERE: Final = Static()


@dataclass(frozen=True, slots=True)
class Config:
    """How a device reaches its server. Classic firmware knows one network, and keeps the last error.

    valid: it was good for a login once. uses_static: whether `static` counts. skipped: how often nobody came to
    configure a device of new firmware. uid: its UUID, made at the first start.
    """

    networks: tuple[WifiLogin, ...] = ()
    token: str = field(default=NO_TOKEN, repr=False)
    host: str = DEFAULT_HOST
    port: int = DEFAULT_PORT
    valid: bool = False
    uses_static: bool = False
    static: Static = NOWHERE
    last_error: int = 0
    version: str = DEFAULT_VERSION
    skipped: int = 0
    uid: str = ""


class Store(Protocol):
    """Memory that keeps its content without power. After `write` returns, `read` gives that."""

    async def read(self) -> bytes:
        """What was written last; nothing for a new device. Raises FlashError."""

    async def write(self, content: bytes) -> None:
        """Replace everything. Raises FlashError."""


class VolatileStore:
    """Forgets everything at the end of the process. writes: how many there were."""

    def __init__(self, content: bytes = b"") -> None:
        self.content = content
        self.writes = 0

    async def read(self) -> bytes:
        """The last content."""
        return self.content

    async def write(self, content: bytes) -> None:
        """Replace it."""
        self.content = content
        self.writes += 1
        power.reached("flash written")


class FileStore:
    """A file, mode 0600, replaced atomically as a chip's key-value store does it. Its directory must exist."""

    def __init__(self, path: Path) -> None:
        self.path = path

    async def read(self) -> bytes:
        """The file's content; nothing if there is no file."""
        return await asyncio.to_thread(self._read)

    async def write(self, content: bytes) -> None:
        """Write, sync, rename."""
        await asyncio.to_thread(replace_file, self.path, content)

    def erase(self) -> None:
        """Back to how the device left the factory."""
        try:
            self.path.unlink(missing_ok=True)
        except OSError as error:
            raise FlashError(f"cannot erase {self.path}: {error.strerror}") from error

    def _read(self) -> bytes:
        try:
            return self.path.read_bytes()
        except FileNotFoundError:
            return b""
        except OSError as error:
            raise FlashError(f"cannot read {self.path}: {error.strerror}") from error


def pack(config: Config) -> bytes:
    """Classic firmware's structure, 212 bytes. What is too long is cut without a word."""
    wifi = config.networks[0] if config.networks else WifiLogin("")
    static = config.static
    return _PACKED.pack(
        MAGIC,
        _characters(config.version, 15),
        config.valid * _VALID | config.uses_static * _STATIC,
        _characters(wifi.ssid, 34),
        _characters(wifi.password, 64),
        _characters(config.token, 34),
        _characters(config.host, 34),
        config.port & _MOST_PORT,
        *(
            ipaddress.IPv4Address(text).packed
            for text in (static.ip, static.mask, static.gateway, static.dns, static.dns2)
        ),
        config.last_error,
    )


def unpack(content: bytes, version: str = DEFAULT_VERSION) -> Config:
    """What classic firmware makes of its memory: the configuration, or that of a new device. version: the image's."""
    if len(content) != _PACKED.size:
        return Config(version=version)
    magic, found, flags, ssid, password, token, host, port, *addresses, last_error = _PACKED.unpack(content)
    if magic != MAGIC:
        return Config(version=version)
    return Config(
        (WifiLogin(_text(ssid), _text(password)),) if _text(ssid) else (),
        _text(token),
        _text(host),
        port,
        bool(flags & _VALID),
        bool(flags & _STATIC),
        Static(*(str(ipaddress.IPv4Address(address)) for address in addresses)),
        last_error,
        _text(found),
    )


def cut(config: Config) -> Config:
    """What is left of it in classic firmware's structure: longer texts lose their ends."""
    return unpack(pack(config))


class _Values(msgspec.Struct, omit_defaults=True):
    """New firmware's, by the names that it gives them."""

    networks: list[WifiLogin] = []
    auth: str = NO_TOKEN
    host: str = DEFAULT_HOST
    cfgskip: int = 0
    uid: str = ""
    static: Static | None = None


def to_values(config: Config) -> bytes:
    """What new firmware keeps, as a JSON object."""
    static = config.static if config.uses_static else None
    values = _Values(list(config.networks), config.token, config.host, config.skipped, config.uid, static)
    return msgspec.json.encode(values)


def from_values(content: bytes, version: str = DEFAULT_VERSION) -> Config:
    """What new firmware makes of its memory. It takes a token of the right length for one that was good."""
    try:
        values = msgspec.json.decode(content, type=_Values)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return Config(version=version)
    config = Config(
        tuple(values.networks),
        values.auth,
        values.host,
        valid=len(values.auth) == TOKEN_LENGTH,
        version=version,
        skipped=values.cfgskip,
        uid=values.uid,
    )
    return replace(config, uses_static=True, static=values.static) if values.static else config


def _characters(text: str, size: int) -> bytes:
    """As many bytes as fit before the zero that ends them."""
    return text.encode(errors="surrogateescape")[: size - 1].partition(b"\0")[0]


def _text(characters: bytes) -> str:
    return characters.partition(b"\0")[0].decode(errors="surrogateescape")

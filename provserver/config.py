"""Configuration: defaults, then the file, then `PROVSERVER_…` in the environment, then the command line.

`config/provserver.toml` lists every option. An unknown one is an error that names it.
"""

import difflib
import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, get_type_hints

from provserver.errors import Misconfigured

PREFIX = "PROVSERVER_"
_NOT_OPTIONS = "PROVSERVER_TEST_"


@dataclass(frozen=True, slots=True)
class Config:
    """Every option. Listeners are "host:port" (port 0: any free one) or "" for none; times are seconds."""

    data_dir: Path = Path("provserver-data")
    database_url: str = ""
    database_connections: int = 8
    keys_file: str = ""
    http: str = "0.0.0.0:8080"
    mqtt: str = "0.0.0.0:1883"
    coap: str = "0.0.0.0:5683"
    ready_file: str = ""
    max_payload_size: int = 65_536
    request_timeout: float = 10.0
    drain_timeout: float = 10.0
    connect_timeout: float = 10.0
    idle_timeout: float = 120.0
    max_connections: int = 50_000
    log_level: str = "info"
    log_format: str = "auto"

    @property
    def keys_path(self) -> Path:
        """The keys file: the one named, else `keys.json` in the data directory."""
        return Path(self.keys_file) if self.keys_file else self.data_dir / "keys.json"


def load(
    file: Path | None = None,
    environment: Mapping[str, str] = os.environ,
    overrides: Mapping[str, object] | None = None,
) -> Config:
    """Merge all sources. overrides: command line options; those that are None were not given. Raises Misconfigured."""
    values: dict[str, Any] = {}
    if file is not None:
        try:
            content = tomllib.loads(file.read_text())
        except OSError as fault:
            raise Misconfigured(f"{file} cannot be read: {fault.strerror}.") from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as fault:
            raise Misconfigured(f"{file} is not valid TOML: {fault}.") from None
        for name, value in content.items():
            values[name] = _convert(name, value, str(file))
    for variable, text in environment.items():
        if variable.startswith(PREFIX) and not variable.startswith(_NOT_OPTIONS):
            name, value = _from_environment(variable, text)
            values[name] = _convert(name, value, variable)
    values.update({name: value for name, value in (overrides or {}).items() if value is not None})
    config = Config(**values)
    for listener in ("http", "mqtt", "coap"):
        if address := getattr(config, listener):
            split_address(address, listener)
    return config


def split_address(address: str, option: str = "address") -> tuple[str, int]:
    """Split "host:port" ("[::1]:80" for IPv6). Raises Misconfigured."""
    host, separator, port = address.rpartition(":")
    if not separator or not port.isdigit() or int(port) > 65_535 or not host:
        raise Misconfigured(f'{option}: {address!r} is not "host:port".')
    return host.removeprefix("[").removesuffix("]"), int(port)


def join_address(host: str, port: int) -> str:
    """The reverse of `split_address`."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _from_environment(variable: str, text: str) -> tuple[str, str]:
    name = variable.removeprefix(PREFIX).lower()
    if name.endswith("_file") and name not in _TYPES and name.removesuffix("_file") in _TYPES:
        try:
            return name.removesuffix("_file"), Path(text).read_text().strip()
        except OSError as fault:
            raise Misconfigured(f"{variable}: {text} cannot be read: {fault.strerror}.") from None
    return name, text


def _convert(name: str, value: object, source: str) -> object:
    wanted = _TYPES.get(name)
    if wanted is None:
        close = difflib.get_close_matches(name, _TYPES, n=1)
        raise Misconfigured(f"{source}: unknown option {name!r}." + (f" Did you mean {close[0]!r}?" if close else ""))
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise Misconfigured(f"{source}: option {name!r} must be a {wanted.__name__}.")
    try:
        return wanted(value)
    except ValueError:
        raise Misconfigured(f"{source}: option {name!r} must be a {wanted.__name__}.") from None


_TYPES: dict[str, Any] = {f.name: get_type_hints(Config)[f.name] for f in fields(Config)}

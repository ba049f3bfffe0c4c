"""Configuration: defaults, then the file, then `PROVSERVER_…` in the environment, then the command line.

`config/provserver.toml` lists every option. An unknown one is an error that names it.
"""

import difflib
import math
import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from ipaddress import ip_network
from pathlib import Path
from typing import Any, get_type_hints

from provserver.errors import Misconfigured

PREFIX = "PROVSERVER_"
_NOT_OPTIONS = ("PROVSERVER_TEST_", "PROVSERVER_SERVER", "PROVSERVER_API_KEY")  # those of commands, not of the server
LISTENERS = ("http", "mqtt", "coap", "https", "mqtts", "coaps", "blynk", "blynks")
"""The options that are addresses to listen on for devices."""

_ADDRESS = re.compile(r"(?:\[([^\[\]\s]*:[^\[\]\s]*)\]|([^\[\]:\s]+)):([0-9]{1,5})")
_WANTED = {bool: "true or false", int: "a whole number, 1 or more", float: "a number of seconds", Path: "a path"}


@dataclass(frozen=True, slots=True)
class Config:
    """Every option. Listeners are "host:port" (port 0: any free one) or "" for none; times are seconds."""

    data_dir: Path = Path("provserver-data")
    database_url: str = field(default="", repr=False)  # may hold a password
    database_connections: int = 8
    keys: str = field(default="", repr=False)
    keys_file: str = ""
    http: str = "0.0.0.0:8080"
    mqtt: str = "0.0.0.0:1883"
    coap: str = "0.0.0.0:5683"
    https: str = ""
    mqtts: str = ""
    coaps: str = ""
    blynk: str = ""
    blynks: str = ""
    blynk_redirect: str = ""
    admin: str = "127.0.0.1:8081"
    admin_hosts: str = ""
    admin_proxies: str = ""
    metrics: str = ""
    tls_certificate: str = ""
    tls_key: str = ""
    ready_file: str = ""
    workers: int = 1
    http_front: bool = True
    coap_front: bool = True
    max_payload_size: int = 65_536
    request_timeout: float = 10.0
    drain_timeout: float = 10.0
    connect_timeout: float = 10.0
    idle_timeout: float = 120.0
    max_connections: int = 50_000
    max_unauthenticated: int = 20_000
    max_unauthenticated_per_address: int = 5_000
    guess_limit: int = 20
    guess_interval: float = 3.0
    locked_interval: float = 0.2
    repeat_limit: int = 20
    repeat_interval: float = 10.0
    refusal_interval: float = 0.1
    address_interval: float = 0.0
    organization_interval: float = 0.0
    burning_interval: float = 0.1
    history_limit: int = 100
    online_period: float = 60.0
    attempt_retention: float = 7_776_000.0
    wifi_session_lifetime: float = 1_800.0
    sink_url: str = field(default="", repr=False)  # may hold a password
    sink_limit: int = 1_000_000
    outgoing_private: str = ""
    webhook_tries: int = 10
    webhook_give_up: float = 259_200.0
    event_retention: float = 604_800.0
    log_level: str = "info"
    log_format: str = "auto"

    @property
    def keys_path(self) -> Path:
        """The keys file: the one named, else `keys.json` in the data directory."""
        return Path(self.keys_file) if self.keys_file else self.data_dir / "keys.json"

    @property
    def audit_head_path(self) -> Path:
        """Where the server keeps the newest head of the audit, wherever the keys and the database are."""
        return self.data_dir / "audit-head.json"

    @property
    def set_up_path(self) -> Path:
        """Where the first start leaves the link by which the first user is made."""
        return self.data_dir / "setup-link"

    @property
    def certificate_path(self) -> Path:
        """The server's certificate: the one named, else what `provserver ca init` makes."""
        return Path(self.tls_certificate) if self.tls_certificate else self.data_dir / "tls" / "server.pem"

    @property
    def tls_key_path(self) -> Path:
        """The key of the certificate."""
        return Path(self.tls_key) if self.tls_key else self.data_dir / "tls" / "server.key"


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
        if values.get("keys"):
            raise Misconfigured(f"{file}: keys are given in the environment (PROVSERVER_KEYS), or name a keys_file.")
    for variable, text in environment.items():
        if variable.startswith(PREFIX) and not variable.startswith(_NOT_OPTIONS):
            name, value = _from_environment(variable, text)
            values[name] = _convert(name, value, variable)
    values.update({name: value for name, value in (overrides or {}).items() if value is not None})
    config = Config(**values)
    try:
        for proxy in filter(None, config.admin_proxies.split(",")):
            ip_network(proxy.strip())
    except ValueError as fault:
        raise Misconfigured(f"admin_proxies: {fault}; addresses or networks, with commas between.") from None
    for listener in (*LISTENERS, "admin", "metrics", "blynk_redirect"):
        if address := getattr(config, listener):
            split_address(address, listener)
    if config.blynk_redirect and not split_address(config.blynk_redirect)[1]:
        raise Misconfigured(f"blynk_redirect: {config.blynk_redirect!r} names no port that devices can connect to.")
    return config


def split_address(address: str, option: str = "address") -> tuple[str, int]:
    """Split "host:port" ("[::1]:80" for IPv6). Raises Misconfigured."""
    match = _ADDRESS.fullmatch(address)
    if match is None or int(match[3]) > 65_535:
        raise Misconfigured(f'{option}: {address!r} is not "host:port".')
    return match[1] or match[2], int(match[3])


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
        except UnicodeDecodeError:
            raise Misconfigured(f"{variable}: {text} cannot be read: it is not UTF-8.") from None
    return name, text


def _convert(name: str, value: object, source: str) -> object:
    wanted = _TYPES.get(name)
    if wanted is None:
        close = difflib.get_close_matches(name, _TYPES, n=1)
        raise Misconfigured(f"{source}: unknown option {name!r}." + (f" Did you mean {close[0]!r}?" if close else ""))
    try:
        if wanted is bool:
            return _truth(value)
        if wanted is Path:
            return _path(value)
        return _number(wanted, value) if wanted in _WANTED else wanted(_text(value))
    except ValueError:
        raise Misconfigured(f"{source}: option {name!r} must be {_WANTED.get(wanted, 'text')}.") from None


def _truth(value: object) -> bool:
    if isinstance(value, bool):
        return value
    try:
        return {"true": True, "false": False}[_text(value).lower()]
    except KeyError:
        raise ValueError from None


def _path(value: object) -> Path:
    if not (text := _text(value)):
        raise ValueError  # it would be the directory that one happens to be in
    return Path(text)


def _number(wanted: type[int] | type[float], value: object) -> int | float:
    if type(value) not in (str, int, wanted):
        raise ValueError
    number = wanted(str(value))
    if not math.isfinite(number) or number < (1 if wanted is int else 0):
        raise ValueError
    return number


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError  # noqa: TRY004 - both are the same fault
    return value


_TYPES: dict[str, Any] = {f.name: get_type_hints(Config)[f.name] for f in fields(Config)}

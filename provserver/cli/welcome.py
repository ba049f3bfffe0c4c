"""What the first start prints: a demo profile, and the lines that provision a device, ready to paste into any shell."""

import json
import shlex
import shutil
import sys
from pathlib import Path
from urllib.parse import urlsplit

from rich.console import Console

from provserver.config import Config, join_address, split_address
from provserver.core.model import ProvisionStrategy
from provserver.services.profiles import KeyPair, ProfileChange, Profiles

PROFILE = "demo"


async def greet(profiles: Profiles, addresses: dict[str, str], config: Config) -> None:
    """Make the demo profile when it is not there, and print how to use it."""
    if PROFILE not in {profile.name for profile in await profiles.all()}:
        await profiles.create(ProfileChange(name=PROFILE, strategy=ProvisionStrategy.ALLOW_CREATE_NEW_DEVICES))
    pairs = await profiles.secrets(PROFILE)
    if pairs:
        lines = _lines(pairs[0], {name: _local(address) for name, address in addresses.items()}, config)
        Console(highlight=False, soft_wrap=True).print("\n".join(lines), markup=False, emoji=False)


def _lines(pair: KeyPair, addresses: dict[str, str], config: Config) -> list[str]:
    def request(name: str) -> str:
        body = {"deviceName": name, "provisionDeviceKey": pair.key, "provisionDeviceSecret": pair.secret}
        return json.dumps(body, separators=(",", ":"), ensure_ascii=False)

    lines = ["", f"# Profile “{PROFILE}” is ready. Provision a device (each name once):", ""]
    if http := addresses.get("http"):
        lines += ["# HTTP", _line("curl", "-s", f"http://{http}/api/v1/provision", "-d", request("sensor-http")), ""]
    if mqtt := addresses.get("mqtt"):
        host, port = split_address(mqtt)
        server = ("-h", host, "-p", port, "-u", "provision", "-q", 1, "-t", "/provision/request")
        lines += [
            "# MQTT (the answer goes to the connection that asked, so one client asks and listens)",
            _line("mosquitto_rr", *server, "-e", "/provision/response", "-m", request("sensor-mqtt")),
            "# … or only ask, with mosquitto_pub, and read the credentials from the server",
            _line("mosquitto_pub", *server, "-m", request("sensor-pub")),
        ]
        if not urlsplit(config.database_url).password:  # which is nothing to print
            show = _line(*_program("provserver"), "device", "show", "sensor-pub", "--credentials", *_database(config))
            lines.append(_keys_file(config) + show)
        lines.append("")
    if coap := addresses.get("coap"):
        client = shutil.which("coap-client") or shutil.which("coap-client-notls") or "coap-client"
        url = f"coap://{coap}/api/v1/provision"
        lines += [
            "# CoAP",
            _line(Path(client).name, "-m", "post", "-t", "json", url, "-e", request("sensor-coap")),
            "",
        ]
    lines.append("# simulated devices, each with its flash in a file, that come back and send something")
    authority = config.certificate_path.with_name("ca.pem").absolute()
    for transport, address in addresses.items():
        if transport == "admin":
            continue
        name = f"sim-{transport}"
        asks = ("--transport", transport, "--server", address, "--key", pair.key, "--secret", pair.secret)
        does: tuple[object, ...] = ("--name", name, "--flash", f"{name}.json", "--telemetry", 1)
        if transport.endswith("s"):
            if not authority.exists():  # not of `ca init`: whom the device must trust is not ours to say
                continue
            does = ("--ca", authority, *does)
        lines.append(_line(*_program("firmware-sim"), "device", *asks, *does))
    if admin := addresses.get("admin"):
        lines += ["", f"# The web console is at http://{admin}/"]
        if config.set_up_path.exists():
            lines += [
                "# … for its first user there is a link, good for an hour:",
                _line("cat", config.set_up_path.absolute()),
            ]
    return [*lines, ""]


def _line(*words: object) -> str:
    return shlex.join(map(str, words))


def _program(name: str) -> tuple[str, ...]:
    """A program of ours as a shell finds it that knows nothing of our environment."""
    python = Path(sys.executable).absolute()  # not resolved: that would lead out of a virtual environment
    script = python.with_name(name)
    return (str(script),) if script.is_file() else (str(python), "-m", name.replace("-", "_"))


def _database(config: Config) -> tuple[str, ...]:
    """The options that lead to what is served: its keys, which are in the data directory, and its database."""
    url = ("--database-url", config.database_url) if config.database_url else ()
    return ("--data-dir", str(config.data_dir.absolute()), *url)


def _keys_file(config: Config) -> str:
    return f"PROVSERVER_KEYS_FILE={shlex.quote(str(config.keys_path.absolute()))} " if config.keys_file else ""


def _local(address: str) -> str:
    host, port = split_address(address)
    return join_address("127.0.0.1" if host in ("0.0.0.0", "::") else host, port)  # noqa: S104

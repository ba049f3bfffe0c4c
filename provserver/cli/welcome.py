"""What the first start prints: a demo profile, and the lines that provision a device, ready to paste."""

import shutil

from rich.console import Console

from provserver.config import join_address, split_address
from provserver.core.model import ProvisionStrategy
from provserver.services.profiles import KeyPair, ProfileChange, Profiles

PROFILE = "demo"


async def greet(profiles: Profiles, addresses: dict[str, str]) -> None:
    """Make the demo profile when it is not there, and print how to use it."""
    if PROFILE not in {profile.name for profile in await profiles.all()}:
        await profiles.create(ProfileChange(name=PROFILE, strategy=ProvisionStrategy.ALLOW_CREATE_NEW_DEVICES))
    pairs = await profiles.secrets(PROFILE)
    if pairs:
        console = Console(highlight=False, soft_wrap=True)
        console.print("\n".join(_lines(pairs[0], {name: _local(a) for name, a in addresses.items()})), markup=False)


def _lines(pair: KeyPair, addresses: dict[str, str]) -> list[str]:
    body = f'{{"deviceName":"NAME","provisionDeviceKey":"{pair.key}","provisionDeviceSecret":"{pair.secret}"}}'
    lines = ["", f"Profile “{PROFILE}” is ready. Provision a device (each name once):", ""]
    if http := addresses.get("http"):
        request = body.replace("NAME", "sensor-http")
        lines += ["# HTTP", f"curl -s http://{http}/api/v1/provision -d '{request}'", ""]
    if mqtt := addresses.get("mqtt"):
        host, port = split_address(mqtt)
        server = f"-h {host} -p {port} -u provision"
        topics = "-t /provision/request -e /provision/response"
        request = body.replace("NAME", "sensor-mqtt")
        lines += [
            "# MQTT (the answer goes to the connection that asked, so one client asks and listens)",
            f"mosquitto_rr {server} {topics} -m '{request}'",
            "# … or only ask, with mosquitto_pub, and read the credentials from the server",
            f"mosquitto_pub {server} -t /provision/request -m '{body.replace('NAME', 'sensor-pub')}'",
            "provserver device show sensor-pub --credentials",
            "",
        ]
    if coap := addresses.get("coap"):
        client = shutil.which("coap-client") or shutil.which("coap-client-notls")
        command = "coap-client" if client is None or client.endswith("coap-client") else "coap-client-notls"
        request = body.replace("NAME", "sensor-coap")
        lines += ["# CoAP", f"{command} -m post -t json coap://{coap}/api/v1/provision -e '{request}'", ""]
    for transport in ("http", "mqtt", "coap"):
        if address := addresses.get(transport):
            command = f"firmware-sim device --transport {transport} --server {address}"
            options = f"--key {pair.key} --secret {pair.secret} --name sim-1 --flash sim-1.json"
            lines += ["# a simulated device, with its flash in a file", f"{command} {options}", ""]
            break
    return lines


def _local(address: str) -> str:
    host, port = split_address(address)
    return join_address("127.0.0.1" if host in ("0.0.0.0", "::") else host, port)  # noqa: S104

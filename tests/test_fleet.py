"""A fleet of simulated devices against a server process, from the command line to the database."""

import json
import subprocess
import sys
from collections import Counter

from tests.server import Server

COUNT = 2_000


def test_two_thousand_devices_on_mixed_transports_are_provisioned_once_each(server: Server) -> None:
    pair = server.cli("profile", "create", "fleet")
    command = [sys.executable, "-m", "firmware_sim", "fleet", "--count", str(COUNT), "--transport", "mix", "--json"]
    command += [f"--{name}={address}" for name, address in server.devices.items()]
    command += ["--key", pair["provisionDeviceKey"], "--name-prefix", "fleet"]
    secret = {"FIRMWARE_SIM_SECRET": pair["provisionDeviceSecret"]}
    done = subprocess.run(command, env=server.env | secret, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-2000:] + done.stdout[-2000:]
    report = json.loads(done.stdout)
    assert report["provisioned"] == COUNT
    devices = server.cli("device", "list", "--profile", "fleet")
    assert Counter(device["provisionState"] for device in devices) == {"provisioned": COUNT}
    assert len({device["name"] for device in devices}) == COUNT
    assert pair["provisionDeviceSecret"] not in server.log

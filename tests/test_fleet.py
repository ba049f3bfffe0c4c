"""A fleet of simulated devices against a server process, from the command line to the database."""

import json
from collections import Counter

from tests import processes
from tests.server import Server

COUNT = 2_000


def test_two_thousand_devices_on_mixed_transports_are_provisioned_once_each(server: Server) -> None:
    pair = server.cli("profile", "create", "fleet")
    words = ["fleet", "--count", str(COUNT), "--transport", "mix", "--json"]
    words += [f"--{name}={address}" for name, address in server.devices.items()]
    words += ["--key", pair["provisionDeviceKey"], "--name-prefix", "fleet"]
    secret = {"FIRMWARE_SIM_SECRET": pair["provisionDeviceSecret"]}
    done = processes.firmware_sim().run(words, server.env | secret, None, 300)
    assert done.returncode == 0, done.stderr[-2000:] + done.stdout[-2000:]
    report = json.loads(done.stdout)
    assert report["provisioned"] == COUNT
    devices = server.cli("device", "list", "--profile", "fleet")
    assert Counter(device["provisionState"] for device in devices) == {"provisioned": COUNT}
    assert len({device["name"] for device in devices}) == COUNT
    assert pair["provisionDeviceSecret"] not in server.log

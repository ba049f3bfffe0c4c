"""`make demo`: a server, a fleet of simulated devices on all three protocols, and the table of what they got."""

import subprocess
import sys
import tempfile
from pathlib import Path

from tests.server import Server

COUNT = 30


def main() -> int:
    """Run the demo; returns the fleet's exit code, 0 only if every device got its credentials."""
    with tempfile.TemporaryDirectory(prefix="provserver-demo-") as directory:
        with Server(Path(directory) / "data", fresh=True) as server:
            profile = server.cli("profile", "create", "demo")
            addresses = [f"--{name}={address}" for name, address in server.devices.items()]
            command = [sys.executable, "-m", "firmware_sim", "fleet", "--count", str(COUNT), "--transport", "mix"]
            command += [*addresses, "--key", profile["provisionDeviceKey"]]
            secret = {"FIRMWARE_SIM_SECRET": profile["provisionDeviceSecret"]}
            done = subprocess.run(command, env=server.env | secret, check=False)
            listed = server.run("device", "list")
        sys.stdout.write("\n" + listed.stdout)
        return done.returncode or listed.returncode


if __name__ == "__main__":
    sys.exit(main())

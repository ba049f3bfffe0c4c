"""What `serve --demo` prints can be pasted into a shell, and provisions."""

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from provserver.cli.welcome import PROFILE
from tests.server import Server


def pasted(text: str, first_word: str) -> list[str]:
    """The words of the printed line that begins so, as a shell reads them."""
    (line,) = (line for line in text.splitlines() if re.match(rf"{first_word}\b", line))
    return shlex.split(line)


def test_every_line_provisions_a_device(tmp_path: Path, tool: Callable[..., str]) -> None:
    for program in ("curl", "mosquitto_rr", "mosquitto_pub"):
        tool(program)
    tool("coap-client-notls", "coap-client")
    with Server(tmp_path / "data", "--demo") as server:
        printed = server.log
        for program in ("curl", "mosquitto_rr", "coap-client"):
            done = subprocess.run(pasted(printed, program), capture_output=True, text=True, timeout=60, check=True)
            assert json.loads(done.stdout)["status"] == "SUCCESS"
        simulator = [sys.executable, "-m", *pasted(printed.replace("firmware-sim", "firmware_sim"), "firmware_sim")]
        subprocess.run(simulator, cwd=tmp_path, capture_output=True, timeout=60, check=True)
        names = {device["name"] for device in server.cli("device", "list", "--profile", PROFILE)}
        assert names == {"sensor-http", "sensor-mqtt", "sensor-coap", "sim-1"}
        subprocess.run(pasted(printed, "mosquitto_pub"), capture_output=True, timeout=60, check=True)
        server.stop()
        server.start()
        assert server.log.count(f"Profile “{PROFILE}” is ready") == 2
        names = {device["name"] for device in server.cli("device", "list", "--profile", PROFILE)}
        assert "sensor-pub" in names
        (profile,) = server.cli("profile", "list")
        assert profile["name"] == PROFILE

"""Ten thousand clients connect and say nothing."""

import json
import resource
import socket
import urllib.request
from pathlib import Path

from tests.server import Server

COUNT = 10_000


def test_ten_thousand_idle_sockets_stop_nobody_and_are_closed(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    idle: list[socket.socket] = []
    try:
        with Server(tmp_path / "data", env={"PROVSERVER_CONNECT_TIMEOUT": "5"}) as server:
            pair = server.cli("profile", "create", "sensors")
            for address in (server.http, server.mqtt):
                host, port = address.split(":")
                idle += [socket.create_connection((host, int(port)), timeout=60) for _ in range(COUNT // 2)]
            body = {name: pair[name] for name in ("provisionDeviceKey", "provisionDeviceSecret")}
            request = urllib.request.Request(
                f"http://{server.http}/api/v1/provision", json.dumps(body).encode(), method="POST"
            )
            with urllib.request.urlopen(request, timeout=60) as response:
                assert json.load(response)["status"] == "SUCCESS"
            for each in idle:
                assert each.recv(1) == b""
            assert "Traceback" not in server.log
            assert '"level": "error"' not in server.log
    finally:
        for each in idle:
            each.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

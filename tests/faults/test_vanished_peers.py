"""CoAP clients that are gone before their answer comes: the kernel reports each to the server as an error."""

import json
import os
import socket
import subprocess
from collections.abc import Callable

from tests.server import Server

HEADER = bytes.fromhex("41020000") + b"\x01"  # CON POST, a token of one byte
PATH = b"\xb3api\x02v1\x09provision\xff"


def test_the_listener_hears_others_after_clients_that_closed_their_ports(
    server: Server, tool: Callable[..., str]
) -> None:
    client = tool("coap-client-notls", "coap-client")
    pair = server.cli("profile", "create", "vanished")
    host, port = server.coap.split(":")
    for _ in range(20):
        with socket.socket(type=socket.SOCK_DGRAM) as vanishing:
            vanishing.connect((host, int(port)))
            # An id of its own: what is lent this port later would be told what this one was told.
            vanishing.send(HEADER[:2] + os.urandom(2) + HEADER[4:] + PATH + b"{}")
    body = json.dumps({name: pair[name] for name in ("provisionDeviceKey", "provisionDeviceSecret")})
    command = [client, "-m", "post", f"coap://{server.coap}/api/v1/provision", "-e", body, "-B", "60"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=90, check=True)
    assert json.loads(done.stdout)["status"] == "SUCCESS"

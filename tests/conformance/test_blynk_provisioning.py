"""blynk-provisioning, a device's side of Blynk.Inject as the package index has it, is set up by our phone's side."""

import asyncio
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from provserver.adapters.ble_inject import BleInject, ble_inject
from provserver.core.board import Generation, Report
from provserver.core.edgent import Settings
from tests.conformance.test_sdk import SDK

TOKEN = "Zt4hYq8sWb2nLk6vRc1xMd9fPg3jTe7u"

# What it is built on is the machine's: BlueZ, which carries its messages, and NetworkManager, which joins networks.
PROGRAM = """
import asyncio, json
from types import SimpleNamespace
from blynk_provisioning import _ble

PASSWORDS = {"Home": "right", "Café": None}
STRENGTHS = {"Home": 100, "Café": 60}
heard = []

def answers(value):
    async def call(*_):
        return value
    return call

async def activate(settings, device, _):
    ssid = settings["802-11-wireless"]["ssid"].value.decode()
    psk = settings.get("802-11-wireless-security", {}).get("psk")
    right = ssid in PASSWORDS and (psk.value if psk else None) == PASSWORDS[ssid]
    code = _ble.NM_DEVICE_STATE_ACTIVATED if right else _ble.NM_DEVICE_STATE_FAILED
    reason = _ble.NM_DEVICE_STATE_REASON_NO_SECRETS if ssid in PASSWORDS else _ble.NM_DEVICE_STATE_REASON_SSID_NOT_FOUND
    heard[-1](code, 0, reason)

def interface(path, name):
    if name == _ble.NM_AP_IFACE:
        ssid = path.removeprefix("/ap/")
        return SimpleNamespace(
            get_ssid=answers(ssid.encode()), get_strength=answers(STRENGTHS[ssid]), get_frequency=answers(2437),
            get_hw_address=answers("02:00:00:00:00:01"), get_flags=answers(0), get_wpa_flags=answers(0),
            get_rsn_flags=answers(256 if PASSWORDS[ssid] else 0),
        )
    return {
        _ble.NM_IFACE: SimpleNamespace(
            call_get_devices=answers(["/wifi"]), call_add_and_activate_connection=activate
        ),
        _ble.NM_DEVICE_IFACE: SimpleNamespace(
            get_device_type=answers(_ble.NM_DEVICE_TYPE_WIFI), get_state=answers(30),
            get_hw_address=answers("AA:BB:CC:DD:EE:FF"),
            on_state_changed=heard.append, off_state_changed=heard.remove,
        ),
        _ble.NM_WIRELESS_IFACE: SimpleNamespace(
            call_request_scan=answers(None), call_get_all_access_points=answers(["/ap/Home", "/ap/Café"])
        ),
        _ble.NM_SETTINGS_IFACE: SimpleNamespace(call_list_connections=answers([])),
    }[name]

BUS = SimpleNamespace(
    introspect=answers(None),
    get_proxy_object=lambda _, path, __: SimpleNamespace(get_interface=lambda name: interface(path, name)),
)

async def main():
    identity = SimpleNamespace(
        vendor_prefix="Blynk", template_id="TMPL2feLBENZh", template_name="Meter", auth_token=None,
        server="blynk.cloud", assigned_template_id=None, save=lambda: None,
    )
    session = _ble.ProvisioningSession(identity, fw_version="1.2.3", fw_type="TMPL2feLBENZh")
    session.bus = BUS
    over = asyncio.Event()

    async def phone(reader, writer):
        def notify(message):
            data = json.dumps(message).encode()
            writer.write(len(data).to_bytes(2, "big") + data)
        session.service.send = notify
        try:
            while True:
                size = int.from_bytes(await reader.readexactly(2), "big")
                session._on_rx(await reader.readexactly(size))
        except asyncio.IncompleteReadError:
            pass
        writer.close()
        over.set()

    server = await asyncio.start_server(phone, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await over.wait()
    print(json.dumps([identity.auth_token, identity.server]))

_ble.NM_SCAN_GRACE_PERIOD = 0
asyncio.run(main())
"""


@asynccontextmanager
async def device(said: list[object]) -> AsyncIterator[BleInject]:
    """A phone at the library's device; said: what that holds in the end."""
    if not SDK.exists():
        message = "the library is not installed: make sdk"
        pytest.fail(message) if os.environ.get("PROVSERVER_TEST_REQUIRE_TOOLS") else pytest.skip(message)
    program = await asyncio.create_subprocess_exec(
        SDK, "-c", PROGRAM, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    assert program.stdout is not None
    try:
        port = await program.stdout.readline()
        if not port:
            pytest.fail((await program.communicate())[1].decode())
        async with ble_inject("127.0.0.1", int(port), patience=60) as way:
            yield way
        printed, _ = await program.communicate()
        said += json.loads(printed)
    finally:
        if program.returncode is None:
            program.kill()
            await program.wait()


async def test_it_is_given_its_wifi_and_a_token_after_a_wrong_password() -> None:
    said: list[object] = []
    async with device(said) as way:
        board = await way.board()
        networks = await way.networks()
        outcomes = []
        for ssid, password in (("Home", "wrong"), ("Elsewhere", ""), ("Home", "right")):
            await way.configure(Settings(TOKEN, "iot.example.com", 8443, ssid, password))
            outcomes.append(await way.outcome())

    assert (board.template_id, board.firmware_version, board.generation) == (
        "TMPL2feLBENZh",
        "1.2.3",
        Generation.EDGENT,
    )
    assert board.name.startswith("Blynk Meter-")
    assert [(each.ssid, each.rssi, each.security, each.channel) for each in networks] == [
        ("Home", -50, "WPA2", 6),
        ("Café", -70, "OPEN", 6),
    ]
    assert outcomes == [Report(False, 722), Report(False, 720), Report(online=True)]
    assert said == [TOKEN, "iot.example.com"]

"""What applications of The Things Stack are sent, by MQTT and webhook alike."""

import base64
import secrets
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from tests.support.things_stack_schema import Message


def up(device: Message, application_id: str, device_id: str) -> Message:
    """The part that all have. device: as the Application Server keeps it."""
    euis = {name: value for name, value in device["ids"].items() if name.endswith("_eui")}
    ids = {"device_id": device_id, "application_ids": {"application_id": application_id}} | euis
    return {
        "end_device_ids": ids | {"dev_addr": "260B0001"},
        "correlation_ids": [f"gs:uplink:{secrets.token_hex(13)}"],
        "received_at": now(),
    }


def uplink_message(
    f_port: int,
    f_cnt: int,
    payload: bytes,
    decoded: Mapping[str, Any] | None,
    gateways: Sequence[tuple[float, float]],
    tenant: str,
) -> Message:
    """An uplink. gateways: (RSSI in dBm, SNR in dB) of each that heard it."""
    message: Message = {
        "session_key_id": encoded(b"session"),
        "f_port": f_port,
        "f_cnt": f_cnt,
        "frm_payload": encoded(payload),
        "rx_metadata": [_heard(n, rssi, snr) for n, (rssi, snr) in enumerate(gateways)],
        "settings": {
            "data_rate": {"lora": {"bandwidth": 125000, "spreading_factor": 7, "coding_rate": "4/5"}},
            "frequency": "868100000",
            "timestamp": 2_463_457_000,
        },
        "received_at": now(),
        "consumed_airtime": "0.051456s",
        "network_ids": {"net_id": "000013", "tenant_id": tenant},
    }
    return message if decoded is None else message | {"decoded_payload": dict(decoded)}


def join_accept() -> Message:
    """A join."""
    return {"session_key_id": encoded(b"session"), "received_at": now()}


def encoded(value: bytes) -> str:
    """Bytes as JSON has them there, but for EUIs, addresses and keys."""
    return base64.b64encode(value).decode()


def now() -> str:
    """As all times are written there."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _heard(number: int, rssi: float, snr: float) -> Message:
    ids = {"gateway_id": f"gateway-{number}", "eui": f"{0xB827EB0000000000 + number:016X}"}
    return {"gateway_ids": ids, "timestamp": 2_463_457_000, "rssi": rssi, "channel_rssi": rssi, "snr": snr}

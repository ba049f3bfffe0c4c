"""The Network Server's side of the air: Semtech's UDP protocol, and whom the registered root keys let in (TS001).

It knows a device only by what the four components of `ThingsStack` keep. Written apart from firmware_sim, with which it
shares no line: what one of the two gets wrong, the other does not understand.
"""

import asyncio
import base64
import json
import struct
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any, Self

from cryptography.hazmat.primitives import cmac
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from tests.support import things_stack_schema as schema
from tests.support.things_stack import Component, ThingsStack

NET_ID = bytes.fromhex("000013")
FREQUENCIES = (867_100_000, 867_300_000, 867_500_000, 867_700_000, 867_900_000)
REKEY = bytes([0x0B, 0x01])
JOIN_DELAY = 5_000_000


@dataclass(frozen=True, slots=True)
class Join:
    """A device that was let in. address: eight digits."""

    application_id: str
    device_id: str
    dev_eui: str
    address: str


@dataclass(frozen=True, slots=True)
class Uplink:
    """What a device sent, decrypted."""

    application_id: str
    device_id: str
    f_port: int
    f_cnt: int
    payload: bytes


@dataclass(frozen=True, slots=True)
class Refused:
    """A frame that was not taken. dev_eui: "" for one that names only an address."""

    dev_eui: str
    reason: str


@dataclass(slots=True)
class _Session:
    key: tuple[str, str]
    application: bytes
    forwarding: bytes
    serving: bytes
    encrypting: bytes
    new: bool
    f_cnt: int = -1


@dataclass(slots=True)
class _Joins:
    """Of a device: what it has asked with, and the JoinNonces that it was given."""

    dev_nonces: set[int] = field(default_factory=set)
    given: int = 0


class GatewayServer(asyncio.DatagramProtocol):
    """Takes gateways on UDP. refused: what was not let in; errors: what should not have happened at all."""

    def __init__(self, stack: ThingsStack) -> None:
        self.joins: list[Join] = []
        self.uplinks: list[Uplink] = []
        self.refused: list[Refused] = []
        self.errors: list[str] = []
        self.transmitted: list[str] = []
        self._stack = stack
        self._sessions: dict[bytes, _Session] = {}
        self._history: dict[tuple[str, str], _Joins] = {}
        self._gateways: dict[bytes, tuple[Any, ...]] = {}
        self._transport: asyncio.DatagramTransport | None = None
        self._changed = asyncio.Condition()
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._transport, _ = await loop.create_datagram_endpoint(lambda: self, local_addr=("127.0.0.1", 0))
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._transport is not None
        self._transport.close()
        await asyncio.gather(*self._tasks)

    @property
    def address(self) -> str:
        """Where gateways find it."""
        assert self._transport is not None
        return f"127.0.0.1:{self._transport.get_extra_info('sockname')[1]}"

    async def seen(self, *, joins: int = 0, uplinks: int = 0, refused: int = 0) -> None:
        """Returns once there were as many."""

        def there() -> bool:
            return len(self.joins) >= joins and len(self.uplinks) >= uplinks and len(self.refused) >= refused

        async with self._changed:
            await self._changed.wait_for(there)

    # Gateways

    def datagram_received(self, data: bytes, address: tuple[Any, ...]) -> None:
        if len(data) < 12 or data[0] != 2:
            self.errors.append("a datagram of no gateway")
            return
        token, kind, eui, body = data[1:3], data[3], data[4:12], data[12:]
        assert self._transport is not None
        if kind == 2:  # PULL_DATA: downlinks go there
            self._gateways[eui] = address
            self._transport.sendto(b"\x02" + token + b"\x04", address)
        elif kind == 0:  # PUSH_DATA
            self._transport.sendto(b"\x02" + token + b"\x01", address)
            for packet in json.loads(body).get("rxpk", ()):
                self._spawn(self._heard(eui, packet))
        elif kind == 5:  # TX_ACK
            self.transmitted.append(json.loads(body)["txpk_ack"]["error"])
        else:
            self.errors.append(f"a datagram of kind {kind}")

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _heard(self, gateway: bytes, packet: dict[str, Any]) -> None:
        frame = base64.b64decode(packet["data"], validate=True)
        if packet["stat"] != 1 or packet["modu"] != "LORA" or packet["size"] != len(frame):
            self.errors.append("a packet that does not fit")
            return
        try:
            if frame[0] == 0x00:
                await self._join(gateway, packet, frame)
            elif frame[0] == 0x40:
                await self._data(packet, frame)
            else:
                raise _Refusal("", f"message type {frame[0]:#x}")
        except _Refusal as refusal:
            self.refused.append(Refused(refusal.dev_eui, refusal.reason))
        async with self._changed:
            self._changed.notify_all()

    def _transmit(self, gateway: bytes, packet: dict[str, Any], frame: bytes) -> None:
        sent = {
            "imme": False,
            "tmst": (packet["tmst"] + JOIN_DELAY) & 0xFFFFFFFF,
            "freq": packet["freq"],
            "rfch": 0,
            "powe": 14,
            "modu": "LORA",
            "datr": packet["datr"],
            "codr": packet["codr"],
            "ipol": True,
            "ncrc": True,
            "size": len(frame),
            "data": base64.b64encode(frame).decode(),
        }
        assert self._transport is not None
        body = json.dumps({"txpk": sent}).encode()
        self._transport.sendto(b"\x02\x00\x00\x03" + body, self._gateways[gateway])

    # Joins

    async def _join(self, gateway: bytes, packet: dict[str, Any], frame: bytes) -> None:
        if len(frame) != 23:
            raise _Refusal("", "no join request")
        join_eui, dev_eui = frame[8:0:-1].hex().upper(), frame[16:8:-1].hex().upper()
        dev_nonce = int.from_bytes(frame[17:19], "little")
        key, root, version = self._registered(join_eui, dev_eui)
        new = version == "MAC_V1_1"
        app_key = bytes.fromhex(str(schema.get(root, "root_keys.app_key.key") or ""))
        nwk_key = bytes.fromhex(str(schema.get(root, "root_keys.nwk_key.key") or ""))
        signing = nwk_key if new else app_key
        if not signing:
            raise _Refusal(dev_eui, "no root key")
        if _mic(signing, frame[:-4]) != frame[-4:]:
            raise _Refusal(dev_eui, "MIC")
        history = self._history.setdefault(key, _Joins())
        counted = version in ("MAC_V1_0_4", "MAC_V1_1")
        if dev_nonce in history.dev_nonces or (counted and dev_nonce < max(history.dev_nonces, default=-1)):
            raise _Refusal(dev_eui, "DevNonce")
        history.dev_nonces.add(dev_nonce)
        history.given += 1
        address = bytes.fromhex("260B0000")[:2] + struct.pack(">H", len(self._sessions) + 1)
        join_nonce = history.given.to_bytes(3, "little")
        list_ = b"".join((each // 100).to_bytes(3, "little") for each in FREQUENCIES) + b"\0"
        plain = join_nonce + NET_ID[::-1] + address[::-1] + bytes([0x80 if new else 0, 5]) + list_
        signed = b"\x20" + plain
        nonce = struct.pack("<H", dev_nonce)
        if new:
            integrity = _block(nwk_key, bytes([6]) + bytes.fromhex(dev_eui)[::-1])
            mic = _mic(integrity, b"\xff" + bytes.fromhex(join_eui)[::-1] + nonce + signed)
            seed = join_nonce + bytes.fromhex(join_eui)[::-1] + nonce
            forwarding, serving, encrypting = (_block(nwk_key, bytes([tag]) + seed) for tag in (1, 3, 4))
        else:
            mic = _mic(app_key, signed)
            seed = join_nonce + NET_ID[::-1] + nonce
            forwarding = serving = encrypting = _block(app_key, bytes([1]) + seed)
        application = _block(app_key, bytes([2]) + seed)
        self._sessions[address] = _Session(key, application, forwarding, serving, encrypting, new)
        self._transmit(gateway, packet, b"\x20" + _decrypted(signing, plain + mic))
        self.joins.append(Join(*key, dev_eui, address.hex().upper()))
        await self._publish(self._stack.joined(*key))

    def _registered(self, join_eui: str, dev_eui: str) -> tuple[tuple[str, str], dict[str, Any], str]:
        """The device's ids, what the Join Server has of it, and its LoRaWAN version. Raises _Refusal."""
        _, network = self._find(Component.NS, join_eui, dev_eui)
        if not network.get("supports_join"):
            raise _Refusal(dev_eui, "supports_join")
        if not network.get("frequency_plan_id") or not network.get("lorawan_phy_version"):
            raise _Refusal(dev_eui, "no band")
        key, root = self._find(Component.JS, join_eui, dev_eui)
        return key, root, str(network.get("lorawan_version"))

    def _find(self, component: Component, join_eui: str, dev_eui: str) -> tuple[tuple[str, str], dict[str, Any]]:
        for key, device in self._stack.devices[component].items():
            if (device["ids"].get("join_eui"), device["ids"].get("dev_eui")) == (join_eui, dev_eui):
                return key, device
        raise _Refusal(dev_eui, f"unknown to {component}")

    # Data

    async def _data(self, packet: dict[str, Any], frame: bytes) -> None:
        address, options = frame[4:0:-1], frame[5] & 0x0F
        f_cnt = int.from_bytes(frame[6:8], "little")
        session = self._sessions.get(address)
        if session is None:
            raise _Refusal("", "address")
        first = b"\x49" + bytes(4) + b"\0" + address[::-1] + struct.pack("<I", f_cnt) + bytes([0, len(frame) - 4])
        forwarding = _mic(session.forwarding, first + frame[:-4])
        if session.new:
            tags = bytes([0, 0, 5, packet["chan"]])  # SF7BW125 of EU868 is data rate 5
            serving = _mic(session.serving, first[:1] + tags + first[5:] + frame[:-4])
            expected = serving[:2] + forwarding[:2]
        else:
            expected = forwarding
        if frame[-4:] != expected:
            raise _Refusal("", "MIC")
        if f_cnt <= session.f_cnt:
            raise _Refusal("", "frame count")
        command = _stream(session.encrypting, address, f_cnt, frame[8 : 8 + options], 1)
        if session.new and command != REKEY:
            raise _Refusal("", "RekeyInd")
        session.f_cnt = f_cnt
        f_port = frame[8 + options]
        payload = _stream(session.application, address, f_cnt, frame[9 + options : -4], 0)
        self.uplinks.append(Uplink(*session.key, f_port, f_cnt, payload))
        if session.key not in self._stack.devices[Component.AS]:
            raise _Refusal("", "unknown to as")
        heard = ((float(packet["rssi"]), float(packet["lsnr"])),)
        await self._publish(
            self._stack.uplink(*session.key, f_port=f_port, payload=payload, gateways=heard, f_cnt=f_cnt)
        )

    async def _publish(self, document: dict[str, Any]) -> None:
        if self._stack.publishing:
            await self._stack.publish(document)


class _Refusal(Exception):  # noqa: N818
    def __init__(self, dev_eui: str, reason: str) -> None:
        super().__init__(reason)
        self.dev_eui = dev_eui
        self.reason = reason


def _mic(key: bytes, message: bytes) -> bytes:
    code = cmac.CMAC(algorithms.AES(key))
    code.update(message)
    return code.finalize()[:4]


def _cipher(key: bytes) -> "Cipher[modes.ECB]":
    return Cipher(algorithms.AES(key), modes.ECB())


def _block(key: bytes, start: bytes) -> bytes:
    return _cipher(key).encryptor().update(start.ljust(16, b"\0"))


def _decrypted(key: bytes, blocks: bytes) -> bytes:
    return _cipher(key).decryptor().update(blocks)


def _stream(key: bytes, address: bytes, f_cnt: int, data: bytes, kind: int) -> bytes:
    made = bytearray()
    for start in range(0, len(data), 16):
        counter = bytes([1, 0, 0, 0, kind, 0]) + address[::-1] + struct.pack("<I", f_cnt) + bytes([0, start // 16 + 1])
        made += bytes(a ^ b for a, b in zip(data[start : start + 16], _block(key, counter), strict=False))
    return bytes(made)

"""A gateway's packet forwarder: Semtech's UDP protocol, version 2, as LoRaWAN network servers speak it."""

import asyncio
import base64
import json
import secrets
from types import TracebackType
from typing import Any, Self

from firmware_sim.address import Address
from firmware_sim.errors import BadReply, NoAnswer

VERSION = 2
PUSH_DATA, PUSH_ACK, PULL_DATA, PULL_RESP, PULL_ACK, TX_ACK = range(6)

_HEAD = 4
_DATA_RATE = "SF7BW125"


class Forwarder(asyncio.DatagramProtocol):
    """One gateway. eui: eight bytes; timeout, window: seconds to wait for an acknowledgement, for a downlink.

    rssi (dBm), snr (dB): at which it hears what is in the air.
    """

    def __init__(
        self,
        server: Address,
        eui: bytes,
        timeout: float,
        *,
        window: float | None = None,
        rssi: int = -60,
        snr: float = 9.5,
    ) -> None:
        self._server = server
        self._eui = eui
        self._timeout = timeout
        self._window = timeout if window is None else window
        self._rssi = rssi
        self._snr = snr
        self._transport: asyncio.DatagramTransport | None = None
        self._acks: dict[tuple[int, bytes], asyncio.Future[None]] = {}
        self._downlinks: asyncio.Queue[bytes | NoAnswer] = asyncio.Queue()
        self._clock = 0

    async def __aenter__(self) -> Self:
        """Tell the server where downlinks go. Raises NoAnswer."""
        loop = asyncio.get_running_loop()
        try:
            remote = (self._server.host, self._server.port)
            self._transport, _ = await loop.create_datagram_endpoint(lambda: self, remote_addr=remote)
        except OSError as error:
            raise NoAnswer.because(error, self._timeout) from None
        try:
            await self._acknowledged(PULL_DATA, PULL_ACK, b"")
        except BaseException:
            self._transport.close()
            raise
        return self

    async def __aexit__(
        self, _type: type[BaseException] | None, _fault: BaseException | None, _trace: TracebackType | None
    ) -> None:
        if self._transport is not None:
            self._transport.close()

    async def heard(self, frame: bytes) -> None:
        """Hand a frame from the air to the server. Raises NoAnswer."""
        while not self._downlinks.empty():
            self._downlinks.get_nowait()  # for what was asked before
        self._clock += 10_000_000
        packet = {
            "tmst": self._clock & 0xFFFFFFFF,
            "freq": 868.1,
            "chan": 0,
            "rfch": 0,
            "stat": 1,
            "modu": "LORA",
            "datr": _DATA_RATE,
            "codr": "4/5",
            "rssi": self._rssi,
            "lsnr": self._snr,
            "size": len(frame),
            "data": base64.b64encode(frame).decode(),
        }
        await self._acknowledged(PUSH_DATA, PUSH_ACK, json.dumps({"rxpk": [packet]}).encode())

    async def downlink(self) -> bytes:
        """The next frame to send into the air. Raises NoAnswer: nothing came in time."""
        try:
            async with asyncio.timeout(self._window):
                found = await self._downlinks.get()
        except TimeoutError as error:
            raise NoAnswer.because(error, self._window) from None
        if isinstance(found, NoAnswer):
            raise found
        return found

    async def _acknowledged(self, kind: int, answer: int, body: bytes) -> None:
        token = secrets.token_bytes(2)
        while (answer, token) in self._acks:
            token = secrets.token_bytes(2)
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._acks[answer, token] = future
        try:
            self._send(kind, token, self._eui + body)
            async with asyncio.timeout(self._timeout):
                await future
        except TimeoutError as error:
            raise NoAnswer.because(error, self._timeout) from None
        finally:
            del self._acks[answer, token]

    def _send(self, kind: int, token: bytes, body: bytes) -> None:
        if self._transport is not None:
            self._transport.sendto(bytes([VERSION]) + token + bytes([kind]) + body)

    def datagram_received(self, data: bytes, _address: tuple[Any, ...]) -> None:
        """An acknowledgement, or a frame to send."""
        if len(data) < _HEAD or data[0] != VERSION:
            return
        token, kind = data[1:3], data[3]
        if kind == PULL_RESP:
            self._answer(token, data[_HEAD:])
        elif (future := self._acks.get((kind, token))) and not future.done():
            future.set_result(None)

    def _answer(self, token: bytes, body: bytes) -> None:
        try:
            frame = transmitted(body)
        except BadReply:
            self._send(TX_ACK, token, self._eui + b'{"txpk_ack":{"error":"TX_FREQ"}}')
            return
        self._send(TX_ACK, token, self._eui + b'{"txpk_ack":{"error":"NONE"}}')
        self._downlinks.put_nowait(frame)

    def error_received(self, error: Exception) -> None:
        """Nobody listens there."""
        failure = NoAnswer.because(error, self._timeout)
        for future in self._acks.values():
            if not future.done():
                future.set_exception(failure)
        self._downlinks.put_nowait(failure)


def transmitted(body: bytes) -> bytes:
    """The frame in a PULL_RESP. Raises BadReply."""
    try:
        packet = json.loads(body)["txpk"]
        frame = base64.b64decode(packet["data"])
        fits = len(frame) == packet["size"] and packet["modu"] == "LORA" and packet["ipol"] is True
    except (ValueError, KeyError, TypeError):
        fits, frame = False, b""
    if not fits:
        raise BadReply("a downlink that cannot be sent")
    return frame

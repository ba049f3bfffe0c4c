import json
from pathlib import Path
from typing import Any

import pytest

from firmware_sim import sealed
from firmware_sim.address import Address
from firmware_sim.device import Device, Firmware
from firmware_sim.errors import BadReply, FlashError, NoAnswer
from firmware_sim.flash import FileFlash
from firmware_sim.log import SerialLog
from firmware_sim.retry import Retry
from firmware_sim.sealed import Envelope
from firmware_sim.transports import MqttVersion, Transport, TransportName, connect
from tests.server import Server

SERVER, DEVICE = sealed.new_key(), sealed.new_key()


class Tapped:
    """A transport that remembers what went over it, and loses the first answers."""

    def __init__(self, inner: Transport, lost: int = 0) -> None:
        self.name, self.url = inner.name, inner.url
        self.wire: list[bytes] = []
        self._inner = inner
        self._lost = lost

    async def provision(self, body: bytes, timeout: float) -> bytes:
        answer = await self._inner.provision(body, timeout)
        self.wire += [body, answer]
        if len(self.wire) <= 2 * self._lost:
            raise NoAnswer("lost")
        return answer


@pytest.fixture(scope="session")
def pair(server: Server) -> Any:
    return server.cli("profile", "create", "sealed")


@pytest.fixture(scope="module")
def public(server: Server) -> str:
    text: str = server.cli("request-key", "create")["publicKey"]
    return text


async def no_sleep(_: float) -> None:
    return


@pytest.mark.parametrize("transport", [TransportName.HTTP, TransportName.MQTT, TransportName.COAP])
@pytest.mark.parametrize("way", ["both", "answer"])
async def test_a_device_is_provisioned_sealed(
    server: Server, pair: Any, public: str, tmp_path: Path, transport: TransportName, way: str
) -> None:
    firmware = Firmware(
        pair["provisionDeviceKey"],
        pair["provisionDeviceSecret"],
        f"sealed-{transport}-{way}",
        sealed=public if way == "both" else None,
        sealed_answer=way == "answer",
    )
    there = Address.parse(server.devices[transport], 1)
    async with connect(transport, there, mqtt_version=MqttVersion.V311) as inner:
        tapped = Tapped(inner, lost=1)
        device = Device(firmware, FileFlash(tmp_path / "flash"), tapped, SerialLog(None), Retry(3, sleep=no_sleep))
        outcome = await device.boot()

    assert outcome.attempts == 2
    token = outcome.credentials.credentials_value
    assert isinstance(token, str)
    overheard = b"".join(tapped.wire)
    assert token.encode() not in overheard
    assert (firmware.secret.encode() in overheard) is (way == "answer")
    assert (await FileFlash(tmp_path / "flash").read()).credentials == outcome.credentials


def test_an_answer_in_the_clear_is_nobodys() -> None:
    envelope = Envelope(sealed.encode(sealed.new_key()), DEVICE)
    envelope.request({})
    for body, after in ((b'{"status":"SUCCESS","accessToken":"t"}', None), (b'{"errorMsg":"x","retryAfter":7}', 7.0)):
        with pytest.raises(NoAnswer, match="in the clear") as caught:
            envelope.answer(body)
        assert caught.value.retry_after == after


@pytest.mark.parametrize("body", [b"", b"[]", b"x", b'{"sealed":1}', b'{"sealed":"?"}', b'{"sealed":"AAAA"}'])
def test_what_does_not_open_is_a_bad_reply(body: bytes) -> None:
    with pytest.raises(BadReply):
        Envelope(None, DEVICE).answer(body)


def test_a_request_is_sealed_anew_each_time() -> None:
    envelope = Envelope(sealed.encode(sealed.new_key()), DEVICE)
    first, second = (json.loads(envelope.request({"a": 1})) for _ in range(2))
    assert first["keyId"] == second["keyId"]
    assert first["sealed"] != second["sealed"]


@pytest.mark.parametrize("text", ["", "AAAA", "é", "?" * 43])
def test_what_is_no_key_is_told(text: str) -> None:
    with pytest.raises(ValueError, match="base64url"):
        Envelope(text, DEVICE)


class Silent:
    name, url = "fake", "fake://"

    async def provision(self, body: bytes, timeout: float) -> bytes:  # noqa: ARG002
        raise NoAnswer("silence")


async def test_an_unfinished_request_is_repeated_as_it_was_begun(tmp_path: Path) -> None:
    public = sealed.encode(sealed.new_key())

    def device(flash: str, **image: Any) -> Device:
        retry = Retry(1, sleep=no_sleep)
        return Device(Firmware("k", "s", **image), FileFlash(tmp_path / flash), Silent(), SerialLog(None), retry)

    with pytest.raises(NoAnswer):
        await device("sealed", sealed=public).boot()
    before = await FileFlash(tmp_path / "sealed").read()
    with pytest.raises(NoAnswer):
        await device("sealed", sealed=public).boot()
    assert await FileFlash(tmp_path / "sealed").read() == before
    with pytest.raises(FlashError, match="--sealed"):
        await device("sealed").boot()
    with pytest.raises(NoAnswer):
        await device("plain").boot()
    with pytest.raises(FlashError, match="was not sealed"):
        await device("plain", sealed=public).boot()

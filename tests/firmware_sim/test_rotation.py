"""Rotation with the power going at every step: the device always ends with credentials that the server knows."""

import io
from collections.abc import AsyncGenerator, Mapping
from typing import Any

import msgspec
import pytest
from cryptography import x509
from rich.console import Console

from firmware_sim.credentials import Kind, draft, issued_for
from firmware_sim.errors import BadReply, FlashError, Refused
from firmware_sim.flash import Credentials, Memory, VolatileFlash
from firmware_sim.log import SerialLog
from firmware_sim.rotation import rotate
from tests.requests import signed


class PowerCut(Exception):  # noqa: N818
    pass


class Flash(VolatileFlash):
    """Loses power after so many writes."""

    def __init__(self, memory: Memory) -> None:
        super().__init__()
        self._memory = memory
        self.left = -1

    async def write(self, memory: Memory) -> None:
        if self.left == 0:
            raise PowerCut
        await super().write(memory)
        self.left -= 1


class FakeLink:
    """A server that keeps its promise: until it is used, the same request gets the same answer."""

    def __init__(self) -> None:
        self.pending: dict[bytes, str] = {}
        self.lost = 0
        self.wrong_key = False

    async def rotate(self, body: bytes) -> bytes:
        if body not in self.pending:
            asked = msgspec.json.decode(body)
            self.pending[body] = (
                signed(asked["csr"], wrong_key=self.wrong_key) if "csr" in asked else f"token-{len(self.pending)}"
            )
        if self.lost:
            self.lost -= 1
            raise PowerCut
        value = self.pending[body]
        kind = "X509_CERTIFICATE" if "BEGIN" in value else "ACCESS_TOKEN"
        return msgspec.json.encode({"status": "SUCCESS", "credentialsType": kind, "credentialsValue": value})

    async def telemetry(self, body: bytes) -> None:
        raise NotImplementedError

    async def updates(self) -> AsyncGenerator[Mapping[str, Any], None]:
        raise NotImplementedError
        yield {}


def log() -> SerialLog:
    return SerialLog(Console(file=io.StringIO()))


TOKEN = Memory(credentials=Credentials("ACCESS_TOKEN", "token", "sensor-1", "id"))
CERTIFICATE = Memory(private_key="old", credentials=Credentials("X509_CERTIFICATE", "old", "sensor-1", "id"))


async def test_a_token_follows_a_token() -> None:
    flash = Flash(TOKEN)
    memory = await rotate(FakeLink(), flash, log())
    assert memory == await flash.read()
    assert memory.credentials == Credentials("ACCESS_TOKEN", "token-0", "sensor-1", "id")


async def test_a_certificate_is_for_a_key_that_was_saved_before() -> None:
    flash, link = Flash(CERTIFICATE), FakeLink()
    memory = await rotate(link, flash, log())
    assert memory.next is None
    assert memory.credentials is not None
    assert issued_for(str(memory.credentials.credentials_value), memory.private_key or "")


@pytest.mark.parametrize("start", [TOKEN, CERTIFICATE], ids=["token", "certificate"])
@pytest.mark.parametrize("writes", [0, 1])
@pytest.mark.parametrize("lost", [0, 1])
async def test_the_power_goes_at_every_step(start: Memory, writes: int, lost: int) -> None:
    flash, link = Flash(start), FakeLink()
    flash.left, link.lost = writes, lost
    try:
        await rotate(link, flash, log())
    except PowerCut:
        held = await flash.read()
        assert held.credentials == start.credentials  # good still: nothing new was used
    flash.left, link.lost = -1, 0
    memory = await rotate(link, flash, log()) if (await flash.read()).credentials == start.credentials else None
    memory = memory or await flash.read()
    assert memory.credentials is not None
    assert memory.credentials.credentials_value in link.pending.values()
    assert len(link.pending) == 1


async def test_what_no_device_should_act_on() -> None:
    link = FakeLink()
    link.wrong_key = True
    with pytest.raises(BadReply, match="another key"):
        await rotate(link, Flash(CERTIFICATE), log())
    with pytest.raises(FlashError):
        await rotate(link, Flash(Memory()), log())


async def test_a_refusal_keeps_what_there_is() -> None:
    class Refusing(FakeLink):
        async def rotate(self, _body: bytes) -> bytes:
            return b'{"status": "FAILURE", "errorMsg": "no"}'

    flash = Flash(TOKEN)
    with pytest.raises(Refused, match="no"):
        await rotate(Refusing(), flash, log())
    assert await flash.read() == TOKEN


def test_a_signing_request_is_drafted_once() -> None:
    fresh = draft(Kind.CSR, "sensor-1")
    assert fresh.private_key is not None
    csr = x509.load_pem_x509_csr((fresh.request.csr or "").encode())
    assert csr.is_signature_valid
    assert csr.subject.rfc4514_string() == "CN=sensor-1"
    assert b"PRIVATE" not in fresh.request.body("key", "secret")

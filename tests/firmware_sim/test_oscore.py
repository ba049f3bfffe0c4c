import hashlib
import hmac
from typing import Any
from uuid import UUID

import aiocoap.oscore
import pytest
from aiocoap.message import Direction
from hypothesis import given
from hypothesis import strategies as st

from firmware_sim.flash import Memory, VolatileFlash
from firmware_sim.oscore import (
    BLOCK,
    SecurityContext,
    SequenceNumbers,
    device_context,
    master_secret,
    provision_context,
)

DEVICE_ID = UUID("01a20143-c9e8-78ff-bcb8-47a0e6b10c00")


class Server(aiocoap.oscore.CanProtect, aiocoap.oscore.CanUnprotect, aiocoap.oscore.SecurityContextUtils):  # type: ignore[misc]
    """The other end, of aiocoap's parts alone."""

    alg_aead = aiocoap.oscore.algorithms["AES-CCM-16-64-128"]
    hashfun = aiocoap.oscore.hashfunctions["sha256"]
    sender_id, recipient_id = b"\x02", b"\x01"
    sender_sequence_number = 0

    def __init__(self, secret: bytes, id_context: bytes) -> None:
        self.id_context = id_context
        self.recipient_replay_window = aiocoap.oscore.ReplayWindow(32, lambda: None)
        self.recipient_replay_window.initialize_empty()
        self.derive_keys(b"", secret)

    def post_seqnoincrease(self) -> None:
        pass


def received(message: Any) -> Any:
    """As it arrives at the other end."""
    message.mtype, message.mid = aiocoap.CON, 1
    message.direction = Direction.OUTGOING
    return aiocoap.Message.decode(message.encode(), None)


async def sealed(context: SecurityContext, payload: bytes) -> Any:
    await context.reserve()
    message = aiocoap.Message(code=aiocoap.POST, payload=payload, uri_path=("api", "v1", "telemetry"))
    return received(context.protect(message)[0])


def test_the_master_secret_is_hkdf() -> None:
    """RFC 5869 §2, written out."""
    extracted = hmac.digest(bytes(32), b"a token", "sha256")
    info = b"provserver oscore master secret"
    assert master_secret(b"a token") == hmac.digest(extracted, info + b"\x01", hashlib.sha256)[:16]


async def test_a_server_with_the_token_reads_it() -> None:
    context = device_context(DEVICE_ID, b"a token", VolatileFlash())
    server = Server(master_secret(b"a token"), DEVICE_ID.bytes)
    opened, _ = server.unprotect(await sealed(context, b"hello"))
    assert opened.payload == b"hello"
    assert opened.opt.uri_path == ("api", "v1", "telemetry")


async def test_each_provision_request_has_a_context_of_its_own() -> None:
    """All devices of a profile have the same secret: the same context would mean the same nonces."""
    contexts = [provision_context("the-key", b"the secret") for _ in range(2)]
    assert contexts[0].sender_key != contexts[1].sender_key
    for context in contexts:
        assert context.id_context.startswith(b"the-key")
        assert len(context.id_context) == len("the-key") + 16
        opened, _ = Server(master_secret(b"the secret"), context.id_context).unprotect(await sealed(context, b"hello"))
        assert opened.payload == b"hello"


@given(st.lists(st.integers(0, 3 * BLOCK), max_size=8))
async def test_no_number_comes_twice_whenever_the_power_is_cut(boots: list[int]) -> None:
    flash = VolatileFlash()
    taken: list[int] = []
    for requests in boots:
        numbers = SequenceNumbers(flash)
        for _ in range(requests):
            await numbers.reserve()
            taken.append(numbers.take())
    assert taken == sorted(set(taken))
    assert (await flash.read()).sequence_numbers > max(taken, default=-1)


async def test_numbers_are_saved_in_blocks() -> None:
    writes: list[Memory] = []

    class Flash(VolatileFlash):
        async def write(self, memory: Memory) -> None:
            writes.append(memory)
            await super().write(memory)

    flash = Flash()
    await flash.write(Memory(private_key="kept"))
    numbers = SequenceNumbers(flash)
    for _ in range(BLOCK):
        await numbers.reserve()
        numbers.take()
    assert [memory.sequence_numbers for memory in writes] == [0, BLOCK, 2 * BLOCK]
    assert writes[-1].private_key == "kept"


async def test_a_number_that_was_not_saved_is_not_used() -> None:
    numbers = SequenceNumbers(VolatileFlash())
    with pytest.raises(aiocoap.oscore.ContextUnavailable):
        numbers.take()

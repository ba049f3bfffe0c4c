"""OSCORE, the client's side: a security context for aiocoap (RFC 8613) derived from a key that both sides know."""

import secrets
from uuid import UUID

import aiocoap.oscore
import msgspec
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from firmware_sim.flash import Flash, VolatileFlash

CLIENT_ID, SERVER_ID = b"\x01", b"\x02"
_SECRET_LENGTH = 16
_LAST = 2**40 - 1  # RFC 8613 §7.2.1, of a Partial IV of 5 bytes

BLOCK = 64  # sequence numbers that one write to flash sets aside
_FRESH = 16  # random bytes of an ID Context for provisioning
_PER_REQUEST = 16  # at most: the blocks of a body, and repeats with Echo


def master_secret(key: bytes) -> bytes:
    """What a token or a provision secret gives."""
    return HKDF(hashes.SHA256(), _SECRET_LENGTH, None, b"provserver oscore master secret").derive(key)


class SecurityContext(
    aiocoap.oscore.CanProtect,  # type: ignore[misc]
    aiocoap.oscore.CanUnprotect,  # type: ignore[misc]
    aiocoap.oscore.SecurityContextUtils,  # type: ignore[misc]
):
    """One device's context: AES-CCM-16-64-128, HKDF with SHA-256, no master salt."""

    alg_aead = aiocoap.oscore.AES_CCM_16_64_128()
    hashfun = hashes.SHA256()
    is_signing = False
    responses_send_kid = False
    sender_id, recipient_id = CLIENT_ID, SERVER_ID

    def __init__(self, key: bytes, id_context: bytes, numbers: "SequenceNumbers") -> None:
        """key: the token or provision secret. echo: for the next request (RFC 9175), outside of what is protected."""
        self.echo: bytes | None = None
        self.id_context = id_context
        self._numbers = numbers
        # Responses only, each bound to its request: nothing in it needs to outlive the process (RFC 8613 §7.4).
        self.recipient_replay_window = aiocoap.oscore.ReplayWindow(32, lambda: None)
        self.recipient_replay_window.initialize_empty()
        self.derive_keys(b"", master_secret(key))

    def protect(
        self, message: aiocoap.Message, request_id: object = None, *, kid_context: bool | bytes = True
    ) -> tuple[aiocoap.Message, object]:
        """With the Echo that is wanted outside, if one is."""
        protected, protected_id = super().protect(message, request_id, kid_context=kid_context)
        if self.echo is not None:
            protected.opt.echo, self.echo = self.echo, None
        return protected, protected_id

    def new_sequence_number(self) -> int:
        """A Partial IV that was not used before, also not before the last power cut."""
        return self._numbers.take()

    def post_seqnoincrease(self) -> None:
        """Nothing to do: `SequenceNumbers` saves before use."""

    async def reserve(self) -> None:
        """To be called before each request."""
        await self._numbers.reserve()


def device_context(device_id: UUID, token: bytes, flash: Flash) -> SecurityContext:
    """What a device and the server have in common once it has a token; its numbers are kept in flash."""
    return SecurityContext(token, device_id.bytes, SequenceNumbers(flash))


def provision_context(key: str, secret: bytes) -> SecurityContext:
    """One for a single request: all devices of a profile share key and secret, so chance tells them apart."""
    return SecurityContext(secret, key.encode() + secrets.token_bytes(_FRESH), SequenceNumbers(VolatileFlash()))


class SequenceNumbers:
    """A device's sender sequence numbers: a number used twice under one key would give its plaintext away."""

    def __init__(self, flash: Flash) -> None:
        self._flash = flash
        self._next = self._end = 0

    async def reserve(self) -> None:
        """Set aside enough for one request, in flash, before any of them is used. Raises FlashError."""
        if self._end - self._next >= _PER_REQUEST:
            return
        memory = await self._flash.read()
        begin = max(self._end, memory.sequence_numbers)
        await self._flash.write(msgspec.structs.replace(memory, sequence_numbers=begin + BLOCK))
        if begin > self._end:  # another boot's: those before may have been used
            self._next = begin
        self._end = begin + BLOCK

    def take(self) -> int:
        """The next number. Raises aiocoap's ContextUnavailable if none was reserved."""
        if self._next >= min(self._end, _LAST):
            raise aiocoap.oscore.ContextUnavailable("no sequence number was reserved")
        number, self._next = self._next, self._next + 1
        return number

"""A device that speaks OSCORE: a security context by the convention of `provserver.transports.oscore`, derived anew."""

import hashlib
import hmac
from typing import Any

from aiocoap import Message, oscore
from aiocoap.message import Direction
from aiocoap.numbers.codes import Code
from aiocoap.numbers.types import Type


def master_secret(key: bytes) -> bytes:
    """HKDF-SHA256 (RFC 5869), by its definition."""
    extracted = hmac.digest(bytes(hashlib.sha256().digest_size), key, "sha256")
    return hmac.digest(extracted, b"provserver oscore master secret\x01", "sha256")[:16]


class DeviceContext(oscore.CanProtect, oscore.CanUnprotect, oscore.SecurityContextUtils):  # type: ignore[misc]
    """The device's half of a security context, its numbers in memory."""

    alg_aead = oscore.algorithms["AES-CCM-16-64-128"]
    hashfun = oscore.hashfunctions["sha256"]
    sender_id = b"\x01"
    recipient_id = b"\x02"
    echo_recovery = None

    def __init__(self, id_context: bytes, key: bytes, number: int = 0) -> None:
        self.id_context = id_context
        self.sender_sequence_number = number
        self.recipient_replay_window = oscore.ReplayWindow(32, lambda: None)
        self.recipient_replay_window.initialize_empty()
        self.derive_keys(b"", master_secret(key))

    def post_seqnoincrease(self) -> None:
        pass

    def request(self, mid: int, payload: bytes = b"", code: Code = Code.POST, **options: Any) -> tuple[bytes, Any]:
        """A confirmable request as a datagram, and what opens its response."""
        protected, request_id = self.protect(Message(code=code, payload=payload, uri_path=("echo",), **options))
        protected.mtype, protected.mid, protected.token = Type.CON, mid, mid.to_bytes(2)
        encoded: bytes = protected.encode()
        return encoded, request_id

    def response(self, message: Any, request_id: Any) -> Any:
        """What a protected response says."""
        return self.unprotect(message, request_id)[0]


def changed(datagram: bytes, **attributes: Any) -> bytes:
    """A message with other attributes than it had."""
    message = Message.decode(datagram, None)
    message.direction = Direction.OUTGOING
    for name, value in attributes.items():
        setattr(message, name, value)
    encoded: bytes = message.encode()
    return encoded

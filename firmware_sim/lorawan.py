"""LoRaWAN's frames and keys, as an end device makes them (TS001 1.0.x and 1.1).

EUIs, keys and addresses are bytes, most significant first; in frames they are the other way round.
"""

import struct
from dataclasses import dataclass, field
from typing import Final

from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import ECB
from cryptography.hazmat.primitives.cmac import CMAC

from firmware_sim.errors import BadReply

JOIN_REQUEST, JOIN_ACCEPT, UNCONFIRMED_UP, UNCONFIRMED_DOWN = 0x00, 0x20, 0x40, 0x60
"""MHDR: the message's type, and LoRaWAN R1."""

REKEY: Final = bytes([0x0B, 0x01])
"""RekeyInd of LoRaWAN 1.1: the device has the keys of 1.1, and uses them."""

MAX_NONCE: Final = 0xFFFF

_MIC = 4
_OPTIONS_NEGOTIATED = 0x80
_BLOCK = 16
_ACCEPT_SIZES = (17, 33)


@dataclass(frozen=True, slots=True)
class Identity:
    """What the factory put in. nwk_key: of a device of LoRaWAN 1.1, else None; counts: its DevNonces are a counter."""

    dev_eui: bytes
    join_eui: bytes
    app_key: bytes = field(repr=False)
    nwk_key: bytes | None = field(default=None, repr=False)
    counts: bool = False

    @property
    def join_key(self) -> bytes:
        """The root key that join requests are signed with."""
        return self.nwk_key or self.app_key


@dataclass(frozen=True, slots=True)
class Session:
    """What a join accept grants. In LoRaWAN 1.0 the three network keys are one. rekeying: RekeyInd is due."""

    address: bytes
    join_nonce: int
    app_s_key: bytes = field(repr=False)
    f_nwk_s_int_key: bytes = field(repr=False)
    s_nwk_s_int_key: bytes = field(repr=False)
    nwk_s_enc_key: bytes = field(repr=False)
    rekeying: bool = False


def join_request(identity: Identity, dev_nonce: int) -> bytes:
    """The frame that asks to join; a DevNonce is never used again."""
    frame = bytes([JOIN_REQUEST]) + identity.join_eui[::-1] + identity.dev_eui[::-1] + struct.pack("<H", dev_nonce)
    return frame + mic(identity.join_key, frame)


def join_accept(identity: Identity, dev_nonce: int, frame: bytes) -> Session:
    """The session that the answer to that join request grants. Raises BadReply: it is not for this device."""
    if len(frame) not in _ACCEPT_SIZES or frame[0] != JOIN_ACCEPT:
        raise BadReply("no join accept")
    plain = _encrypted(identity.join_key, frame[1:])  # the network "decrypts", so that a device needs one direction
    signed = frame[:1] + plain[:-_MIC]
    negotiated = bool(plain[10] & _OPTIONS_NEGOTIATED) and identity.nwk_key is not None
    if negotiated:
        key = _device_key(identity.join_key, 0x06, identity.dev_eui)
        signed = b"\xff" + identity.join_eui[::-1] + struct.pack("<H", dev_nonce) + signed
    else:
        key = identity.join_key
    if mic(key, signed) != plain[-_MIC:]:
        raise BadReply("a join accept that is not for this device")
    join_nonce, net_id, address = plain[:3], plain[3:6], plain[6:10][::-1]
    nonce = struct.pack("<H", dev_nonce)
    number = int.from_bytes(join_nonce, "little")
    if negotiated:
        seed = join_nonce + identity.join_eui[::-1] + nonce
        forwarding, serving, encrypting = (_session_key(identity.join_key, tag, seed) for tag in (0x01, 0x03, 0x04))
        application = _session_key(identity.app_key, 0x02, seed)
        return Session(address, number, application, forwarding, serving, encrypting, rekeying=True)
    seed = join_nonce + net_id + nonce
    network, application = (_session_key(identity.join_key, tag, seed) for tag in (0x01, 0x02))
    return Session(address, number, application, network, network, network)


def uplink(session: Session, f_cnt: int, f_port: int, payload: bytes, *, data_rate: int = 5, channel: int = 0) -> bytes:
    """An unconfirmed data frame. f_port: 1–223; data_rate, channel: indices of those that it is sent by."""
    options = REKEY if session.rekeying else b""
    header = session.address[::-1] + bytes([len(options)]) + struct.pack("<H", f_cnt & 0xFFFF)
    # The fourth byte keeps the stream of the options apart from that of a payload with the same count (errata of 1.1).
    hidden = crypted(session.nwk_s_enc_key, session.address, f_cnt, options, kind=1)
    data = crypted(session.app_s_key, session.address, f_cnt, payload)
    frame = bytes([UNCONFIRMED_UP]) + header + hidden + bytes([f_port]) + data
    forwarding = mic(session.f_nwk_s_int_key, _first_block(session.address, f_cnt, len(frame)) + frame)
    if not session.rekeying:
        return frame + forwarding
    block = _first_block(session.address, f_cnt, len(frame), bytes([0, 0, data_rate, channel]))
    return frame + mic(session.s_nwk_s_int_key, block + frame)[:2] + forwarding[:2]


def mic(key: bytes, message: bytes) -> bytes:
    """The message integrity code: four bytes of AES-CMAC (RFC 4493)."""
    code = CMAC(AES(key))
    code.update(message)
    return code.finalize()[:_MIC]


def crypted(key: bytes, address: bytes, f_cnt: int, data: bytes, *, kind: int = 0) -> bytes:
    """A payload of an uplink, encrypted or decrypted."""
    block = bytes([0x01, 0, 0, 0, kind, 0]) + address[::-1] + struct.pack("<I", f_cnt) + b"\0"
    count = -(-len(data) // _BLOCK)
    stream = _encrypted(key, b"".join(block + bytes([number]) for number in range(1, count + 1)))
    return bytes(a ^ b for a, b in zip(data, stream, strict=False))


def _first_block(address: bytes, f_cnt: int, length: int, tags: bytes = bytes(4)) -> bytes:
    return b"\x49" + tags + b"\0" + address[::-1] + struct.pack("<I", f_cnt) + bytes([0, length])


def _session_key(key: bytes, tag: int, seed: bytes) -> bytes:
    return _encrypted(key, (bytes([tag]) + seed).ljust(_BLOCK, b"\0"))


def _device_key(key: bytes, tag: int, dev_eui: bytes) -> bytes:
    return _encrypted(key, (bytes([tag]) + dev_eui[::-1]).ljust(_BLOCK, b"\0"))


def _encrypted(key: bytes, blocks: bytes) -> bytes:
    encryptor = Cipher(AES(key), ECB()).encryptor()  # noqa: S305 - block by block is what the specification says
    return encryptor.update(blocks) + encryptor.finalize()

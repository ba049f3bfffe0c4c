"""LoRaWAN's frames and keys, against published figures: of The Things Stack's tests, and lora-packet's frame."""

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import ECB
from hypothesis import given
from hypothesis import strategies as st

from firmware_sim import lorawan
from firmware_sim.errors import BadReply
from firmware_sim.lorawan import REKEY, Identity, Session, crypted, join_accept, join_request, uplink
from tests.support import gateway

ONES = bytes([1] * 16)
EUI = bytes(range(1, 9))
ADDRESS = bytes([1, 2, 3, 4])

ROOT = bytes.fromhex("BEC499C69E9C939E413B663961636C61")
JOIN_NONCE, NET_ID, DEV_NONCE = bytes.fromhex("AE3B1C"), bytes.fromhex("020101"), 0x7369
JOIN_EUI, DEV_EUI = bytes.fromhex("0000001223224242"), bytes.fromhex("0042004213424341")
NEW = JOIN_NONCE[::-1] + JOIN_EUI[::-1] + DEV_NONCE.to_bytes(2, "little")
OLD = JOIN_NONCE[::-1] + NET_ID[::-1] + DEV_NONCE.to_bytes(2, "little")


@pytest.mark.parametrize(
    ("tag", "seed", "key"),
    [
        (0x02, NEW, "B035CCE24E4A040EB5CECBF21724412D"),  # AppSKey
        (0x01, NEW, "379084E7CE22FF191BFF4B77536F2AA3"),  # FNwkSIntKey
        (0x03, NEW, "63C59309D53485BC5164DBF71627AEB9"),  # SNwkSIntKey
        (0x04, NEW, "CE07A009A3970AC0519A099ED53E550B"),  # NwkSEncKey
        (0x02, OLD, "8C1E0543A229088DE6F84E74BB46BD62"),  # AppSKey of 1.0
        (0x01, OLD, "0DB924EE6AF90698E05FC7CE48303C01"),  # NwkSKey
        (0x06, DEV_EUI[::-1], "CB8E9EE114C3FB5CE472A5AA13AB1855"),  # JSIntKey
    ],
)
def test_keys(tag: int, seed: bytes, key: str) -> None:
    assert lorawan._session_key(ROOT, tag, seed).hex().upper() == key
    assert gateway._block(ROOT, bytes([tag]) + seed).hex().upper() == key


def test_the_integrity_key_of_the_device() -> None:
    assert lorawan._device_key(ROOT, 0x06, DEV_EUI).hex().upper() == "CB8E9EE114C3FB5CE472A5AA13AB1855"


def test_a_join_request() -> None:
    frame = join_request(Identity(EUI, EUI, ONES), 0x0102)
    assert frame.hex() == "00" + EUI[::-1].hex() * 2 + "0201" + "e6e10c55"


def test_a_join_accept_is_decrypted_and_checked() -> None:
    frame = bytes.fromhex("20" + "c9fbb259e11649096a568a9e3b7117c3")
    session = join_accept(Identity(EUI, EUI, ONES), 0x0102, frame)
    assert (session.address.hex(), session.join_nonce, session.rekeying) == ("01020304", 0x010203, False)
    assert session.f_nwk_s_int_key == session.s_nwk_s_int_key == session.nwk_s_enc_key
    for wrong in (frame[:-1] + b"\0", frame[:-1], b"\x60" + frame[1:], b""):
        with pytest.raises(BadReply):
            join_accept(Identity(EUI, EUI, ONES), 0x0102, wrong)
    with pytest.raises(BadReply):
        join_accept(Identity(EUI, EUI, ROOT), 0x0102, frame)


def test_the_code_of_a_join_accept_of_1_1() -> None:
    signed = bytes.fromhex("20" + "030201" * 2 + "04030201" + "00" + "01")
    assert lorawan.mic(ONES, b"\xff" + EUI + b"\x01\x02" + signed).hex() == "48e9be5f"


@pytest.mark.parametrize(("kind", "hidden"), [(0, "cff30b4e"), (1, "23615f18")])
def test_payloads_and_options_are_hidden(kind: int, hidden: str) -> None:
    assert crypted(ONES, ADDRESS, 1, bytes([1, 2, 3, 4]), kind=kind).hex() == hidden
    assert gateway._stream(ONES, ADDRESS, 1, bytes.fromhex(hidden), kind) == bytes([1, 2, 3, 4])


def test_the_code_of_an_uplink() -> None:
    frame = bytes.fromhex("40" + "04030201" + "00" + "0100" + "01" + "01020304")
    block = lorawan._first_block(ADDRESS, 1, len(frame))
    assert lorawan.mic(ONES, block + frame).hex() == "3b073182"


def test_an_uplink() -> None:
    network, application = "44024241ed4ce9a68c6a8bc055233fd3", "ec925802ae430ca77fd3dd73cb2cc588"
    key = bytes.fromhex(network)
    session = Session(bytes.fromhex("49BE7DF1"), 1, bytes.fromhex(application), key, key, key)
    assert uplink(session, 2, 1, b"test").hex().upper() == "40F17DBE4900020001954378762B11FF0D"


def test_an_uplink_of_1_1_says_that_it_has_new_keys() -> None:
    session = Session(ADDRESS, 1, ONES, ONES, ONES, ONES, rekeying=True)
    frame = uplink(session, 1, 1, b"x", data_rate=0, channel=0)
    assert frame[5] == len(REKEY)
    assert crypted(ONES, ADDRESS, 1, frame[8:10], kind=1) == REKEY
    assert frame[-4:-2] == frame[-2:], "the same keys, no data rate and no channel: the same code twice"
    assert uplink(session, 1, 1, b"x", data_rate=5, channel=2)[-4:-2] != frame[-4:-2]


@given(st.binary(max_size=222), st.integers(0, 0xFFFFFFFF))
def test_what_is_hidden_comes_back(data: bytes, count: int) -> None:
    assert gateway._stream(ROOT, ADDRESS, count, crypted(ROOT, ADDRESS, count, data), 0) == data


@given(st.one_of(st.binary(max_size=40), st.binary(min_size=16, max_size=16).map(lambda plain: b"\x20" + plain)))
def test_what_is_no_join_accept_is_not_taken(frame: bytes) -> None:
    for identity in (Identity(DEV_EUI, JOIN_EUI, ROOT), Identity(DEV_EUI, JOIN_EUI, ROOT, ROOT)):
        with pytest.raises(BadReply):
            join_accept(identity, DEV_NONCE, frame)


def test_blocks_are_aes() -> None:
    """FIPS 197, appendix B."""
    key, plain = bytes.fromhex("2b7e151628aed2a6abf7158809cf4f3c"), bytes.fromhex("3243f6a8885a308d313198a2e0370734")
    assert lorawan._encrypted(key, plain).hex() == "3925841d02dc09fbdc118597196a0b32"
    assert Cipher(AES(key), ECB()).encryptor().update(plain) == lorawan._encrypted(key, plain)


def test_keys_are_not_shown() -> None:
    shown = repr(Identity(EUI, EUI, ROOT, ROOT)) + repr(Session(ADDRESS, 1, ROOT, ROOT, ROOT, ROOT))
    assert repr(ROOT) not in shown

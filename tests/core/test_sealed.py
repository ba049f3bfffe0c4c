import contextlib
import os

import pytest
from cryptography.hazmat.bindings._rust import openssl
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from firmware_sim import sealed as simulated
from provserver.core import sealed
from provserver.core.sealed import NoKey, Unopenable

# RFC 9180 appendix A.1.1, base mode of DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, AES-128-GCM; the first message.
INFO = bytes.fromhex("4f6465206f6e2061204772656369616e2055726e")
EPHEMERAL = bytes.fromhex("52c4a758a802cd8b936eceea314432798d5baf2d7e9235dc084ab1b9cfa2f736")
ENC = bytes.fromhex("37fda3567bdbd628e88668c3c8d7e97d1d1253b6d4ea6d44c150f741f1bf4431")
PRIVATE = bytes.fromhex("4612c550263fc8ad58375df3f557aac531d26850903e55a9f23f21d8534e8ac8")
PUBLIC = bytes.fromhex("3948cfe0ad1ddb695d780e59077195da6c56506b027329794ab02bca80815c4d")
PLAINTEXT = b"Beauty is truth, truth beauty"
AAD = b"Count-0"
CIPHERTEXT = bytes.fromhex("f938558b5d72f1a23810b4be2ab4f84331acc02fc97babc53a52ae8218a355a96d8770ac83d07bea87e13c512a")

KEY, OTHER = sealed.new_key(b"k" * 32), sealed.new_key(b"o" * 32)


def test_both_sides_do_what_rfc_9180_does() -> None:
    ephemeral = X25519PrivateKey.from_private_bytes(EPHEMERAL)
    assert simulated.seal(PLAINTEXT, PUBLIC, INFO, ephemeral, AAD) == ENC + CIPHERTEXT
    assert simulated.unseal(ENC + CIPHERTEXT, PRIVATE, INFO, AAD) == PLAINTEXT
    private = X25519PrivateKey.from_private_bytes(PRIVATE)
    opened = openssl.hpke._decrypt_with_aad(sealed._SUITE, ENC + CIPHERTEXT, private, INFO, AAD)
    assert opened == PLAINTEXT


@given(st.binary(max_size=500))
def test_what_is_sealed_opens_with_its_key_only(plaintext: bytes) -> None:
    request = sealed.seal_request(plaintext, KEY[1])
    assert len(request) == len(plaintext) + sealed.OVERHEAD
    assert sealed.open_request(request, KEY[0]) == plaintext
    with pytest.raises(Unopenable):
        sealed.open_request(request, OTHER[0])


@given(st.binary(max_size=200))
def test_noise_does_not_open(noise: bytes) -> None:
    with pytest.raises(Unopenable):
        sealed.open_request(noise, KEY[0])


def test_a_changed_byte_is_noticed() -> None:
    request = sealed.seal_request(b"plaintext", KEY[1])
    for at in range(len(request)):
        with pytest.raises(Unopenable):
            sealed.open_request(request[:at] + bytes((request[at] ^ 1,)) + request[at + 1 :], KEY[0])


def test_an_answer_is_for_its_request_and_no_request() -> None:
    def answer(request: bytes) -> bytes:
        return simulated.decode(sealed.seal_answer(b"yes", KEY[1], request)[len('{"sealed":"') : -2].decode())

    assert sealed.open_answer(answer(b"one"), KEY[0], b"one") == b"yes"
    for way in (b"two", b""):
        with pytest.raises(Unopenable):
            sealed.open_answer(answer(b"one"), KEY[0], way)
    with pytest.raises(Unopenable):
        sealed.open_request(answer(b""), KEY[0])


@given(st.binary(max_size=100))
def test_base64url_is_read_as_it_is_written(data: bytes) -> None:
    text = sealed.encode(data)
    assert "=" not in text
    assert sealed.decode(text) == simulated.decode(text) == sealed.decode(text + "=" * (-len(text) % 4)) == data
    assert simulated.encode(data) == text


@pytest.mark.parametrize(
    "text", ["", "é", "a", "====", "AAAA", sealed.encode(bytes(32)), sealed.encode(bytes([1] + [0] * 31))]
)
def test_what_is_no_key_is_none(text: str) -> None:
    with pytest.raises(NoKey):
        sealed.public_key(text)


@given(st.text(max_size=60))
def test_any_text_is_a_key_or_none(text: str) -> None:
    with contextlib.suppress(NoKey):
        assert len(sealed.public_key(text)) == 32


def test_a_key_has_its_id() -> None:
    private, public = sealed.new_key(os.urandom(32))
    assert len(private) == len(public) == 32
    assert sealed.key_id(public) == simulated.key_id(public)
    assert sealed.key_id(public) != sealed.key_id(KEY[1])

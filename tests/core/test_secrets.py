import hashlib
import hmac

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from provserver.core.secrets import KEY_LENGTH, ServerKeys, Unsealable

ONE, TWO, THREE = (bytes([n]) * KEY_LENGTH for n in (1, 2, 3))
KEYS = ServerKeys({1: ONE}, {1: TWO})
NONCE = bytes(range(12))
CONTEXT = b"device 1"

purposes = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
parts = st.lists(st.binary(max_size=8), max_size=4)


def test_digest_is_hmac_sha256_over_length_prefixed_parts() -> None:
    message = b"\0\0\0\x07purpose" + b"\0\0\0\x02\xc3\xa9" + b"\0\0\0\0" + b"\0\0\0\x01\xff"
    expected = hmac.new(ONE, message, hashlib.sha256).digest()
    assert KEYS.digest("purpose", "é", "", b"\xff") == expected


def test_digest_vector() -> None:
    keys = ServerKeys({1: bytes(range(32))}, {1: ONE})
    assert keys.digest("credentials", "token").hex() == (
        "b227472cac5c21419d01cc79ec9828f17c8a7af4bd198f5adaf9a4dd31003347"
    )


@settings(deadline=None)
@given(purposes, parts, purposes, parts)
def test_digests_are_equal_only_for_equal_purpose_and_parts(
    purpose: str, these: list[bytes], other_purpose: str, those: list[bytes]
) -> None:
    equal = (purpose, these) == (other_purpose, those)
    assert (KEYS.digest(purpose, *these) == KEYS.digest(other_purpose, *those)) is equal


@pytest.mark.parametrize(
    ("these", "those"),
    [
        (("p", "ab", "c"), ("p", "a", "bc")),
        (("p", "ab"), ("p", "a", "b")),
        (("p", "a"), ("p", "a", "")),
        (("pa", "b"), ("p", "ab")),
        (("p", "a"), ("q", "a")),
        (("p",), ("p", "")),
        (("p", "\0\0\0\x01b"), ("p", "", "b")),
    ],
)
def test_no_boundary_can_be_shifted(these: tuple[str, ...], those: tuple[str, ...]) -> None:
    assert KEYS.digest(*these) != KEYS.digest(*those)


def test_text_and_its_utf_8_are_one() -> None:
    assert KEYS.digest("p", "é") == KEYS.digest("p", "é".encode())


def test_the_highest_digest_key_is_the_current_one() -> None:
    rotated = ServerKeys({2: TWO, 10: THREE, 1: ONE}, {1: ONE})
    assert rotated.digest("p") == ServerKeys({1: THREE}, {1: ONE}).digest("p")
    assert rotated.digest("p") != KEYS.digest("p")


def test_verify() -> None:
    digest = KEYS.digest("p", "secret")
    assert KEYS.verify(digest, "p", "secret")
    for expected, purpose, part in (
        (digest, "p", "Secret"),
        (digest, "q", "secret"),
        (digest[:-1], "p", "secret"),
        (bytes([digest[0] ^ 1]) + digest[1:], "p", "secret"),
        (b"", "p", "secret"),
    ):
        assert not KEYS.verify(expected, purpose, part)


def test_seal_is_version_nonce_and_aes_256_gcm() -> None:
    # Test case 14 of the GCM specification (McGrew and Viega).
    keys = ServerKeys({1: ONE}, {7: bytes(32)})
    sealed = keys.seal(bytes(16), b"", bytes(12))
    assert sealed[:13] == b"\x07" + bytes(12)
    assert sealed[13:].hex() == "cea7403d4d606b6e074ec5d3baf39d18d0d1c8a799996bf0265b98b5d48ab919"


@settings(deadline=None)
@given(st.binary(max_size=100), st.binary(max_size=20), st.binary(min_size=12, max_size=12))
def test_what_is_sealed_opens_in_its_context(plaintext: bytes, context: bytes, nonce: bytes) -> None:
    sealed = KEYS.seal(plaintext, context, nonce)
    assert KEYS.unseal(sealed, context) == plaintext
    with pytest.raises(Unsealable):
        KEYS.unseal(sealed, context + b"2")


def test_every_altered_bit_is_noticed() -> None:
    sealed = KEYS.seal(b"secret", CONTEXT, NONCE)
    for bit in range(len(sealed) * 8):
        altered = bytearray(sealed)
        altered[bit // 8] ^= 1 << bit % 8
        with pytest.raises(Unsealable):
            KEYS.unseal(bytes(altered), CONTEXT)


def test_every_truncation_and_extension_is_noticed() -> None:
    sealed = KEYS.seal(b"secret", CONTEXT, NONCE)
    for altered in (*(sealed[:end] for end in range(len(sealed))), sealed + b"\0"):
        with pytest.raises(Unsealable):
            KEYS.unseal(altered, CONTEXT)


@settings(deadline=None)
@given(st.binary(max_size=64))
def test_no_bytes_raise_anything_else(sealed: bytes) -> None:
    with pytest.raises(Unsealable):
        KEYS.unseal(sealed, CONTEXT)


def test_older_sealing_keys_still_open_and_the_highest_seals() -> None:
    old = KEYS.seal(b"secret", CONTEXT, NONCE)
    rotated = ServerKeys({1: ONE, 255: ONE}, {1: TWO, 255: THREE})
    assert rotated.unseal(old, CONTEXT) == b"secret"
    new = rotated.seal(b"secret", CONTEXT, NONCE)
    assert (old[0], new[0]) == (1, 255)
    assert rotated.unseal(new, CONTEXT) == b"secret"
    with pytest.raises(Unsealable, match="does not have"):
        KEYS.unseal(new, CONTEXT)


def test_a_version_cannot_be_swapped_for_another() -> None:
    rotated = ServerKeys({1: ONE, 2: ONE}, {1: TWO, 2: THREE})
    sealed = rotated.seal(b"secret", CONTEXT, NONCE)
    with pytest.raises(Unsealable):
        rotated.unseal(b"\x01" + sealed[1:], CONTEXT)


def test_the_repr_names_versions_and_shows_no_key() -> None:
    keys = ServerKeys({2: TWO, 1: ONE}, {3: THREE})
    assert repr(keys) == "<ServerKeys digest [1, 2] sealing [3]>"


def test_an_error_shows_nothing_sealed() -> None:
    with pytest.raises(Unsealable) as caught:
        KEYS.unseal(KEYS.seal(b"secret", CONTEXT, NONCE), b"elsewhere")
    assert "secret" not in str(caught.value)
    assert caught.value.__suppress_context__


def test_another_than_the_highest_version_may_be_the_current_one() -> None:
    keys = ServerKeys({1: ONE, 2: TWO}, {1: ONE, 2: TWO}, current=1)
    first, second = ServerKeys({1: ONE}, {1: ONE}), ServerKeys({2: TWO}, {2: TWO})
    assert keys.digest("p", "x") == first.digest("p", "x")
    assert keys.digests("p", "x") == (first.digest("p", "x"), second.digest("p", "x"))
    assert keys.seal(b"s", CONTEXT, NONCE) == first.seal(b"s", CONTEXT, NONCE)
    assert keys.unseal(second.seal(b"s", CONTEXT, NONCE), CONTEXT) == b"s"
    assert keys.verify(second.digest("p", "x"), "p", "x")
    assert not keys.verify(second.digest("p", "y"), "p", "x")


def test_versions_are_taken_up_and_dropped_in_place() -> None:
    keys = ServerKeys({1: ONE}, {1: ONE})
    one = keys.digest("credentials", "x")
    assert keys.digests("credentials", "x") == (one,)
    keys.take_up({1: ONE, 2: TWO}, {1: ONE, 2: TWO}, 2)
    two = ServerKeys({2: TWO}, {2: TWO}).digest("credentials", "x")
    assert keys.digests("credentials", "x") == (two, one)
    assert keys.unsettled
    keys.take_up({1: ONE, 2: TWO}, {1: ONE, 2: TWO}, 2, settled=True)
    assert keys.digests("credentials", "x") == (two,)  # all of these were converted
    assert len(keys.digests("api-key", "x")) == 2
    assert not keys.unsettled
    keys.take_up({2: TWO}, {2: TWO}, 2)
    assert keys.digests("api-key", "x") == (keys.digest("api-key", "x"),)
    assert not keys.verify(one, "credentials", "x")
    assert keys.epoch == 4

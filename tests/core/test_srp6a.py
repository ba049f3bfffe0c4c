from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provserver.core.srp6a import ESP, Client, Suite, Unsafe


def number(text: str) -> int:
    return int(text.replace(" ", "").replace("\n", ""), 16)


# RFC 5054, Appendix B.
GROUP = Suite(
    number("""
    EEAF0AB9 ADB38DD6 9C33F80A FA8FC5E8 60726187 75FF3C0B 9EA2314C 9C256576 D674DF74 96EA81D3 383B4813 D692C6E0
    E0D5D8E2 50B98BE4 8E495C1D 6089DAD1 5DC7D7B4 6154D6B6 CE8EF4AD 69B15D49 82559B29 7BCF1885 C529F566 660E57EC
    68EDBC3C 05726CC0 2FD4CBF4 976EAA9A FD5138FE 8376435B 9FC61D2F C0EB06E3
    """),
    2,
    "sha1",
)
SALT = bytes.fromhex("BEB25379D1A8581EB5A727673A2441EE")
K = number("7556AA04 5AEF2CDD 07ABAF0F 665C3E81 8913186F")
V = number("""
    7E273DE8 696FFC4F 4E337D05 B4B375BE B0DDE156 9E8FA00A 9886D812 9BADA1F1 822223CA 1A605B53 0E379BA4 729FDC59
    F105B478 7E5186F5 C671085A 1447B52A 48CF1970 B4FB6F84 00BBF4CE BFBB1681 52E08AB5 EA53D15C 1AFF87B2 B9DA6E04
    E058AD51 CC72BFC9 033B564E 26480D78 E955A5E2 9E7AB245 DB2BE315 E2099AFB
    """)
SECRET = number("60975527 035CF2AD 1989806F 0407210B C81EDC04 E2762A56 AFD529DD DA2D4393")
THEIR_SECRET = number("E487CB59 D31AC550 471E81F0 0F6928E0 1DDA08E9 74A004F4 9E61F5D1 05284D20")
A = number("""
    61D5E490 F6F1B795 47B0704C 436F523D D0E560F0 C64115BB 72557EC4 4352E890 3211C046 92272D8B 2D1A5358 A2CF1B6E
    0BFCF99F 921530EC 8E393561 79EAE45E 42BA92AE ACED8251 71E1E8B9 AF6D9C03 E1327F44 BE087EF0 6530E69F 66615261
    EEF54073 CA11CF58 58F0EDFD FE15EFEA B349EF5D 76988A36 72FAC47B 0769447B
    """)
B = number("""
    BD0C6151 2C692C0C B6D041FA 01BB152D 4916A1E7 7AF46AE1 05393011 BAF38964 DC46A067 0DD125B9 5A981652 236F99D9
    B681CBF8 7837EC99 6C6DA044 53728610 D0C6DDB5 8B318885 D7D82C7F 8DEB75CE 7BD4FBAA 37089E6F 9C6059F3 88838E7A
    00030B33 1EB76840 910440B1 B27AAEAE EB4012B7 D7665238 A8E3FB00 4B117B58
    """)
U = number("CE38B959 3487DA98 554ED47D 70A7AE5F 462EF019")
PREMASTER = number("""
    B0DC82BA BCF30674 AE450C02 87745E79 90A3381F 63B387AA F271A10D 233861E3 59B48220 F7C4693C 9AE12B0A 6F67809F
    0876E2D0 13800D6C 41BB59B6 D5979B5C 00A172B4 A2A5903A 0BDCAF8A 709585EB 2AFAFA8F 3499B200 210DCC1F 10EB3394
    3CD67FC8 8A2F39A4 BE5BEC4E C0A3212D C346D7E4 74B29EDE 8A469FFE CA686E5A
    """)


def alice() -> Client:
    return Client(GROUP, b"alice", b"password123", SECRET)


def test_rfc_5054() -> None:
    assert GROUP.multiplier() == K
    assert alice().public == A.to_bytes(128)
    assert GROUP.number(GROUP.pad(A), GROUP.pad(B)) == U
    assert alice().premaster(SALT, B.to_bytes(128)) == PREMASTER


def test_the_vectors_are_those_of_the_rfc() -> None:
    # What the server computes of them.
    assert (K * V + pow(2, THEIR_SECRET, GROUP.prime)) % GROUP.prime == B
    assert pow(A * pow(V, U, GROUP.prime), THEIR_SECRET, GROUP.prime) == PREMASTER


@pytest.mark.parametrize("suite", [GROUP, ESP])
def test_the_prime_is_safe(suite: Suite) -> None:
    half = (suite.prime - 1) // 2
    for number_ in (suite.prime, half):
        assert pow(3, number_ - 1, number_) == 1


def test_the_group_is_of_3072_bits() -> None:
    assert ESP.length == 384
    assert ESP.generator == 5
    # RFC 3526, 5: 2^3072 - 2^3008 - 1 + 2^64 * (…)
    assert ESP.prime >> 3008 == (1 << 64) - 1
    assert ESP.prime % (1 << 64) == (1 << 64) - 1


@pytest.mark.parametrize("theirs", [0, GROUP.prime, 2 * GROUP.prime, GROUP.prime + 1])
def test_a_key_that_would_give_the_password_away(theirs: int) -> None:
    with pytest.raises(Unsafe):
        alice().premaster(SALT, theirs.to_bytes(129))


def test_keys_that_cancel_each_other_out() -> None:
    class Zero(Suite):
        def hash(self, *parts: bytes) -> bytes:  # noqa: ARG002
            return bytes(20)

    with pytest.raises(Unsafe):
        Client(Zero(GROUP.prime, 2, "sha1"), b"", b"", SECRET).premaster(SALT, B.to_bytes(128))


def test_a_public_key_is_as_long_as_esp_idf_wants_it() -> None:
    # 5^2 has one byte; what comes after is as long as it should be.
    secrets = iter((2, 3, SECRET))
    client = Client.fresh(ESP, b"user", b"proof", lambda size: next(secrets).to_bytes(size))
    assert len(client.public) == 384
    assert client.public == pow(5, SECRET, ESP.prime).to_bytes(384)


def test_secrets_are_of_32_bytes() -> None:
    sizes: list[int] = []
    counted = count(SECRET)

    def entropy(size: int) -> bytes:
        sizes.append(size)
        return next(counted).to_bytes(size)

    Client.fresh(ESP, b"", b"", entropy)
    assert set(sizes) == {32}


@given(st.binary(min_size=1, max_size=130))
def test_whatever_the_server_sends(theirs: bytes) -> None:
    try:
        agreement = alice().agree(SALT, theirs)
    except Unsafe:
        return
    assert len(agreement.proof) == len(agreement.answer) == len(agreement.key) == 20
    assert agreement.key.hex() not in repr(agreement)

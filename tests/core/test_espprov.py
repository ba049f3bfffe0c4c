import json
import secrets
from collections.abc import Callable

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given, settings
from hypothesis import strategies as st

from firmware_sim import srp
from firmware_sim.proto3 import data, number, pack, unpack
from provserver.core import espprov
from provserver.core.board import WifiNetwork
from provserver.core.edgent import Settings
from provserver.core.espprov import (
    Declined,
    InvalidPossession,
    Malformed,
    Possession,
    Station,
    Unproven,
    Unsuitable,
    Version,
    possession,
    read_version,
)

TOKEN = "Zt4hYq8sWb2nLk6vRc1xMd9fPg3jTe7u"
LABEL = Possession("abcd1234", "wifiprov", "PROV_8DCF")
OLDER = Possession("abcd1234")
QR = {"ver": "v1", "name": "PROV_8DCF", "username": "wifiprov", "pop": "abcd1234", "transport": "softap"}


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (json.dumps(QR), LABEL),
        (" " + json.dumps(QR | {"network": "wifi", "password": ""}) + "\n", LABEL),
        ("\ufeff" + json.dumps(QR), LABEL),
        (json.dumps({"pop": "abcd1234"}), OLDER),
        ("wifiprov\nabcd1234\n", Possession("abcd1234", "wifiprov")),
        ("wifiprov\r\n\r\nabcd1234\r\n", Possession("abcd1234", "wifiprov")),
        ("abcd1234\n", OLDER),
        ("süß und lang", Possession("süß und lang")),
    ],
)
def test_a_label(text: str, found: Possession) -> None:
    assert possession(text.encode()) == found


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (b"", "QR code"),
        (b"a\nb\nc", "QR code"),
        (b"\xff\xfe", "text"),
        (b"{", "as a whole"),
        (b'{"pop":' + b"[" * 100_000, "as a whole"),
        (json.dumps(QR | {"pop": 1234}).encode(), "`pop`"),
        (json.dumps(QR | {"pop": ""}).encode(), "label"),
        (json.dumps({"username": "wifiprov"}).encode(), "label"),
        (json.dumps(QR | {"transport": "ble"}).encode(), "Bluetooth"),
        (json.dumps(QR | {"network": "thread"}).encode(), "not WiFi"),
        (b"x" * 257, "256 bytes"),
        (b"x" * 257 + b"\nabcd1234", "256 bytes"),
    ],
)
def test_no_label(text: bytes, why: str) -> None:
    with pytest.raises(InvalidPossession, match=why) as caught:
        possession(text)
    assert "abcd1234" not in str(caught.value)


@given(st.binary(max_size=60))
def test_whatever_is_in_a_file(content: bytes) -> None:
    try:
        found = possession(content)
    except InvalidPossession:
        return
    assert found.proof


def test_a_proof_is_not_shown() -> None:
    assert "abcd" not in repr(LABEL)
    assert LABEL.security == 2
    assert OLDER.security == 1


@pytest.mark.parametrize(
    ("answer", "version"),
    [
        (
            '{"prov":{"ver":"v1.1","sec_ver":2,"sec_patch_ver":1,"cap":["wifi_scan"]}}',
            Version("v1.1", 2, 1, frozenset({"wifi_scan"})),
        ),
        (
            '{"prov":{"ver":"netprov-v1.2","sec_ver":2,"sec_patch_ver":1,"cap":["wifi_prov","wifi_scan"]},"app":{}}',
            Version("netprov-v1.2", 2, 1, frozenset({"wifi_prov", "wifi_scan"})),
        ),
        ('{"prov":{"ver":"v1.1","cap":["wifi_scan"]}}', Version("v1.1", 1, 0, frozenset({"wifi_scan"}))),
        ('{"prov":{"ver":"v1.1","cap":["no_sec"]}}', Version("v1.1", 0, 0, frozenset({"no_sec"}))),
        ('{"prov":{"ver":"v1.1","sec_ver":1,"cap":7}}', Version("v1.1", 1)),
        ("V0.1", Version("V0.1")),
        ("", Version("")),
    ],
)
def test_a_version(answer: str, version: Version) -> None:
    assert read_version(answer.encode()) == version


@pytest.mark.parametrize(
    "answer", [b"\xff", b"{", b"{}", b'{"prov":[]}', b'{"prov":{"ver":1}}', b'{"prov":{"ver":"v1","sec_ver":"2"}}']
)
def test_no_version(answer: bytes) -> None:
    with pytest.raises(Malformed):
        read_version(answer)


@pytest.mark.parametrize(
    ("version", "label"),
    [
        (Version("v1.1", 2, 1), LABEL),
        (Version("v1.1", 2, 2), LABEL),
        (Version("v1.1", 1), OLDER),
        (Version("netprov-v1.2", 2, 1, frozenset({"wifi_prov"})), LABEL),
    ],
)
def test_a_board_that_can_be_spoken_with(version: Version, label: Possession) -> None:
    version.check(label)


@pytest.mark.parametrize(
    ("version", "label", "why"),
    [
        (Version("v1.1", 0), LABEL, "without protection"),
        (Version("v1.1", 0), OLDER, "without protection"),
        (Version("V0.1"), OLDER, "newer firmware"),
        (Version("v2", 3), LABEL, "newer firmware"),
        (Version("v1.1", 2, 0), LABEL, "one nonce"),
        (Version("v1.1", 2, 1), OLDER, "user name"),
        (Version("v1.1", 1), LABEL, "another board"),
        (Version("netprov-v1.2", 2, 1, frozenset({"thread_prov"})), LABEL, "another network"),
    ],
)
def test_a_board_that_cannot(version: Version, label: Possession, why: str) -> None:
    with pytest.raises(Unsuitable, match=why):
        version.check(label)


# --- the handshake of security 2

VERIFIER = srp.Verifier.of("wifiprov", "abcd1234", bytes(range(1, 17)))


class Board2:
    """The other side, as far as a test needs it; what it answers can be changed."""

    def __init__(self) -> None:
        self.handshake = espprov.handshake(LABEL, secrets.token_bytes)
        request = unpack(self.handshake.hello())
        assert number(request, 2) == 2
        payload = unpack(data(request, 12))
        assert number(payload, 1) == 0
        hello = unpack(data(payload, 20))
        assert data(hello, 1) == b"wifiprov"
        self.exchange = srp.Exchange(VERIFIER, data(hello, 2), 1 << 255)

    def hello(self, **changed: bytes | int) -> bytes:
        public, salt = changed.get("public", self.exchange.public), changed.get("salt", VERIFIER.salt)
        body = pack((1, changed.get("status", 0)), (2, public), (3, salt))
        return pack((2, changed.get("security", 2)), (12, pack((1, changed.get("kind", 1)), (21, body))))

    def prove(self, nonce: bytes = b"12345678\0\0\0\1", changed: Callable[[bytes], bytes] = bytes) -> bytes:
        request = unpack(data(unpack(self.handshake.prove(self.hello())), 12))
        assert number(request, 1) == 2
        answer = self.exchange.answer(b"wifiprov", data(unpack(data(request, 22)), 1))
        assert answer is not None
        return pack((2, 2), (12, pack((1, 3), (23, pack((2, changed(answer)), (3, nonce))))))


def test_each_message_has_a_nonce_of_its_own() -> None:
    board = Board2()
    channel = board.handshake.agreed(board.prove())
    key = AESGCM(board.exchange.key[:32])
    assert key.decrypt(b"12345678\0\0\0\1", channel.seal(b"one"), None) == b"one"
    assert channel.open(key.encrypt(b"12345678\0\0\0\2", b"two", None)) == b"two"
    assert key.decrypt(b"12345678\0\0\0\3", channel.seal(b""), None) == b""
    with pytest.raises(Malformed):
        channel.open(key.encrypt(b"12345678\0\0\0\3", b"three", None))


def test_nonces_do_not_begin_anew() -> None:
    board = Board2()
    channel = board.handshake.agreed(board.prove(nonce=b"12345678\xff\xff\xff\xff"))
    channel.seal(b"the last")
    with pytest.raises(Malformed, match="too long"):
        channel.seal(b"one more")


@pytest.mark.parametrize(
    "changed",
    [
        {"public": b""},
        {"public": bytes(384)},
        {"public": srp.N.to_bytes(384)},
        {"public": b"\1" * 385},
        {"salt": b""},
        {"salt": b"s" * 257},
        {"security": 0},
        {"security": 1},
        {"kind": 3},
    ],
    ids=str,
)
def test_a_hello_that_cannot_be(changed: dict[str, bytes | int]) -> None:
    board = Board2()
    with pytest.raises(Malformed):
        board.handshake.prove(board.hello(**changed))


def test_a_hello_that_is_a_refusal() -> None:
    board = Board2()
    with pytest.raises(Declined, match="TooManySessions"):
        board.handshake.prove(board.hello(status=3))


def test_a_board_that_does_not_know_the_proof() -> None:
    board = Board2()
    with pytest.raises(Unproven):
        board.handshake.agreed(board.prove(changed=lambda answer: bytes(len(answer))))


def test_a_board_that_proves_nothing() -> None:
    board = Board2()
    board.prove()
    with pytest.raises(Unproven):
        board.handshake.agreed(pack((2, 2), (12, pack((1, 3), (23, b"")))))


def test_an_answer_before_the_question() -> None:
    board = Board2()
    with pytest.raises(Unproven):
        board.handshake.agreed(pack((2, 2), (12, pack((1, 3), (23, b"")))))


@pytest.mark.parametrize("nonce", [b"", b"12345678\0\0\0", b"12345678\0\0\0\1\0"])
def test_a_nonce_that_cannot_be(nonce: bytes) -> None:
    board = Board2()
    with pytest.raises(Malformed, match="nonce"):
        board.handshake.agreed(board.prove(nonce=nonce))


# --- that of security 1


@pytest.mark.parametrize(
    ("public", "random"), [(b"\1" * 31, b"r" * 16), (b"\1" * 32, b"r" * 15), (bytes(32), b"r" * 16)]
)
def test_a_hello_of_security_1_that_cannot_be(public: bytes, random: bytes) -> None:
    answer = pack((2, 1), (11, pack((1, 1), (21, pack((2, public), (3, random))))))
    with pytest.raises(Malformed):
        espprov.handshake(OLDER, secrets.token_bytes).prove(answer)


def test_a_board_of_security_1_that_does_not_know_the_proof() -> None:
    handshake = espprov.handshake(OLDER, secrets.token_bytes)
    handshake.prove(pack((2, 1), (11, pack((1, 1), (21, pack((2, b"\x09" + bytes(31)), (3, b"r" * 16)))))))
    with pytest.raises(Unproven):
        handshake.agreed(pack((2, 1), (11, pack((1, 3), (23, pack((3, b"\1" * 32)))))))


# --- messages, as protoc writes them


@pytest.mark.parametrize(
    ("message", "written"),
    [
        (espprov.scan_start(), "52 06 0801 1805 2078"),
        (espprov.scan_status(), "0802 6200"),
        (espprov.scan_result(0, 4), "0804 7202 1004"),
        (espprov.scan_result(4, 4), "0804 7204 0804 1004"),
        (espprov.set_config("Home", "secret"), "0802 620e 0a04 486f6d65 1206 736563726574"),
        (espprov.set_config("Home", ""), "0802 6206 0a04 486f6d65"),
        (espprov.apply_config(), "0804 7200"),
        (espprov.get_status(), "5200"),
        (espprov.reset(), "0801 5a00"),
    ],
)
def test_what_is_asked(message: bytes, written: str) -> None:
    assert message == bytes.fromhex(written)


def test_what_is_handed_over() -> None:
    settings = Settings(TOKEN, "iot.example.com", 8883, "Home", "secret")
    assert json.loads(espprov.hand_over(settings)) == {"token": TOKEN, "host": "iot.example.com", "port": 8883}
    assert json.loads(espprov.hand_over(Settings(TOKEN))) == {"token": TOKEN}


@pytest.mark.parametrize(
    ("answer", "station"),
    [
        ("0801 5a02 5a00", Station.CONNECTED),
        ("0801 5a02 1001", Station.CONNECTING),
        ("0801 5a04 1001 6200", Station.CONNECTING),  # with attempts left
        ("0801 5a02 1002", Station.DISCONNECTED),
        ("0801 5a02 1003", Station.WRONG_PASSWORD),
        ("0801 5a04 1003 5000", Station.WRONG_PASSWORD),
        ("0801 5a04 1003 5001", Station.NOT_FOUND),
    ],
)
def test_what_became_of_it(answer: str, station: Station) -> None:
    assert espprov.read_status(bytes.fromhex(answer)) is station


def test_a_state_that_there_is_not() -> None:
    with pytest.raises(Malformed):
        espprov.read_status(bytes.fromhex("0801 5a02 1004"))


def test_networks() -> None:
    entries = [
        pack((1, b"Home"), (2, 6), (3, -50), (4, b"\2\0\0\0\0\1"), (5, 3)),
        pack((1, b"old\0\0"), (3, -70 + (1 << 32)), (5, 99)),
        pack((1, b"caf\xe9")),
    ]
    answer = pack((1, 5), (15, pack(*((1, entry) for entry in entries))))
    assert espprov.read_scan_result(answer) == [
        WifiNetwork("Home", -50, "WPA2", 6, "02:00:00:00:00:01"),
        WifiNetwork("old", -70, "unknown"),
        WifiNetwork("caf\ufffd", 0, "OPEN"),
    ]


@pytest.mark.parametrize(
    ("status", "count"), [((1, 1), 0), ((2, 5), 0), ((1, 1, 2, 5), 5), ((1, 1, 2, 1 << 30), espprov.MAX_NETWORKS)]
)
def test_how_many_networks(status: tuple[int, ...], count: int) -> None:
    body = pack(*zip(status[::2], status[1::2], strict=True))
    assert espprov.read_scan_status(pack((1, 3), (13, body))) == count


READERS: list[tuple[Callable[[bytes], object], int]] = [
    (espprov.read_scan_start, 1),
    (espprov.read_scan_status, 3),
    (espprov.read_scan_result, 5),
    (espprov.read_status, 1),
    (espprov.read_set_config, 3),
    (espprov.read_apply_config, 5),
    (espprov.read_reset, 2),
]


@pytest.mark.parametrize(("reader", "kind"), READERS)
def test_an_answer_to_something_else(reader: Callable[[bytes], object], kind: int) -> None:
    with pytest.raises(Malformed):
        reader(pack((1, kind + 1)))


@pytest.mark.parametrize(("reader", "kind"), READERS)
def test_a_refusal(reader: Callable[[bytes], object], kind: int) -> None:
    refusal = pack((1, kind), (2, 4), (10 + kind, pack((1, 4))))
    with pytest.raises(Declined, match="InvalidArgument") as caught:
        reader(refusal)
    assert caught.value.status == 4


def test_a_refusal_that_nobody_knows() -> None:
    with pytest.raises(Declined, match="77"):
        espprov.read_set_config(pack((1, 3), (13, pack((1, 77)))))


messages = st.binary(max_size=60) | st.builds(
    lambda fields: pack(*fields),
    st.lists(
        st.tuples(
            st.integers(1, 24),
            st.integers(0, 30)
            | st.builds(
                lambda *fields: pack(*fields), st.tuples(st.integers(1, 24), st.integers(0, 9) | st.binary(max_size=9))
            ),
        ),
        max_size=4,
    ),
)


@given(st.sampled_from([reader for reader, _ in READERS]), messages)
def test_whatever_is_answered(reader: Callable[[bytes], object], answer: bytes) -> None:
    try:
        reader(answer)
    except (Malformed, Declined):
        return


@given(messages)
def test_whatever_a_session_is_answered(answer: bytes) -> None:
    handshake = espprov.handshake(OLDER, secrets.token_bytes)
    for step in (handshake.prove, handshake.agreed):
        with pytest.raises((Malformed, Declined, Unproven)):
            step(answer)


@given(
    st.binary(max_size=60)
    | st.recursive(st.none() | st.text(max_size=5), st.lists).map(lambda value: json.dumps(value).encode())
)
@settings(max_examples=50)
def test_whatever_is_no_json(answer: bytes) -> None:
    for reader in (read_version, espprov.read_custom):
        try:
            reader(answer)
        except (Malformed, Unsuitable):
            continue
        assert reader is read_version


def test_who_a_board_is() -> None:
    members = {"status": "ok", "board": "Meter", "tmpl_id": "TMPL2feLBENZh", "fw_ver": "1.2.3", "last_error": 722}
    board = espprov.read_custom(json.dumps(members).encode())
    assert (board.template_name, board.template_id, board.last_error) == ("Meter", "TMPL2feLBENZh", 722)


def test_a_board_that_does_not_take_the_token() -> None:
    with pytest.raises(Unsuitable, match="custom-data"):
        espprov.read_custom(b'{"status":"error","msg":"Configuration invalid"}')


def test_a_board_that_does_not_say_who_it_is() -> None:
    with pytest.raises(Malformed):
        espprov.read_custom(b'{"status":"ok"}')

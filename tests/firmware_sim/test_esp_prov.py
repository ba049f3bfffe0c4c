import json
import secrets
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from firmware_sim import srp
from firmware_sim.errors import WrongUsage
from firmware_sim.esp_prov import ENDPOINTS, MAX_TRIES, Possession, Provisioning
from firmware_sim.log import SerialLog
from firmware_sim.onboarding import Settings
from firmware_sim.proto3 import data, number, pack, unpack
from firmware_sim.wifi_networks import Network
from provserver.core import espprov
from tests.support.wifi_board import WifiBoard, failure

TOKEN = "Zt4hYq8sWb2nLk6vRc1xMd9fPg3jTe7u"
LABEL = Possession("abcd1234", "wifiprov")
OLDER = Possession("abcd1234")
SILENT = SerialLog(None)
GIVEN = json.dumps({"token": TOKEN, "host": "iot.example.com", "port": 8883}).encode()
HOME = pack((1, 2), (12, pack((1, b"Home"), (2, b"secret"))))
APPLY = pack((1, 4), (14, b""))
STATUS = b"\x52\x00"  # as a client sends it that writes no zeros


class Phone:
    """One that knows the label, and says whatever it is told to say."""

    def __init__(self, device: Provisioning, label: Possession = LABEL) -> None:
        self._device = device
        self._label = espprov.Possession(label.proof, label.username)
        self._channel: espprov.Channel | None = None

    async def agree(self) -> bool:
        handshake = espprov.handshake(self._label, secrets.token_bytes)
        answer = await self._device.handle("prov-session", handshake.hello())
        if answer is None:
            return False
        answer = await self._device.handle("prov-session", handshake.prove(answer))
        if answer is None:
            return False
        self._channel = handshake.agreed(answer)
        return True

    async def say(self, endpoint: str, message: bytes) -> bytes | None:
        assert self._channel is not None
        answer = await self._device.handle(endpoint, self._channel.seal(message))
        return None if answer is None else self._channel.open(answer)

    async def config(self, message: bytes) -> tuple[int, bytes]:
        """The kind of the answer, and what is in it."""
        answer = await self.say("prov-config", message)
        assert answer is not None
        fields = unpack(answer)
        kind = number(fields, 1)
        return kind, data(fields, 10 + kind)


def made(board: WifiBoard | None = None, label: Possession = LABEL) -> Provisioning:
    board = board or WifiBoard()
    device = Provisioning(board, label, SILENT)
    board.watch(device.changed)
    return device


async def agreed(board: WifiBoard | None = None, label: Possession = OLDER) -> Phone:
    phone = Phone(made(board, label), label)
    assert await phone.agree()
    return phone


async def tried(board: WifiBoard) -> Phone:
    phone = await agreed(board)
    await phone.say("custom-data", GIVEN)
    assert await phone.config(HOME) == (3, b"")
    assert await phone.config(APPLY) == (5, b"")
    return phone


@pytest.mark.parametrize(("label", "version"), [(LABEL, (2, 1)), (OLDER, (1, 0))])
async def test_anybody_may_ask_for_the_version(label: Possession, version: tuple[int, int]) -> None:
    answer = await made(label=label).handle("proto-ver", b"---")
    assert answer is not None
    prov = json.loads(answer)["prov"]
    assert (prov["sec_ver"], prov["sec_patch_ver"]) == version
    assert prov["cap"] == ["wifi_scan"]


@pytest.mark.parametrize("label", [LABEL, OLDER])
async def test_who_it_is(label: Possession) -> None:
    board = WifiBoard()
    phone = await agreed(board, label)
    answer = await phone.say("custom-data", b"{}")
    assert answer is not None
    assert json.loads(answer) == {
        "status": "ok",
        "board": "Meter",
        "tmpl_id": "TMPL2feLBENZh",
        "fw_type": "TMPL2feLBENZh",
        "fw_ver": "1.2.3",
        "ssid": "Blynk Meter-8DCF",
        "mac": "AA:BB:CC:DD:EE:FF",
        "last_error": 0,
        "uid": "7f1a4c1e-3d5b-4a8e-9a53-6f2b1d9c0e77",
    }
    assert board.did == ["asked"]


async def test_what_it_is_given_is_what_it_tries() -> None:
    board = WifiBoard()
    await tried(board)
    assert board.configured == [
        Settings(ssid="Home", password="secret", token=TOKEN, host="iot.example.com", port=8883)
    ]


async def test_a_device_with_a_token_needs_none() -> None:
    board = WifiBoard(token=TOKEN)
    phone = await agreed(board)
    await phone.config(HOME)
    assert await phone.config(APPLY) == (5, b"")
    assert board.configured == [Settings(ssid="Home", password="secret", token=TOKEN)]


@pytest.mark.parametrize("before", [[], [GIVEN], [HOME]])
async def test_nothing_to_try(before: list[bytes]) -> None:
    board = WifiBoard()
    phone = await agreed(board)
    for message in before:
        await phone.say("custom-data" if message is GIVEN else "prov-config", message)
    assert await phone.config(APPLY) == (5, pack((1, 5)))  # InternalError
    assert board.configured == []


@pytest.mark.parametrize(
    "members",
    [
        {"token": TOKEN[1:]},
        {"token": 7},
        {"token": TOKEN, "host": "h" * 34},
        {"token": TOKEN, "host": None},
        {"token": TOKEN, "port": 0},
        {"token": TOKEN, "port": 65536},
        {"token": TOKEN, "port": True},
        {"token": TOKEN, "port": "8883"},
    ],
)
async def test_a_token_that_cannot_be(members: dict[str, object]) -> None:
    phone = await agreed()
    answer = await phone.say("custom-data", json.dumps(members).encode())
    assert answer == b'{"status":"error","msg":"Configuration invalid"}'


@pytest.mark.parametrize("message", [b"", b"token", b"[1]", b'"token"', b"[" * 100_000])
async def test_what_is_no_object(message: bytes) -> None:
    assert await (await agreed()).say("custom-data", message) == b'{"status":"error","msg":"wrong format"}'


@pytest.mark.parametrize(
    ("ssid", "password", "bssid"),
    [(b"", b"", b""), (b"s" * 33, b"", b""), (b"s", b"p" * 64, b""), (b"s", b"p", b"12345"), (b"s", b"p", b"1234567")],
)
async def test_a_network_that_cannot_be(ssid: bytes, password: bytes, bssid: bytes) -> None:
    phone = await agreed()
    message = pack((1, 2), (12, pack((1, ssid), (2, password), (3, bssid))))
    assert await phone.config(message) == (3, pack((1, 4)))  # InvalidArgument


async def test_the_longest_that_can_be() -> None:
    phone = await agreed()
    message = pack((1, 2), (12, pack((1, b"s" * 32), (2, b"p" * 63), (3, b"123456"), (4, 11))))
    assert await phone.config(message) == (3, b"")


CONNECTED = pack((2, 0), (11, b""))
CONNECTING, DISCONNECTED, WRONG_PASSWORD, NOT_FOUND = (
    pack((2, 1)),
    pack((2, 2)),
    pack((2, 3)),
    pack((2, 3), (10, 1)),
)


@pytest.mark.parametrize(
    ("last_error", "status"),
    [(722, WRONG_PASSWORD), (720, NOT_FOUND), (701, DISCONNECTED), (723, DISCONNECTED), (702, DISCONNECTED)],
)
async def test_how_it_failed(last_error: int, status: bytes) -> None:
    board = WifiBoard(outcomes=[()])
    phone = await tried(board)
    assert await phone.config(STATUS) == (1, CONNECTING)
    for state in failure(last_error):
        board.become(*state)
    assert await phone.config(STATUS) == (1, status)


async def test_a_network_without_the_server() -> None:
    board = WifiBoard(outcomes=[()])
    phone = await tried(board)
    board.become("CONNECTING_CLOUD")
    assert await phone.config(STATUS) == (1, CONNECTED)
    assert await phone.config(STATUS) == (1, CONNECTED)
    board.become("ERROR", 702)
    assert await phone.config(STATUS) == (1, DISCONNECTED)


@pytest.mark.parametrize("states", [["OFF", "WAIT_CONFIG"], ["RESET_CONFIG", "WAIT_CONFIG"], ["WAIT_CONFIG"]])
async def test_a_try_that_was_cut_short(states: list[str]) -> None:
    board = WifiBoard(outcomes=[(), ()])
    phone = await tried(board)
    for state in states:
        board.become(state)
    if len(states) > 1:
        assert await phone.say("custom-data", GIVEN) is None  # its session is gone
        assert await phone.agree()
    await phone.say("custom-data", GIVEN)
    assert await phone.config(HOME) == (3, b"")
    assert await phone.config(APPLY) == (5, b"")
    assert len(board.configured) == 2


async def test_after_a_failure_comes_a_reset() -> None:
    board = WifiBoard(outcomes=[(), ()])
    phone = await tried(board)
    board.become("ERROR", 722)
    await phone.config(HOME)
    assert await phone.config(APPLY) == (5, pack((1, 5)))
    assert await phone.say("prov-ctrl", pack((1, 1), (11, b""))) == pack((1, 2), (12, b""))
    await phone.config(HOME)
    assert await phone.config(APPLY) == (5, b"")
    assert len(board.configured) == 2


async def test_a_reset_without_a_failure() -> None:
    phone = await agreed()
    assert await phone.say("prov-ctrl", pack((1, 1), (11, b""))) == pack((1, 2), (2, 5), (12, b""))
    assert await phone.say("prov-ctrl", pack((1, 3), (13, b""))) == pack((1, 4), (14, b""))


async def test_one_try_at_a_time() -> None:
    board = WifiBoard(outcomes=[()])
    phone = await tried(board)
    await phone.config(HOME)
    assert await phone.config(APPLY) == (5, pack((1, 5)))


async def test_it_serves_until_its_success_was_told() -> None:
    board = WifiBoard(outcomes=[()])
    phone = await tried(board)
    board.become("CONNECTING_NET")
    board.become("RUNNING")
    assert await phone.config(STATUS) == (1, CONNECTED)
    assert await phone.say("prov-config", STATUS) is None
    board.become("WAIT_CONFIG")
    assert await phone.agree()


@pytest.mark.parametrize("state", ["OFF", "IDLE", "OTA_UPGRADE", "RUNNING"])
async def test_no_service(state: str) -> None:
    assert await made(WifiBoard(state=state)).handle("proto-ver", b"---") is None


async def test_networks_by_pages() -> None:
    networks = [Network(f"Net {at}", f"02:00:00:00:00:{at:02x}", -40 - at, sec, at) for at, sec in enumerate(SECURITY)]
    phone = await agreed(WifiBoard(networks=networks))
    assert await phone.say("prov-scan", pack((1, 2))) == pack((1, 3), (13, pack((1, 1))))  # none yet
    assert await phone.say("prov-scan", espprov.scan_start()) == pack((1, 1), (11, b""))
    assert await phone.say("prov-scan", pack((1, 2))) == pack((1, 3), (13, pack((1, 1), (2, len(networks)))))
    answer = await phone.say("prov-scan", pack((1, 4), (14, pack((1, 1), (2, 2)))))
    entries = [
        (1, pack((1, b"Net 1"), (2, 1), (3, -41), (4, b"\2\0\0\0\0\1"), (5, 1))),
        (1, pack((1, b"Net 2"), (2, 2), (3, -42), (4, b"\2\0\0\0\0\2"), (5, 2))),
    ]
    assert answer == pack((1, 5), (15, pack(*entries)))


SECURITY = ("OPEN", "WEP", "WPA", "WPA2", "WPA+WPA2", "WPA2-EAP", "WPA3", "WPA2+WPA3", "WAPI", "OWE")


async def test_more_networks_than_there_are() -> None:
    phone = await agreed()
    await phone.say("prov-scan", espprov.scan_start())
    answer = await phone.say("prov-scan", pack((1, 4), (14, pack((1, 1), (2, 1 << 40)))))
    assert answer is not None
    fields = unpack(answer)
    assert number(fields, 2) == 5
    assert len(unpack(data(fields, 15))[1]) == 1


@pytest.mark.parametrize("label", [LABEL, OLDER])
async def test_wrong_proofs_are_counted(label: Possession) -> None:
    board = WifiBoard()
    device = made(board, label)
    wrong = Phone(device, Possession("abcd1235", label.username))
    right = Phone(device, label)
    for _ in range(MAX_TRIES - 1):
        assert not await wrong.agree()
    assert await right.agree()
    for _ in range(MAX_TRIES):
        assert not await wrong.agree()
    assert not await right.agree()
    board.become("RESET_CONFIG")
    assert await right.agree()


@pytest.mark.parametrize("label", [LABEL, OLDER])
async def test_one_session_has_one_try(label: Possession) -> None:
    device = made(label=label)
    handshake = espprov.handshake(espprov.Possession(label.proof, label.username), secrets.token_bytes)
    answer = await device.handle("prov-session", handshake.hello())
    assert answer is not None
    proof = handshake.prove(answer)
    wrong = proof[:-1] + bytes([proof[-1] ^ 1])
    assert await device.handle("prov-session", wrong) is None
    assert await device.handle("prov-session", proof) is None


async def test_a_session_goes_when_another_begins() -> None:
    device = made()
    first, second = Phone(device), Phone(device)
    assert await first.agree()
    assert await second.agree()
    assert await first.say("custom-data", b"{}") is None
    assert await second.say("custom-data", b"{}") is not None


@pytest.mark.parametrize("endpoint", ENDPOINTS[2:])
async def test_nothing_without_a_session(endpoint: str) -> None:
    device = made()
    assert await device.handle(endpoint, b"{}") is None
    phone = Phone(device)
    assert await phone.agree()
    assert await device.handle(endpoint, b"{}" * 20) is None
    device.new_session()
    assert await phone.say(endpoint, b"{}") is None


async def test_what_is_sealed_is_of_one_place_in_one_session() -> None:
    board = WifiBoard()
    device = made(board)
    heard: list[tuple[str, bytes]] = []
    phone = Phone(device)
    assert await phone.agree()
    handle = device.handle

    async def tap(endpoint: str, body: bytes) -> bytes | None:
        heard.append((endpoint, body))
        return await handle(endpoint, body)

    device.handle = tap  # type: ignore[method-assign]
    await phone.say("custom-data", GIVEN)
    await phone.config(HOME)
    assert not [body for _, body in heard if TOKEN.encode() in body or b"secret" in body]
    for endpoint, body in heard:
        assert await handle(endpoint, body) is None


@pytest.mark.parametrize(
    "public", [b"", b"\1" * 383, b"\1" * 385, bytes(384), srp.N.to_bytes(384)], ids=["none", "short", "long", "0", "N"]
)
async def test_public_keys_that_cannot_be(public: bytes) -> None:
    request = pack((2, 2), (12, pack((20, pack((1, b"wifiprov"), (2, public))))))
    assert await made().handle("prov-session", request) is None


async def test_a_user_name_there_must_be() -> None:
    request = pack((2, 2), (12, pack((20, pack((2, b"\1" * 384))))))
    assert await made().handle("prov-session", request) is None


@pytest.mark.parametrize("public", [b"", b"\1" * 31, bytes(32)], ids=["none", "short", "0"])
async def test_public_keys_of_security_1_that_cannot_be(public: bytes) -> None:
    request = pack((2, 1), (11, pack((20, pack((1, public))))))
    assert await made(label=OLDER).handle("prov-session", request) is None


@pytest.mark.parametrize(
    "request_",
    [
        pack((2, 0), (10, pack((20, b"")))),
        pack((2, 1), (11, pack((20, pack((1, b"\1" * 32)))))),
        pack((2, 2), (12, pack((1, 1), (21, b"")))),
        pack((2, 2), (12, pack((1, 2), (22, pack((1, b"\1" * 64)))))),
        pack((2, 2), (12, 5)),
        pack((2, b"2")),
        b"\xff",
    ],
    ids=["security 0", "security 1", "an answer", "a proof at once", "no message", "no number", "nothing"],
)
async def test_what_begins_no_session(request_: bytes) -> None:
    assert await made().handle("prov-session", request_) is None


@given(st.sampled_from(ENDPOINTS), st.binary(max_size=64))
@settings(max_examples=30)  # each makes a verifier
async def test_whatever_comes(endpoint: str, body: bytes) -> None:
    board = WifiBoard()
    answer = await made(board).handle(endpoint, body)
    assert answer is None or endpoint == "proto-ver"
    assert not board.did
    assert not board.configured


@given(st.sampled_from(ENDPOINTS[2:]), st.binary(max_size=64))
async def test_whatever_comes_in_a_session(endpoint: str, message: bytes) -> None:
    phone = await agreed(label=OLDER)
    await phone.say(endpoint, message)


@pytest.mark.parametrize(
    "text",
    [
        '{"ver":"v1","name":"PROV_1","username":"wifiprov","pop":"abcd1234","transport":"softap"}',
        "wifiprov\nabcd1234\n",
    ],
)
def test_a_label_with_a_user_name(tmp_path: Path, text: str) -> None:
    (tmp_path / "label").write_text(text)
    assert Possession.read(tmp_path / "label") == LABEL


@pytest.mark.parametrize("text", ['{"pop":"abcd1234"}', "abcd1234"])
def test_a_label_without(tmp_path: Path, text: str) -> None:
    (tmp_path / "label").write_text(text)
    assert Possession.read(tmp_path / "label") == OLDER


@pytest.mark.parametrize("text", ["", "{", "{}", '{"pop":""}', '{"pop":1}', '{"pop":"a","username":1}'])
def test_no_label(tmp_path: Path, text: str) -> None:
    (tmp_path / "label").write_text(text)
    with pytest.raises(WrongUsage, match="label"):
        Possession.read(tmp_path / "label")


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(WrongUsage):
        Possession.read(tmp_path / "label")


def test_a_label_is_not_shown() -> None:
    assert "abcd" not in repr(LABEL)

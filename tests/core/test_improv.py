import pytest
from hypothesis import given
from hypothesis import strategies as st

from firmware_sim.improv import Connect, Service, networks_found
from firmware_sim.wifi_networks import Network
from provserver.core import improv
from provserver.core.board import Board, Generation, WifiNetwork
from provserver.core.edgent import Settings
from provserver.core.improv import Decoder, ErrorState, Packet, Result, State
from tests.support.wifi_board import WifiBoard

AUTH = "Zt4hYq8sWb2nLk6vRc1xMd9fPg3jTe7u"
EXAMPLE = Settings(AUTH, ssid="MyWirelessAP", password="mysecurepassword")

texts = st.text(st.characters(exclude_categories=["C"]), min_size=1, max_size=8)
noise = st.binary(max_size=20).filter(lambda data: b"I" not in data)


def packet(kind: int, body: bytes) -> bytes:
    unsummed = b"IMPROV\x01" + bytes((kind, len(body))) + body
    return unsummed + bytes((sum(unsummed) & 0xFF,))


def test_the_example_of_the_specification() -> None:
    body = b"\x01\x1e\x0cMyWirelessAP\x10mysecurepassword"

    assert improv.wifi(EXAMPLE) == packet(3, body) + b"\n"


def test_token_host_and_port_go_as_the_network_does() -> None:
    settings = Settings(AUTH, "iot.example.com", 8443)

    assert improv.cloud(settings) == packet(3, b"\xf0\x36\x20" + AUTH.encode() + b"\x0fiot.example.com\x048443") + b"\n"
    assert improv.cloud(EXAMPLE) == packet(3, b"\xf0\x23\x20" + AUTH.encode() + b"\0\0") + b"\n"


@pytest.mark.parametrize(
    ("received", "packets"),
    [
        (packet(1, b"\x02"), [State(2)]),
        (packet(2, b"\x03"), [ErrorState(3)]),
        (packet(4, b"\x04\x00"), [Result(4, ())]),
        (packet(4, b"\x03\x04\x01a\x00\x00"), [Result(3, ("a", "", ""))]),
        (packet(4, b"\x03\x02\x01\xff"), [Result(3, ("\N{REPLACEMENT CHARACTER}",))]),
        (b"I (12) wifi: IMPROV\n" + packet(1, b"\x04") + b"\nIMPR", [State(4)]),
        (packet(1, b"\x02")[:-1] + b"\x00" + packet(1, b"\x03"), [State(3)]),
        (b"IMPROV\x02\x01\x01\x02\x00" + packet(1, b"\x03"), [State(3)]),
        (packet(1, b"\x02\x02"), []),
        (packet(4, b"\x03"), []),
        (packet(4, b"\x03\x05\x01a"), []),
        (packet(4, b"\x03\x02\x05a"), []),
        (packet(3, b"\x02\x00"), []),
        (packet(9, b"x"), []),
    ],
)
def test_what_a_device_says(received: bytes, packets: list[Packet]) -> None:
    assert Decoder().feed(received) == packets


@given(st.lists(st.sampled_from([packet(1, b"\x02"), packet(4, b"\x03\x02\x01a"), packet(2, b"\x00")])), st.data())
def test_packets_are_found_in_pieces_and_between_noise(packets: list[bytes], data: st.DataObject) -> None:
    stream = b"".join(data.draw(noise) + each for each in packets) + data.draw(noise)
    decoder, found = Decoder(), []
    while stream:
        size = data.draw(st.integers(1, len(stream)))
        found += decoder.feed(stream[:size])
        stream = stream[size:]

    assert found == [read for each in packets for read in Decoder().feed(each)]


@given(st.lists(st.binary(max_size=60) | st.just(b"IMPROV\x01")))
def test_nothing_that_comes_is_an_error(stream: list[bytes]) -> None:
    decoder = Decoder()
    for data in stream:
        decoder.feed(data)

    assert len(decoder._received) < 300


@pytest.mark.parametrize(
    ("texts_", "board"),
    [
        (("TMPL2feLBENZh", "1.2.3", "ESP32", "Blynk Meter-8DCF"), ("Blynk Meter-8DCF", "TMPL2feLBENZh", "1.2.3")),
        (("ESPHome", "2026.10.0", "ESP32", "Kitchen", "os", "1"), ("Kitchen", "", "2026.10.0")),
        ((), ("", "", "")),
    ],
)
def test_a_board(texts_: tuple[str, ...], board: tuple[str, str, str]) -> None:
    name, template_id, version = board

    assert improv.board(texts_, 722) == Board(
        name, template_id, "", texts_[0] if texts_ else "", version, last_error=722, generation=Generation.EDGENT
    )


@pytest.mark.parametrize(
    ("texts_", "network"),
    [
        (("Home", "-60", "YES"), WifiNetwork("Home", -60, "unknown")),
        (("Café", "-60", "NO"), WifiNetwork("Café", -60, "OPEN")),
        (("Home", "-60", "WPA2"), WifiNetwork("Home", -60, "WPA2")),
        (("Home", "loud"), WifiNetwork("Home", 0, "")),
    ],
)
def test_a_network(texts_: tuple[str, ...], network: WifiNetwork) -> None:
    assert improv.network(texts_) == network


# --- with the simulator's device, which has its own reading of the same words


def heard(service: Service, question: bytes) -> tuple[list[Packet], list[object]]:
    """What the phone reads of a device's answer, and what the device does."""
    effects = service.receive(question)
    return (
        [read for each in effects if isinstance(each, bytes) for read in Decoder().feed(each)],
        [each for each in effects if not isinstance(each, bytes)],
    )


@given(texts, texts, st.sampled_from(["", "iot.example.com"]), st.none() | st.integers(1, 65535), st.data())
def test_a_device_takes_what_the_phone_hands_over(
    ssid: str, password: str, host: str, port: int | None, data: st.DataObject
) -> None:
    settings = Settings(AUTH, host, port, ssid, password)
    service = Service(WifiBoard())
    taken, _ = heard(service, data.draw(noise) + improv.cloud(settings))
    answer, actions = heard(service, data.draw(noise) + improv.wifi(settings))

    assert taken == [ErrorState(0), Result(improv.CLOUD, ())]
    assert answer == [ErrorState(0)]
    [connect] = actions
    assert isinstance(connect, Connect)
    got = connect.settings
    assert (got.ssid, got.password, got.token, got.host, got.port) == (ssid, password, AUTH, host, port)


@given(st.lists(st.builds(Network, texts, rssi=st.integers(-99, 0), sec=st.sampled_from(["OPEN", "WPA2"]))))
def test_the_phone_sees_the_networks_that_the_device_sees(seen: list[Network]) -> None:
    packets = Decoder().feed(b"".join(networks_found(seen)))

    assert packets[-1] == Result(improv.SCAN, ())
    assert [improv.network(each.texts) for each in packets[:-1] if isinstance(each, Result)] == [
        WifiNetwork(each.ssid, each.rssi, "OPEN" if each.sec == "OPEN" else "unknown") for each in seen
    ]


def test_the_phone_knows_the_device_and_its_last_error() -> None:
    board = WifiBoard(last_error=722)
    service = Service(board)
    [_, info], _ = heard(service, improv.command(improv.INFO))
    [_, last_error], _ = heard(service, improv.command(improv.LAST_ERROR))

    assert isinstance(info, Result)
    assert improv.board(info.texts) == Board(
        name=board.board.name,
        template_id=board.board.template,
        firmware_type=board.board.firmware_type,
        firmware_version=board.board.version,
        generation=Generation.EDGENT,
    )
    assert last_error == Result(improv.LAST_ERROR, ("722",))

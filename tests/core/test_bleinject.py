import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firmware_sim.ble_inject import Connect, Peripheral
from firmware_sim.wifi_networks import Network
from provserver.core import bleinject
from provserver.core.bleinject import (
    Connecting,
    Erased,
    Failed,
    Fault,
    Interfaces,
    Listener,
    Networks,
    NotTaken,
    Status,
    Taken,
)
from provserver.core.board import MAX_NETWORKS, Board, Generation, WifiNetwork, strongest, trouble
from provserver.core.edgent import Settings
from tests.support.wifi_board import IDENTITY

AUTH = "Zt4hYq8sWb2nLk6vRc1xMd9fPg3jTe7u"
SETTINGS = Settings(AUTH, "iot.example.com", 8443, 'The "Net"', "p&ss+wörd#")

texts = st.text(st.characters(exclude_categories=["C"]), min_size=1, max_size=8)
networks = st.lists(
    st.builds(Network, texts, rssi=st.integers(-90, 0), sec=st.sampled_from(["OPEN", "WPA2", "WPA2+WPA3"]))
)


@pytest.mark.parametrize(
    ("question", "members"),
    [
        (bleinject.info(), {"t": "info"}),
        (bleinject.interfaces(), {"t": "ifs"}),
        (bleinject.scan(), {"t": "scan"}),
        (bleinject.connect(), {"t": "connect"}),
        (bleinject.reset(), {"t": "reset"}),
        (bleinject.reboot(), {"t": "reboot"}),
        (
            bleinject.hand_over(SETTINGS),
            {
                "t": "set",
                "if": "wifi",
                "ssid": 'The "Net"',
                "pass": "p&ss+wörd#",
                "blynk": AUTH,
                "host": "iot.example.com",
            },
        ),
        (
            bleinject.hand_over(Settings(AUTH, ssid="Open")),
            {"t": "set", "if": "wifi", "ssid": "Open", "pass": "", "blynk": AUTH},
        ),
    ],
)
def test_what_the_phone_says(question: bytes, members: dict[str, str]) -> None:
    assert json.loads(question) == members
    assert len(question) <= bleinject.MAX_MESSAGE


@pytest.mark.parametrize(
    ("message", "event"),
    [
        ('{"t":"set_ok"}', Taken()),
        ('{"t":"set_fail"}', NotTaken()),
        ('{"t":"connecting"}', Connecting()),
        ('{"t":"status","s":"connecting_cloud"}', Status("connecting_cloud")),
        ('{"t":"connect_fail","msg":"configuration invalid"}', Failed(700)),
        ('{"t":"net_fail","reason":"invalid_credentials"}', Failed(722)),
        ('{"t":"net_fail","reason":"new","msg":"what"}', Failed(701)),
        ('{"t":"net_fail"}', Failed(701)),
        ('{"t":"cloud_fail","reason":"auth_failed"}', Failed(703)),
        ('{"t":"cloud_fail","reason":7}', Failed(705)),
        ('{"t":"reset_ok"}', Erased()),
        ('{"t":"error","msg":"no wifi"}', Fault("no wifi")),
        ('{"t":"net_status","if":"wifi","state":"connected"}', None),
        ('{"t":"info"}', Board("", "", generation=Generation.EDGENT)),
        ('{"t":"info","tmpl_id":["x"],"name":3}', Board("", "", generation=Generation.EDGENT)),
        ('{"t":"from later firmware"}', None),
        ('{"t":"scan","ssid":"cut off by a buff', None),
        ("[]", None),
        ("", None),
    ],
)
def test_what_the_device_says(message: str, event: object) -> None:
    assert Listener().receive(message.encode()) == event


def test_each_failure_has_words() -> None:
    codes = {*bleinject._NETWORK_FAILURES.values(), *bleinject._CLOUD_FAILURES.values(), 700}

    assert all(trouble(code).word != "unknown" for code in codes)


def test_a_network_that_cannot_be_read_takes_no_other_with_it() -> None:
    listener = Listener()
    for message in ('{"t":"scan_start"}', '{"t":"scan","ssid":"lo', '{"t":"scan","ssid":"Home","rssi":-40,"ch":6}'):
        assert listener.receive(message.encode()) is None

    assert listener.receive(b'{"t":"scan_end"}') == Networks((WifiNetwork("Home", -40, "unknown", 6),))


def test_a_device_that_never_ends_fills_no_memory() -> None:
    listener = Listener()
    for number in range(3 * MAX_NETWORKS):
        listener.receive(f'{{"t":"scan","ssid":"{number}","rssi":-1}}'.encode())
        listener.receive(b'{"t":"if","name":"wifi"}')
    found, kinds = listener.receive(b'{"t":"scan_end"}'), listener.receive(b'{"t":"ifs_end"}')

    assert isinstance(found, Networks)
    assert len(found.found) == MAX_NETWORKS
    assert isinstance(kinds, Interfaces)
    assert len(kinds.names) == MAX_NETWORKS


@given(st.lists(st.binary(max_size=600) | st.sampled_from([b'{"t":"scan_end"}', b'{"t":"ifs_end"}', b'{"t":{}}'])))
def test_nothing_that_a_device_says_is_an_error(messages: list[bytes]) -> None:
    listener = Listener()
    for message in messages:
        listener.receive(message)


json_values = st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists, max_leaves=4)


@given(st.dictionaries(st.sampled_from(["ssid", "rssi", "reason", "s", "name"]), json_values, max_size=3))
def test_no_member_that_a_device_says_is_an_error(members: dict[str, object]) -> None:
    listener = Listener()
    for kind in ("info", "if", "ifs_end", "scan", "scan_end", "net_fail", "cloud_fail", "status", "error", None):
        listener.receive(json.dumps(members | {"t": kind}).encode())


# --- with the simulator's device, which has its own reading of the same words


@given(texts, texts, st.sampled_from(["", "iot.example.com"]))
def test_a_device_takes_what_the_phone_hands_over(ssid: str, password: str, host: str) -> None:
    peripheral, listener = Peripheral(IDENTITY), Listener()
    settings = Settings(AUTH, host, None, ssid, password)

    taken = [listener.receive(m) for m in peripheral.receive(bleinject.hand_over(settings)) if isinstance(m, bytes)]
    connecting = peripheral.receive(bleinject.connect())

    assert taken == [Taken()]
    assert isinstance(connecting[0], bytes)
    assert listener.receive(connecting[0]) == Connecting()
    assert isinstance(connecting[1], Connect)
    got = connecting[1].settings
    assert (got.ssid, got.password, got.token, got.host) == (ssid, password, AUTH, host)


@given(networks)
def test_the_phone_sees_the_networks_that_the_device_sees(seen: list[Network]) -> None:
    loudest = sorted(seen, key=lambda network: -network.rssi)
    listener = Listener()
    begun = Peripheral(IDENTITY).receive(bleinject.scan())[0]
    assert isinstance(begun, bytes)
    assert listener.receive(begun) is None
    *_, last = (listener.receive(message) for message in Peripheral(IDENTITY).scanned(loudest))

    expected = [WifiNetwork(each.ssid, each.rssi, each.sec, each.ch, each.bssid) for each in loudest[:30]]
    assert last == Networks(tuple(strongest(expected)))


@given(st.sampled_from([701, 702, 703, 705, 710, 711, 712, 720, 721, 722, 723, 730, 731, 732, 700]))
def test_a_failure_is_the_same_at_both_ends(last_error: int) -> None:
    peripheral, listener = Peripheral(IDENTITY), Listener()
    peripheral.receive(bleinject.hand_over(SETTINGS))
    peripheral.receive(bleinject.connect())

    said = [
        listener.receive(message)
        for state in ("SWITCH_TO_STA", "CONNECTING_NET", "CONNECTING_NET", "ERROR", "WAIT_CONFIG")
        for message in peripheral.changed(state, last_error if state in ("ERROR", "WAIT_CONFIG") else 0)
    ]

    assert said == [Status("connecting_net"), Failed(last_error)]


def test_a_board_is_the_same_at_both_ends() -> None:
    listener, identity = Listener(), IDENTITY
    said = [m for m in Peripheral(identity).receive(bleinject.info()) if isinstance(m, bytes)]
    kinds = [m for m in Peripheral(identity).receive(bleinject.interfaces()) if isinstance(m, bytes)]

    assert listener.receive(said[0]) == Board(
        name=identity.name,
        template_id=identity.template,
        firmware_type=identity.firmware_type,
        firmware_version=identity.version,
        uid=identity.uid or "",
        generation=Generation.EDGENT,
    )
    assert [listener.receive(message) for message in kinds][-1] == Interfaces(("wifi",))

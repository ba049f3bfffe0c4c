"""Golden transcripts: each path to its last byte, but for the pages, whose words are ours."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firmware_sim.board import Board, Generation
from firmware_sim.config_store import Config
from firmware_sim.edgent_state import Edgent, Restart, State
from firmware_sim.generations import firmware
from firmware_sim.softap import Reader, Request, SoftAp
from firmware_sim.wifi_networks import Network, Networks

MAC = bytes.fromhex("FFEEDDCCBBAA")
TOKEN = "a" * 32
QUOTED = 'Bob\'s "attic"'
AROUND = Networks(
    [
        Network("Weak", "02:00:00:00:00:02", -95, "OPEN", 1),
        Network(QUOTED, "02:00:00:00:00:01", -40, "WPA2+WPA3", 11),
        Network("Hidden", "02:00:00:00:00:03", -60, "WPA2", 6, hidden=True),
    ]
)


def booted(generation: Generation) -> Edgent:
    return firmware(
        Board(MAC, "TMPL1", "Garage", generation), Config(uid="11111111-2222-4333-8444-555555555555"), AROUND
    )


def is_in(edgent: Edgent, state: State) -> bool:
    return edgent.state is state


def read(data: bytes) -> Request | None:
    reader = Reader()
    reader.feed(data)
    return reader.request


def exchange(edgent: Edgent, data: bytes) -> bytes | None:
    request = read(data)
    assert request
    response = SoftAp(edgent, AROUND).respond(request, 10.0)
    return response.encode(request.version) if response else None


def get(edgent: Edgent, target: str) -> bytes | None:
    return exchange(edgent, f"GET {target} HTTP/1.1\r\nHost: 192.168.4.1\r\n\r\n".encode())


def answer(status: str, kind: str, body: str, more: str = "") -> bytes:
    return (
        f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\n{more}Content-Length: {len(body.encode())}\r\n"
        f"Connection: close\r\n\r\n{body}"
    ).encode()


GOOD = f"/config?ssid=Home&pass=p%26q&blynk={TOKEN}&host=h&port_ssl=9443"
INVALID = '{"status":"error","msg":"Configuration invalid"}'
TRYING = '{"status":"ok","msg":"Trying to connect..."}'
CLASSIC_BOARD = (
    '{"board":"Garage","tmpl_id":"TMPL1","fw_type":"TMPL1","fw_ver":"0.1.0","ssid":"Blynk Garage-8DCF",'
    '"bssid":"FF:EE:DD:CC:BB:AB","mac":"FF:EE:DD:CC:BB:AA","last_error":0,"wifi_scan":true,"static_ip":true}'
)
EDGENT_BOARD = (
    '{"vendor":"Blynk","tmpl_id":"TMPL1","fw_type":"TMPL1","fw_ver":"0.1.0","name":"Blynk Garage-8DCF",'
    '"uid":"11111111-2222-4333-8444-555555555555","bssid":"FF:EE:DD:CC:BB:AB","last_error":0,'
    '"ifs":[{"name":"wifi","mac":"FF:EE:DD:CC:BB:AA","scan":1,"5ghz":0,"static_ip":1}]}'
)
CLASSIC_SCAN = (
    '[\n  {"ssid":"Bob\'s "attic"","bssid":"02:00:00:00:00:01","rssi":-40,"sec":"WPA2+WPA3","ch":11},\n'
    '  {"ssid":"","bssid":"02:00:00:00:00:03","rssi":-60,"sec":"WPA2","ch":6},\n'
    '  {"ssid":"Weak","bssid":"02:00:00:00:00:02","rssi":-95,"sec":"OPEN","ch":1}\n]'
)
EDGENT_SCAN = '[{"ssid":"Bob\'s \\"attic\\"","bssid":"02:00:00:00:00:01","rssi":-40,"sec":"WPA2+WPA3","ch":11}]'
JSON, HTML, TEXT = "application/json", "text/html", "text/plain"
CLASSIC, EDGENT = Generation.CLASSIC, Generation.EDGENT


@pytest.mark.parametrize(
    ("generation", "target", "golden"),
    [
        (CLASSIC, "/board_info.json", answer("200 OK", JSON, CLASSIC_BOARD)),
        (EDGENT, "/board_info.json", answer("200 OK", JSON, EDGENT_BOARD)),
        (CLASSIC, "/wifi_scan.json", answer("200 OK", JSON, CLASSIC_SCAN)),
        (EDGENT, "/wifi_scan.json", answer("200 OK", JSON, EDGENT_SCAN)),
        (CLASSIC, GOOD, answer("200 OK", JSON, TRYING)),
        (CLASSIC, f"{GOOD}&save=1", answer("200 OK", JSON, '{"status":"ok","msg":"Configuration saved"}')),
        (CLASSIC, "/config?ssid=Home&blynk=short", answer("500 Internal Server Error", JSON, INVALID)),
        (EDGENT, GOOD, answer("500 Internal Server Error", JSON, INVALID)),
        (EDGENT, f"{GOOD}&if=wifi&save=1", answer("200 OK", JSON, TRYING)),
        (CLASSIC, "/reset", answer("200 OK", JSON, '{"status":"ok","msg":"Configuration reset"}')),
        (EDGENT, "/reset", answer("200 OK", JSON, '{"status":"ok","msg":"Configuration reset"}')),
        (CLASSIC, "/no?x=1", answer("404 Not Found", HTML, "Not found: /no")),
        (EDGENT, "/no?x=1", answer("404 Not Found", TEXT, "Not found")),
        (CLASSIC, "/reboot", None),
        (EDGENT, "/reboot", None),
    ],
)
def test_a_path(generation: Generation, target: str, golden: bytes | None) -> None:
    assert get(booted(generation), target) == golden


@pytest.mark.parametrize("generation", Generation)
@pytest.mark.parametrize(("target", "more"), [("/", ""), ("/update", "Connection: close\r\n")])
def test_a_page(generation: Generation, target: str, more: str) -> None:
    page = get(booted(generation), target)
    assert page
    body = page.partition(b"\r\n\r\n")[2].decode()
    assert page == answer("200 OK", HTML, body, more)
    assert "<form" in body


def multipart(content: bytes) -> bytes:
    body = (
        b'--x\r\nContent-Disposition: form-data; name="update"; filename="f.bin"\r\n\r\n' + content + b"\r\n--x--\r\n"
    )
    return (
        b"POST /update HTTP/1.1\r\nContent-Type: multipart/form-data; boundary=x\r\nContent-Length: %d\r\n\r\n"
        % len(body)
        + body
    )


@pytest.mark.parametrize("generation", Generation)
def test_an_update(generation: Generation) -> None:
    closing = "Connection: close\r\n"
    edgent = booted(generation)
    assert exchange(edgent, multipart(b"\xe9image")) == answer("200 OK", TEXT, "OK", closing)
    assert exchange(edgent, multipart(b"no image")) == answer("500 Internal Server Error", TEXT, "FAIL", closing)


def test_what_a_path_does() -> None:
    edgent = booted(CLASSIC)
    get(edgent, "/board_info.json")
    assert is_in(edgent, State.CONFIGURING)
    get(edgent, GOOD)
    assert is_in(edgent, State.SWITCH_TO_STA)
    assert edgent.config.networks[0].password == "p&q"
    edgent = booted(EDGENT)
    get(edgent, "/board_info.json")
    assert is_in(edgent, State.WAIT_CONFIG)
    get(edgent, f"{GOOD}&if=wifi")
    assert is_in(edgent, State.CONNECTING_NET)
    get(edgent, "/reboot")
    assert Restart() in edgent.effects


def test_a_quote_breaks_the_classic_list_and_not_the_new_one() -> None:
    with pytest.raises(json.JSONDecodeError):
        json.loads(CLASSIC_SCAN)
    assert json.loads(EDGENT_SCAN)[0]["ssid"] == QUOTED


def test_fifteen_networks_at_most() -> None:
    many = Networks([Network(f"n{number}", rssi=-number) for number in range(40)])
    response = SoftAp(booted(CLASSIC), many).respond(Request("GET", "/wifi_scan.json"), 1.0)
    assert response
    assert [network["rssi"] for network in json.loads(response.content)] == [-number for number in range(15)]
    assert response.after == 2.5


def test_no_networks() -> None:
    response = SoftAp(booted(CLASSIC), Networks([])).respond(Request("GET", "/wifi_scan.json"), 1.0)
    assert response
    assert response.content == b"[]"


def test_forms_may_be_posted() -> None:
    body = f"ssid=Home&blynk={TOKEN}&pass=a+b%2Bc".encode()
    head = b"POST /config HTTP/1.0\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: %d\r\n\r\n"
    edgent = booted(CLASSIC)
    response = exchange(edgent, head % len(body) + body)
    assert response
    assert response.startswith(b"HTTP/1.0 200 OK\r\n")
    assert edgent.config.networks[0].password == "a b+c"


def test_a_written_network_wins_over_a_chosen_one() -> None:
    edgent = booted(CLASSIC)
    get(edgent, f"{GOOD}&ssidManual=Other")
    assert edgent.config.networks[0].ssid == "Other"


def test_a_request_comes_in_pieces() -> None:
    reader = Reader()
    data = multipart(b"\xe9" * 100)
    for position in range(len(data) - 1):
        reader.feed(data[position : position + 1])
        assert reader.request is None
    reader.feed(data[-1:])
    assert reader.request
    assert reader.request.image == b"\xe9" * 100


def test_what_is_no_request_is_not_answered() -> None:
    for data in (b"GET /\r\n\r\n", b"\x00" * 20_000, b"POST /config HTTP/1.1\r\nContent-Length: 99999999\r\n\r\n"):
        reader = Reader()
        reader.feed(data)
        assert reader.broken
        assert reader.request is None


@given(st.binary(max_size=400), st.sampled_from(Generation))
def test_nothing_that_is_sent_breaks_it(data: bytes, generation: Generation) -> None:
    reader = Reader()
    reader.feed(data)
    if reader.request:
        SoftAp(booted(generation), AROUND).respond(reader.request, 1.0)
    reader = Reader()
    reader.feed(b"GET /config?" + data.replace(b"\r", b"").replace(b" ", b"") + b" HTTP/1.1\r\n\r\n")
    assert reader.request
    SoftAp(booted(generation), AROUND).respond(reader.request, 1.0)

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest

from provserver.adapters.access_point import MAX_ANSWER, AccessPoint, access_point, checked, gateways
from provserver.core.board import Generation, Report
from provserver.core.edgent import BLANK, Settings
from provserver.errors import Invalid, Refused
from tests.support.access_point import CLASSIC, EDGENT, TAKEN, TEMPLATE, FakeAccessPoint

SETTINGS = Settings("A" * 32, "prov.example.com", 1883, "Bob's & Ann's #1", 'p&a=s+s# "%2F"\\ü ')


@pytest.fixture
def fake() -> Iterator[FakeAccessPoint]:
    with FakeAccessPoint.of() as opened:
        yield opened


@asynccontextmanager
async def reached(fake: FakeAccessPoint) -> AsyncIterator[AccessPoint]:
    async with access_point(fake.address, interval=0.01) as way:
        yield way


async def test_it_says_who_it_is_and_what_it_sees(fake: FakeAccessPoint) -> None:
    async with reached(fake) as way:
        board = await way.board()
        assert (board.name, board.template_id) == ("Blynk Thermostat-8DCF", TEMPLATE)
        assert [each.ssid for each in await way.networks()] == ["Home", 'Bob"s "attic"', "Cafe"]
    assert fake.targets == ["/board_info.json", "/wifi_scan.json"]


async def test_settings_arrive_as_they_are(fake: FakeAccessPoint) -> None:
    async with reached(fake) as way:
        await way.board()
        await way.configure(SETTINGS)
        await way.configure(Settings(BLANK, "10.0.0.1", None, "Cafe"))
    arrived = "/config?ssid=Bob%27s%20%26%20Ann%27s%20%231&pass=p%26a%3Ds%2Bs%23%20%22%252F%22%5C%C3%BC%20"
    assert fake.targets[1:] == [
        f"{arrived}&blynk={'A' * 32}&host=prov.example.com&port=1883&port_ssl=1883",
        f"/config?ssid=Cafe&pass=&blynk={BLANK}&host=10.0.0.1&port=443&port_ssl=443",
    ]


async def test_new_firmware_is_told_the_interface_and_no_port() -> None:
    with FakeAccessPoint.of(EDGENT) as fake:
        async with reached(fake) as way:
            assert (await way.board()).generation is Generation.EDGENT
            await way.configure(Settings(BLANK, "10.0.0.1", None, "Cafe"))
    assert fake.targets[1:] == [f"/config?if=wifi&ssid=Cafe&pass=&blynk={BLANK}&host=10.0.0.1"]


async def test_settings_that_are_not_taken_are_said(fake: FakeAccessPoint) -> None:
    for answer in (500, b'{"status":"error","msg":"Configuration invalid"}'), (200, b"no JSON"), (404, TAKEN):
        fake.script["/config"] = [answer]
        async with reached(fake) as way:
            with pytest.raises(Refused, match="does not take its settings") as refused:
                await way.configure(SETTINGS)
        assert SETTINGS.auth not in str(refused.value)
        assert SETTINGS.password not in str(refused.value)


async def test_settings_whose_answer_is_lost_may_have_arrived(fake: FakeAccessPoint) -> None:
    fake.script["/config"] = [None]
    async with reached(fake) as way:
        await way.configure(SETTINGS)
        assert [each for each in fake.targets if each.startswith("/config")]
        fake.close_after("/config")
        await way.configure(SETTINGS)


async def test_nobody_there_is_said_with_what_to_do(fake: FakeAccessPoint) -> None:
    async with reached(fake) as way:
        await way.board()
        fake.close()
        with pytest.raises(Refused, match=r"No device answers at 127.*Join its access point"):
            await way.board()
        with pytest.raises(Refused, match="gone silent"):
            await way.networks()
        with pytest.raises(Refused, match="went away before"):
            await way.configure(SETTINGS)


@pytest.mark.parametrize(
    "answer", [(200, b"<html>"), (302, b""), (404, b"Not found"), (200, b"[" * (MAX_ANSWER + 1)), None]
)
async def test_what_is_no_device_is_said(fake: FakeAccessPoint, answer: tuple[int, bytes] | None) -> None:
    fake.script["/board_info.json"] = [answer]
    async with reached(fake) as way:
        with pytest.raises(Refused, match=fake.address):
            await way.board()


async def test_a_connection_that_breaks_is_tried_again(fake: FakeAccessPoint) -> None:
    fake.script["/board_info.json"][:0] = [None, None]
    async with reached(fake) as way:
        assert (await way.board()).template_id == TEMPLATE


async def test_firmware_that_cannot_look_for_networks_sees_none(fake: FakeAccessPoint) -> None:
    for answer in (404, b"Not found"), (200, b"{}"):
        fake.script["/wifi_scan.json"] = [answer]
        async with reached(fake) as way:
            assert not await way.networks()


async def test_older_firmware_comes_back_with_what_went_wrong(fake: FakeAccessPoint) -> None:
    async with reached(fake) as way:
        await way.board()
        fake.close()
        outcome = asyncio.ensure_future(way.outcome())
        fake.script["/board_info.json"] = [(200, b"<html>a router</html>"), (200, CLASSIC % (TEMPLATE.encode(), 701))]
        fake.open()
        assert await outcome == Report(online=False, last_error=701)


async def test_another_device_at_the_same_address_is_not_listened_to(fake: FakeAccessPoint) -> None:
    async with reached(fake) as way:
        await way.board()
        own = CLASSIC % (TEMPLATE.encode(), 702)
        fake.script["/board_info.json"] = [(200, own.replace(b"EE:FF", b"EE:00")), (200, own)]
        assert await way.outcome() == Report(online=False, last_error=702)


async def test_new_firmware_tells_while_its_access_point_stays_open() -> None:
    """An error of the try before is none of this one."""
    with FakeAccessPoint.of(EDGENT, errors=(701, 701, 0, 0, 722)) as fake:
        async with reached(fake) as way:
            await way.board()
            assert await way.outcome() == Report(online=False, last_error=722)
    with FakeAccessPoint.of(EDGENT, errors=(701, 0, 701)) as fake:
        async with reached(fake) as way:
            await way.board()
            assert await way.outcome() == Report(online=False, last_error=701)


async def test_one_address_is_found_among_the_gateways(fake: FakeAccessPoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("provserver.adapters.access_point.USUAL", "127.0.0.1:1")
    monkeypatch.setattr("provserver.adapters.access_point.gateways", lambda _: [fake.address])
    async with access_point(interval=0.01) as way:
        assert way.address == fake.address
    fake.close()
    async with access_point(interval=0.01) as way:
        assert way.address == "127.0.0.1:1"


def test_gateways_are_read_of_the_table_of_routes() -> None:
    assert gateways(
        "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\n"
        "wlan0\t00000000\t0104A8C0\t0003\t0\t0\t600\t00000000\n"
        "wlan0\t0004A8C0\t00000000\t0001\t0\t0\t600\t00FFFFFF\n"
        "odd\n"
    ) == ["192.168.4.1"]
    assert gateways("") == []


def test_addresses_are_checked() -> None:
    for right in ("192.168.4.1", "192.168.4.1:8080", "blynk.setup"):
        assert checked(right) == right
    for wrong in ("", "http://192.168.4.1", "a@b", "192.168.4.1/x", "192.168.4.1:0", "192.168.4.1:port", "h:1#x"):
        with pytest.raises(Invalid):
            checked(wrong)

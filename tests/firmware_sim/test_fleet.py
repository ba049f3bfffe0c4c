import asyncio
import json
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest
from aiohttp import web

from firmware_sim.address import Address
from firmware_sim.fleet import Fleet, Life
from firmware_sim.phone import Phone
from firmware_sim.pki import Factory
from firmware_sim.power import Grid
from firmware_sim.report import Report
from firmware_sim.retry import Retry
from firmware_sim.tls import Trust
from firmware_sim.transports import TransportName
from tests.firmware_sim.conftest import Identity


class FakeServer:
    """HTTP only: grants tokens, may be told to answer otherwise."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.under_way = 0
        self.most_under_way = 0
        self.answer: Callable[[dict[str, Any]], web.Response] = self.grant
        self.attributes: Callable[[], web.Response] = lambda: web.json_response({})
        self.messages: list[tuple[str, int]] = []
        self.told: Callable[[], Awaitable[object]] = lambda: asyncio.sleep(0)

    def grant(self, asked: dict[str, Any]) -> web.Response:
        value = f"token of {asked['requestNonce']}"
        return web.json_response({"status": "SUCCESS", "credentialsValue": value, "deviceName": asked["deviceName"]})

    async def handle(self, request: web.Request) -> web.Response:
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        asked = await request.json()
        self.asked.append(asked)
        response = self.answer(asked)
        self.under_way -= 1
        return response

    async def ask(self, _: web.Request) -> web.Response:
        return self.attributes()

    async def poll(self, _: web.Request) -> web.Response:
        await asyncio.get_running_loop().create_future()
        raise AssertionError

    async def tell(self, request: web.Request) -> web.Response:
        assert request.transport
        certificate = request.transport.get_extra_info("peercert")
        who = certificate["subject"][0][0][1] if certificate else request.match_info["token"]
        self.messages.append((who, (await request.json())["sequence"]))
        await self.told()
        return web.Response()

    def app(self) -> web.Application:
        app = web.Application()
        app.router.add_post("/api/v1/provision", self.handle)
        for base in ("/api/v1", "/api/v1/{token}"):
            app.router.add_get(f"{base}/attributes", self.ask)
            app.router.add_get(f"{base}/attributes/updates", self.poll)
            app.router.add_post(f"{base}/telemetry", self.tell)
        return app


@pytest.fixture
async def http() -> AsyncIterator[tuple[FakeServer, Address]]:
    fake = FakeServer()
    runner = web.AppRunner(fake.app(), handler_cancellation=True)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0]
    yield fake, Address(host, port)
    await runner.cleanup()


Run = Callable[..., Awaitable[Report]]


@pytest.fixture
def fake(http: tuple[FakeServer, Address]) -> FakeServer:
    return http[0]


@pytest.fixture
def run(http: tuple[FakeServer, Address]) -> Run:
    async def run(count: int, **options: Any) -> Report:
        options.setdefault("retry", Retry(base=0.001))
        fleet = Fleet("key", "secret", {TransportName.HTTP: http[1]}, count, **options)
        report = fleet.report()
        seen: list[int] = []
        await fleet.run(report, lambda so_far: seen.append(so_far.finished))
        assert seen == list(range(1, count + 1))
        return report

    return run


async def test_every_device_gets_its_own(fake: FakeServer, run: Run) -> None:
    report = await run(20, concurrency=3)
    assert report.exit_code == 0
    assert report.provisioned == 20
    assert fake.most_under_way <= 3
    names = sorted(asked["deviceName"] for asked in fake.asked)
    assert names == [f"sim-{report.run}-{number:06}" for number in range(1, 21)]
    assert re.fullmatch("[0-9a-f]{6}", report.run)


async def test_a_device_waiting_to_ask_again_makes_room(fake: FakeServer, run: Run) -> None:
    """With room for one, the second device must be served while the first one waits."""
    first = iter([True])

    def answer(asked: dict[str, Any]) -> web.Response:
        return web.Response(status=503) if next(first, False) else fake.grant(asked)

    fake.answer = answer
    report = await run(2, concurrency=1, retry=Retry(base=0.5, uniform=lambda _, high: high))
    assert report.exit_code == 0
    assert [asked["deviceName"][-1] for asked in fake.asked] == ["1", "2", "1"]


async def test_one_token_for_two_devices_is_a_failure(fake: FakeServer, run: Run) -> None:
    fake.answer = lambda asked: fake.grant(asked | {"requestNonce": "the same"})
    report = await run(5)
    assert (report.provisioned, report.duplicates) == (1, 4)
    assert report.exit_code == 4


async def test_failures_do_not_stop_the_others(fake: FakeServer, run: Run) -> None:
    def answer(asked: dict[str, Any]) -> web.Response:
        if asked["deviceName"].endswith("3"):
            return web.json_response({"status": "FAILURE", "errorMsg": "no"})
        return fake.grant(asked)

    fake.answer = answer
    report = await run(5)
    assert report.provisioned == 4
    assert report.failures == {"http: refused: FAILURE: no": 1}
    assert report.exit_code == 1


def files(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


async def test_a_second_run_finds_its_devices_in_the_flash_directory(
    fake: FakeServer, run: Run, tmp_path: Path
) -> None:
    options = {"name_prefix": "line/7", "flash_dir": tmp_path}
    await run(3, **options)
    report = await run(3, **options)
    assert (report.provisioned, report.from_flash, report.exit_code) == (3, 3, 0)
    assert len(fake.asked) == 3
    assert files(tmp_path) == {f"line%2F7-{number:06}.json" for number in (1, 2, 3)}
    memory = json.loads((tmp_path / "line%2F7-000001.json").read_bytes())
    assert memory["credentials"]["deviceName"] == "line/7-000001"


async def test_devices_are_switched_on_at_the_given_rate(run: Run) -> None:
    report = await run(11, rate=100)
    assert report.seconds >= 0.1


async def plain(fleet: Fleet) -> Report:
    report = fleet.report()
    await fleet.run(report)
    return report


async def test_devices_connect_with_what_they_were_given(http: tuple[FakeServer, Address]) -> None:
    fake, address = http
    life = Life(telemetry=2, interval=0.001)
    fleet = Fleet("key", "secret", {TransportName.HTTP: address}, 10, concurrency=3, life=life)
    report = await plain(fleet)
    assert report.exit_code == 0
    assert (report.linked, report.links["http"].messages) == (10, 20)
    tokens = {f"token of {asked['requestNonce']}" for asked in fake.asked}
    assert sorted(fake.messages) == sorted((token, number) for token in tokens for number in (1, 2))


async def test_a_device_that_is_connected_makes_room_for_others(http: tuple[FakeServer, Address]) -> None:
    """With room for one, all are connected at once: nobody's message is answered before everybody's is there."""
    fake, address = http
    everybody = asyncio.Barrier(5)
    fake.told = everybody.wait
    report = await plain(
        Fleet("key", "secret", {TransportName.HTTP: address}, 5, concurrency=1, timeout=60, life=Life(telemetry=1))
    )
    assert report.links["http"].messages == 5


async def test_credentials_that_open_nothing_are_counted(http: tuple[FakeServer, Address]) -> None:
    fake, address = http
    fake.attributes = lambda: web.Response(status=401)
    retry = Retry(base=0.001)
    report = await plain(Fleet("key", "secret", {TransportName.HTTP: address}, 4, retry=retry, life=Life()))
    assert (report.provisioned, report.link_failures, report.exit_code) == (4, 4, 6)
    assert report.links["http"].failures == {"credentials refused: HTTP 401 Unauthorized": 4}
    assert report.links["http"].per_device == {3: 4}


async def test_a_way_that_the_credentials_do_not_open(http: tuple[FakeServer, Address]) -> None:
    life = Life(TransportName.COAPS, {TransportName.COAPS: http[1]})
    report = await plain(Fleet("key", "secret", {TransportName.HTTP: http[1]}, 1, life=life))
    assert report.exit_code == 2
    assert "device id" in next(iter(report.links["coaps"].failures))


async def chain(fake: FakeServer, identity: Identity, factory: Factory, trust: Trust, **options: Any) -> Report:
    runner = web.AppRunner(fake.app(), handler_cancellation=True)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=identity.context(factory.root_file)).start()
    address = Address(*runner.addresses[0])
    retry = Retry(base=0.001)
    servers = {TransportName.HTTPS: address}
    try:
        return await plain(
            Fleet("", "", servers, 5, concurrency=2, retry=retry, trust=trust, factory=factory, **options)
        )
    finally:
        await runner.cleanup()


async def test_a_certificate_is_provisioned_by_its_first_connection(identity: Identity, factory: Factory) -> None:
    fake = FakeServer()
    report = await chain(fake, identity, factory, identity.trust, life=Life(telemetry=1), name_prefix="line")
    assert (report.provisioned, report.exit_code, fake.asked) == (5, 0, [])
    assert report.links["https"].per_device == {1: 5}
    assert sorted(fake.messages) == [(f"line-{number:06}", 1) for number in range(1, 6)]
    assert all(latency > 0 for latency in report.transports["https"].latencies)


async def test_a_certificate_that_is_not_accepted_is_not_provisioned(identity: Identity, factory: Factory) -> None:
    fake = FakeServer()
    fake.attributes = lambda: web.Response(status=401)
    report = await chain(fake, identity, factory, identity.trust)
    assert (report.provisioned, report.finished, report.linked, report.exit_code) == (0, 5, 5, 6)
    assert report.failures == {"https: credentials refused: HTTP 401 Unauthorized": 5}
    assert report.link_failures == 0


async def test_a_name_that_no_certificate_can_have(identity: Identity, factory: Factory) -> None:
    report = await chain(FakeServer(), identity, factory, identity.trust, name_prefix="n" * 60)
    assert report.exit_code == 2
    assert report.finished == 5


async def test_a_server_that_is_not_trusted(identity: Identity, stranger: Identity, factory: Factory) -> None:
    report = await chain(FakeServer(), identity, factory, stranger.trust)
    assert (report.provisioned, report.exit_code) == (0, 7)


async def test_devices_come_up_a_ramp(run: Run) -> None:
    report = await run(5, rate=100, ramp=0.1)
    assert report.seconds >= 0.089  # the fifth is due where the ramp has made half of what the rate would have


async def test_a_device_without_power_boots_again_from_its_flash(fake: FakeServer, run: Run) -> None:
    """Cut while the answer is on its way: it asks again, and says the same."""
    grid = Grid()
    answered = fake.answer

    def answer(asked: dict[str, Any]) -> web.Response:
        if not grid.cuts:
            cut.append(asyncio.get_running_loop().create_task(grid.cut(0.01, 1.0, 0.0, Random())))
        return answered(asked)

    cut: list[asyncio.Task[None]] = []
    fake.answer = answer
    report = await run(1, grid=grid)
    await asyncio.gather(*cut)
    assert grid.cuts == 1
    assert (report.exit_code, report.provisioned, report.duplicates) == (0, 1, 0)
    assert len({asked["requestNonce"] for asked in fake.asked}) == 1
    assert not grid._outlets


async def test_what_was_granted_is_told(fake: FakeServer, run: Run) -> None:
    granted: list[tuple[str, str | None]] = []
    await run(2, granted=lambda way, outcome: granted.append((way, outcome.credentials.device_name)))
    assert sorted(granted) == sorted(("http", asked["deviceName"]) for asked in fake.asked)


async def test_a_skewed_clock_is_in_the_messages(http: tuple[FakeServer, Address]) -> None:
    times: list[float] = []
    fake = http[0]

    async def tell(request: web.Request) -> web.Response:
        body = await request.json()
        times.append(body["ts"] / 1000 - time.time())
        assert body["values"]["sequence"] == 1
        return web.Response()

    fake.tell = tell  # type: ignore[method-assign]
    life = Life(telemetry=1, clock_skew=(-7200, -3600))
    runner = web.AppRunner(fake.app())
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    report = await plain(Fleet("key", "secret", {TransportName.HTTP: Address(*runner.addresses[0])}, 3, life=life))
    await runner.cleanup()
    assert report.exit_code == 0
    assert len(times) == 3
    assert all(-7260 < each < -3590 for each in times)


async def test_an_owner_who_gets_no_token(http: tuple[FakeServer, Address]) -> None:
    _, address = http  # knows no /api/admin
    phone = Phone(address, "key", "TMPL", time_scale=0.001)
    report = await plain(Fleet("", "", {TransportName.HTTP: address}, 2, phone=phone, life=Life()))
    assert (report.provisioned, report.finished, report.exit_code) == (0, 2, 1)
    assert report.failures == {"http: refused: the server's API: HTTP 404 Not Found": 2}

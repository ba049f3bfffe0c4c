import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from firmware_sim.address import Address
from firmware_sim.fleet import Fleet
from firmware_sim.report import Report
from firmware_sim.retry import Retry
from firmware_sim.transports import TransportName


class FakeServer:
    """HTTP only: grants tokens, may be told to answer otherwise."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.under_way = 0
        self.most_under_way = 0
        self.answer: Callable[[dict[str, Any]], web.Response] = self.grant

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


@pytest.fixture
async def http() -> AsyncIterator[tuple[FakeServer, Address]]:
    fake = FakeServer()
    app = web.Application()
    app.router.add_post("/api/v1/provision", fake.handle)
    runner = web.AppRunner(app)
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

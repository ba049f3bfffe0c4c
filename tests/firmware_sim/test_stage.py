from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from aiohttp import web

from firmware_sim.address import Address
from firmware_sim.findings import Findings
from firmware_sim.scenario import Scenario
from firmware_sim.stage import Stage
from firmware_sim.transports import TransportName
from tests.firmware_sim.test_fleet import FakeServer

Play = Callable[[str], Awaitable[Findings]]


class Seen(FakeServer):
    """Notes from where it is asked."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: dict[str, set[str]] = {}
        self.answer = self.judge

    def judge(self, asked: dict[str, Any]) -> web.Response:
        if asked["provisionDeviceSecret"] != "secret":
            return web.json_response({"status": "FAILURE", "errorMsg": "no"})
        return self.grant(asked)

    async def handle(self, request: web.Request) -> web.Response:
        who = (await request.json())["deviceName"].split("-")
        self.addresses.setdefault(who[2] if len(who) > 3 else who[0], set()).add(request.remote or "")
        return await super().handle(request)


@pytest.fixture
async def seen() -> AsyncIterator[tuple[Seen, Play]]:
    fake = Seen()
    runner = web.AppRunner(fake.app(), handler_cancellation=True)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    servers = {TransportName.HTTP: Address(*runner.addresses[0])}

    async def play(text: str) -> Findings:
        scenario = Scenario.parse(f'name = "test"\n{text}')
        findings = Findings(scenario)
        told: list[int] = []
        stage = Stage(scenario, servers, "key", "secret", time_scale=0.01)
        await stage.play(findings, lambda so_far: told.append(so_far.finished))
        assert told == sorted(told)
        assert findings.seconds > 0
        return findings

    yield fake, play
    await runner.cleanup()


def group(name: str, count: int, *more: str) -> str:
    return "\n".join(["[[group]]", f'name = "{name}"', f"count = {count}", *more, ""])


async def test_groups_have_names_and_reports_of_their_own(seen: tuple[Seen, Play]) -> None:
    fake, play = seen
    findings = await play(group("a", 3) + group("b", 2, "at = 0.01", "telemetry = 2", "interval = 0.001"))
    assert (findings.exit_code, findings.count, findings.finished, findings.linked) == (0, 5, 5, 2)
    assert {name: report.provisioned for name, report in findings.groups.items()} == {"a": 3, "b": 2}
    assert findings.measured()["messages_min"] == 4
    names = [asked["deviceName"] for asked in fake.asked]
    assert len(set(names)) == 5
    assert len({name.split("-")[1] for name in names}) == 1  # one run


async def test_groups_and_attackers_come_from_where_they_are_said_to(seen: tuple[Seen, Play]) -> None:
    fake, play = seen
    attack = '[[attack]]\nkind = "guess"\ncount = 4\naddress = "127.0.0.3"\n'
    findings = await play(group("a", 2) + group("b", 2, 'address = "127.0.0.2"') + attack)
    assert fake.addresses == {"a": {"127.0.0.1"}, "b": {"127.0.0.2"}, "guess": {"127.0.0.3"}}
    assert findings.attacks["guess"]["refused"] == 2  # the secrets; of tokens this server knows none


async def test_what_comes_after_the_end_is_not_waited_for(seen: tuple[Seen, Play]) -> None:
    _, play = seen
    cuts = "[[power_cut]]\nat = 3600\nseconds = 1\n[[network_cut]]\nat = 3600\nseconds = 1\n"
    findings = await play(group("a", 2) + cuts)
    assert (findings.exit_code, findings.power_cuts) == (0, 0)


async def test_devices_live_through_cuts_of_power_and_network(seen: tuple[Seen, Play]) -> None:
    fake, play = seen
    cuts = "[[power_cut]]\nat = 0.15\nseconds = 0.01\n[[network_cut]]\nat = 0.25\nseconds = 0.01\n"
    limits = "[limits]\nmessages_min = 40\npower_cuts_min = 4\n"
    network = "[network]\ndelay = [0.001, 0.002]\n"
    findings = await play(group("a", 4, "telemetry = 10", "interval = 0.05") + cuts + network + limits)
    assert findings.exit_code == 0, findings.to_json()
    assert findings.network["segments late"] > 0
    assert len({asked["requestNonce"] for asked in fake.asked}) == 4


async def test_who_steals_from_those_that_got_nothing_is_not_waited_for(seen: tuple[Seen, Play]) -> None:
    fake, play = seen
    fake.answer = lambda _: web.json_response({"status": "FAILURE", "errorMsg": "no"})
    attack = '[[attack]]\nkind = "clone"\ncount = 3\nvictims = "a"\n'
    findings = await play(group("a", 2) + attack)
    assert findings.attacks == {"clone": {"turned away": 3}}
    assert findings.measured()["failures"] == 2
    assert findings.exit_code == 8

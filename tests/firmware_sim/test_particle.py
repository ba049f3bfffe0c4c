import asyncio
import json
from collections.abc import AsyncIterator

import pytest

from firmware_sim import particle
from firmware_sim.errors import BadReply, NoAnswer, Refused
from firmware_sim.log import SerialLog
from firmware_sim.particle import LEDGER, ParticleDevice
from firmware_sim.retry import Retry
from tests.firmware_sim.test_cli import simulate
from tests.support.particle import Instance, Particle

SECRET = "t" * 32


@pytest.fixture
async def cloud() -> AsyncIterator[Particle]:
    async with Particle() as made:
        made.add(1)
        made.ledgers[LEDGER] = {"name": LEDGER}
        made.instances[LEDGER] = {}
        yield made


def device(cloud: Particle, *, attempts: int = 1) -> ParticleDevice:
    (id_,) = cloud.devices
    return ParticleDevice(cloud.url, id_, LEDGER, SerialLog(None), Retry(attempts, base=0.0), 10.0)


def give(cloud: Particle, token: object) -> None:
    (id_,) = cloud.devices
    cloud.instances[LEDGER][id_] = Instance({particle.KEY: token})


async def test_it_takes_its_token_from_the_ledger_and_publishes_with_it(cloud: Particle) -> None:
    give(cloud, SECRET)
    async with device(cloud) as booted:
        await booted.sync()
        await booted.run(2, 0)
    assert [event["name"] for event in cloud.events] == ["blynk_https_get"] * 2
    values = [json.loads(event["data"]) for event in cloud.events]
    assert [value["t"] for value in values] == [SECRET] * 2
    assert [value["v15"] for value in values] == ["20.000000", "20.100000"]
    assert set(values[0]) == {"t", "v14", "v15", "v16", "v17"}


async def test_it_waits_until_the_ledger_has_one(cloud: Particle) -> None:
    asked = 0

    async def sleep(_: float) -> None:
        nonlocal asked
        asked += 1
        give(cloud, SECRET)

    (id_,) = cloud.devices
    async with ParticleDevice(cloud.url, id_, LEDGER, SerialLog(None), Retry(3, sleep=sleep), 10.0) as booted:
        await booted.sync()
    assert asked == 1


async def test_without_a_token_it_does_not_publish(cloud: Particle) -> None:
    for token, error in ((None, NoAnswer), ("", NoAnswer), (7, BadReply)):
        give(cloud, token)
        async with device(cloud) as booted:
            with pytest.raises(error):
                await booted.sync()
    del cloud.ledgers[LEDGER]
    async with device(cloud) as booted:
        with pytest.raises(Refused):
            await booted.sync()
    assert not cloud.events


async def test_a_token_that_does_not_fit_is_not_cut(cloud: Particle) -> None:
    give(cloud, "t" * 128)
    async with device(cloud) as booted:
        await booted.sync()
        with pytest.raises(BadReply, match="buffer"):
            await booted.run(1, 0)


async def test_the_command_masks_the_token(cloud: Particle) -> None:
    give(cloud, SECRET)
    (id_,) = cloud.devices
    done = await asyncio.to_thread(simulate, "particle", "--cloud", cloud.url, "--device", id_, "--json")
    assert done.code == 0
    assert done.json == {"status": "published", "device": id_, "ledger": LEDGER, "events": 1}
    assert SECRET not in done.stdout + done.stderr
    done = await asyncio.to_thread(
        simulate, "particle", "--cloud", cloud.url, "--device", "unknown", "--attempts", "1", "--json"
    )
    assert (done.code, done.json["status"]) == (1, "refused")

"""What services count (metrics.py), each seen from before and after."""

import asyncio
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from provserver import metrics
from provserver.core.authentication import Denial
from provserver.core.model import Peer, Transport
from provserver.errors import Outcome, Unavailable
from provserver.metrics import Cell, Family
from provserver.services.access import Access
from provserver.services.attempts import Attempts
from tests.conftest import Space
from tests.services.conftest import PEER, Fleet, Outage

MQTT = Peer(Transport.MQTT, "192.0.2.7")


@contextmanager
def counted(family: Family[Cell], **expected: int) -> Iterator[None]:
    """That what happens inside is counted so, and nothing else of the family. expected: labels joined by `__`."""
    before = {labels: cell.value for labels, cell in family.cells.items()}
    yield
    rise = {"__".join(labels): cell.value - before[labels] for labels, cell in family.cells.items()}
    assert {name: value for name, value in rise.items() if value} == expected


async def test_requests_are_counted_by_transport_and_outcome(fleet: Fleet) -> None:
    before = sum(metrics.PROVISION_SECONDS.cell().counts)
    with counted(metrics.PROVISIONS, HTTP__success=3), counted(metrics.REFUSALS):
        await asyncio.gather(*(fleet.ask(f"sensor-{n}") for n in range(3)))

    assert 0 < sum(metrics.PROVISION_SECONDS.cell().counts) - before <= 3  # once a group


async def test_refusals_are_counted_by_reason(fleet: Fleet) -> None:
    with (
        counted(metrics.PROVISIONS, HTTP__not_found=1, MQTT__undecodable=1, HTTP__invalid=1),
        counted(metrics.REFUSALS, KEY_UNKNOWN=1, UNDECODABLE=1, INVALID=1),
    ):
        unknown = {"provisionDeviceKey": "no such key", "provisionDeviceSecret": "x"}
        provisioning = fleet.space.provisioning
        answers = [
            await provisioning.answer(json.dumps(unknown).encode(), PEER),
            await provisioning.answer(b"{", MQTT, accept_protobuf=False),
            await provisioning.answer(json.dumps({"provisionDeviceKey": 1}).encode(), PEER),
        ]

    assert [answer.outcome for answer in answers] == [Outcome.NOT_FOUND, Outcome.UNDECODABLE, Outcome.INVALID]


@pytest.mark.parametrize("outcome", [each for each in Outcome if each is not Outcome.TOO_LARGE])
def test_every_outcome_of_a_request_can_be_counted(outcome: Outcome) -> None:
    assert metrics.PROVISIONS.cell("COAP", outcome.value).value >= 0


async def test_authentications_are_counted_by_transport_and_result(fleet: Fleet) -> None:
    access = Access(fleet.space.database, fleet.space.keys)
    token = (await fleet.ask("sensor-1"))["credentialsValue"]

    with counted(metrics.AUTHENTICATIONS, HTTP__accepted=1, MQTT__accepted=1, MQTT__credentials=1):
        await access.with_token(token, PEER)
        await access.with_mqtt("", token, None, MQTT)
        assert await access.with_mqtt("", "no such token", None, MQTT) is Denial.CREDENTIALS
    await access.drain()


async def test_what_fails_as_postgres_is_away_is_counted(space: Space, outage: Outage) -> None:
    access = Access(outage.database, space.keys)
    attempts = Attempts(outage.database, os.urandom, time.time)
    await outage.begin()
    away = metrics.DATABASE_AWAY.cell().value

    with counted(metrics.AUTHENTICATIONS, HTTP__unavailable=1), pytest.raises(Unavailable):
        await access.with_token("x" * 32, PEER)
    with counted(metrics.ATTEMPTS_LOST, **{"": 2}):
        for _ in range(2):
            attempts.note(PEER, Outcome.FAILURE, "NAME_TAKEN")
        await attempts.drain()

    assert metrics.DATABASE_AWAY.cell().value >= away + 2

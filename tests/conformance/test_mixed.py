"""All transports mixed: two hundred requests at once for one device, one request repeated over each of them."""

import asyncio
import json

import pytest

from tests.conformance.bench import Bench, staged, statuses
from tests.conformance.model import ALLOW_CREATE, CHECK_PRE, Case, Device, Transport
from tests.conformance.requests import request

EACH = 50


@pytest.mark.parametrize(
    "case",
    [
        Case(id="storm/new", says="One new name.", cites="5.5/one-winner", steps=(), strategy=ALLOW_CREATE),
        Case(
            id="storm/pre-provisioned",
            says="One pre-provisioned device.",
            cites="5.4/atomic",
            steps=(),
            strategy=CHECK_PRE,
            devices=(Device(),),
        ),
    ],
    ids=lambda case: case.id,
)
async def test_one_winner(bench: Bench, case: Case) -> None:
    async with staged(bench, case) as stage:
        payload = stage.values.payload(request())
        rushes = [bench.rush(transport, [payload] * EACH) for transport in Transport]
        answers = [answer for answers in await asyncio.gather(*rushes) for answer in answers]

        told = statuses(answers)
        assert told.count("SUCCESS") == 1
        assert told.count("FAILURE") == EACH * len(Transport) - 1

        [device] = [device async for device in bench.operator.devices.stream(stage.profile)]
        assert device.provision_state == "provisioned"
        reply = json.loads(answers[told.index("SUCCESS")].body)
        details = await bench.operator.devices.show(reply["deviceName"], open_=True)
        assert str(details.device.id) == reply["deviceId"] == str(device.id)
        assert [opened.value for opened in details.opened] == [reply["credentialsValue"]]


async def test_a_nonce_counts_on_every_transport(bench: Bench) -> None:
    case = Case(id="mixed/nonce", says="One request, over each transport.", cites="ours/nonce", steps=())
    async with staged(bench, case) as stage:
        payload = stage.values.payload(request(requestNonce="0123456789abcdef0123456789abcdef"))
        bodies = [(await bench.ask(transport, payload)).body for transport in Transport]
        assert json.loads(bodies[0])["status"] == "SUCCESS"
        assert bodies == bodies[:1] * len(bodies)

from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from provserver.adapters.networks import connect
from provserver.adapters.outgoing import Outgoing, networks
from provserver.core.integration import ChirpStackSettings
from provserver.core.lorawan import LorawanVersion
from provserver.core.onboarding import Denied, EndDevice, Found, Made, Network, Rejected, TryAgain
from tests.support.chirpstack import ChirpStack
from tests.support.things_stack import How

DEVICE = EndDevice(
    "eui-0018b20000000101",
    "0018B20000000101",
    "70B3D57ED0000010",
    "01" * 16,
    name="a sensor",
    reference="the-device",
    attempt="the-attempt",
)
ID = "0018b20000000101"


@pytest.fixture
async def stack() -> AsyncIterator[ChirpStack]:
    async with ChirpStack() as running:
        yield running


@pytest.fixture
async def outgoing() -> AsyncIterator[Outgoing]:
    async with Outgoing(networks("127.0.0.0/8")) as made:
        yield made


@pytest.fixture
def network(stack: ChirpStack, outgoing: Outgoing) -> Network:
    return connected(stack, outgoing)


def connected(
    stack: ChirpStack,
    outgoing: Outgoing,
    version: LorawanVersion = LorawanVersion.V1_0_3,
    application: str | None = None,
) -> Network:
    settings = ChirpStackSettings(version, stack.url, stack.device_profile("sensors"))
    return connect(application or stack.application("my-app"), settings, stack.api_key(), outgoing)


async def test_a_device_is_made_and_removed(stack: ChirpStack, network: Network) -> None:
    assert await network.missing_rights() == []
    assert await network.look(DEVICE.network_device_id) is None
    for step in network.steps:
        assert await network.make(step, DEVICE, again=False) is Made.CREATED
    assert stack.devices[ID]["joinEui"].upper() == DEVICE.join_eui
    assert stack.keys[ID]["nwkKey"] == "01" * 16  # as ChirpStack has the AppKey of LoRaWAN 1.0
    found = await network.look(DEVICE.network_device_id)
    assert found == Found(DEVICE.dev_eui, DEVICE.join_eui, "the-device", "the-attempt")
    for step in (*network.removal, *network.removal):
        await network.unmake(step, DEVICE.network_device_id)
    assert (stack.devices, stack.keys) == ({}, {})


@pytest.mark.parametrize("how", [How.SERVER_ERROR, How.SERVER_ERROR_AFTER])
async def test_a_lost_answer_is_not_a_lost_device(stack: ChirpStack, network: Network, how: How) -> None:
    for step in network.steps:
        stack.fail(step, 1, how)
        try:
            made = await network.make(step, DEVICE, again=False)
        except TryAgain:
            assert how is How.SERVER_ERROR
            made = await network.make(step, DEVICE, again=True)
        assert made is Made.CREATED
    assert stack.keys[ID]["nwkKey"] == "01" * 16


async def test_one_that_was_there_is_adopted(stack: ChirpStack, network: Network) -> None:
    await network.make("device", DEVICE, again=False)
    assert await network.make("device", replace(DEVICE, attempt="another"), again=True) is Made.ADOPTED
    await network.make("keys", DEVICE, again=False)
    await network.make("keys", replace(DEVICE, app_key="02" * 16), again=False)
    assert stack.keys[ID]["nwkKey"] == "02" * 16


async def test_one_of_another_application_is_not_touched(
    stack: ChirpStack, network: Network, outgoing: Outgoing
) -> None:
    await connected(stack, outgoing).make("device", DEVICE, again=False)
    with pytest.raises(Rejected, match="in another application"):
        await network.make("device", DEVICE, again=False)


async def test_one_with_another_join_eui_is_not_touched(network: Network) -> None:
    await network.make("device", DEVICE, again=False)
    with pytest.raises(Rejected, match="another JoinEUI"):
        await network.make("device", replace(DEVICE, join_eui="70B3D57ED0000099"), again=False)


async def test_lorawan_1_1_has_two_keys(stack: ChirpStack, outgoing: Outgoing) -> None:
    network = connected(stack, outgoing, LorawanVersion.V1_1)
    device = replace(DEVICE, nwk_key="03" * 16)
    for step in network.steps:
        await network.make(step, device, again=False)
    assert (stack.keys[ID]["nwkKey"], stack.keys[ID]["appKey"]) == ("03" * 16, "01" * 16)


async def test_a_wrong_key_is_said_to_be(stack: ChirpStack, outgoing: Outgoing) -> None:
    settings = ChirpStackSettings(LorawanVersion.V1_0_3, stack.url, stack.device_profile("sensors"))
    network = connect(stack.application("my-app"), settings, "wrong", outgoing)
    for call in (network.missing_rights(), network.make("device", DEVICE, again=False)):
        with pytest.raises(Denied, match="does not accept the API key"):
            await call


def test_keys_are_not_shown() -> None:
    assert "01" * 16 not in repr(DEVICE)

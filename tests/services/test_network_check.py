"""Networks as they are reached: by The Things Stack's stand-in and real sockets, without a database."""

import socket
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest

from provserver.adapters.outgoing import Outgoing
from provserver.core import integration
from provserver.core.integration import ClaimProof, NetworkKind, SettingsChange, Status
from provserver.core.lorawan import LorawanVersion
from provserver.errors import Invalid
from provserver.services.network_check import NetworkCheck, outgoing
from provserver.store.integrations import Integration
from tests.support.things_stack import SEED_RIGHTS, TRAFFIC_READ, ThingsStack

WRITE = "RIGHT_APPLICATION_DEVICES_WRITE"


def serving(**addresses: Any) -> Integration:
    """An integration with the application `meters` of servers at these addresses, or at one for all."""
    change = SettingsChange(lorawan_version=LorawanVersion.V1_0_3, frequency_plan="EU_863_870_TTN", **addresses)
    now = datetime(2026, 11, 23, tzinfo=UTC)
    return Integration(
        id=UUID(int=1),
        organization_id=UUID(int=2),
        profile_id=UUID(int=3),
        profile="lora",
        network=NetworkKind.THINGS_STACK,
        application_id="meters",
        settings=integration.changed(NetworkKind.THINGS_STACK, None, change),
        verified=False,
        onboarding=False,
        auto_import=False,
        lorawan_profile_id=None,
        claim_proof=ClaimProof.NONE,
        status=Status.UNCHECKED,
        error=None,
        checked_at=None,
        created_by="operator",
        created_at=now,
        updated_at=now,
        revision=1,
    )


def on(stack: ThingsStack) -> Integration:
    """One with a stand-in."""
    at = stack.addresses
    return serving(
        identity_server=at["identityServer"],
        network_server=at["networkServer"],
        join_server=at["joinServer"],
        application_server=at["applicationServer"],
    )


@pytest.fixture
async def networks() -> AsyncIterator[NetworkCheck]:
    """Such as may go to this machine."""
    made = NetworkCheck(lambda: outgoing("127.0.0.1"))
    yield made
    await made.close()


@pytest.fixture
async def stack() -> AsyncIterator[ThingsStack]:
    async with ThingsStack() as made:
        made.application("meters")
        yield made


async def test_a_network_that_lets_a_key_do_all(networks: NetworkCheck, stack: ThingsStack) -> None:
    check = await networks.check(on(stack), stack.api_key("meters"))

    assert (check.status, check.error, check.remedy, check.missing) == (Status.CONNECTED, None, None, [])
    assert check.verifies
    assert {each.name: each.address for each in check.components} == {
        name: address for name, address in integration.addresses(on(stack).settings).items() if name != "mqttAddress"
    }
    assert {each.error for each in check.components} == {None}


@pytest.mark.parametrize(
    ("lacking", "needed_for", "verifies"), [(WRITE, "onboarding", False), (TRAFFIC_READ, "uplinks", True)]
)
async def test_a_right_that_is_missing(
    networks: NetworkCheck, stack: ThingsStack, lacking: str, needed_for: str, verifies: bool
) -> None:
    key = stack.api_key("meters", [right for right in SEED_RIGHTS if right != lacking])

    check = await networks.check(on(stack), key)
    onboarding = await networks.check(replace(on(stack), onboarding=True), key)

    assert [(each.name, each.needed_for) for each in check.missing] == [(lacking, needed_for)]
    assert check.missing[0].title not in ("", lacking)  # as the network's console calls it
    assert (check.status, check.verifies) == (Status.CONNECTED, verifies)
    assert (onboarding.status is Status.CONNECTED, onboarding.verifies) == (verifies, verifies)
    assert (check.missing[0].title in (onboarding.remedy or "")) == (not verifies)


async def test_a_key_that_nobody_knows_is_in_no_answer(networks: NetworkCheck, stack: ThingsStack) -> None:
    check = await networks.check(on(stack), "NNSXS.UNKNOWN")

    assert (check.status, check.verifies) == (Status.BROKEN, False)
    assert check.error
    assert check.remedy
    assert "NNSXS" not in str(check)


async def test_who_does_not_answer_is_named(networks: NetworkCheck, stack: ThingsStack) -> None:
    with socket.socket() as held:  # bound, and not listening: nobody answers, nobody else comes there
        held.bind(("127.0.0.1", 0))
        found = on(stack)
        settings = integration.changed(
            found.network,
            found.settings,
            SettingsChange(join_server=f"http://127.0.0.1:{held.getsockname()[1]}"),
        )

        check = await networks.check(replace(found, settings=settings), stack.api_key("meters"))

    assert [each.name for each in check.components if each.error] == ["joinServer"]
    assert check.status is Status.BROKEN
    assert "joinServer" in (check.error or "")


async def test_keys_go_to_private_addresses_in_clear_and_to_public_ones_not(networks: NetworkCheck) -> None:
    await networks.check_addresses(serving(address="http://127.0.0.1:1").settings)
    await networks.check_addresses(serving(address="https://1.1.1.1").settings)
    await networks.check_addresses(serving(address="stack.example").settings)  # which is looked up with each connection

    with pytest.raises(Invalid, match="in clear") as refused:
        await networks.check_addresses(serving(address="http://1.1.1.1").settings)
    assert refused.value.errors[0]["field"] == "identityServer"


@pytest.mark.parametrize("address", ["10.0.0.1", "http://10.0.0.1", "localhost:1"])
async def test_private_addresses_need_the_configuration(address: str) -> None:
    networks = NetworkCheck(lambda: outgoing(""))

    with pytest.raises(Invalid, match="outgoing_private"):
        await networks.check_addresses(serving(address=address).settings)
    await networks.close()


async def test_the_client_is_made_once_it_is_needed() -> None:
    made: list[str] = []

    def make() -> Outgoing:
        made.append("client")
        return outgoing("")

    networks = NetworkCheck(make)
    await networks.check_addresses(serving(address="stack.example").settings)
    await networks.close()
    assert made == []

    await networks.check_addresses(serving(address="https://1.1.1.1").settings)
    await networks.check_addresses(serving(address="https://1.1.1.1").settings)
    assert made == ["client"]
    await networks.close()

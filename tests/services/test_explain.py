import asyncio
import json
from typing import Any
from uuid import uuid4

import pytest

from provserver import metrics
from provserver.core.authorization import ALL, OPERATOR, Permission, Principal
from provserver.core.csvfile import DeviceRow
from provserver.core.model import ProvisionStrategy, ReprovisionPolicy, Transport
from provserver.errors import Forbidden, Invalid, NotFound
from provserver.services.explain import Explain, Explained
from tests.conftest import Space
from tests.services.conftest import NONCE, Fleet, contents

CHECK = ProvisionStrategy.CHECK_PRE_PROVISIONED_DEVICES


class Asker:
    """An operator who explains."""

    def __init__(self, space: Space, fleet: Fleet) -> None:
        self.space = space
        self.fleet = fleet
        self.explain = Explain(space.database, space.keys)
        self.operator = Principal(OPERATOR, space.organization_id)

    async def last(self) -> Explained:
        await self.space.provisioning.drain()
        found = await self.space.value("SELECT id FROM attempt ORDER BY id DESC LIMIT 1")
        return await self.explain.attempt(self.operator, found)

    async def rehearse(self, *, address: str | None = None, **members: object) -> Explained:
        body = json.dumps(members)
        return await self.explain.request(self.operator, self.fleet.profile.name, body, Transport.HTTP, address)


@pytest.fixture
async def asker(space: Space, fleet: Fleet) -> Asker:
    return Asker(space, fleet)


async def test_a_refusal_is_explained_with_how_things_are(asker: Asker) -> None:
    await asker.fleet.ask("d")
    await asker.fleet.ask("d")
    found = await asker.last()

    assert (found.attempt.reason, found.attempt.outcome) == ("ALREADY_PROVISIONED", "failure")
    assert found.explanation.happened == "The device 'd' was refused with the profile 'sensors'."
    assert "provisioned already" in found.explanation.why
    assert found.explanation.told.message == "Failed to provision device!"
    assert "provserver device rearm d" in found.explanation.commands
    assert found.present == (
        "The profile 'sensors': strategy ALLOW_CREATE_NEW_DEVICES, repeats: deny.",
        "The device 'd' of profile 'sensors': provisioned, with credentials of type ACCESS_TOKEN.",
    )


async def test_what_went_well_is_explained_too(asker: Asker) -> None:
    await asker.fleet.ask("d", requestNonce=NONCE)
    found = await asker.last()
    assert found.explanation.happened == "The device 'd' was provisioned with the profile 'sensors'."
    await asker.fleet.ask("d", requestNonce=NONCE)
    found = await asker.last()
    assert found.attempt.reason == "REPEATED"
    await asker.space.devices.delete("d")
    assert (await asker.last()).present[1] == "There is no device 'd'."


async def test_one_that_cannot_be_read_is_explained(asker: Asker) -> None:
    await asker.fleet.ask("d", token=[])
    found = await asker.last()
    assert found.attempt.reason == "INVALID"
    assert found.explanation.told.message == found.attempt.detail
    await asker.fleet.ask("d", provisionDeviceKey="unknown")
    found = await asker.last()
    assert (found.attempt.reason, found.present) == ("KEY_UNKNOWN", ())


async def test_one_of_another_version_is_shown_as_it_is(asker: Asker) -> None:
    id_ = uuid4()
    await asker.space.rows(
        "INSERT INTO attempt (id, transport, address, outcome, reason, detail)"
        " VALUES ($1, 'HTTP', '::1', 'failure', 'OF_LATER', 'some detail')",
        id_,
    )
    found = await asker.explain.attempt(asker.operator, id_)
    assert found.explanation.why == "it was recorded by another version of provserver"


async def test_an_attempt_is_seen_by_whom_it_concerns(asker: Asker) -> None:
    await asker.fleet.ask("d")
    found = await asker.last()
    id_ = found.attempt.id
    with pytest.raises(NotFound):
        await asker.explain.attempt(Principal("key:x", uuid4()), id_)
    with pytest.raises(NotFound):
        await asker.explain.attempt(asker.operator, uuid4())
    for permission in (Permission.PROFILES_VIEW, Permission.PROFILES_MANAGE):
        nobody = Principal("key:x", asker.space.organization_id, ALL - {permission})
        with pytest.raises(Forbidden):
            await (
                asker.explain.attempt(nobody, id_)
                if permission is Permission.PROFILES_VIEW
                else asker.explain.request(nobody, "sensors", "{}", Transport.HTTP)
            )


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        ({}, None),
        ({"deviceName": "new"}, None),
        ({"deviceName": "new", "credentialsType": "MQTT_BASIC", "username": "u", "password": "pl4nted"}, None),
        ({"deviceName": "there"}, "ALREADY_PROVISIONED"),
        ({"deviceName": "there", "requestNonce": NONCE}, "REPEATED"),
        ({"deviceName": "other", "requestNonce": NONCE}, "NONCE_REUSED"),
        ({"deviceName": " "}, "NAME_BLANK"),
        ({"deviceName": "new", "token": []}, "INVALID"),
        ({"deviceName": "new", "requestNonce": "short"}, "NONCE_MALFORMED"),
        ({"deviceName": "new", "provisionDeviceSecret": "wrong"}, "SECRET_WRONG"),
        ({"deviceName": "new", "provisionDeviceSecret": ""}, "KEY_MISSING"),
        ({"deviceName": "new", "provisionDeviceKey": "", "provisionDeviceSecret": "s"}, "KEY_MISSING"),
        ({"deviceName": "new", "provisionDeviceKey": "unknown"}, "KEY_UNKNOWN"),
    ],
)
async def test_a_rehearsal_says_what_would_be_and_changes_nothing(
    asker: Asker, members: dict[str, Any], reason: str | None
) -> None:
    await asker.fleet.ask("there", requestNonce=NONCE)
    await asker.space.provisioning.drain()
    before = await contents(asker.space)

    found = await asker.rehearse(**members)

    assert await contents(asker.space) == before
    assert found.attempt.reason == reason
    assert "would" in found.explanation.happened
    assert (found.credentials_type is not None) == (reason in (None, "REPEATED"))
    assert asker.fleet.pair.secret not in repr(found)
    assert "pl4nted" not in repr(found)
    given = {each.split()[-1] for each in found.assumed}
    assert ("secret" in given) == ("provisionDeviceSecret" not in members and members.get("provisionDeviceKey") is None)
    # And it is what comes of it.
    if members and "provisionDeviceKey" not in members and "provisionDeviceSecret" not in members:
        await asker.fleet.ask(**{"name" if key == "deviceName" else key: value for key, value in members.items()})
        assert (await asker.last()).attempt.reason == reason


async def test_what_is_no_json_object_is_rehearsed_as_it_is(asker: Asker) -> None:
    for body, reason in (("{", "UNDECODABLE"), ("[]", "UNDECODABLE"), ("", "UNDECODABLE")):
        found = await asker.explain.request(asker.operator, "sensors", body, Transport.MQTT)
        assert found.attempt.reason == reason


async def test_strategies_and_policies_are_those_of_now(asker: Asker, space: Space) -> None:
    other = Asker(space, await Fleet.make(space, CHECK, ReprovisionPolicy.ROTATE, "checked"))
    assert (await other.rehearse(deviceName="x")).attempt.reason == "NOT_PRE_PROVISIONED"
    await space.devices.create(DeviceRow(1, "x", None, False), "checked")
    found = await other.rehearse(deviceName="x")
    assert (found.attempt.reason, found.attempt.outcome) == (None, "success")
    assert found.present[1].endswith("not provisioned, with credentials of type ACCESS_TOKEN.")
    assert (await asker.rehearse(deviceName="x")).attempt.reason == "NAME_ELSEWHERE"


async def test_a_key_of_another_profile_is_no_key_of_this_one(asker: Asker, space: Space) -> None:
    other = await Fleet.make(space, name="second")
    found = await asker.rehearse(provisionDeviceKey=other.pair.key, provisionDeviceSecret=other.pair.secret)
    assert found.attempt.reason == "KEY_UNKNOWN"
    assert "second" not in repr(found)


async def test_a_profile_that_is_not_there_or_has_no_key_is_refused(asker: Asker, space: Space) -> None:
    with pytest.raises(NotFound, match="no profile"):
        await asker.explain.request(asker.operator, "nothing", "{}", Transport.HTTP)
    await space.rows("DELETE FROM provision_key")
    with pytest.raises(Invalid, match="no provision key"):
        await asker.rehearse(deviceName="x")


@pytest.mark.parametrize("members", [{"deviceName": "new"}, {"deviceName": " "}, {"deviceName": "new", "token": []}])
async def test_a_rehearsal_is_not_counted(asker: Asker, members: dict[str, Any]) -> None:
    await asker.rehearse(deviceName="warm")

    def numbers() -> list[list[float]]:
        return [[*cell.numbers()] for family in metrics.FAMILIES for cell in family.cells.values()]

    before = numbers()
    await asker.rehearse(**members)
    assert numbers() == before

    await asker.fleet.ask(**{"name" if key == "deviceName" else key: value for key, value in members.items()})
    assert numbers() != before


async def test_others_go_on_meanwhile(asker: Asker) -> None:
    """A rehearsal waits for nobody for long, and what others ask at the same time is not taken for its own."""
    others = asyncio.gather(*(asker.fleet.ask(f"d{n}") for n in range(20)))
    found = await asyncio.gather(asker.rehearse(deviceName="a"), asker.rehearse(deviceName="b"))
    await others
    assert [each.attempt.device for each in found] == ["a", "b"]
    assert await asker.space.value("SELECT count(*) FROM device") == 20

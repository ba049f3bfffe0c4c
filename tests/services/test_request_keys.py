import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from firmware_sim.sealed import Envelope
from provserver.core import sealed
from provserver.core.authorization import PERMISSIONS, Permission, Principal, Role
from provserver.core.sealed import RequestKey
from provserver.errors import Forbidden, NotFound, Outcome
from provserver.services.provisioning import Answer, Provisioning
from provserver.services.request_keys import RequestKeys
from tests.conftest import Space
from tests.services.accounts import Accounts, Tree
from tests.services.conftest import NONCE, PEER, Fleet, Outage, contents

DEVICE = b"d" * 32


@pytest.fixture
def operator(space: Space) -> Principal:
    return Principal("operator", space.organization_id)


@pytest.fixture
def request_keys(space: Space) -> RequestKeys:
    return RequestKeys(space.database, space.keys)


@pytest.fixture
async def key(request_keys: RequestKeys, operator: Principal) -> RequestKey:
    return await request_keys.create(operator)


def members(fleet: Fleet, **more: object) -> dict[str, object]:
    pair = {"provisionDeviceKey": fleet.pair.key, "provisionDeviceSecret": fleet.pair.secret}
    return pair | {"deviceName": "sensor-1"} | more


async def asked(fleet: Fleet, body: bytes, of: Provisioning | None = None) -> Answer:
    return await (of or fleet.space.provisioning).answer(body, PEER)


async def heard(fleet: Fleet, envelope: Envelope, of: Provisioning | None = None, **more: object) -> Any:
    """What a device reads in the answer to a sealed request."""
    answer = await asked(fleet, envelope.request(members(fleet, **more)), of)
    assert set(json.loads(answer.body)) == {"sealed"}
    return json.loads(envelope.answer(answer.body))


def envelope_to(key: RequestKey, private: bytes = DEVICE) -> Envelope:
    return Envelope(sealed.encode(key.public_key), private)


async def test_a_sealed_request_gets_a_sealed_answer(fleet: Fleet, key: RequestKey) -> None:
    reply = await heard(fleet, envelope_to(key))

    assert reply["status"] == "SUCCESS"
    assert [each.value for each in await fleet.stored("sensor-1")] == [reply["credentialsValue"]]


async def test_what_goes_over_the_line_tells_nothing(fleet: Fleet, key: RequestKey) -> None:
    envelope = envelope_to(key)
    request = envelope.request(members(fleet))
    answer = await asked(fleet, request)

    reply = json.loads(envelope.answer(answer.body))
    said = [fleet.pair.key, fleet.pair.secret, "sensor-1", reply["credentialsValue"], reply["deviceId"]]
    assert [word for word in said if word.encode() in request + answer.body] == []
    assert envelope.request(members(fleet)) != request


async def test_a_repeat_with_its_nonce_gets_the_same_again(fleet: Fleet, key: RequestKey) -> None:
    envelope = envelope_to(key)
    first = await heard(fleet, envelope, requestNonce=NONCE)

    assert await heard(fleet, envelope, requestNonce=NONCE) == first
    stranger = await heard(fleet, envelope_to(key, b"s" * 32), requestNonce=NONCE)
    assert stranger["status"] == "FAILURE", "who knows all but the device's key has the answer sealed to his own"


async def test_a_request_that_is_played_again_is_answered_to_its_device_alone(fleet: Fleet, key: RequestKey) -> None:
    envelope = envelope_to(key)
    request = envelope.request(members(fleet, requestNonce=NONCE))
    first = await asked(fleet, request)
    again = await asked(fleet, request)

    assert again.body != first.body
    assert envelope.answer(again.body) == envelope.answer(first.body)
    assert (await fleet.counts())["device"] == 1


@pytest.mark.parametrize(
    ("wrong", "status"),
    [
        ({"provisionDeviceSecret": "wrong"}, "NOT_FOUND"),
        ({"provisionDeviceKey": "wrong"}, "NOT_FOUND"),
        ({"token": "a\0"}, "FAILURE"),
    ],
)
async def test_a_refusal_is_sealed_too(fleet: Fleet, key: RequestKey, wrong: dict[str, Any], status: str) -> None:
    more = {"credentialsType": "ACCESS_TOKEN"} | wrong
    assert (await heard(fleet, envelope_to(key), **more))["status"] == status


async def test_keys_beside_each_other_are_good_and_a_deleted_one_is_not(
    fleet: Fleet, request_keys: RequestKeys, operator: Principal, key: RequestKey
) -> None:
    other = await request_keys.create(operator)
    for number, each in enumerate((key, other)):
        assert (await heard(fleet, envelope_to(each), deviceName=f"d-{number}"))["status"] == "SUCCESS"
    await request_keys.delete(operator, key.key_id)

    answer = await asked(fleet, envelope_to(key).request(members(fleet)))
    assert answer.outcome is Outcome.INVALID
    assert json.loads(answer.body)["errorMsg"] == "sealed cannot be opened with the key of this keyId!"
    assert (await heard(fleet, envelope_to(other), deviceName="d-2"))["status"] == "SUCCESS"


async def test_what_cannot_be_opened_is_refused_in_the_clear(fleet: Fleet, key: RequestKey) -> None:
    async def refused(**wrong: object) -> str:
        right = json.loads(envelope_to(key).request(members(fleet)))
        answer = await asked(fleet, json.dumps(right | wrong).encode())
        assert answer.outcome is Outcome.INVALID
        message: str = json.loads(answer.body)["errorMsg"]
        return message

    def inside(body: object) -> str:
        return sealed.encode(sealed.seal_request(json.dumps(body).encode(), key.public_key))

    unopened = "sealed cannot be opened with the key of this keyId!"
    assert await refused(sealed="AAAA") == unopened
    assert await refused(keyId="0123456789abcdef") == unopened
    assert await refused(keyId=None) == await refused(keyId="\0") == "Failed to find the field keyId!"
    assert await refused(sealed="?") == "sealed must be base64url!"
    assert await refused(sealed=inside(members(fleet))) == "Failed to find the field answerKey!"
    assert await refused(sealed=inside({"sealed": "AAAA", "keyId": "0"})) == "sealed must hold a request in the clear!"
    assert "answerKey must be" in await refused(sealed=inside(members(fleet, answerKey=sealed.encode(bytes(32)))))
    assert await refused(sealed=inside({})) == "Failed to find the field provisionDeviceKey!"
    assert (await fleet.counts())["device"] == 0


async def test_the_answer_alone_is_sealed_for_who_asks_in_the_clear(fleet: Fleet) -> None:
    envelope = Envelope(None, DEVICE)
    answer = await asked(fleet, envelope.request(members(fleet, requestNonce=NONCE)))

    reply = json.loads(envelope.answer(answer.body))
    assert reply["credentialsValue"].encode() not in answer.body
    again = await asked(fleet, envelope.request(members(fleet, requestNonce=NONCE)))
    assert json.loads(envelope.answer(again.body)) == reply
    other = Envelope(None, b"s" * 32)
    taken = await asked(fleet, other.request(members(fleet, requestNonce=NONCE)))
    assert json.loads(other.answer(taken.body))["status"] == "FAILURE"


async def test_many_are_opened_together(fleet: Fleet, key: RequestKey) -> None:
    replies = await asyncio.gather(*(heard(fleet, envelope_to(key), deviceName=f"d-{n}") for n in range(40)))
    assert len({reply["credentialsValue"] for reply in replies}) == 40


async def test_while_postgres_is_away_devices_are_told_to_come_back(
    fleet: Fleet, key: RequestKey, outage: Outage
) -> None:
    provisioning = Provisioning(outage.database, fleet.space.keys)
    await outage.begin()
    answer = await asked(fleet, envelope_to(key).request(members(fleet)), provisioning)
    assert answer.outcome is Outcome.UNAVAILABLE
    assert json.loads(answer.body)["retryAfter"] == answer.retry_after > 0


async def test_a_private_key_is_kept_sealed_and_shown_to_nobody(
    fleet: Fleet, key: RequestKey, caplog: pytest.LogCaptureFixture
) -> None:
    (row,) = await fleet.space.rows("SELECT * FROM request_key")
    private = fleet.space.keys.unseal(row["sealed"], b"request-key:" + key.id.bytes)
    assert sealed.new_key(private)[1] == key.public_key
    everything = repr(await contents(fleet.space)) + caplog.text + repr(key)
    assert repr(private)[2:-1] not in everything
    assert private.hex() not in everything


async def test_keys_are_their_organizations(space: Space, tmp_path: Path, request_keys: RequestKeys) -> None:
    accounts = Accounts(space, tmp_path)
    tree = await Tree.grow(accounts)
    callers = {name: Principal(f"user:{name}", each.id) for name, each in tree.by_name.items()}
    made = {name: await request_keys.create(caller) for name, caller in callers.items()}
    for name, caller in callers.items():
        seen = {key.id for key in await request_keys.list_(caller)}
        assert seen == {made[each].id for each in tree.sees(name)}
        for other in tree.by_name.keys() - tree.sees(name):
            with pytest.raises(NotFound):
                await request_keys.delete(caller, made[other].key_id)
            with pytest.raises(NotFound):
                await request_keys.create(caller, tree.by_name[other].id)
    (only,) = await request_keys.list_(callers["root"], organization=tree.left.id)
    assert only == made["left"] == await request_keys.delete(callers["maker"], made["left"].id)
    assert await accounts.actions(only.id) == [
        ("user:left", "request_key.created"),
        ("user:maker", "request_key.deleted"),
    ]
    with pytest.raises(NotFound):
        await request_keys.delete(callers["root"], only.key_id)


async def test_who_may_not_manage_profiles_may_not_make_keys(
    request_keys: RequestKeys, key: RequestKey, space: Space
) -> None:
    staff = Principal("user:s", space.organization_id, PERMISSIONS[Role.STAFF])
    for act in (request_keys.create(staff), request_keys.delete(staff, key.id)):
        with pytest.raises(Forbidden):
            await act
    assert await request_keys.list_(staff) == [key]
    nobody = Principal("user:n", space.organization_id, frozenset({Permission.DEVICES_VIEW}))
    with pytest.raises(Forbidden):
        await request_keys.list_(nobody)

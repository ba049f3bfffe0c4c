import asyncio
import base64
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar
from uuid import UUID

import msgspec
import pytest

from provserver.core import credentials as building
from provserver.core import protobuf
from provserver.core.ids import ALPHANUMERIC
from provserver.core.model import MqttBasic, Peer, ProvisionStrategy, ReprovisionPolicy, Transport
from provserver.errors import RENDERINGS, Outcome
from provserver.services.access import Access
from provserver.services.profiles import KeyPair, ProfileChange
from provserver.services.provisioning import Answer, Provisioning
from provserver.store import database, keyfile
from provserver.store.database import Database
from tests.conftest import Space
from tests.services.conftest import NONCE, PEER, Fleet, Locking, Outage, contents, until, use
from tests.services.loop_clock import LoopClock
from tests.services.ownership import statements

CHECK = ProvisionStrategy.CHECK_PRE_PROVISIONED_DEVICES
PEM = "-----BEGIN CERTIFICATE-----\nTUlJQ2VydGlmaWNhdGU\n=\n-----END CERTIFICATE-----\n"
NORMALISED = "TUlJQ2VydGlmaWNhdGU="


@pytest.fixture
async def checked(space: Space) -> Fleet:
    """A profile that lets in whom an operator made before."""
    return await Fleet.make(space, CHECK)


# --- creating


async def test_a_new_device_gets_a_token_of_its_own(fleet: Fleet) -> None:
    reply = await fleet.ask("sensor-1")

    token = reply["credentialsValue"]
    assert len(token) == 32
    assert set(token) <= set(ALPHANUMERIC)
    (device,) = await fleet.space.rows("SELECT * FROM device")
    assert reply == {
        "status": "SUCCESS",
        "provisionDeviceStatus": "SUCCESS",
        "credentialsType": "ACCESS_TOKEN",
        "credentialsValue": token,
        "accessToken": token,
        "deviceId": str(device["id"]),
        "deviceName": "sensor-1",
    }
    assert device["profile_id"] == fleet.profile.id
    assert device["organization_id"] == fleet.space.organization_id
    assert not device["gateway"]
    assert await fleet.stored("sensor-1") == [building.access_token(token)]


async def test_a_new_device_is_provisioned(fleet: Fleet) -> None:
    await fleet.ask("sensor-1")

    rows = await fleet.space.rows("SELECT scope, key, value FROM attribute")
    assert [tuple(row) for row in rows] == [("SERVER", "provisionState", "provisioned")]


async def test_a_success_is_recorded_as_an_attempt_and_an_outbox_event(fleet: Fleet) -> None:
    reply = await fleet.ask("sensor-1")
    await fleet.space.provisioning.drain()

    device_id = UUID(reply["deviceId"])
    (attempt,) = await fleet.space.rows("SELECT * FROM attempt")
    assert {key: value for key, value in attempt.items() if key not in ("id", "at")} == {
        "transport": "HTTP",
        "address": PEER.address,
        "outcome": "success",
        "reason": None,
        "detail": None,
        "profile_id": fleet.profile.id,
        "device_id": device_id,
        "device_name": "sensor-1",
    }
    (event,) = await fleet.space.rows("SELECT * FROM outbox")
    assert (event["device_id"], event["type"]) == (device_id, "device.provisioned")
    assert event["payload"] == {
        "deviceId": str(device_id),
        "deviceName": "sensor-1",
        "profileId": str(fleet.profile.id),
        "credentialsType": "ACCESS_TOKEN",
        "transport": "HTTP",
    }


async def test_a_device_without_a_name_is_told_the_one_it_got(fleet: Fleet) -> None:
    replies = [await fleet.ask(), await fleet.ask(deviceName="")]

    names = [reply["deviceName"] for reply in replies]
    assert len(set(names)) == 2
    assert all(len(name) == 20 and set(name) <= set(ALPHANUMERIC) for name in names)
    assert {row["name"] for row in await fleet.space.rows("SELECT name FROM device")} == set(names)


async def test_a_name_is_stored_as_trimmed(fleet: Fleet) -> None:
    assert (await fleet.ask("  sensor 1\n"))["deviceName"] == "sensor 1"

    assert await fleet.refused("sensor 1") == "ALREADY_PROVISIONED"


@pytest.mark.parametrize("name", ["Ünïcode-传感器-😀", "a/b", "[red]", "x" * 255, "a\u202eb", "'; DROP TABLE x; --"])
async def test_names_are_taken_as_they_are(fleet: Fleet, name: str) -> None:
    assert (await fleet.ask(name))["deviceName"] == name
    assert (await fleet.space.devices.show(name)).device.name == name


async def test_a_gateway_is_one(fleet: Fleet) -> None:
    await fleet.ask("gateway-1", gateway=True)
    await fleet.ask("sensor-1", gateway=False)

    rows = await fleet.space.rows("SELECT name, gateway FROM device ORDER BY name")
    assert [tuple(row) for row in rows] == [("gateway-1", True), ("sensor-1", False)]


async def test_a_supplied_token_is_the_devices(fleet: Fleet) -> None:
    reply = await fleet.ask("sensor-1", token="brought-along")

    assert (reply["credentialsType"], reply["credentialsValue"]) == ("ACCESS_TOKEN", "brought-along")
    assert await fleet.stored("sensor-1") == [building.access_token("brought-along")]
    assert await fleet.space.value("SELECT origin FROM credentials") == "supplied"


async def test_supplied_mqtt_basic_credentials_are_the_devices(fleet: Fleet) -> None:
    reply = await fleet.ask(
        "sensor-1", credentialsType="MQTT_BASIC", clientId="client", username="user", password="pass"
    )

    assert reply["credentialsType"] == "MQTT_BASIC"
    assert reply["credentialsValue"] == {"clientId": "client", "userName": "user", "password": "pass"}
    assert "accessToken" not in reply
    (stored,) = await fleet.stored("sensor-1")
    assert stored.value == MqttBasic("client", "user", "pass")


async def test_a_supplied_certificate_is_the_devices(fleet: Fleet) -> None:
    reply = await fleet.ask("sensor-1", credentialsType="X509_CERTIFICATE", hash=PEM)

    assert (reply["credentialsType"], reply["credentialsValue"]) == ("X509_CERTIFICATE", NORMALISED)
    assert await fleet.stored("sensor-1") == [building.certificate(PEM)]


async def test_a_protobuf_request_is_answered_in_protobuf(fleet: Fleet) -> None:
    keys = protobuf.encode([(1, fleet.pair.key), (2, fleet.pair.secret)])

    answer = await fleet.space.provisioning.answer(protobuf.encode([(1, "sensor-1"), (3, keys)]), PEER)

    (stored,) = await fleet.stored("sensor-1")
    assert (answer.outcome, answer.protobuf) == (Outcome.SUCCESS, True)
    assert list(protobuf.fields(answer.body)) == [(1, 1), (3, stored.id.encode())]


@pytest.mark.parametrize("transport", list(Transport))
async def test_the_transport_and_the_address_are_recorded(fleet: Fleet, transport: Transport) -> None:
    body = {"provisionDeviceKey": fleet.pair.key, "provisionDeviceSecret": fleet.pair.secret}

    await fleet.space.provisioning.answer(msgspec.json.encode(body), Peer(transport, "2001:db8::1"))

    (attempt,) = await fleet.space.rows("SELECT transport, address FROM attempt")
    assert tuple(attempt) == (transport.value, "2001:db8::1")
    assert (await fleet.space.value("SELECT payload FROM outbox"))["transport"] == transport.value


# --- refusing


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        ({"deviceName": " \t "}, "NAME_BLANK"),
        ({"deviceName": "x" * 256}, "NAME_TOO_LONG"),
        ({"deviceName": "a\0b"}, "NAME_MALFORMED"),
        ({"deviceName": "a\x7fb"}, "NAME_MALFORMED"),
        ({"deviceName": "<b>bold"}, "NAME_MALFORMED"),
        ({"provisionDeviceKey": ""}, "KEY_MISSING"),
        ({"provisionDeviceSecret": ""}, "KEY_MISSING"),
        ({"provisionDeviceKey": "no such key"}, "KEY_UNKNOWN"),
        ({"provisionDeviceKey": "a\0b"}, "KEY_UNKNOWN"),
        ({"provisionDeviceSecret": "wrong"}, "SECRET_WRONG"),
        ({"provisionDeviceSecret": "wr\0ng"}, "SECRET_WRONG"),
        ({"requestNonce": "short"}, "NONCE_MALFORMED"),
        ({"requestNonce": ""}, "NONCE_MALFORMED"),
        ({"requestNonce": NONCE + "\n"}, "NONCE_MALFORMED"),
        ({"token": "a\nb"}, "CREDENTIALS_INVALID"),
        ({"token": "provision"}, "CREDENTIALS_INVALID"),
        ({"token": "x" * 513}, "CREDENTIALS_INVALID"),
        ({"credentialsType": "MQTT_BASIC", "password": "alone"}, "CREDENTIALS_INVALID"),
        ({"credentialsType": "MQTT_BASIC", "clientId": "c", "password": "p"}, "CREDENTIALS_INVALID"),
        ({"credentialsType": "X509_CERTIFICATE", "token": "t"}, "CREDENTIALS_INVALID"),
        ({"credentialsType": "LWM2M_CREDENTIALS", "token": "t"}, "CREDENTIALS_INVALID"),
        ({"hash": "alone"}, "CREDENTIALS_INVALID"),
    ],
)
async def test_what_is_refused_leaves_its_attempt_and_nothing_else(
    fleet: Fleet, members: dict[str, Any], reason: str
) -> None:
    before = await contents(fleet.space)

    assert await fleet.refused(**{"name": "sensor-1"} | members) == reason

    after = await contents(fleet.space)
    assert len(after.pop("attempt")) == len(before.pop("attempt")) + 1
    assert after == before


@pytest.mark.parametrize(
    ("body", "outcome", "reason"),
    [
        (b"", Outcome.UNDECODABLE, "UNDECODABLE"),
        (b"not JSON planted", Outcome.UNDECODABLE, "UNDECODABLE"),
        (b'["planted"]', Outcome.UNDECODABLE, "UNDECODABLE"),
        (b"\xff\xfe planted", Outcome.UNDECODABLE, "UNDECODABLE"),
        (b'{"deviceName":"planted"}', Outcome.INVALID, "INVALID"),
        (b'{"provisionDeviceKey":"planted"}', Outcome.INVALID, "INVALID"),
        (b'{"provisionDeviceKey":{"planted":1},"provisionDeviceSecret":"s"}', Outcome.INVALID, "INVALID"),
        (b'{"provisionDeviceKey":"\\ud800","provisionDeviceSecret":"planted"}', Outcome.INVALID, "INVALID"),
        (
            b'{"provisionDeviceKey":"k","provisionDeviceSecret":"s","credentialsType":"planted"}',
            Outcome.INVALID,
            "INVALID",
        ),
    ],
)
async def test_what_cannot_be_read_is_answered_and_recorded_without_its_content(
    space: Space, body: bytes, outcome: Outcome, reason: str
) -> None:
    answer = await space.provisioning.answer(body, PEER, accept_protobuf=False)
    await space.provisioning.drain()

    assert answer.outcome is outcome
    assert bool(answer.body) == (RENDERINGS[outcome].status is not None)
    assert b"planted" not in answer.body
    (attempt,) = await space.rows("SELECT * FROM attempt")
    assert (attempt["outcome"], attempt["reason"]) == (outcome.value, reason)
    assert "planted" not in repr(attempt)


async def test_an_invalid_request_is_told_which_member_is_wrong(fleet: Fleet) -> None:
    assert "provisionDeviceSecret" in (await fleet.ask(provisionDeviceSecret=None))["errorMsg"]
    assert "requestNonce" in (await fleet.ask(requestNonce="short"))["errorMsg"]


async def test_a_device_cannot_tell_why_a_key_was_not_found(space: Space) -> None:
    fleet = await Fleet.make(space)
    disabled = await Fleet.make(space, ProvisionStrategy.DISABLED, name="disabled")

    replies = [
        await fleet.ask("sensor-1", provisionDeviceKey="no such key"),
        await fleet.ask("sensor-1", provisionDeviceSecret="wrong"),
        await disabled.ask("sensor-1"),
    ]

    assert replies[0]["status"] == "NOT_FOUND"
    assert replies[0] == replies[1] == replies[2]


async def test_an_unknown_key_is_not_recorded(fleet: Fleet) -> None:
    """What was sent as a key may be the secret."""
    attempt = await fleet.attempted("sensor-1", provisionDeviceKey=fleet.pair.secret)

    assert attempt["reason"] == "KEY_UNKNOWN"
    assert (attempt["profile_id"], attempt["device_name"]) == (None, None)
    assert fleet.pair.secret not in repr(attempt)


async def test_a_refusal_names_the_device_only_once_the_secret_was_right(fleet: Fleet) -> None:
    attempt = await fleet.attempted("sensor-1", token="provision")

    assert (attempt["profile_id"], attempt["device_name"]) == (fleet.profile.id, "sensor-1")

    attempt = await fleet.attempted("a secret in the wrong member", provisionDeviceSecret="wrong")

    assert (attempt["profile_id"], attempt["device_name"]) == (fleet.profile.id, None)


async def test_a_name_is_recorded_without_what_would_confuse_a_terminal(fleet: Fleet) -> None:
    attempt = await fleet.attempted("a\x1b[31m\u009bb\0")

    assert attempt["reason"] == "NAME_MALFORMED"
    assert attempt["device_name"] == "a�[31m�b�"


async def test_a_key_of_another_profile_does_not_open_this_one(space: Space) -> None:
    sensors, meters = await Fleet.make(space, name="sensors"), await Fleet.make(space, name="meters")

    assert await sensors.refused("a", provisionDeviceSecret=meters.pair.secret) == "SECRET_WRONG"


async def test_a_profile_of_certificate_chains_takes_no_key(space: Space) -> None:
    chain = await Fleet.make(space, ProvisionStrategy.X509_CERTIFICATE_CHAIN)

    assert await chain.refused("sensor-1") == "CHAIN_ONLY"


async def test_a_name_that_is_taken_changes_nothing(fleet: Fleet) -> None:
    await fleet.ask("sensor-1")
    before = await contents(fleet.space)

    attempt = await fleet.attempted("sensor-1", token="other")

    assert (attempt["reason"], attempt["outcome"]) == ("ALREADY_PROVISIONED", "failure")
    after = await contents(fleet.space)
    after.pop("attempt"), before.pop("attempt")
    assert after == before


async def test_a_device_that_an_operator_made_is_not_taken_over_by_name(fleet: Fleet) -> None:
    await fleet.import_("sensor-1")

    assert await fleet.refused("sensor-1") == "NAME_TAKEN"


async def test_a_device_of_another_profile_is_not_taken_over_by_name(space: Space) -> None:
    sensors, meters = await Fleet.make(space, name="sensors"), await Fleet.make(space, name="meters")
    await sensors.ask("device-1")

    assert await meters.refused("device-1") == "NAME_ELSEWHERE"


@pytest.mark.parametrize(
    "members",
    [
        {"token": "taken"},
        {"credentialsType": "MQTT_BASIC", "username": "taken"},  # the id of these is the bare user name
    ],
)
async def test_credentials_of_another_device_are_refused(fleet: Fleet, members: dict[str, Any]) -> None:
    await fleet.ask("sensor-1", token="taken")
    before = await contents(fleet.space)

    assert await fleet.refused("sensor-2", **members) == "CREDENTIALS_TAKEN"

    after = await contents(fleet.space)
    after.pop("attempt"), before.pop("attempt")
    assert after == before


async def test_credentials_are_unique_across_profiles(space: Space) -> None:
    sensors, meters = await Fleet.make(space, name="sensors"), await Fleet.make(space, CHECK, name="meters")
    await sensors.ask("sensor-1", token="taken")
    await meters.import_("meter-1")

    assert await meters.refused("meter-1", token="taken") == "CREDENTIALS_TAKEN"
    assert (await meters.ask("meter-1"))["status"] == "SUCCESS"


# --- pre-provisioned


async def test_a_pre_provisioned_device_gets_the_credentials_that_wait_for_it(checked: Fleet) -> None:
    await checked.import_("sensor-1")
    waiting = await checked.stored("sensor-1")

    reply = await checked.ask("sensor-1")

    assert [building.access_token(reply["credentialsValue"])] == waiting == await checked.stored("sensor-1")
    assert (await checked.space.devices.show("sensor-1")).device.provision_state == "provisioned"
    assert await checked.counts() == {"device": 1, "credentials": 1, "attribute": 1, "attempt": 1, "outbox": 1}


async def test_a_pre_provisioned_device_provisions_once(checked: Fleet) -> None:
    await checked.import_("sensor-1")
    await checked.ask("sensor-1")

    assert await checked.refused("sensor-1") == "ALREADY_PROVISIONED"


async def test_a_device_that_nobody_made_is_refused(checked: Fleet) -> None:
    assert await checked.refused("sensor-1") == "NOT_PRE_PROVISIONED"
    assert await checked.refused() == "NAME_REQUIRED"
    assert (await checked.counts())["device"] == 0


async def test_a_device_made_for_another_profile_is_refused(space: Space, checked: Fleet) -> None:
    meters = await Fleet.make(space, CHECK, name="meters")
    await meters.import_("meter-1")

    assert await checked.refused("meter-1") == "NAME_ELSEWHERE"


async def test_supplied_credentials_take_the_place_of_generated_ones(checked: Fleet) -> None:
    await checked.import_("sensor-1")

    reply = await checked.ask("sensor-1", token="brought-along")

    assert reply["credentialsValue"] == "brought-along"
    assert await checked.stored("sensor-1") == [building.access_token("brought-along")]


async def test_supplied_credentials_of_another_type_take_the_place_of_generated_ones(checked: Fleet) -> None:
    await checked.import_("sensor-1")

    await checked.ask("sensor-1", credentialsType="X509_CERTIFICATE", hash=PEM)

    assert await checked.stored("sensor-1") == [building.certificate(PEM)]


async def test_imported_credentials_win_over_supplied_ones(checked: Fleet) -> None:
    await checked.import_("sensor-1", building.mqtt_basic("", "user", "pass"))

    reply = await checked.ask("sensor-1", token="brought-along")

    assert reply["credentialsType"] == "MQTT_BASIC"
    assert reply["credentialsValue"] == {"clientId": "", "userName": "user", "password": "pass"}
    assert await checked.stored("sensor-1") == [building.mqtt_basic("", "user", "pass")]


async def test_a_provision_state_of_another_value_is_the_operators_business(checked: Fleet) -> None:
    await checked.import_("sensor-1")
    device_id = (await checked.space.devices.show("sensor-1")).device.id
    await checked.space.rows(
        "INSERT INTO attribute (device_id, scope, key, value) VALUES ($1, 'SERVER', 'provisionState', $2)",
        device_id,
        {"not": "a state"},
    )

    assert await checked.refused("sensor-1") == "STATE_UNKNOWN"

    await checked.space.rows("DELETE FROM attribute WHERE device_id = $1", device_id)
    assert (await checked.ask("sensor-1"))["status"] == "SUCCESS"


async def test_a_device_made_by_provisioning_is_not_opened_by_another_strategy(fleet: Fleet) -> None:
    await fleet.ask("sensor-1")
    await fleet.space.profiles.update("sensors", ProfileChange(strategy=CHECK))

    assert await fleet.refused("sensor-1") == "ALREADY_PROVISIONED"


# --- repeating: policies


@pytest.mark.parametrize("strategy", [ProvisionStrategy.ALLOW_CREATE_NEW_DEVICES, CHECK])
@pytest.mark.parametrize(
    ("policy", "unused", "used"),
    [
        (ReprovisionPolicy.DENY, "ALREADY_PROVISIONED", "ALREADY_PROVISIONED"),
        (ReprovisionPolicy.UNTIL_FIRST_USE, None, "ALREADY_USED"),
        (ReprovisionPolicy.RETURN_SAME, None, None),
    ],
)
async def test_policies_that_give_the_same_or_nothing(
    space: Space, strategy: ProvisionStrategy, policy: ReprovisionPolicy, unused: str | None, used: str | None
) -> None:
    fleet = await Fleet.make(space, strategy, policy)
    if strategy is CHECK:
        await fleet.import_("sensor-1")
    first = await fleet.ask("sensor-1")

    async def again(reason: str | None) -> None:
        before = await contents(space)
        if reason is None:
            assert await fleet.ask("sensor-1") == first
        else:
            assert await fleet.refused("sensor-1") == reason
        after = await contents(space)
        assert len(after.pop("attempt")) == len(before.pop("attempt")) + 1
        assert after == before

    for _ in range(2):
        await again(unused)
    assert await use(Access(space.database, space.keys), first["credentialsValue"])
    for _ in range(2):
        await again(used)


@pytest.mark.parametrize("policy", [ReprovisionPolicy.UNTIL_FIRST_USE, ReprovisionPolicy.RETURN_SAME])
async def test_a_repeat_cannot_change_what_the_device_has(space: Space, policy: ReprovisionPolicy) -> None:
    fleet = await Fleet.make(space, policy=policy)
    await fleet.ask("sensor-1", token="first")

    assert await fleet.refused("sensor-1", token="second") == "OTHER_CREDENTIALS"
    assert (await fleet.ask("sensor-1", token="first"))["credentialsValue"] == "first"
    assert (await fleet.ask("sensor-1"))["credentialsValue"] == "first"


async def test_a_repeat_is_recorded_as_one(space: Space) -> None:
    fleet = await Fleet.make(space, policy=ReprovisionPolicy.RETURN_SAME)
    first = await fleet.ask("sensor-1")
    await fleet.ask("sensor-1")
    await space.provisioning.drain()

    rows = await space.rows("SELECT outcome, reason, device_id, device_name FROM attempt ORDER BY at")
    id_ = UUID(first["deviceId"])
    assert [tuple(row) for row in rows] == [
        ("success", None, id_, "sensor-1"),
        ("success", "REPEATED", id_, "sensor-1"),
    ]
    assert (await fleet.counts())["outbox"] == 1


@pytest.fixture
async def rotating(space: Space) -> Fleet:
    """A profile under which each request gets new credentials."""
    return await Fleet.make(space, policy=ReprovisionPolicy.ROTATE)


async def test_rotate_keeps_the_old_credentials_until_the_new_are_used(rotating: Fleet) -> None:
    access = Access(rotating.space.database, rotating.space.keys)
    old = (await rotating.ask("sensor-1"))["credentialsValue"]
    assert await use(access, old)
    new = (await rotating.ask("sensor-1"))["credentialsValue"]

    assert new != old
    assert [each.id for each in await rotating.stored("sensor-1")] == [new, old]
    assert await use(access, old)  # again: nothing happens
    assert len(await rotating.stored("sensor-1")) == 2

    assert await use(access, new)

    assert [each.id for each in await rotating.stored("sensor-1")] == [new]
    assert not await use(access, old)
    assert (await rotating.space.rows("SELECT pending FROM credentials"))[0]["pending"] is False


async def test_rotate_keeps_at_most_one_pending(rotating: Fleet) -> None:
    old, lost, new = [(await rotating.ask("sensor-1"))["credentialsValue"] for _ in range(3)]

    assert [each.id for each in await rotating.stored("sensor-1")] == [new, old]
    assert not await use(Access(rotating.space.database, rotating.space.keys), lost)
    assert [each.id for each in await rotating.stored("sensor-1")] == [new, old]


async def test_rotate_with_the_old_credentials_used_meanwhile_keeps_the_new_ones(rotating: Fleet) -> None:
    access = Access(rotating.space.database, rotating.space.keys)
    old, new = [(await rotating.ask("sensor-1"))["credentialsValue"] for _ in range(2)]

    assert await use(access, old)

    assert [each.id for each in await rotating.stored("sensor-1")] == [new, old]
    assert await use(access, new)
    assert [each.id for each in await rotating.stored("sensor-1")] == [new]


async def test_rotate_to_supplied_credentials(rotating: Fleet) -> None:
    await rotating.ask("sensor-1", token="old")

    assert (await rotating.ask("sensor-1", token="new"))["credentialsValue"] == "new"
    assert (await rotating.ask("sensor-1", token="new"))["credentialsValue"] == "new"
    assert (await rotating.ask("sensor-1", token="old"))["credentialsValue"] == "old"  # a repeat of the first request

    assert [each.id for each in await rotating.stored("sensor-1")] == ["new", "old"]


async def test_rotate_never_replaces_imported_credentials(space: Space) -> None:
    fleet = await Fleet.make(space, CHECK, ReprovisionPolicy.ROTATE)
    await fleet.import_("sensor-1", building.access_token("imported"))

    for _ in range(3):
        assert (await fleet.ask("sensor-1", token="other"))["credentialsValue"] == "imported"

    assert await fleet.stored("sensor-1") == [building.access_token("imported")]


# --- repeating: nonce


@pytest.mark.parametrize("name", ["sensor-1", None])
async def test_the_same_request_with_a_nonce_gets_the_same_answer(fleet: Fleet, name: str | None) -> None:
    first = await fleet.ask(name, requestNonce=NONCE)

    assert [await fleet.ask(name, requestNonce=NONCE) for _ in range(3)] == [first] * 3

    assert (await fleet.counts()) == {"device": 1, "credentials": 1, "attribute": 1, "attempt": 4, "outbox": 1}


@pytest.mark.parametrize("name", ["sensor-1", None])
async def test_a_nonce_outlives_the_process(fleet: Fleet, other: Provisioning, name: str | None) -> None:
    first = await fleet.ask(name, requestNonce=NONCE)

    assert await fleet.ask(name, of=other, requestNonce=NONCE) == first


async def test_a_nonce_does_not_depend_on_the_format_of_the_request(fleet: Fleet) -> None:
    first = await fleet.ask("sensor-1", credentialsType="ACCESS_TOKEN", requestNonce=NONCE)
    keys = protobuf.encode([(1, fleet.pair.key), (2, fleet.pair.secret)])

    answer = await fleet.space.provisioning.answer(protobuf.encode([(1, "sensor-1"), (3, keys), (100, NONCE)]), PEER)

    assert dict(protobuf.fields(answer.body))[3] == first["credentialsValue"].encode()


@pytest.mark.parametrize(
    "change",
    [{"deviceName": "sensor-2"}, {"deviceName": None}, {"token": "t"}, {"gateway": True}],
    ids=str,
)
async def test_another_request_with_the_nonce_is_refused(fleet: Fleet, change: dict[str, Any]) -> None:
    first = await fleet.ask("sensor-1", requestNonce=NONCE)

    assert await fleet.refused(**{"name": "sensor-1", "requestNonce": NONCE} | change) == "NONCE_REUSED"

    assert await fleet.ask("sensor-1", requestNonce=NONCE) == first
    assert (await fleet.counts())["device"] == 1


async def test_a_nonce_without_the_secret_is_worth_nothing(fleet: Fleet) -> None:
    await fleet.ask("sensor-1", requestNonce=NONCE)

    assert await fleet.refused("sensor-1", requestNonce=NONCE, provisionDeviceSecret="wrong") == "SECRET_WRONG"


async def test_another_nonce_does_not_open_a_device(fleet: Fleet) -> None:
    await fleet.ask("sensor-1", requestNonce=NONCE)

    assert await fleet.refused("sensor-1", requestNonce=NONCE[::-1]) == "ALREADY_PROVISIONED"


async def test_a_nonce_is_of_its_profile(space: Space) -> None:
    sensors, meters = await Fleet.make(space, name="sensors"), await Fleet.make(space, name="meters")

    replies = [await sensors.ask("sensor-1", requestNonce=NONCE), await meters.ask("meter-1", requestNonce=NONCE)]

    assert replies[0]["deviceId"] != replies[1]["deviceId"]


async def test_first_use_spends_a_nonce(fleet: Fleet) -> None:
    first = await fleet.ask("sensor-1", requestNonce=NONCE)
    await use(Access(fleet.space.database, fleet.space.keys), first["credentialsValue"])

    assert await fleet.refused("sensor-1", requestNonce=NONCE) == "ALREADY_PROVISIONED"


async def test_a_spent_nonce_makes_no_second_device(fleet: Fleet) -> None:
    first = await fleet.ask(requestNonce=NONCE)
    await use(Access(fleet.space.database, fleet.space.keys), first["credentialsValue"])

    assert await fleet.refused(requestNonce=NONCE) == "ALREADY_PROVISIONED"
    assert (await fleet.counts())["device"] == 1


async def test_deleting_a_device_frees_its_name_and_nonce(fleet: Fleet) -> None:
    first = await fleet.ask("sensor-1", requestNonce=NONCE)
    await fleet.space.devices.delete("sensor-1")

    again = await fleet.ask("sensor-1", requestNonce=NONCE)

    assert again["status"] == "SUCCESS"
    assert again["deviceId"] != first["deviceId"]
    assert again["credentialsValue"] != first["credentialsValue"]


async def test_a_nonce_works_for_a_pre_provisioned_device(checked: Fleet, other: Provisioning) -> None:
    await checked.import_("sensor-1")
    first = await checked.ask("sensor-1", requestNonce=NONCE)

    assert await checked.ask("sensor-1", requestNonce=NONCE) == first
    assert await checked.ask("sensor-1", of=other, requestNonce=NONCE) == first
    assert await checked.refused("sensor-1") == "ALREADY_PROVISIONED"


# --- re-arming


@pytest.mark.parametrize("strategy", [ProvisionStrategy.ALLOW_CREATE_NEW_DEVICES, CHECK])
async def test_a_rearmed_device_provisions_once_more(space: Space, strategy: ProvisionStrategy) -> None:
    fleet = await Fleet.make(space, strategy)
    if strategy is CHECK:
        await fleet.import_("sensor-1")
    first = await fleet.ask("sensor-1")
    await space.devices.rearm("sensor-1")
    assert (await space.devices.show("sensor-1")).device.rearmed

    again = await fleet.ask("sensor-1")

    assert again["deviceId"] == first["deviceId"]
    assert again["credentialsValue"] != first["credentialsValue"]
    assert [each.id for each in await fleet.stored("sensor-1")] == [again["credentialsValue"]]
    assert not (await space.devices.show("sensor-1")).device.rearmed
    assert await fleet.refused("sensor-1") == "ALREADY_PROVISIONED"
    assert (await fleet.counts())["outbox"] == 2


async def test_rearming_spends_the_nonce_of_the_last_answer(fleet: Fleet) -> None:
    first = await fleet.ask("sensor-1", requestNonce=NONCE)
    await fleet.space.devices.rearm("sensor-1")

    second = await fleet.ask("sensor-1", requestNonce=NONCE)

    assert second["credentialsValue"] != first["credentialsValue"]
    assert await fleet.ask("sensor-1", requestNonce=NONCE) == second


async def test_a_rearmed_device_without_a_name_is_known_by_its_nonce(fleet: Fleet) -> None:
    first = await fleet.ask(requestNonce=NONCE)
    await fleet.space.devices.rearm(first["deviceName"])

    second = await fleet.ask(requestNonce=NONCE)

    assert second["deviceId"] == first["deviceId"]
    assert second["credentialsValue"] != first["credentialsValue"]


async def test_a_rearmed_device_may_bring_credentials(fleet: Fleet) -> None:
    await fleet.ask("sensor-1", token="old")
    await fleet.space.devices.rearm("sensor-1")

    assert (await fleet.ask("sensor-1", token="new"))["credentialsValue"] == "new"
    assert await fleet.stored("sensor-1") == [building.access_token("new")]


async def test_a_rearmed_device_may_change_a_password_under_the_same_id(fleet: Fleet) -> None:
    await fleet.ask("sensor-1", credentialsType="MQTT_BASIC", username="user", password="old")
    await fleet.space.devices.rearm("sensor-1")

    reply = await fleet.ask("sensor-1", credentialsType="MQTT_BASIC", username="user", password="new")

    assert reply["credentialsValue"]["password"] == "new"
    assert await fleet.stored("sensor-1") == [building.mqtt_basic("", "user", "new")]
    assert (await fleet.counts())["credentials"] == 1


async def test_a_rearmed_device_keeps_imported_credentials(checked: Fleet) -> None:
    await checked.import_("sensor-1", building.access_token("imported"))
    await checked.ask("sensor-1")
    await checked.space.devices.rearm("sensor-1")

    assert (await checked.ask("sensor-1", token="other"))["credentialsValue"] == "imported"
    assert await checked.refused("sensor-1") == "ALREADY_PROVISIONED"


async def test_a_rearmed_device_is_not_for_another_profile(space: Space, fleet: Fleet) -> None:
    meters = await Fleet.make(space, name="meters")
    await fleet.ask("sensor-1")
    await space.devices.rearm("sensor-1")

    assert await meters.refused("sensor-1") == "NAME_ELSEWHERE"
    assert (await fleet.ask("sensor-1"))["status"] == "SUCCESS"


async def test_a_refused_request_does_not_use_up_a_rearming(fleet: Fleet) -> None:
    await fleet.ask("sensor-1")
    await fleet.ask("sensor-2", token="taken")
    await fleet.space.devices.rearm("sensor-1")

    assert await fleet.refused("sensor-1", provisionDeviceSecret="wrong") == "SECRET_WRONG"
    assert await fleet.refused("sensor-1", token="taken") == "CREDENTIALS_TAKEN"
    assert await fleet.refused("sensor-1", token="a\0b") == "CREDENTIALS_INVALID"

    assert (await fleet.ask("sensor-1"))["status"] == "SUCCESS"


async def test_a_rearmed_gateway_stays_one(fleet: Fleet) -> None:
    await fleet.ask("gateway-1", gateway=True)
    await fleet.space.devices.rearm("gateway-1")
    await fleet.ask("gateway-1")

    assert (await fleet.space.devices.show("gateway-1")).device.gateway


# --- what another process changes


async def test_a_profile_disabled_elsewhere_is_disabled_at_the_next_request(fleet: Fleet) -> None:
    assert (await fleet.ask("sensor-1"))["status"] == "SUCCESS"
    await fleet.space.profiles.update("sensors", ProfileChange(strategy=ProvisionStrategy.DISABLED))

    assert await fleet.refused("sensor-2") == "PROFILE_DISABLED"
    assert (await fleet.counts())["device"] == 1

    await fleet.space.profiles.update("sensors", ProfileChange(strategy=ProvisionStrategy.ALLOW_CREATE_NEW_DEVICES))
    assert (await fleet.ask("sensor-2"))["status"] == "SUCCESS"


async def test_a_key_removed_elsewhere_is_dead_at_the_next_request(fleet: Fleet) -> None:
    assert (await fleet.ask("sensor-1"))["status"] == "SUCCESS"
    second = await fleet.space.profiles.add_key("sensors")
    await fleet.space.profiles.remove_key("sensors", fleet.pair.key)

    assert await fleet.refused("sensor-2") == "KEY_UNKNOWN"
    assert fleet.pair.key not in fleet.space.provisioning._recognised
    assert (await fleet.ask("sensor-2", **members(second.key, second.secret)))["status"] == "SUCCESS"


async def test_a_profile_deleted_elsewhere_is_gone_at_the_next_request(fleet: Fleet) -> None:
    await fleet.ask("sensor-1")
    await fleet.space.devices.delete("sensor-1")
    await fleet.space.profiles.delete("sensors")

    assert await fleet.refused("sensor-2") == "KEY_UNKNOWN"


async def test_a_new_profile_is_known_at_once(fleet: Fleet) -> None:
    assert await fleet.refused("meter-1", provisionDeviceKey="new", provisionDeviceSecret="s") == "KEY_UNKNOWN"
    await fleet.space.profiles.create(
        ProfileChange(name="meters", strategy=ProvisionStrategy.ALLOW_CREATE_NEW_DEVICES), "new", "s"
    )

    assert (await fleet.ask("meter-1", **members("new", "s")))["status"] == "SUCCESS"


async def test_a_new_key_is_known_at_once(fleet: Fleet) -> None:
    await fleet.ask("sensor-1")
    assert await fleet.refused("sensor-2", **members("new", "s")) == "KEY_UNKNOWN"
    await fleet.space.profiles.add_key("sensors", "new", "s")

    assert (await fleet.ask("sensor-2", **members("new", "s")))["status"] == "SUCCESS"
    assert (await fleet.ask("sensor-3"))["status"] == "SUCCESS"


async def test_a_key_with_a_new_secret_is_known_at_once(fleet: Fleet) -> None:
    await fleet.ask("sensor-1")
    await fleet.space.profiles.remove_key("sensors", fleet.pair.key)
    await fleet.space.profiles.add_key("sensors", fleet.pair.key, "new secret")

    assert await fleet.refused("sensor-2") == "SECRET_WRONG"
    assert (await fleet.ask("sensor-2", provisionDeviceSecret="new secret"))["status"] == "SUCCESS"


async def test_a_key_that_moved_to_another_profile_makes_its_devices(space: Space, fleet: Fleet) -> None:
    await fleet.ask("sensor-1")
    await space.profiles.remove_key("sensors", fleet.pair.key)
    meters, _ = await space.profiles.create(
        ProfileChange(name="meters", strategy=ProvisionStrategy.ALLOW_CREATE_NEW_DEVICES),
        fleet.pair.key,
        fleet.pair.secret,
    )

    assert (await fleet.ask("meter-1"))["status"] == "SUCCESS"
    assert (await space.devices.show("meter-1")).device.profile_id == meters.id


async def test_a_policy_changed_elsewhere_holds_at_the_next_request(fleet: Fleet) -> None:
    first = await fleet.ask("sensor-1")
    await fleet.space.profiles.update(
        "sensors",
        ProfileChange(reprovision_policy=ReprovisionPolicy.RETURN_SAME, accept_unproven_repeats=True),
    )

    assert await fleet.ask("sensor-1") == first

    await fleet.space.profiles.update("sensors", ProfileChange(reprovision_policy=ReprovisionPolicy.DENY))
    assert await fleet.refused("sensor-1") == "ALREADY_PROVISIONED"


async def test_a_strategy_changed_elsewhere_holds_at_the_next_request(fleet: Fleet) -> None:
    await fleet.ask("sensor-1")
    await fleet.import_("sensor-2")
    assert await fleet.refused("sensor-2") == "NAME_TAKEN"
    await fleet.space.profiles.update("sensors", ProfileChange(strategy=CHECK))

    assert (await fleet.ask("sensor-2"))["status"] == "SUCCESS"
    assert await fleet.refused("sensor-3") == "NOT_PRE_PROVISIONED"
    assert await fleet.refused() == "NAME_REQUIRED"

    await fleet.space.profiles.update("sensors", ProfileChange(strategy=ProvisionStrategy.ALLOW_CREATE_NEW_DEVICES))
    assert (await fleet.ask())["status"] == "SUCCESS"


async def test_an_unknown_key_takes_the_same_statements_as_a_wrong_secret(fleet: Fleet, database_url: str) -> None:
    """So it takes as long, however much there is in the key's profile: `benchmarks.telling` measures it."""
    opened = Database(database_url, size=1, serving=True)
    await opened.open()
    provisioning = Provisioning(opened, fleet.space.keys)
    seen = []
    for key in ("the first", fleet.pair.key, "another", fleet.pair.key):
        await provisioning.drain()
        body = json.dumps(members(key, "wrong") | {"deviceName": "sensor-1"}).encode()
        async with statements(opened) as made:
            assert (await provisioning.answer(body, PEER, accept_protobuf=False)).outcome is Outcome.NOT_FOUND
            await provisioning.drain()
        seen.append(made)
    await opened.close()

    assert seen[1] == seen[2] == seen[3]
    attempts = await fleet.space.rows("SELECT profile_id FROM attempt WHERE reason = 'SECRET_WRONG'")
    assert [row["profile_id"] for row in attempts] == [fleet.profile.id] * 2


async def test_a_wrong_secret_keeps_what_is_known_of_its_key(fleet: Fleet) -> None:
    await fleet.ask("sensor-1")
    known = fleet.space.provisioning._recognised[fleet.pair.key]
    assert await fleet.refused("sensor-2", provisionDeviceSecret="wrong") == "SECRET_WRONG"
    assert fleet.space.provisioning._recognised[fleet.pair.key] is known


async def test_guesses_of_keys_are_not_kept(fleet: Fleet) -> None:
    for guess in range(10):
        await fleet.ask(provisionDeviceKey=f"guess-{guess}")

    assert not fleet.space.provisioning._recognised
    await fleet.ask()
    assert list(fleet.space.provisioning._recognised) == [fleet.pair.key]


# --- secrets


async def test_nothing_secret_is_stored_in_clear(space: Space) -> None:
    fleet = await Fleet.make(space, policy=ReprovisionPolicy.RETURN_SAME)
    checked = await Fleet.make(space, CHECK, name="checked")
    planted = {
        "secret": fleet.pair.secret,
        "token": "planted-token-1",
        "imported": "planted-token-2",
        "user": "planted-user",
        "password": "planted-password",
        "certificate": base64.b64encode(b"planted certificate").decode(),
        "nonce": NONCE,
        "wrong secret": "planted-wrong-secret",
        "unknown key": "planted-unknown-key",
        "refused token": "planted\ntoken",
    }
    await fleet.ask("a", token=planted["token"], requestNonce=planted["nonce"])
    await fleet.ask("a", token=planted["token"], requestNonce=planted["nonce"])
    await fleet.ask("b", credentialsType="MQTT_BASIC", username=planted["user"], password=planted["password"])
    await fleet.ask("c", credentialsType="X509_CERTIFICATE", hash=planted["certificate"])
    planted["generated"] = (await fleet.ask("d"))["credentialsValue"]
    await checked.import_("e", building.access_token(planted["imported"]))
    await checked.ask("e", token=planted["token"])
    refusals: list[dict[str, Any]] = [
        {"provisionDeviceSecret": planted["wrong secret"]},
        {"provisionDeviceKey": planted["unknown key"]},
        {"token": planted["refused token"]},
        {"token": planted["token"], "requestNonce": planted["nonce"]},
        {"credentialsType": planted["token"]},
    ]
    for refused in refusals:
        assert (await fleet.ask("f", **refused))["status"] != "SUCCESS"
    await space.provisioning.drain()

    stored = await contents(space)

    assert len(stored["attempt"]) == 11
    haystack = [_bytes(value) for rows in stored.values() for row in rows for value in row]
    for name, secret in planted.items():
        raw = secret.encode()
        for form in (raw, raw.hex().encode(), base64.b64encode(raw)):
            assert not any(form in value for value in haystack), f"the {name} is in the database"


# --- whose keys are looked up


Asked = tuple[KeyPair, str]
"""Key and secret, and the address that they come from."""


async def looked_up(provisioning: Provisioning, lock: Locking, *asked: Asked) -> list[str]:
    """From where those came that were answered, in order, who came while a key was looked up."""
    told: list[str] = []
    async with lock("LOCK TABLE provision_key IN ACCESS EXCLUSIVE MODE") as held:
        for number, (pair, address) in enumerate([asked[0], *asked]):
            body = json.dumps(members(pair.key, pair.secret)).encode()
            provisioning.request(body, Peer(Transport.HTTP, address), partial(_tell, told, address))
            if number == 0:
                await held.until_waiting()
        assert not told
    await provisioning.drain()
    assert len(told) == len(asked) + 1
    return told[1:]


def _tell(told: list[str], address: str, _answer: Answer) -> None:
    told.append(address)


async def test_who_guesses_many_keys_holds_up_no_other_address(fleet: Fleet, lock: Locking) -> None:
    provisioning = Provisioning(fleet.space.database, fleet.space.keys)
    guesses = [(KeyPair(f"guess {number}", "secret"), "192.0.2.7") for number in range(300)]

    told = await looked_up(provisioning, lock, *guesses, (KeyPair(fleet.pair.key, "wrong"), "192.0.2.8"))

    assert told.index("192.0.2.8") < 128  # in the first group


async def test_a_profile_whose_devices_are_all_looked_up_holds_up_no_other(space: Space, lock: Locking) -> None:
    """From wherever its key comes."""
    disabled = await Fleet.make(space, ProvisionStrategy.DISABLED, name="disabled")
    provisioning = Provisioning(space.database, space.keys)
    assert (await disabled.ask(of=provisioning))["status"] == "NOT_FOUND"  # and its key is known from now on
    leaked = [(disabled.pair, f"192.0.2.{number}") for number in range(250)]

    told = await looked_up(provisioning, lock, *leaked, (KeyPair("unknown", "key"), "198.51.100.1"))

    assert told.index("198.51.100.1") < 128


def _bytes(value: object) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode()


async def test_credentials_cannot_be_opened_with_other_keys(fleet: Fleet, tmp_path: Path) -> None:
    await fleet.ask("sensor-1", requestNonce=NONCE)
    await fleet.space.rows("UPDATE credentials SET sealed = set_byte(sealed, 20, get_byte(sealed, 20) # 1)")

    reply = await fleet.ask("sensor-1", requestNonce=NONCE)

    assert reply["status"] == "FAILURE"
    assert (await fleet.ask("sensor-2"))["status"] == "SUCCESS"
    others = keyfile.load_or_create(tmp_path / "others.json")
    stranger = Provisioning(fleet.space.database, others)
    assert (await fleet.ask("sensor-3", of=stranger))["status"] == "NOT_FOUND"
    await stranger.drain()


async def test_attempts_that_cannot_be_recorded_are_told_of(fleet: Fleet, caplog: pytest.LogCaptureFixture) -> None:
    await fleet.space.rows("""
        CREATE FUNCTION obstacle() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'planted-in-postgres'; END $$""")
    await fleet.space.rows("CREATE TRIGGER poison BEFORE INSERT ON attempt EXECUTE FUNCTION obstacle()")

    assert (await fleet.ask("sensor-1", provisionDeviceSecret="wrong"))["status"] == "NOT_FOUND"
    await fleet.space.provisioning.drain()

    assert "1 attempts were not recorded" in caplog.text
    assert "planted" not in caplog.text


# --- Postgres away


async def test_who_asks_while_postgres_is_away_is_told_to_come_back(fleet: Fleet, outage: Outage) -> None:
    provisioning = Provisioning(outage.database, fleet.space.keys, wait_limit=60)
    assert (await fleet.ask("sensor-1", of=provisioning))["status"] == "SUCCESS"
    provisioning._wait_limit = 0.2
    await outage.begin()

    answers = [
        await provisioning.answer(json.dumps(body).encode(), PEER)
        for body in (
            members(fleet.pair.key, fleet.pair.secret) | {"deviceName": "sensor-2"},
            members("unknown", "key"),
        )
    ]

    for answer in answers:
        assert answer.outcome is Outcome.UNAVAILABLE
        assert json.loads(answer.body)["status"] == "FAILURE"
        assert "again" in json.loads(answer.body)["errorMsg"]
    outage.end()
    await provisioning.drain()
    assert await fleet.space.value("SELECT count(*) FROM device WHERE name = 'sensor-2'") == 0


async def test_who_waits_while_postgres_is_away_is_served_when_it_is_back(
    fleet: Fleet, outage: Outage, caplog: pytest.LogCaptureFixture
) -> None:
    provisioning = Provisioning(outage.database, fleet.space.keys, wait_limit=60)
    assert (await fleet.ask("sensor-1", of=provisioning))["status"] == "SUCCESS"
    await outage.begin()
    tasks = [asyncio.create_task(fleet.ask(f"waiting-{n}", of=provisioning)) for n in range(20)]
    await until(lambda: "wait for the database" in caplog.text)
    assert not any(task.done() for task in tasks)

    outage.end()

    assert {reply["status"] for reply in await asyncio.gather(*tasks)} == {"SUCCESS"}
    assert await fleet.space.value("SELECT count(*) FROM device") == 21
    await provisioning.drain()


async def test_a_closed_database_is_not_available(space: Space, fleet: Fleet) -> None:
    closed = Provisioning(Database("postgresql:///nowhere"), space.keys, wait_limit=0.1)

    assert (await fleet.ask(of=closed))["errorMsg"] == RENDERINGS[Outcome.UNAVAILABLE].error
    await closed.drain()


@pytest.fixture
async def hasty(
    fleet: Fleet, database_url: str, monkeypatch: pytest.MonkeyPatch, loop_clock: LoopClock
) -> AsyncIterator["Hasty"]:
    """Another process, whose statements are given up long after its devices."""
    monkeypatch.setattr(database, "COMMAND_TIMEOUT", 1_000 * Hasty.wait_limit)
    opened = Database(database_url, size=1)
    await opened.open()
    made = Hasty(Provisioning(opened, fleet.space.keys, wait_limit=Hasty.wait_limit), loop_clock)
    yield made
    await made.provisioning.drain()
    await opened.close()


@dataclass
class Hasty:
    """Tells its devices to come back as soon as the test wants it."""

    wait_limit: ClassVar = 600.0
    provisioning: Provisioning
    clock: LoopClock

    def give_up(self) -> None:
        self.clock.pass_(self.wait_limit)


async def test_an_answer_that_came_too_late_is_brought_by_the_nonce(fleet: Fleet, lock: Locking, hasty: Hasty) -> None:
    async with lock("LOCK TABLE outbox IN ACCESS EXCLUSIVE MODE") as held:
        asking = asyncio.create_task(fleet.ask("sensor-1", of=hasty.provisioning, requestNonce=NONCE))
        await held.until_waiting()
        assert not asking.done()
        hasty.give_up()
        told = await asking
    await hasty.provisioning.drain()

    assert told["errorMsg"] == RENDERINGS[Outcome.UNAVAILABLE].error
    (stored,) = await fleet.stored("sensor-1")  # it was under way and came through
    assert (await fleet.ask("sensor-1", requestNonce=NONCE))["credentialsValue"] == stored.id


async def test_a_refusal_does_not_wait_for_its_record(fleet: Fleet, lock: Locking) -> None:
    await fleet.ask("sensor-1")
    async with lock("LOCK TABLE attempt IN ACCESS EXCLUSIVE MODE") as held:
        reply = await fleet.ask(deviceName=" ")
        assert reply["status"] == "FAILURE"
        await held.until_waiting()
    await fleet.space.provisioning.drain()

    assert await fleet.space.value("SELECT count(*) FROM attempt WHERE reason = 'NAME_BLANK'") == 1


def members(key: str, secret: str) -> dict[str, Any]:
    return {"provisionDeviceKey": key, "provisionDeviceSecret": secret}


# --- answers by callback


async def test_a_callback_that_fails_spares_the_others_of_its_group(
    fleet: Fleet, lock: Locking, caplog: pytest.LogCaptureFixture
) -> None:
    provisioning, outcomes = fleet.space.provisioning, list[Outcome]()

    def broken(_answer: object) -> None:
        raise ValueError("planted")

    async with lock("LOCK TABLE outbox IN ACCESS EXCLUSIVE MODE") as held:
        under_way = asyncio.create_task(fleet.ask("sensor-0"))
        await held.until_waiting()
        for name in ("sensor-1", "sensor-2", "sensor-3"):
            body = json.dumps(members(fleet.pair.key, fleet.pair.secret) | {"deviceName": name}).encode()
            provisioning.request(
                body, PEER, broken if name == "sensor-2" else lambda answer: outcomes.append(answer.outcome)
            )
    await under_way
    await provisioning.drain()

    assert outcomes == [Outcome.SUCCESS, Outcome.SUCCESS]
    assert "an answer failed: ValueError at" in caplog.text
    assert "planted" not in caplog.text


async def test_a_fault_of_ours_is_told_as_unavailable(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    provisioning = Provisioning(fleet.space.database, fleet.space.keys)

    def fail(*_: object) -> bool:
        raise ValueError("planted")

    monkeypatch.setattr(provisioning, "_ticket", fail)

    assert (await fleet.ask("sensor-1", of=provisioning))["errorMsg"] == RENDERINGS[Outcome.UNAVAILABLE].error
    await provisioning.drain()
    assert "a provision request failed: ValueError at" in caplog.text
    assert "planted" not in caplog.text


async def test_what_was_answered_is_not_kept_behind_what_waits(fleet: Fleet, lock: Locking) -> None:
    provisioning, answers = fleet.space.provisioning, list[Outcome]()
    await fleet.ask("sensor-0")
    async with lock("LOCK TABLE outbox IN ACCESS EXCLUSIVE MODE") as held:
        under_way = asyncio.create_task(fleet.ask("sensor-1"))
        await held.until_waiting()
        for key in (fleet.pair.key, "unknown"):  # answered at once, and after a look-up
            body = members(key, fleet.pair.secret) | {
                "deviceName": "\t" if key == fleet.pair.key else "x",
                "token": "t" * 99,
            }
            provisioning.request(json.dumps(body).encode(), PEER, lambda answer: answers.append(answer.outcome))
        await until(lambda: len(answers) == 2)
        held_back = [each.request for each in provisioning._under_way if each.done is None]
        assert not any(request.token for request in held_back)
        assert len(provisioning._under_way) == 1 + len(held_back)
    await under_way
    assert answers == [Outcome.FAILURE, Outcome.NOT_FOUND]


async def test_who_was_told_to_come_back_hears_nothing_more(fleet: Fleet, lock: Locking, hasty: Hasty) -> None:
    provisioning, outcomes = hasty.provisioning, list[Outcome]()
    body = json.dumps(members(fleet.pair.key, fleet.pair.secret) | {"deviceName": "sensor-1"}).encode()
    async with lock("LOCK TABLE outbox IN ACCESS EXCLUSIVE MODE") as held:
        provisioning.request(body, PEER, lambda answer: outcomes.append(answer.outcome))
        await held.until_waiting()
        assert outcomes == []
        hasty.give_up()
        await until(lambda: bool(outcomes))

    await provisioning.drain()

    assert outcomes == [Outcome.UNAVAILABLE]
    assert await fleet.space.value("SELECT count(*) FROM device") == 1
    assert not provisioning._under_way

"""What happened to a device, from every record that tells of it."""

import os
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from provserver.core import ids, timeline
from provserver.core.authorization import OPERATOR, PERMISSIONS, Permission, Principal, Role
from provserver.core.csvfile import DeviceRow
from provserver.core.timeline import Entry, Kind
from provserver.services.device_timeline import DeviceTimeline
from provserver.services.handover import Handover
from provserver.services.organizations import Organizations
from provserver.services.profiles import ProfileChange
from tests.conftest import Space

NOW = datetime.now(UTC)


class Story:
    """One device, and who reads what happened to it."""

    def __init__(self, space: Space, device_id: UUID, profile_id: UUID) -> None:
        self.space = space
        self.device_id = device_id
        self.profile_id = profile_id
        self.timeline = DeviceTimeline(space.database)
        self.operator = Principal(OPERATOR, space.organization_id)

    async def read(self, who: Principal | None = None, **more: Any) -> list[Entry]:
        return await self.timeline.read(who or self.operator, self.device_id, **more)

    async def attempt(self, *, at: datetime, **columns: object) -> UUID:
        id_ = ids.uuid7(at.timestamp(), os.urandom)
        row = {
            "id": id_,
            "at": at,
            "transport": "mqtt",
            "address": "192.0.2.7",
            "outcome": "failure",
            "profile_id": self.profile_id,
        } | columns
        places = ", ".join(f"${n}" for n in range(1, len(row) + 1))
        await self.space.rows(f"INSERT INTO attempt ({', '.join(row)}) VALUES ({places})", *row.values())
        return id_


@pytest.fixture
async def story(space: Space) -> Story:
    profile = await space.profiles.create_keyless(ProfileChange(name="sensors"))
    device = await space.devices.create(DeviceRow(0, "sensor-1", None, False), "sensors")
    return Story(space, device.id, profile.id)


async def test_every_record_has_its_entry_and_the_newest_is_first(story: Story) -> None:
    space, device_id = story.space, story.device_id
    await story.attempt(at=NOW - timedelta(hours=1), device_id=device_id, reason="REPEATED", outcome="success")
    await story.attempt(at=NOW - timedelta(hours=2), device_name="sensor-1", reason="SECRET_WRONG")
    await story.attempt(at=NOW - timedelta(hours=3), device_name="sensor-2", reason="SECRET_WRONG")
    await space.rows("INSERT INTO presence VALUES ($1, NULL, now() + interval '1 hour', now())", device_id)
    await space.rows(
        "INSERT INTO clone_sign (device_id, organization_id, kind, count)"
        " SELECT id, organization_id, 'name', 3 FROM device WHERE id = $1",
        device_id,
    )
    await space.rows("UPDATE credentials SET first_used_at = now() WHERE device_id = $1", device_id)
    await space.rows(
        "INSERT INTO job (id, organization_id, kind, actor, state, subject_id, error)"
        " VALUES ($1, $2, 'network.onboard', 'operator', 'failed', $3, 'no such application')",
        ids.uuid7(NOW.timestamp(), os.urandom),
        space.organization_id,
        device_id,
    )
    await space.rows(
        "INSERT INTO wifi_session (id, organization_id, requester, client, device_id, again, state, error, expires_at)"
        " VALUES ($1, $2, 'operator', 'app', $3, true, 'FAILED', 'wifi_wrong_password', now())",
        ids.uuid7(NOW.timestamp(), os.urandom),
        space.organization_id,
        device_id,
    )
    await space.devices.quarantine(device_id, "seen twice")
    entries = await story.read()
    assert {entry.kind for entry in entries} == set(Kind) - {Kind.CLAIM, Kind.NETWORK}
    assert [entry.id for entry in entries] == sorted((entry.id for entry in entries), reverse=True)
    attempts = [entry for entry in entries if entry.kind is Kind.ATTEMPT]
    assert [entry.state for entry in attempts] == ["success", "failure"]
    assert "the provision secret is wrong" in (attempts[1].detail or "")
    (job,) = [entry for entry in entries if entry.kind is Kind.JOB]
    assert (job.state, job.detail) == ("failed", "no such application")
    texts = {entry.text for entry in entries}
    assert {"The device was put into quarantine.", "The device was created by hand."} <= texts


async def test_it_is_read_page_by_page(story: Story) -> None:
    for _ in range(9):
        await story.space.devices.rearm(story.device_id)
    everything = await story.read(limit=100)
    read: list[Entry] = []
    before = None
    while page := await story.read(before=before, limit=3):
        assert len(page) <= 3
        read += page
        before = page[-1].id
    assert read == everything


async def test_claims_are_for_all_who_see_the_device_and_the_audit_for_who_may_read_it(story: Story) -> None:
    space = story.space
    customer = await Organizations(space.database).create(story.operator, "Customer")
    await Handover(space.database).transfer(story.operator, story.device_id, to_organization=customer.id)
    await space.devices.rearm(story.device_id)

    admin = Principal("user:a", customer.id, PERMISSIONS[Role.ADMIN])
    person = Principal("user:b", customer.id, PERMISSIONS[Role.USER])
    assert any(entry.kind is Kind.AUDIT and entry.actor == OPERATOR for entry in await story.read(admin))
    theirs = await story.read(person)
    claims = [entry for entry in theirs if entry.kind is Kind.CLAIM]
    assert [entry.text for entry in claims] == ["The device was received from another organization."]
    assert {entry.actor for entry in theirs} == {None}
    assert {entry.kind for entry in theirs} == {Kind.DEVICE, Kind.CREDENTIALS, Kind.CLAIM}

    await space.devices.quarantine(story.device_id, "seen twice")
    await space.devices.release(story.device_id)
    theirs = await story.read(Principal("user:c", space.organization_id, frozenset({Permission.DEVICES_VIEW})))
    assert not [entry for entry in theirs if "quarantine" in entry.text.lower()]


async def test_an_attempt_by_another_makers_key_is_not_told(story: Story) -> None:
    other = await Organizations(story.space.database).create(story.operator, "Other")
    foreign = ids.uuid7(0, os.urandom)
    await story.space.rows(
        "INSERT INTO device_profile (id, organization_id, name, template_id, strategy, reprovision_policy)"
        " VALUES ($1, $2, 'foreign', 'TMPLforeign', 'DISABLED', 'deny')",
        foreign,
        other.id,
    )
    await story.attempt(at=NOW, device_name="sensor-1", profile_id=foreign)
    assert not [entry for entry in await story.read() if entry.kind is Kind.ATTEMPT]


def test_the_words_of_a_release_say_which_it_was() -> None:
    assert timeline.told("device.released", {"rotated": False}) == "The device was released from quarantine."
    assert timeline.told("device.released", {}) == "The device was given back to its maker."
    assert timeline.told("device.new_action", {}) == "Device new action."
    assert timeline.details({"name": "x", "overlap": 3600, "rotated": True, "written": ["a", "b"]}) == (
        "overlap: 3600; rotated: yes; written: a, b"
    )

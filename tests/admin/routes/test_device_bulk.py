from typing import Any
from uuid import uuid4

import pytest

from provserver.core.authorization import Permission, Role
from tests.admin.conftest import Caller, Site


@pytest.fixture
async def devices(admin: Caller) -> list[str]:
    await admin.ok("POST", "/profiles", {"name": "sensors"})
    made = [await admin.ok("POST", "/devices", {"name": f"sensor-{n}", "profile": "sensors"}) for n in range(3)]
    return [each["id"] for each in made]


async def act(caller: Caller, act: str, devices: list[str], **more: Any) -> tuple[int, list[dict[str, Any]]]:
    answer = await caller.ok("POST", "/devices/bulk", {"act": act, "devices": devices, **more})
    return answer["done"], answer["outcomes"]


async def test_each_act_is_done_to_each(admin: Caller, devices: list[str]) -> None:
    done, outcomes = await act(admin, "rotate", devices, overlap=60)
    tokens = {each["accessToken"] for each in outcomes}
    assert (done, len(tokens), None in tokens) == (3, 3, False)
    assert [each["name"] for each in outcomes] == ["sensor-0", "sensor-1", "sensor-2"]
    assert (await act(admin, "quarantine", devices, reason="recalled"))[0] == 3
    done, outcomes = await act(admin, "release", devices, rotate=True)
    assert (done, len({each["accessToken"] for each in outcomes} - tokens)) == (3, 3)
    for verb in ("rearm", "revoke"):
        assert (await act(admin, verb, devices))[0] == 3
    found = (await admin.ok("GET", "/devices"))["items"]
    assert {(each["rearmed"], each["credentialsType"]) for each in found} == {(True, None)}
    await admin.ok("POST", "/organizations", {"name": "Customer"})
    assert (await act(admin, "transfer", devices, organization="Customer"))[0] == 3
    assert {each["holder"] for each in (await admin.ok("GET", "/devices"))["items"]} == {"Customer"}
    assert (await act(admin, "delete", [*devices, devices[0]]))[0] == 3
    assert (await admin.ok("GET", "/devices"))["items"] == []


async def test_what_one_refuses_stops_no_other(admin: Caller, devices: list[str]) -> None:
    await admin.ok("POST", "/devices/sensor-1/quarantine", {"reason": "by hand"})
    unknown = str(uuid4())
    done, outcomes = await act(admin, "quarantine", [devices[0], unknown, *devices[1:]], reason="recalled")
    assert done == 2
    problems = [each["problem"] and each["problem"]["code"] for each in outcomes]
    assert problems == [None, "not_found", "conflict", None]
    assert outcomes[1]["name"] is None
    assert "quarantine already" in outcomes[2]["problem"]["detail"]


async def test_what_is_wrong_for_all_is_refused(site: Site, admin: Caller, devices: list[str]) -> None:
    for body in (
        {"act": "quarantine", "devices": devices},
        {"act": "transfer", "devices": devices},
        {"act": "transfer", "devices": devices, "user": "a@example.com", "organization": "Customer"},
    ):
        assert (await admin("POST", "/devices/bulk", body)).code == "invalid"
    for body in (
        {"act": "burn", "devices": devices},
        {"act": "revoke", "devices": []},
        {"act": "revoke", "devices": [str(uuid4()) for _ in range(501)]},
    ):
        assert (await admin("POST", "/devices/bulk", body)).code == "malformed"
    keeper = await site.caller(permissions=frozenset({Permission.DEVICES_MANAGE, Permission.DEVICES_VIEW}))
    to = {"act": "transfer", "devices": devices, "organization": "Customer"}
    assert (await keeper("POST", "/devices/bulk", to)).code == "forbidden"
    customer = await admin.ok("POST", "/organizations", {"name": "Customer"})
    other = await site.caller(Role.ADMIN, customer["id"])
    done, outcomes = await act(other, "revoke", devices)
    assert (done, {each["problem"]["code"] for each in outcomes}) == (0, {"not_found"})
    assert {each["name"] for each in outcomes} == {None}


async def test_a_repeated_request_gets_the_same_tokens(admin: Caller, devices: list[str]) -> None:
    body, once = {"act": "rotate", "devices": devices}, {"Idempotency-Key": "rotate-them-all-once"}
    first = await admin("POST", "/devices/bulk", body, once)
    assert first.json == (await admin("POST", "/devices/bulk", body, once)).json

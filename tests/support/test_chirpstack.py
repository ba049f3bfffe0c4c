"""The stand-in for ChirpStack does as the server does."""

from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from tests.support.chirpstack import ChirpStack
from tests.support.things_stack import How

DEV_EUI, KEY = "0018b20000000101", "2b7e151628aed2a6abf7158809cf4f3c"


class Api:
    def __init__(self, stack: ChirpStack, session: aiohttp.ClientSession) -> None:
        self._stack = stack
        self._session = session
        self.key = stack.api_key()
        self.device = {
            "devEui": DEV_EUI.upper(),
            "name": "Meter 1",
            "applicationId": stack.application("meters"),
            "deviceProfileId": stack.device_profile("meter"),
            "joinEui": "70B3D57ED0000010",
        }

    async def ask(self, method: str, path: str, body: object = None) -> tuple[int, dict[str, Any]]:
        headers = {"Grpc-Metadata-Authorization": f"Bearer {self.key}"}
        url = f"{self._stack.url}/api{path if path.startswith('/applications') else f'/devices{path}'}"
        async with self._session.request(method, url, json=body, headers=headers) as response:
            return response.status, await response.json()

    async def create(self, **more: Any) -> int:
        return (await self.ask("POST", "", {"device": self.device | more}))[0]

    async def set_keys(self, method: str = "POST", **keys: str) -> int:
        return (await self.ask(method, f"/{DEV_EUI}/keys", {"deviceKeys": {"nwkKey": KEY} | keys}))[0]


@pytest.fixture
async def stack() -> AsyncIterator[ChirpStack]:
    async with ChirpStack() as made:
        yield made


@pytest.fixture
async def api(stack: ChirpStack) -> AsyncIterator[Api]:
    async with aiohttp.ClientSession() as session:
        yield Api(stack, session)


async def test_a_device_with_its_keys(stack: ChirpStack, api: Api) -> None:
    assert await api.set_keys() == 404
    assert await api.create() == 200
    assert await api.create() == 500, "as its database says it"
    assert (await api.ask("GET", f"/{DEV_EUI}"))[1]["device"] == stack.devices[DEV_EUI]
    assert await api.set_keys("PUT") == 404
    assert await api.set_keys() == 200
    assert await api.set_keys() == 500
    assert await api.set_keys("PUT", appKey="00" * 16) == 200
    assert stack.keys == {DEV_EUI: {"nwkKey": KEY, "appKey": "00" * 16}}
    assert (await api.ask("DELETE", f"/{DEV_EUI}"))[0] == 200
    assert not stack.devices
    assert not stack.keys
    assert (await api.ask("DELETE", f"/{DEV_EUI}"))[0] == (await api.ask("GET", f"/{DEV_EUI}"))[0] == 404


@pytest.mark.parametrize(
    ("members", "status"),
    [
        ({"devEui": "0018B2"}, 500),
        ({"joinEui": "70B3D57ED000001G"}, 500),
        ({"applicationId": "meters"}, 400),
        ({"applicationId": "6eb4b05a-dc53-4921-a490-574c17de6bed"}, 401),
        ({"name": ""}, 400),
        ({"nmae": ""}, 400),
        ({"tags": "none"}, 400),
    ],
)
async def test_what_it_does_not_take(stack: ChirpStack, api: Api, members: dict[str, Any], status: int) -> None:
    assert await api.create(**members) == status
    assert not stack.devices


async def test_a_key_is_needed(api: Api) -> None:
    api.key = "another"
    assert await api.create() == 401
    assert (await api.ask("GET", f"/applications/{api.device['applicationId']}"))[0] == 401


async def test_an_application_is_shown(api: Api) -> None:
    application_id = api.device["applicationId"]
    shown = {"application": {"id": application_id, "name": "meters"}}
    assert await api.ask("GET", f"/applications/{application_id}") == (200, shown)
    assert (await api.ask("GET", "/applications/6eb4b05a-dc53-4921-a490-574c17de6bed"))[0] == 404


@pytest.mark.parametrize(
    ("how", "status"), [(How.SERVER_ERROR, 500), (How.SERVER_ERROR_AFTER, 500), (How.UNAVAILABLE, 503)]
)
async def test_faults(stack: ChirpStack, api: Api, how: How, status: int) -> None:
    stack.fail("device", how=how)
    assert await api.create() == status
    assert bool(stack.devices) is how.after
    stack.fail("device", how=How.RESET_AFTER)
    with pytest.raises(aiohttp.ClientError):
        await api.create(devEui="0018B20000000102")
    assert "0018b20000000102" in stack.devices

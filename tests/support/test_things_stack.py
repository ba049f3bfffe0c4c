"""The stand-in for The Things Stack does as the server does: what it takes, what it refuses, and how."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp
import aiomqtt
import pytest

from tests.support.mosquitto import Broker
from tests.support.things_stack import READ, READ_KEYS, SEED_RIGHTS, WRITE, WRITE_KEYS, Component, How, ThingsStack

APPLICATION, DEVICE = "meters", "eui-0018b20000000101"
DEV_EUI, JOIN_EUI, APP_KEY = "0018B20000000101", "70B3D57ED0000010", "2B7E151628AED2A6ABF7158809CF4F3C"
IDS = {"device_id": DEVICE, "dev_eui": DEV_EUI, "join_eui": JOIN_EUI}
IDS_PATHS = ["ids.device_id", "ids.dev_eui", "ids.join_eui"]
SERVERS = {f"{name}_server_address": "eu1.cloud.thethings.network" for name in ("network", "application", "join")}


class Api:
    """Somebody with an API key."""

    def __init__(self, stack: ThingsStack, session: aiohttp.ClientSession, key: str) -> None:
        self._stack = stack
        self._session = session
        self.key = key

    async def call(
        self, component: Component, method: str, device: str | None = DEVICE, body: object = None, **query: str
    ) -> tuple[int, dict[str, Any]]:
        prefix = "" if component is Component.IS else f"/{component}"
        path = f"{prefix}/applications/{APPLICATION}/devices" + (f"/{device}" if device else "")
        return await self.ask(component, method, path, body, **query)

    async def ask(
        self, component: Component, method: str, path: str, body: object = None, **query: str
    ) -> tuple[int, dict[str, Any]]:
        names = {"is": "identityServer", "js": "joinServer", "ns": "networkServer", "as": "applicationServer"}
        url = f"{self._stack.addresses[names[component]]}/api/v3{path}"
        headers = {"Authorization": f"Bearer {self.key}"} if self.key else {}
        async with self._session.request(method, url, json=body, headers=headers, params=query) as response:
            self.headers = response.headers
            return response.status, await response.json()

    async def create(self, **more: Any) -> tuple[int, dict[str, Any]]:
        device = {"ids": IDS | {"application_ids": {"application_id": APPLICATION}}} | SERVERS | more
        return await self.call(Component.IS, "POST", None, {"end_device": device})

    async def put(self, component: Component, members: dict[str, Any], paths: list[str]) -> tuple[int, dict[str, Any]]:
        body = {"end_device": {"ids": IDS} | members, "field_mask": {"paths": paths}}
        return await self.call(component, "PUT", DEVICE, body)

    async def make(self, component: Component) -> tuple[int, dict[str, Any]]:
        """What onboarding does there."""
        if component is Component.IS:
            return await self.create(name="Meter 1", attributes={"provserver-device": "1"})
        return await self.put(component, *MADE[component])


MADE: dict[Component, tuple[dict[str, Any], list[str]]] = {
    Component.JS: (
        {"root_keys": {"app_key": {"key": APP_KEY}}} | {name: SERVERS[name] for name in list(SERVERS)[:2]},
        ["network_server_address", "application_server_address", *IDS_PATHS, "root_keys.app_key.key"],
    ),
    Component.NS: (
        {
            "multicast": False,
            "supports_join": True,
            "lorawan_version": "MAC_V1_0_3",
            "lorawan_phy_version": "PHY_V1_0_3_REV_A",
            "frequency_plan_id": "EU_863_870_TTN",
            "supports_class_b": False,
            "supports_class_c": False,
        },
        [
            "multicast",
            "supports_join",
            "lorawan_version",
            "lorawan_phy_version",
            "frequency_plan_id",
            "supports_class_b",
            "supports_class_c",
            *IDS_PATHS,
        ],
    ),
    Component.AS: ({}, IDS_PATHS),
}


@pytest.fixture
async def stack() -> AsyncIterator[ThingsStack]:
    async with ThingsStack() as made:
        made.application(APPLICATION)
        yield made


@pytest.fixture
async def api(stack: ThingsStack) -> AsyncIterator[Api]:
    async with aiohttp.ClientSession() as session:
        yield Api(stack, session, stack.api_key(APPLICATION))


def name_of(answer: dict[str, Any]) -> str:
    return str(answer["details"][0]["name"])


def attributes_of(answer: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = answer["details"][0]["attributes"]
    return found


async def test_a_device_is_made_in_four_components(stack: ThingsStack, api: Api) -> None:
    for component in Component:
        status, answer = await api.make(component)
        assert status == 200, answer
        assert answer.get("ids", IDS).items() >= IDS.items()
        assert set(stack.devices[component]) == {(APPLICATION, DEVICE)}
    joining = stack.devices[Component.JS][APPLICATION, DEVICE]
    assert joining["root_keys"]["app_key"]["key"] == APP_KEY
    assert "root_keys" not in stack.devices[Component.NS][APPLICATION, DEVICE]
    assert [call.component for call in stack.calls] == list(Component)
    for component in reversed(Component):
        assert (await api.call(component, "DELETE"))[0] == 200
        status, answer = await api.call(component, "DELETE")
        assert status == 404
        assert name_of(answer) in ("device_not_found", "end_device_not_found")
        assert not stack.devices[component]


async def test_making_it_again_says_that_the_id_is_taken_and_an_empty_update_by_whom(
    stack: ThingsStack, api: Api
) -> None:
    await api.make(Component.IS)
    status, answer = await api.make(Component.IS)
    assert (status, answer["code"], name_of(answer)) == (409, 6, "id_taken")
    assert "attributes" not in answer["details"][0]
    body = {"end_device": {}, "field_mask": {"paths": ["activated_at"]}}
    before = dict(stack.devices[Component.IS][APPLICATION, DEVICE])
    status, answer = await api.call(Component.IS, "PUT", DEVICE, body)
    assert status == 200
    assert answer["ids"].items() >= IDS.items()
    assert set(answer) == {"ids", "created_at", "updated_at"}
    after = stack.devices[Component.IS][APPLICATION, DEVICE]
    assert before | {"updated_at": ""} == after | {"updated_at": ""}
    assert (await api.call(Component.IS, "PUT", "eui-0000000000000000", body))[0] == 404
    for component in (Component.JS, Component.NS, Component.AS):
        assert (await api.make(component))[0] == (await api.make(component))[0] == 200


@pytest.mark.parametrize("component", Component)
@pytest.mark.parametrize("application", [APPLICATION, "others"])
async def test_euis_are_of_one_device_in_all_applications(
    stack: ThingsStack, api: Api, component: Component, application: str
) -> None:
    stack.given(component, application, {"ids": IDS | {"device_id": "theirs"}})
    status, answer = await api.make(component)
    assert (status, name_of(answer)) == (409, "end_device_euis_taken")
    assert attributes_of(answer) == {
        "join_eui": JOIN_EUI,
        "dev_eui": DEV_EUI,
        "device_id": "theirs",
        "application_id": application,
    }
    assert list(stack.devices[component]) == [(application, "theirs")]


@pytest.mark.parametrize("component", [Component.JS, Component.NS, Component.AS])
async def test_the_euis_of_a_device_stay(stack: ThingsStack, api: Api, component: Component) -> None:
    stack.given(component, APPLICATION, {"ids": IDS | {"dev_eui": "0000000000000001"}})
    status, answer = await api.make(component)
    assert (status, name_of(answer), attributes_of(answer)) == (400, "read_only_field", {"field": "ids.dev_eui"})


@pytest.mark.parametrize(
    ("component", "path"),
    [
        (Component.IS, "frequency_plan_id"),
        (Component.JS, "lorawan_version"),
        (Component.NS, "root_keys.app_key.key"),
        (Component.NS, "network_server_address"),
        (Component.AS, "supports_join"),
    ],
)
async def test_a_mask_holds_what_is_the_components(
    stack: ThingsStack, api: Api, component: Component, path: str
) -> None:
    await api.create()
    status, answer = await api.put(component, {}, [path])
    assert (status, name_of(answer)) == (400, "field_mask_paths")
    assert attributes_of(answer) == {"forbidden_paths": [path]}
    assert component is Component.IS or not stack.devices[component]


@pytest.mark.parametrize(
    ("members", "field"),
    [
        ({"name": "n" * 51}, "name"),
        ({"description": "n" * 2001}, "description"),
        ({"ids": IDS | {"device_id": "EUI-1"}}, "ids.device_id"),
        ({"ids": IDS | {"device_id": "d" * 37}}, "ids.device_id"),
        ({"ids": {"dev_eui": DEV_EUI}}, "ids.device_id"),
        ({"attributes": {f"key-{n}": "" for n in range(11)}}, "attributes"),
        ({"attributes": {"Key": ""}}, "attributes[Key]"),
        ({"attributes": {"key": "v" * 201}}, "attributes[key]"),
        ({"serial_number": "SN 1"}, "serial_number"),
        ({"join_server_address": "https://eu1.cloud.thethings.network"}, "join_server_address"),
    ],
)
async def test_limits_are_the_schemas(api: Api, members: dict[str, Any], field: str) -> None:
    status, answer = await api.create(**members)
    assert (status, name_of(answer), attributes_of(answer)["field"]) == (400, "validation", field)


@pytest.mark.parametrize(
    "body",
    [
        {"end_device": {"ids": IDS, "nmae": ""}},
        {"end_device": {"ids": IDS}, "field_mask": {"paths": []}},
        {"end_device": {"ids": IDS, "root_keys": {"app_key": {"key": APP_KEY}}}},
        {"end_device": {"ids": IDS | {"dev_eui": "0018B2"}}},
        {"end_device": {"ids": IDS, "name": 1}},
        {"end_device": {"ids": IDS, "lorawan_version": "1.0.3"}},
        {"end_device": []},
        [],
    ],
)
async def test_what_is_not_of_the_message_is_refused(stack: ThingsStack, api: Api, body: object) -> None:
    status, answer = await api.call(Component.IS, "POST", None, body)
    assert (status, answer["code"], answer["details"]) == (400, 3, [])
    assert not stack.devices[Component.IS]


async def test_addresses_must_be_those_that_the_application_is_bound_to(stack: ThingsStack, api: Api) -> None:
    stack.application(APPLICATION, servers={"join_server_address": "nam1.cloud.thethings.network:8884"})
    status, answer = await api.create()
    assert (status, name_of(answer)) == (400, "join_server_address_mismatch")


@pytest.mark.parametrize(
    ("members", "name"),
    [
        ({"frequency_plan_id": ""}, "field_value"),
        ({"frequency_plan_id": "EU_999"}, "not_found"),
        ({"lorawan_version": "MAC_UNKNOWN"}, "field_value"),
        ({"lorawan_phy_version": None}, "field_value"),
        ({"supports_join": False}, "field_value"),
    ],
)
async def test_the_network_server_looks_at_values(api: Api, members: dict[str, Any], name: str) -> None:
    given, paths = MADE[Component.NS]
    status, answer = await api.put(Component.NS, given | members, paths)
    assert (status, name_of(answer)) == (404 if name == "not_found" else 400, name)


async def test_whether_a_device_joins_cannot_be_changed(stack: ThingsStack, api: Api) -> None:
    stack.given(Component.NS, APPLICATION, {"ids": IDS, "supports_join": False})
    status, answer = await api.make(Component.NS)
    assert (status, attributes_of(answer)) == (400, {"field": "supports_join"})


@pytest.mark.parametrize("euis", [{"join_eui": ""}, {"dev_eui": ""}])
async def test_the_join_server_needs_euis_and_a_key(api: Api, euis: dict[str, str]) -> None:
    given, paths = MADE[Component.JS]
    status, answer = await api.put(Component.JS, given | {"ids": IDS | euis}, paths)
    assert (status, name_of(answer)) == (400, f"no_{next(iter(euis))}")
    status, answer = await api.put(Component.JS, {"root_keys": {"app_key": {"key": "0" * 32}}}, paths)
    assert (status, attributes_of(answer)) == (400, {"field": "root_keys.app_key.key"})


@pytest.mark.parametrize(
    ("component", "missing"),
    [
        (Component.IS, WRITE),
        (Component.JS, WRITE),
        (Component.JS, WRITE_KEYS),
        (Component.NS, WRITE),
        (Component.AS, WRITE),
    ],
)
async def test_a_right_that_is_missing_is_named(
    stack: ThingsStack, api: Api, component: Component, missing: str
) -> None:
    api.key = stack.api_key(APPLICATION, [right for right in SEED_RIGHTS if right != missing])
    status, answer = await api.make(component)
    assert (status, name_of(answer)) == (403, "insufficient_application_rights")
    assert attributes_of(answer) == {"uid": APPLICATION, "missing": [missing]}
    assert not stack.devices[component]


async def test_reading_needs_rights_of_its_own(stack: ThingsStack, api: Api) -> None:
    for component in Component:
        await api.make(component)
        status, answer = await api.call(component, "GET", field_mask="ids")
        assert (status, attributes_of(answer)["missing"]) == (403, [READ])
    api.key = stack.api_key(APPLICATION, [READ])
    assert await api.call(Component.NS, "GET", field_mask="supports_join") == (200, {"supports_join": True})
    status, answer = await api.call(Component.JS, "GET", field_mask="root_keys.app_key.key")
    assert (status, attributes_of(answer)["missing"]) == (403, [READ_KEYS])


@pytest.mark.parametrize(
    ("key", "status", "name"),
    [
        ("", 403, "no_application_rights"),
        ("NNSXS.AAAA.BBBB", 401, "api_key_not_found"),
        ("secret", 400, "token"),
    ],
)
async def test_who_is_not_known(api: Api, key: str, status: int, name: str) -> None:
    api.key = key
    answered, answer = await api.make(Component.AS)
    assert (answered, name_of(answer)) == (status, name)


async def test_the_rights_of_a_key_are_told_to_whoever_has_it(stack: ThingsStack, api: Api) -> None:
    path = f"/applications/{APPLICATION}/rights"
    assert await api.ask(Component.IS, "GET", path) == (200, {"rights": sorted(SEED_RIGHTS)})
    api.key = stack.api_key(stack.application("others"))
    assert await api.ask(Component.IS, "GET", path) == (200, {})
    stack.revoke(api.key)
    assert (await api.ask(Component.IS, "GET", path))[0] == 401


async def test_each_component_has_routes_of_its_own(api: Api) -> None:
    path = f"/applications/{APPLICATION}/devices/{DEVICE}"
    assert (await api.ask(Component.JS, "PUT", f"/ns{path}"))[0] == 404
    assert (await api.ask(Component.IS, "PUT", f"/js{path}"))[0] == 404
    assert (await api.ask(Component.IS, "POST", path))[0] == 501


async def test_past_the_limit_accesses_are_refused_until_time_has_passed() -> None:
    now = [0.0]
    async with ThingsStack((3, 60.0), lambda: now[0]) as stack, aiohttp.ClientSession() as session:
        api = Api(stack, session, stack.api_key(stack.application(APPLICATION)))
        for left in (2, 1, 0):
            assert (await api.make(Component.AS))[0] == 200
            assert api.headers["X-Rate-Limit-Available"] == str(left)
        status, answer = await api.make(Component.AS)
        assert (status, answer["code"], name_of(answer)) == (429, 8, "rate_limit_exceeded")
        assert (api.headers["X-Rate-Limit-Limit"], api.headers["X-Rate-Limit-Retry"]) == ("3", "20")
        assert "Retry-After" not in api.headers
        now[0] = 20.0
        assert (await api.make(Component.AS))[0] == 200
        api.key = stack.api_key(APPLICATION)
        assert (await api.make(Component.AS))[0] == 200


@pytest.mark.parametrize("component", Component)
@pytest.mark.parametrize(
    ("how", "status"),
    [
        (How.SERVER_ERROR, 500),
        (How.SERVER_ERROR_AFTER, 500),
        (How.UNAVAILABLE, 503),
        (How.FORBIDDEN, 403),
        (How.LIMITED, 429),
        (How.TAKEN_OURS, 409),
        (How.TAKEN_FOREIGN, 409),
        (How.ID_TAKEN, 409),
    ],
)
async def test_faults_that_are_answered(
    stack: ThingsStack, api: Api, component: Component, how: How, status: int
) -> None:
    stack.fail(component, how=how)
    answered, answer = await api.make(component)
    assert answered == status
    if how in (How.TAKEN_OURS, How.TAKEN_FOREIGN):
        owner = {"application_id": APPLICATION, "device_id": DEVICE}
        if how is How.TAKEN_FOREIGN:
            owner = {"application_id": "others", "device_id": "theirs"}
        assert attributes_of(answer).items() >= owner.items()
    assert bool(stack.devices[component]) is how.after
    assert (await api.make(component))[0] == (409 if how.after and component is Component.IS else 200)


@pytest.mark.parametrize("how", [How.TIMEOUT, How.TIMEOUT_AFTER, How.RESET, How.RESET_AFTER])
async def test_faults_that_are_not_answered(stack: ThingsStack, api: Api, how: How) -> None:
    stack.fail("ns", 2, how, method="PUT")  # aiohttp asks a second time when a PUT's connection is cut
    api._session._timeout = aiohttp.ClientTimeout(total=1.0)  # in which the stand-in has heard it
    with pytest.raises((TimeoutError, aiohttp.ClientError)):
        await api.make(Component.NS)
    assert bool(stack.devices[Component.NS]) is how.after


@pytest.mark.parametrize("after", [False, True])
async def test_a_call_can_be_held(stack: ThingsStack, api: Api, after: bool) -> None:
    held = stack.hold("js", after=after)
    task = asyncio.create_task(api.make(Component.JS))
    await held.reached.wait()
    assert bool(stack.devices[Component.JS]) is after
    assert not task.done()
    held.release()
    assert (await task)[0] == 200


async def test_uplinks_come_by_mqtt_to_whoever_may_read_them(tool: Callable[..., str], tmp_path: Path) -> None:
    broker = Broker.guarded(tool("mosquitto", "/usr/sbin/mosquitto"), tmp_path)
    await broker.start()
    try:
        async with ThingsStack(mosquitto=broker) as stack:
            for application in (APPLICATION, "others"):
                stack.application(application)
                stack.given("as", application, {"ids": IDS})
            key = stack.api_key(APPLICATION)
            await stack.settle()
            user = f"{APPLICATION}@ttn"
            with pytest.raises(aiomqtt.MqttError):
                async with broker.subscribed(username=user, password="wrong"):
                    pass
            async with broker.subscribed(username=user, password=key) as client:
                await client.subscribe("v3/+/devices/+/+", qos=1)
                document = stack.uplink("others", DEVICE, payload=b"\x01")
                await stack.publish(document)
                await stack.publish(stack.joined(APPLICATION, DEVICE))
                await stack.publish(stack.uplink(APPLICATION, DEVICE, payload=b"\x02", decoded={"temperature": 21.5}))
                topics = [str((await anext(client.messages)).topic) for _ in range(2)]
            assert topics == [f"v3/{user}/devices/{DEVICE}/{kind}" for kind in ("join", "up")]
    finally:
        broker.kill()

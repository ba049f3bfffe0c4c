import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import pytest
from aiohttp import web

from provserver.adapters.outgoing import Outgoing, networks
from provserver.adapters.particle import Denied, Later, ParticleCloud
from provserver.core.particle import Device, Place
from tests.adapters.conftest import Endpoint, serving

SECRET = "pl4nted-0123456789"
DEVICE = "e00fce681234567890abcdef"


class Odd(Endpoint):
    """Answers whatever it is told to."""

    def __init__(self, status: int = 200, body: object = b"", headers: Mapping[str, str] | None = None) -> None:
        super().__init__()
        self.answer = status, body if isinstance(body, bytes) else json.dumps(body).encode(), headers
        self.asked: list[tuple[str, str, str]] = []

    async def handle(self, request: web.Request) -> web.Response:
        self.asked.append((request.method, request.path_qs, (await request.read()).decode()))
        assert request.headers["Authorization"] == f"Bearer {SECRET}"
        status, body, headers = self.answer
        return web.Response(status=status, body=body, headers=headers)


async def ask(endpoint: Odd, call: str, *arguments: Any, org: str = "", private: str = "127.0.0.1") -> Any:
    """What a call comes to."""
    async with serving(endpoint), Outgoing(networks(private), max_response=10_000) as outgoing:
        cloud = ParticleCloud(outgoing, Place(endpoint.url.removesuffix("/in"), "p-v1", "tokens", org), SECRET)
        try:
            return await getattr(cloud, call)(*arguments)
        except (Denied, Later) as fault:
            raised = fault
    raise raised


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        ("2027-01-01T00:00:00.000Z", datetime(2027, 1, 1, tzinfo=UTC)),
        ("2027-01-01T00:00:00", datetime(2027, 1, 1, tzinfo=UTC)),
        ("never", None),
        (None, None),
    ],
)
async def test_when_the_access_token_ends(shown: str | None, expected: datetime | None) -> None:
    assert await ask(Odd(body={"expires_at": shown, "more": 1}), "expires_at") == expected


async def test_devices_come_in_pages_however_their_number_is_told() -> None:
    listed: dict[str, object] = {
        "id": DEVICE.upper(),
        "name": "a",
        "serial_number": "P1",
        "iccid": None,
        "groups": ["g"],
        "more": {},
    }
    device = Device(DEVICE, "a", "P1", None, ("g",))
    for meta, page, more in (
        ({"meta": {"total_pages": 2}}, 1, True),
        ({"meta": {"total_pages": 2}}, 2, False),
        ({"meta": {"total_page": 2}}, 1, True),
        ({}, 1, True),
    ):
        endpoint = Odd(body={"devices": [listed], **meta})
        assert await ask(endpoint, "devices", page) == ([device], more)
        ((_, path, _),) = endpoint.asked
        assert path == f"/v1/products/p-v1/devices?page={page}&perPage=100&sortAttr=deviceId&sortDir=asc"
    assert await ask(Odd(body={"devices": [], "meta": {"total_pages": 5}}), "devices", 1) == ([], False)


async def test_instances_are_merged_where_the_organization_is() -> None:
    endpoint = Odd(body={"instance": {"data": {"blynk_token": "t", "x": 1}}})
    await ask(endpoint, "write", DEVICE, "t", org="acme")
    path = f"/v1/orgs/acme/ledgers/tokens/instances/{DEVICE}?set_mode=Merge"
    assert endpoint.asked == [("PUT", path, '{"instance":{"data":{"blynk_token":"t"}}}')]
    with pytest.raises(Later, match="another token"):
        await ask(Odd(body={"instance": {"data": {"blynk_token": "u"}}}), "write", DEVICE, "t")
    for data, expected in (({}, None), ({"blynk_token": ""}, None), ({"blynk_token": 7}, "7")):
        assert await ask(Odd(body={"instance": {"data": data}}), "token", DEVICE) == expected
    assert await ask(Odd(404), "token", DEVICE) is None
    assert await ask(Odd(404), "ledger") is None


async def test_a_ledger_that_is_made_meanwhile_is_as_good() -> None:
    await ask(Odd(409), "create_ledger")
    with pytest.raises(Denied):
        await ask(Odd(400), "create_ledger")


@pytest.mark.parametrize(
    ("endpoint", "expected"),
    [
        (Odd(200, b"<html>pl4nted</html>"), "does not answer as Particle's API"),
        (Odd(200, {"devices": [{"id": "pl4nted"}]}), "does not answer as Particle's API"),
        (Odd(200, {"devices": "pl4nted"}), "does not answer as Particle's API"),
        (Odd(200, b'{"devices": [' + b" " * 20_000), "does not answer as Particle's API"),
        (Odd(401, {"error": "pl4nted"}), "particle token create"),
        (Odd(403), "member of its team"),
        (Odd(404), "no such product"),
        (Odd(302, headers={"Location": "http://pl4nted.example/"}), "Redirects"),
        (Odd(418), "console"),
    ],
)
async def test_what_is_not_as_it_is_to_be_is_said_without_quoting_it(endpoint: Odd, expected: str) -> None:
    with pytest.raises(Denied, match=expected) as raised:
        await ask(endpoint, "devices", 1)
    assert "pl4nted" not in str(raised.value)


async def test_who_is_asked_for_later_is_asked_later() -> None:
    for status, headers, after, limited in (
        (429, {"Retry-After": "7"}, 7.0, True),
        (429, {}, 0.0, True),
        (503, {"Retry-After": "1"}, 1.0, False),
        (500, {}, 0.0, False),
        (408, {}, 0.0, False),
    ):
        with pytest.raises(Later) as raised:
            await ask(Odd(status, headers=headers), "devices", 1)
        assert (raised.value.after, raised.value.limited) == (after, limited)


async def test_it_goes_only_where_it_may() -> None:
    endpoint = Odd()
    with pytest.raises(Denied, match="outgoing_private"):
        await ask(endpoint, "devices", 1, private="")
    assert not endpoint.asked


@pytest.mark.parametrize(
    ("url", "private", "said"),
    [
        ("https://1.1.1.1", "", None),
        ("http://127.0.0.1:1", "127.0.0.1", None),
        ("http://127.0.0.1:1", "", "outgoing_private"),
        ("http://1.1.1.1", "1.1.1.1", "https://"),
    ],
)
async def test_an_access_token_does_not_go_in_clear(url: str, private: str, said: str | None) -> None:
    async with Outgoing(networks(private)) as outgoing:
        cloud = ParticleCloud(outgoing, Place(url, "p-v1", "tokens"), SECRET)
        if said is None:
            await cloud.check_address()
        else:
            with pytest.raises(Denied, match=said):
                await cloud.check_address()

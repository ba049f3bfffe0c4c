import asyncio
import json
import os
import subprocess
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import quote
from uuid import UUID

import pytest
from aiohttp.test_utils import make_mocked_request

from provserver.core.limits import Buckets
from provserver.core.model import Peer, PreSharedKey, Transport
from provserver.errors import Unavailable
from provserver.services.access import Access
from provserver.services.data import Data
from provserver.services.limits import RotationLimits
from provserver.transports import device_api
from provserver.transports.attributes import Polls
from provserver.transports.http import HttpTransport
from tests.conformance.test_sdk import SDK
from tests.transports import WAITS
from tests.transports.devices import Backend, Device, RevokedMeanwhile, backend, going_away, until
from tests.transports.test_http import Response, Site, get, logging_as_serve_does, post

WAITING = "attributes/updates?timeout=300000"


@pytest.fixture(scope="module")
async def back(postgres: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Backend]:
    async with backend(postgres, tmp_path_factory.mktemp("device_api"), "device_api") as services:
        yield services


@asynccontextmanager
async def serving(back: Backend, **options: Any) -> AsyncIterator[Site]:
    transport = HttpTransport(back.made.provisioning, back.made.database.ping, **back.services | options)
    _, port = await transport.start("127.0.0.1", 0)
    try:
        yield Site(transport, port, back.made.pair)
    finally:
        await transport.stop(0)


@pytest.fixture(scope="module")
async def site(back: Backend) -> AsyncIterator[Site]:
    async with serving(back, max_payload_size=10_000) as shared:
        yield shared


def path(device: Device, rest: str) -> bytes:
    return f"/api/v1/{quote(device.token, safe='')}/{rest}".encode()


async def send(site: Site, device: Device, rest: str, body: bytes = b"{}") -> Response:
    return await site.ask(post(body, path=path(device, rest)))


async def ask(site: Site, device: Device, rest: str) -> Response:
    return await site.ask(get(path(device, rest)))


# --- what a device sends


async def test_telemetry_is_kept(back: Backend, site: Site) -> None:
    device = await back.device("telemetry")

    response = await send(site, device, "telemetry", b'{"temperature":21.5,"on":true}')

    assert (response.status, response.body) == (200, b"")
    assert response.headers["access-control-allow-origin"] == "*"
    assert await back.latest(device) == {"temperature": 21.5, "on": True}


async def test_attributes_are_kept_and_given(back: Backend, site: Site) -> None:
    device = await back.device("attributes")
    assert (await send(site, device, "attributes", b'{"a":1,"b":"x","c":null}')).status == 200
    await back.share(device, c=[1, 2], d=False)

    for query, expected in {
        "": {"client": {"a": 1, "b": "x"}, "shared": {"c": [1, 2], "d": False}},
        "?clientKeys=a": {"client": {"a": 1}},
        "?clientKeys=a,b&sharedKeys=c": {"client": {"a": 1, "b": "x"}, "shared": {"c": [1, 2]}},
        "?sharedKeys=c&sharedKeys=d": {"shared": {"c": [1, 2], "d": False}},
        "?sharedKeys=c%2Cd,,c": {"shared": {"c": [1, 2], "d": False}},
        "?sharedKeys=nothing": {},
        "?clientKeys=&sharedKeys=,": {"client": {"a": 1, "b": "x"}, "shared": {"c": [1, 2], "d": False}},
        "?unknown=1": {"client": {"a": 1, "b": "x"}, "shared": {"c": [1, 2], "d": False}},
    }.items():
        response = await ask(site, device, f"attributes{query}")
        assert (response.status, response.json) == (200, expected), query


async def test_who_rotates_too_often_is_told_when_to_come_back(back: Backend) -> None:
    device = await back.device("rotates")
    data = Data(back.made.database, back.made.keys, limits=RotationLimits(Buckets(1, 1e-6)))
    async with serving(back, data=data) as site:
        assert (await send(site, device, "credentials")).status == 200
        response = await send(site, device, "credentials")
    await data.drain()
    assert response.status == 429
    assert response.headers["retry-after"] == str(json.loads(response.body)["retryAfter"])
    assert int(response.headers["retry-after"]) in WAITS


async def test_there_may_be_no_attributes(back: Backend, site: Site) -> None:
    response = await ask(site, await back.device("no attributes"), "attributes")

    assert (response.status, response.json) == (200, {})


@pytest.mark.parametrize("body", [b"", b'{"secretKey":"s","durationMs":60000}'])
async def test_a_claim_is_taken(back: Backend, site: Site, body: bytes) -> None:
    device = await back.device(f"claim {len(body)}")

    response = await send(site, device, "claim", body)

    assert (response.status, response.body) == (200, b"")
    assert await back.made.value("SELECT count(*) FROM claim WHERE device_id = $1", device.id) == 1


@pytest.mark.parametrize("token", ["with space", "a/b", "%2F", "ünïcode", "a?b#c", "telemetry", "updates", "..", "'"])
async def test_a_token_may_have_any_characters(back: Backend, site: Site, token: str) -> None:
    device = await back.device(f"token {token}", token=token)
    assert device.token == token

    assert (await send(site, device, "telemetry", b'{"a":1}')).status == 200
    assert (await ask(site, device, "attributes")).status == 200
    assert (await back.latest(device)) == {"a": 1}


# --- what is refused


@pytest.mark.parametrize("rest", ["telemetry", "attributes"])
@pytest.mark.parametrize("body", [b"", b"pl4nted", b'"pl4nted"', b'{"pl4nted', b"\xff\xfe", b'["pl4nted"]', b"17"])
async def test_what_is_not_valid_is_answered_with_400_in_json(
    back: Backend, site: Site, rest: str, body: bytes
) -> None:
    device = await back.device(f"invalid {rest} {body!r}")

    response = await send(site, device, rest, body)

    assert response.status == 400
    assert response.json["errorMsg"]
    assert b"pl4nted" not in response.body


async def test_a_body_that_is_too_large_is_refused_in_json(back: Backend, site: Site) -> None:
    device = await back.device("too large")

    response = await send(site, device, "telemetry", b'{"a":"%s"}' % (b"x" * 10_000))

    assert response.status == 413
    assert response.json["errorMsg"]
    assert await back.latest(device) == {}


CALLS = [
    ("POST", "telemetry"),
    ("POST", "attributes"),
    ("GET", "attributes"),
    ("GET", "attributes/updates"),
    ("POST", "claim"),
    ("GET", "rpc"),
    ("POST", "rpc"),
    ("POST", "rpc/1"),
    ("GET", "firmware"),
    ("GET", "software"),
]


def request(method: str, address: bytes) -> bytes:
    return post(b"{}", path=address) if method == "POST" else get(address)


@pytest.mark.parametrize(("method", "rest"), CALLS)
async def test_who_is_not_known_is_told_so_and_nothing_else(site: Site, method: str, rest: str) -> None:
    for token in (b"unknown/", b"provision/", b"device/", b""):
        response = await site.ask(request(method, b"/api/v1/" + token + rest.encode()))
        assert (response.status, response.body) == (401, b"")
        assert response.headers["access-control-allow-origin"] == "*"


@pytest.mark.parametrize("token", [b"%00", b"%FF", b"\xff", b"\xf0\x9f\x98\x80", b"%ED%A0%80", b"x" * 2_000, b"%2F%2F"])
async def test_a_token_that_cannot_be_is_not_known(site: Site, token: bytes) -> None:
    response = await site.ask(post(b"{}", path=b"/api/v1/" + token + b"/telemetry"))

    assert response.status == (400 if token[0] > 127 else 401)  # such an address is not valid HTTP


async def test_a_query_that_makes_no_sense_breaks_nothing(back: Backend, site: Site) -> None:
    device = await back.device("query")
    await back.share(device, a=1)
    for query in (b"sharedKeys=%00", b"sharedKeys=%FF", b"sharedKeys=%ED%A0%80", b"&&==&sharedKeys"):
        response = await site.ask(get(path(device, "attributes?") + query))
        assert response.status == 200, query


async def test_a_device_that_was_deleted_is_not_known_any_more(back: Backend, site: Site) -> None:
    device = await back.device("deleted")
    assert (await send(site, device, "telemetry", b'{"a":1}')).status == 200
    await back.revoke(device)

    assert (await send(site, device, "telemetry", b'{"a":2}')).status == 401


@pytest.mark.parametrize(("method", "rest"), CALLS)
async def test_while_postgres_is_away_nobody_is_told_that_the_token_is_bad(
    back: Backend, method: str, rest: str
) -> None:
    async with going_away(back.made) as (services, outage), serving(services) as site:
        device = await back.device(f"away {method} {rest}")
        await outage.begin()
        for each in (device, Device(device.id, "unknown")):
            response = await site.ask(request(method, path(each, rest)))
            assert response.status == 503
            assert int(response.headers["retry-after"]) in WAITS
            assert response.json["errorMsg"]
        outage.end()


async def test_who_would_wait_too_long_is_told_to_come_back(back: Backend) -> None:
    device = await back.device("slow")
    async with serving(back, request_timeout=0.2) as site, back.made.blocked() as blocked:
        await blocked.connection.execute("LOCK TABLE telemetry IN ACCESS EXCLUSIVE MODE")
        response = await send(site, device, "telemetry", b'{"a":1}')

    assert response.status == 503
    assert int(response.headers["retry-after"]) in WAITS
    await back.data.drain()


@pytest.mark.parametrize(
    ("method", "rest", "status"),
    [
        ("GET", "telemetry", 405),
        ("DELETE", "attributes", 405),
        ("PUT", "attributes", 405),
        ("POST", "attributes/updates", 405),
        ("GET", "claim", 405),
        ("GET", "rpc/1", 405),
        ("POST", "firmware", 405),
        ("GET", "nothing", 404),
        ("GET", "updates", 404),
        ("POST", "rpc/x", 404),
        ("POST", "telemetry/", 404),
        ("POST", "Telemetry", 404),
    ],
)
async def test_other_paths_and_methods_are_refused(
    back: Backend, site: Site, method: str, rest: str, status: int
) -> None:
    device = await back.device(f"other {method} {rest}")
    async with site.connection() as connection:
        await connection.send(get(path(device, rest)).replace(b"GET", method.encode(), 1))
        head = await connection.reader.readuntil(b"\r\n\r\n")

    assert int(head.split()[1]) == status
    assert (b"\r\nAllow: " in head) == (status == 405)


async def test_a_browser_may_ask_from_anywhere(site: Site) -> None:
    for address in (b"/api/v1/any-token/attributes", b"/api/v1/attributes/updates"):
        response = await site.ask(b"OPTIONS " + address + b" HTTP/1.1\r\nHost: h\r\nOrigin: https://a\r\n\r\n")
        assert (response.status, response.headers["access-control-allow-methods"]) == (204, "GET, POST")


# --- what this server does not have


async def test_without_procedure_calls_and_firmware(back: Backend, site: Site) -> None:
    device = await back.device("without")

    assert (await send(site, device, "rpc", b'{"method":"m","params":{}}')).status == 501
    assert (await send(site, device, "rpc/17", b"{}")).status == 200
    assert (await ask(site, device, "rpc?timeout=1")).status == 408
    for rest in ("firmware?title=t&version=v&size=0&chunk=0", "software"):
        response = await ask(site, device, rest)
        assert (response.status, bool(response.json["errorMsg"])) == (404, True)


# --- long polls


def waiting(site: Site) -> int:
    """How many polls there are."""
    assert site.transport._device_api is not None
    return len(site.transport._device_api._waiting)


async def test_a_poll_ends_with_what_changes(back: Backend, site: Site) -> None:
    device, other = await back.device("poll"), await back.device("another poll")
    async with site.connection() as connection, site.connection() as neighbour:
        await connection.send(get(path(device, WAITING)))
        await neighbour.send(get(path(other, WAITING)))
        await back.until_watched(device)
        await back.until_watched(other)

        await back.share(device, a=1)
        first = await connection.response()
        await back.share(other, z=True)
        assert (await neighbour.response()).json == {"z": True}

    assert (first.status, first.json) == (200, {"a": 1})
    assert first.headers["access-control-allow-origin"] == "*"


async def test_what_changes_between_two_polls_is_told_by_the_second(back: Backend, site: Site) -> None:
    device = await back.device("between")
    await back.share(device, gone=1)
    async with site.connection() as connection:
        while (await connection.ask(get(path(device, "attributes/updates?timeout=1")))).status != 408:
            pass  # it may hear late of what was shared before it asked
        await back.share(device, a=1, gone=None)
        await back.share(device, b=2)

        response = await connection.ask(get(path(device, WAITING)))
        told = response.json
        while "b" not in told:
            told |= (await connection.ask(get(path(device, WAITING)))).json

        assert told == {"a": 1, "b": 2, "deleted": ["gone"]}
        assert (await connection.ask(get(path(device, "attributes/updates?timeout=1")))).status == 408


async def test_a_device_that_polls_no_more_is_forgotten(back: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Polls.__init__, "__defaults__", (0.05,))
    device = await back.device("forgotten")
    async with serving(back) as site:
        await ask(site, device, "attributes/updates?timeout=1")
        await back.until_watched(device, 0)


async def test_what_a_device_sends_itself_does_not_end_its_poll(back: Backend, site: Site) -> None:
    device = await back.device("itself")
    async with site.connection() as connection:
        await connection.send(get(path(device, WAITING)))
        await back.until_watched(device)
        await send(site, device, "attributes", b'{"mine":1}')
        await send(site, device, "telemetry", b'{"mine":1}')
        await back.share(device, theirs=1)

        assert (await connection.response()).json == {"theirs": 1}


@pytest.mark.parametrize("timeout", ["x", "-1", "1.5", "١", "1e3"])
async def test_a_time_that_is_none_is_refused(back: Backend, site: Site, timeout: str) -> None:
    device = await back.device(f"time {timeout}")
    for rest in ("attributes/updates", "rpc"):
        response = await ask(site, device, f"{rest}?timeout={quote(timeout)}")
        assert (response.status, bool(response.json["errorMsg"])) == (400, True)


@pytest.mark.parametrize(
    ("timeout", "seconds"),
    [(None, 60), ("", 60), ("0", 60), ("000", 60), ("1500", 1.5), ("300001", 300), ("9" * 5_000, 300)],
    ids=lambda value: str(value)[:9],
)
async def test_how_long_a_poll_waits(timeout: str | None, seconds: float) -> None:
    request = make_mocked_request("GET", "/" if timeout is None else f"/?timeout={timeout}")
    loop = asyncio.get_running_loop()
    before = loop.time()
    deadline = device_api._deadline(request)

    assert before + seconds <= deadline <= loop.time() + seconds


async def test_a_poll_that_is_broken_off_ends_and_loses_nothing(back: Backend, site: Site) -> None:
    device = await back.device("broken off")
    server: Any = site.transport._runner.server
    before = len(server.connections)
    for rest in (WAITING, "rpc?timeout=300000"):
        async with site.connection() as connection:
            await connection.send(get(path(device, rest)))
            await until(lambda: waiting(site) == 1)
        await until(lambda: waiting(site) == 0)
    await until(lambda: len(server.connections) <= before)

    await back.share(device, a=1)
    assert (await ask(site, device, WAITING)).json == {"a": 1}


async def test_a_poll_of_a_device_whose_token_was_revoked_tells_nothing(back: Backend, site: Site) -> None:
    device = await back.device("revoked")
    async with site.connection() as connection:
        await connection.send(get(path(device, WAITING)))
        await back.until_watched(device)
        await back.revoke(device)
        await back.share(device, secret="pl4nted")

        response = await connection.response()

    assert (response.status, response.body) == (401, b"")


@pytest.mark.parametrize("rest", [WAITING, "rpc?timeout=300000"])
async def test_a_revocation_ends_a_poll_at_once(back: Backend, site: Site, rest: str) -> None:
    device = await back.device(f"revoked {rest}")
    async with site.connection() as connection:
        await connection.send(get(path(device, rest)))
        await back.until_watched(device)
        await back.revoke(device)

        response = await connection.response()

    assert (response.status, response.body) == (401, b"")


@pytest.mark.parametrize("rest", [WAITING, "rpc?timeout=300000"])
async def test_a_revocation_before_anybody_watched_ends_a_poll(back: Backend, rest: str) -> None:
    device = await back.device(f"revoked early {rest}")
    access = RevokedMeanwhile(back, device)
    async with serving(back, access=access) as site, site.connection() as connection:
        response = await connection.ask(get(path(device, rest)))

    assert (response.status, response.body) == (401, b"")
    assert access.times == 2


async def test_a_poll_goes_on_when_other_credentials_went(back: Backend, site: Site) -> None:
    device = await back.device("rotated")
    await back.share(device, a=1)
    async with site.connection() as connection:
        await connection.send(get(path(device, WAITING)))
        await back.until_watched(device)
        async with back.made.database.connection() as operator:
            await operator.execute(f"SELECT pg_notify('revoked', '{device.id} 0')")
        await back.share(device, b=2)

        assert (await connection.response()).json == {"b": 2}


async def test_what_could_not_be_told_is_told_later(back: Backend) -> None:
    class Away(Data):
        times = 0

        async def changed_attributes(self, device_id: UUID, keys: Sequence[str]) -> dict[str, object]:
            self.times += 1
            if self.times < 3:
                raise Unavailable("Postgres is away.")
            return await super().changed_attributes(device_id, keys)

    device = await back.device("told later")
    away = Away(back.made.database, back.made.keys)
    async with serving(back, data=away) as site, site.connection() as connection:
        await connection.send(get(path(device, WAITING)))
        await back.until_watched(device)
        await back.share(device, a=1)
        first = await connection.response()
        second = await connection.ask(get(path(device, WAITING)))
        third = await connection.ask(get(path(device, WAITING)))

    assert (first.status, second.status) == (503, 503)
    assert int(first.headers["retry-after"]) in WAITS
    assert third.json == {"a": 1}


async def test_when_any_may_have_changed_all_are_told(back: Backend, site: Site) -> None:
    device = await back.device("any")
    await back.share(device, a=1, b=2)
    async with site.connection() as connection:
        await connection.send(get(path(device, WAITING)))
        await back.until_watched(device)
        (wake,) = back.sessions._watchers[device.id]
        wake(())

        assert (await connection.response()).json == {"a": 1, "b": 2}


async def test_what_changes_while_nothing_is_heard_of_postgres_is_told(back: Backend, site: Site) -> None:
    device = await back.device("unheard")
    listening = (
        "FROM pg_stat_activity WHERE datname = current_database() AND (query LIKE 'LISTEN%' OR query = 'SELECT')"
    )
    async with site.connection() as connection:
        await connection.send(get(path(device, WAITING)))
        await back.until_watched(device)
        await back.made.value(f"SELECT count(pg_terminate_backend(pid)) {listening}")
        while await back.made.value(f"SELECT count(*) {listening}"):
            pass
        await back.share(device, a=1)

        assert (await connection.response()).json == {"a": 1}


async def test_polls_end_when_the_server_stops(back: Backend) -> None:
    device = await back.device("stops")
    async with serving(back) as site, site.connection() as connection, site.connection() as second:
        await connection.send(get(path(device, WAITING)))
        await second.send(get(path(device, "rpc?timeout=300000")))
        await until(lambda: waiting(site) == 2)

        await site.transport.stop(60)

        assert (await connection.response()).status == (await second.response()).status == 408
        assert await connection.ended() == b""
        await back.until_watched(device, 0)


# --- what a channel proves


class Channel(asyncio.Transport):
    """What TLS puts between a connection and its TCP transport, without the TLS."""

    def __init__(self, inner: asyncio.Transport, facts: dict[str, Any]) -> None:
        self._inner = inner
        self._facts = facts

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._facts[name] if name in self._facts else self._inner.get_extra_info(name, default)

    def __getattribute__(self, name: str) -> Any:
        if name in ("_inner", "_facts", "get_extra_info", "__class__"):
            return object.__getattribute__(self, name)
        return getattr(self._inner, name)


def proving(**facts: Any) -> Callable[[Callable[[], asyncio.BaseProtocol]], Callable[[], asyncio.BaseProtocol]]:
    def wrap(make: Callable[[], asyncio.BaseProtocol]) -> Callable[[], asyncio.BaseProtocol]:
        class Outer(asyncio.Protocol):
            def __init__(self) -> None:
                self.inner: Any = make()

            def connection_made(self, transport: asyncio.BaseTransport) -> None:
                self.inner.connection_made(Channel(transport, facts))  # type: ignore[arg-type]

            def data_received(self, data: bytes) -> None:
                self.inner.data_received(data)

            def connection_lost(self, exc: Exception | None) -> None:
                self.inner.connection_lost(exc)

        return Outer

    return wrap


class Seeing(Access):
    """Access that notes who asked."""

    peers: list[Peer]

    async def with_channel(self, peer: Peer) -> Any:
        self.peers.append(peer)
        return await super().with_channel(peer)


@asynccontextmanager
async def over(back: Backend, **facts: Any) -> AsyncIterator[tuple[Site, Seeing]]:
    access = Seeing(back.made.database, back.made.keys)
    access.peers = []
    transport = HttpTransport(back.made.provisioning, back.made.database.ping, **back.services | {"access": access})
    plain = await transport.start("127.0.0.1", 0)
    _, port = await transport.start("127.0.0.1", 0, wrap=proving(**facts))
    assert plain[1] != port
    yield Site(transport, port, back.made.pair), access
    await transport.stop(0)
    await access.drain()


async def test_a_device_whose_channel_has_proved_it_needs_no_token(back: Backend) -> None:
    device = await back.device("by key")
    key = PreSharedKey(str(device.id), device.token.encode(), b"digest")
    async with over(back, psk=key, certificates=()) as (site, access):
        assert (await site.ask(post(b'{"a":1}', path=b"/api/v1/telemetry"))).status == 200
        assert (await site.ask(post(b'{"b":1}', path=b"/api/v1/attributes"))).status == 200
        assert (await site.ask(get(b"/api/v1/attributes?clientKeys=b"))).json == {"client": {"b": 1}}
        assert (await site.ask(post(b"", path=b"/api/v1/claim"))).status == 200
        assert (await site.ask(get(b"/api/v1/attributes/updates?timeout=1"))).status == 408
        assert (await site.ask(post(b"{}", path=b"/api/v1/rpc/1"))).status == 200
        assert (await site.ask(post(b"{}", path=b"/api/v1/unknown/telemetry"))).status == 401
        await back.revoke(device)
        assert (await site.ask(post(b'{"a":2}', path=b"/api/v1/telemetry"))).status == 401

    assert set(access.peers) == {Peer(Transport.HTTP, "127.0.0.1", (), key)}
    assert await back.latest(device) == {"a": 1}


async def test_certificates_of_the_channel_are_seen(back: Backend) -> None:
    chain = (b"leaf", b"intermediate")
    async with over(back, certificates=chain) as (site, access):
        assert (await site.ask(post(b"{}", path=b"/api/v1/telemetry"))).status == 401

    assert access.peers == [Peer(Transport.HTTP, "127.0.0.1", chain)]


async def test_a_poll_by_a_channel_ends_with_what_changes(back: Backend) -> None:
    device = await back.device("poll by key")
    key = PreSharedKey(str(device.id), device.token.encode(), b"digest")
    async with over(back, psk=key) as (site, _), site.connection() as connection:
        await connection.send(get(b"/api/v1/attributes/updates"))
        await back.until_watched(device)
        await back.share(device, a=1)

        assert (await connection.response()).json == {"a": 1}


# --- nothing of it is logged


async def test_no_token_is_logged(back: Backend, capsys: pytest.CaptureFixture[str]) -> None:
    device = await back.device("logged", token="pl4nted/token")
    broken = [b"GET /api/v1/pl4nted%2Ftoken/attributes HTTP/9.9\r\n\r\n", b"GET /api/v1/pl4nted%2Ftoken\r\n\r\n"]
    with logging_as_serve_does("debug"):
        async with serving(back, max_payload_size=100) as site:
            for method, rest in CALLS:
                suffix = "?timeout=1" if rest in ("attributes/updates", "rpc") else ""
                await site.ask(request(method, path(device, rest + suffix)))
                await site.ask(request(method, b"/api/v1/pl4nted/" + rest.encode()))
                await site.ask(post(b"{}", path=path(device, rest)).replace(b"POST", b"PATCH", 1))
            await send(site, device, "telemetry", b"x" * 101)
            for data in broken:
                async with site.connection() as connection:
                    await connection.send(data)
                    connection.writer.write_eof()
                    assert b"pl4nted" not in await connection.ended()

    assert "pl4nted" not in capsys.readouterr().err


# --- unmodified clients


SDK_PROGRAM = """
import json, sys, threading, time
from tb_device_http import TBHTTPDevice
url, token = sys.argv[1:]
device = TBHTTPDevice(url, token)
assert device.connect()
device.send_telemetry({"temperature": 21.5}, queued=False)
device.send_telemetry({"queued": True})
device.send_attributes({"version": "1"})
print(json.dumps(device.request_attributes(["version"], ["interval"])), flush=True)
device.get_firmware_update()
changes = threading.Semaphore(0)
def changed(value):
    print(json.dumps(value), flush=True)
    changes.release()
device.subscribe("attributes", changed)
device.subscribe("rpc", print)
print("subscribed", flush=True)
changes.acquire()
changes.acquire()
assert not TBHTTPDevice(url, "unknown").connect()
"""


async def test_thingsboards_own_client(back: Backend, site: Site) -> None:
    if not SDK.exists():
        message = "the SDK is not installed: make sdk"
        pytest.fail(message) if os.environ.get("PROVSERVER_TEST_REQUIRE_TOOLS") else pytest.skip(message)
    device = await back.device("sdk")
    await back.share(device, interval=10)
    process = await asyncio.create_subprocess_exec(
        str(SDK), "-c", SDK_PROGRAM, f"http://127.0.0.1:{site.port}", device.token,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stderr is not None

    async def line() -> Any:
        return json.loads(await process.stdout.readline() or b'"ended"')  # type: ignore[union-attr]

    attributes = await line()
    assert attributes == {"client": {"version": "1"}, "shared": {"interval": 10}}
    await process.stdout.readline()
    await back.until_watched(device)
    await back.share(device, interval=20)
    assert await line() == {"interval": 20}
    while "queued" not in await back.latest(device):
        pass
    await back.share(device, interval=None)
    assert await line() == {"deleted": ["interval"]}
    errors = await process.stderr.read()
    assert (await process.wait()) == 0, errors
    latest = await back.latest(device)
    assert latest["temperature"] == 21.5
    assert latest["queued"] is True


async def test_curl(back: Backend, site: Site, tool: Callable[[str], str]) -> None:
    device = await back.device("curl")
    url = f"http://127.0.0.1:{site.port}/api/v1/{device.token}"

    async def curl(*arguments: str) -> str:
        process = await asyncio.create_subprocess_exec(
            tool("curl"), "-sS", "-w", "%{http_code}", *arguments, stdout=subprocess.PIPE
        )
        out, _ = await process.communicate()
        return out.decode()

    assert await curl("-d", '{"a":1}', f"{url}/telemetry") == "200"
    assert await curl("--json", '{"b":1}', f"{url}/attributes") == "200"
    assert await curl(f"{url}/attributes?clientKeys=b") == '{"client":{"b":1}}200'
    assert await curl("-d", "{", f"{url}/telemetry") == '{"errorMsg":"The message is not JSON!","status":"FAILURE"}400'
    assert await curl("-d", "{}", f"{url}x/telemetry") == "401"
    assert await back.latest(device) == {"a": 1}

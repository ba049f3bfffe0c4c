import asyncio
import itertools
import json
import subprocess
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any
from uuid import UUID

import pytest
from aiocoap import Context, Message
from aiocoap.error import NotObservable, ObservationCancelled
from aiocoap.numbers.codes import Code
from aiocoap.numbers.constants import Reliable
from aiocoap.numbers.contentformat import ContentFormat
from aiocoap.numbers.types import Type
from aiocoap.pipe import Pipe
from aiocoap.resource import Resource

from provserver.core.limits import Buckets
from provserver.core.model import Peer, PreSharedKey, Transport
from provserver.errors import Unavailable
from provserver.services.data import Data
from provserver.services.limits import RotationLimits
from provserver.transports import coap, coap_features
from provserver.transports.coap import CoapTransport
from provserver.transports.coap_udp import UdpRemote, listen
from tests.transports import WAITS
from tests.transports.devices import Backend, Device, RevokedMeanwhile, backend, going_away
from tests.transports.test_coap import LIMIT, Site
from tests.transports.test_http import logging_as_serve_does

pytestmark = pytest.mark.usefixtures("piggybacked")


@pytest.fixture(scope="module")
async def back(postgres: str, tmp_path_factory: pytest.TempPathFactory, front: bool) -> AsyncIterator[Backend]:
    name = f"coap_features_{front}".lower()
    async with backend(postgres, tmp_path_factory.mktemp("coap_features"), name) as services:
        yield services


@asynccontextmanager
async def serving(back: Backend, *, front: bool, **options: Any) -> AsyncIterator[Site]:
    options = back.services | {"front": front, "max_payload_size": LIMIT, "notification_interval": 0} | options
    transport = CoapTransport(back.made.provisioning, **options)
    client = await Context.create_client_context()
    _, port = await transport.start("127.0.0.1", 0)
    try:
        yield Site(transport, port, back.made, client)
    finally:
        await client.shutdown()
        await transport.stop(0)


@pytest.fixture(scope="module")
async def site(back: Backend, front: bool) -> AsyncIterator[Site]:
    async with serving(back, front=front) as shared:
        yield shared


async def send(site: Site, device: Device, feature: str, payload: bytes = b"{}", **options: Any) -> Any:
    return await site.ask(payload, ("api", "v1", device.token, *feature.split("/")), **options)


async def ask(site: Site, device: Device, feature: str = "attributes", *query: str, **options: Any) -> Any:
    return await send(site, device, feature, b"", code=Code.GET, uri_query=query, **options)


# --- what a device sends


async def test_who_rotates_too_often_is_told_when_to_come_back(back: Backend, front: bool) -> None:
    device = await back.device("rotates")
    data = Data(back.made.database, back.made.keys, limits=RotationLimits(Buckets(1, 1e-6)))
    async with serving(back, front=front, data=data) as site:
        assert (await send(site, device, "credentials")).code is Code.CREATED
        response = await send(site, device, "credentials")
    await data.drain()
    assert response.code is Code.TOO_MANY_REQUESTS
    assert response.opt.max_age == json.loads(response.payload)["retryAfter"]
    assert response.opt.max_age in WAITS


@pytest.mark.parametrize("feature", ["telemetry", "TELEMETRY"])
async def test_telemetry_is_kept(back: Backend, site: Site, feature: str) -> None:
    device = await back.device(f"sends {feature}")

    response = await send(site, device, feature, b'{"temperature":21.5}')

    assert (response.code, response.payload) == (Code.CREATED, b"")
    assert await back.latest(device) == {"temperature": 21.5}


async def test_attributes_are_kept_and_given(back: Backend, site: Site) -> None:
    device = await back.device("attributes")
    assert (await send(site, device, "attributes", b'{"a":1,"b":"x"}')).code is Code.CREATED
    await back.share(device, c=[1, 2])

    for query, expected in {
        (): {"client": {"a": 1, "b": "x"}, "shared": {"c": [1, 2]}},
        ("clientKeys=a",): {"client": {"a": 1}},
        ("clientKeys=a,b", "sharedKeys=c"): {"client": {"a": 1, "b": "x"}, "shared": {"c": [1, 2]}},
        ("clientKeys=a&sharedKeys=c",): {"client": {"a": 1}, "shared": {"c": [1, 2]}},
        ("clientKeys=", "other=1", "x"): {"client": {"a": 1, "b": "x"}, "shared": {"c": [1, 2]}},
    }.items():
        response = await ask(site, device, "attributes", *query)
        assert (response.code, response.opt.content_format) == (Code.CONTENT, ContentFormat.JSON)
        assert json.loads(response.payload) == expected, query

    assert (await ask(site, device, "attributes", "clientKeys=none")).code is Code.NOT_FOUND
    assert (await ask(site, device, accept=ContentFormat.TEXT)).opt.content_format == ContentFormat.TEXT


async def test_there_may_be_no_attributes(back: Backend, site: Site) -> None:
    response = await ask(site, await back.device("no attributes"))

    assert (response.code, response.payload) == (Code.NOT_FOUND, b"")


@pytest.mark.parametrize("payload", [b"", b'{"secretKey":"s"}'])
async def test_a_claim_is_taken(back: Backend, site: Site, payload: bytes) -> None:
    device = await back.device(f"claim {len(payload)}")

    assert (await send(site, device, "claim", payload)).code is Code.CREATED
    assert await back.made.value("SELECT count(*) FROM claim WHERE device_id = $1", device.id) == 1


async def test_large_bodies_come_and_go_in_blocks(back: Backend, site: Site) -> None:
    device = await back.device("blocks")
    value = "x" * 4_000

    assert (await send(site, device, "attributes", json.dumps({"a": value}).encode())).code is Code.CREATED
    assert json.loads((await ask(site, device)).payload) == {"client": {"a": value}}
    assert (await send(site, device, "telemetry", b"x" * LIMIT + b"x")).code is Code.REQUEST_ENTITY_TOO_LARGE


async def test_there_are_no_procedure_calls(back: Backend, site: Site) -> None:
    device = await back.device("calls")

    assert (await send(site, device, "rpc", b'{"method":"m","params":{}}')).code is Code.NOT_IMPLEMENTED
    assert (await send(site, device, "rpc/17", b"{}")).code is Code.CREATED
    assert (await ask(site, device, "rpc", observe=0)).code is Code.NOT_IMPLEMENTED


# --- what is refused


@pytest.mark.parametrize("feature", ["telemetry", "attributes"])
@pytest.mark.parametrize("payload", [b"", b"pl4nted", b'{"pl4nted', b"\xff\xfe", b"17"])
async def test_what_is_not_valid_is_refused_with_4_00(back: Backend, site: Site, feature: str, payload: bytes) -> None:
    response = await send(site, await back.device(f"invalid {feature} {payload!r}"), feature, payload)

    assert (response.code, response.opt.content_format) == (Code.BAD_REQUEST, None)
    assert response.payload
    assert b"pl4nted" not in response.payload


FEATURES = [
    (Code.POST, "telemetry"),
    (Code.POST, "attributes"),
    (Code.GET, "attributes"),
    (Code.POST, "claim"),
    (Code.POST, "rpc"),
    (Code.POST, "rpc/1"),
]


@pytest.mark.parametrize("observe", [None, 0], ids=["plain", "observe"])
@pytest.mark.parametrize(("code", "feature"), FEATURES, ids=str)
async def test_who_is_not_known_is_told_so(site: Site, code: Code, feature: str, observe: int | None) -> None:
    for token in (("unknown",), ("provision",), ("",), ("a\0b",), ()):
        payload = b"{}" if code is Code.POST else b""
        response = await site.ask(payload, ("api", "v1", *token, *feature.split("/")), code, observe=observe)
        assert (response.code, response.payload) == (Code.UNAUTHORIZED, b""), token


@pytest.mark.parametrize("observe", [None, 0], ids=["plain", "observe"])
@pytest.mark.parametrize(("code", "feature"), FEATURES, ids=str)
async def test_while_postgres_is_away_nobody_is_told_that_the_token_is_bad(
    back: Backend, code: Code, feature: str, observe: int | None, front: bool
) -> None:
    async with going_away(back.made) as (services, outage), serving(services, front=front) as site:
        device = await back.device(f"away {code} {feature} {observe}")
        await outage.begin()
        for each in (device, Device(device.id, "unknown")):
            payload = b"{}" if code is Code.POST else b""
            response = await send(site, each, feature, payload, code=code, observe=observe)
            assert response.code is Code.SERVICE_UNAVAILABLE
            assert response.opt.max_age in WAITS
        outage.end()


async def test_who_would_wait_too_long_is_told_to_come_back(back: Backend, front: bool) -> None:
    device = await back.device("slow")
    async with serving(back, front=front, request_timeout=0.05) as site, back.made.blocked() as blocked:
        await blocked.connection.execute("LOCK TABLE telemetry IN ACCESS EXCLUSIVE MODE")
        response = await send(site, device, "telemetry", b'{"a":1}')

    assert response.code is Code.SERVICE_UNAVAILABLE
    assert response.opt.max_age in WAITS
    await back.data.drain()


@pytest.mark.parametrize(
    ("method", "feature", "code"),
    [
        (Code.GET, "telemetry", Code.BAD_REQUEST),
        (Code.GET, "claim", Code.BAD_REQUEST),
        (Code.GET, "nothing", Code.BAD_REQUEST),
        (Code.POST, "nothing", Code.BAD_REQUEST),
        (Code.PUT, "attributes", Code.METHOD_NOT_ALLOWED),
        (Code.DELETE, "attributes", Code.METHOD_NOT_ALLOWED),
        (Code.FETCH, "attributes", Code.METHOD_NOT_ALLOWED),
    ],
    ids=str,
)
async def test_other_requests_are_refused(back: Backend, site: Site, method: Code, feature: str, code: Code) -> None:
    device = await back.device(f"other {method} {feature}")

    assert (await send(site, device, feature, b"", code=method)).code is code


async def test_without_access_there_is_provisioning_alone(back: Backend, front: bool) -> None:
    device = await back.device("alone")
    async with serving(back, front=front, access=None) as site:
        assert (await send(site, device, "telemetry", b'{"a":1}')).code is Code.BAD_REQUEST
        assert (await ask(site, device, observe=0)).code is Code.BAD_REQUEST
        assert (await site.provision("alone with provisioning")).code is Code.CREATED


# --- observing


class Observation:
    """What an aiocoap client hears; None at the end."""

    def __init__(self, site: Site, path: Sequence[str]) -> None:
        request = Message(code=Code.GET, uri=site.uri)
        request.opt.uri_path = tuple(path)
        request.opt.observe = 0
        self._asking = site.client.request(request)
        self.heard: asyncio.Queue[Any] = asyncio.Queue()
        self._listening = asyncio.create_task(self._listen())

    async def _listen(self) -> None:
        try:
            async for notification in self._asking.observation:
                self.heard.put_nowait(notification)
        except (NotObservable, ObservationCancelled):
            pass
        self.heard.put_nowait(None)

    async def first(self) -> Any:
        return await self._asking.response

    async def next(self) -> Any:
        return json.loads((await self.heard.get()).payload)

    async def end(self) -> None:
        if not self._asking.observation.cancelled:
            self._asking.observation.cancel()
        self._listening.cancel()
        await asyncio.wait([self._listening])


def path(device: Device) -> tuple[str, ...]:
    return "api", "v1", device.token, "attributes"


async def until_gone(back: Backend, device: Device) -> None:
    """aiocoap's client takes one notification more than it wants, and answers the next with an RST."""
    for n in itertools.count():
        if device.id not in back.sessions._watchers:
            break
        await back.share(device, any=n)
        await asyncio.sleep(0.01)


async def test_an_observer_gets_what_there_is_and_then_what_changes(back: Backend, site: Site) -> None:
    device = await back.device("observer")
    await back.share(device, a=1)
    observation = Observation(site, path(device))
    first = await observation.first()
    assert (first.code, first.opt.content_format) == (Code.CONTENT, ContentFormat.JSON)
    assert first.opt.observe is not None
    assert json.loads(first.payload) == {"a": 1}

    for value in (2, 3):
        await back.share(device, a=value)
        assert await observation.next() == {"a": value}
    await back.share(device, a=None, b=True)
    told: dict[str, Any] = {}
    while "b" not in told:
        told |= await observation.next()
    assert told == {"deleted": ["a"], "b": True}

    await observation.end()
    await until_gone(back, device)


async def test_who_observes_nothing_hears_of_the_first(back: Backend, site: Site) -> None:
    device = await back.device("nothing yet")
    observation = Observation(site, path(device))
    first = await observation.first()
    assert (first.code, first.payload) == (Code.CONTENT, b"{}")
    await back.share(device, a=1)
    assert await observation.next() == {"a": 1}
    await observation.end()


def observe(device: Device, mid: int, type_: Type = Type.CON, value: int | None = 0, token: bytes = b"t") -> bytes:
    request = Message(code=Code.GET, _mtype=type_, _mid=mid, _token=token)
    request.opt.uri_path = path(device)
    request.opt.observe = value
    encoded: bytes = request.encode()
    return encoded


def acknowledgement(message: Any, type_: Type = Type.ACK) -> bytes:
    encoded: bytes = Message(_mtype=type_, _mid=message.mid, code=Code.EMPTY).encode()
    return encoded


@pytest.mark.parametrize("type_", [Type.CON, Type.NON], ids=str)
async def test_notifications_ask_for_an_acknowledgement(back: Backend, site: Site, type_: Type) -> None:
    device = await back.device(f"acknowledges {type_}")
    async with site.datagrams() as client:
        client.send(observe(device, 1, type_))
        first = await client.message()
        assert first.mtype is (Type.ACK if type_ is Type.CON else Type.NON)
        last = first.opt.observe
        for n in range(3):
            await back.share(device, a=n)
            notification = await client.message()
            assert (notification.mtype, notification.token) == (Type.CON, b"t")
            assert (notification.code, json.loads(notification.payload)) == (Code.CONTENT, {"a": n})
            assert notification.opt.observe > last
            last = notification.opt.observe
            client.send(acknowledgement(notification))
        await back.share(device, a="last")
        client.send(acknowledgement(await client.message(), Type.RST))
        await back.until_watched(device, 0)


async def test_an_observer_may_ask_to_hear_no_more(back: Backend, site: Site) -> None:
    device = await back.device("no more")
    await back.share(device, a=1)
    async with site.datagrams() as client:
        client.send(observe(device, 1))
        assert (await client.message()).opt.observe is not None
        await back.until_watched(device)
        client.send(observe(device, 2, value=1))
        response = await client.message()

    assert (response.code, response.opt.observe) == (Code.CONTENT, None)
    assert json.loads(response.payload) == {"shared": {"a": 1}}
    await back.until_watched(device, 0)


async def test_an_observation_that_is_renewed_goes_on_counting(back: Backend, site: Site) -> None:
    device = await back.device("renews")
    async with site.datagrams() as client:
        numbers = []
        for mid in range(1, 5):
            client.send(observe(device, mid))
            numbers.append((await client.message()).opt.observe)
            await back.until_watched(device)
        client.send(observe(device, 9, value=1))
        await client.message()

    assert numbers == sorted(set(numbers))


async def test_who_is_gone_is_not_told_for_ever(back: Backend, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    class Hasty(Reliable):  # type: ignore[misc] # aiocoap has no types
        ACK_TIMEOUT = 0.01
        MAX_RETRANSMIT = 2

    monkeypatch.setattr(coap, "Reliable", Hasty)
    device = await back.device("gone")
    async with site.datagrams() as client:
        client.send(observe(device, 1))
        await client.message()
        await back.until_watched(device)
    await back.share(device, a=1)

    await back.until_watched(device, 0)


async def test_of_a_device_the_latest_observers_stay(back: Backend, site: Site) -> None:
    device = await back.device("many")
    limit = coap_features.MAX_OBSERVERS_PER_DEVICE
    async with site.datagrams() as client:
        for n in range(limit + 1):
            client.send(observe(device, n, token=bytes([n])))
            while (message := await client.message()).token != bytes([n]):
                assert (message.code, message.token, message.opt.observe) == (Code.SERVICE_UNAVAILABLE, b"\0", None)
                client.send(acknowledgement(message))
        await back.until_watched(device, limit)
        await back.share(device, a=1)
        tokens: set[bytes] = set()
        while len(tokens) < limit:
            message = await client.message()
            client.send(acknowledgement(message))
            if message.code is Code.CONTENT:
                tokens.add(message.token)
            else:
                assert message.token == b"\0"
        for n in range(1, limit + 1):
            client.send(observe(device, 100 + n, value=1, token=bytes([n])))
        await back.until_watched(device, 0)

    assert tokens == {bytes([n]) for n in range(1, limit + 1)}


async def test_when_too_many_observe_one_more_is_answered_once(
    back: Backend, monkeypatch: pytest.MonkeyPatch, front: bool
) -> None:
    monkeypatch.setattr(coap_features, "MAX_OBSERVERS", 1)
    first, second = await back.device("has room"), await back.device("has no room")
    await back.share(second, a=1)
    async with serving(back, front=front) as site:
        observation = Observation(site, path(first))
        assert (await observation.first()).opt.observe is not None

        response = await ask(site, second, observe=0)

        assert (response.code, response.opt.observe, response.payload) == (Code.CONTENT, None, b'{"a":1}')
        await back.until_watched(second, 0)
        await observation.end()
        await until_gone(back, first)
        assert (await ask(site, second, observe=0)).opt.observe is not None


async def test_a_device_whose_token_was_revoked_hears_nothing_more(back: Backend, site: Site) -> None:
    device = await back.device("revoked")
    async with site.datagrams() as client:
        client.send(observe(device, 1))
        await client.message()
        await back.until_watched(device)
        await back.revoke(device)
        await back.share(device, secret="pl4nted")
        response = await client.message()
        client.send(acknowledgement(response))

    assert (response.code, response.opt.observe, response.payload) == (Code.UNAUTHORIZED, None, b"")
    await back.until_watched(device, 0)


async def test_a_revocation_ends_an_observation_at_once(back: Backend, site: Site) -> None:
    device = await back.device("revoked at once")
    async with site.datagrams() as client:
        client.send(observe(device, 1))
        await client.message()
        await back.until_watched(device)
        async with back.made.database.connection() as operator:  # others of its credentials: nothing is told
            await operator.execute(f"SELECT pg_notify('revoked', '{device.id} 0')")
        await back.revoke(device)
        response = await client.message()
        client.send(acknowledgement(response))

    assert (response.code, response.opt.observe, response.payload) == (Code.UNAUTHORIZED, None, b"")
    await back.until_watched(device, 0)


async def test_a_revocation_before_anybody_watched_ends_an_observation(back: Backend, front: bool) -> None:
    device = await back.device("revoked early")
    async with serving(back, front=front, access=RevokedMeanwhile(back, device)) as site, site.datagrams() as client:
        client.send(observe(device, 1))
        await client.message()
        response = await client.message()
        client.send(acknowledgement(response))

    assert (response.code, response.opt.observe, response.payload) == (Code.UNAUTHORIZED, None, b"")


async def test_a_notification_that_is_large_is_fetched_in_blocks(back: Backend, site: Site) -> None:
    device = await back.device("large")
    value = "x" * 3_000
    observation = Observation(site, path(device))
    await observation.first()
    await back.share(device, a=value)
    assert await observation.next() == {"a": value}
    await observation.end()


async def test_what_could_not_be_told_is_told_later(
    back: Backend, monkeypatch: pytest.MonkeyPatch, front: bool
) -> None:
    class Away(Data):
        times = 0

        async def changed_attributes(self, device_id: UUID, keys: Sequence[str]) -> dict[str, object]:
            self.times += 1
            if self.times in (2, 3):
                raise Unavailable("Postgres is away.")
            return await super().changed_attributes(device_id, keys)

    monkeypatch.setattr(coap_features, "RETRY_AFTER_SECONDS", 0)
    device = await back.device("told later")
    async with serving(back, front=front, data=Away(back.made.database, back.made.keys)) as site:
        observation = Observation(site, path(device))
        await observation.first()
        await back.share(device, a=1)
        assert await observation.next() == {"a": 1}
        await observation.end()


async def test_what_changes_fast_is_told_in_one(back: Backend, site: Site) -> None:
    device = await back.device("fast")
    observation = Observation(site, path(device))
    await observation.first()
    (wake,) = back.sessions._watchers[device.id]
    wake(("a",))
    wake(("b",))
    assert await observation.next() == {"deleted": ["a", "b"]}
    await back.share(device, c=1)
    assert await observation.next() == {"c": 1}
    wake(())
    assert await observation.next() == {"c": 1}
    await observation.end()


async def test_stopping_waits_for_no_observer(back: Backend, capsys: pytest.CaptureFixture[str], front: bool) -> None:
    device = await back.device("stopping")
    with logging_as_serve_does("info"):
        async with serving(back, front=front) as site, site.datagrams() as client:
            client.send(observe(device, 1))
            await client.message()
            await back.until_watched(device)
            await site.transport.stop(60)
            await back.until_watched(device, 0)

    assert capsys.readouterr().err == ""


# --- what a channel proves


class Proving(Resource):  # type: ignore[misc] # aiocoap has no types
    """A site before ours, that says what the channel has proved."""

    def __init__(self, site: Resource, facts: dict[str, Any]) -> None:
        super().__init__()
        self._site = site
        self._facts = facts

    async def render_to_pipe(self, pipe: Pipe) -> None:
        remote = pipe.request.remote
        pipe.request.remote = type("Remote", (UdpRemote,), {"peer": Peer(Transport.COAP, "192.0.2.9", **self._facts)})(
            remote.address, ("127.0.0.1", 0)
        )
        await self._site.render_to_pipe(pipe)


async def test_a_device_whose_channel_has_proved_it_needs_no_token(back: Backend) -> None:
    device = await back.device("by key")
    facts = {"psk": PreSharedKey(str(device.id), device.token.encode(), b"digest")}
    async with serving(back, front=False, wrap=lambda site: Proving(site, facts)) as site:

        async def to(*rest: str, payload: bytes = b"{}", code: Code = Code.POST) -> Any:
            return await site.ask(payload, ("api", "v1", *rest), code)

        assert (await to("telemetry", payload=b'{"a":1}')).code is Code.CREATED
        assert (await to("attributes", payload=b'{"b":1}')).code is Code.CREATED
        assert (await to("claim", payload=b"")).code is Code.CREATED
        assert (await to("rpc", "17")).code is Code.CREATED
        assert (await to("attributes", payload=b"", code=Code.GET)).payload == b'{"client":{"b":1}}'
        assert (await to("unknown", "telemetry")).code is Code.UNAUTHORIZED
        observation = Observation(site, ("api", "v1", "attributes"))
        await observation.first()
        await back.share(device, c=1)
        assert await observation.next() == {"c": 1}
        await back.revoke(device)
        assert (await to("telemetry")).code is Code.UNAUTHORIZED
        await back.share(device, c=2)
        assert (await observation.heard.get()).code is Code.UNAUTHORIZED
        await observation.end()
    assert await back.latest(device) == {"a": 1}


async def test_provisioning_sees_what_the_channel_has_proved(back: Backend) -> None:
    facts = {"certificates": (b"leaf",)}
    async with serving(back, front=False, wrap=lambda site: Proving(site, facts)) as site:
        assert (await site.provision("proved")).code is Code.CREATED

    assert await back.made.value("SELECT address FROM attempt WHERE device_name = 'proved'") == "192.0.2.9"


async def test_another_interface_takes_messages_too(back: Backend) -> None:
    device = await back.device("another interface")
    transport = CoapTransport(back.made.provisioning, **back.services)
    second = await transport.add(partial(listen, host="127.0.0.1", port=0, resources=None))
    _, port = await transport.start("127.0.0.1", 0)
    client = await Context.create_client_context()
    for each in (port, second.address[1]):
        site = Site(transport, each, back.made, client)
        assert (await send(site, device, "telemetry", b'{"port":%d}' % each)).code is Code.CREATED
        assert await back.latest(device) == {"port": each}
    await client.shutdown()
    await transport.stop(0)


# --- nothing of it is logged


async def test_no_token_is_logged(back: Backend, capsys: pytest.CaptureFixture[str], front: bool) -> None:
    device = await back.device("logged", token="pl4nted-token")
    with logging_as_serve_does("debug"):
        async with serving(back, front=front) as site:
            for code, feature in FEATURES:
                for each in (device, Device(device.id, "pl4nted-unknown")):
                    await send(site, each, feature, b"{}" if code is Code.POST else b"", code=code)
            await send(site, device, "telemetry", b"x" * LIMIT + b"x")
            await send(site, device, "nothing")
            observation = Observation(site, path(device))
            await observation.first()
            await back.share(device, a=1)
            await observation.next()
            await observation.end()

    assert "pl4nted" not in capsys.readouterr().err


# --- libcoap's client


async def test_libcoap(back: Backend, site: Site, tool: Callable[..., str]) -> None:
    device = await back.device("libcoap")
    program = tool("coap-client-notls", "coap-client")
    url = f"{site.uri}/api/v1/{device.token}"

    async def client(*arguments: str) -> str:
        process = await asyncio.create_subprocess_exec(
            program, *arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        out, _ = await process.communicate()
        return out.decode()

    assert await client("-m", "post", "-e", '{"a":1}', f"{url}/telemetry") == ""
    assert await client("-m", "post", "-e", '{"b":"x"}', f"{url}/attributes") == ""
    assert "4.01" in await client("-m", "post", "-e", "{}", f"{url}x/telemetry")
    assert "4.00" in await client("-m", "post", "-e", "{", f"{url}/telemetry")
    assert '{"client":{"b":"x"}}' in await client("-m", "get", f"{url}/attributes?clientKeys=b")
    assert "4.04" in await client("-m", "get", f"{url}/attributes?clientKeys=none")
    assert await back.latest(device) == {"a": 1}

    process = await asyncio.create_subprocess_exec(
        program, "-s", "90", "-m", "get", f"{url}/attributes", stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    await back.until_watched(device)
    await back.share(device, interval=20)
    assert process.stdout is not None
    heard = b""
    while b'{"interval":20}' not in heard:
        more = await process.stdout.read(100)
        assert more, heard
        heard += more
    process.terminate()
    await process.communicate()
    await back.share(device, interval=30)

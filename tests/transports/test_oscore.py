import asyncio
import itertools
import logging
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, cast
from uuid import UUID

import pytest
from aiocoap import Context, Message, oscore
from aiocoap.numbers.codes import Code
from aiocoap.numbers.types import Type
from aiocoap.resource import ObservableResource, Resource
from hypothesis import given
from hypothesis import strategies as st

from provserver import transports
from provserver.core.model import Peer, PreSharedKey, Transport
from provserver.errors import Unavailable
from provserver.services.limits import Limits, Rates
from provserver.services.oscore import SequenceNumbers
from provserver.store.database import Database
from provserver.transports.oscore import OscoreSite
from tests.transports import WAITS
from tests.transports.oscore_client import DeviceContext, changed, master_secret

DEVICE = UUID("0192a3b4-c5d6-7e8f-9a0b-1c2d3e4f5a6b")
TOKEN = b"an-access-token-of-32-characters"
KEY = PreSharedKey(str(DEVICE), TOKEN, b"digest")
PROVISION_KEY = "a-provision-key"
SECRET = PreSharedKey(PROVISION_KEY, b"a-provision-secret")

mids = itertools.count(1)


class Echoing(ObservableResource):  # type: ignore[misc]
    """Sends back what it gets, and remembers who sent it."""

    def __init__(self) -> None:
        super().__init__()
        self.peers: list[Peer | None] = []
        self.bodies: list[bytes] = []

    async def render(self, request: Message) -> Message:
        self.peers.append(getattr(request.remote, "peer", None))
        self.bodies.append(request.payload)
        if request.payload == b"fail":
            raise ValueError
        return Message(code=Code.CONTENT, payload=request.payload, no_response=request.opt.no_response)


class Keys:
    """What identities stand for. others: those of a rotation. calls: what was asked."""

    def __init__(self, *keys: PreSharedKey) -> None:
        self.known = {key.identity: key for key in keys}
        self.others: dict[str, PreSharedKey] = {}
        self.calls: list[str] = []
        self.away = False
        self.gate: asyncio.Event | None = None

    async def __call__(self, identity: str, source: str) -> list[PreSharedKey]:
        assert source in ("127.0.0.1", "127.0.0.1 by datagram")
        self.calls.append(identity)
        if self.gate is not None:
            await self.gate.wait()
        if self.away:
            raise Unavailable("Postgres is away.")
        return [known[identity] for known in (self.known, self.others) if identity in known]


class Socket(asyncio.DatagramProtocol):
    def __init__(self) -> None:
        self.came: asyncio.Queue[bytes] = asyncio.Queue()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.DatagramTransport", transport)

    def datagram_received(self, data: bytes, _addr: object) -> None:
        self.came.put_nowait(data)

    async def send(self, datagram: bytes) -> Any:
        """The first message that comes back for a datagram, be it an empty one."""
        self.transport.sendto(datagram)
        return Message.decode(await self.came.get(), None)

    async def ask(self, datagram: bytes) -> Any:
        """The response to a datagram, at once or separate: with its payload as it came, protected or not."""
        message = await self.send(datagram)
        while message.code is Code.EMPTY:
            message = Message.decode(await self.came.get(), None)
        if message.mtype is Type.CON:
            self.transport.sendto(Message(code=Code.EMPTY, _mtype=Type.ACK, _mid=message.mid).encode())
        return message


class Server:
    """A server process with OSCORE, to be started and stopped at one port."""

    def __init__(self, keys: Keys, database: Database) -> None:
        self.keys = keys
        self.database = database
        self.resource = Echoing()
        self.port = 0

    async def start(self, max_contexts: int = 100, limits: Limits | None = None) -> None:
        numbers = SequenceNumbers(self.database)
        site = OscoreSite(self.resource, self.keys, numbers, limits=limits, max_contexts=max_contexts)
        self.context = await Context.create_server_context(site, bind=("127.0.0.1", self.port), transports=["udp6"])
        interface = self.context.request_interfaces[0].token_interface.message_interface
        self.port = interface.transport.get_extra_info("socket").getsockname()[1]

    async def stop(self) -> None:
        await self.context.shutdown()

    async def restart(self) -> None:
        await self.stop()
        await self.start()

    @asynccontextmanager
    async def socket(self) -> AsyncIterator[Socket]:
        loop = asyncio.get_running_loop()
        transport, protocol = await loop.create_datagram_endpoint(Socket, remote_addr=("127.0.0.1", self.port))
        try:
            yield protocol
        finally:
            transport.close()

    @asynccontextmanager
    async def client(self, context: DeviceContext) -> AsyncIterator[Context]:
        client = await Context.create_client_context(transports=["oscore", "udp6"])
        client.client_credentials[f"coap://127.0.0.1:{self.port}/*"] = context
        try:
            yield client
        finally:
            await client.shutdown()

    async def ask(self, client: Context, payload: bytes = b"", code: Code = Code.POST, **options: Any) -> Any:
        uri = f"coap://127.0.0.1:{self.port}/echo"
        return await client.request(Message(code=code, payload=payload, uri=uri, **options)).response


@pytest.fixture
async def server(database: Database) -> AsyncIterator[Server]:
    started = Server(Keys(KEY, SECRET), database)
    await started.start()
    yield started
    await started.stop()


@pytest.fixture
def device() -> DeviceContext:
    return DeviceContext(DEVICE.bytes, TOKEN)


async def asked(device: DeviceContext, socket: Socket, payload: bytes = b"", **options: Any) -> Any:
    """The opened response to a request."""
    datagram, request_id = device.request(next(mids), payload, **options)
    return device.response(await socket.ask(datagram), request_id)


async def greeted(device: DeviceContext, socket: Socket) -> None:
    """Answer the challenge that the first request gets."""
    challenge = await asked(device, socket)
    assert challenge.code is Code.UNAUTHORIZED
    assert (await asked(device, socket, echo=challenge.opt.echo)).code is Code.CONTENT


def test_the_master_secret_is_what_a_device_derives() -> None:
    assert transports.oscore.master_secret(TOKEN) == master_secret(TOKEN)
    assert master_secret(TOKEN).hex() == "9e701d5f900352b9abb387699fd74ed3"


# --- requests


async def test_a_device_asks_and_is_known(server: Server, device: DeviceContext) -> None:
    async with server.client(device) as client:
        response = await server.ask(client, b"hello")

    assert (response.code, response.payload) == (Code.CONTENT, b"hello")
    assert server.resource.peers == [Peer(Transport.COAP, "127.0.0.1", psk=KEY)]
    assert server.keys.calls == [str(DEVICE)]


@pytest.mark.parametrize("identity", [str(DEVICE), PROVISION_KEY], ids=["device", "provisioning"])
async def test_one_that_counts_anew_at_every_boot_has_a_context_of_its_own(server: Server, identity: str) -> None:
    key = server.keys.known[identity]
    for _ in range(3):
        async with server.client(DeviceContext(identity.encode() + os.urandom(16), key.key)) as client:
            assert (await server.ask(client, b"boot")).code is Code.CONTENT

    assert [peer and peer.psk for peer in server.resource.peers] == [key] * 3


@pytest.mark.parametrize("code", [Code.GET, Code.PUT, Code.DELETE, Code.FETCH])
async def test_the_inner_method_counts(server: Server, device: DeviceContext, code: Code) -> None:
    async with server.client(device) as client:
        response = await server.ask(client, code=code)

    assert response.code is Code.CONTENT


async def test_bodies_of_many_blocks_go_both_ways(server: Server, device: DeviceContext) -> None:
    body = os.urandom(4096)
    async with server.client(device) as client:
        response = await server.ask(client, body)

    assert response.payload == body
    assert server.resource.bodies == [body]


async def test_plain_requests_pass(server: Server) -> None:
    client = await Context.create_client_context()
    response = await server.ask(client, b"plain")
    await client.shutdown()

    assert response.payload == b"plain"
    assert server.resource.peers == [None]


async def test_a_fault_of_ours_is_told_under_protection(
    server: Server, device: DeviceContext, caplog: pytest.LogCaptureFixture
) -> None:
    async with server.client(device) as client:
        response = await server.ask(client, b"fail")

    assert (response.code, response.payload) == (Code.INTERNAL_SERVER_ERROR, b"")
    assert [record.message for record in caplog.records if record.name == "provserver.oscore"] == ["a request failed"]


async def test_notifications_come_under_numbers_of_their_own(server: Server, device: DeviceContext) -> None:
    async with server.client(device) as client:
        uri = f"coap://127.0.0.1:{server.port}/echo"
        request = client.request(Message(code=Code.GET, uri=uri, observe=0))
        first = await request.response
        updates = aiter(request.observation)
        for number in range(5):
            server.resource.updated_state(Message(code=Code.CONTENT, payload=b"%d" % number))
            assert (await anext(updates)).payload == b"%d" % number
        request.observation.cancel()

    assert first.opt.observe is not None


@pytest.mark.filterwarnings("ignore:Initializing messages:DeprecationWarning")  # aiocoap's own
async def test_who_does_not_want_an_answer_gets_none(server: Server, device: DeviceContext) -> None:
    async with server.socket() as socket:
        await greeted(device, socket)
        response = await socket.send(device.request(next(mids), b"quiet", no_response=2)[0])

    assert (response.mtype, response.code) == (Type.ACK, Code.EMPTY)


# --- replay


async def test_the_first_request_is_challenged_and_not_processed(server: Server, device: DeviceContext) -> None:
    async with server.socket() as socket:
        challenge = await asked(device, socket, b"first")
        assert (challenge.code, len(challenge.opt.echo)) == (Code.UNAUTHORIZED, 8)
        assert server.resource.bodies == []

        wrong = await asked(device, socket, b"wrong", echo=bytes(8))
        right = await asked(device, socket, b"right", echo=challenge.opt.echo)
        further = await asked(device, socket, b"further")

    assert [answer.code for answer in (wrong, right, further)] == [Code.UNAUTHORIZED, Code.CONTENT, Code.CONTENT]
    assert server.resource.bodies == [b"right", b"further"]


async def replayed(socket: Socket, datagram: bytes) -> Any:
    """The response to a protected message that comes again under another message id."""
    return await socket.ask(changed(datagram, mid=next(mids)))


async def test_a_replay_is_refused(server: Server, device: DeviceContext) -> None:
    async with server.socket() as socket:
        await greeted(device, socket)
        datagrams = [device.request(next(mids), b"%d" % number)[0] for number in range(3)]
        for datagram in reversed(datagrams):  # the window takes them in any order
            assert (await socket.ask(datagram)).code is Code.CHANGED

        again = [await replayed(socket, datagram) for datagram in datagrams]

    assert [(one.code, one.payload, one.opt.max_age) for one in again] == [
        (Code.UNAUTHORIZED, b"Replay detected", 0)
    ] * 3
    assert server.resource.bodies[1:] == [b"2", b"1", b"0"]


async def test_a_replay_from_elsewhere_is_challenged(server: Server, device: DeviceContext) -> None:
    async with server.socket() as socket, server.socket() as attacker:
        challenge = await asked(device, socket)
        opening, _ = device.request(next(mids), b"opening", echo=challenge.opt.echo)
        await socket.ask(opening)
        datagram, request_id = device.request(next(mids), b"once")
        await socket.ask(datagram)

        answers = [await replayed(attacker, one) for one in (opening, datagram)]
        assert device.response(answers[1], request_id).code is Code.UNAUTHORIZED
        assert (await asked(device, socket, b"unharmed")).payload == b"unharmed"

    assert server.resource.bodies == [b"opening", b"once", b"unharmed"]


async def test_a_device_may_move(server: Server, device: DeviceContext) -> None:
    for _ in range(3):
        async with server.socket() as socket:
            await greeted(device, socket)
            assert (await asked(device, socket, b"here")).payload == b"here"


async def test_what_was_answered_before_a_restart_is_not_answered_again(server: Server, device: DeviceContext) -> None:
    async with server.socket() as socket:
        await greeted(device, socket)
        old = [device.request(next(mids), b"old")[0] for _ in range(3)]
        for datagram in old:
            await socket.ask(datagram)
        await server.restart()

        assert [(await replayed(socket, one)).code for one in old] == [Code.CHANGED] * 3  # challenges
        await greeted(device, socket)
        assert [(await replayed(socket, one)).code for one in old] == [Code.UNAUTHORIZED] * 3

    assert server.resource.bodies.count(b"old") == 3


async def test_a_client_goes_on_after_a_restart(server: Server, device: DeviceContext) -> None:
    async with server.client(device) as client:
        for _ in range(3):
            assert (await server.ask(client, b"on")).payload == b"on"
            await server.restart()

    assert server.resource.bodies == [b"on"] * 3


async def test_a_context_that_was_pushed_out_is_opened_anew(server: Server, device: DeviceContext) -> None:
    await server.stop()
    await server.start(max_contexts=2)
    async with server.socket() as socket:
        await greeted(device, socket)
        datagram = device.request(next(mids), b"old")[0]
        await socket.ask(datagram)
        for _ in range(2):
            await greeted(DeviceContext(PROVISION_KEY.encode() + os.urandom(16), SECRET.key), socket)

        assert (await replayed(socket, datagram)).code is Code.CHANGED
        await greeted(device, socket)

    assert server.resource.bodies.count(b"old") == 1


async def test_no_nonce_of_ours_comes_twice(
    server: Server, device: DeviceContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Across challenges, answers, notifications, evictions and restarts, of all contexts with one key."""
    nonces: list[tuple[bytes, bytes]] = []
    encrypt = oscore.AES_CCM.encrypt.__func__

    def watched(cls: Any, plaintext: bytes, aad: bytes, key: bytes, nonce: bytes) -> Any:
        if key != device.sender_key:
            nonces.append((key, nonce))
        return encrypt(cls, plaintext, aad, key, nonce)

    monkeypatch.setattr(oscore.AES_CCM, "encrypt", classmethod(watched))
    for _ in range(3):
        async with server.socket() as socket:
            await greeted(device, socket)
            datagram = device.request(next(mids), b"again")[0]
            for _ in range(3):
                await replayed(socket, datagram)
        await server.restart()
        async with server.client(device) as client:
            await server.ask(client)

    assert len(nonces) >= 15
    assert len(set(nonces)) == len(nonces)


# --- refusals


async def refused(server: Server, datagram: bytes) -> tuple[Code, bytes, int | None]:
    async with server.socket() as socket:
        response = await socket.ask(datagram)
    assert response.opt.oscore is None
    return response.code, response.payload, response.opt.max_age


async def test_an_unknown_device_and_a_wrong_key_look_the_same(server: Server) -> None:
    strangers = [
        DeviceContext(DEVICE.bytes, b"another token"),
        DeviceContext(UUID(int=7).bytes, TOKEN),
        DeviceContext(PROVISION_KEY.encode() + bytes(16), b"another secret"),
        DeviceContext(b"no-provision-key" + bytes(16), SECRET.key),
        DeviceContext(b"\xff\x00" + bytes(16), SECRET.key),
    ]

    answers = [await refused(server, stranger.request(next(mids))[0]) for stranger in strangers]

    assert answers == [(Code.BAD_REQUEST, b"Decryption failed", 0)] * 5


async def test_what_was_tampered_with_is_refused_and_harms_nobody(server: Server, device: DeviceContext) -> None:
    async with server.socket() as socket, server.socket() as attacker:
        await greeted(device, socket)
        datagram, request_id = device.request(next(mids), b"intact")
        for place in range(1, 9):
            damaged = bytearray(changed(datagram, mid=next(mids)))
            damaged[-place] ^= 1
            response = await attacker.ask(bytes(damaged))
            assert (response.code, response.payload) == (Code.BAD_REQUEST, b"Decryption failed")

        assert device.response(await socket.ask(datagram), request_id).payload == b"intact"

    assert server.resource.bodies == [b"", b"intact"]


@pytest.mark.parametrize(
    ("option", "answer"),
    [
        (b"", (Code.BAD_OPTION, b"Failed to decode COSE")),
        (b"\x08\x01", (Code.BAD_OPTION, b"Failed to decode COSE")),  # no number
        (b"\xff", (Code.BAD_OPTION, b"Failed to decode COSE")),
        (b"\x0e" + bytes(6) + b"\x01", (Code.BAD_OPTION, b"Failed to decode COSE")),  # 6 bytes of number
        (b"\x05\x00", (Code.BAD_OPTION, b"Failed to decode COSE")),
        (b"\x11\x00", (Code.BAD_OPTION, b"Failed to decode COSE")),  # where is the context?
        (b"\x19\x00\xff\x00", (Code.BAD_OPTION, b"Failed to decode COSE")),
        (b"\x29\x00\x01", (Code.BAD_OPTION, b"Failed to decode COSE")),  # a group's
        (b"\x09\x00\x01", (Code.UNAUTHORIZED, b"Security context not found")),  # no ID Context
        (b"\x19\x00\x02hi\x01", (Code.UNAUTHORIZED, b"Security context not found")),
        (b"\x19\x00\x10" + DEVICE.bytes + b"\x02", (Code.UNAUTHORIZED, b"Security context not found")),
        (b"\x19\x00\x10" + DEVICE.bytes + b"\x01", (Code.BAD_REQUEST, b"Decryption failed")),
    ],
    ids=lambda value: value.hex() if isinstance(value, bytes) else "",
)
@pytest.mark.parametrize("payload", [b"", b"short", b"long enough for a tag"])
async def test_an_option_that_makes_no_sense_is_refused(
    server: Server, option: bytes, answer: tuple[Code, bytes], payload: bytes
) -> None:
    message = Message(code=Code.POST, payload=payload, oscore=option, _mtype=Type.CON, _mid=next(mids))

    assert await refused(server, message.encode()) == (*answer, 0)


async def test_other_outer_methods_are_refused(server: Server, device: DeviceContext) -> None:
    datagram = changed(device.request(next(mids))[0], code=Code.PUT)

    assert (await refused(server, datagram))[0] is Code.METHOD_NOT_ALLOWED


@pytest.mark.parametrize("options", [{"proxy_scheme": "coap"}, {"proxy_uri": "coap://192.0.2.1/"}], ids=str)
async def test_it_is_no_proxy(server: Server, options: dict[str, str]) -> None:
    message = Message(code=Code.POST, oscore=b"\x09\x00\x01", _mtype=Type.CON, _mid=next(mids), **options)

    assert (await refused(server, message.encode()))[0] is Code.PROXYING_NOT_SUPPORTED


async def test_a_site_that_says_nothing_has_failed(
    server: Server, device: DeviceContext, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def nothing(_: object) -> None:
        pass

    monkeypatch.setattr(server.resource, "render_to_pipe", nothing)
    async with server.client(device) as client:
        assert (await server.ask(client)).code is Code.INTERNAL_SERVER_ERROR
    assert "a request failed" in caplog.text


@pytest.mark.parametrize("plaintext", [b"\x00", b"\x45", b"\xff", b"\x02\xf0", b"\x02\xd0", b"\x02\xb1"])
async def test_what_is_protected_must_be_a_request(
    server: Server, device: DeviceContext, monkeypatch: pytest.MonkeyPatch, plaintext: bytes
) -> None:
    async with server.socket() as socket:
        await greeted(device, socket)
        split = device._split_message
        monkeypatch.setattr(device, "_split_message", lambda *args: (split(*args)[0], plaintext))
        response = await socket.ask(device.request(next(mids))[0])

    assert response.code in (Code.BAD_REQUEST, Code.CHANGED)
    assert server.resource.bodies == [b""]


async def test_who_does_not_prove_the_key_it_names_guesses(server: Server) -> None:
    await server.stop()
    await server.start(limits=Limits(Rates(guess_limit=3, guess_interval=1e6, locked_interval=1e6)))
    guesses = [DeviceContext(UUID(int=n).bytes, TOKEN) for n in range(10)]
    told = [await refused(server, each.request(next(mids))[0]) for each in guesses]

    assert [(code, text) for code, text, _ in told[:4]] == [(Code.BAD_REQUEST, b"Decryption failed")] * 4
    for code, text, max_age in told[4:]:
        assert (code, text) == (Code.UNAUTHORIZED, b"")
        assert max_age in WAITS


GUESSING = Rates(guess_limit=20, guess_interval=1e6, locked_interval=1e6)


async def test_guesses_that_come_at_once_are_no_more(server: Server) -> None:
    await server.stop()
    await server.start(limits=Limits(GUESSING))
    guesses = [
        DeviceContext(PROVISION_KEY.encode() + os.urandom(16), b"guess %d" % n).request(next(mids))[0]
        for n in range(400)
    ]
    told = await at_once(server, guesses)

    assert told.count(Code.BAD_REQUEST) == 21
    assert told.count(Code.UNAUTHORIZED) == len(told) - 21 > 0


async def test_right_devices_of_one_address_may_come_at_once(server: Server) -> None:
    await server.stop()
    await server.start(limits=(limits := Limits(GUESSING)))
    devices = [
        DeviceContext(PROVISION_KEY.encode() + os.urandom(16), SECRET.key).request(next(mids))[0] for _ in range(300)
    ]
    assert await at_once(server, devices) == [Code.CHANGED] * 300  # what a protected answer looks like
    assert not limits.watchful()


async def test_whose_context_is_known_is_guessed_no_more_often(server: Server, device: DeviceContext) -> None:
    await server.stop()
    await server.start(limits=Limits(GUESSING))
    async with server.socket() as socket:
        await greeted(device, socket)
        guesses = [DeviceContext(DEVICE.bytes, b"guess %d" % n).request(next(mids))[0] for n in range(100)]
        assert (await at_once(server, guesses)).count(Code.BAD_REQUEST) == 21
        datagram, request_id = device.request(next(mids), b"still here")
        assert device.response(await socket.ask(datagram), request_id).payload == b"still here"


async def at_once(server: Server, datagrams: list[bytes]) -> list[Code]:
    """The codes of the answers to datagrams from one address, all of which are there before a key is looked up."""
    server.keys.gate = asyncio.Event()
    async with AsyncExitStack() as stack:
        asked = []
        for datagram in datagrams:
            socket = await stack.enter_async_context(server.socket())
            asked.append(asyncio.ensure_future(socket.ask(datagram)))
        await asyncio.sleep(0)
        server.keys.gate.set()
        return [(await each).code for each in asked]


async def test_who_shows_that_a_locked_address_is_its_own_is_heard(server: Server, device: DeviceContext) -> None:
    """An Echo outside of the protection: for that there is nothing agreed on yet."""
    await server.stop()
    await server.start(limits=Limits(Rates(guess_limit=3, guess_interval=1e6, locked_interval=1e6)))
    async with server.socket() as socket:
        for n in range(5):  # by anybody who forges its address
            await socket.ask(DeviceContext(UUID(int=n).bytes, TOKEN).request(next(mids))[0])
        challenge = await socket.ask(device.request(next(mids))[0])
        assert (challenge.code, challenge.opt.oscore) == (Code.UNAUTHORIZED, None)
        for echo, heard in ((b"a forgery", False), (challenge.opt.echo, True)):
            datagram, request_id = device.request(next(mids))
            answer = await socket.ask(outside(datagram, echo))
            assert (answer.opt.oscore is not None) is heard
        assert len(device.response(answer, request_id).opt.echo) == 8  # of OSCORE itself
        await greeted(device, socket)
        guess, _ = DeviceContext(UUID(int=7).bytes, TOKEN).request(next(mids))
        told = [(await socket.ask(outside(changed(guess, mid=next(mids)), challenge.opt.echo))).code for _ in range(6)]
    assert told == [Code.BAD_REQUEST] * 4 + [Code(157)] * 2  # it has guesses of its own, and no more


def outside(datagram: bytes, echo: bytes) -> bytes:
    """A protected message with an Echo that is not protected."""
    message = Message.decode(datagram, None)
    message.direction = oscore.Direction.OUTGOING
    message.opt.echo = echo
    encoded: bytes = message.encode()
    return encoded


async def test_who_asks_while_postgres_is_away_is_told_to_come_back(server: Server, device: DeviceContext) -> None:
    server.keys.away = True

    code, payload, max_age = await refused(server, device.request(next(mids))[0])
    assert (code, payload) == (Code.SERVICE_UNAVAILABLE, b"")
    assert max_age in WAITS


async def test_a_key_that_was_changed_is_looked_up_again(server: Server, device: DeviceContext) -> None:
    async with server.socket() as socket:
        await greeted(device, socket)
        new = PreSharedKey(str(DEVICE), b"the token that came after it", b"digest 2")
        server.keys.known[str(DEVICE)] = new
        await greeted(DeviceContext(DEVICE.bytes, new.key), socket)
        server.keys.calls.clear()

        for _ in range(20):  # whoever fails does not cost a look-up each time
            response = await socket.ask(device.request(next(mids))[0])
            assert response.payload == b"Decryption failed"

    assert server.resource.peers[-1] == Peer(Transport.COAP, "127.0.0.1", psk=new)
    assert len(server.keys.calls) <= 1


async def test_both_tokens_of_a_rotation_open_and_one_look_finds_them(server: Server) -> None:
    new = PreSharedKey(str(DEVICE), b"the token that is to come after", b"digest 2")
    server.keys.known[str(DEVICE)], server.keys.others[str(DEVICE)] = new, KEY
    async with server.socket() as socket:
        for key in (KEY, new, KEY):
            server.keys.calls.clear()
            await greeted(DeviceContext(DEVICE.bytes, key.key), socket)
            assert len(server.keys.calls) == 1
            contexts(server)[0]._looked_up = -1.0  # long ago

    assert [peer and peer.psk for peer in server.resource.peers] == [KEY, new, KEY]


def contexts(server: Server) -> list[Any]:
    return list(server.context.serversite._contexts.values())


async def test_who_proves_nothing_leaves_nothing_behind(server: Server) -> None:
    for number in range(20):
        await refused(server, DeviceContext(UUID(int=number).bytes, TOKEN).request(next(mids))[0])
        await refused(server, DeviceContext(DEVICE.bytes, b"wrong %d" % number).request(next(mids))[0])

    assert contexts(server) == []


@given(option=st.binary(max_size=60), payload=st.binary(max_size=60), code=st.sampled_from([Code.POST, Code.FETCH]))
async def test_any_option_gets_an_answer(option: bytes, payload: bytes, code: Code) -> None:
    class Numbers:
        async def provide(self, _shard: int) -> None:
            pass

        def take(self, _shard: int) -> int:
            raise AssertionError("nothing is protected for a stranger")

    class Pipe:
        def __init__(self) -> None:
            self.request = Message(code=code, payload=payload, oscore=option)
            self.answers: list[Message] = []

        def add_response(self, response: Message, is_last: bool) -> None:
            assert is_last
            self.answers.append(response)

    pipe = Pipe()
    pipe.request.direction = oscore.Direction.INCOMING
    await OscoreSite(Resource(), Keys(KEY), Numbers()).render_to_pipe(pipe)

    assert len(pipe.answers) == 1
    assert pipe.answers[0].opt.max_age == 0


async def test_nothing_secret_is_logged(
    server: Server, device: DeviceContext, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    async with server.client(device) as client:
        await server.ask(client, b"the payload")

    for secret in (TOKEN, b"the payload", device.sender_key, device.recipient_key):
        assert secret.decode(errors="replace") not in caplog.text
        assert secret.hex() not in caplog.text

"""What aiocoap is told by the front, and the bounds on it."""

import asyncio
import itertools
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import pytest
from aiocoap import Context, Message
from aiocoap.error import NoRequestInterface
from aiocoap.numbers.codes import Code
from aiocoap.numbers.constants import Reliable
from aiocoap.pipe import Pipe
from aiocoap.resource import Resource

from provserver.core.model import Peer, Transport
from provserver.transports import coap_udp
from provserver.transports.coap_message import Type, empty
from provserver.transports.coap_udp import UdpInterface, UdpRemote, listen
from provserver.transports.udp import Address
from tests.transports.devices import until
from tests.transports.test_coap import Datagrams

LOCAL = ("127.0.0.1", 5683)


class Echoing(Resource):  # type: ignore[misc] # aiocoap has no types
    """Sends back what it gets; holds on to what it is told to hold."""

    def __init__(self) -> None:
        super().__init__()
        self.came: list[Message] = []
        self.open = asyncio.Event()
        self.open.set()

    async def render_to_pipe(self, pipe: Pipe) -> None:
        self.came.append(pipe.request)
        await self.open.wait()
        observing = pipe.request.opt.observe == 0
        pipe.add_response(self._response(pipe.request, observing), is_last=not observing)
        if observing:
            pipe.add_response(self._response(pipe.request, False, transport_tuning=Reliable()), is_last=True)

    def _response(self, request: Message, observing: bool, **options: Any) -> Message:
        return Message(code=Code.CONTENT, payload=request.payload, observe=1 if observing else None, **options)


class Served:
    """aiocoap behind a socket."""

    def __init__(self, site: Echoing, context: Context, interface: UdpInterface, client: Datagrams) -> None:
        self.site = site
        self.context = context
        self.interface = interface
        self.client = client

    @property
    def manager(self) -> Any:
        return self.context.request_interfaces[0].token_interface

    async def ask(self, message: Message) -> Any:
        self.client.send(message.encode())
        return await self.client.message()


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    site = Echoing()
    context = Context(serversite=site)

    async def make(manager: Any) -> UdpInterface:
        return await listen(manager, "127.0.0.1", 0, None, log=context.log)

    await context._append_tokenmanaged_messagemanaged_transport(make)
    interface: UdpInterface = context.request_interfaces[0].token_interface.message_interface
    transport, client = await asyncio.get_running_loop().create_datagram_endpoint(
        Datagrams, remote_addr=interface.address
    )
    yield Served(site, context, interface, client)
    transport.close()
    await context.shutdown()


request = partial(Message, code=Code.POST, _mtype=Type.CON, _token=b"t")


async def test_aiocoap_sees_what_was_sent(served: Served) -> None:
    message = request(
        _mid=7, payload=b"hello", uri_path=("a", "b"), uri_query=("c=d",), content_format=50, block1=(0, False, 6)
    )

    response = await served.ask(message)

    (seen,) = served.site.came
    assert (seen.code, seen.mid, seen.token, seen.payload) == (Code.POST, 7, b"t", b"hello")
    assert seen.opt.encode() == message.opt.encode()
    assert seen.remote.peer == Peer(Transport.COAP, "127.0.0.1")
    assert (response.mtype, response.mid, response.code, response.payload) == (Type.ACK, 7, Code.CONTENT, b"hello")


async def test_aiocoap_remembers_no_requests(served: Served) -> None:
    for mid in range(100):
        await served.ask(request(_mid=mid))
    await until(lambda: not served.manager._recent_messages)

    assert (await served.ask(request(_mid=5))).mid == 5
    assert len(served.site.came) == 100


async def test_it_acknowledges_as_late_as_the_front(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coap_udp._Tuning, "EMPTY_ACK_DELAY", 0.001)
    served.site.open.clear()
    for _ in range(2):
        announced = await served.ask(request(_mid=7))
        assert (announced.mtype, announced.code, announced.mid) == (Type.ACK, Code.EMPTY, 7)
    served.site.open.set()
    response = await served.client.message()
    served.client.send(empty(Type.ACK, response.mid))
    await until(lambda: not served.manager._active_exchanges)

    assert (response.mtype, response.code, len(served.site.came)) == (Type.CON, Code.CONTENT, 1)


async def test_notifications_are_confirmed(served: Served) -> None:
    first = await served.ask(request(_mid=7, code=Code.GET, observe=0))
    notification = await served.client.message()
    assert (first.mtype, notification.mtype) == (Type.ACK, Type.CON)
    assert len(served.manager._active_exchanges) == 1
    served.client.send(empty(Type.ACK, notification.mid))
    await until(lambda: not served.manager._active_exchanges)


async def test_ids_are_of_one_sequence(served: Served) -> None:
    ids = [served.interface.next_id() for _ in range(2)]
    response = await served.ask(request(_mid=7, _mtype=Type.NON))
    ids += [response.mid, served.interface.next_id()]

    assert [(later - earlier) % 65_536 for earlier, later in itertools.pairwise(ids)] == [1, 1, 1]


async def test_of_two_requests_with_one_token_in_a_breath_the_second_is_as_if_lost(served: Served) -> None:
    served.client.send(request(_mid=1, payload=b"a").encode())
    served.client.send(request(_mid=2, payload=b"b").encode())
    assert (await served.client.message()).payload == b"a"

    assert (await served.ask(request(_mid=2, payload=b"b"))).payload == b"b"


async def test_what_aiocoap_cannot_read_is_lost(served: Served) -> None:
    served.client.send(b"\x40\x02\x00\x04\xb2\xc3\x28")  # a path that is not UTF-8

    assert (await served.ask(request(_mid=7))).mid == 7
    assert len(served.site.came) == 1


async def test_when_too_many_are_under_way_others_are_as_if_lost(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(coap_udp, "_MAX_REQUESTS", 2)
    monkeypatch.setattr(coap_udp, "MAX_OBSERVERS", 0)
    served.site.open.clear()
    for mid in range(3):
        served.client.send(request(_mid=mid, _token=bytes([mid])).encode())
    await until(lambda: len(served.site.came) == 2)
    served.site.open.set()
    assert {(await served.client.message()).mid for _ in range(2)} == {0, 1}

    assert (await served.ask(request(_mid=2, _token=b"\2"))).mid == 2


async def test_it_is_no_client(served: Served) -> None:
    with pytest.raises(NoRequestInterface):
        await served.context.request(Message(code=Code.GET, uri="coap://127.0.0.1")).response
    assert not await served.interface.recognize_remote("coap://127.0.0.1")
    assert await served.interface.recognize_remote(UdpRemote(Address(("192.0.2.1", 1)), LOCAL))


def test_addresses_are_the_same_by_value() -> None:
    one, same = (UdpRemote(Address(("192.0.2.1", 5683)), LOCAL) for _ in range(2))
    other = UdpRemote(Address(("192.0.2.1", 5684)), LOCAL)
    local = UdpRemote(Address(("192.0.2.1", 5683), b"\0" * 12), LOCAL)

    assert one == same
    assert len({one, same, other, local}) == 3
    assert one.blockwise_key == same.blockwise_key != other.blockwise_key
    assert one != "192.0.2.1"
    assert (repr(one), one.uri_base, one.uri_base_local) == (
        "<UDP 192.0.2.1>",
        "coap://192.0.2.1",
        "coap://127.0.0.1:5683",
    )
    assert UdpRemote(Address(("2001:db8::1", 7, 0, 0)), LOCAL).uri_base == "coap://[2001:db8::1]:7"

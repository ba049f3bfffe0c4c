"""MQTT on real sockets: unmodified clients, clients that misbehave, limits, and the end of the server."""

import asyncio
import logging
import os
import socket
import struct
from typing import Any, Final, cast

import aiomqtt
import pytest

from provserver.core.authentication import Denial
from provserver.core.model import Authenticated, Peer, Transport
from provserver.errors import Unavailable
from provserver.services.access import Access
from provserver.transports.admission import Admission
from provserver.transports.mqtt.session import Limits
from provserver.transports.sockets import shared
from tests.transports.mqtt.sockets import PROTOCOLS, Find, Listen, Raw, Served, run
from tests.transports.mqtt.wire import ALL, DISCONNECT, PINGREQ, PINGRESP, V3, V5, V311, Wire

TOPICS: Final = ("/provision/request", "/provision/response")

each_version = pytest.mark.parametrize("wire", ALL, ids=str)
each_protocol = pytest.mark.parametrize("protocol", PROTOCOLS)


@pytest.fixture
async def served(listen: Listen) -> Served:
    return await listen()


# Unmodified clients


@each_protocol
@pytest.mark.parametrize("qos", ["0", "1", "2"])
async def test_mosquitto_rr(served: Served, tool: Find, protocol: str, qos: str) -> None:
    where = ("-p", str(served.port), "-V", protocol, "-u", "provision", "-q", qos, "-W", "30")
    code, out, err = await run(tool("mosquitto_rr"), *where, "-t", TOPICS[0], "-e", TOPICS[1], "-m", "hello")
    if (protocol, qos) == ("mqttv5", "2"):
        assert (code, out) == (24, b"")
        assert b"QoS not supported" in err
    else:
        assert (code, out, err) == (0, b"answer to hello\n", b"")
        assert served.provisioning.asked == [(b"hello", Peer(Transport.MQTT, "127.0.0.1"))]


@each_protocol
@pytest.mark.parametrize("qos", ["0", "1"])
async def test_mosquitto_pub(served: Served, tool: Find, protocol: str, qos: str) -> None:
    where = ("-p", str(served.port), "-V", protocol, "-i", "provision", "-q", qos)
    code, _, err = await run(tool("mosquitto_pub"), *where, "-t", TOPICS[0], "-m", "hello")
    assert (code, err) == (0, b"")
    await served.provisioning.until(lambda provisioning: provisioning.finished == [b"hello"])


@each_protocol
@pytest.mark.parametrize(("topic", "granted"), [("/provision/response", True), ("/provision/#", False)])
async def test_mosquitto_sub(served: Served, tool: Find, protocol: str, topic: str, granted: bool) -> None:
    where = ("-p", str(served.port), "-V", protocol, "-u", "provision", "-E")  # -E: leave after the SUBACK
    code, out, err = await run(tool("mosquitto_sub"), *where, "-t", topic)
    assert (code, out, b"denied" in err) == (0, b"", not granted)


@each_protocol
async def test_mosquitto_pub_that_is_no_provision_session(served: Served, tool: Find, protocol: str) -> None:
    where = ("-p", str(served.port), "-V", protocol, "-u", "A1_TEST_TOKEN")
    code, _, err = await run(tool("mosquitto_pub"), *where, "-t", "v1/devices/me/telemetry", "-m", "{}")
    assert code == (136 if protocol == "mqttv5" else 3)
    assert b"unavailable" in err.lower()


@each_protocol
@pytest.mark.parametrize("qos", [0, 1])
async def test_aiomqtt(served: Served, protocol: str, qos: int) -> None:
    client = aiomqtt.Client(
        "127.0.0.1", served.port, username="provision", protocol=PROTOCOLS[protocol], identifier="dev"
    )
    async with client:
        await client.subscribe(TOPICS[1], qos=qos)
        for number in range(10):
            await client.publish(TOPICS[0], f"{number}", qos=qos)
        replies = [await anext(client.messages) for _ in range(10)]
        await client.unsubscribe(TOPICS[1])
    assert [reply.payload for reply in replies] == [b"answer to %d" % number for number in range(10)]
    assert {(str(reply.topic), reply.qos, reply.retain) for reply in replies} == {(TOPICS[1], qos, False)}


async def test_aiomqtt_is_told_why(served: Served) -> None:
    client = aiomqtt.Client("127.0.0.1", served.port, username="token", protocol=PROTOCOLS["mqttv5"])
    with pytest.raises(aiomqtt.MqttCodeError, match="Server unavailable"):
        await client.__aenter__()


async def test_mosquitto_rr_of_5_gets_its_correlation_data_back(served: Served, tool: Find) -> None:
    where = ("-p", str(served.port), "-V", "mqttv5", "-u", "provision", "-W", "30")
    data = ("-D", "PUBLISH", "correlation-data", "id-1", "-F", "%D %p")
    code, out, err = await run(tool("mosquitto_rr"), *where, *data, "-t", TOPICS[0], "-e", TOPICS[1], "-m", "hello")
    assert (code, out, err) == (0, b"id-1 answer to hello\n", b"")


async def test_micropython(served: Served) -> None:
    """Client id only, Keep Alive 10, CONNACK of exactly four bytes, and the next packet is the reply."""
    raw = await served.connect()
    await raw.send(V311.connect("provision", None, keep_alive=10))
    assert await raw.packet() == b"\x20\x02\0\0"
    await raw.send(V311.subscribe((TOPICS[1], 0)))
    assert await raw.packet() == b"\x90\x03\0\x0a\x00"
    await raw.send(V311.publish(b"mp"))
    assert await raw.packet() == V311.response(b"answer to mp", 0)
    await raw.send(DISCONNECT)
    assert await raw.rest() == b""
    await raw.close()


async def test_one_client_id_many_clients(served: Served) -> None:
    """None is thrown out, and each gets its own answer only."""
    clients = [await served.connect() for _ in range(20)]
    served.provisioning.gate.clear()
    for number, raw in enumerate(clients):
        await raw.send(V311.connect("provision") + V311.subscribe((TOPICS[1], 0)) + V311.publish(b"%d" % number))
    await served.provisioning.until(lambda provisioning: len(provisioning.asked) == 20)
    served.provisioning.gate.set()
    for number, raw in enumerate(clients):
        assert [(await raw.packet())[0] for _ in range(2)] == [0x20, 0x90]
        assert await raw.packet() == V311.response(b"answer to %d" % number, 0)
        await raw.send(DISCONNECT)
        assert await raw.rest() == b""
        await raw.close()


# Clients that misbehave


@each_version
async def test_connect_timeout(listen: Listen, wire: Wire) -> None:
    served = await listen(limits=Limits(connect_timeout=0.05))
    raw = await served.connect()
    await raw.send(wire.connect()[:-1])
    assert await raw.rest() == b""
    await raw.close()


async def test_idle_session_is_closed(listen: Listen) -> None:
    served = await listen(limits=Limits(idle_limit=0.05))
    raw = await served.connect()
    await raw.send(V5.connect())
    assert (await raw.packet())[0] == 0x20
    assert await raw.rest() == b"\xe0\x01\x8d"
    await raw.close()


@each_version
async def test_session_is_closed_after_its_verdict(listen: Listen, wire: Wire) -> None:
    served = await listen(limits=Limits(after_verdict=0.05))
    raw = await served.provision_session(wire)
    await raw.send(wire.publish(b"x"))
    assert await raw.packet() == wire.response(b"answer to x")
    assert await raw.rest() == (b"\xe0\x01\x98" if wire.v5 else b"")
    await raw.close()


async def test_connections_are_bounded(listen: Listen) -> None:
    served = await listen(max_connections=50)
    admitted = [await served.provision_session(V311) for _ in range(50)]
    for _ in range(10):
        raw = await served.connect()
        assert await raw.rest() == b""
        await raw.close()
    assert (served.listener.connections, served.listener.refused) == (50, 10)
    for raw in admitted:
        await raw.send(PINGREQ)
        assert await raw.packet() == PINGRESP
        raw.reset()
    await served.emptied()
    raw = await served.provision_session(V311)
    await raw.close()


@each_version
async def test_those_that_are_not_let_in_yet_are_bounded(listen: Listen, wire: Wire) -> None:
    served = await listen(admission=Admission(10, 3))
    waiting = [await served.provision_session(V311) for _ in range(3)]
    crowded = await served.connect()
    await crowded.send(wire.connect())
    told = await crowded.packet()
    if wire.v5:
        assert told[3] == 0x9F
    else:
        assert told == b"\x20\x02\0\x03"
    assert await crowded.rest() == b""

    await waiting[0].send(V311.publish(b"provision me"))
    await waiting[0].packet()  # who is provisioned makes room, although it stays
    await (await served.provision_session(V311)).close()
    for raw in (crowded, *waiting):
        await raw.close()
    await served.emptied()
    assert served.listener.admission.waiting == 0


@each_version
async def test_oversized_packet(served: Served, wire: Wire) -> None:
    """The last words arrive, although the client was still sending."""
    raw = await served.provision_session(wire)
    await raw.send(wire.publish(b"x" * 1_000_000))
    assert await raw.rest() == (b"\xe0\x01\x95" if wire.v5 else b"")
    await raw.close()


async def test_largest_packet(served: Served) -> None:
    raw = await served.provision_session(V311)
    payload = b"x" * (65_536 - 4 - 20)
    await raw.send(V311.publish(payload))
    assert (await raw.packet()).endswith(payload)
    await raw.close()


@each_version
async def test_client_that_does_not_read(listen: Listen, wire: Wire) -> None:
    served = await listen(write_timeout=0.05)
    loop = asyncio.get_running_loop()
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.setblocking(False)
        await loop.sock_connect(client, ("127.0.0.1", served.port))
        await loop.sock_sendall(client, wire.connect())
        with pytest.raises(OSError, match=r"reset|pipe"):
            await loop.sock_sendall(client, wire.publish(b"x" * 60_000) * 1_000)
    await served.emptied()


async def test_client_that_never_closes(listen: Listen) -> None:
    served = await listen(close_timeout=0.05)
    raw = await served.provision_session(V311)
    await raw.send(DISCONNECT)
    await served.emptied()
    await raw.close()


@each_version
async def test_client_that_vanishes(served: Served, wire: Wire) -> None:
    """Its request is decided to the end; the others do not notice."""
    served.provisioning.gate.clear()
    raw = await served.provision_session(wire)
    await raw.send(wire.publish(b"gone", qos=1))
    await served.provisioning.until(lambda provisioning: len(provisioning.asked) == 1)
    raw.reset()
    await served.emptied()
    served.provisioning.gate.set()
    await served.provisioning.until(lambda provisioning: provisioning.finished == [b"gone"])
    raw = await served.provision_session(wire)
    await raw.send(wire.publish(b"here"))
    assert await raw.packet() == wire.response(b"answer to here")
    await raw.close()


async def test_client_whose_reset_was_not_noticed_yet(served: Served) -> None:
    loop = asyncio.get_running_loop()
    with socket.socket() as client:
        client.setblocking(False)
        await loop.sock_connect(client, ("127.0.0.1", served.port))
        await loop.sock_sendall(client, V311.connect())
        await loop.sock_recv(client, 4)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    (connection,) = served.listener._connections
    connection.drain()
    await served.emptied()


async def test_back_pressure(served: Served) -> None:
    served.provisioning.gate.clear()
    raw = await served.provision_session(V311)
    await raw.send(b"".join(V311.publish(b"%d" % number) for number in range(100)))
    await served.provisioning.until(lambda provisioning: len(provisioning.asked) == 8)
    (connection,) = served.listener._connections
    assert not connection._transport.is_reading()
    served.provisioning.gate.set()
    for number in range(100):
        assert await raw.packet() == V311.response(b"answer to %d" % number, 1, number + 1)
    assert connection._transport.is_reading()
    await raw.close()


async def test_small_packets_are_not_delayed(served: Served) -> None:
    raw = await served.provision_session(V311)
    (connection,) = served.listener._connections
    with socket.socket(fileno=os.dup(cast("Any", connection._transport)._descriptor)) as accepted:
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    await raw.close()


@pytest.mark.parametrize("data", [b"\0", b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x02\0", b"\x10\xff\xff\xff\xff"])
async def test_garbage_is_no_event(served: Served, caplog: pytest.LogCaptureFixture, data: bytes) -> None:
    raw = await served.connect()
    await raw.send(data)
    assert await raw.rest() == b""
    await raw.close()
    await served.emptied()
    assert not [record for record in caplog.records if record.levelno > logging.DEBUG]


# What answers fails


@each_version
@pytest.mark.parametrize("qos", [0, 1])
async def test_service_that_fails(served: Served, caplog: pytest.LogCaptureFixture, wire: Wire, qos: int) -> None:
    raw = await served.provision_session(wire)
    await raw.send(wire.publish(b"raise", qos=qos))
    assert await raw.rest() == (b"\x40\x03\0\x01\x83" * qos + b"\xe0\x01\x83" if wire.v5 else b"")
    await raw.close()
    (record,) = [
        record for record in caplog.records if record.name == "provserver.mqtt" and record.levelno > logging.DEBUG
    ]
    assert record.levelname == "ERROR"
    assert "LookupError" in record.getMessage()
    assert "raise" not in record.getMessage()
    assert record.exc_info is None


class Judge(Access):
    """Says the same to everyone, and that it is asked no further."""

    def __init__(self, verdict: Denial | Exception) -> None:
        self.verdict = verdict
        self.asked: list[tuple[object, ...]] = []

    async def with_mqtt(
        self, client_id: str, username: str | None, password: bytes | None, peer: Peer
    ) -> Authenticated | Denial:
        self.asked.append((client_id, username, password, peer))
        if isinstance(self.verdict, Exception):
            raise self.verdict
        return self.verdict

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(name)


async def judged(listen: Listen, wire: Wire, judge: Judge) -> bytes:
    """All that a client gets whose CONNECT is judged."""
    untouched = cast("Any", object())
    served = await listen(access=judge, sessions=untouched, data=untouched)
    raw = await served.connect()
    await raw.send(wire.connect("client", "token", b"secret"))
    answer = await raw.rest()
    await raw.close()
    assert judge.asked == [("client", "token", b"secret", Peer(Transport.MQTT, "127.0.0.1"))]
    return answer


@each_version
@pytest.mark.parametrize("denial", Denial)
async def test_denial(listen: Listen, wire: Wire, denial: Denial) -> None:
    answer = await judged(listen, wire, Judge(denial))
    assert answer == (
        bytes((0x20, 3, 0, denial.reason_code, 0)) if wire.v5 else bytes((0x20, 2, 0, denial.return_code))
    )


@each_version
@pytest.mark.parametrize("error", [LookupError("token"), Unavailable("token")])
async def test_authentication_that_fails(
    listen: Listen, caplog: pytest.LogCaptureFixture, wire: Wire, error: Exception
) -> None:
    """Nobody is told that credentials are bad which were not looked at."""
    assert await judged(listen, wire, Judge(error)) == (b"\x20\x03\0\x88\0" if wire.v5 else b"\x20\x02\0\x03")
    assert "token" not in caplog.text
    assert ("LookupError" in caplog.text) is isinstance(error, LookupError)


# The server's end


async def test_stop_answers_what_is_in_flight(listen: Listen) -> None:
    served = await listen()
    served.provisioning.gate.clear()
    idle = {wire: await served.provision_session(wire) for wire in ALL}
    waiting = {wire: await served.provision_session(wire) for wire in ALL}
    silent = await served.connect()
    for wire, raw in waiting.items():
        await raw.send(wire.publish(b"x", qos=1))
    await served.provisioning.until(lambda provisioning: len(provisioning.asked) == 3)
    stopping = asyncio.create_task(served.listener.stop(30))
    for wire, raw in idle.items():
        assert await raw.rest() == (b"\xe0\x01\x8b" if wire.v5 else b"")
        await raw.close()
    assert await silent.rest() == b""
    await silent.close()
    with pytest.raises(OSError, match=r"(?i)refused|connect call failed"):
        await served.connect()
    assert not stopping.done()
    served.provisioning.gate.set()
    for wire, raw in waiting.items():
        farewell = b"\xe0\x01\x8b" if wire.v5 else b""
        assert await raw.rest() == wire.puback(1) + wire.response(b"answer to x") + farewell
        await raw.close()
    await stopping
    assert served.listener.connections == 0


@each_version
async def test_stop_does_not_wait_for_ever(listen: Listen, caplog: pytest.LogCaptureFixture, wire: Wire) -> None:
    served = await listen()
    served.provisioning.gate.clear()
    raw = await served.provision_session(wire)
    await raw.send(wire.publish(b"x"))
    await served.provisioning.until(lambda provisioning: len(provisioning.asked) == 1)
    await served.listener.stop(0.01)
    assert await raw.rest() == (b"\xe0\x01\x8b" if wire.v5 else b"")
    await raw.close()
    assert served.provisioning.finished == []
    assert "1 requests were not answered" in caplog.text


async def test_several_listeners_of_one_port(listen: Listen) -> None:
    first = await listen()
    second = await listen()
    sockets = shared("127.0.0.1", 0, socket.SOCK_STREAM, 2)
    host, port = await first.listener.start("", 0, sock=sockets[0])
    assert await second.listener.start("", 0, sock=sockets[1]) == (host, port)
    with pytest.raises(OSError, match="in use"):
        await second.listener.start(host, port)


async def test_it_listens_on_ipv6(listen: Listen) -> None:
    served = await listen()
    try:
        host, port = await served.listener.start("::1", 0)
    except OSError:
        pytest.skip("this machine has no IPv6")
    reader, writer = await asyncio.open_connection(host, port)
    raw = Raw(reader, writer)
    await raw.send(V3[0].connect() + V3[0].publish(b"x"))
    await raw.packet()
    await raw.packet()
    await raw.close()
    assert served.provisioning.asked == [(b"x", Peer(Transport.MQTT, "::1"))]

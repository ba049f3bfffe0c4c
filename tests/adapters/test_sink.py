import asyncio
import base64
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import aiomqtt
import pytest
from cryptography.x509 import DNSName
from yarl import URL

from provserver.adapters.outgoing import Outgoing, networks
from provserver.adapters.sink import IN_FLIGHT, MAX_MESSAGES, HttpReceiver, MqttReceiver, receiver
from provserver.core.sink import QueuedMessage, Receiver
from provserver.errors import Misconfigured
from tests.adapters.conftest import Endpoint, message, serving
from tests.pki import Authority
from tests.services.conftest import until
from tests.support.mosquitto import Broker

Mosquitto = Callable[..., Broker]

# --- the option


@pytest.mark.parametrize(
    ("url", "fix"),
    [
        ("nonsense", "It must be mqtt://"),
        ("ftp://host/pl4nted", "It must be mqtt://"),
        ("mqtt:///pl4nted", "It must be mqtt://"),
        ("mqtt://broker:99999/pl4nted", "It must be mqtt://"),
        ("http://u:pl4nted@[::1/", "It must be mqtt://"),
        ("mqtt://u:pl4nted@broker/a/#", "no + and no #"),
        ("mqtt://u:pl4nted@broker/a/%2B/b", "no + and no #"),
        ("mqtt://broker/a?pl4nted", "no query"),
        ("http://u:pl4nted@127.0.0.1/in", 'outgoing_private = "127.0.0.1"'),
        ("mqtts://u:pl4nted@[fd00::1]", 'outgoing_private = "fd00::1"'),
        ("http://localhost:1/", 'outgoing_private = "127.0.0.1"'),
    ],
)
def test_a_url_that_cannot_be_sent_to_names_the_fix(url: str, fix: str) -> None:
    with pytest.raises(Misconfigured) as refusal:
        receiver(url, Outgoing())
    assert str(refusal.value).startswith("sink_url")
    assert fix in str(refusal.value)
    assert "pl4nted" not in str(refusal.value)


def test_urls_name_their_receivers() -> None:
    outgoing = Outgoing(networks("127.0.0.1"))
    for url in ("http://h/p", "https://u:p@h:1/p?q=1#f", "http://localhost/", "http://127.0.0.1:8/"):
        assert isinstance(receiver(url, outgoing), HttpReceiver)
    for url, port, prefix in (
        ("mqtt://h", 1883, ""),
        ("mqtts://u:p@h/a/b/", 8883, "a/b"),
        ("mqtt://h:7/%C3%A9", 7, "é"),
    ):
        made = receiver(url, outgoing)
        assert isinstance(made, MqttReceiver)
        assert (made._host, made._port, made._prefix) == ("h", port, prefix)


# --- HTTP


def http(endpoint: Endpoint, outgoing: Outgoing, credentials: str = "") -> Receiver:
    return receiver(endpoint.url.replace("://", f"://{credentials}"), outgoing)


def ids(messages: list[QueuedMessage], *data: int) -> list[int]:
    return [messages[n].id for n in data]


async def test_messages_are_posted_as_an_array(endpoint: Endpoint, outgoing: Outgoing) -> None:
    messages = [message("a"), message("b", device=2)]
    delivery = await http(endpoint, outgoing).send(messages)

    assert endpoint.requests == [["a", "b"]]
    assert (delivery.delivered, delivery.refused, delivery.fault) == (ids(messages, 0, 1), {}, "")


async def test_credentials_of_the_url_go_into_the_header_alone(endpoint: Endpoint, outgoing: Outgoing) -> None:
    made = http(endpoint, outgoing, "us%40er:pa%3Ass@")
    assert (await made.send([message(1)])).delivered
    assert endpoint.headers["Authorization"] == "Basic " + base64.b64encode(b"us@er:pa:ss").decode()
    assert endpoint.path == "/in"
    assert not any("ss" in repr(value) for name, value in vars(made).items() if name != "_headers")


async def test_many_messages_are_posted_in_parts(endpoint: Endpoint, outgoing: Outgoing) -> None:
    delivery = await http(endpoint, outgoing).send([message(n) for n in range(2 * MAX_MESSAGES + 1)])
    assert [len(request) for request in endpoint.requests] == [MAX_MESSAGES, MAX_MESSAGES, 1]
    assert endpoint.taken == list(range(2 * MAX_MESSAGES + 1))
    assert len(delivery.delivered) == len(endpoint.taken)


async def test_large_messages_are_posted_in_parts(endpoint: Endpoint, outgoing: Outgoing) -> None:
    delivery = await http(endpoint, outgoing).send([message("x" * size) for size in (400_000, 400_000, 1_500_000, 9)])
    assert [len(request) for request in endpoint.requests] == [2, 1, 1]
    assert len(delivery.delivered) == 4


@pytest.mark.parametrize("status", [301, 401, 403, 404, 405, 408, 409, 429, 500, 502, 503])
async def test_an_endpoint_that_is_not_well_gets_everything_again(
    endpoint: Endpoint, outgoing: Outgoing, status: int
) -> None:
    made, messages = http(endpoint, outgoing), [message(n) for n in range(MAX_MESSAGES + 2)]
    endpoint.status = lambda data: status if MAX_MESSAGES in data else 200
    delivery = await made.send(messages)
    assert (len(delivery.delivered), delivery.refused, delivery.fault) == (MAX_MESSAGES, {}, f"HTTP {status}")

    endpoint.status = lambda _: 204
    assert (await made.send(messages[MAX_MESSAGES:])).delivered == ids(messages, MAX_MESSAGES, MAX_MESSAGES + 1)


@pytest.mark.parametrize(
    ("header", "seconds"), [("7", 7), ("1000000", 300), ("Wed, 21 Oct 2026 07:28:00 GMT", 0), ("-5", 0), ("", 0)]
)
async def test_an_endpoint_may_ask_to_be_left_alone(
    endpoint: Endpoint, outgoing: Outgoing, header: str, seconds: float
) -> None:
    endpoint.status, endpoint.answer_headers = lambda _: 503, {"Retry-After": header}
    assert (await http(endpoint, outgoing).send([message(1)])).retry_after == seconds


@pytest.mark.parametrize("status", [400, 413, 422])
async def test_a_message_that_is_refused_is_found_and_holds_up_its_device_alone(
    endpoint: Endpoint, outgoing: Outgoing, status: int
) -> None:
    messages = [message(n, device=n % 10) for n in range(100)]
    endpoint.status = lambda data: status if 37 in data else 200
    delivery = await http(endpoint, outgoing).send(messages)

    assert delivery.refused == {messages[37].id: f"HTTP {status}"}
    assert delivery.fault == ""
    assert endpoint.taken == [n for n in range(100) if n % 10 != 7 or n < 37]
    assert delivery.delivered == ids(messages, *endpoint.taken)
    assert len(endpoint.requests) < 20


async def test_too_large_a_post_is_sent_in_halves(endpoint: Endpoint, outgoing: Outgoing) -> None:
    endpoint.status = lambda data: 413 if len(data) > 3 else 200
    delivery = await http(endpoint, outgoing).send([message(n) for n in range(20)])
    assert endpoint.taken == list(range(20))
    assert (len(delivery.delivered), delivery.refused) == (20, {})


async def test_an_endpoint_that_is_away_is_a_fault(outgoing: Outgoing) -> None:
    async with serving(Endpoint()) as endpoint:
        made = http(endpoint, outgoing, "user:pl4nted@")
        assert (await made.send([message(1)])).fault == ""
    assert (await made.send([message(1)])).delivered == []
    delivery = await made.send([message(1)])
    assert (delivery.delivered, delivery.fault) == ([], "no connection: Connection refused")


async def test_a_name_at_a_private_address_is_a_fault_that_names_the_fix(endpoint: Endpoint) -> None:
    async with Outgoing() as outgoing:
        made = HttpReceiver(URL(endpoint.url.replace("127.0.0.1", "localhost")), outgoing)
        assert "outgoing_private" in (await made.send([message(1)])).fault
        broker = MqttReceiver("localhost", 1, outgoing)
        assert "outgoing_private" in (await broker.send([message(1)])).fault


# --- MQTT


def mqtt(broker: Broker, outgoing: Outgoing, prefix: str = "/up", credentials: str = "") -> MqttReceiver:
    made = receiver(f"mqtt://{credentials}127.0.0.1:{broker.port}{prefix}", outgoing)
    assert isinstance(made, MqttReceiver)
    return made


async def received(broker: Broker, number: int, **options: Any) -> list[tuple[str, bytes]]:
    """What a subscriber has got that subscribed before."""
    async with broker.subscribed(**options) as client:
        await client.subscribe("#", 1)
        found: list[tuple[str, bytes]] = []
        async for each in client.messages:
            assert isinstance(each.payload, bytes)
            found.append((str(each.topic), each.payload))
            if len(found) == number:
                break
    return found


@pytest.fixture
async def broker(mosquitto: Mosquitto) -> Broker:
    made = mosquitto()
    await made.start()
    return made


async def test_messages_are_published_in_order_with_qos_1(broker: Broker, outgoing: Outgoing) -> None:
    made = mqtt(broker, outgoing)
    messages = [message(n, device=n % 3, name=("a/b", "$x", "é +#")[n % 3]) for n in range(3 * IN_FLIGHT + 1)]
    async with broker.subscribed() as client:
        await client.subscribe("#", 1)
        delivery = await made.send(messages)
        got = [await anext(client.messages) for _ in messages]
    await made.close()

    assert delivery.delivered == [each.id for each in messages]
    assert (delivery.refused, delivery.fault) == ({}, "")
    assert [each.payload for each in got] == [each.body for each in messages]
    assert {each.qos for each in got} == {1}
    topics = ["up/a%2Fb/telemetry", "up/%24x/telemetry", "up/é %2B%23/telemetry"]
    assert [str(each.topic) for each in got[:3]] == topics


async def test_a_broker_that_comes_back_gets_what_it_did_not_acknowledge(broker: Broker, outgoing: Outgoing) -> None:
    made = mqtt(broker, outgoing)
    assert (await made.send([message(1)])).delivered
    broker.kill()
    messages = [message(n) for n in range(5)]
    for _ in range(3):
        delivery = await made.send(messages)
        assert delivery.delivered == []
        assert delivery.fault
    await broker.start()
    async with broker.subscribed() as client:
        await client.subscribe("#", 1)
        assert (await made.send(messages)).delivered == [each.id for each in messages]
        assert [(await anext(client.messages)).payload for _ in messages] == [each.body for each in messages]
    await made.close()


async def test_a_broker_that_dies_while_it_is_sent_to_has_what_it_acknowledged(
    broker: Broker, outgoing: Outgoing
) -> None:
    made = mqtt(broker, outgoing)
    assert (await made.send([message(0)])).delivered
    sending = asyncio.create_task(made.send([message(n, name=f"{n}") for n in range(20_000)]))
    await asyncio.sleep(0)
    publisher = made._publisher
    assert publisher is not None
    await until(lambda: bool(publisher._waiting))
    broker.kill()
    delivery = await sending
    assert delivery.fault
    assert len(delivery.delivered) < 20_000
    await made.close()


async def test_credentials_are_presented_and_refused_ones_are_a_fault(
    mosquitto: Mosquitto, outgoing: Outgoing, tool: Callable[..., str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    passwords = tmp_path / "passwords"
    process = await asyncio.create_subprocess_exec(
        tool("mosquitto_passwd"), "-b", "-c", str(passwords), "us@er", "pl4nted/1"
    )
    assert await process.wait() == 0
    passwords.chmod(0o644)
    broker = mosquitto("allow_anonymous false", f"password_file {passwords}")
    await broker.start()

    right = mqtt(broker, outgoing, credentials="us%40er:pl4nted%2F1@")
    assert (await right.send([message(1)])).delivered
    await right.close()
    wrong = mqtt(broker, outgoing, credentials="us%40er:pl4nted%2F2@")
    delivery = await wrong.send([message(1)])
    assert "Not authorized" in delivery.fault
    assert wrong._version == aiomqtt.ProtocolVersion.V5
    await wrong.close()
    assert "pl4nted" not in caplog.text + repr(right) + repr(wrong) + delivery.fault


async def test_what_a_broker_does_not_allow_is_a_fault_and_not_lost(
    mosquitto: Mosquitto, outgoing: Outgoing, tmp_path: Path
) -> None:
    rules = tmp_path / "rules"
    rules.write_text("topic write up/sensor-1/#\n")
    rules.chmod(0o644)
    broker = mosquitto("allow_anonymous true", f"acl_file {rules}")
    await broker.start()
    made = mqtt(broker, outgoing)
    messages = [message(1), message(2, device=2), message(3)]
    delivery = await made.send(messages)
    assert delivery.delivered == ids(messages, 0, 2)
    assert (delivery.refused, delivery.fault) == ({}, "the broker refuses to publish: reason code 0x87")
    await made.close()


async def test_a_message_that_is_too_large_for_the_broker_is_found(mosquitto: Mosquitto, outgoing: Outgoing) -> None:
    broker = mosquitto("allow_anonymous true", "max_packet_size 2000")
    await broker.start()
    made = mqtt(broker, outgoing)
    messages = [message("x" * 3000 if n == 7 else n, device=n % 5) for n in range(20)]
    delivery = await made.send(messages)
    assert (delivery.refused, delivery.fault) == ({messages[7].id: "reason code 0x95"}, "")
    assert len(delivery.delivered) == 19
    await made.close()


class Reluctant:
    """A broker of few words, for what mosquitto does not do: `answer` is called with each packet's first byte."""

    def __init__(self, answer: Callable[[int, bytes], bytes | None]) -> None:
        self._answer = answer
        self.versions: list[int] = []
        self.published = 0
        self.port = 0
        self._writers: list[asyncio.StreamWriter] = []

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for each in self._writers:  # of a test that failed one may be open, which would be waited for
            each.close()
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.append(writer)
        try:
            while True:
                (first,) = await reader.readexactly(1)
                size = shift = 0
                while True:
                    (byte,) = await reader.readexactly(1)
                    size |= (byte & 127) << shift
                    shift += 7
                    if byte < 128:
                        break
                body = await reader.readexactly(size)
                if first == 0x10:
                    self.versions.append(body[6])
                self.published += first >> 4 == 3
                answer = self._answer(first, body)
                if answer is None:
                    return
                writer.write(answer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


def packet_id(body: bytes) -> bytes:
    start = 2 + int.from_bytes(body[:2])
    return body[start : start + 2]


async def test_a_broker_without_mqtt_5_is_spoken_to_in_3_1_1(outgoing: Outgoing) -> None:
    def answer(first: int, body: bytes) -> bytes | None:
        if first == 0x10:
            return b"\x20\x02\x00\x00" if body[6] == 4 else b"\x20\x03\x00\x84\x00"
        return b"\x40\x02" + packet_id(body) if first == 0x32 else b""

    async with Reluctant(answer) as broker:
        made = MqttReceiver("127.0.0.1", broker.port, outgoing)
        assert "Unsupported protocol version" in (await made.send([message(1)])).fault
        assert (await made.send([message(1)])).delivered
        await made.close()
    assert broker.versions == [5, 4]


async def test_a_broker_that_does_not_even_answer_mqtt_5_is_spoken_to_in_3_1_1(outgoing: Outgoing) -> None:
    def answer(first: int, body: bytes) -> bytes | None:
        if first == 0x10:
            return b"\x20\x02\x00\x00" if body[6] == 4 else None
        return b"\x40\x02" + packet_id(body) if first == 0x32 else b""

    async with Reluctant(answer) as broker:
        made = MqttReceiver("127.0.0.1", broker.port, outgoing, timeout=0.2)
        assert (await made.send([message(1)])).fault
        made._timeout = 60
        assert (await made.send([message(1)])).delivered
        await made.close()


@pytest.mark.parametrize("reason", [0x90, 0x99])
async def test_a_message_that_a_puback_refuses_is_refused_alone(outgoing: Outgoing, reason: int) -> None:
    def answer(first: int, body: bytes) -> bytes | None:
        if first == 0x10:
            return b"\x20\x03\x00\x00\x00"
        if first != 0x32:
            return b""
        return b"\x40\x03" + packet_id(body) + bytes([reason if b"poison" in body else 0x10])

    async with Reluctant(answer) as broker:
        made = MqttReceiver("127.0.0.1", broker.port, outgoing)
        messages = [message(1), message("poison", device=2), message(3)]
        delivery = await made.send(messages)
        await made.close()
    assert delivery.delivered == ids(messages, 0, 2)
    assert (delivery.refused, delivery.fault) == ({messages[1].id: f"reason code 0x{reason:02X}"}, "")


async def test_a_message_that_makes_the_broker_disconnect_is_found(outgoing: Outgoing) -> None:
    def answer(first: int, body: bytes) -> bytes | None:
        if first == 0x10:
            return b"\x20\x03\x00\x00\x00"
        if first != 0x32:
            return b""
        return b"\xe0\x01\x99" if b"poison" in body else b"\x40\x02" + packet_id(body)

    async with Reluctant(answer) as broker:
        made = MqttReceiver("127.0.0.1", broker.port, outgoing)
        messages = [message("poison" if n == 7 else n, device=n % 5) for n in range(20)]
        first = await made.send(messages)
        assert "reason code 0x99" in first.fault
        assert first.refused == {}
        rest = [each for each in messages if each.id not in first.delivered]
        second = await made.send(rest)
        await made.close()
    assert (second.refused, second.fault) == ({messages[7].id: "reason code 0x99"}, "")
    assert {*first.delivered, *second.delivered} == {each.id for n, each in enumerate(messages) if n % 5 != 2 or n < 7}


async def test_no_more_is_in_flight_than_the_broker_takes(outgoing: Outgoing) -> None:
    waiting: list[bytes] = []
    most = 0

    def answer(first: int, body: bytes) -> bytes | None:
        nonlocal most
        if first == 0x10:
            return b"\x20\x06\x00\x00\x03\x21\x00\x05"  # Receive Maximum: 5
        if first != 0x32:
            return b""
        waiting.append(b"\x40\x02" + packet_id(body))
        most = max(most, len(waiting))
        if len(waiting) < 5:
            return b""
        acknowledged = b"".join(waiting)
        waiting.clear()
        return acknowledged

    async with Reluctant(answer) as broker:
        made = MqttReceiver("127.0.0.1", broker.port, outgoing)
        delivery = await made.send([message(n) for n in range(50)])
        await made.close()
    assert (len(delivery.delivered), delivery.fault, most) == (50, "", 5)


async def test_a_broker_that_does_not_acknowledge_is_given_up(outgoing: Outgoing) -> None:
    def answer(first: int, body: bytes) -> bytes:
        if first == 0x10:
            return b"\x20\x03\x00\x00\x00"
        return b"\x40\x02" + packet_id(body) if first == 0x32 and b'"first"' in body else b""

    async with Reluctant(answer) as broker:
        made = MqttReceiver("127.0.0.1", broker.port, outgoing)
        assert (await made.send([message("first")])).delivered  # it is connected, however long that takes
        assert made._publisher is not None
        made._publisher.timeout = 0.2
        delivery = await made.send([message(n) for n in range(20 * IN_FLIGHT)])
        assert (delivery.delivered, delivery.fault) == ([], "the connection to the broker broke: Operation timed out")
        assert broker.published <= 1 + IN_FLIGHT  # not a second time as many, and so on
        await made.close()


async def test_the_broker_s_certificate_must_be_of_its_name(
    mosquitto: Mosquitto, outgoing: Outgoing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = Authority.root()
    server = root.leaf("localhost", san=[DNSName("localhost")])
    certificate, key = server.write(tmp_path)
    for file in (certificate, key):
        file.chmod(0o644)
    (tmp_path / "root.pem").write_text(root.pem)
    broker = mosquitto("allow_anonymous true", f"certfile {certificate}", f"keyfile {key}")
    await broker.start()

    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "root.pem"))
    right = receiver(f"mqtts://localhost:{broker.port}/up", outgoing)
    assert (await right.send([message(1)])).delivered
    await right.close()
    elsewhere = receiver(f"mqtts://127.0.0.1:{broker.port}/up", outgoing)
    assert "certificate verify failed" in (await elsewhere.send([message(1)])).fault
    monkeypatch.delenv("SSL_CERT_FILE")
    unknown = receiver(f"mqtts://localhost:{broker.port}/up", outgoing)
    assert "certificate verify failed" in (await unknown.send([message(1)])).fault

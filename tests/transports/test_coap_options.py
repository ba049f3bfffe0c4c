import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiocoap import Message
from aiocoap.numbers.codes import Code
from aiocoap.numbers.optionnumbers import OptionNumber
from aiocoap.numbers.types import Type
from hypothesis import given
from hypothesis import strategies as st

from provserver.transports.coap_options import Target, query, target
from tests.transports.test_coap import PATH, Datagrams, Site, serving
from tests.transports.test_http import Service, logging_as_serve_does, service

EMPTY_ACK_DELAY = 0.1


@pytest.fixture(scope="module")
async def made(postgres: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Service]:
    async with service(postgres, tmp_path_factory.mktemp("coap_options"), "coap_options") as service_:
        yield service_


@pytest.fixture(scope="module")
async def site(made: Service) -> AsyncIterator[Site]:
    async with serving(made) as shared:
        yield shared


def with_option(site: Site, number: int, value: bytes, name: str, mid: int, type_: Type = Type.CON) -> bytes:
    message = Message(code=Code.POST, payload=site.body(name), _mtype=type_, _mid=mid, _token=mid.to_bytes(2))
    message.opt.uri_path = PATH
    message.opt.add_option(OptionNumber(number).create_option(decode=value))
    encoded: bytes = message.encode()
    return encoded


async def devices(made: Service, name: str) -> Any:
    return await made.value("SELECT count(*) FROM device WHERE name = $1", name)


async def ask(client: Datagrams, datagram: bytes) -> Any:
    client.send(datagram)
    return await client.message()


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (1, Code.BAD_OPTION),  # If-Match
        (5, Code.BAD_OPTION),  # If-None-Match
        (9, Code.BAD_OPTION),  # OSCORE
        (19, Code.BAD_OPTION),  # Q-Block1
        (65_001, Code.BAD_OPTION),
        (35, Code.PROXYING_NOT_SUPPORTED),
        (39, Code.PROXYING_NOT_SUPPORTED),
    ],
)
async def test_what_is_critical_and_not_understood_is_refused(
    made: Service, site: Site, number: int, code: Code
) -> None:
    async with site.datagrams() as client:
        response = await ask(client, with_option(site, number, b"pl4nted", f"critical {number}", number))

    assert (response.mtype, response.mid, response.code) == (Type.ACK, number, code)
    assert response.payload == (b"Unknown option %d" % number if code is Code.BAD_OPTION else b"")
    assert await devices(made, f"critical {number}") == 0


@pytest.mark.parametrize(
    ("number", "value"),
    [
        (3, b"any.host"),  # Uri-Host
        (4, b"x"),  # ETag
        (6, b""),  # Observe
        (7, b"\x16\x33"),  # Uri-Port
        (12, b"\x32"),  # Content-Format
        (14, b"\x3c"),  # Max-Age
        (15, b"a=b"),  # Uri-Query
        (17, b"\x3c"),  # Accept: CBOR
        (23, b"\x06"),  # Block2
        (27, b"\x06"),  # Block1
        (28, b""),  # Size2
        (60, b"\x50"),  # Size1
        (258, b""),  # No-Response
        (65_000, b"x"),  # elective
    ],
)
async def test_what_is_understood_or_elective_is_taken(site: Site, number: int, value: bytes) -> None:
    async with site.datagrams() as client:
        response = await ask(client, with_option(site, number, value, f"taken {number}", number))

    assert response.code is Code.CREATED


@pytest.mark.parametrize(
    ("number", "value"),
    [(3, b"any.host"), (7, b"\x16\x33"), (17, b"\x32"), (23, b"\x06"), (27, b"\x06"), (35, b"coap://h")],
)
async def test_what_is_critical_and_comes_twice_is_refused(
    made: Service, site: Site, number: int, value: bytes
) -> None:
    message = Message(code=Code.POST, payload=site.body(f"twice {number}"), _mtype=Type.CON, _mid=1, _token=b"t")
    message.opt.uri_path = PATH
    for _ in range(2):
        message.opt.add_option(OptionNumber(number).create_option(decode=value))
    async with site.datagrams() as client:
        response = await ask(client, message.encode())

    assert (response.code, response.payload) == (Code.BAD_OPTION, b"Repeated option %d" % number)
    assert await devices(made, f"twice {number}") == 0


@pytest.mark.parametrize(("number", "value"), [(15, b"a=b"), (6, b""), (12, b"\x32"), (60, b"\x50"), (65_000, b"x")])
async def test_what_is_elective_or_repeatable_may_come_twice(site: Site, number: int, value: bytes) -> None:
    message = Message(code=Code.POST, payload=site.body(f"again {number}"), _mtype=Type.CON, _mid=1, _token=b"t")
    message.opt.uri_path = PATH
    for _ in range(2):
        message.opt.add_option(OptionNumber(number).create_option(decode=value))
    async with site.datagrams() as client:
        assert (await ask(client, message.encode())).code is Code.CREATED


def path(*segments: str, code: Code = Code.POST) -> Any:
    message = Message(code=code)
    message.opt.uri_path = segments
    return target(message)


@pytest.mark.parametrize(
    ("segments", "expected"),
    [
        (("provision",), Target("provision")),
        (("provision", "17"), Target("provision", None, "17")),
        (("any", "provision"), Target("provision", "any")),
        (("telemetry",), Target("telemetry")),
        (("Telemetry",), Target("telemetry")),
        (("token", "telemetry"), Target("telemetry", "token")),
        (("telemetry", "telemetry"), Target("telemetry", "telemetry")),
        (("", "telemetry"), Target("telemetry", "")),
        (("17", "telemetry"), Target("telemetry", "17")),
        (("rpc", "17"), Target("rpc", None, "17")),
        (("token", "rpc", "17"), Target("rpc", "token", "17")),
        (("token", "attributes", "updates"), Target("attributes", "token")),
    ],
    ids=str,
)
def test_where_a_path_leads(segments: tuple[str, ...], expected: Target) -> None:
    assert path("api", "v1", *segments) == expected
    assert path("/".join(("api", "v1", *segments))) == expected
    assert path("/" + "/".join(("api", "v1", *segments))) == expected
    assert "token" not in repr(expected)


@given(
    st.lists(st.text(max_size=5) | st.sampled_from(["api", "v1", "17", "telemetry", "provision"]), max_size=6),
    st.sampled_from(list(Code)),
)
def test_any_path_leads_somewhere(segments: list[str], code: Code) -> None:
    found = path(*segments, code=code)

    assert isinstance(found, Target) or found.code.class_ == 4


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ((), []),
        (("k=a",), ["a"]),
        (("k=a,b", "x", "k=c"), ["a,b", "c"]),
        (("x=1&k=a&k=",), ["a", ""]),
        (("k",), [""]),
        (("k=a=b",), ["a=b"]),
        (("K=a", "kk=a"), []),
    ],
    ids=str,
)
def test_query_parameters(options: tuple[str, ...], expected: list[str]) -> None:
    message = Message(code=Code.GET)
    message.opt.uri_query = options

    assert query(message, "k") == expected


async def test_what_is_critical_and_needs_no_confirmation_is_not_answered(made: Service, site: Site) -> None:
    async with site.datagrams() as client:
        client.send(with_option(site, 65_001, b"x", "rejected", 1, Type.NON))
        response = await ask(client, site.datagram(site.body("after rejected"), 2, Type.NON))

    assert (response.token, response.code) == ((2).to_bytes(2), Code.CREATED)
    assert await devices(made, "rejected") == 0


async def test_stopping_leaves_no_timer_behind(made: Service, capsys: pytest.CaptureFixture[str]) -> None:
    with logging_as_serve_does("info"):
        async with serving(made) as site, site.datagrams() as client, made.blocked() as blocked:
            client.send(site.datagram(site.body("slow"), 0))
            await blocked.until_waiting()
            for n in range(1, 50):
                client.send(site.datagram(site.body(f"slow {n}"), n))
            await asyncio.sleep(0)

            await site.transport.stop(0)

            await asyncio.sleep(2 * EMPTY_ACK_DELAY)
        await made.provisioning.drain()

    assert capsys.readouterr().err == ""

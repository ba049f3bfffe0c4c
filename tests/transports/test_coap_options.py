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

from provserver.transports.blockwise import Block
from provserver.transports.coap_front import ACK_DELAY
from provserver.transports.coap_message import Options, encode_options
from provserver.transports.coap_options import Format, Reply, Request, Target, requested
from provserver.transports.coap_resources import Call
from tests.transports.test_coap import PATH, Datagrams, Site, serving
from tests.transports.test_http import Service, logging_as_serve_does, service

pytestmark = pytest.mark.usefixtures("piggybacked")


@pytest.fixture(scope="module")
async def made(postgres: str, tmp_path_factory: pytest.TempPathFactory, front: bool) -> AsyncIterator[Service]:
    name = f"coap_options_{front}".lower()
    async with service(postgres, tmp_path_factory.mktemp("coap_options"), name) as service_:
        yield service_


@pytest.fixture(scope="module")
async def site(made: Service, front: bool) -> AsyncIterator[Site]:
    async with serving(made, front=front) as shared:
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


def path(*segments: str, code: int = Code.POST) -> Target | Reply:
    return Request(code, [(11, segment.encode()) for segment in segments]).target


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

    assert isinstance(found, Target) or found.code >> 5 == 4


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
    request = Request(Code.GET, [(15, option.encode()) for option in options])

    assert request.parameter("k") == expected


@pytest.mark.parametrize(
    ("options", "format_", "text"),
    [
        ((), None, False),
        (((12, b"\x32"),), Format.JSON, False),
        (((12, b""),), Format.TEXT, True),
        (((12, b"\0"),), Format.TEXT, True),
        (((17, b"\x3c"),), 60, False),
        (((12, b""), (17, b"\x32")), Format.JSON, False),
        (((12, b"\x32"), (17, b"")), Format.TEXT, True),
        (((12, b"abc"),), None, False),  # too long: as if it were not there (RFC 7252 §5.4.3)
        (((12, b"\x32"), (12, b"")), Format.JSON, False),
    ],
    ids=str,
)
def test_the_format_that_is_asked_for(options: Options, format_: int | None, text: bool) -> None:
    request = Request(Code.POST, options)

    assert request.format == format_
    assert request.json_format is (Format.TEXT if text else Format.JSON)


@pytest.mark.parametrize(
    ("number", "value", "diagnostic"),
    [
        (3, b"", "Invalid option 3"),
        (3, b"x" * 256, "Invalid option 3"),
        (7, b"abc", "Invalid option 7"),
        (11, b"\xff", "Invalid option 11"),
        (11, b"x" * 256, "Invalid option 11"),
        (15, b"\xff", "Invalid option 15"),
        (15, b"x" * 256, "Invalid option 15"),
        (17, b"abc", "Invalid option 17"),
        (23, b"abcd", "Invalid option 23"),
        (27, b"abcd", "Invalid option 27"),
        (35, b"", "Invalid option 35"),
        (9, b"", "Unknown option 9"),
    ],
)
def test_a_critical_option_that_is_none_of_its_kind_is_refused(number: int, value: bytes, diagnostic: str) -> None:
    request = Request(Code.POST, [(number, value)])

    assert request.refusal == Reply(Code.BAD_OPTION, diagnostic.encode())


@pytest.mark.parametrize(
    ("value", "block"),
    [(b"", Block(0, False, 0)), (b"\x0e", Block(0, True, 6)), (b"\xff\xff\xff", Block(0xFFFFF, True, 7))],
)
def test_blocks_are_read(value: bytes, block: Block) -> None:
    request = Request(Code.POST, [(23, value), (27, value)])

    assert (request.block1, request.block2) == (block, block)
    assert Request(Code.POST, []).block1 is None


@given(
    st.sampled_from([Code.GET, Code.POST]),
    st.lists(
        st.tuples(st.sampled_from([3, 6, 9, 11, 12, 15, 17, 23, 27, 35, 258, 65_001]), st.binary(max_size=4)),
        max_size=4,
    ).map(lambda options: tuple(sorted(options, key=lambda option: option[0]))),
)
def test_what_was_asked_before_is_asked_alike(code: Code, options: Options) -> None:
    def parts(request: Request) -> list[object]:
        return [getattr(request, name) for name in Request.__slots__]

    requested(code, options)
    assert parts(requested(code, options)) == parts(Request(code, options))


@given(*[st.none() | st.sampled_from([0, 1, 50, 300])] * 3, *[st.none() | st.just(Block(1, True, 6))] * 2)
def test_the_options_of_a_reply_are_written_alike(
    format_: int | None, max_age: int | None, observe: int | None, block1: Block | None, block2: Block | None
) -> None:
    reply = Reply(Code.CONTENT, b"{}", format_, max_age, observe, block1, block2, 7 if block2 is not None else None)

    assert reply.encoded_options == encode_options(reply.options)


def test_the_options_of_a_reply_are_in_order() -> None:
    assert Reply(Code.CONTENT).options == ()
    assert Reply(Code.CONTENT, b"{}", Format.TEXT).options == ((12, b""),)
    assert Reply(Code.CONTENT, b"{}", Format.JSON).options == ((12, b"\x32"),)
    block1, block2 = Block(2, False, 6), Block(0, True, 6)
    whole = Reply(Code.CONTENT, b"{}", Format.JSON, 5, 0, block1, block2, 2_000)
    assert whole.options == (
        (6, b""),
        (12, b"\x32"),
        (14, b"\x05"),
        (23, b"\x0e"),
        (27, b"\x26"),
        (28, b"\x07\xd0"),
    )


def test_nothing_that_may_be_secret_is_shown() -> None:
    request = Request(Code.POST, [(11, b"pl4nted"), (15, b"pl4nted")])
    call = Call(Target("telemetry", "pl4nted"), request, b"pl4nted", None)

    assert "pl4nted" not in repr((request, call, Reply(Code.CREATED, b"pl4nted")))


async def test_what_is_critical_and_needs_no_confirmation_is_not_answered(made: Service, site: Site) -> None:
    async with site.datagrams() as client:
        client.send(with_option(site, 65_001, b"x", "rejected", 1, Type.NON))
        response = await ask(client, site.datagram(site.body("after rejected"), 2, Type.NON))

    assert (response.token, response.code) == ((2).to_bytes(2), Code.CREATED)
    assert await devices(made, "rejected") == 0


@pytest.mark.usefixtures("acknowledged")
async def test_stopping_leaves_no_timer_behind(made: Service, capsys: pytest.CaptureFixture[str], front: bool) -> None:
    with logging_as_serve_does("info"):
        async with serving(made, front=front) as site, site.datagrams() as client, made.blocked() as blocked:
            client.send(site.datagram(site.body("slow"), 0))
            await blocked.until_waiting()
            for n in range(1, 50):
                client.send(site.datagram(site.body(f"slow {n}"), n))
            await asyncio.sleep(0)

            await site.transport.stop(0)

            await asyncio.sleep(2 * ACK_DELAY)
        await made.provisioning.drain()

    assert capsys.readouterr().err == ""

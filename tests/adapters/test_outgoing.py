import asyncio
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest
from yarl import URL

from provserver.adapters.outgoing import Forbidden, Outgoing, Unreachable, networks
from provserver.errors import Misconfigured
from tests.adapters.conftest import Endpoint, serving


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("8.8.8.8", True),
        ("2606:4700:4700::1111", True),
        ("127.0.0.1", False),
        ("127.255.0.1", False),
        ("0.0.0.0", False),
        ("10.1.2.3", False),
        ("172.16.0.1", False),
        ("192.168.1.1", False),
        ("100.64.0.1", False),
        ("169.254.169.254", False),
        ("192.0.2.1", False),
        ("224.0.0.1", False),
        ("239.1.1.1", False),
        ("240.0.0.1", False),
        ("255.255.255.255", False),
        ("::", False),
        ("::1", False),
        ("fe80::1", False),
        ("fe80::1%eth0", False),
        ("fc00::1", False),
        ("fd12::1", False),
        ("fec0::1", False),
        ("ff02::1", False),
        ("2001:db8::1", False),
        ("::ffff:127.0.0.1", False),
        ("::ffff:8.8.8.8", True),
        ("::7f00:1", False),
        ("64:ff9b::7f00:1", False),
        ("64:ff9b::808:808", True),
        ("2002:7f00:1::1", False),
        ("2001:0:7f00:1::1", False),
    ],
)
def test_only_public_addresses_are_allowed_unless_listed(address: str, public: bool) -> None:
    assert Outgoing().allows(address) is public
    assert Outgoing(networks("0.0.0.0/0, ::/0")).allows(address)


def test_what_is_listed_is_allowed_and_nothing_else() -> None:
    outgoing = Outgoing(networks(" 10.0.0.0/8,127.0.0.1 ,fd00::/8"))
    for address in ("10.9.9.9", "127.0.0.1", "::ffff:127.0.0.1", "fd00::1"):
        assert outgoing.allows(address)
    for address in ("127.0.0.2", "11.0.0.1%", "192.168.0.1", "::1"):
        assert outgoing.allows(address) is address.startswith("11.")


@pytest.mark.parametrize("text", ["localhost", "10.0.0.1/8", "10.0.0.0/33", "10.0.0.0/8;127.0.0.1", "all"])
def test_a_list_that_is_none_names_the_fix(text: str) -> None:
    with pytest.raises(Misconfigured, match=r"outgoing_private: .*10\.0\.0\.0/8"):
        networks(text)


async def test_a_request_is_made_and_answered(endpoint: Endpoint, outgoing: Outgoing) -> None:
    endpoint.body, endpoint.answer_headers = b"well", {"X-Answer": "yes"}
    response = await outgoing.request(
        "POST",
        URL(endpoint.url + "?q=1"),
        headers={"X-Ask": "1", "Content-Type": "application/json"},
        body=b'[{"data":1}]',
    )
    assert (response.status, response.body, response.complete) == (200, b"well", True)
    assert response.headers["x-answer"] == "yes"
    assert endpoint.requests == [[1]]
    assert (endpoint.headers["X-Ask"], endpoint.headers["User-Agent"], endpoint.path) == ("1", "provserver", "/in?q=1")
    assert "Authorization" not in endpoint.headers


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "localhost", "2130706433", "0x7f.1", "127.1", "[::ffff:127.0.0.1]", "0.0.0.0", "0"],
)
async def test_this_machine_is_out_of_bounds_whatever_it_is_called(endpoint: Endpoint, host: str) -> None:
    port = URL(endpoint.url).port
    async with Outgoing() as outgoing:
        with pytest.raises(Unreachable) as refusal:
            await outgoing.request("GET", URL(f"http://{host}:{port}/"))
        if host in ("127.0.0.1", "localhost"):
            assert isinstance(refusal.value, Forbidden)
            assert "outgoing_private" in str(refusal.value)
    assert endpoint.path == ""


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[list[str]]]:
    """What each name resolves to, the first time, the second time, and so on."""
    answers: dict[str, list[list[str]]] = {}
    real = asyncio.BaseEventLoop.getaddrinfo

    async def resolve(self: Any, host: Any, port: Any, **options: Any) -> Any:
        name = host.decode() if isinstance(host, bytes) else host
        if name not in answers:
            return await real(self, host, port, **options)
        addresses = answers[name].pop(0) if len(answers[name]) > 1 else answers[name][0]
        if not addresses:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [
            (
                socket.AF_INET6 if ":" in each else socket.AF_INET,
                socket.SOCK_STREAM,
                6,
                "",
                (each, int(port or 0)) + ((0, 0) if ":" in each else ()),
            )
            for each in addresses
        ]

    monkeypatch.setattr(asyncio.BaseEventLoop, "getaddrinfo", resolve)
    return answers


async def test_a_name_is_judged_by_what_it_resolves_to(endpoint: Endpoint, names: dict[str, list[list[str]]]) -> None:
    port = URL(endpoint.url).port
    names["inside.example"] = [["127.0.0.1"]]
    async with Outgoing() as outgoing:
        with pytest.raises(Forbidden, match=r"inside\.example"):
            await outgoing.request("GET", URL(f"http://inside.example:{port}/"))
        with pytest.raises(Forbidden, match=r"inside\.example"):
            await outgoing.resolve("inside.example", 1)
    async with Outgoing(networks("127.0.0.1")) as outgoing:
        assert (await outgoing.request("GET", URL(f"http://inside.example:{port}/"))).status == 200
        assert endpoint.headers["Host"] == f"inside.example:{port}"
        assert await outgoing.resolve("inside.example", 1) == "127.0.0.1"


async def test_a_name_that_changes_its_mind_gets_nowhere(endpoint: Endpoint, names: dict[str, list[list[str]]]) -> None:
    """Rebinding: what is checked is the address that is connected to, not an earlier answer."""
    names["rebinding.example"] = [["192.0.2.1"], ["127.0.0.1"]]
    async with Outgoing(networks("192.0.2.0/24"), deadline=0.2) as outgoing:
        for _ in range(3):
            with pytest.raises(Unreachable):
                await outgoing.request("GET", URL(f"http://rebinding.example:{URL(endpoint.url).port}/"))
    assert endpoint.path == ""


async def test_of_several_addresses_only_the_allowed_ones_are_tried(
    endpoint: Endpoint, names: dict[str, list[list[str]]]
) -> None:
    port = URL(endpoint.url).port
    names["both.example"] = [["::1", "127.0.0.1"]]
    async with Outgoing(networks("127.0.0.1")) as outgoing:
        assert (await outgoing.request("GET", URL(f"http://both.example:{port}/"))).status == 200
        assert await outgoing.resolve("both.example", 1) == "127.0.0.1"
    async with Outgoing() as outgoing:
        with pytest.raises(Forbidden):
            await outgoing.request("GET", URL(f"http://both.example:{port}/"))


async def test_a_name_that_does_not_resolve_is_unreachable(names: dict[str, list[list[str]]]) -> None:
    names["nowhere.example"] = [[]]
    async with Outgoing() as outgoing:
        with pytest.raises(Unreachable):
            await outgoing.request("GET", URL("http://nowhere.example/"))
        with pytest.raises(Unreachable, match=r"nowhere\.example cannot be resolved"):
            await outgoing.resolve("nowhere.example", 1)
        with pytest.raises(Unreachable):
            await outgoing.resolve("x" * 300, 1)


async def test_redirects_are_not_followed(endpoint: Endpoint, outgoing: Outgoing) -> None:
    async with serving(Endpoint()) as elsewhere:
        endpoint.status, endpoint.answer_headers = lambda _: 307, {"Location": elsewhere.url}
        assert (await outgoing.request("GET", URL(endpoint.url))).status == 307
        assert elsewhere.path == ""


async def test_proxies_of_the_environment_and_cookies_are_not_used(
    endpoint: Endpoint, outgoing: Outgoing, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    endpoint.answer_headers = {"Set-Cookie": "a=b"}
    for _ in range(2):
        assert (await outgoing.request("GET", URL(endpoint.url))).status == 200
        assert "Cookie" not in endpoint.headers


async def test_only_so_much_of_an_answer_is_read(endpoint: Endpoint) -> None:
    endpoint.body = b"x" * 1_000_000
    async with Outgoing(networks("127.0.0.1"), max_response=1000) as outgoing:
        for _ in range(2):
            response = await outgoing.request("GET", URL(endpoint.url))
            assert (response.status, response.body, response.complete) == (200, b"x" * 1000, False)
        endpoint.body = b"x" * 1000
        assert (await outgoing.request("GET", URL(endpoint.url))).complete


async def test_compressed_answers_are_not_blown_up(endpoint: Endpoint, outgoing: Outgoing) -> None:
    endpoint.body, endpoint.answer_headers = b"not gzip", {"Content-Encoding": "gzip"}
    assert (await outgoing.request("GET", URL(endpoint.url))).body == b"not gzip"


@pytest.fixture
async def mute() -> AsyncIterator[URL]:
    """A server that accepts and says what it is told, slowly."""

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n")
            while await reader.read(100):
                writer.write(b"x")
        finally:
            writer.close()

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    yield URL(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/")
    server.close()
    await server.wait_closed()


async def test_an_answer_that_does_not_come_to_an_end_is_given_up(mute: URL) -> None:
    async with Outgoing(networks("127.0.0.1"), deadline=0.1) as outgoing:
        with pytest.raises(Unreachable, match="no answer within"):
            await outgoing.request("GET", mute)


async def test_who_does_not_listen_or_does_not_speak_http_is_unreachable(outgoing: Outgoing) -> None:
    async def babble(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 smtp.example ESMTP\r\n")
        writer.close()

    server = await asyncio.start_server(babble, "127.0.0.1", 0)
    url = URL(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/")
    with pytest.raises(Unreachable, match="the request failed"):
        await outgoing.request("GET", url)
    server.close()
    await server.wait_closed()
    with pytest.raises(Unreachable, match="no connection: Connection refused"):
        await outgoing.request("GET", url)


@pytest.mark.parametrize("url", ["http://u:p@127.0.0.1/", "http://u@127.0.0.1/", "ftp://127.0.0.1/", "/path"])
async def test_urls_with_credentials_or_of_other_schemes_are_a_mistake_of_ours(outgoing: Outgoing, url: str) -> None:
    with pytest.raises(ValueError, match="without credentials"):
        await outgoing.request("GET", URL(url))

"""What comes over the wire: whom it is for, from which page, how large, how slow; and how the listener stops."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Self

import aiohttp
import pytest

from provserver.admin.console.console import Console
from provserver.admin.listener import AdminListener
from provserver.admin.messages import Request, Response
from provserver.core.authorization import Role
from provserver.errors import Misconfigured
from tests.admin.conftest import PASSWORD, Caller, Site
from tests.conftest import Space


class Wire:
    """A connection that sends what it is told, byte by byte."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    @asynccontextmanager
    async def open(cls, site: Site) -> AsyncIterator[Self]:
        reader, writer = await asyncio.open_connection("127.0.0.1", int(site.url.rpartition(":")[2]))
        try:
            yield cls(reader, writer)
        finally:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()

    async def ask(self, data: bytes) -> tuple[int, bytes]:
        """The status, and all that comes until the listener closes or the body is there."""
        self.writer.write(data)
        head = await self.reader.readuntil(b"\r\n\r\n")
        length = next(
            (int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length")), 0
        )
        return int(head.split()[1]), await self.reader.readexactly(length)


async def signed_in(site: Site) -> tuple[str, str]:
    """The cookie and the CSRF token of an admin's session."""
    services = site.api.services
    _, link = await services.users.invite(site.operator, "ada@example.com", Role.ADMIN)
    await services.users.accept_invitation(link, PASSWORD)
    answer = await site.nobody("POST", "/session", {"email": "ada@example.com", "password": PASSWORD})
    assert answer.status == 201, answer.body
    return answer.headers["Set-Cookie"].partition(";")[0], answer.json["csrfToken"]


@pytest.mark.parametrize(
    ("host", "accepted"),
    [
        ("localhost", True),
        ("LOCALHOST.", True),
        ("localhost:8081", True),
        ("127.0.0.1", True),
        ("127.0.0.2:99", True),
        ("[::1]:8081", True),
        ("admin.example.com", True),
        ("other.example.com:8081", True),
        ("example.com", False),
        ("attacker.example.com.localhost.evil", False),
        ("127.0.0.1.nip.io", False),
        ("192.0.2.1", False),
        ("localhost@evil.example", False),
        ("", False),
    ],
)
async def test_only_requests_for_our_names_are_answered(
    space: Space, tmp_path: Path, host: str, accepted: bool
) -> None:
    async with Site.open(space, tmp_path, hosts="admin.example.com, Other.example.com") as site:
        async with Wire.open(site) as wire:
            status, body = await wire.ask(f"GET /api/admin/openapi.json HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
        assert status == (200 if accepted else 421), body
        assert accepted or b"admin_hosts" in body


async def test_a_request_without_a_host_or_with_two_is_refused(site: Site) -> None:
    for head in ("", "Host: localhost\r\nHost: localhost\r\n"):
        async with Wire.open(site) as wire:
            status, _ = await wire.ask(f"GET /api/admin/session HTTP/1.1\r\n{head}\r\n".encode())
        assert status in (400, 421)


async def test_every_answer_says_how_careful_to_be(site: Site, admin: Caller) -> None:
    for answer in (
        await site.nobody("GET", "/session"),
        await admin("GET", "/session"),
        await site.nobody("GET", "/docs"),
        await site.nobody("GET", "/nothing"),
        await admin("GET", "/organizations", headers={"Host": "evil.example"}),
    ):
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["X-Frame-Options"] == "DENY"
        assert answer.headers["Cache-Control"] == "no-store"
        assert answer.headers["Content-Security-Policy"].startswith("default-src 'none'")
        assert "Access-Control-Allow-Origin" not in answer.headers
        assert answer.headers["Server"] == "provserver"


async def test_a_session_needs_its_csrf_token_to_change_something(site: Site) -> None:
    cookie, csrf = await signed_in(site)
    asks = site.nobody
    body = {"name": "wifi-sensor"}

    assert (await asks("GET", "/profiles", headers={"Cookie": cookie})).status == 200
    for wrong in ({}, {"X-CSRF-Token": ""}, {"X-CSRF-Token": "0" * 64}, {"X-CSRF-Token": "ÿ"}):
        refused = await asks("POST", "/profiles", body, headers={"Cookie": cookie, **wrong})
        assert (refused.status, refused.code) == (403, "csrf_token_wrong")
    made = await asks("POST", "/profiles", body, headers={"Cookie": f"a=b; {cookie}; c=d", "X-CSRF-Token": csrf})
    assert made.status == 201

    out = await asks("DELETE", "/session", headers={"Cookie": cookie, "X-CSRF-Token": csrf})
    assert out.status == 204
    assert "Max-Age=0" in out.headers["Set-Cookie"]
    assert (await asks("GET", "/profiles", headers={"Cookie": cookie})).code == "unauthenticated"


async def test_a_cookie_is_for_our_own_pages_alone(site: Site, space: Space, tmp_path: Path) -> None:
    await signed_in(site)
    body = {"email": "ada@example.com", "password": PASSWORD}
    answer = await site.nobody("POST", "/session", body)
    assert answer.headers["Set-Cookie"].endswith("; Path=/; HttpOnly; SameSite=Strict")
    told = {"X-Forwarded-Proto": "https", "X-Forwarded-For": "198.51.100.7, 192.0.2.7, 127.0.0.9"}
    assert not (await site.nobody("POST", "/session", body, told)).headers["Set-Cookie"].endswith("; Secure")
    async with Site.open(space, tmp_path, proxies="127.0.0.0/8, ::1") as behind_tls:
        answer = await behind_tls.nobody("POST", "/session", body, told)
        assert answer.headers["Set-Cookie"].endswith("; Secure")
    addresses = await space.rows("SELECT detail->>'address' FROM audit WHERE action = 'user.signed_in' ORDER BY at, id")
    assert [address for (address,) in addresses] == ["127.0.0.1"] * 3 + ["192.0.2.7"]


async def test_other_sites_pages_change_nothing(admin: Caller) -> None:
    for from_ in ("cross-site", "same-site"):
        refused = await admin("POST", "/profiles", {"name": "x"}, headers={"Sec-Fetch-Site": from_})
        assert (refused.status, refused.code) == (403, "forbidden")
    made = await admin("POST", "/profiles", {"name": "x"}, headers={"Sec-Fetch-Site": "same-origin"})
    assert made.status == 201


@pytest.mark.parametrize(
    ("origin", "host", "accepted"),
    [
        ("http://localhost:8081", "localhost:8081", True),
        ("HTTPS://Localhost", "localhost", True),  # TLS ends before us
        ("https://localhost", "localhost:443", True),
        ("http://localhost:80", "localhost", True),
        ("http://localhost:8082", "localhost:8081", False),
        ("http://evil.example", "localhost", False),
        ("http://localhost.evil.example", "localhost", False),
        ("null", "localhost", False),
        ("", "localhost", False),
        ("ftp://localhost", "localhost", False),
    ],
)
async def test_an_origin_is_that_of_our_pages(site: Site, origin: str, host: str, accepted: bool) -> None:
    await signed_in(site)
    headers = {"Origin": origin, "Host": host}
    answer = await site.nobody("POST", "/session", {"email": "ada@example.com", "password": PASSWORD}, headers)
    assert answer.status == (201 if accepted else 403), answer.body
    assert (await site.nobody("GET", "/openapi.json", headers=headers)).status == 200
    admin = await site.caller()
    assert (await admin("POST", "/profiles", {"name": "x"}, headers)).status == 201  # no browser adds a key


async def test_a_body_says_what_it_is(site: Site) -> None:
    body = b'{"email":"ada@example.com","password":"x"}'
    for more, status in (("", 415), ("Content-Type: text/plain\r\n", 415), ("Content-Type: application/json\r\n", 401)):
        async with Wire.open(site) as wire:
            head = f"POST /api/admin/session HTTP/1.1\r\nHost: localhost\r\n{more}Content-Length: {len(body)}\r\n\r\n"
            assert (await wire.ask(head.encode() + body))[0] == status


async def test_a_key_goes_before_a_cookie(site: Site) -> None:
    cookie, _ = await signed_in(site)
    answer = await site.nobody("GET", "/session", headers={"Cookie": cookie, "Authorization": "Bearer psk_wrong"})
    assert answer.code == "unauthenticated"


async def test_what_is_too_large_is_not_read(space: Space, tmp_path: Path) -> None:
    async with Site.open(space, tmp_path, timeout=1.0) as site:
        head = (
            "POST /api/admin/users HTTP/1.1\r\nHost: localhost\r\n"
            f"Authorization: Bearer {(await site.caller()).key}\r\nContent-Type: application/json\r\n"
        )
        async with Wire.open(site) as wire:
            status, body = await wire.ask(f"{head}Content-Length: 1048577\r\n\r\n".encode())
            assert (status, b"too_large" in body) == (413, True)
            assert await wire.reader.read() == b""
        chunk = b"%x\r\n%s\r\n" % (600_000, b" " * 600_000)
        async with Wire.open(site) as wire:
            status, body = await wire.ask(f"{head}Transfer-Encoding: chunked\r\n\r\n".encode() + chunk * 2)
            assert (status, b"too_large" in body) == (413, True)


async def test_nobody_sends_a_large_body_who_is_not_known(space: Space, tmp_path: Path) -> None:
    async with Site.open(space, tmp_path, timeout=1.0) as site, Wire.open(site) as wire:
        status, _ = await wire.ask(
            b"POST /api/admin/devices/import?profile=x HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/csv\r\n"
            b"Content-Length: 30000000\r\n\r\n"
        )
        assert status == 401
        assert await wire.reader.read() == b""


async def test_who_waits_to_be_told_to_go_on_is_told(site: Site, admin: Caller) -> None:
    async with Wire.open(site) as wire:
        wire.writer.write(
            f"POST /api/admin/profiles HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {admin.key}\r\n"
            "Content-Type: application/json\r\nContent-Length: 12\r\nExpect: 100-continue\r\n\r\n".encode()
        )
        assert (await wire.reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 100")
        status, _ = await wire.ask(b'{"name":"x"}')
        assert status == 201


async def test_a_slow_body_and_a_silent_connection_are_cut(space: Space, tmp_path: Path) -> None:
    async with Site.open(space, tmp_path, timeout=0.5) as site:
        admin = await site.caller()
        async with Wire.open(site) as silent, Wire.open(site) as slow:
            status, body = await slow.ask(
                f"POST /api/admin/profiles HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {admin.key}\r\n"
                "Content-Type: application/json\r\nContent-Length: 12\r\n\r\n{".encode()
            )
            assert (status, b"body_timeout" in body) == (408, True)
            for wire in (slow, silent):
                with suppress(ConnectionResetError):
                    assert await wire.reader.read() == b""


async def test_what_is_not_http_is_not_quoted(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    async with Wire.open(site) as wire:
        status, body = await wire.ask(b"psk_secret this is not HTTP\r\n\r\n")
    assert status == 400
    assert b"psk_secret" not in body
    assert "psk_secret" not in caplog.text


async def test_nothing_secret_is_logged(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "provserver")
    cookie, csrf = await signed_in(site)
    admin = await site.caller()
    await admin("POST", "/static-tokens/claim", {"qr": "sqr_secret"})
    await site.nobody("GET", "/session?link=secret-in-a-query", headers={"Cookie": cookie})
    for secret in (cookie.partition("=")[2], csrf, PASSWORD, admin.key or "", "sqr_secret", "secret-in-a-query"):
        assert secret not in caplog.text


async def test_requests_in_any_form_of_their_target(site: Site, admin: Caller) -> None:
    for target in ("/api/admin/session", "http://localhost/api/admin/session", "/api/admin/%73ession"):
        async with Wire.open(site) as wire:
            status, _ = await wire.ask(
                f"GET {target} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {admin.key}\r\n\r\n".encode()
            )
        assert status == 200, target


async def test_head_is_get_without_the_body(site: Site) -> None:
    async with site.session.head(f"{site.url}/api/admin/openapi.json") as answer:
        assert answer.status == 200
        assert await answer.read() == b""


async def test_an_answer_that_fails_half_way_breaks_off(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    async def parts() -> AsyncIterator[bytes]:
        yield b"a part"
        raise ValueError

    async def call(_: Request) -> Response:
        return Response(200, {"Content-Type": "text/csv"}, parts())

    monkeypatch.setattr(site.api, "call", call)
    with pytest.raises(aiohttp.ClientError):
        await site.nobody("GET", "/static-tokens/export.csv")


async def test_the_listener_stops_when_it_has_answered(space: Space, tmp_path: Path) -> None:
    async with Site.open(space, tmp_path) as site:
        admin = await site.caller()
        url = f"{site.url}/api/admin/events"
        async with site.session.get(url, headers={"Authorization": f"Bearer {admin.key}"}) as feed:
            assert (await feed.content.readline()).startswith(b":")
            await site.listener.stop(60)
            while await feed.content.readline():
                pass
        with pytest.raises(aiohttp.ClientConnectionError):
            await site.nobody("GET", "/session")


async def test_who_does_not_read_holds_nobody_up(space: Space, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    grace, ended = 6.0, asyncio.Event()  # so long that a stall of the machine is no second wait

    async def endless() -> AsyncIterator[bytes]:
        try:
            while True:
                yield bytes(1 << 20)
        finally:
            ended.set()

    async def call(_: Request) -> Response:
        return Response(200, {"Content-Type": "text/csv"}, endless())

    async with Site.open(space, tmp_path) as site, Wire.open(site) as wire:
        monkeypatch.setattr(site.api, "call", call)
        wire.writer.write(b"GET /api/admin/static-tokens/export.csv HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await wire.reader.readuntil(b"\r\n\r\n")
        begun = asyncio.get_running_loop().time()
        await site.listener.stop(grace)
        assert asyncio.get_running_loop().time() - begun < 2 * grace  # once, not for each of two waits
        await ended.wait()


async def test_the_first_start_leaves_a_link_to_set_the_server_up(site: Site, tmp_path: Path) -> None:
    file = tmp_path / "setup-link"
    link = file.read_text().strip()
    page, _, token = link.partition("#")
    assert page == f"{site.url}/set-up"
    assert file.stat().st_mode & 0o777 == 0o600

    async with site.session.get(page) as answer:
        assert answer.status == 200
        assert "unsafe" not in answer.headers["Content-Security-Policy"]
    body = {"link": token, "email": "ada@example.com", "password": PASSWORD}
    user = await site.nobody.ok("POST", "/setup", body)
    assert user["role"] == "admin"
    assert (await site.nobody("POST", "/setup", body)).status == 404
    assert not file.exists()


def test_proxies_are_addresses(site: Site) -> None:
    with pytest.raises(Misconfigured, match="proxies"):
        AdminListener(site.api, Console(site.api, ()), proxies="proxy.example.com")

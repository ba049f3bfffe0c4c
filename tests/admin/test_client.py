import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from cryptography import x509

from provserver import errors
from provserver.admin import client
from provserver.admin.client import Client
from tests.pki import Authority

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Served:
    """A server that answers every request as it is told, and keeps the last."""

    def __init__(self) -> None:
        self.url = ""
        self.seen: list[tuple[str, str, str, bytes]] = []
        self.answer: Handler | web.Response = web.json_response({})

    async def handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        self.seen.append((request.method, request.raw_path, request.headers.get("authorization", ""), body))
        return await self.answer(request) if callable(self.answer) else self.answer

    def problem(self, status: int, headers: dict[str, str] | None = None, **members: object) -> None:
        self.answer = web.Response(
            status=status, body=json.dumps(members).encode(), content_type=client.PROBLEM, headers=headers
        )


async def serve(stack: AsyncExitStack, context: ssl.SSLContext | None = None) -> Served:
    served = Served()
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", served.handle)
    runner = web.AppRunner(application)
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context)
    await site.start()
    served.url = f"http{'s' if context else ''}://127.0.0.1:{runner.addresses[0][1]}"
    return served


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as stack:
        yield stack


@pytest.fixture
async def served(stack: AsyncExitStack) -> Served:
    return await serve(stack)


@pytest.fixture
async def api(served: Served, stack: AsyncExitStack) -> Client:
    return await stack.enter_async_context(client.on_server(served.url, "psk_k"))


async def test_a_call_sends_and_reads_json(api: Client, served: Served) -> None:
    served.answer = web.json_response({"a": "ü"})

    query = {"x": "a&b ü", "none": None, "flag": True, "many": ["1", "2"]}
    answer = await api.call("PATCH", client.path("devices", "a/b %ü"), query=query, body={"n": 10**30, "t": "ü"})

    assert answer == {"a": "ü"}
    ((method, target, key, body),) = served.seen
    assert (method, key) == ("PATCH", "Bearer psk_k")
    assert target == "/api/admin/devices/a%2Fb%20%25%C3%BC?x=a%26b+%C3%BC&flag=true&many=1&many=2"
    assert json.loads(body) == {"n": 10**30, "t": "ü"}


async def test_an_empty_answer_is_none(api: Client, served: Served) -> None:
    served.answer = web.Response(status=204)

    assert await api.call("DELETE", "/x") is None


@pytest.mark.parametrize("odd", ["\udcff", "a\ud800"], ids=ascii)
async def test_what_is_no_text_is_refused_here(api: Client, served: Served, odd: str) -> None:
    with pytest.raises(errors.Invalid, match="UTF-8"):
        await api.call("POST", "/x", body={"name": odd})
    with pytest.raises(errors.Invalid, match="UTF-8"):
        await api.call("GET", "/x", query={"name": odd})
    with pytest.raises(errors.Invalid, match="UTF-8"):
        client.path("devices", odd)
    assert served.seen == []


@pytest.mark.parametrize(
    ("code", "status", "kind"),
    [
        ("refused", 422, errors.Refused),
        ("not_found", 404, errors.NotFound),
        ("invalid", 422, errors.Invalid),
        ("malformed", 400, errors.Invalid),
        ("unauthenticated", 401, errors.Unauthenticated),
        ("forbidden", 403, errors.Forbidden),
        ("conflict", 409, errors.Conflict),
        ("stale", 412, errors.Stale),
        ("precondition_failed", 412, errors.Stale),
        ("too_large", 413, errors.Refused),
        ("too_many_requests", 429, errors.TooManyRequests),
        ("misconfigured", 500, errors.Misconfigured),
        ("internal", 500, errors.Unavailable),
        ("unavailable", 503, errors.Unavailable),
    ],
)
async def test_a_problem_is_the_error_that_it_was(
    api: Client, served: Served, code: str, status: int, kind: type[Exception]
) -> None:
    served.problem(status, code=code, detail="Do this.", headers={"Retry-After": "7"}, errors=[{"row": 2}])

    with pytest.raises(kind, match=r"^Do this\.$") as raised:
        await api.call("GET", "/x")
    assert type(raised.value) is kind
    if isinstance(raised.value, errors.Invalid):
        assert raised.value.errors == [{"row": 2}]
    if isinstance(raised.value, errors.TooManyRequests):
        assert raised.value.retry_after == 7


def test_every_refusal_has_a_code_that_leads_back_to_it() -> None:
    def below(kind: type[errors.Refused]) -> set[type[errors.Refused]]:
        return {kind}.union(*map(below, kind.__subclasses__()))

    found = {kind for kind in below(errors.Refused) if kind.__module__ == "provserver.errors"}
    assert found == {*client.FAULTS.values(), errors.TooManyRequests}


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (web.Response(text="<html>"), errors.Misconfigured),
        (web.Response(status=404, text="<html>"), errors.Misconfigured),
        (web.Response(status=404, body=b"[", content_type=client.PROBLEM), errors.Misconfigured),
        (web.Response(status=502, text="<html>"), errors.Unavailable),
        (web.Response(status=302, headers={"Location": "http://192.0.2.1/"}), errors.Misconfigured),
    ],
    ids=["text", "404", "no problem", "502", "redirect"],
)
async def test_what_is_no_admin_api_is_told(stack: AsyncExitStack, answer: Any, kind: type[Exception]) -> None:
    served = await serve(stack)
    api = await stack.enter_async_context(client.on_server(served.url, "k"))
    served.answer = answer

    with pytest.raises(kind) as raised:
        await api.call("GET", "/x")
    assert "<html>" not in str(raised.value)


async def test_a_server_that_is_not_there_is_unavailable() -> None:
    async with client.on_server("http://127.0.0.1:1", "psk_k") as api:
        with pytest.raises(errors.Unavailable, match=r"^http://127\.0\.0\.1:1 cannot be reached: ") as raised:
            await api.call("GET", "/x")
    assert "psk_k" not in str(raised.value)


async def test_a_list_is_fetched_a_page_at_a_time(api: Client, served: Served) -> None:
    async def page(request: web.Request) -> web.Response:
        first = int(request.query.get("cursor", 0))
        rows = range(first, min(first + int(request.query["limit"]), 1203))
        return web.json_response(
            {"items": [{"n": n} for n in rows], "nextCursor": str(rows.stop) if rows.stop < 1203 else None}
        )

    served.answer = page

    assert [item["n"] async for item in api.items("/x")] == list(range(1203))
    assert len(served.seen) == 3
    assert [item["n"] async for item in api.items("/x", query={"y": 1}, limit=501)] == list(range(501))
    assert [target for _, target, _, _ in served.seen[3:]] == [
        "/api/admin/x?y=1&limit=500",
        "/api/admin/x?y=1&limit=1&cursor=500",
    ]


async def test_a_file_is_sent_as_it_is_read(api: Client, served: Served) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for n in range(1000):
            yield b"%d\n" % n

    await api.upload("/import", chunks(), query={"profile": "p"})

    ((method, target, _, body),) = served.seen
    assert (method, target) == ("POST", "/api/admin/import?profile=p")
    assert body == b"".join(b"%d\n" % n for n in range(1000))


async def test_a_download_that_breaks_off_has_no_end(api: Client, served: Served) -> None:
    async def broken(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"some")
        assert request.transport is not None
        request.transport.abort()
        return response

    served.answer = broken

    with pytest.raises(errors.Unavailable, match="broke off"):
        _ = [chunk async for chunk in api.stream("/x", query={}, accept="text/csv")]


async def test_a_download_that_is_refused_is_an_error(api: Client, served: Served) -> None:
    served.problem(403, code="forbidden", detail="No.")

    with pytest.raises(errors.Forbidden, match="No"):
        _ = [chunk async for chunk in api.stream("/x", query={}, accept="text/csv")]


@pytest.mark.parametrize(
    ("end", "kind"),
    [
        ({"state": "failed", "error": "Why.", "result": None}, errors.Refused),
        ({"state": "failed", "error": "Why.", "result": {"errors": [{"row": 3}]}}, errors.Invalid),
        ({"state": "cancelled", "error": None, "result": None}, errors.Refused),
    ],
)
async def test_a_job_that_fails_is_an_error(
    api: Client, served: Served, end: dict[str, object], kind: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "POLL_INTERVAL", 0)
    job = {"id": "1", "state": "running", "done": 0, "total": None}
    served.answer = web.json_response(job | {"done": 1, "total": 2} | end)

    with pytest.raises(kind, match=r"Why\.|cancelled") as raised:
        await api.finished(job, lambda _, __: None)
    assert type(raised.value) is kind


async def test_a_job_is_waited_for(api: Client, served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "POLL_INTERVAL", 0)
    job = {"id": "1", "state": "running", "done": 0, "total": None}
    told: list[tuple[int, int | None]] = []

    async def poll(_: web.Request) -> web.Response:
        done = len(served.seen)
        state = {"state": "done", "result": {"n": 1}} if done == 3 else {}
        return web.json_response(job | {"done": done, "total": 3} | state)

    served.answer = poll

    assert await api.finished(job, lambda done, total: told.append((done, total))) == {"n": 1}
    assert told == [(1, 3), (2, 3), (3, 3)]
    assert {target for _, target, _, _ in served.seen} == {"/api/admin/jobs/1"}


async def test_a_certificate_must_be_trusted(
    stack: AsyncExitStack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = Authority.root()
    leaf = root.leaf("server", san=[x509.IPAddress(ip_address("127.0.0.1"))])
    certificate, key = leaf.write(tmp_path)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    served = await serve(stack, context)
    async with client.on_server(served.url, "k") as api:
        with pytest.raises(errors.Misconfigured, match="SSL_CERT_FILE"):
            await api.call("GET", "/x")
    assert served.seen == []

    (tmp_path / "root.pem").write_text(root.pem)
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "root.pem"))
    async with client.on_server(served.url, "k") as api:
        assert await api.call("GET", "/x") == {}

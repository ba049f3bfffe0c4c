import asyncio
from typing import Any, Never
from uuid import UUID

import msgspec
import pytest

from provserver.admin.api import Api, Request
from provserver.admin.fields import Body, PageQuery, Query
from provserver.admin.problem import KINDS
from provserver.admin.route import MAX_JSON, Access, Call, Content, Reply, read_json, route
from provserver.core.authorization import OPERATOR, Principal
from provserver.errors import Unavailable
from tests.admin.conftest import Caller, Site

KEY = "4d7ae2f0-9bb0-4a43-9e8c-1e1a4c9f24aa"


async def call(site: Site, method: str, path: str, body: object = None, **more: object) -> tuple[int, object]:
    """As the command line calls it that has the database."""
    data = b"" if body is None else msgspec.json.encode(body)
    response = await site.api.call(Request(method, "/api/admin" + path, body=data, principal=site.operator, **more))  # type: ignore[arg-type]
    assert isinstance(response.body, bytes)
    return response.status, msgspec.json.decode(response.body) if response.body else None


async def test_the_operator_needs_no_credentials_and_no_socket(site: Site) -> None:
    status, made = await call(site, "POST", "/profiles", {"name": "wifi sensor/ü"})
    assert (status, made["name"]) == (201, "wifi sensor/ü")  # type: ignore[index]
    status, shown = await call(site, "GET", "/profiles/wifi%20sensor%2F%C3%BC")
    assert (status, shown["id"]) == (200, made["id"])  # type: ignore[index]
    assert await site.space.value("SELECT actor FROM audit WHERE action = 'profile.created'") == OPERATOR


async def test_what_is_broken_is_the_operators_to_see_and_nobody_elses(
    site: Site, admin: Caller, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken(*_: object, **__: object) -> None:
        raise LookupError("inner workings")

    monkeypatch.setattr(type(site.api.services.organizations), "list_", broken)
    with pytest.raises(LookupError):
        await call(site, "GET", "/organizations")
    answer = await admin("GET", "/organizations")
    assert (answer.status, answer.code) == (500, "internal")
    assert b"inner workings" not in answer.body
    assert "GET /api/admin/organizations failed" in caplog.text


async def test_a_database_that_is_away_is_told(site: Site, admin: Caller, monkeypatch: pytest.MonkeyPatch) -> None:
    async def away(*_: object, **__: object) -> None:
        raise Unavailable("Postgres is not available.")

    monkeypatch.setattr(type(site.api.services.organizations), "list_", away)
    answer = await admin("GET", "/organizations")
    assert (answer.status, answer.code) == (503, "unavailable")
    assert 5 <= int(answer.headers["Retry-After"]) <= 10


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nothing", 404, "not_found"),
        ("GET", "/", 404, "not_found"),
        ("GET", "/profiles/", 404, "not_found"),
        ("GET", "/profiles/%00", 404, "not_found"),
        ("GET", "/profiles/%FF", 404, "not_found"),
        ("GET", "/profiles/" + "x" * 256, 404, "not_found"),
        ("GET", "/jobs/1", 404, "not_found"),
        ("PUT", "/profiles", 405, "method_not_allowed"),
        ("DELETE", "/static-tokens/claim", 405, "method_not_allowed"),
    ],
)
async def test_what_is_not_there(admin: Caller, method: str, path: str, status: int, code: str) -> None:
    answer = await admin(method, path.replace("%", "%25") if False else path)
    assert (answer.status, answer.code) == (status, code)
    if status == 405:
        assert answer.headers["Allow"] in ("GET, POST", "POST")


@pytest.mark.parametrize(
    "query",
    [
        "limit=0",
        "limit=501",
        "limit=x",
        "limit=1.0",
        "limit=1&limit=2",
        "cursor=x",
        "other=1",
        "limit",
        "%FF=1",
        "limit=01",
    ],
)
async def test_a_query_is_as_it_is_described(site: Site, query: str) -> None:
    status, problem = await call(site, "GET", "/users", query=query)
    assert (status, problem["code"]) == (400, "malformed")  # type: ignore[index]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'{"name":"x","other":1}',
        b'{"name":1}',
        b'{"name":""}',
        b'{"name":"\\u0000"}',
        b"\xff",
    ],
)
async def test_a_body_is_as_it_is_described(site: Site, body: bytes) -> None:
    response = await site.api.call(Request("POST", "/api/admin/profiles", body=body, principal=site.operator))
    assert response.status == 400
    assert isinstance(response.body, bytes)
    assert msgspec.json.decode(response.body)["code"] == "malformed"


async def test_a_problem_says_where(site: Site) -> None:
    _, problem = await call(site, "POST", "/profiles", {"name": "x", "datastreams": [{"name": "t", "pin": "A1"}]})
    (error,) = problem["errors"]  # type: ignore[index]
    assert (error["in"], error["field"]) == ("body", "datastreams[0].pin")


@pytest.mark.parametrize("type_", ["text/plain", "application/xml", "application/json; charset=latin-1"])
async def test_a_body_of_another_type_is_refused(admin: Caller, type_: str) -> None:
    answer = await admin("POST", "/profiles", b'{"name":"x"}', headers={"Content-Type": type_})
    assert (answer.status, answer.code) == (415, "unsupported_media_type")


async def test_a_whole_number_may_have_a_point(admin: Caller) -> None:
    made = await admin.ok("POST", "/organizations", {"name": "x", "deviceQuota": 3.0})
    assert made["deviceQuota"] == 3
    assert (await admin("POST", "/organizations", {"name": "y", "deviceQuota": 3.5})).code == "malformed"


async def test_a_change_of_another_revision_is_refused(admin: Caller) -> None:
    made = await admin("POST", "/organizations", {"name": "Customer"})
    path, first = f"/organizations/{made.json['id']}", made.headers["ETag"]
    changed = await admin("PATCH", path, {"name": "Other"}, {"If-Match": first})
    assert changed.headers["ETag"] != first
    for method, body in (("PATCH", {"name": "Third"}), ("DELETE", None)):
        assert (await admin(method, path, body, {"If-Match": first})).code == "stale"
        assert (await admin(method, path, body, {"If-Match": "W/x"})).code == "malformed"
    assert (await admin("PATCH", path, {"name": "Third"}, {"If-Match": "*"})).status == 200
    assert (await admin("DELETE", path)).status == 200


async def test_a_repeated_request_makes_nothing_twice(site: Site, admin: Caller) -> None:
    body, headers = {"name": "more", "permissions": ["devices:view"]}, {"Idempotency-Key": KEY}
    first = await admin("POST", "/keys", body, headers)
    again = await admin("POST", "/keys", body, headers)
    assert (again.status, again.json, again.headers["Idempotent-Replayed"]) == (201, first.json, "true")
    assert first.json["secret"].startswith("psk_")
    assert (await admin("POST", "/keys", body | {"name": "x"}, headers)).code == "idempotency_key_reused"
    assert (await admin("POST", "/organizations", {"name": "x"}, headers)).code == "idempotency_key_reused"
    assert (await admin("POST", "/keys", body, {"Idempotency-Key": "short"})).code == "malformed"
    other = await site.caller()
    assert (await other("POST", "/organizations", {"name": "x"}, headers)).status == 201


async def test_of_repeats_at_once_one_makes_something(admin: Caller) -> None:
    body, headers = {"name": "Customer"}, {"Idempotency-Key": KEY}
    answers = await asyncio.gather(*(admin("POST", "/organizations", body, headers) for _ in range(4)))
    assert {answer.status for answer in answers} <= {201, 409}
    assert len({answer.json["id"] for answer in answers if answer.status == 201}) == 1
    listed = await admin.ok("GET", "/organizations")
    assert [each["name"] for each in listed["items"]] == ["Manufacturer", "Customer"]


async def test_what_was_refused_may_be_asked_again(admin: Caller) -> None:
    headers = {"Idempotency-Key": KEY}
    assert (await admin("POST", "/static-tokens", {"profile": "later"}, headers)).status == 404
    await admin.ok("POST", "/profiles", {"name": "later"})
    assert (await admin("POST", "/static-tokens", {"profile": "later"}, headers)).status == 201


def test_a_table_names_each_route_once(site: Site) -> None:
    with pytest.raises(ValueError, match="twice"):
        Api(site.api.services, [*site.api.routes, site.api.routes[0]])


def test_bodies_are_bounded() -> None:
    class Thing(Body, frozen=True):
        number: int

    async def make_thing(call: Call[PageQuery, Thing]) -> Reply[Thing]:
        """Make a thing."""
        return Reply(call.body)

    async def read_thing(_call: Call[None, bytes]) -> Content:
        """Read a thing."""
        return Content(b"", "text/plain")

    made = route("POST", "/things/{id}/of/{name}", Access.ANYONE, make_thing, creates=True)
    assert (made.summary, made.operation, made.tag, made.status) == ("Make a thing", "make_thing", "things", 201)
    assert (made.query, made.body, made.answer, made.max_body) == (PageQuery, Thing, Thing, MAX_JSON)
    assert made.parameters == ("id", "name")
    read = route("POST", "/things", Access.PUBLIC, read_thing)
    assert (read.query, read.body, read.answer, read.max_body) == (None, bytes, Content, 128 * MAX_JSON)
    assert read_json(b'{"number": 2.0}', Thing) == Thing(2)


def test_a_query_is_read_by_its_types() -> None:
    class Asked(Query, frozen=True):
        name: str
        count: int = 1
        really: bool = False
        ids: tuple[UUID, ...] = ()

    async def ask(_call: Call[Asked, None]) -> None:
        """Ask."""

    made = route("GET", "/things", Access.PUBLIC, ask)
    assert made.read_query("name=7&count=7&really=true") == Asked("7", 7, True)
    id_ = "01a2032b-eb30-7021-9532-16b65317106a"
    assert made.read_query(f"name=a%20b+c&ids={id_}&ids={id_}") == Asked("a b c", ids=(UUID(id_), UUID(id_)))
    assert made.status == 204


def test_every_code_of_a_route_is_known(site: Site) -> None:
    for each in site.api.routes:
        assert each.codes <= set(KINDS), each.path
        assert each.summary, each.path
    operations = [each.operation for each in site.api.routes]
    assert len(operations) == len(set(operations))


def test_an_operator_is_a_principal_like_others(site: Site) -> None:
    assert site.operator == Principal(OPERATOR, site.space.organization_id)


async def test_what_was_made_is_not_made_again_when_it_could_not_be_told(
    site: Site, admin: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    await admin.ok("POST", "/profiles", {"name": "p", "keyless": True})
    body, headers = {"profile": "p", "count": 3}, {"Idempotency-Key": KEY}

    async def away(*_: object, **__: object) -> Never:
        raise Unavailable("Postgres is away just now.")

    with monkeypatch.context() as patched:
        patched.setattr(site.api.services.tokens, "list_", away)
        first = await admin("POST", "/static-tokens", body, headers)
    assert (first.status, first.json["batch"]["count"], first.json["items"]) == (201, 3, [])
    assert (await admin("POST", "/static-tokens", body, headers)).json == first.json
    assert len((await admin.ok("GET", "/static-tokens"))["items"]) == 3

    make = site.api.services.tokens.make

    async def made_and_gone(*given: Any) -> Never:
        await make(*given)
        raise Unavailable("Postgres is away just now.")

    headers = {"Idempotency-Key": KEY + "-2"}
    with monkeypatch.context() as patched:
        patched.setattr(site.api.services.tokens, "make", made_and_gone)
        assert (await admin("POST", "/static-tokens", body, headers)).status == 503
    assert (await admin("POST", "/static-tokens", body, headers)).code == "idempotency_key_in_use"
    assert len((await admin.ok("GET", "/static-tokens"))["items"]) == 6


async def test_a_time_that_cannot_be_kept(admin: Caller) -> None:
    for time in ("9999-12-31T23:59:59-14:00", "0001-01-01T00:00:00+14:00"):
        body = {"name": "k", "permissions": ["devices:view"], "expiresAt": time}
        assert (await admin("POST", "/keys", body)).code == "invalid"


@pytest.mark.parametrize(
    "body",
    [
        b'{"name": "x", "name": "y"}',
        b'{"name": "x", "n\\u0061me": "y"}',
        b'{"name": "x", "metadataFields": [{"name": "a"}, {"name": "b", "type": "text", "type": "mac"}]}',
        b'{"name": "x", "\\ud800": 1, "\\ud800": 2}',
    ],
)
async def test_a_member_that_is_there_twice_is_malformed(admin: Caller, body: bytes) -> None:
    answer = await admin("POST", "/profiles", body, {"Content-Type": "application/json"})
    assert (answer.status, answer.code) == (400, "malformed")
    assert "twice" in answer.json["detail"]
    assert (await admin.ok("GET", "/profiles"))["items"] == []


async def test_equal_names_in_different_objects_are_fine(admin: Caller) -> None:
    fields = [{"name": "x", "default": '"name": "name"'}, {"name": "name"}]
    await admin.ok("POST", "/profiles", {"name": "x", "metadataFields": fields})


@pytest.mark.parametrize(
    "body", [b"[" * 100_000, b'{"name": ' + b"9" * 5_000 + b"}", b"\xef\xbb\xbf{", b"{", b"nonsense"]
)
async def test_what_is_no_json_is_malformed(admin: Caller, body: bytes) -> None:
    answer = await admin("POST", "/profiles", body, {"Content-Type": "application/json"})
    assert (answer.status, answer.code) == (400, "malformed")

"""What a page's handler is given: forms, who asks, the admin API, and ways to answer."""

from typing import Any
from urllib.parse import unquote

import aiohttp
import msgspec
import pytest
from yarl import URL

from provserver.admin.console.console import Console
from provserver.admin.console.page import (
    MAX_FIELDS,
    MAX_FORM,
    SAID,
    ApiProblem,
    Ask,
    Form,
    Page,
    page,
)
from provserver.admin.console.pages import PAGES
from provserver.admin.messages import Request, Response
from provserver.admin.problem import Malformed, TooLarge
from provserver.admin.route import Access
from provserver.core.authorization import Permission
from tests.admin.conftest import Site
from tests.admin.console.conftest import Visitor

FORM = "application/x-www-form-urlencoded"


@pytest.fixture
def console(site: Site) -> Console:
    return Console(site.api, PAGES)


def ask(console: Console, request: Request | None = None, **more: Any) -> Ask:
    """A request that is not looked at yet."""
    return Ask(console, request or Request("GET", "/"), "/", {}, more.pop("query", {}), **more)


def problem(**more: Any) -> Response:
    content = {"code": "malformed", "title": "Malformed", "detail": "The body: nonsense.", "status": 400} | more
    return Response(400, {"Retry-After": "3"}, msgspec.json.encode(content))


# --- forms


def test_fields_are_read_by_their_names() -> None:
    form = Form([("a", " first "), ("b", ""), ("a", " last "), ("n", " 12 "), ("password", " p w ")])

    assert (form["a"], form["b"], form["none"]) == ("last", "", "")
    assert form.all("a") == ["first", "last"]
    assert form.all("none") == []
    assert form.names() == ["a", "b", "n", "password"]
    assert ("b" in form, "none" in form) == (True, False)
    assert (form.optional("a"), form.optional("b"), form.optional("none")) == ("last", None, None)
    assert (form.raw("password"), form["password"]) == (" p w ", "p w")
    assert (form.number("n"), form.number("b"), Form([("n", "-7")]).number("n")) == (12, None, -7)


@pytest.mark.parametrize("text", ["1.5", "1e3", "x", "0x1", "+1", "1 2", "٣", "9" * 19])
def test_a_number_is_whole(text: str) -> None:
    with pytest.raises(Malformed) as fault:
        Form([("n", text)]).number("n")
    assert fault.value.errors == [{"in": "body", "field": "n", "reason": "a whole number"}]


async def test_a_form_is_read_once_with_line_ends_as_here(console: Console) -> None:
    asked = ask(console, Request("POST", "/", headers={"content-type": f"{FORM}; charset=utf-8"}, body=b"a=x%0D%0Ay&b"))

    form = await asked.form()

    assert (form["a"], form["b"]) == ("x\ny", "")
    assert await asked.form() is form


@pytest.mark.parametrize(
    "body",
    [b"a=%ff", b"\xff=1", b"&".join(b"a=1" for _ in range(MAX_FIELDS + 1))],
    ids=["value", "name", "fields"],
)
async def test_what_is_no_form_is_refused(console: Console, body: bytes) -> None:
    with pytest.raises(Malformed, match="name=value"):
        await ask(console, Request("POST", "/", headers={"content-type": FORM}, body=body)).form()


async def test_a_form_has_a_size(console: Console) -> None:
    with pytest.raises(TooLarge):
        await ask(console, Request("POST", "/", headers={"content-type": FORM}, body=b"a" * (MAX_FORM + 1))).form()


async def test_only_forms_are_taken_for_forms(visitor: Visitor) -> None:
    for kind in ("application/json", "text/plain", "multipart/form-data; boundary=x"):
        assert (await visitor.send("/organizations", b"name=x", kind)).status == 415


async def test_a_form_that_is_sent_twice_does_once_what_it_does(visitor: Visitor) -> None:
    once = "A" * 22
    sent = {"name": "Blue Farm", "parent": (await visitor.api("GET", "/session"))["organizationId"]}

    first = await visitor.post("/organizations", **sent, _once=once)
    second = await visitor.post("/organizations", **sent, _once=once)
    other = await visitor.post("/organizations", **sent, _once="B" * 22)
    odd = await visitor.post("/organizations", **sent, _once="short")

    assert first.location == second.location != ""
    assert (other.status, odd.status) == (409, 409)
    assert len((await visitor.api("GET", "/organizations", search="Blue Farm"))["items"]) == 1


# --- who asks


@pytest.mark.parametrize(
    ("host", "name"),
    [("example.com:8443", "example.com"), ("127.0.0.1", "127.0.0.1"), ("[::1]:8080", "::1"), ("[fe80::1]", "fe80::1")],
)
def test_the_host_is_without_port_and_brackets(console: Console, host: str, name: str) -> None:
    assert ask(console, Request("GET", "/", headers={"host": host})).host == name


def test_a_part_is_what_htmx_asks_for_and_has_not_forgotten(console: Console) -> None:
    def is_part(**headers: str) -> bool:
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        return ask(console, Request("GET", "/", headers=names)).is_part

    assert is_part(hx_request="true")
    assert not is_part()
    assert not is_part(hx_request="true", hx_history_restore_request="true")


def test_who_may(console: Console) -> None:
    session = {"permissions": ["devices:view"]}

    assert ask(console, session=session).may(Permission.DEVICES_VIEW)
    assert not ask(console, session=session).may(Permission.DEVICES_MANAGE)
    assert not ask(console).may(Permission.DEVICES_VIEW)


def test_a_page_that_is_not_for_everybody_has_a_session(console: Console) -> None:
    session: dict[str, Any] = {"permissions": []}

    assert ask(console, session=session).signed_in is session
    with pytest.raises(AssertionError):
        _ = ask(console).signed_in


def test_what_was_chosen_is_what_is_not_empty(console: Console) -> None:
    asked = ask(console, query={"search": " a ", "cursor": " ", "other": "x"})

    assert asked.chosen("search", "cursor", "none") == {"search": "a"}


def test_a_page_is_for_who_is_known_unless_it_says_otherwise() -> None:
    async def show(asked: Ask) -> Response:
        return asked.go("/")

    assert page("GET", "/x", show) == Page("GET", "/x", show, Access.ANYONE)
    assert page("GET", "/x", show, Permission.USERS_VIEW).access is Permission.USERS_VIEW


async def test_every_page_but_the_public_ones_needs_a_session(site: Site) -> None:
    """By each page of the table: so `signed_in` never meets somebody who is not."""
    async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as nobody:
        for each in PAGES:
            if each.access is Access.PUBLIC:
                continue
            path = each.path.replace("{", "").replace("}", "")
            async with nobody.request(each.method, site.url + path, allow_redirects=False) as answer:
                if each.method == "GET":
                    assert (answer.status, answer.headers["Location"].split("?")[0]) == (303, "/sign-in"), path
                else:
                    assert answer.status == 401, path


# --- the API


def test_a_problem_of_the_api_is_told_in_words() -> None:
    errors = [{"in": "body", "field": "name", "reason": "Expected `str` of length >= 1"}]

    told = ApiProblem.of(problem(errors=errors))

    assert (told.status, told.code, told.title, told.headers) == (400, "malformed", "Malformed", {"Retry-After": "3"})
    assert told.errors == [{"in": "body", "field": "name", "reason": "it must not be empty"}]
    assert told.detail == "A value cannot be read: mend it, and send it again."


def test_what_is_in_words_already_stays() -> None:
    errors = [{"in": "body", "field": "name", "reason": "the name is taken"}]

    assert ApiProblem.of(problem(errors=errors)).detail == "The body: nonsense."
    assert ApiProblem.of(problem(code="conflict", errors=None)).errors == []


async def test_the_api_is_asked_as_who_asks_for_the_page(console: Console, visitor: Visitor) -> None:
    jar = visitor.session.cookie_jar.filter_cookies(URL(visitor.url))
    cookie = "; ".join(f"{name}={each.value}" for name, each in jar.items())
    asked = ask(console, Request("GET", "/", headers={"cookie": cookie}))

    assert (await asked.api("GET", "/session"))["user"]["id"] == str(visitor.id)
    with pytest.raises(ApiProblem) as refused:
        await asked.api("GET", "/devices/nope")
    assert (refused.value.status, refused.value.code) == (404, "not_found")
    with pytest.raises(ApiProblem) as refused:
        await ask(console).api("GET", "/devices")
    assert refused.value.status == 401


# --- answers


def test_on_to_another_page(console: Console) -> None:
    asked = ask(console, base="/o/3")

    plain = asked.go("/users")
    said = asked.go("/users", said="Ada; 100 %")

    assert (plain.status, plain.headers) == (303, {"Location": "/o/3/users"})
    cookie, *attributes = said.headers["Set-Cookie"].split("; ")
    assert unquote(cookie.removeprefix(f"{SAID}=")) == "Ada; 100 %"
    assert attributes == ["Path=/", "HttpOnly", "SameSite=Strict", "Max-Age=30"]
    assert asked.leave("/sign-in").headers["Location"] == "/sign-in"


def test_on_to_another_page_from_a_part(console: Console) -> None:
    asked = ask(console, Request("POST", "/", headers={"hx-request": "true"}, secure=True))

    answer = asked.go("/users", said="x" * 10_000)

    assert (answer.status, answer.headers["HX-Redirect"]) == (200, "/users")
    assert answer.headers["Set-Cookie"].endswith("; Secure")
    assert len(answer.headers["Set-Cookie"]) < 1_000

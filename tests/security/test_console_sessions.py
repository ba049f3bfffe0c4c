"""What other sites, and whoever plants a cookie, can do to who is signed in to the console: nothing.

What holds for every page is generated from the table of pages, so that a new one is in it.
"""

import re
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from http.cookies import Morsel, SimpleCookie
from pathlib import Path
from urllib.parse import quote, urljoin, urlsplit

import pytest
from yarl import URL

from provserver.admin.api import COOKIE
from provserver.admin.console.page import Page
from provserver.admin.console.pages import PAGES
from provserver.admin.route import Access
from provserver.core.authorization import Role
from provserver.services import sign_in
from tests.admin.conftest import PASSWORD, Site
from tests.conftest import Space
from tests.services.conftest import contents

EMAIL = "ada@example.com"
NUMBER = "018f3b1e-0000-7000-8000-000000000001"

CHANGING = [page for page in PAGES if page.method != "GET"]
SHOWN = [page for page in PAGES if page.method == "GET"]

TOLD = {
    "X-Frame-Options": "DENY",
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
"""What every page tells browsers."""

ELSEWHERE = [
    "//evil.example",
    "//evil.example/%2f..",
    "///evil.example",
    "/\\evil.example",
    "/\\/evil.example",
    "\\\\evil.example",
    "https:evil.example",
    "https://evil.example",
    "http:/evil.example",
    "javascript:alert(1)",
    "data:text/html,x",
    "/%2f/evil.example",
    "/%5cevil.example",
    "/\t/evil.example",
    "\t//evil.example",
    " //evil.example",
    "/\r\nLocation: https://evil.example",
    "/\n/evil.example",
    "/\0/evil.example",
    "evil.example",
    "@evil.example",
    ".evil.example",
    "/@evil.example",
    "?next=//evil.example",
    "//[evil",
    "/\u2028/evil.example",
]


@dataclass(frozen=True)
class Answer:
    """What came back."""

    status: int
    headers: Mapping[str, str]
    cookies: SimpleCookie
    text: str

    @property
    def target(self) -> str:
        """Where it leads on to."""
        refresh = self.headers.get("Refresh", "").partition("url=")[2]
        return (
            self.headers.get("HX-Redirect") or self.headers.get("HX-Location") or self.headers.get("Location", refresh)
        )

    @property
    def token(self) -> str | None:
        """The session that it begins."""
        return self.cookies[COOKIE].value if COOKIE in self.cookies else None


@dataclass(frozen=True)
class Session:
    """Who is signed in."""

    token: str
    csrf: str


async def ask(
    site: Site,
    method: str,
    path: str,
    form: Mapping[str, str] | None = None,
    *,
    cookie: str = "",
    headers: Mapping[str, str] | None = None,
) -> Answer:
    """A request as it is written here: no cookie, header or redirect but these. Bodies are read of pages alone."""
    given = dict(headers or {})
    if cookie:
        given["Cookie"] = f"{COOKIE}={cookie}"
    url = URL(site.url + path, encoded=True)
    async with site.session.request(method, url, data=form, headers=given, allow_redirects=False) as response:
        page = response.headers.get("Content-Type", "").startswith("text/html")
        cookies: SimpleCookie = SimpleCookie()
        for each in response.headers.getall("Set-Cookie", []):
            cookies.load(each)
        return Answer(response.status, response.headers, cookies, await response.text() if page else "")


@pytest.fixture
async def site(space: Space, tmp_path: Path) -> AsyncIterator[Site]:
    async with Site.open(space, tmp_path) as opened:
        yield opened


async def person(site: Site, email: str = EMAIL, role: Role = Role.ADMIN) -> Session:
    """Somebody who has signed in on the page for it."""
    _, link = await site.api.services.users.invite(site.operator, email, role)
    await site.api.services.users.accept_invitation(link, PASSWORD)
    return await signed_in(site, email)


async def signed_in(site: Site, email: str = EMAIL) -> Session:
    answer = await ask(site, "POST", "/sign-in", {"email": email, "password": PASSWORD, "next": "/"})
    assert answer.token
    known = await site.nobody.ok("GET", "/session", headers={"Cookie": f"{COOKIE}={answer.token}"})
    return Session(answer.token, known["csrfToken"])


async def who(site: Site, token: str) -> str | None:
    """Whose session it is, if it is one."""
    answer = await site.nobody("GET", "/session", headers={"Cookie": f"{COOKIE}={token}"})
    return answer.json["user"]["email"] if answer.status == 200 else None


def placed(page: Page) -> str:
    """A path of a page, with something for its parameters."""
    return re.sub(r"\{[a-z_]+\}", NUMBER, page.path)


def called(page: Page) -> str:
    return f"{page.method} {page.path}"


def stays(site: Site, target: str) -> bool:
    """Whether a browser that is led there stays with us: it takes `\\` for `/`, and leaves out tabs and line ends."""
    read = re.sub(r"[\t\r\n]", "", target).replace("\\", "/")
    if read != target or not target.isascii() or not target.isprintable():
        return False
    return f"{site.url}/".startswith(
        f"{urlsplit(urljoin(site.url + '/sign-in', read))._replace(path='', query='', fragment='').geturl()}/"
    )


async def unaudited(site: Site) -> dict[str, object]:
    """All that is kept but the audit, which tells of exports too."""
    return {name: rows for name, rows in (await contents(site.space)).items() if not name.startswith("audit")}


# Session fixation


@pytest.mark.parametrize("planted", ["planted", "A" * 32, ""])
async def test_a_planted_cookie_never_becomes_a_session(site: Site, planted: str) -> None:
    await person(site)
    answer = await ask(site, "POST", "/sign-in", {"email": EMAIL, "password": PASSWORD}, cookie=planted)
    assert answer.token not in (None, "", planted)
    assert await who(site, planted) is None
    assert await who(site, answer.token or "") == EMAIL
    assert (await ask(site, "GET", "/account", cookie=planted)).target.startswith("/sign-in")


async def test_who_signs_in_with_the_attackers_session_has_one_of_his_own(site: Site) -> None:
    attacker = await person(site, "mallory@example.com", Role.USER)
    await person(site)
    answer = await ask(
        site,
        "POST",
        "/sign-in",
        {"email": EMAIL, "password": PASSWORD},
        cookie=attacker.token,
        headers={"X-CSRF-Token": attacker.csrf},
    )
    assert answer.token not in (None, attacker.token)
    assert await who(site, attacker.token) == "mallory@example.com"
    assert await who(site, answer.token or "") == EMAIL


async def test_each_sign_in_begins_another_session(site: Site) -> None:
    await person(site)
    sessions = [await signed_in(site) for _ in range(3)]
    assert len({each.token for each in sessions}) == len({each.csrf for each in sessions}) == 3


async def test_whoever_chooses_a_password_by_a_link_has_a_session_of_his_own(site: Site) -> None:
    users, operator = site.api.services.users, site.operator
    attacker = await person(site, "mallory@example.com", Role.USER)
    _, invitation = await users.invite(operator, EMAIL, Role.ADMIN)
    accepted = await ask(
        site, "POST", "/invitation", {"link": invitation, "password": PASSWORD, "name": ""}, cookie=attacker.token
    )
    reset = await users.reset_password(operator, EMAIL)
    chosen = await ask(
        site, "POST", "/password-reset", {"link": reset, "password": PASSWORD + "!"}, cookie=attacker.token
    )
    await site.api.services.organizations.create(operator, "Open", sign_up=True)
    number = (await site.api.services.organizations.show(operator, "Open")).number
    form = {"organization": str(number), "email": "new@example.com", "password": PASSWORD, "name": ""}
    signed_up = await ask(site, "POST", "/sign-up", form, cookie=attacker.token)
    for answer, email in ((chosen, EMAIL), (signed_up, "new@example.com")):
        assert answer.token not in (None, attacker.token)
        assert await who(site, answer.token or "") == email
    assert accepted.token not in (None, attacker.token, chosen.token)
    assert await who(site, accepted.token or "") is None  # a new password ends what was there
    assert await who(site, attacker.token) == "mallory@example.com"


async def test_the_first_user_has_a_session_of_his_own(site: Site, tmp_path: Path) -> None:
    link = (tmp_path / "setup-link").read_text().strip().partition("#")[2]
    form = {"link": link, "email": EMAIL, "password": PASSWORD, "name": "Ada"}
    answer = await ask(site, "POST", "/set-up", form, cookie="planted")
    assert answer.token not in (None, "", "planted")
    assert await who(site, answer.token or "") == EMAIL
    assert await who(site, "planted") is None


# Sessions end


async def test_who_signs_out_is_out(site: Site) -> None:
    session = await person(site)
    other = await signed_in(site)
    answer = await ask(site, "POST", "/sign-out", cookie=session.token, headers={"X-CSRF-Token": session.csrf})
    assert answer.target == "/sign-in"
    assert answer.cookies[COOKIE].value == ""
    assert answer.cookies[COOKIE]["max-age"] == "0"
    assert await who(site, session.token) is None
    assert (await ask(site, "GET", "/account", cookie=session.token)).target.startswith("/sign-in")
    again = await ask(site, "POST", "/sign-out", cookie=session.token, headers={"X-CSRF-Token": session.csrf})
    assert again.target == "/sign-in"
    assert await who(site, other.token) == EMAIL


# Other sites' pages


@pytest.fixture
def seldom_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    """When a session was seen last is no change, and is noted once a minute: a slow machine takes as long here."""
    monkeypatch.setattr(sign_in, "_NOTED_EVERY", timedelta(days=1))


@pytest.mark.usefixtures("seldom_noted")
async def test_nothing_is_changed_without_the_sessions_own_token(site: Site) -> None:
    session, other = await person(site), await person(site, "grace@example.com")
    before = await contents(site.space)
    form = {"_once": "A" * 22, "name": "changed", "confirm": "DELETE", "csrf": session.csrf}
    for page in CHANGING:
        if page.access is Access.PUBLIC and page.path != "/sign-out":
            continue
        for headers in (
            {},
            {"X-CSRF-Token": ""},
            {"X-CSRF-Token": "0" * 64},
            {"X-CSRF-Token": other.csrf},
            {"X-CSRF-Token": session.token},
            {"X-CSRF-Token": "\u00e9"},
            {"X-CSRF-Token": session.csrf, "Origin": "https://evil.example"},
            {"X-CSRF-Token": session.csrf, "Origin": "null"},
            {"X-CSRF-Token": session.csrf, "Origin": site.url, "Sec-Fetch-Site": "cross-site"},
            {"X-CSRF-Token": session.csrf, "Origin": site.url, "Sec-Fetch-Site": "same-site"},
        ):
            answer = await ask(site, page.method, placed(page), form, cookie=session.token, headers=headers)
            assert answer.status == 403, (called(page), headers)
            assert not answer.cookies, called(page)
        assert await contents(site.space) == before, called(page)


async def test_other_sites_sign_nobody_in(site: Site) -> None:
    await person(site)
    before = await contents(site.space)
    form = {"email": EMAIL, "password": PASSWORD, "next": "/", "link": "x", "organization": "1", "name": ""}
    for page in CHANGING:
        if page.access is not Access.PUBLIC:
            continue
        for headers in (
            {"Origin": "https://evil.example"},
            {"Origin": "null"},
            {"Origin": site.url.replace("http:", "https:")[:-1]},
            {"Sec-Fetch-Site": "cross-site"},
            {"Sec-Fetch-Site": "same-site"},
        ):
            answer = await ask(site, page.method, placed(page), form, headers=headers)
            assert answer.status == 403, (called(page), headers)
            assert answer.token is None, called(page)
        assert await contents(site.space) == before, called(page)


@pytest.mark.parametrize("known", [True, False], ids=["signed in", "nobody"])
async def test_no_page_is_shown_in_another_sites(site: Site, known: bool) -> None:
    cookie = (await person(site)).token if known else ""
    for page in SHOWN:
        answer = await ask(site, "GET", placed(page), cookie=cookie)
        policy = answer.headers["Content-Security-Policy"]
        assert "frame-ancestors 'none'" in policy, called(page)
        assert "default-src 'none'" in policy, called(page)
        assert "base-uri 'none'" in policy, called(page)
        assert "unsafe" not in policy, called(page)
        assert "Access-Control-Allow-Origin" not in answer.headers, called(page)
        told = {name: answer.headers.get(name) for name in TOLD}
        assert told == TOLD, called(page)
        assert answer.status < 500, called(page)
        if not known and page.access is not Access.PUBLIC:
            assert answer.target.startswith("/sign-in"), called(page)


@pytest.mark.usefixtures("seldom_noted")
async def test_looking_at_a_page_changes_nothing(site: Site) -> None:
    session = await person(site)
    before = await unaudited(site)
    for page in SHOWN:
        await ask(site, "GET", placed(page), cookie=session.token)
        assert await unaudited(site) == before, called(page)


# Redirects


async def test_signing_in_leads_to_no_other_site(site: Site) -> None:
    session = await person(site)
    for elsewhere in ELSEWHERE:
        form = {"email": EMAIL, "password": PASSWORD, "next": elsewhere}
        for headers in ({}, {"HX-Request": "true"}):
            answer = await ask(site, "POST", "/sign-in", form, headers=headers)
            assert stays(site, answer.target), (elsewhere, answer.target)
            assert "evil" not in answer.target or answer.target.startswith(("/%", "/@"))
        shown = await ask(site, "GET", f"/sign-in?next={quote(elsewhere, safe='')}", cookie=session.token)
        assert stays(site, shown.target), (elsewhere, shown.target)


async def test_no_page_leads_to_another_site(site: Site) -> None:
    session = await person(site)
    elsewhere = quote("//evil.example", safe="")
    query = "&".join(f"{name}={elsewhere}" for name in ("next", "url", "redirect", "return", "organization", "search"))
    for page in SHOWN:
        for cookie in (session.token, ""):
            answer = await ask(site, "GET", f"{placed(page)}?{query}", cookie=cookie)
            assert not answer.target or stays(site, answer.target), (called(page), answer.target)


@pytest.mark.parametrize(
    "path",
    ["//evil.example", "//evil.example/devices", "/o/1//evil.example", "/o/1/\\evil.example", "/%2fevil.example"],
)
@pytest.mark.parametrize("headers", [{}, {"Sec-Fetch-Site": "cross-site"}], ids=["typed", "linked"])
async def test_a_path_is_no_way_to_another_site(site: Site, path: str, headers: dict[str, str]) -> None:
    session = await person(site)
    for cookie in (session.token, ""):
        answer = await ask(site, "GET", path, cookie=cookie, headers=headers)
        assert not answer.target or stays(site, answer.target), answer.target


# Cookies


def flags(cookie: "Morsel[str]") -> dict[str, object]:
    return {name: value for name, value in cookie.items() if value}


async def test_scripts_and_other_sites_get_no_cookie(site: Site) -> None:
    session = await person(site)
    answer = await ask(site, "POST", "/sign-in", {"email": EMAIL, "password": PASSWORD})
    assert flags(answer.cookies[COOKIE]) == {"path": "/", "httponly": True, "samesite": "Strict"}
    answer = await ask(
        site, "POST", "/account/name", {"name": "Ada"}, cookie=session.token, headers={"X-CSRF-Token": session.csrf}
    )
    (said,) = answer.cookies.values()
    assert flags(said) == {"path": "/", "httponly": True, "samesite": "Strict", "max-age": "30"}


async def test_cookies_of_https_go_over_https_alone(space: Space, tmp_path: Path) -> None:
    async with Site.open(space, tmp_path, proxies="127.0.0.1", hosts="console.example") as site:
        await person(site)
        headers = {"X-Forwarded-Proto": "https", "Host": "console.example", "Origin": "https://console.example"}
        answer = await ask(site, "POST", "/sign-in", {"email": EMAIL, "password": PASSWORD}, headers=headers)
        assert answer.cookies[COOKIE]["secure"]
        known = await site.nobody.ok(
            "GET", "/session", headers={"Cookie": f"{COOKIE}={answer.token}", "Host": "console.example"}
        )
        headers["X-CSRF-Token"] = known["csrfToken"]
        changed = await ask(site, "POST", "/account/name", {"name": "Ada"}, cookie=answer.token or "", headers=headers)
        (said,) = changed.cookies.values()
        assert said["secure"]
        gone = await ask(site, "POST", "/sign-out", cookie=answer.token or "", headers=headers)
        assert gone.cookies[COOKIE]["secure"]


# Secrets


@pytest.mark.parametrize("path", ["/set-up", "/invitation", "/password-reset"])
async def test_a_links_token_is_taken_from_no_query(site: Site, path: str, caplog: pytest.LogCaptureFixture) -> None:
    token = "PlantedToken0123456789abcdefghij"
    with caplog.at_level("DEBUG"):
        answer = await ask(site, "GET", f"{path}?link={token}&token={token}")
    assert answer.status == 200
    assert token not in answer.text
    assert token not in caplog.text
    assert answer.headers["Referrer-Policy"] in ("no-referrer", "same-origin")


async def test_a_session_is_in_no_page(site: Site) -> None:
    session = await person(site)
    for page in SHOWN:
        answer = await ask(site, "GET", placed(page), cookie=session.token)
        assert session.token not in answer.text, called(page)

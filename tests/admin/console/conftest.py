"""Somebody who looks at pages of the console, over a real listener, as a browser with htmx does."""

import html
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import aiohttp
import pytest

from provserver.core.authorization import Role
from tests.admin.conftest import PASSWORD, Site


@dataclass
class Shown:
    """A page, or a part of one. text: what is to be read on it, without tags, spaces folded."""

    status: int
    headers: Mapping[str, str]
    html: str

    @property
    def text(self) -> str:
        bare = re.sub(r"<(script|style)\b.*?</\1>", " ", self.html, flags=re.DOTALL)
        return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", bare)).split())

    @property
    def location(self) -> str:
        """Where it leads on to."""
        return self.headers.get("HX-Redirect") or self.headers.get("Location", "")


class Visitor:
    """A browser. csrf: the token that the page says."""

    def __init__(self, session: aiohttp.ClientSession, site: Site) -> None:
        self.session = session
        self.site = site
        self.url = site.url
        self.csrf = ""
        self.id: UUID | None = None

    async def sign_in(self, email: str, password: str = PASSWORD) -> None:
        answer = await self.post("/sign-in", email=email, password=password, next="/")
        assert answer.location == "/", (answer.status, answer.text)
        self.csrf = (await self.api("GET", "/session"))["csrfToken"]

    async def get(
        self, path: str, *, part: bool = False, headers: Mapping[str, str] | None = None, **query: str
    ) -> Shown:
        """A page; part: as htmx asks for it."""
        given = ({"HX-Request": "true"} if part else {}) | dict(headers or {})
        return await self._ask("GET", path, headers=given, params=query or None)

    async def post(self, path: str, fields: list[tuple[str, str]] | None = None, /, **more: str) -> Shown:
        """Send a form, as htmx does."""
        data = aiohttp.FormData([*(fields or []), *more.items()])
        return await self._ask("POST", path, headers=self._unsafe(), data=data)

    async def send(self, path: str, body: bytes, content_type: str = "text/csv", **query: str) -> Shown:
        """Send a body that is no form."""
        return await self._ask(
            "POST", path, headers=self._unsafe() | {"Content-Type": content_type}, data=body, params=query or None
        )

    async def api(self, method: str, path: str, body: object = None, **query: str) -> Any:
        """What the admin API answers the same session."""
        async with self.session.request(
            method,
            f"{self.url}/api/admin{path}",
            json=body,
            params=query or None,
            headers={"X-CSRF-Token": self.csrf} if self.csrf else {},
        ) as response:
            assert response.status < 300, (method, path, response.status, await response.text())
            return await response.json() if response.content_length else None

    def _unsafe(self) -> dict[str, str]:
        return {"HX-Request": "true"} | ({"X-CSRF-Token": self.csrf} if self.csrf else {})

    async def _ask(self, method: str, path: str, **options: Any) -> Shown:
        async with self.session.request(method, self.url + path, allow_redirects=False, **options) as response:
            return Shown(response.status, response.headers, await response.text())


Visit = Callable[..., Awaitable[Visitor]]


@pytest.fixture
async def visit(site: Site) -> AsyncIterator[Visit]:
    """Sign somebody in: `await visit(Role.STAFF, organization=id)`; without a role nobody is signed in."""
    async with AsyncExitStack() as stack:
        count = 0

        async def begin(role: Role | None = Role.ADMIN, organization: UUID | None = None) -> Visitor:
            nonlocal count
            count += 1
            jar = aiohttp.CookieJar(unsafe=True)
            made = Visitor(await stack.enter_async_context(aiohttp.ClientSession(cookie_jar=jar)), site)
            if role is not None:
                email = f"person-{count}@example.com"
                users = site.api.services.users
                user, link = await users.invite(site.operator, email, role, organization)
                await users.accept_invitation(link, PASSWORD, f"Person {count}")
                made.id = user.id
                await made.sign_in(email)
            return made

        yield begin


@pytest.fixture
async def visitor(visit: Visit) -> Visitor:
    """The manufacturer's admin, signed in."""
    return await visit()

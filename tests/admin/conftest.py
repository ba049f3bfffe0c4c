"""The admin API on a real listener, and a manufacturer with customers who ask it."""

import itertools
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self
from uuid import UUID

import aiohttp
import pytest
from argon2 import PasswordHasher

from provserver.admin import set_up
from provserver.admin.api import Api
from provserver.admin.build import build
from provserver.admin.console.console import Console
from provserver.admin.console.pages import PAGES
from provserver.admin.listener import AdminListener
from provserver.config import Config
from provserver.core import passwords
from provserver.core.authorization import ALL, OPERATOR, PERMISSIONS, Permission, Principal, Role
from provserver.store.database import Database
from provserver.workspace import furnish
from tests.conftest import Space

PASSWORD = "correct horse battery staple"

_numbers = itertools.count(1)

_QUICK = PasswordHasher(time_cost=1, memory_cost=64, parallelism=1, salt_len=passwords.SALT_LENGTH)


@dataclass
class Answer:
    """What came back."""

    status: int
    headers: Mapping[str, str]
    body: bytes = field(repr=False)

    @property
    def json(self) -> Any:
        return aiohttp.typedefs.DEFAULT_JSON_DECODER(self.body.decode())

    @property
    def code(self) -> str:
        """Of a problem."""
        assert self.headers["Content-Type"] == "application/problem+json", self
        code: str = self.json["code"]
        assert self.json["status"] == self.status
        return code


class Caller:
    """Asks with a key, or with none; url: of the listener."""

    def __init__(self, session: aiohttp.ClientSession, url: str, key: str | None = None) -> None:
        self.session = session
        self.url = url
        self.key = key

    async def __call__(
        self, method: str, path: str, body: object = None, headers: dict[str, str] | None = None, **query: Any
    ) -> Answer:
        """An answer. body: JSON, or bytes that are CSV."""
        given = dict(headers or {})
        if self.key is not None:
            given["Authorization"] = f"Bearer {self.key}"
        options: dict[str, Any] = {}
        if isinstance(body, bytes):
            options["data"] = body
            given.setdefault("Content-Type", "text/csv")
        elif body is not None:
            options["json"] = body
        pairs = [
            (name, str(each).lower() if isinstance(each, bool) else str(each))
            for name, value in query.items()
            for each in (value if isinstance(value, list) else [value])
        ]
        url = self.url + "/api/admin" + path
        async with self.session.request(method, url, headers=given, params=pairs or None, **options) as response:
            return Answer(response.status, response.headers, await response.read())

    async def ok(self, method: str, path: str, body: object = None, **more: Any) -> Any:
        """The JSON of an answer that must be one of success."""
        answer = await self(method, path, body, **more)
        assert answer.status < 300, (method, path, answer.status, answer.body)
        return answer.json if answer.body else None


@dataclass
class Site:
    """A listener on a test's own database, and who may call it."""

    space: Space
    api: Api
    listener: AdminListener
    session: aiohttp.ClientSession
    url: str
    operator: Principal

    @classmethod
    @asynccontextmanager
    async def open(cls, space: Space, directory: Path, **options: Any) -> AsyncIterator[Self]:
        config = Config(data_dir=directory)
        workspace = await furnish_on(space.database, config)
        api = build(workspace, config)
        overview = api.services.overview
        for figures in (overview._funnels, *overview._series.values()):
            figures._first = 60.0  # where Postgres stalls they come late, and are not said to be counted
        listener = AdminListener(api, Console(api, PAGES), **options)
        host, port = await listener.start("127.0.0.1", 0)
        try:
            await set_up.offer(workspace, config, host, port)
            async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as session:
                operator = Principal(OPERATOR, space.organization_id)
                yield cls(space, api, listener, session, f"http://{host}:{port}", operator)
        finally:
            await listener.stop(5)

    @property
    def nobody(self) -> Caller:
        return Caller(self.session, self.url)

    async def caller(
        self,
        role: Role = Role.ADMIN,
        organization: UUID | None = None,
        permissions: frozenset[Permission] | None = None,
    ) -> Caller:
        """A program with a key of an organization that may do what a role may."""
        chosen = PERMISSIONS[role] if permissions is None else permissions
        owner = Principal(OPERATOR, organization or self.space.organization_id)
        _, secret = await self.api.services.api_keys.create(owner, f"key {next(_numbers)}", chosen or ALL)
        return Caller(self.session, self.url, secret)


async def furnish_on(database: Database, config: Config) -> Any:
    """A workspace, as the server has it."""
    return await furnish(database, config)


@pytest.fixture(autouse=True)
def _quick_hashes(monkeypatch: pytest.MonkeyPatch) -> None:
    """People's passwords cost little: what they cost is no matter of routes and pages (`tests/core/test_passwords.py`).

    Who signs in at a test's beginning takes two, each 25 ms of a core at the real strength.
    """
    monkeypatch.setattr(passwords, "_hasher", lambda: _QUICK)


@pytest.fixture
async def site(space: Space, tmp_path: Path) -> AsyncIterator[Site]:
    """The API on a listener."""
    async with Site.open(space, tmp_path) as opened:
        yield opened


@pytest.fixture
async def admin(site: Site) -> Caller:
    """A program that may do everything, of the manufacturer."""
    return await site.caller()

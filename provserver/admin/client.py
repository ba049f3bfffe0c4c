"""Acting through the admin API: on a server over HTTP, or on the database, where the API runs in this process.

Requests, answers and errors are the same either way; only how they get there differs (`Exchange`).
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, aclosing, asynccontextmanager, nullcontext
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, cast
from urllib.parse import quote, urlencode
from uuid import UUID

import msgspec

from provserver.config import Config
from provserver.core.authorization import OPERATOR, Principal
from provserver.core.job import LIVE, JobState
from provserver.errors import (
    Conflict,
    Forbidden,
    Invalid,
    Misconfigured,
    NotFound,
    ProvserverError,
    Refused,
    Stale,
    TooManyRequests,
    Unauthenticated,
    Unavailable,
)

if TYPE_CHECKING:
    import aiohttp

ROOT = "/api/admin"
JSON = "application/json"
PROBLEM = "application/problem+json"
CSV = "text/csv"
PAGE = 500
"""Items asked for at a time: the most that the API gives."""

POLL_INTERVAL = 0.25
CONNECT_TIMEOUT = 10.0
SILENCE_LIMIT = 300.0
"""Seconds without a byte after which a server is given up: an import of 100,000 rows is answered at its end."""

Query = Mapping[str, str | int | bool | Sequence[str] | None]
Body = bytes | AsyncIterable[bytes]

FAULTS: dict[str, type[Refused]] = {
    fault.code: fault for fault in (Refused, NotFound, Invalid, Unauthenticated, Forbidden, Conflict, Stale)
}
STATUSES: dict[int, type[Refused]] = {
    400: Invalid,
    401: Unauthenticated,
    403: Forbidden,
    404: NotFound,
    409: Conflict,
    412: Stale,
    422: Invalid,
}


class Answer(NamedTuple):
    """What came back. headers: by names in lower case."""

    status: int
    headers: Mapping[str, str]
    body: AsyncIterable[bytes]


class Exchange(Protocol):
    """Takes one request to the API. target: path and query, percent-encoded. Raises Unavailable, Misconfigured."""

    def __call__(
        self, method: str, target: str, headers: Mapping[str, str], body: Body
    ) -> AbstractAsyncContextManager[Answer]:
        """The answer, while the context lasts."""


Doing = Callable[[UUID], AbstractAsyncContextManager[None]]
"""Has a durable job done in this process, unless another has it."""


class Client:
    """Asks the admin API. Paths are below `/api/admin`; what is refused is raised as the service raised it.

    url: where the server is; empty on the database. doing: has a durable job done here, while the context lasts.
    """

    def __init__(self, exchange: Exchange, url: str = "", doing: Doing | None = None) -> None:
        self._exchange = exchange
        self._doing = doing
        self.url = url

    async def call(
        self,
        method: str,
        path: str,
        *,
        query: Query | None = None,
        body: object = None,
        accept: str = JSON,
    ) -> Any:
        """Ask, and decode the JSON of the answer; None when there is none. Raises ProvserverError."""
        headers = {"accept": accept}
        if body is not None:
            headers["content-type"] = JSON
        return await self._ask(method, path, query, headers, _encode(body))

    async def upload(self, path: str, content: AsyncIterable[bytes], *, query: Query, type_: str = CSV) -> Any:
        """POST what a file holds, as it comes; the answer as from `call`."""
        return await self._ask("POST", path, query, {"accept": JSON, "content-type": type_}, content)

    async def stream(self, path: str, *, query: Query, accept: str) -> AsyncGenerator[bytes, None]:
        """GET something long, as it comes; an end before its end is Unavailable."""
        async with self._exchange("GET", _target(path, query), {"accept": accept}, b"") as answer:
            if answer.status >= 400:
                raise await _fault(answer)
            async for chunk in answer.body:
                yield chunk

    async def items(
        self, path: str, *, query: Query | None = None, limit: int | None = None
    ) -> AsyncIterator[dict[str, Any]]:
        """All items of a list, or the first so many, a page at a time."""
        cursor: str | None = None
        left = limit
        while left is None or left > 0:
            size = PAGE if left is None else min(left, PAGE)
            page = await self.call("GET", path, query={**(query or {}), "limit": size, "cursor": cursor})
            for item in page["items"]:
                yield item
            left = None if left is None else left - len(page["items"])
            if not (cursor := page.get("nextCursor")):
                return

    async def watched(
        self,
        job: Mapping[str, Any],
        progress: Callable[[int, int | None], None],
        waits: Callable[[str, str], None] = lambda _why, _until: None,
    ) -> Mapping[str, Any]:
        """A job, once it has ended. progress: told what is done, and of how much. Raises Refused.

        waits: told once for each try that did not do why that was, and when the next one is due.
        """
        told: tuple[object, object] | None = None
        durable = job["state"] == JobState.WAITING or job.get("tries")  # and waits for a server, and none may be up
        async with self._doing(UUID(job["id"])) if durable and self._doing else nullcontext():
            while job["state"] in LIVE:
                await asyncio.sleep(POLL_INTERVAL)
                job = await self.call("GET", path("jobs", job["id"]))
                progress(job["done"], job["total"])
                now = job.get("error"), job.get("tries")
                if job["state"] == JobState.WAITING and job.get("error") and job.get("dueAt") and now != told:
                    told = now
                    waits(job["error"], job["dueAt"])
        return job

    async def finished(self, job: Mapping[str, Any], progress: Callable[[int, int | None], None]) -> Any:
        """The result of a job, once it is done. progress: told what is done, and of how much. Raises Refused."""
        job = await self.watched(job, progress)
        if job["state"] != "done":
            message = job["error"] or f"The job {job['id']} was {job['state']}."
            if errors := (job["result"] or {}).get("errors"):
                raise Invalid(message, errors)
            raise Refused(" ".join(filter(None, (message, job.get("remedy")))))
        return job["result"]

    async def _ask(self, method: str, path: str, query: Query | None, headers: Mapping[str, str], body: Body) -> Any:
        async with self._exchange(method, _target(path, query), headers, body) as answer:
            if answer.status >= 400:
                raise await _fault(answer)
            content = await _whole(answer)
            if not content:
                return None
            if _type(answer) != JSON:
                raise _no_api(answer)
            return msgspec.json.decode(content)


def path(*segments: object) -> str:
    """A path from its segments, whatever they hold. Raises Refused for what no URL can hold."""
    try:
        return "".join(f"/{quote(str(segment), safe='')}" for segment in segments)
    except UnicodeEncodeError:
        raise _NOT_TEXT from None


def given(members: Mapping[str, object]) -> dict[str, object]:
    """Those members of a body that were given."""
    return {name: value for name, value in members.items() if value is not None}


_NOT_TEXT = Invalid("What was given is not text in UTF-8.")


def _encode(body: object) -> bytes:
    try:
        return b"" if body is None else msgspec.json.encode(body)
    except UnicodeEncodeError:
        raise _NOT_TEXT from None


def _target(path_: str, query: Query | None) -> str:
    pairs: list[tuple[str, str]] = []
    for name, value in (query or {}).items():
        values = value if isinstance(value, Sequence) and not isinstance(value, str) else [value]
        pairs += [(name, _spelt(each)) for each in values if each is not None]
    try:
        return ROOT + path_ + (f"?{urlencode(pairs)}" if pairs else "")
    except UnicodeEncodeError:
        raise _NOT_TEXT from None


def _spelt(value: str | int | bool) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


async def _whole(answer: Answer) -> bytes:
    return b"".join([chunk async for chunk in answer.body])


def _type(answer: Answer) -> str:
    return answer.headers.get("content-type", "").partition(";")[0].strip().lower()


async def _fault(answer: Answer) -> ProvserverError:
    """What a problem says, as it was raised."""
    if _type(answer) != PROBLEM:
        return _no_api(answer)
    try:
        problem = msgspec.json.decode(await _whole(answer), type=dict[str, Any])
    except msgspec.DecodeError:
        return _no_api(answer)
    message = str(problem.get("detail") or problem.get("title") or f"The server answers {answer.status}.")
    code = problem.get("code")
    if code == TooManyRequests.code or answer.status == 429:
        return TooManyRequests(message, _seconds(answer.headers.get("retry-after", "")))
    kind = FAULTS.get(str(code)) or STATUSES.get(answer.status)
    if kind is Invalid:
        return Invalid(message, problem.get("errors") or ())
    if kind is not None:
        return kind(message)
    if code == "misconfigured":
        return Misconfigured(message)
    return Unavailable(message) if answer.status >= 500 else Refused(message)


def _no_api(answer: Answer) -> ProvserverError:
    if answer.status >= 500:
        return Unavailable(f"The server answers {answer.status}, and not in words of provserver.")
    return Misconfigured(
        f"What answers there ({answer.status}) is no admin API of provserver. Is --server the address of the "
        "admin listener, as `provserver serve --admin` has it?"
    )


def _seconds(text: str) -> float:
    return float(text) if text.isdigit() else 1.0


# --- on the database


@asynccontextmanager
async def on_database(config: Config, *, make: bool = False) -> AsyncIterator[Client]:
    """The API on the configured database, as the operator, who may do everything. Raises Misconfigured, Unavailable.

    make: whether to make the data directory and the keys where there are none.
    """
    from provserver.admin.build import build  # here, as it loads all services
    from provserver.admin.messages import Request
    from provserver.services.job_runner import JobRunner
    from provserver.workspace import job_kinds, workspace

    async with workspace(config, make=make) as space:
        api = build(space, config)
        operator = Principal(OPERATOR, space.organization_id)

        @asynccontextmanager
        async def exchange(method: str, target: str, headers: Mapping[str, str], body: Body) -> AsyncIterator[Answer]:
            path_, _, query = target.partition("?")
            content = body if isinstance(body, bytes) else b"".join([chunk async for chunk in body])
            response = await api.call(Request(method, path_, query, headers, content, principal=operator))
            async with aclosing(_parts(response.body)) as parts:
                yield Answer(response.status, _lower(response.headers), parts)

        @asynccontextmanager
        async def doing(job: UUID) -> AsyncIterator[None]:
            async with AsyncExitStack() as stack:
                runner = JobRunner(space.database, job_kinds(space, config, stack), only=job)
                await runner.start()
                stack.push_async_callback(runner.stop, config.drain_timeout)
                yield

        try:
            yield Client(exchange, doing=doing)
        finally:
            await api.stop()


async def _parts(body: Body) -> AsyncGenerator[bytes, None]:
    if isinstance(body, bytes):
        yield body
    else:
        async with aclosing(cast("AsyncGenerator[bytes, None]", body)) as parts:
            async for part in parts:
                yield part


# --- on a server


@asynccontextmanager
async def on_server(url: str, api_key: str) -> AsyncIterator[Client]:
    """The API of the server at the URL, `https://host:port`. Raises Misconfigured, Unavailable."""
    import ssl  # here, as no other command needs them

    import aiohttp

    connector = aiohttp.TCPConnector(ssl=ssl.create_default_context())  # which looks at SSL_CERT_FILE now
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT, sock_read=SILENCE_LIMIT)
    async with aiohttp.ClientSession(
        connector=connector, timeout=timeout, cookie_jar=aiohttp.DummyCookieJar()
    ) as session:
        url = url.rstrip("/")
        yield Client(_Remote(session, url, api_key), url)


class _Remote:
    """Takes requests to a server."""

    def __init__(self, session: "aiohttp.ClientSession", url: str, api_key: str) -> None:
        self._session = session
        self._url = url
        self._api_key = api_key

    @asynccontextmanager
    async def __call__(self, method: str, target: str, headers: Mapping[str, str], body: Body) -> AsyncIterator[Answer]:
        import aiohttp
        from yarl import URL

        try:
            async with self._session.request(
                method,
                URL(self._url + target, encoded=True),
                data=body or None,
                headers={**headers, "authorization": f"Bearer {self._api_key}"},
                allow_redirects=False,  # which would take the key elsewhere
            ) as response:
                if 300 <= response.status < 400:
                    raise Misconfigured(f"{self._url} redirects. Name the server's own address with --server.")
                yield Answer(response.status, _lower(response.headers), response.content.iter_any())
        except aiohttp.ClientConnectorCertificateError as fault:
            raise Misconfigured(
                f"The certificate of {self._url} is not to be trusted: {_reason(fault.certificate_error)}. "
                "Name the file of a CA of your own in SSL_CERT_FILE."
            ) from None
        except aiohttp.ClientConnectorError as fault:
            raise Unavailable(f"{self._url} cannot be reached: {_reason(fault.os_error)}.") from None
        except aiohttp.ClientError as fault:
            raise Unavailable(f"{self._url} broke off ({type(fault).__name__}); look whether it was done.") from None
        except TimeoutError:
            raise Unavailable(f"{self._url} does not answer; look whether it was done.") from None


def _lower(headers: Mapping[str, str]) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items()}


def _reason(fault: Exception) -> str:
    return str(getattr(fault, "verify_message", None) or getattr(fault, "strerror", None) or fault)

"""What a page is, and what its handler is given: the admin API as whoever asks, and ways to answer."""

import hashlib
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, quote, urlencode

import msgspec

from provserver.admin.console.reasons import said
from provserver.admin.messages import Request, Response
from provserver.admin.problem import Malformed, TooLarge, UnsupportedMediaType
from provserver.admin.route import JSON, PREFIX, Access
from provserver.core.authorization import Permission

if TYPE_CHECKING:
    from provserver.admin.console.console import Console

MAX_FORM = 1024 * 1024
"""Bytes."""

MAX_FIELDS = 5_000

FORM = "application/x-www-form-urlencoded"
HTML = "text/html; charset=utf-8"

ORGANIZATION_HEADER = "x-organization"

SAID = "provserver_said"
"""The cookie of what the next page says, once."""

_ONCE = re.compile("[A-Za-z0-9_-]{16,64}")
_MAX_SAID = 600

Handler = Callable[["Ask"], Awaitable[Response]]


@dataclass(frozen=True, slots=True)
class Page:
    """A method of a path of the console. access: who may; forbidden and not found are told without its handler."""

    method: str
    path: str
    handler: Handler
    access: Permission | Access


def page(method: str, path: str, handler: Handler, access: Permission | Access = Access.ANYONE) -> Page:
    """A page."""
    return Page(method, path, handler, access)


class ApiProblem(Exception):  # noqa: N818
    """The admin API has refused. detail: for people, with the fix; errors: `{"in", "field", "reason"}`."""

    def __init__(self, status: int, content: Mapping[str, Any], headers: Mapping[str, str] | None = None) -> None:
        super().__init__(content["code"])
        self.status = status
        self.code: str = content["code"]
        self.title: str = content["title"]
        self.detail: str = content["detail"]
        self.errors: list[dict[str, Any]] = [
            each | {"reason": said(str(each["reason"]))} for each in content.get("errors") or []
        ]
        meant = [str(each["reason"]) for each in content.get("errors") or []]
        if self.code == "malformed" and any(each["reason"] not in meant for each in self.errors):
            self.detail = "A value cannot be read: mend it, and send it again."
        self.headers = headers or {}

    @classmethod
    def of(cls, response: Response) -> "ApiProblem":
        """What an answer says that is a problem."""
        assert isinstance(response.body, bytes)  # noqa: S101 - problems are no streams
        return cls(response.status, msgspec.json.decode(response.body), response.headers)


class Form:
    """What was sent by a form."""

    def __init__(self, pairs: list[tuple[str, str]]) -> None:
        self._pairs = pairs

    def __getitem__(self, name: str) -> str:
        """A field, the last of its name, without space around; empty when there is none."""
        return self.raw(name).strip()

    def __contains__(self, name: object) -> bool:
        return any(each == name for each, _ in self._pairs)

    def raw(self, name: str) -> str:
        """The same as it was typed: for passwords."""
        return next((value for each, value in reversed(self._pairs) if each == name), "")

    def optional(self, name: str) -> str | None:
        """A field, None when it is empty."""
        return self[name] or None

    def all(self, name: str) -> list[str]:
        """All fields of a name, in order."""
        return [value.strip() for each, value in self._pairs if each == name]

    def names(self) -> list[str]:
        """The names of all fields, each once, in order."""
        return list(dict.fromkeys(each for each, _ in self._pairs))

    def number(self, name: str) -> int | None:
        """A whole number; None when the field is empty. Raises Malformed."""
        text = self[name]
        if not text:
            return None
        if not re.fullmatch("-?[0-9]{1,18}", text):
            raise Malformed("This must be a whole number.", [{"in": "body", "field": name, "reason": "a whole number"}])
        return int(text)


@dataclass(slots=True)
class Ask:
    """A request for a page.

    parameters: of the path, percent-encoded, to be put into other paths as they are. query: what follows the `?`, the
    last of each name. session: what `GET /session` answers; None for who is not signed in. organization: the one that
    was chosen to look at, None for one's own. addresses: where devices are served, host and port by listener (`http`,
    `mqtts` …). authority: whether the TLS certificate there is of our own development CA.
    """

    console: "Console"
    request: Request
    path: str
    parameters: Mapping[str, str]
    query: Mapping[str, str]
    session: Mapping[str, Any] | None = None
    organization: Mapping[str, Any] | None = None
    addresses: Mapping[str, tuple[str, int]] = field(default_factory=dict)
    authority: bool = False
    base: str = ""
    _form: Form | None = None
    _made: int = 0
    _cookie: str = ""

    @property
    def signed_in(self) -> Mapping[str, Any]:
        """The session, on a page that is not for everybody: who is nobody was told to sign in first."""
        assert self.session is not None  # noqa: S101 - the console sees to it
        return self.session

    @property
    def is_part(self) -> bool:
        """Whether the browser has the page, and asks for what is to be put into it."""
        headers = self.request.headers
        return headers.get("hx-request") == "true" and headers.get("hx-history-restore-request") != "true"

    @property
    def host(self) -> str:
        """The name or address that the browser has asked, without a port or brackets."""
        host = self.request.headers.get("host", "localhost")
        return host[1 : host.find("]")] if host.startswith("[") else host.partition(":")[0]

    def may(self, permission: str) -> bool:
        """Whether who asks has a permission."""
        return self.session is not None and permission in self.session["permissions"]

    def chosen(self, *names: str) -> dict[str, str]:
        """Those members of the query that are there and not empty."""
        return {name: value for name in names if (value := self.query.get(name, "").strip())}

    async def body(self, limit: int) -> bytes:
        """What came with the request. Raises TooLarge, BodyTimeout."""
        body = self.request.body
        data = body if isinstance(body, bytes) else await body(limit)
        if len(data) > limit:
            raise TooLarge(f"The body may have {limit} bytes.")
        return data

    async def form(self) -> Form:
        """The fields of a form. Raises UnsupportedMediaType, Malformed, TooLarge."""
        if self._form is None:
            if not self._is_form:
                raise UnsupportedMediaType(f"A form is sent as {FORM}.")
            data = await self.body(MAX_FORM)
            try:
                pairs = parse_qsl(data.decode(), keep_blank_values=True, errors="strict", max_num_fields=MAX_FIELDS)
            except ValueError:
                raise Malformed("The form is not name=value&… in UTF-8, or has too many fields.") from None
            self._form = Form([(name, value.replace("\r\n", "\n")) for name, value in pairs])
        return self._form

    async def api(
        self,
        method: str,
        path: str,
        query: Mapping[str, object] | None = None,
        body: object = None,
        headers: Mapping[str, str] | None = None,
    ) -> Any:
        """What the admin API answers whoever asks: decoded JSON, None without. Raises ApiProblem.

        path: below `/api/admin`. body: to be sent as JSON, or bytes of CSV.
        """
        response = await self.pass_on(method, path, query, body, headers)
        if not isinstance(response.body, bytes):
            raise TypeError(f"{path} answers a stream: pass it on")
        if not response.body:
            return None
        return msgspec.json.decode(response.body)

    async def pass_on(
        self,
        method: str,
        path: str,
        query: Mapping[str, object] | None = None,
        body: object = None,
        headers: Mapping[str, str] | None = None,
    ) -> Response:
        """The same as the API answers it: for downloads and feeds. Raises ApiProblem."""
        sent = {name: value for name in ("cookie", "x-csrf-token") if (value := self.request.headers.get(name))}
        if self.organization is not None:
            sent[ORGANIZATION_HEADER] = str(self.organization["number"])
        if method == "POST" and (once := await self._once()):
            sent["idempotency-key"] = once
        data = b""
        if isinstance(body, bytes):
            data, sent["content-type"] = body, "text/csv"
        elif body is not None:
            data, sent["content-type"] = msgspec.json.encode(body), JSON
        pairs = [
            (name, str(each).lower() if isinstance(each, bool) else str(each))
            for name, value in (query or {}).items()
            for each in (value if isinstance(value, list | tuple) else [value])
        ]
        sent = {name: value for name, value in (sent | dict(headers or {})).items() if value}
        made = Request(
            method,
            PREFIX + path,
            urlencode(pairs),
            sent,
            data,
            self.request.address,
            self.request.secure,
        )
        response = await self.console.api.call(made)
        if response.status >= 400:
            raise ApiProblem.of(response)
        return response

    async def sign_in(self, email: str, password: str) -> None:
        """Begin a session, always a new one; the next `go` or `leave` hands it to the browser. Raises ApiProblem."""
        body = {"email": email, "password": password}
        response = await self.pass_on("POST", "/session", body=body, headers={"cookie": "", "idempotency-key": ""})
        self._cookie = response.headers["Set-Cookie"]

    async def sign_out(self) -> None:
        """End the session; the next `go` or `leave` tells the browser."""
        self._cookie = (await self.pass_on("DELETE", "/session")).headers["Set-Cookie"]

    @property
    def _is_form(self) -> bool:
        return self.request.headers.get("content-type", "").partition(";")[0].strip().lower() == FORM

    async def _once(self) -> str:
        """A form that is sent twice does once what it does: each of its calls has a key of its own."""
        if self.request.method != "POST" or self.session is None or not self._is_form:
            return ""
        once = (await self.form())["_once"]
        if not _ONCE.fullmatch(once):
            return ""
        self._made += 1
        return hashlib.sha256(f"{once} {self._made}".encode()).hexdigest()

    def show(self, template: str, *, status: int = 200, **context: object) -> Response:
        """A page; the part of it that changes, when the browser has the rest."""
        return self.console.render(self, template, status, context)

    def part(self, template: str, *, status: int = 200, **context: object) -> Response:
        """A template without anything around."""
        return self.console.render(self, template, status, context, bare=True)

    def go(self, path: str, *, said: str = "") -> Response:
        """On to another page of ours, which says so at its top. path: without base."""
        return self.leave(self.base + path, said=said)

    def leave(self, path: str, *, said: str = "") -> Response:
        """On to a page, by its whole path. What is said is left out when a session begins or ends: one cookie fits."""
        headers = {}
        if self._cookie:
            headers["Set-Cookie"] = self._cookie
        elif said:
            secure = "; Secure" if self.request.secure else ""
            cookie = f"{SAID}={quote(said[:_MAX_SAID], safe='')}; Path=/; HttpOnly; SameSite=Strict; Max-Age=30{secure}"
            headers["Set-Cookie"] = cookie
        if self.is_part:
            return Response(200, headers | {"HX-Redirect": path})
        return Response(303, headers | {"Location": path})

"""The admin API without sockets: a request is matched to its route, its caller known, its answer or problem told."""

import logging
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import quote
from uuid import UUID

import msgspec

from provserver.admin import problem
from provserver.admin.messages import Reader, Request, Response
from provserver.admin.paths import Paths
from provserver.admin.problem import (
    CsrfTokenWrong,
    Malformed,
    TooLarge,
    UnsupportedMediaType,
)
from provserver.admin.route import CSV, JSON, PREFIX, Access, Call, Content, Reply, Route, read_json, read_parameter
from provserver.core.authorization import Permission, Principal
from provserver.errors import Forbidden, NotFound, ProvserverError, Unauthenticated, described
from provserver.services.idempotency import Kept

if TYPE_CHECKING:
    from provserver.admin.services import Services

__all__ = ["Api", "Reader", "Request", "Response"]

log = logging.getLogger("provserver.admin")

COOKIE = "provserver_session"
CSRF_HEADER = "x-csrf-token"
IDEMPOTENCY_HEADER = "idempotency-key"
ORGANIZATION_HEADER = "x-organization"
IDEMPOTENCY_KEY = re.compile("[A-Za-z0-9._:-]{16,255}")

ORGANIZATION = re.compile("[1-9][0-9]{0,8}|[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}")
"""What ORGANIZATION_HEADER may be: a number or an id."""

SAFE = frozenset({"GET", "HEAD"})
"""Methods that change nothing."""

NOBODY = Principal("nobody", UUID(int=0), frozenset())
"""Who calls a public route."""

_REPLAYED = {"Idempotent-Replayed": "true"}


class Api:
    """Answers requests by a table of routes. One value, no state of its own but the services'."""

    def __init__(self, services: "Services", routes: Sequence[Route]) -> None:
        self.routes = tuple(routes)
        self.services = services
        self._paths = Paths(self.routes)

    async def call(self, request: Request) -> Response:
        """Answer; every fault is a problem (RFC 9457)."""
        route: Route | None = None
        try:
            route, parameters = self.match(request.method, request.path)
            return await self._serve(route, parameters, request)
        except ProvserverError as fault:
            return problem.of(fault)
        except Exception as fault:
            if request.principal is not None:
                raise  # to who has the database, in this process
            what = "an admin request" if route is None else f"{route.method} {route.path}"
            log.error("%s failed: %s", what, described(fault))  # noqa: TRY400 - Postgres quotes rows in its messages
            return problem.answer("internal", "")

    async def stop(self) -> None:
        """End feeds and jobs."""
        self.services.feed.close()
        await self.services.jobs.stop()
        await self.services.webhooks.close()
        await self.services.integrations.close()
        await self.services.overview.stop()
        await self.services.sign_in.drain()
        self.services.passwords.close()

    def match(self, method: str, path: str) -> tuple[Route, dict[str, str | UUID]]:
        """The route of a request, and its path's parameters. Raises NotFound, MethodNotAllowed."""
        try:
            route, parameters = self._paths.match(method, path)
        except NotFound as fault:
            raise NotFound(f"{fault} {PREFIX}/docs lists what there is.") from None
        named = zip(route.parameters, parameters, strict=True)
        return route, {name: read_parameter(name, text) for name, text in named}

    async def authenticate(self, request: Request) -> Principal:
        """Who asks. Raises Unauthenticated, CsrfTokenWrong."""
        if request.principal is not None:
            return request.principal
        if (header := request.headers.get("authorization")) is not None:
            scheme, _, secret = header.partition(" ")
            if scheme.lower() != "bearer" or not secret.strip():
                raise Unauthenticated("The Authorization header must be: Bearer psk_…")
            return await self.services.api_keys.authenticate(secret.strip())
        if token := session_token(request):
            principal = await self.services.sign_in.authenticate(token)
            if request.method not in SAFE:
                self._check_csrf(token, request.headers.get(CSRF_HEADER, ""))
            return principal
        raise Unauthenticated("Sign in, or send an API key in the header Authorization: Bearer psk_…")

    def _check_csrf(self, token: str, given: str) -> None:
        try:
            self.services.sign_in.check_csrf(token, given)
        except Forbidden:
            raise CsrfTokenWrong("Send the session's csrfToken in the header X-CSRF-Token.") from None

    async def _serve(self, route: Route, parameters: Mapping[str, str | UUID], request: Request) -> Response:
        principal = NOBODY
        if route.access is not Access.PUBLIC:
            principal = await self.authenticate(request)
        if isinstance(route.access, Permission):
            principal.require(route.access)
        if principal is not NOBODY and (chosen := request.headers.get(ORGANIZATION_HEADER)) is not None:
            principal = await self.services.organizations.choose(principal, _organization(chosen))
        query = route.read_query(request.query)
        data = await _body(route, request)
        body: Any = data if route.body is bytes else None
        if route.body not in (None, bytes):
            body = read_json(data, route.body)
        call = Call(self.services, principal, parameters, query, body, request)
        key = request.headers.get(IDEMPOTENCY_HEADER)
        if not route.creates or key is None or principal is NOBODY:
            return await _answer(route, await route.handler(call))
        if not IDEMPOTENCY_KEY.fullmatch(key):
            raise Malformed("Idempotency-Key must be 16-255 of the characters A-Z a-z 0-9 . _ : -, a UUID for example.")
        parts: tuple[str | bytes, ...] = (request.method, request.path, request.query, data)
        if principal.home_id is not None:  # elsewhere it is another request
            parts += (principal.organization_id.bytes,)
        async with self.services.idempotency.once(principal, key, parts) as turn:
            if turn.kept is not None:
                kept = turn.kept
                return Response(kept.status, dict(kept.headers) | _REPLAYED, kept.body)
            response = await _answer(route, await route.handler(call))
            if isinstance(response.body, bytes):
                await turn.keep(Kept(response.status, dict(response.headers), response.body))
            return response


def session_token(request: Request) -> str:
    """The session's token in the cookie; empty without."""
    for part in request.headers.get("cookie", "").split(";"):
        name, _, value = part.strip().partition("=")
        if name == COOKIE:
            return value
    return ""


def _organization(text: str) -> UUID | int:
    """Which organization ORGANIZATION_HEADER names. Raises Malformed."""
    if not ORGANIZATION.fullmatch(text):
        reason = "it must be an organization's number or id"
        raise Malformed(
            "The header X-Organization must be the number or the id of an organization.",
            [{"in": "header", "field": "X-Organization", "reason": reason}],
        )
    return UUID(text) if "-" in text else int(text)


async def _body(route: Route, request: Request) -> bytes:
    """What came with the request, of the type that the route takes. Raises UnsupportedMediaType, TooLarge."""
    if route.body is None:
        return b""
    wanted = CSV if route.body is bytes else JSON
    type_ = request.headers.get("content-type")
    given, _, parameters = (wanted if type_ is None else type_).partition(";")
    charset = parameters.strip().lower().replace('"', "")
    if given.strip().lower() != wanted or charset not in ("", "charset=utf-8", "header=present"):
        raise UnsupportedMediaType(f"Content-Type must be {wanted}, in UTF-8.")
    if "content-encoding" in request.headers:
        raise UnsupportedMediaType("The body must not be compressed.")
    data = request.body if isinstance(request.body, bytes) else await request.body(route.max_body)
    if len(data) > route.max_body:
        raise TooLarge(f"The body may have {route.max_body} bytes.")
    if data and type_ is None and request.principal is None:
        raise UnsupportedMediaType(f"Say the body's Content-Type: {wanted}.")
    return data


async def _answer(route: Route, result: object) -> Response:
    status, headers, value = route.status, {}, result
    if isinstance(result, Reply):
        status, value = result.status or route.status, result.value
        headers = dict(result.headers)
        if result.revision is not None:
            headers["ETag"] = f'"{result.revision}"'
    if value is None:
        return Response(204 if status == 200 else status, headers)
    if isinstance(value, Content):
        headers |= dict(value.headers) | {"Content-Type": value.content_type}
        if value.file_name is not None:
            headers["Content-Disposition"] = f"attachment; filename*=UTF-8''{quote(value.file_name)}"
        body = value.body if isinstance(value.body, bytes) else await _begun(value.body)
        return Response(status, headers, body)
    return Response(status, headers | {"Content-Type": JSON}, msgspec.json.encode(value))


async def _begun(parts: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The same, once its first part is there: until then, what is wrong can still be told."""
    try:
        first = await anext(parts)
    except StopAsyncIteration:
        first = b""

    async def resumed() -> AsyncIterator[bytes]:
        try:
            yield first
            async for part in parts:
                yield part
        finally:
            if (close := getattr(parts, "aclose", None)) is not None:
                await close()

    return resumed()

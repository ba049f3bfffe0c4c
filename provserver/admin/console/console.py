"""The console: a request is matched to its page, who asks is known, and what is wrong is told as a page."""

import hmac
import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import parse_qsl, quote, unquote

from provserver.admin import problem
from provserver.admin.api import COOKIE, CSRF_HEADER, SAFE, Api
from provserver.admin.console.assets import PATH as ASSETS
from provserver.admin.console.assets import Assets
from provserver.admin.console.page import HTML, ORGANIZATION_HEADER, SAID, ApiProblem, Ask, Page
from provserver.admin.console.templating import environment
from provserver.admin.messages import Request, Response
from provserver.admin.paths import Paths
from provserver.admin.problem import CsrfTokenWrong, Malformed
from provserver.admin.route import Access
from provserver.core.authorization import Permission
from provserver.errors import NotFound, ProvserverError, described

log = logging.getLogger("provserver.admin")

_HERE = Path(__file__).parent

_ORGANIZATION = re.compile("/o/([1-9][0-9]{0,8})(/.*)?")

_HEADERS = {
    "Content-Type": HTML,
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
        "manifest-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    ),
    "Permissions-Policy": "camera=(self), geolocation=(), microphone=(), payment=(), usb=()",
    "Referrer-Policy": "same-origin",  # with none at all, browsers do not say where a form comes from
    "Vary": "HX-Request",
}
"""What every page tells a browser: our own scripts and styles, and nothing else."""

_SIGN_IN = "/sign-in"


class Console:
    """Answers requests by a table of pages. addresses, authority: see `Ask`."""

    def __init__(
        self,
        api: Api,
        pages: Sequence[Page],
        addresses: Mapping[str, tuple[str, int]] | None = None,
        *,
        authority: bool = False,
    ) -> None:
        self.api = api
        self.pages = tuple(pages)
        self._addresses = addresses or {}
        self._authority = authority
        self._paths = Paths(self.pages)
        self._assets = Assets(_HERE / "static")
        self._templates = environment(_HERE / "templates", self._assets.url)

    async def call(self, request: Request) -> Response:
        """Answer; every fault is a page that says so, or the part of one."""
        if request.path.startswith(ASSETS) and request.method in ("GET", "HEAD"):
            found = self._assets.serve(request)
            if found is not None:
                return found
        ask = Ask(self, request, request.path, {}, {}, addresses=self._addresses, authority=self._authority)
        try:
            return await self._serve(ask)
        except ApiProblem as fault:
            return self._refuse(ask, fault)
        except ProvserverError as fault:
            return self._refuse(ask, ApiProblem.of(problem.of(fault)))
        except Exception as fault:
            log.error("a page failed: %s", described(fault))  # noqa: TRY400 - what was raised may quote rows
            return self._refuse(ask, ApiProblem.of(problem.answer("internal", "")))

    def render(
        self, ask: Ask, template: str, status: int, context: Mapping[str, object], *, bare: bool = False
    ) -> Response:
        """A template as an answer: a page, or what changes of one; bare: without anything around."""
        said = _said(ask.request)
        layout = None if bare else "part.html" if ask.is_part else "base.html"
        text = self._templates.get_template(template).render(
            {
                "ask": ask,
                "base": ask.base,
                "path": ask.path,
                "may": ask.may,
                "session": ask.session,
                "layout": layout,
                "theme": _theme(ask.request),
                "said": said,
            }
            | dict(context)
        )
        headers = dict(_HEADERS)
        if said and layout == "base.html":
            headers["Set-Cookie"] = f"{SAID}=; Path=/; HttpOnly; SameSite=Strict; Max-Age=0"
        return Response(status, headers, text.encode())

    async def _serve(self, ask: Ask) -> Response:
        request = ask.request
        number = ""
        if (match := _ORGANIZATION.fullmatch(request.path)) is not None:
            number, path = match[1], match[2] or "/"
            if ask.request.method in ("GET", "HEAD") and match[2] is None:
                return Response(308, {"Location": f"/o/{number}/"})
            ask.path = path
        unknown: ApiProblem | None = None
        if f"{COOKIE}=" in request.headers.get("cookie", ""):
            try:
                await self._know(ask, number)
            except ApiProblem as fault:
                if fault.code != "unauthenticated":
                    raise
                unknown = fault
        ask.query = _query(request.query)
        found, parameters = self._paths.match(request.method, ask.path)
        names = re.findall(r"\{([a-z_]+)\}", found.path)
        ask.parameters = dict(zip(names, (quote(each, safe="") for each in parameters), strict=True))
        if ask.session is None and found.access is not Access.PUBLIC:
            return self._sign_in(ask, unknown or ApiProblem.of(problem.answer("unauthenticated", "Sign in first.")))
        if ask.session is not None and found.access is not Access.PUBLIC and request.method not in SAFE:
            given = request.headers.get(CSRF_HEADER, "")
            if not hmac.compare_digest(given.encode(), str(ask.session["csrfToken"]).encode()):
                raise CsrfTokenWrong("This page is older than your session: load it again, and repeat what you did.")
        if isinstance(found.access, Permission) and not ask.may(found.access):
            raise ApiProblem.of(problem.answer("forbidden", f"This needs the permission {found.access}."))
        return await found.handler(ask)

    async def _know(self, ask: Ask, number: str) -> None:
        """Who asks, and which organization is looked at. Raises ApiProblem when it is not there for who asks."""
        cookie = {"cookie": ask.request.headers.get("cookie", "")}
        asked = Ask(self, Request("GET", ask.path, headers=cookie, address=ask.request.address), ask.path, {}, {})
        ask.session = await asked.api("GET", "/session")
        if not number:
            return
        chosen = (await asked.api("GET", "/session", headers={ORGANIZATION_HEADER: number}))["chosen"]
        if chosen is None:
            raise NotFound("There is no such organization, or none that you see.")
        own = ask.session["organizationId"] == chosen["id"]
        ask.organization = None if own else chosen
        ask.base = "" if own else f"/o/{number}"

    def _sign_in(self, ask: Ask, fault: ApiProblem) -> Response:
        """Whoever is not signed in signs in first, and then finds what was asked for."""
        request = ask.request
        if request.method not in ("GET", "HEAD") or ask.is_part:
            return self._refuse(ask, fault)
        asked = request.path + (f"?{request.query}" if request.query else "")
        if request.headers.get("sec-fetch-site") == "cross-site" and COOKIE not in request.headers.get("cookie", ""):
            # A link from elsewhere comes without the session, which browsers send with what our pages ask alone.
            return Response(200, _HEADERS | {"Refresh": f"0;url={asked}"}, b"")
        return Response(303, {"Location": _SIGN_IN if asked == "/" else f"{_SIGN_IN}?next={quote(asked, safe='/')}"})

    def _refuse(self, ask: Ask, fault: ApiProblem) -> Response:
        template = "problem_part.html" if ask.is_part else "problem.html"
        kept = {name: value for name, value in fault.headers.items() if name in ("Retry-After", "Allow")}
        made = self.render(ask, template, fault.status, {"problem": fault}, bare=ask.is_part)
        return Response(made.status, dict(made.headers) | kept, made.body)


def _query(text: str) -> dict[str, str]:
    try:
        return dict(parse_qsl(text, keep_blank_values=True, errors="strict", max_num_fields=200))
    except ValueError:
        raise Malformed("What follows the ? is not name=value&… in UTF-8, percent-encoded.") from None


def _cookie(request: Request, name: str) -> str:
    for part in request.headers.get("cookie", "").split(";"):
        found, _, value = part.strip().partition("=")
        if found == name:
            return value
    return ""


def _said(request: Request) -> str:
    text = unquote(_cookie(request, SAID), errors="replace")
    return "".join(c for c in text if c.isprintable())


def _theme(request: Request) -> str:
    chosen = _cookie(request, "provserver_theme")
    return chosen if chosen in ("light", "dark") else "auto"

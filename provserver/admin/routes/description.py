"""Pages for people: the API's description, for programs too, and forms for one-time links."""

from functools import cache
from typing import Any

import msgspec

from provserver.admin.route import JSON, PREFIX, Access, Call, Content, route

HTML = "text/html"


async def show_openapi(_call: Call[None, None]) -> Content:
    """Describe the API to programs (OpenAPI 3.1)."""
    return Content(msgspec.json.encode(_document()), JSON)


async def show_docs(_call: Call[None, None]) -> Content:
    """Describe the API to people."""
    from provserver.admin import docs

    policy = {"Content-Security-Policy": docs.POLICY}
    return Content(docs.page(_document()), f"{HTML}; charset=utf-8", headers=policy)


async def show_set_up_form(_call: Call[None, None]) -> Content:
    """Show the page on which the server is set up."""
    return _form("/setup")


async def show_invitation_form(_call: Call[None, None]) -> Content:
    """Show the page on which an invitation is accepted."""
    return _form("/invitations/accept")


async def show_password_form(_call: Call[None, None]) -> Content:
    """Show the page on which a new password is chosen."""
    return _form("/password/reset")


def _form(path: str) -> Content:
    from provserver.admin import forms

    policy = {"Content-Security-Policy": forms.POLICY}
    return Content(forms.page(PREFIX + path), f"{HTML}; charset=utf-8", headers=policy)


@cache
def _document() -> dict[str, Any]:
    from provserver.admin import openapi
    from provserver.admin.routes import ROUTES

    return openapi.document(ROUTES)


ROUTES = [
    route("GET", "/openapi.json", Access.PUBLIC, show_openapi, produces=(JSON,)),
    route("GET", "/docs", Access.PUBLIC, show_docs, produces=(HTML,)),
    route("GET", "/setup", Access.PUBLIC, show_set_up_form, produces=(HTML,)),
    route("GET", "/invitations/accept", Access.PUBLIC, show_invitation_form, produces=(HTML,)),
    route("GET", "/password/reset", Access.PUBLIC, show_password_form, produces=(HTML,)),
]

"""The API's description, for people and for programs."""

from functools import cache
from typing import Any

import msgspec

from provserver.admin.route import JSON, Access, Call, Content, route

HTML = "text/html"


async def show_openapi(_call: Call[None, None]) -> Content:
    """Describe the API to programs (OpenAPI 3.1)."""
    return Content(msgspec.json.encode(_document()), JSON)


async def show_docs(_call: Call[None, None]) -> Content:
    """Describe the API to people."""
    from provserver.admin import docs

    policy = {"Content-Security-Policy": docs.POLICY}
    return Content(docs.page(_document()), f"{HTML}; charset=utf-8", headers=policy)


@cache
def _document() -> dict[str, Any]:
    from provserver.admin import openapi
    from provserver.admin.routes import ROUTES

    return openapi.document(ROUTES)


ROUTES = [
    route("GET", "/openapi.json", Access.PUBLIC, show_openapi, produces=(JSON,)),
    route("GET", "/docs", Access.PUBLIC, show_docs, produces=(HTML,)),
]

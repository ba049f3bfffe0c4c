import re
from html.parser import HTMLParser

from provserver.admin import docs, openapi
from provserver.admin.problem import KINDS
from provserver.admin.routes import ROUTES
from tests.admin.conftest import Site


class Links(HTMLParser):
    """What a page has, and what it leads to."""

    def __init__(self) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: set[str] = set()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        assert "src" not in given
        assert not [name for name in given if name.startswith("on")]
        if given.get("id"):
            self.ids.add(given["id"] or "")
        if given.get("href"):
            self.links.add(given["href"] or "")
        if tag not in ("meta", "input"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


async def test_the_page_has_everything_and_needs_nothing(site: Site) -> None:
    answer = await site.nobody("GET", "/docs")
    assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
    assert answer.headers["Content-Security-Policy"] == docs.POLICY
    assert "script" not in docs.POLICY
    page = answer.body.decode()
    links = Links()
    links.feed(page)
    assert links.open == []
    for link in links.links:
        assert link == "/api/admin/openapi.json" or link.removeprefix("#") in links.ids, link
    assert set(KINDS) <= links.ids
    assert not re.search(r"https?://(?!example.com/)[\w\[]", page)


def test_what_is_described_cannot_break_the_page() -> None:
    document = openapi.document(ROUTES)
    document["info"]["description"] = "<script>alert(1)</script> `a<b`"
    page = docs.page(document).decode()
    assert "<script>" not in page
    assert "<code>a&lt;b</code>" in page

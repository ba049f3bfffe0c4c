"""The files of pages: each by a URL that has its hash in it, for itself and for the modules that import it."""

import gzip
import re
from pathlib import Path

import pytest

from provserver.admin.console.assets import PATH, Assets
from provserver.admin.messages import Request
from tests.admin.console.conftest import Visitor


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A page's script that imports two others, one of which imports the third."""
    (tmp_path / "vendor").mkdir()
    (tmp_path / "page.js").write_text(
        'import {draw} from "./chart.js";\nimport("./vendor/plot.js");\nimport "./gone.js";'
    )
    (tmp_path / "chart.js").write_text("import plot from './vendor/plot.js';\nexport function draw() {}")
    (tmp_path / "vendor/plot.js").write_text("export default 1;")
    (tmp_path / "page.css").write_text("body { color: black }\n" * 50)
    (tmp_path / "notes.txt").write_text("for nobody")
    return tmp_path


def text(assets: Assets, url: str) -> str:
    answer = assets.serve(Request("GET", url))
    assert answer is not None
    assert isinstance(answer.body, bytes)
    return answer.body.decode()


def test_a_url_has_the_hash_of_what_is_served(directory: Path) -> None:
    url = Assets(directory).url("page.css")

    assert re.fullmatch(r"/assets/page\.[0-9a-f]{12}\.css", url)
    assert Assets(directory).url("page.css") == url
    (directory / "page.css").write_text("body { color: red }")
    assert Assets(directory).url("page.css") != url


def test_modules_import_one_another_by_their_urls(directory: Path) -> None:
    assets = Assets(directory)
    plot, chart = assets.url("vendor/plot.js"), assets.url("chart.js")

    assert text(assets, assets.url("page.js")) == (
        f'import {{draw}} from "{chart}";\nimport("{plot}");\nimport "./gone.js";'
    )
    assert text(assets, chart).startswith(f"import plot from '{plot}';")


def test_what_a_module_imports_is_in_its_hash(directory: Path) -> None:
    before = Assets(directory)
    (directory / "vendor/plot.js").write_text("export default 2;")
    after = Assets(directory)

    assert all(before.url(name) != after.url(name) for name in ("vendor/plot.js", "chart.js", "page.js"))
    assert before.url("page.css") == after.url("page.css")


def test_what_is_served_is_told_its_type_and_kept(directory: Path) -> None:
    assets = Assets(directory)
    url = assets.url("page.css")

    plain = assets.serve(Request("GET", url))
    packed = assets.serve(Request("GET", url, headers={"accept-encoding": "br, gzip"}))

    assert plain is not None
    assert packed is not None
    assert plain.headers == {
        "Content-Type": "text/css; charset=utf-8",
        "Cache-Control": "public, max-age=31536000, immutable",
        "Vary": "Accept-Encoding",
    }
    assert packed.headers == {**plain.headers, "Content-Encoding": "gzip"}
    assert isinstance(packed.body, bytes)
    assert gzip.decompress(packed.body) == plain.body == (directory / "page.css").read_bytes()
    assert packed == assets.serve(Request("HEAD", url, headers={"accept-encoding": "gzip"}))


def test_what_packing_makes_no_smaller_is_not_packed(directory: Path) -> None:
    assets = Assets(directory)

    answer = assets.serve(Request("GET", assets.url("vendor/plot.js"), headers={"accept-encoding": "gzip"}))

    assert answer is not None
    assert "Content-Encoding" not in answer.headers


def test_nothing_else_is_served(directory: Path) -> None:
    assets = Assets(directory)
    url = assets.url("page.css")

    for other in ("notes.txt", "page.css", "page.000000000000.css", "../page.css", ""):
        assert assets.serve(Request("GET", PATH + other)) is None, other
    assert assets.serve(Request("GET", url + "/")) is None
    with pytest.raises(KeyError):
        assets.url("notes.txt")


async def test_assets_are_kept_and_packed(visitor: Visitor) -> None:
    page = await visitor.get("/sign-out")
    assert page.status == 405
    found = page.html.split('rel="stylesheet" href="')[1].split('"')[0]
    sheet = await visitor.get(found)
    assert sheet.headers["Cache-Control"] == "public, max-age=31536000, immutable"
    assert sheet.headers["Content-Encoding"] == "gzip"
    assert (await visitor.get("/assets/console.000000000000.css")).status == 404
    assert (await visitor.get("/assets/../console.py")).status == 404

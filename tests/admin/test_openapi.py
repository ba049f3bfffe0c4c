import asyncio
import os
import sys
from pathlib import Path

import pytest

from provserver.admin import openapi
from provserver.admin.problem import KINDS
from provserver.admin.routes import ROUTES
from provserver.core.authorization import Principal
from provserver.services.api_keys import ApiKeys
from tests.admin.conftest import Caller, Site

EXAMPLES = os.environ.get("PROVSERVER_TEST_EXAMPLES", "1")
"""For each operation and phase; 20 take a quarter of an hour."""

ENVIRONMENT = {
    "PATH": os.environ["PATH"],
    "PYTHONPATH": str(Path.cwd()),
    "SCHEMATHESIS_HOOKS": "tests.admin.schemathesis_hooks",
}
"""No more than that: its client goes through all of it, for proxies, with each request."""

SETTINGS = """
[checks.positive_data_acceptance]
# Beyond what a schema can say: 412, it has changed; 422, a value of the right form that cannot be taken.
expected-statuses = ["2xx", "401", "403", "404", "409", "412", "422", "429"]
"""


async def test_the_server_does_what_its_description_says(
    site: Site, admin: Caller, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = site.api.services.api_keys
    own, authenticate = await keys.authenticate(admin.key or ""), ApiKeys.authenticate

    async def whatever_becomes_of_it(self: ApiKeys, secret: str) -> Principal:
        return own if secret == admin.key else await authenticate(self, secret)

    monkeypatch.setattr(ApiKeys, "authenticate", whatever_becomes_of_it)  # as it is found, and deleted
    await admin.ok("POST", "/profiles", {"name": "wifi-sensor"})
    await admin.ok("POST", "/static-tokens", {"profile": "wifi-sensor", "count": 3})
    (tmp_path / "schemathesis.toml").write_text(SETTINGS)
    running = await asyncio.create_subprocess_exec(
        str(Path(sys.executable).with_name("schemathesis")),
        *("--config-file", "schemathesis.toml"),
        *("run", f"{site.url}/api/admin/openapi.json"),
        *("--header", f"Authorization: Bearer {admin.key}"),
        *("--checks", "all", "--max-examples", EXAMPLES, "--seed", "1", "--generation-deterministic"),
        *("--request-timeout", "60"),  # a test of a webhook takes 10 s where the network drops what goes out
        *("--exclude-path", "/api/admin/events"),  # which does not end
        *("--exclude-path", "/api/admin/static-tokens/units/hold"),  # nor this
        *("--exclude-path", "/api/admin/particle/{product}/test"),  # which asks Particle itself
        cwd=tmp_path,
        env=ENVIRONMENT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        out, _ = await running.communicate()
    finally:
        if running.returncode is None:
            running.kill()
            await running.wait()
    assert running.returncode == 0, out.decode()


def test_every_route_is_described() -> None:
    document = openapi.document(ROUTES)
    for route in ROUTES:
        operation = document["paths"][route.path][route.method.lower()]
        assert operation["summary"]
        assert str(route.status) in operation["responses"]
        for code in route.codes:
            assert str(KINDS[code].status) in operation["responses"], (route.path, code)
        if route.body is not None and route.method == "POST":
            (content,) = operation["requestBody"]["content"].values()
            assert content["example"] is not None
    names = [operation["operationId"] for path in document["paths"].values() for operation in path.values()]
    assert len(names) == len(set(names)) == len(ROUTES)
    assert {tag["name"] for tag in document["tags"] if tag["description"]} == {route.tag for route in ROUTES}


def test_who_may_is_described() -> None:
    paths = openapi.document(ROUTES)["paths"]
    assert paths["/api/admin/session"]["post"]["security"] == []
    assert paths["/api/admin/users"]["get"]["security"] == [{"apiKey": []}, {"session": []}]
    assert paths["/api/admin/users"]["post"]["security"] == [{"apiKey": []}, {"session": [], "csrfToken": []}]
    assert paths["/api/admin/users"]["post"]["x-permission"] == "users:manage"


def test_imports_say_that_the_report_is_the_answer() -> None:
    paths = openapi.document(ROUTES)["paths"]
    for path in ("/api/admin/devices/import", "/api/admin/static-tokens/import"):
        operation = paths[path]["post"]
        assert "report" in operation["summary"]
        for word in ("200", "`errorCount`", "`imported`", "Needs the permission"):
            assert word in operation["description"], (path, word)

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

from provserver import metrics
from provserver.admin.monitor import Monitor
from provserver.metrics import Page
from provserver.services.readiness import Readiness, Unready


class Looked(Readiness):
    """What it finds is said by the test."""

    found: Unready | None = None

    async def look(self) -> Unready | None:
        return self.found

    async def look_at_database(self, _patience: float = 0) -> Unready | None:
        if isinstance(self.found, Exception):
            raise self.found
        return self.found


@asynccontextmanager
async def monitored() -> AsyncIterator[tuple[aiohttp.ClientSession, Looked, Page]]:
    page = Page(["worker 1", "worker 2"])
    readiness = Looked.__new__(Looked)
    monitor = Monitor(page, readiness)
    bound = socket.create_server(("127.0.0.1", 0))
    await monitor.start(bound)
    base = "http://{}:{}".format(*bound.getsockname())
    try:
        async with aiohttp.ClientSession(base, timeout=aiohttp.ClientTimeout(total=60)) as client:
            yield client, readiness, page
    finally:
        await monitor.stop()


async def test_metrics_are_what_prometheus_reads() -> None:
    async with monitored() as (client, _, page):
        page.join("worker 1")
        response = await client.get("/metrics")
        text = await response.text()

    assert response.status == 200
    assert response.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert response.headers["Server"] == "provserver"
    families = {family.name: family for family in text_string_to_metric_families(text)}
    for family in metrics.FAMILIES:
        samples = families[family.name.removesuffix("_total")].samples
        assert families[family.name.removesuffix("_total")].type == family.kind
        if family.kind == "histogram":
            assert {sample.name.removeprefix(family.name) for sample in samples} == {"_bucket", "_sum", "_count"}
        else:
            assert len(samples) == len(family.cells)
    up = {each.labels["process"]: each.value for each in families["provserver_process_up"].samples}
    assert up == {"worker 1": 1, "worker 2": 0}
    (memory,) = families["provserver_process_resident_memory_bytes"].samples
    assert memory.labels == {"process": "worker 1"}
    assert memory.value > 1_000_000
    (started,) = families["provserver_process_start_time_seconds"].samples
    assert started.value > 1.7e9
    (build,) = families["provserver_build_info"].samples
    assert set(build.labels) == {"version", "python"}
    assert families["provserver_database_up"].samples[0].value == 1


async def test_a_distribution_is_shown_with_all_that_lies_below() -> None:
    async with monitored() as (client, _, page):
        slot = page.join("worker 1")
        for value in (1, 2, 3, 1000):
            metrics.GROUP_ITEMS.cell("attempt").observe(value)
        slot.publish()
        text = await (await client.get("/metrics")).text()

    (family,) = [each for each in text_string_to_metric_families(text) if each.name == "provserver_group_items"]
    samples = {
        (each.name, each.labels.get("le")): each.value for each in family.samples if "attempt" in each.labels.values()
    }
    assert samples["provserver_group_items_bucket", "1.0"] == 1
    assert samples["provserver_group_items_bucket", "4.0"] == 3
    assert samples["provserver_group_items_bucket", "256.0"] == 3
    assert samples["provserver_group_items_bucket", "+Inf"] == samples["provserver_group_items_count", None] == 4
    assert samples["provserver_group_items_sum", None] == 1006


async def test_probes_say_whether_it_lives_and_is_ready() -> None:
    async with monitored() as (client, readiness, _):
        for path in ("/live", "/ready"):
            response = await client.get(path)
            assert (response.status, await response.json()) == (200, {"status": "ok"})
            assert response.headers["Cache-Control"] == "no-store"
        readiness.found = Unready.DATABASE

        assert (await client.get("/live")).status == 200
        response = await client.get("/ready")

        assert response.status == 503
        assert await response.json() == {"status": "unavailable", "reason": "Postgres cannot be reached"}
        assert "provserver_database_up 0.0" in await (await client.get("/metrics")).text()
        assert (await client.head("/ready")).status == 503


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/", 404), ("GET", "/metrics/", 404), ("POST", "/metrics", 405), ("DELETE", "/ready", 405)],
)
async def test_there_is_nothing_else(method: str, path: str, status: int) -> None:
    async with monitored() as (client, _, _):
        response = await client.request(method, path, data=b"x" * 100_000 if method == "POST" else None)

        assert response.status == status
        assert (await response.json())["status"] == "refused"
        assert (await client.get("/live")).status == 200


async def test_a_fault_is_told_without_its_words(caplog: pytest.LogCaptureFixture) -> None:
    async with monitored() as (client, readiness, _):
        readiness.found = ValueError("pl4nted")  # type: ignore[assignment] # what nobody has thought of
        response = await client.get("/metrics")

        assert (response.status, await response.json()) == (500, {"status": "refused", "reason": "internal"})
    assert "pl4nted" not in caplog.text
    assert "a request for metrics failed: ValueError at" in caplog.text


async def test_what_is_no_http_is_not_quoted() -> None:
    async with monitored() as (client, _, _):
        reader, writer = await asyncio.open_connection(client._base_url.host, client._base_url.port)  # type: ignore[union-attr]
        writer.write(b"pl4nted\r\n\r\n")
        answer = await reader.read()
        writer.close()

    head, _, body = answer.partition(b"\r\n\r\n")
    assert b" 400 " in head.splitlines()[0]
    assert json.loads(body)["code"] == "malformed"
    assert b"pl4nted" not in answer

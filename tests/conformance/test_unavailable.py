"""With Postgres away each transport says so in its own way, and asks to try again."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from tests.conformance.clients import coap, mqtt
from tests.conformance.model import Refused
from tests.conformance.replies import check_refused
from tests.faults.proxy import PostgresProxy
from tests.server import Server

WAIT = 5
"""Seconds after which trying again is right, as we say it; up to twice that."""

AWAY = Refused(status="FAILURE", error="Temporarily unavailable, try again later!", retry_after=WAIT)


@pytest.fixture
async def severed(database_url: str, tmp_path: Path) -> AsyncIterator[tuple[Server, bytes]]:
    """A server whose Postgres is gone, and a request that it would grant."""
    async with PostgresProxy(database_url) as proxy:
        server = Server(tmp_path / "data", "--database-url", proxy.dsn, env={"PROVSERVER_REQUEST_TIMEOUT": "0.5"})
        await asyncio.to_thread(server.start)  # the proxy works in this loop, so the loop must not stand still
        try:
            profile = await asyncio.to_thread(
                server.cli, "profile", "create", "any", "--strategy", "allow-create", "--database-url", proxy.dsn
            )
            key, secret = profile["provisionDeviceKey"], profile["provisionDeviceSecret"]
            await proxy.cut()
            yield server, f'{{"provisionDeviceKey":"{key}","provisionDeviceSecret":"{secret}"}}'.encode()
            await proxy.restore()
        finally:
            await asyncio.to_thread(server.stop)


async def over_http(server: Server, payload: bytes) -> bytes:
    async with aiohttp.request("POST", f"http://{server.http}/api/v1/provision", data=payload) as response:
        body = await response.read()
        assert (response.status, response.headers["Retry-After"]) == (503, str(json.loads(body)["retryAfter"]))
        return body


async def over_mqtt(server: Server, payload: bytes, version: int) -> bytes:
    link = await mqtt.Link.to(server.mqtt, version)
    try:
        link.send(mqtt.Connect(), mqtt.Publish(payload))
        assert isinstance(await link.receive(), mqtt.Connack)
        assert await link.receive() == mqtt.Ack(1)
        reply = await link.receive()
        assert isinstance(reply, mqtt.Published)
        link.send(mqtt.Pingreq())
        assert await link.receive() == mqtt.Pingresp(), "the session stays"
    finally:
        await link.close()
    return reply.payload


async def over_coap(server: Server, payload: bytes) -> bytes:
    endpoint = await coap.Endpoint.to(server.coap)
    try:
        response = await endpoint.ask("POST", coap.path_options(("api", "v1", "provision")), payload)
    finally:
        endpoint.close()
    assert (response.code, response.max_age) == ("5.03", json.loads(response.payload)["retryAfter"])
    return response.payload


async def test_without_postgres(severed: tuple[Server, bytes]) -> None:
    for body in await asyncio.gather(
        over_http(*severed), over_mqtt(*severed, mqtt.V3_1_1), over_mqtt(*severed, mqtt.V5), over_coap(*severed)
    ):
        check_refused(body, AWAY)

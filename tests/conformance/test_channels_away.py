"""With Postgres away no device is told on any channel that its credentials are bad: firmware would throw them away."""

import asyncio
import json
import urllib.request
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.conformance.channels.model import KEYED, Channel, Verdict
from tests.conformance.channels.programs.base import Place, Presented
from tests.conformance.channels.rendering import NO_ANSWER, code
from tests.conformance.channels.stage import program
from tests.conformance.test_blynk import LIMIT
from tests.faults.proxy import PostgresProxy
from tests.pki import self_signed
from tests.server import Server

SAYS = {channel: code(Verdict.UNAVAILABLE, channel) for channel in Channel} | {Channel.PSK: NO_ANSWER}
"""Over DTLS with a key, which cannot be looked up, the handshake goes no further."""


@pytest.fixture
async def severable(database_url: str, tmp_path: Path) -> AsyncIterator[tuple[Server, PostgresProxy]]:
    """A server on all channels, whose Postgres can be cut off."""
    async with PostgresProxy(database_url) as proxy:
        environment = {"PROVSERVER_REQUEST_TIMEOUT": "5"}  # enough for nine programs at once on a busy machine
        server = Server(tmp_path / "data", "--database-url", proxy.dsn, env=environment, tls=True)
        await asyncio.to_thread(server.start)  # the proxy works in this loop, so the loop must not stand still
        try:
            yield server, proxy
            await proxy.restore()
        finally:
            await asyncio.to_thread(server.stop)


def _provision(server: Server, pair: dict[str, str], name: str, **members: str) -> dict[str, str]:
    request = {key: pair[key] for key in ("provisionDeviceKey", "provisionDeviceSecret")}
    body = json.dumps(request | {"deviceName": name} | members).encode()
    with urllib.request.urlopen(f"http://{server.http}/api/v1/provision", body, LIMIT) as response:
        reply: dict[str, str] = json.load(response)
    return reply


async def test_away_is_not_wrong(
    severable: tuple[Server, PostgresProxy], tmp_path: Path, tool: Callable[[str], str]
) -> None:
    server, proxy = severable
    arguments = ("profile", "create", "any", "--strategy", "allow-create", "--database-url", proxy.dsn)
    pair = await asyncio.to_thread(server.cli, *arguments)
    own = self_signed("own")
    by_token = await asyncio.to_thread(_provision, server, pair, "by-token")
    members = {"credentialsType": "X509_CERTIFICATE", "hash": own.pem}
    await asyncio.to_thread(_provision, server, pair, "by-certificate", **members)
    token = Presented(token=by_token["credentialsValue"])
    key = Presented(identity=by_token["deviceId"], key=by_token["credentialsValue"])
    certificate = Presented(certificate=own.write(tmp_path))

    away = False

    def presented(channel: Channel) -> Presented:
        if away and SAYS[channel] == NO_ANSWER:
            return replace(key, patience=6)  # the server's own patience is 5
        return key if channel in KEYED else certificate if channel is Channel.X509 else token

    async def said() -> dict[Channel, str]:
        place = Place(server, "127.0.0.1", tmp_path, tool)
        clients = [program(place, presented(channel), channel) for channel in Channel]
        answers = await asyncio.gather(*(client.come() for client in clients))
        return {channel: answer.code for channel, answer in zip(Channel, answers, strict=True)}

    let_in = {channel: code(Verdict.LET_IN, channel) for channel in Channel}
    assert await said() == let_in
    await proxy.cut()
    away = True
    assert await said() == SAYS
    await proxy.restore()
    away = False
    assert await said() == let_in

"""A strict receiver of webhooks: it takes nothing that is not signed and formed as docs/events.md says."""

import asyncio
import base64
import hashlib
import hmac
import json
from collections import defaultdict
from collections.abc import Callable
from datetime import datetime
from typing import Any
from uuid import UUID

from aiohttp import web

from tests.adapters.conftest import Endpoint


class Receiver(Endpoint):
    """Takes events; `status` says what to answer them.

    first: of each device the payloads' `n` in the order in which each arrived for the first time. times: how often each
    event arrived and was taken. begun: something has arrived; free: cleared to have whatever arrives wait.
    """

    def __init__(self, secret: str = "") -> None:
        super().__init__()
        self.secret = secret
        self.answers: Callable[[dict[str, Any]], int] = lambda _: 200
        self.events: list[dict[str, Any]] = []
        self.times: dict[str, int] = defaultdict(int)
        self.first: dict[str, list[int]] = defaultdict(list)
        self.timestamps: list[int] = []
        self.tries = 0
        self.begun = asyncio.Event()
        self.free = asyncio.Event()
        self.free.set()

    async def handle(self, request: web.Request) -> web.Response:
        self.begun.set()
        await self.free.wait()
        self.headers, self.path = dict(request.headers), request.path_qs
        body = await request.read()
        assert request.method == "POST"
        assert request.headers["Content-Type"] == "application/json"
        event = json.loads(body)
        assert set(event) == {"id", "type", "timestamp", "data"}
        assert request.headers["webhook-id"] == event["id"] == str(UUID(event["id"]))
        assert datetime.fromisoformat(event["timestamp"]).tzinfo is not None
        timestamp = request.headers["webhook-timestamp"]
        key = base64.b64decode(self.secret.removeprefix("whsec_"), validate=True)
        signed = hmac.new(key, f"{event['id']}.{timestamp}.".encode() + body, hashlib.sha256).digest()
        assert request.headers["webhook-signature"] == "v1," + base64.b64encode(signed).decode()
        self.tries += 1
        status = self.answers(event)
        if 200 <= status < 300:
            self._take(event)
            self.timestamps.append(int(timestamp))
        return web.Response(status=status, headers=self.answer_headers, body=self.body)

    def _take(self, event: dict[str, Any]) -> None:
        self.events.append(event)
        self.times[event["id"]] += 1
        if self.times[event["id"]] == 1 and "n" in event["data"]:
            self.first[event["data"].get("deviceId", "")].append(event["data"]["n"])

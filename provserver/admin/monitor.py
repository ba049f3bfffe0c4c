"""A listener for machines that watch: Prometheus (`/metrics`), and probes (`/live`, `/ready`).

Who reaches it reads numbers and fixed words, nothing of a device, an operator or the configuration.
"""

import asyncio
import logging
import socket
from typing import cast

import msgspec
from aiohttp import web

from provserver.admin.exposition import CONTENT_TYPE, Exposition
from provserver.admin.listener import Connection, Server, protocol_log
from provserver.errors import described
from provserver.metrics import Page
from provserver.services.readiness import Readiness

log = logging.getLogger("provserver.monitor")

_BACKLOG = 64
_TIMEOUT = 10.0
"""Seconds for a request's head, and for an answer to be read."""

_PATIENCE = 1.0
"""Seconds that metrics wait for Postgres."""

_HEADERS = {"Server": "provserver", "Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}


class Monitor:
    """Serves what the page says. It shares a process with devices or not, and gives way to them between families."""

    def __init__(self, page: Page, readiness: Readiness) -> None:
        self._exposition = Exposition(page)
        self._readiness = readiness
        self._server: Server | None = None
        self._listening: asyncio.Server | None = None
        self._sweeper: asyncio.Task[None] | None = None

    async def start(self, sock: socket.socket) -> None:
        """Answer on a socket that is bound already."""
        loop = asyncio.get_running_loop()
        self._server = Server(self._serve, access_log=None, logger=protocol_log, lingering_time=_TIMEOUT)
        self._sweeper = loop.create_task(self._sweep(self._server), name="monitor:sweep")
        self._listening = await loop.create_server(self._server, sock=sock, backlog=_BACKLOG)

    async def stop(self) -> None:
        """Close."""
        if self._listening is not None:
            self._listening.close()
        if self._sweeper is not None:
            self._sweeper.cancel()
        if self._server is not None:
            self._server.pre_shutdown()
            await self._server.shutdown(1)

    async def _sweep(self, server: Server) -> None:
        while True:
            await asyncio.sleep(_TIMEOUT / 4)
            server.sweep(_TIMEOUT)

    async def _serve(self, request: web.BaseRequest) -> web.StreamResponse:
        cast("Connection", request.protocol).spoken = True
        try:
            response = await self._answer(request)
        except Exception as fault:
            log.error("a request for metrics failed: %s", described(fault))  # noqa: TRY400 - as everywhere
            response = _said(500, "internal")
        if request.can_read_body:
            response.force_close()  # nobody reads it
        return response

    async def _answer(self, request: web.BaseRequest) -> web.Response:
        if request.path not in ("/metrics", "/live", "/ready"):
            return _said(404, "there are /metrics, /live and /ready")
        if request.method not in ("GET", "HEAD"):
            refused = _said(405, "only GET and HEAD")
            refused.headers["Allow"] = "GET, HEAD"
            return refused
        if request.path == "/live":
            return _said(200)
        if request.path == "/ready":
            missing = await self._readiness.look()
            return _said(200) if missing is None else _said(503, missing.value)
        self._exposition.database_up = await self._readiness.look_at_database(_PATIENCE) is None
        text = bytearray()
        for part in self._exposition.parts():
            text += part
            await asyncio.sleep(0)
        return web.Response(body=bytes(text), headers=_HEADERS | {"Content-Type": CONTENT_TYPE})


def _said(status: int, reason: str | None = None) -> web.Response:
    said = {"status": "ok"} if reason is None else {"status": "unavailable" if status == 503 else "refused"}
    if reason is not None:
        said["reason"] = reason
    headers = _HEADERS | {"Content-Type": "application/json"}
    return web.Response(status=status, body=msgspec.json.encode(said), headers=headers)

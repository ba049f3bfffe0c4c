"""HTTP: `POST /api/v1/provision` (spec thingsboard §2), the devices' other APIs, `GET /healthz`, `GET /readyz`."""

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable
from functools import partial
from typing import cast

from aiohttp import web

from provserver.errors import Unavailable
from provserver.services.access import Access
from provserver.services.data import Data
from provserver.services.datastreams import Datastreams
from provserver.services.est import Est
from provserver.services.placeholders import Placeholders
from provserver.services.provisioning import Provisioning
from provserver.services.sessions import Sessions
from provserver.services.uplinks import Uplinks
from provserver.transports import external_api, uplink_api
from provserver.transports.device_api import DeviceApi
from provserver.transports.est import routes as est_routes
from provserver.transports.http_front import PATH, Front, rendered
from provserver.transports.http_server import (
    CORS,
    KEEPALIVE_TIMEOUT,
    Connection,
    Runner,
    Server,
    Site,
    Wrap,
    body,
    peer,
    protocol_log,
    refusal,
    retry,
)

log = logging.getLogger("provserver.http")

_PREFLIGHT = CORS | {"Access-Control-Allow-Methods": "POST", "Access-Control-Allow-Headers": "*"}

_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class HttpTransport:
    """Serves devices over HTTP, and over TLS where an address asks for it.

    ready: raises Unavailable when the server cannot serve now, for `/readyz`.
    access, data, sessions: for devices that have been provisioned; without them there is provisioning alone.
    access, datastreams: for Blynk's API; placeholders: for devices of WiFi sessions to come by it. est: for EST's
    clients, over TLS. uplinks: for webhooks of LoRaWAN networks.
    front: whether plain provision requests are answered without aiohttp.
    connect_timeout: seconds from accepting a connection to its first request's headers, and for each body.
    request_timeout: seconds after which a device is told to come back.
    """

    def __init__(
        self,
        provisioning: Provisioning,
        ready: Callable[[], Awaitable[None]],
        *,
        access: Access | None = None,
        data: Data | None = None,
        sessions: Sessions | None = None,
        datastreams: Datastreams | None = None,
        placeholders: Placeholders | None = None,
        est: Est | None = None,
        uplinks: Uplinks | None = None,
        front: bool = True,
        max_payload_size: int = 65_536,
        max_connections: int = 10_000,
        connect_timeout: float = 10.0,
        request_timeout: float = 10.0,
    ) -> None:
        self._provisioning = provisioning
        self._ready = ready
        self._connect_timeout = connect_timeout
        application = web.Application(client_max_size=max_payload_size, middlewares=[_spoken])
        application.router.add_post(PATH, self._provision)
        application.router.add_options(PATH, _preflight)
        application.router.add_get("/healthz", _healthz)
        application.router.add_get("/readyz", self._readyz)
        self._device_api: DeviceApi | None = None
        if access is not None and data is not None and sessions is not None:
            self._device_api = DeviceApi(
                access, data, sessions, body_timeout=connect_timeout, request_timeout=request_timeout
            )
            application.add_routes(self._device_api.routes())
        if access is not None and datastreams is not None:
            application.add_routes(external_api.routes(access, datastreams, placeholders))
        if est is not None:
            application.add_routes(est_routes(est, connect_timeout))
        if uplinks is not None:
            application.add_routes(uplink_api.routes(uplinks, connect_timeout))
        self._runner = Runner(
            application,
            max_connections,
            partial(Front, provisioning=provisioning, max_body=max_payload_size) if front else None,
            access_log=None,
            logger=protocol_log,
            lingering_time=connect_timeout,
            handle_signals=False,
        )
        self._sweeper: asyncio.Task[None] | None = None

    @property
    def connections(self) -> int:
        """How many are open."""
        server = self._runner.server
        return server.held if isinstance(server, Server) else 0

    @property
    def refused(self) -> int:
        """How many connections were closed because there were too many."""
        server = self._runner.server
        return server.refused if isinstance(server, Server) else 0

    async def start(
        self,
        host: str,
        port: int,
        *,
        wrap: Wrap | None = None,
        sock: socket.socket | None = None,
    ) -> tuple[str, int]:
        """Listen; returns the address, with the port that was free if 0 was asked. Raises OSError.

        May be called for several addresses. sock: bound to it already, by a supervisor that shares the address between
        processes. wrap: for HTTPS, puts TLS around a connection's protocol; the transport
        that it hands to that has extra info "certificates" and "psk", as `Peer` has them.
        """
        if self._runner.server is None:
            await self._runner.setup()
        if self._device_api is not None:
            self._device_api.open()
        site = Site(self._runner, host, port, sock=sock, wrap=wrap)
        await site.start()
        if self._sweeper is None:
            self._sweeper = asyncio.create_task(self._sweep(), name="http:sweep")
        return site.address

    async def stop(self, grace: float) -> None:
        """Accept no more, let requests under way be answered within `grace` seconds, close."""
        if self._sweeper is not None:
            self._sweeper.cancel()
            self._sweeper = None
        if self._device_api is not None:
            self._device_api.close()
        self._runner._shutdown_timeout = grace  # noqa: SLF001 - known only now, and aiohttp takes it earlier
        await self._runner.cleanup()

    async def _provision(self, request: web.Request) -> web.Response:
        payload = await body(request, self._connect_timeout)
        if not payload:
            return refusal(400, "The body is empty!")
        answer = await self._provisioning.answer(payload, peer(request), accept_protobuf=False)
        status, text = rendered(answer)
        headers = CORS | {"Retry-After": str(answer.retry_after)} if answer.retry_after else CORS
        return web.Response(body=text, status=status, content_type="application/json", headers=headers)

    async def _readyz(self, _request: web.Request) -> web.Response:
        try:
            await self._ready()
        except Unavailable as fault:
            return web.json_response({"status": "unavailable", "reason": str(fault)}, status=503, headers=retry())
        return web.json_response({"status": "ready"})

    async def _sweep(self) -> None:
        reported = 0
        while True:
            await asyncio.sleep(min(self._connect_timeout, KEEPALIVE_TIMEOUT) / 4)
            if self.refused > reported:
                log.warning("%d connections were refused: max_connections are open", self.refused - reported)
                reported = self.refused
            if isinstance(self._runner.server, Server):
                self._runner.server.sweep(self._connect_timeout)


@web.middleware
async def _spoken(request: web.Request, handler: _Handler) -> web.StreamResponse:
    cast("Connection", request.protocol).spoken = True
    return await handler(request)


async def _preflight(_request: web.Request) -> web.Response:
    return web.Response(status=204, headers=_PREFLIGHT)


async def _healthz(_request: web.Request) -> web.Response:
    return web.json_response({"status": "ok"})

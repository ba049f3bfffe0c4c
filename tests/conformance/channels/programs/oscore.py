"""CoAP under OSCORE, by aiocoap, with the security context that a device derives from its token."""

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

from aiocoap import Context, Message
from aiocoap.numbers.codes import Code
from aiocoap.oscore import NotAProtectedMessage

from tests.conformance.channels.programs.base import TIME_LIMIT, Answer, Listener, Place
from tests.transports.oscore_client import DeviceContext


def context(identity: str, key: str) -> DeviceContext:
    """What a device derives: its id names it, or its provision key does, with random bytes behind."""
    try:
        id_context = UUID(identity).bytes
    except ValueError:
        id_context = identity.encode() + secrets.token_bytes(16)
    return DeviceContext(id_context, key.encode())


class OscoreClient:
    """A device under OSCORE."""

    def __init__(self, place: Place, security_context: DeviceContext) -> None:
        self._place = place
        self._context = security_context

    async def come(self) -> Answer:
        return await self.send("telemetry", b"{}")

    async def send(self, feature: str, payload: bytes) -> Answer:
        return await self._request(Code.POST, feature, payload=payload)

    async def ask(self, client: str | None, shared: str | None) -> Answer:
        keys = [f"{name}={keys}" for name, keys in (("clientKeys", client), ("sharedKeys", shared)) if keys is not None]
        return await self._request(Code.GET, "attributes", uri_query=tuple(keys))

    async def provision(self, payload: bytes) -> Answer:
        return await self._request(Code.POST, "provision", payload=payload)

    @asynccontextmanager
    async def listen(self) -> AsyncIterator[Listener]:
        """It observes; what there is comes first, and is passed over."""
        async with self._open() as context:
            request = context.request(self._message(Code.GET, "attributes", observe=0))
            observer = _Observer(request)
            try:
                async with asyncio.timeout(TIME_LIMIT):
                    await request.response
                yield observer
            finally:
                request.observation.cancel()

    async def _request(self, code: Code, feature: str, **options: Any) -> Answer:
        async with self._open() as context, asyncio.timeout(TIME_LIMIT):
            try:
                response = await context.request(self._message(code, feature, **options)).response
            except NotAProtectedMessage as unprotected:
                response = unprotected.plain_message
        return Answer(response.code.dotted, response.payload.decode())

    def _message(self, code: Code, feature: str, **options: Any) -> Message:
        uri = f"coap://{self._place.server.coap}/api/v1/{feature}"
        return Message(code=code, uri=uri, **options)

    @asynccontextmanager
    async def _open(self) -> AsyncIterator[Context]:
        context = await Context.create_client_context(transports=["oscore", "udp6"])
        context.client_credentials[f"coap://{self._place.server.coap}/*"] = self._context
        try:
            yield context
        finally:
            await context.shutdown()


class _Observer:
    def __init__(self, request: Any) -> None:
        self._notifications = aiter(request.observation)

    async def next(self) -> str:
        async with asyncio.timeout(TIME_LIMIT):
            notification: Any = await anext(self._notifications)
        return str(notification.payload.decode())

"""HTTP: telemetry by POST, attributes by GET, their changes by long polling."""

import asyncio
from collections.abc import AsyncGenerator, Mapping
from http import HTTPStatus
from types import TracebackType
from typing import Any, Self

import aiohttp
import msgspec

from firmware_sim.errors import BadReply, NoAnswer, Refused, Unauthorized
from firmware_sim.links import SHARED_KEYS
from firmware_sim.reply import snippet
from firmware_sim.tls import Security
from firmware_sim.transports.http import TEMPORARY, describe, failure, open_session, parse_retry_after

_POLL = 60.0  # seconds that the server may hold a long poll


class HttpLink:
    """Two kept connections: one for requests, one for the long poll."""

    def __init__(self, url: str, security: Security | None, timeout: float) -> None:
        """url: up to and including the token, if there is one."""
        self._url = url
        self._security = security
        self._timeout = timeout

    async def __aenter__(self) -> Self:
        self._session = open_session(2, self._security)
        try:
            self._attributes = await self._ask()  # HTTP connects by asking
        except BaseException:
            await self._session.close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()

    async def telemetry(self, body: bytes) -> None:
        """POST telemetry."""
        await self._request("POST", "telemetry", body=body)

    async def rotate(self, body: bytes) -> bytes:
        """POST credentials."""
        return await self._request("POST", "credentials", body=body) or b""

    async def updates(self) -> AsyncGenerator[Mapping[str, Any], None]:
        """What the first question found, then one long poll after the other."""
        yield self._attributes
        while True:
            changed = await self._request("GET", "attributes/updates", hold=_POLL, timeout=str(round(_POLL * 1000)))
            if changed is None:
                yield await self._ask()  # for a change between two polls
            else:
                yield _attributes(changed)

    async def _ask(self) -> Mapping[str, Any]:
        answer = await self._request("GET", "attributes", sharedKeys=",".join(SHARED_KEYS))
        return _attributes(answer or b"{}").get("shared") or {}

    async def _request(
        self, method: str, resource: str, *, body: bytes | None = None, hold: float = 0.0, **query: str
    ) -> bytes | None:
        """The body of the response; None for a long poll that ended without news. hold: seconds to wait longer."""
        limit = aiohttp.ClientTimeout(total=self._timeout + hold)
        try:
            async with self._session.request(
                method, f"{self._url}/{resource}", params=query, data=body, timeout=limit, allow_redirects=False
            ) as response:
                content = await response.read()
                status, retry_after = response.status, response.headers.get("Retry-After")
        except (aiohttp.ClientError, OSError) as error:
            if hold and isinstance(error, asyncio.TimeoutError):
                return None
            raise failure(error, self._timeout) from error
        if status == HTTPStatus.OK:
            return content
        if hold and status == HTTPStatus.REQUEST_TIMEOUT:
            return None
        if status == HTTPStatus.UNAUTHORIZED:
            raise Unauthorized(describe(status))
        if status in TEMPORARY:
            raise NoAnswer(describe(status), parse_retry_after(retry_after))
        raise Refused(describe(status))


def _attributes(content: bytes) -> Mapping[str, Any]:
    try:
        return msgspec.json.decode(content, type=dict[str, Any])
    except (msgspec.MsgspecError, UnicodeDecodeError):
        raise BadReply(f"no attributes: {snippet(content)}") from None

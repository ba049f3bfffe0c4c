"""HTTP: POST /api/v1/provision over kept connections."""

import datetime
import email.utils
import math
from http import HTTPStatus
from types import TracebackType
from typing import Self

import aiohttp

from firmware_sim.address import Address
from firmware_sim.errors import NoAnswer, Refused

_TEMPORARY = {408, 425, 429, 500, 502, 503, 504}


class HttpTransport:
    """One session of at most `concurrency` connections. A redirect is refused: the secret stays here."""

    name = "http"

    def __init__(self, server: Address, concurrency: int) -> None:
        self.url = f"http://{server}/api/v1/provision"
        self._concurrency = concurrency

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=self._concurrency),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"Content-Type": "application/json", "Accept": "application/json"},
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()

    async def provision(self, body: bytes, timeout: float) -> bytes:
        """Status 200 carries every verdict; a 4xx with a body is one too, as the reply's reader decides."""
        limit = aiohttp.ClientTimeout(total=timeout)
        post = self._session.post(self.url, data=body, timeout=limit, allow_redirects=False)
        try:
            async with post as response:
                reply = await response.read()
                status, retry_after = response.status, response.headers.get("Retry-After")
                is_json = response.content_type == "application/json"
        except aiohttp.ClientConnectorError as error:
            raise NoAnswer.because(error.os_error, timeout) from error
        except (aiohttp.ClientError, OSError) as error:
            raise NoAnswer.because(error, timeout) from error
        if status in _TEMPORARY:
            raise NoAnswer(_describe(status), parse_retry_after(retry_after))
        if status == HTTPStatus.OK or (400 <= status < 500 and is_json and reply):
            return reply
        raise Refused(_describe(status))


def parse_retry_after(value: str | None, now: datetime.datetime | None = None) -> float | None:
    """Seconds to wait (RFC 9110 §10.2.3: a number or a date); None when absent or unreadable."""
    if value is None:
        return None
    if value.strip().isascii() and value.strip().isdigit():
        return float(value)
    try:
        date = email.utils.parsedate_to_datetime(value)
    except ValueError:
        return None
    if date.tzinfo is None:
        date = date.replace(tzinfo=datetime.UTC)
    return math.ceil(max(0.0, (date - (now or datetime.datetime.now(datetime.UTC))).total_seconds()))


def _describe(status: int) -> str:
    try:
        return f"HTTP {status} {HTTPStatus(status).phrase}"
    except ValueError:
        return f"HTTP {status}"

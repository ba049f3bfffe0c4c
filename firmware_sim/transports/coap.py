"""CoAP: confirmable POST to /api/v1/provision (RFC 7252), blockwise when the body needs it (RFC 7959)."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from types import TracebackType
from typing import Self

import aiocoap
from aiocoap.error import NetworkError

from firmware_sim.address import Address
from firmware_sim.errors import BadReply, NoAnswer, Refused

_JSON = 50  # RFC 7252 §12.3
_TEMPORARY = {
    aiocoap.TOO_MANY_REQUESTS,
    aiocoap.INTERNAL_SERVER_ERROR,
    aiocoap.BAD_GATEWAY,
    aiocoap.SERVICE_UNAVAILABLE,
    aiocoap.GATEWAY_TIMEOUT,
}

# A message id may come again only after EXCHANGE_LIFETIME, 247 s (RFC 7252 §4.4), and 16 bits count fast:
# a retired endpoint takes its port, and with it its ids, out of use.
_EXCHANGES_PER_ENDPOINT = 4096


class CoapTransport:
    """Endpoints (aiocoap contexts, each with a UDP port) lent to one exchange at a time.

    An endpoint may have one exchange under way with a server (NSTART, RFC 7252 §4.7), and aiocoap fails all
    that queue behind one that times out. So there are as many endpoints as exchanges at once, for any number
    of devices; one whose exchange was given up is not lent again, for it may still be retransmitting.
    """

    name = "coap"

    def __init__(self, server: Address) -> None:
        self.url = f"coap://{server}/api/v1/provision"
        self._idle: list[tuple[aiocoap.Context, int]] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.gather(*(endpoint.shutdown() for endpoint, _ in self._idle))
        self._idle.clear()

    async def provision(self, body: bytes, timeout: float) -> bytes:
        """2.xx and 4.00 carry the verdicts; Max-Age of an error is the time to wait (RFC 7252 §5.9.3.4)."""
        try:
            message = aiocoap.Message(code=aiocoap.POST, uri=self.url, payload=body, content_format=_JSON)
            async with asyncio.timeout(timeout), self._endpoint() as endpoint:
                # Shielded: aiocoap breaks on an error that comes in for a request just cancelled.
                response = await asyncio.shield(endpoint.request(message).response)
        except NetworkError as error:
            cause = error.__cause__ if isinstance(error.__cause__, OSError) else error
            raise NoAnswer.because(cause, timeout) from error
        except aiocoap.error.Error as error:
            raise BadReply(f"not CoAP as it should be: {type(error).__name__}") from error
        except OSError as error:
            raise NoAnswer.because(error, timeout) from error
        said = f"CoAP {response.code}"
        if response.code in _TEMPORARY:
            raise NoAnswer(said, response.opt.max_age)
        if response.code.is_successful() or (response.code == aiocoap.BAD_REQUEST and response.payload):
            return bytes(response.payload)
        raise Refused(said)

    @contextlib.asynccontextmanager
    async def _endpoint(self) -> AsyncIterator[aiocoap.Context]:
        if self._idle:
            endpoint, exchanges = self._idle.pop()
        else:
            endpoint, exchanges = await aiocoap.Context.create_client_context(transports=["simple6"]), 0
        given_up = True
        try:
            yield endpoint
            given_up = False
        except NetworkError:
            given_up = False
            raise
        finally:
            exchanges += 1
            if not given_up and exchanges < _EXCHANGES_PER_ENDPOINT:
                self._idle.append((endpoint, exchanges))
            else:
                await endpoint.shutdown()

"""CoAP: confirmable POST to /api/v1/provision (RFC 7252), blockwise when the body needs it (RFC 7959).

Plain, over DTLS with the server's certificate or with provision key and secret, or under OSCORE with the latter.
"""

import abc
import asyncio
import contextlib
from collections.abc import AsyncIterator
from types import TracebackType
from typing import Self

import aiocoap
from aiocoap.error import NetworkError

from firmware_sim import power
from firmware_sim.address import Address
from firmware_sim.errors import BadReply, NoAnswer, Refused, SimulatorError, Unauthorized
from firmware_sim.tls import PreSharedKey, Security

JSON = 50  # RFC 7252 §12.3
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


class _Endpoints(abc.ABC):
    """Endpoints (aiocoap contexts, each with a UDP port) lent to one exchange at a time.

    An endpoint may have one exchange under way with a server (NSTART, RFC 7252 §4.7), and aiocoap fails all
    that queue behind one that times out. So there are as many endpoints as exchanges at once, for any number
    of devices; one whose exchange was given up is not lent again, for it may still be retransmitting.
    """

    name: str
    scheme: str

    def __init__(self, server: Address) -> None:
        self._server = server
        self.url = f"{self.scheme}://{server}/api/v1/provision"
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
        message = aiocoap.Message(code=aiocoap.POST, uri=self.url, payload=body, content_format=JSON)
        deadline = asyncio.get_running_loop().time() + timeout
        try:
            async with self._endpoint(timeout) as endpoint, asyncio.timeout_at(deadline):
                power.reached("opened")
                response = await exchange(endpoint, message, timeout)
                power.reached("answer read")
        except TimeoutError as error:
            raise NoAnswer.because(error, timeout) from error
        if response.code.is_successful() or (response.code == aiocoap.BAD_REQUEST and response.payload):
            return bytes(response.payload)
        raise refusal(response)

    @abc.abstractmethod
    async def _open(self, timeout: float) -> aiocoap.Context:
        """A new endpoint, within `timeout` seconds."""

    def _may_be_lent_again(self, exchanges: int) -> bool:
        return exchanges < _EXCHANGES_PER_ENDPOINT

    @contextlib.asynccontextmanager
    async def _endpoint(self, timeout: float) -> AsyncIterator[aiocoap.Context]:
        endpoint, exchanges = self._idle.pop() if self._idle else (await self._open(timeout), 0)
        given_up = True
        try:
            yield endpoint
            given_up = False
        except NoAnswer as error:
            given_up = not isinstance(error.__cause__, NetworkError)
            raise
        finally:
            exchanges += 1
            if not given_up and self._may_be_lent_again(exchanges):
                self._idle.append((endpoint, exchanges))
            else:
                await endpoint.shutdown()


class CoapTransport(_Endpoints):
    """Plain CoAP."""

    name = scheme = "coap"

    async def _open(self, timeout: float) -> aiocoap.Context:  # noqa: ARG002
        return await plain_context()


class CoapsTransport(_Endpoints):
    """CoAP over DTLS: each request in an association of its own, as each device would have one."""

    name = scheme = "coaps"

    def __init__(self, server: Address, security: Security) -> None:
        super().__init__(server)
        self._security = security

    async def _open(self, timeout: float) -> aiocoap.Context:
        from firmware_sim.transports.coaps import coaps_context

        return await coaps_context(self._server, self._security, timeout)

    def _may_be_lent_again(self, exchanges: int) -> bool:  # noqa: ARG002
        return False


class OscoreTransport(_Endpoints):
    """CoAP under OSCORE: each request in a security context of its own."""

    name = "coap+oscore"
    scheme = "coap"

    def __init__(self, server: Address, key: PreSharedKey) -> None:
        super().__init__(server)
        self._key = key

    async def _open(self, timeout: float) -> aiocoap.Context:  # noqa: ARG002
        from firmware_sim.oscore import provision_context

        security_context = provision_context(self._key.identity, self._key.key)
        await security_context.reserve()
        return await oscore_context(security_context)

    def _may_be_lent_again(self, exchanges: int) -> bool:  # noqa: ARG002
        return False


async def plain_context() -> aiocoap.Context:
    """An endpoint for `coap:` URIs."""
    return await aiocoap.Context.create_client_context(transports=["simple6"])


async def oscore_context(security_context: object) -> aiocoap.Context:
    """An endpoint for `coap:` URIs that protects every request."""
    context = await aiocoap.Context.create_client_context(transports=["oscore", "simple6"])
    context.client_credentials["coap://*"] = security_context
    return context


async def exchange(endpoint: aiocoap.Context, message: aiocoap.Message, timeout: float) -> aiocoap.Message:
    """Send a request; its response, of any code. Raises a SimulatorError; the caller sets the time limit."""
    response = await response_of(endpoint.request(message), timeout)
    if (again := echoing(endpoint, message, response)) is not None:
        response = await response_of(endpoint.request(again), timeout)
    return response


def echoing(endpoint: aiocoap.Context, message: aiocoap.Message, response: aiocoap.Message) -> aiocoap.Message | None:
    """The request again, if the server wants to see that its response arrives here (RFC 9175 §2.3), else None."""
    if response.code not in (aiocoap.UNAUTHORIZED, aiocoap.TOO_MANY_REQUESTS) or response.opt.echo is None:
        return None
    security_context = endpoint.client_credentials.get("coap://*")
    if security_context is None:
        return message.copy(echo=response.opt.echo, mid=None, token=b"")
    security_context.echo = response.opt.echo
    return message.copy(mid=None, token=b"")


async def response_of(request: aiocoap.protocol.Request, timeout: float) -> aiocoap.Message:
    """The (first) response to a request under way."""
    try:
        # Shielded: aiocoap breaks on an error that comes in for a request just cancelled.
        return await asyncio.shield(request.response)
    except aiocoap.error.Error as error:
        if (plain := getattr(error, "plain_message", None)) is not None:
            if plain.code == aiocoap.UNAUTHORIZED and plain.opt.echo is not None:
                return plain  # which nobody is harmed by who believes it
            refused = refusal(plain)  # one that OSCORE does not protect: there was no context to do it with
            raise (refused if isinstance(refused, NoAnswer) else Unauthorized(f"{refused}, under OSCORE")) from error
        raise failure(error, timeout) from error
    except OSError as error:
        raise NoAnswer.because(error, timeout) from error


def failure(error: aiocoap.error.Error, timeout: float) -> SimulatorError:
    """What an exchange that broke means."""
    if isinstance(error, NetworkError):
        cause = error.__cause__
        if isinstance(cause, SimulatorError):  # of the DTLS channel below
            return cause
        return NoAnswer.because(cause if isinstance(cause, OSError) else error, timeout)
    return BadReply(f"not CoAP as it should be: {type(error).__name__}")


def refusal(response: aiocoap.Message) -> NoAnswer | Refused:
    """What a response means that is no success."""
    said = f"CoAP {response.code}"
    if response.code in _TEMPORARY:
        return NoAnswer(said, response.opt.max_age)
    if response.code == aiocoap.UNAUTHORIZED:
        return Unauthorized(said)
    return Refused(said)

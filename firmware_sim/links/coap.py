"""CoAP: telemetry by POST, attributes by GET, their changes by Observe (RFC 7641); plain, over DTLS, under OSCORE."""

import asyncio
from collections.abc import AsyncGenerator, Mapping
from types import TracebackType
from typing import Any, Self
from uuid import UUID

import aiocoap
import msgspec

from firmware_sim.address import Address
from firmware_sim.errors import BadReply, NoAnswer, WrongUsage
from firmware_sim.flash import Flash
from firmware_sim.links import SHARED_KEYS
from firmware_sim.reply import snippet
from firmware_sim.tls import PreSharedKey, Security
from firmware_sim.transports.coap import JSON, echoing, failure, oscore_context, plain_context, refusal, response_of

_QUIET = 60.0  # seconds without a notification after which the device asks again


class CoapLink:
    """Plain CoAP: one endpoint."""

    def __init__(self, url: str, timeout: float) -> None:
        """url: up to and including the token, if there is one."""
        self._url = url
        self._timeout = timeout

    async def __aenter__(self) -> Self:
        self._endpoint = await self._open()
        try:
            self._first = self._attributes(await self._asked(self._get()))  # CoAP connects by asking
        except BaseException:
            await self._endpoint.shutdown()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._endpoint.shutdown()

    async def telemetry(self, body: bytes) -> None:
        """Confirmable POST."""
        uri = f"{self._url}/telemetry"
        message = aiocoap.Message(code=aiocoap.POST, uri=uri, payload=body, content_format=JSON)
        self._success(await self._asked(message))

    async def rotate(self, body: bytes) -> bytes:
        """Confirmable POST; a reply of 4.00 is a verdict, too."""
        uri = f"{self._url}/credentials"
        message = aiocoap.Message(code=aiocoap.POST, uri=uri, payload=body, content_format=JSON)
        response = await self._asked(message)
        if response.code == aiocoap.BAD_REQUEST and response.payload:
            return bytes(response.payload)
        return self._success(response)

    async def updates(self) -> AsyncGenerator[Mapping[str, Any], None]:
        """What the first question found, then notifications; a server that does not notify is asked now and then."""
        yield self._first
        while True:
            request, response = await self._begun(self._get(observe=0))
            yield self._attributes(response)
            notifications = aiter(request.observation)
            try:
                while True:
                    async with asyncio.timeout(_QUIET):
                        notification = await anext(notifications)
                    yield _shared(self._success(notification))
            except StopAsyncIteration:
                await asyncio.sleep(_QUIET)
            except TimeoutError:
                pass  # a server that was restarted has forgotten who observes
            except aiocoap.error.Error as error:
                raise failure(error, self._timeout) from error
            finally:
                if not request.observation.cancelled:
                    request.observation.cancel()

    async def _open(self) -> aiocoap.Context:
        return await plain_context()

    def _get(self, observe: int | None = None) -> aiocoap.Message:
        uri = f"{self._url}/attributes?sharedKeys={','.join(SHARED_KEYS)}"
        return aiocoap.Message(code=aiocoap.GET, uri=uri, observe=observe)

    async def _request(self, message: aiocoap.Message) -> Any:
        return self._endpoint.request(message)

    async def _asked(self, message: aiocoap.Message) -> aiocoap.Message:
        return (await self._begun(message))[1]

    async def _begun(self, message: aiocoap.Message) -> tuple[Any, aiocoap.Message]:
        """A request, that may go on, and its (first) response."""
        request = await self._request(message)
        response = await self._response(request)
        if (again := echoing(self._endpoint, message, response)) is not None:
            request = await self._request(again)
            response = await self._response(request)
        return request, response

    def _attributes(self, response: aiocoap.Message) -> Mapping[str, Any]:
        """The values in the response to `_get`: such, or in `shared`."""
        if response.code == aiocoap.NOT_FOUND:  # ThingsBoard's way of saying that there are none
            return {}
        return _shared(self._success(response))

    async def _response(self, request: Any) -> aiocoap.Message:
        try:
            async with asyncio.timeout(self._timeout):
                return await response_of(request, self._timeout)
        except TimeoutError as error:
            raise NoAnswer.because(error, self._timeout) from error

    def _success(self, response: aiocoap.Message) -> bytes:
        if response.code.is_successful():
            return bytes(response.payload)
        raise refusal(response)


class CoapsLink(CoapLink):
    """CoAP over DTLS: one association."""

    def __init__(self, url: str, server: Address, security: Security, timeout: float) -> None:
        super().__init__(url, timeout)
        self._server = server
        self._security = security

    async def _open(self) -> aiocoap.Context:
        from firmware_sim.transports.coaps import coaps_context

        return await coaps_context(self._server, self._security, self._timeout)


class OscoreLink(CoapLink):
    """CoAP under OSCORE: one security context, whose sequence numbers are kept in flash."""

    def __init__(self, url: str, key: PreSharedKey, flash: Flash, timeout: float) -> None:
        """key: the device id and the token. Raises WrongUsage."""
        super().__init__(url, timeout)
        from firmware_sim.oscore import device_context

        try:
            self._security_context = device_context(UUID(key.identity), key.key, flash)
        except ValueError:
            raise WrongUsage("the device id is no UUID, of which OSCORE makes its context") from None

    async def _open(self) -> aiocoap.Context:
        return await oscore_context(self._security_context)

    async def _request(self, message: aiocoap.Message) -> Any:
        await self._security_context.reserve()
        return await super()._request(message)


def _shared(content: bytes) -> Mapping[str, Any]:
    """The values, which may come as such or in `shared`."""
    try:
        values = msgspec.json.decode(content or b"{}", type=dict[str, Any])
    except (msgspec.MsgspecError, UnicodeDecodeError):
        raise BadReply(f"no attributes: {snippet(content)}") from None
    shared = values.get("shared", values)
    return shared if isinstance(shared, dict) else values

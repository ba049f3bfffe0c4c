"""CoAPS and HTTPS, by `openssl s_client`: it shows whatever chain it is given, and has pre-shared keys for HTTPS."""

import asyncio

from tests.conformance.channels.programs.base import Answer, Place, Presented, started
from tests.conformance.channels.rendering import NO_ANSWER, NO_HANDSHAKE
from tests.conformance.clients import coap

_MID, _TOKEN = 1, b"\x01"
_ACKNOWLEDGED = b"\x60\x00" + _MID.to_bytes(2)
"""What comes before a response that takes long."""

_TELEMETRY = b"POST /api/v1/telemetry HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n{}"


class SClient:
    """A device that sends one request, and says what came back: CoAP by a certificate, HTTP by a key."""

    def __init__(self, place: Place, presented: Presented) -> None:
        self._place = place
        self._presented = presented

    async def come(self) -> Answer:
        """A request that needs no more than to be let in."""
        if self._presented.certificate is None:
            return await self._come_over_https()
        chain, key = map(str, self._presented.certificate)
        options = ("-dtls1_2", "-connect", self._place.server.coaps)
        request = coap.request("POST", _MID, _TOKEN, coap.path_options(("api", "v1", "telemetry")), b"{}")
        reply = await self._exchange(request, *options, "-cert", chain, "-cert_chain", chain, "-key", key)
        return Answer(f"{reply[1] >> 5}.{reply[1] & 31:02}" if reply else NO_ANSWER)

    async def _come_over_https(self) -> Answer:
        identity, key = self._presented.identity, self._presented.key.encode().hex()
        options = ("-connect", self._place.server.https, "-psk_identity", identity, "-psk", key)
        reply = await self._exchange(_TELEMETRY, *options)
        return Answer(reply.split(b" ", 2)[1].decode() if reply else NO_HANDSHAKE)

    async def _exchange(self, request: bytes, *options: str) -> bytes:
        """What comes back that is no mere acknowledgement; nothing when the handshake fails."""
        place = self._place
        command = (place.tool("openssl"), "s_client", "-quiet", "-bind", place.address, "-CAfile", str(place.server.ca))
        environment = self._presented.environment
        async with started(*command, *options, environment=environment, stderr=asyncio.subprocess.DEVNULL) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(request)
            try:
                async with asyncio.timeout(self._presented.patience):
                    while (reply := await process.stdout.read(1500)).startswith(_ACKNOWLEDGED):
                        # The response is still to come, or came so soon that both were read at once.
                        if reply := reply[len(_ACKNOWLEDGED) :]:
                            break
            except TimeoutError:
                return b""
            return reply

"""CoAP and CoAPS, by libcoap's coap-client on no TLS, OpenSSL or GnuTLS."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import quote

from tests.conformance.channels.model import Channel
from tests.conformance.channels.programs.base import Answer, Lines, Listener, Place, Presented, run, started
from tests.conformance.channels.rendering import NO_ANSWER

_RESPONSE = re.compile(r"^v:1 t:(?:ACK|CON|NON) c:([2-5]\.\d\d) [^\n]*?(?: :: '([^\n]*)')?$", re.MULTILINE)

_LONG = 10_000
"""Bytes that are better read from a file than from a command line."""


class CoapClient:
    """A device on CoAP or CoAPS."""

    def __init__(self, place: Place, presented: Presented, channel: Channel) -> None:
        self._place = place
        self._presented = presented
        self._channel = channel

    async def come(self) -> Answer:
        return await self.send("telemetry", b"{}")

    async def send(self, feature: str, payload: bytes) -> Answer:
        return await self.request("post", f"{self._prefix}/{feature}", payload)

    async def ask(self, client: str | None, shared: str | None) -> Answer:
        keys = [f"{name}={keys}" for name, keys in (("clientKeys", client), ("sharedKeys", shared)) if keys is not None]
        return await self.request("get", f"{self._prefix}/attributes" + ("?" + "&".join(keys) if keys else ""))

    async def provision(self, payload: bytes) -> Answer:
        return await self.request("post", "api/v1/provision", payload)

    @asynccontextmanager
    async def listen(self) -> AsyncIterator[Listener]:
        """It observes; what there is comes first, and is passed over."""
        command = self._command("get", "-s", "90", "-w", f"{self._prefix}/attributes")
        async with started(*command, stderr=asyncio.subprocess.STDOUT) as process:
            observer = _Observer(Lines(process))
            await observer.next()
            yield observer

    async def request(self, method: str, path: str, payload: bytes = b"") -> Answer:
        """Any request."""
        what: tuple[str, ...] = ()
        if len(payload) > _LONG:  # of its standard input it reads 20 000 bytes
            what = ("-f", str(self._place.file("payload", payload)))
        elif payload:
            what = ("-e", quote(payload))
        command = self._command(method, "-w", "-B", str(self._presented.patience), *what, path)
        done = await run(*command, environment=self._presented.environment)
        found = _RESPONSE.findall(done.output)
        said = done.output + done.error
        if not found:
            assert self._channel is not Channel.COAP, said
            return Answer(NO_ANSWER, said)
        texts = [line for line in done.output.splitlines() if line.startswith("{")]
        code, text = found[-1]
        return Answer(code, texts[-1] if texts else text)

    def _command(self, method: str, *options: str) -> tuple[str, ...]:
        place, presented = self._place, self._presented
        plain = self._channel is Channel.COAP
        program = "coap-client-notls" if plain else f"coap-client-{'gnutls' if presented.gnutls else 'openssl'}"
        command = [place.tool(program), "-v", "6", "-a", place.address, "-m", method]
        if presented.identity:
            command += ["-u", presented.identity, "-k", presented.key]
        elif not plain:
            command += ["-C", str(place.server.ca)]
        if presented.certificate is not None:
            certificate, key = presented.certificate
            command += ["-c", str(certificate), "-j", str(key)]
        origin = f"coap://{place.server.coap}" if plain else f"coaps://{place.server.coaps}"
        return (*command, *options[:-1], f"{origin}/{options[-1]}")

    @property
    def _prefix(self) -> str:
        token = self._presented.token
        return f"api/v1/{quote(token, safe='')}" if token else "api/v1"


class _Observer:
    def __init__(self, lines: Lines) -> None:
        self._lines = lines

    async def next(self) -> str:
        return await self._lines.next(lambda line: line.startswith("{"))

"""HTTP and HTTPS, by curl."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import quote, urlencode

from tests.conformance.channels.programs.base import Answer, Listener, Place, Presented, run
from tests.conformance.channels.rendering import NO_HANDSHAKE

_HANDSHAKE_FAILED = {35, 52, 55, 56}
"""Exit codes: while connecting; or later, as a client of TLS 1.3 has done its part before it is refused."""


class Curl:
    """A device on HTTP or HTTPS."""

    def __init__(self, place: Place, presented: Presented, *, tls: bool) -> None:
        self._place = place
        self._presented = presented
        self._tls = tls

    async def come(self) -> Answer:
        return await self.send("telemetry", b"{}")

    async def send(self, feature: str, payload: bytes) -> Answer:
        return await self.request("POST", f"{self._prefix}/{feature}", payload)

    async def ask(self, client: str | None, shared: str | None) -> Answer:
        keys = {name: keys for name, keys in (("clientKeys", client), ("sharedKeys", shared)) if keys is not None}
        return await self.request("GET", f"{self._prefix}/attributes" + (f"?{urlencode(keys)}" if keys else ""))

    async def provision(self, payload: bytes) -> Answer:
        return await self.request("POST", "/api/v1/provision", payload)

    @asynccontextmanager
    async def listen(self) -> AsyncIterator[Listener]:
        """By long polls: the first one has nothing to tell, and what changes behind it is kept for the next."""
        answer = await self._poll(1)
        assert answer.code == "408"
        yield _Poller(self)

    async def request(
        self, method: str, path: str, payload: bytes | None = None, headers: tuple[str, ...] = ()
    ) -> Answer:
        """Any request."""
        place, presented = self._place, self._presented
        command = [place.tool("curl"), "-sS", "--interface", place.address, "-w", "\n%{http_code}", "-X", method]
        for header in headers:
            command += ["-H", header]
        if payload is not None:
            command += ["--data-binary", "@-"]
        if presented.weak:
            command += ["--tls-max", "1.2"]  # which it takes from no configuration
        if self._tls:
            command += ["--cacert", str(place.server.ca)]
        if presented.certificate is not None:
            certificate, key = presented.certificate
            command += ["--cert", str(certificate), "--key", str(key)]
        origin = f"https://{place.server.https}" if self._tls else f"http://{place.server.http}"
        done = await run(*command, origin + path, input_=payload or b"", environment=presented.environment)
        if done.code:
            assert done.code in _HANDSHAKE_FAILED, done.error
            return Answer(NO_HANDSHAKE, done.error)
        text, _, code = done.output.rpartition("\n")
        return Answer(code, text)

    async def _poll(self, milliseconds: int) -> Answer:
        return await self.request("GET", f"{self._prefix}/attributes/updates?timeout={milliseconds}")

    @property
    def _prefix(self) -> str:
        token = self._presented.token
        return f"/api/v1/{quote(token, safe='')}" if token else "/api/v1"


class _Poller:
    def __init__(self, curl: Curl) -> None:
        self._curl = curl

    async def next(self) -> str:
        answer = await self._curl._poll(60_000)
        assert answer.code == "200"
        json.loads(answer.text)
        return answer.text

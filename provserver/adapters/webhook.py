"""Sends events to webhooks, signed, through the guarded client."""

from uuid import UUID

from yarl import URL

from provserver.adapters.outgoing import Outgoing, Unreachable
from provserver.core import webhook
from provserver.core.webhook import Answer

_REFUSED = frozenset({400, 409, 413, 415, 422, 500, 501})
"""The event may be at fault; whatever else is not 2xx, the endpoint is."""

_LONGEST_WAIT = 3600.0
"""Seconds for which a receiver can ask to be left alone."""


class WebhookClient:
    """Delivers one event at a time."""

    def __init__(self, outgoing: Outgoing) -> None:
        self._outgoing = outgoing

    def allows(self, address: str) -> bool:
        """Whether requests may go to this IP address."""
        return self._outgoing.allows(address)

    async def close(self) -> None:
        """Let go of the connections."""
        await self._outgoing.close()

    async def send(self, url: str, secret: bytes, id_: UUID, body: bytes, now: float) -> Answer:
        """One try; 2xx says that it was taken. now: seconds since the epoch. Raises nothing."""
        try:
            headers = webhook.headers(secret, id_, int(now), body)
            response = await self._outgoing.request("POST", URL(url), headers=headers, body=body)
        except Unreachable as fault:
            return Answer(None, str(fault))
        status = response.status
        if 200 <= status < 300:
            return Answer(status)
        error = f"HTTP {status}"
        if 300 <= status < 400:
            error += ": redirects are not followed, set the URL that it leads to"
        return Answer(status, error, status in _REFUSED, response.retry_after(now, _LONGEST_WAIT))

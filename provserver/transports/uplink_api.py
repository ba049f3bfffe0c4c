"""HTTP: uplinks and joins that a LoRaWAN network sends as a webhook, `POST /external/lorawan/{integration}`.

Who sends has the integration's secret in a header. Wrong ones lock no address: a network in the cloud sends for all its
customers from a few, and a secret cannot be guessed.
"""

from functools import partial
from uuid import UUID

from aiohttp import web

from provserver.core.integration import WEBHOOK_HEADER
from provserver.core.telemetry import InvalidData
from provserver.errors import RENDERINGS, Outcome, Unavailable
from provserver.services.uplinks import Uplinks
from provserver.transports.http_server import body, refusal, retry

PATH = "/external/lorawan/{integration}"

_STRANGER = "There is no such integration, or this is not its secret."


def routes(uplinks: Uplinks, body_timeout: float) -> list[web.RouteDef]:
    """The webhook. body_timeout: seconds for a body to arrive."""
    return [web.post(PATH, partial(_take, uplinks, body_timeout))]


async def _take(uplinks: Uplinks, body_timeout: float, request: web.Request) -> web.Response:
    try:
        integration_id = UUID(request.match_info["integration"])
    except ValueError:
        return refusal(403, _STRANGER)
    try:
        integration = await uplinks.sender(integration_id, request.headers.get(WEBHOOK_HEADER, ""))
        if integration is None:
            return refusal(403, _STRANGER)
        document = await body(request, body_timeout)
        await uplinks.take(integration, document, request.query.get("event", ""))
    except InvalidData as fault:
        return refusal(400, str(fault))
    except Unavailable:
        return refusal(503, RENDERINGS[Outcome.UNAVAILABLE].error or "", retry())
    return web.Response(status=204)

"""aiocoap as its documentation starts a server: a site, one resource, one line that does the work."""

import asyncio
import logging
import socket

import aiocoap
import uvloop
from aiocoap import resource

from benchmarks.servers.answer import answer


class _Provision(resource.Resource):  # type: ignore[misc] # aiocoap has no types
    async def render_post(self, request: aiocoap.Message) -> aiocoap.Message:
        return aiocoap.Message(code=aiocoap.CREATED, payload=answer(request.payload))


async def _serve() -> None:
    logging.getLogger("coap-server").setLevel(logging.WARNING)
    with socket.socket(type=socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    site = resource.Site()
    site.add_resource(["api", "v1", "provision"], _Provision())
    context = await aiocoap.Context.create_server_context(site, bind=("127.0.0.1", port))
    print(port, flush=True)
    await asyncio.Event().wait()
    await context.shutdown()


if __name__ == "__main__":
    uvloop.run(_serve())

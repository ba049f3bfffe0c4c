"""aiohttp with a handler of one line: what HTTP alone costs."""

import asyncio

import uvloop
from aiohttp import web

from benchmarks.servers.answer import answer


async def _provision(request: web.Request) -> web.Response:
    return web.Response(body=answer(await request.read()), content_type="application/json")


async def _serve() -> None:
    application = web.Application()
    application.router.add_post("/api/v1/provision", _provision)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, backlog=4096).start()
    print(runner.addresses[0][1], flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(_serve())

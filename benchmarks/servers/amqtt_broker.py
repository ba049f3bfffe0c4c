"""aMQTT's broker, anonymous; runs in `benchmarks/.venv`, so it imports nothing of ours."""

import asyncio
import logging
import socket

from amqtt.broker import Broker  # type: ignore[import-not-found] # it is in another environment


async def _serve() -> None:
    logging.disable(logging.CRITICAL)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    broker = Broker(
        {
            "listeners": {"default": {"type": "tcp", "bind": f"127.0.0.1:{port}", "max_connections": 1000}},
            "plugins": {"amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True}},
        }
    )
    await broker.start()
    print(port, flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_serve())

"""Our MQTT listener without a database: requests are read, admitted to nobody, and granted."""

import asyncio
import os
import time

import uvloop

from provserver.core import credentials, ids
from provserver.core.model import Peer
from provserver.core.wire import Granted, ProvisionRequest
from provserver.services.provisioning import Provisioning
from provserver.transports.mqtt.listener import MqttListener


class _Generous(Provisioning):
    """Reads and writes as the real one does, and grants everything at once."""

    def __init__(self) -> None:
        self._wait_limit = 10.0

    async def provision(self, request: ProvisionRequest, _peer: Peer) -> Granted:
        token = credentials.access_token(ids.token(os.urandom))
        return Granted(ids.uuid7(time.time(), os.urandom), request.device_name or "", token)


async def _serve() -> None:
    listener = MqttListener(_Generous())
    _, port = await listener.start("127.0.0.1", 0)
    print(port, flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(_serve())

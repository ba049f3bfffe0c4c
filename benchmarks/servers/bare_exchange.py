"""Our MQTT listener without a database: requests are read, admitted to nobody, and granted."""

import asyncio
import os
import time
from collections.abc import Callable

import uvloop
from asyncpg.pgproto import pgproto

from provserver.core import credentials, ids, wire
from provserver.core.model import Peer
from provserver.core.wire import Granted
from provserver.errors import Outcome
from provserver.services.provisioning import Answer, Provisioning
from provserver.transports.mqtt.listener import MqttListener


class _Generous(Provisioning):
    """Reads and writes as the real one does, and grants everything at once."""

    def __init__(self) -> None: ...

    def request(
        self,
        payload: bytes,
        peer: Peer,  # noqa: ARG002
        done: Callable[[Answer], None],
        *,
        accept_protobuf: bool = True,
    ) -> None:
        request = wire.decode(payload, accept_protobuf=accept_protobuf)
        token = credentials.access_token(ids.token(os.urandom))
        device_id = pgproto.UUID(ids.uuid7_bytes(time.time(), os.urandom))  # as `Settlement` does
        granted = Granted(device_id, request.device_name or "", token)
        done(Answer(Outcome.SUCCESS, wire.encode_granted(granted, protobuf=request.protobuf)))


async def _serve() -> None:
    listener = MqttListener(_Generous())
    _, port = await listener.start("127.0.0.1", 0)
    print(port, flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(_serve())

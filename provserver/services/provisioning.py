"""The one entrance for every transport: a payload and a peer in, an answer out."""

from dataclasses import dataclass

from provserver.core.model import Peer
from provserver.errors import Outcome


@dataclass(frozen=True, slots=True)
class Answer:
    """What a transport sends back.

    body: the reply's bytes, JSON or protobuf as the request was; empty when the outcome has no reply.
    """

    outcome: Outcome
    body: bytes
    protobuf: bool = False


class Provisioning:
    """Decides and records provision requests."""

    async def answer(self, payload: bytes, peer: Peer) -> Answer:
        """Decode, decide, commit, encode. Never raises for what a device sent or for an absent Postgres."""
        raise NotImplementedError

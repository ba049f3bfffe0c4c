"""An admitted request on its way to what it deserves."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from uuid import UUID

from provserver.core.decision import Fresh, Intent, Refusal
from provserver.core.model import VACANT, Peer, Situation
from provserver.core.signing import Issuer
from provserver.core.wire import Granted
from provserver.errors import Unavailable, described

log = logging.getLogger("provserver.provisioning")

_NOT_BEGUN = UUID(int=0)


class StaleProfile(Exception):  # noqa: N818
    """The profile is no longer what the request was admitted on: it must be admitted anew."""


@dataclass(slots=True, eq=False)
class Ticket:
    """An admitted request on its way. deadline: event loop time after which nobody waits for it.

    request_digest: keyed, over every member; None without a nonce. issuer: of the certificate that is asked for.
    approval_digest: what an operator's approval of it is found by, where one is needed.
    id: of its attempt, of the event and of the device that come of it. Fixed before the first write, as what is fresh
    is, so that a write whose answer was lost is recognised as this request's own.
    canonical: what the request's digest is of; None without a nonce. older: the three digests under the other versions
    of the keys, while there are several.
    """

    intent: Intent
    peer: Peer
    deadline: float
    nonce_digest: bytes | None
    request_digest: bytes | None
    id_digest: bytes | None
    look: bool
    canonical: Callable[[], bytes] | None = None
    older: list[tuple[bytes | None, bytes | None, bytes | None]] = field(default_factory=list)
    broken: bool = False
    issuer: Issuer | None = None
    id: UUID = _NOT_BEGUN
    fresh: Fresh | None = None
    situation: Situation = VACANT
    approval_digest: bytes = b""
    granted: Granted | None = None
    result: Granted | Refusal | Exception | None = None

    def fail(self, fault: Exception) -> None:
        """A fault that is due to one ticket is no other's."""
        log.error("a provision request failed: %s", described(fault))
        self.result = Unavailable("The request could not be settled.")

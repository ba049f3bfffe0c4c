"""Who sends plain datagrams shows by an Echo option (RFC 9175 §2) that he gets what is sent to his address.

Only whose address is locked for guessing is asked for it: somebody else may have forged that address. Nothing is kept
of him: the value is a MAC of his address and the time, under a key that all processes of the server share.
"""

import hmac
import time
from collections.abc import Callable
from typing import Final

from msgspec.structs import replace

from provserver.core.model import Peer
from provserver.services.limits import Limits, forgeable

_PERIOD: Final = 60.0
"""Seconds for which a value is new; it is good for as many more."""

_SIZE: Final = 8


class Echoes:
    """Makes and judges the values. clock: seconds that never go back, and are the same in all processes."""

    def __init__(self, limits: Limits, clock: Callable[[], float] = time.monotonic) -> None:
        self._limits = limits
        self._clock = clock

    def proved(self, peer: Peer, value: bytes | None) -> Peer:
        """A peer, with its address proved if this is a value that was sent there."""
        if not value or not forgeable(peer):
            return peer
        period = self._period()
        right = [hmac.compare_digest(value, self._value(peer, period - back)) for back in (0, 1)]
        return replace(peer, proved=True) if any(right) else peer

    def challenge(self, peer: Peer) -> bytes | None:
        """What a peer that was not heard is to come again with; None: that would not help it."""
        if not forgeable(peer) or not self._limits.watchful() or not self._limits.locked(peer):
            return None
        return self._value(peer, self._period())

    def _period(self) -> int:
        return int(self._clock() / _PERIOD)

    def _value(self, peer: Peer, period: int) -> bytes:
        content = period.to_bytes(8) + peer.address.encode()
        return hmac.digest(self._limits.secret, content, "sha256")[:_SIZE]

"""How many connections may be there that have not been let in yet, in one process and of one address.

So whoever connects and says nothing, or knocks in vain, leaves room for others.
"""

from provserver import metrics
from provserver.core.limits import network

_REFUSED = metrics.LIMITED.cell("connections")


class Admission:
    """Counts those that wait to be let in. limit: of all; per_address: of one IPv4 address or one /64 of IPv6."""

    def __init__(self, limit: int, per_address: int) -> None:
        self._limit = limit
        self._per_address = per_address
        self._waiting = 0
        self._of: dict[str, int] = {}

    @property
    def waiting(self) -> int:
        """How many wait."""
        return self._waiting

    def enter(self, address: str) -> bool:
        """Whether there is room for one more of this address, which then counts until it leaves."""
        where = network(address) if ":" in address else address
        of = self._of.get(where, 0)
        if self._waiting >= self._limit or of >= self._per_address:
            _REFUSED.value += 1
            return False
        self._of[where] = of + 1
        self._waiting += 1
        return True

    def leave(self, address: str) -> None:
        """One that entered was let in, or is gone."""
        where = network(address) if ":" in address else address
        self._waiting -= 1
        if self._of[where] > 1:
            self._of[where] -= 1
        else:
            del self._of[where]

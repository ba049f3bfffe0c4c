"""A call of a network's API: what may work another time, what never will, and what the network has answered."""

from collections.abc import Callable, Mapping
from typing import Final

import msgspec
from yarl import URL

from provserver.adapters.outgoing import Forbidden, Outgoing, Response, Unreachable
from provserver.core.onboarding import Rejected, TryAgain

_LONGEST_WAIT: Final = 3600.0
_TRANSIENT: Final = frozenset({408, 425, 429, 499})


async def call(
    outgoing: Outgoing,
    method: str,
    url: str,
    headers: Mapping[str, str],
    body: object,
    who: str,
    clock: Callable[[], float],
) -> Response:
    """An answer that is final, be it good or bad. body: JSON; None: none. who: whom errors name.

    clock: seconds since the epoch. Raises TryAgain for what may do another time, Rejected where it may not go.
    """
    content = b"" if body is None else msgspec.json.encode(body)
    try:
        response = await outgoing.request(method, URL(url), headers=headers, body=content)
    except Forbidden as fault:
        raise Rejected(f"{fault}.", "Set the address of a server that may be called.") from None
    except Unreachable as fault:
        raise TryAgain(f"The {who}: {fault}.") from None
    status = response.status
    if status == 429:
        raise TryAgain(f"The {who} takes no more requests just now (HTTP 429).", _wait(response, clock()) or 1.0)
    if status in _TRANSIENT or status >= 500:
        raise TryAgain(f"The {who} has failed (HTTP {status}).", _wait(response, clock()) or None)
    if 300 <= status < 400:
        raise Rejected(f"The {who} sends us elsewhere (HTTP {status}).", "Set the address that it leads to.")
    return response


def succeeded(response: Response) -> bool:
    """Whether it did what it was called for."""
    return 200 <= response.status < 300


def _wait(response: Response, now: float) -> float:
    """Seconds for which the server wants to be left alone; 0.0: it does not say.

    The Things Stack has a header of its own for it, cut to whole seconds.
    """
    text = response.headers.get("X-Rate-Limit-Retry", "")
    if text.isascii() and text.isdecimal() and len(text) < 10:
        return min(float(text) + 1, _LONGEST_WAIT)
    return response.retry_after(now, _LONGEST_WAIT)

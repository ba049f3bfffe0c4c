"""Times as people type them into pages: in UTC, as browsers send `datetime-local`."""

import re
from collections.abc import Mapping

_TYPED = re.compile("([0-9]{4,6}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2})(:[0-9]{2}(?:[.][0-9]+)?)?")


def sent(typed: str) -> str:
    """A time as the admin API takes it; what is no time stays as it is, for the API to say so."""
    match = _TYPED.fullmatch(typed.strip())
    return f"{match[1]}{match[2] or ':00'}Z" if match else typed.strip()


def in_query(chosen: Mapping[str, str]) -> dict[str, str]:
    """Members of a query for the admin API, those that are times in its form."""
    return {name: sent(value) if name in ("since", "until") else value for name, value in chosen.items()}

"""Moments that people name, and that Postgres can keep."""

from datetime import UTC, datetime

from provserver.errors import Invalid

FIRST_YEAR, LAST_YEAR = 1970, 9998
"""The last moment of 9999 is Postgres' infinity, and an offset from UTC carries some of its moments past that."""


def in_utc(moment: datetime, called: str) -> datetime:
    """A moment with a time zone, in UTC. called: "The time at which …". Raises Invalid."""
    if moment.tzinfo is None:
        raise Invalid(f"{called} needs a time zone: 2027-01-01T00:00:00Z.")
    if not FIRST_YEAR <= moment.year <= LAST_YEAR:
        raise Invalid(f"{called} must be of the years {FIRST_YEAR} to {LAST_YEAR}.")
    return moment.astimezone(UTC)

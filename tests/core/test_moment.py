from datetime import UTC, datetime

import pytest

from provserver.core.moment import in_utc
from provserver.errors import Invalid


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("2027-01-01T00:00:00+02:00", datetime(2026, 12, 31, 22, tzinfo=UTC)),
        ("1970-01-01T00:00:00+14:00", datetime(1969, 12, 31, 10, tzinfo=UTC)),
        ("9998-12-31T23:59:59-14:00", datetime(9999, 1, 1, 13, 59, 59, tzinfo=UTC)),
    ],
)
def test_moments_are_kept_in_utc(text: str, meant: datetime) -> None:
    assert in_utc(datetime.fromisoformat(text), "It") == meant


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("9999-12-31T23:59:59-14:00", "It must be of the years 1970 to 9998"),
        ("0001-01-01T00:00:00+14:00", "of the years"),
        ("2027-01-01T00:00:00", "It needs a time zone"),
    ],
)
def test_others_are_refused(text: str, words: str) -> None:
    with pytest.raises(Invalid, match=words):
        in_utc(datetime.fromisoformat(text), "It")

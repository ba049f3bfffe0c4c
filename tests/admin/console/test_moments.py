import pytest

from provserver.admin.console import moments


@pytest.mark.parametrize(
    ("typed", "sent"),
    [
        ("2026-11-23T02:10", "2026-11-23T02:10:00Z"),
        ("2026-11-23T02:10:05", "2026-11-23T02:10:05Z"),
        ("2026-11-23T02:10:05.25", "2026-11-23T02:10:05.25Z"),
        ("2026-11-23T02:10:05Z", "2026-11-23T02:10:05Z"),
        (" yesterday ", "yesterday"),
        ("", ""),
    ],
)
def test_times_as_browsers_send_them(typed: str, sent: str) -> None:
    assert moments.sent(typed) == sent


def test_only_times_are_changed() -> None:
    given = {"since": "2026-11-23T02:10", "device": "2026-11-23T02:10"}
    assert moments.in_query(given) == {"since": "2026-11-23T02:10:00Z", "device": "2026-11-23T02:10"}

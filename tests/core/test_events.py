import json
from datetime import UTC, datetime
from uuid import UUID

from provserver.core.events import encode


def test_an_event_says_what_when_and_of_what() -> None:
    at = datetime(2027, 1, 2, 3, 4, 5, tzinfo=UTC)
    body = encode(UUID(int=1), "device.claimed", at, '{"deviceName":"\u00e9"}')
    assert json.loads(body) == {
        "id": str(UUID(int=1)),
        "type": "device.claimed",
        "timestamp": "2027-01-02T03:04:05Z",
        "data": {"deviceName": "\u00e9"},
    }

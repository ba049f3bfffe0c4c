import json
from datetime import UTC, datetime
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provserver.core import sink
from provserver.core.model import Authenticated
from provserver.core.telemetry import Sample

DEVICE = Authenticated(uuid4(), "sensor 1", uuid4(), uuid4(), 1, False, b"", datetime.now(UTC))
ID = UUID(int=7)


def decoded(data: object) -> object:
    body = json.loads(sink.encode(ID, DEVICE, "telemetry", 1000, data))  # type: ignore[arg-type]
    found = body.pop("data")
    assert body == {
        "id": str(ID),
        "deviceId": str(DEVICE.device_id),
        "deviceName": "sensor 1",
        "profileId": str(DEVICE.profile_id),
        "kind": "telemetry",
        "ts": 1000,
    }
    return found


def test_a_message_says_whose_it_is_and_what() -> None:
    assert decoded({"a": [1]}) == {"a": [1]}
    assert decoded([Sample("a", 1), Sample("b", True)]) == [{"ts": 1000, "values": {"a": 1, "b": True}}]
    assert decoded([Sample("a", 1, 5), Sample("b", 2, 5), Sample("a", 3, 5), Sample("a", 4, 6)]) == [
        {"ts": 5, "values": {"a": 1, "b": 2}},
        {"ts": 5, "values": {"a": 3}},
        {"ts": 6, "values": {"a": 4}},
    ]


@pytest.mark.parametrize(
    ("prefix", "name", "topic"),
    [
        ("", "sensor-1", "sensor-1/telemetry"),
        ("a/b", "sensor-1", "a/b/sensor-1/telemetry"),
        ("a", "hall 1/é+#%", "a/hall 1%2Fé%2B%23%25/telemetry"),
        ("", "$SYS", "%24SYS/telemetry"),
        ("a", "\x00\x7f\ufffe\U0010ffff", "a/%00%7F%EF%BF%BE%F4%8F%BF%BF/telemetry"),
    ],
)
def test_topics_hold_any_name(prefix: str, name: str, topic: str) -> None:
    assert sink.topic(prefix, name, "telemetry") == topic


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1), st.text(st.characters(exclude_categories=["Cs"])))
def test_a_name_is_one_level_and_none_but_its_own(name: str, other: str) -> None:
    level = sink.topic_level(name)
    assert not set(level) & set("/+#\0")
    assert not level.startswith("$")
    assert (level == sink.topic_level(other)) == (name == other)

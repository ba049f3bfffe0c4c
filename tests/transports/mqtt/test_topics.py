import pytest
from hypothesis import given
from hypothesis import strategies as st

from provserver.transports.mqtt import topics
from provserver.transports.mqtt.topics import Feature

ME = "v1/devices/me/"


@pytest.mark.parametrize(
    ("topic", "feature"),
    [
        (ME + "telemetry", Feature.TELEMETRY),
        ("v2/t", Feature.TELEMETRY),
        ("v2/t/j", Feature.TELEMETRY),
        ("v2/t/p", Feature.PROTOBUF),
        (ME + "attributes", Feature.ATTRIBUTES),
        ("v2/a", Feature.ATTRIBUTES),
        ("v2/a/j", Feature.ATTRIBUTES),
        ("v2/a/p", Feature.PROTOBUF),
        (ME + "attributes/request/1", Feature.ATTRIBUTE_REQUEST),
        (ME + "attributes/request/4294967295", Feature.ATTRIBUTE_REQUEST),
        ("v2/a/req/1", Feature.ATTRIBUTE_REQUEST),
        ("v2/a/req/j/1", Feature.ATTRIBUTE_REQUEST),
        ("v2/a/req/p/1", Feature.PROTOBUF),
        (ME + "claim", Feature.CLAIM),
        (ME + "rpc/request/1", Feature.RPC_REQUEST),
        (ME + "attributes/request/", None),
        (ME + "attributes/request/-1", None),
        (ME + "attributes/request/1\n", None),
        (ME + "attributes/request/\u0661", None),
        (ME + "attributes/request/12345678901", None),
        (ME + "attributes/request/1/2", None),
        (ME + "attributes/response/1", None),
        (ME + "rpc/response/1", None),
        (ME + "telemetry/", None),
        ("/" + ME + "telemetry", None),
        ("V2/t", None),
        ("v1/gateway/telemetry", None),
        ("v2/fw/request/1/chunk/0", None),
        ("/provision/request", None),
    ],
)
def test_feature(topic: str, feature: Feature | None) -> None:
    assert topics.feature(topic) is feature


@pytest.mark.parametrize(
    ("asked", "answered"),
    [
        (ME + "attributes/request/7", ME + "attributes/response/7"),
        (ME + "rpc/request/7", ME + "rpc/response/7"),
        ("v2/a/req/7", "v2/a/res/7"),
        ("v2/a/req/j/7", "v2/a/res/j/7"),
    ],
)
def test_reply_topic(asked: str, answered: str) -> None:
    assert topics.reply_topic(asked) == answered
    assert topics.subscribable(answered)


@pytest.mark.parametrize(
    "topic_filter",
    [
        *topics.UPDATES,
        ME + "attributes/response/+",
        ME + "attributes/response/1",
        ME + "rpc/request/+",
        ME + "rpc/response/+",
        "v2/a/res/+",
        "v2/a/res/j/+",
        "v2/r/req/+",
        "v2/r/req/j/+",
        "v2/r/res/+",
    ],
)
def test_subscribable(topic_filter: str) -> None:
    assert topics.subscribable(topic_filter)


@pytest.mark.parametrize(
    "topic_filter",
    [
        *("#", "+", "v1/#", ME + "#", ME + "+", ME + "attributes/#", ME + "attributes/response/#", "v2/a/p", "v2/+"),
        *(
            "v2/a/res/p/+",
            ME + "telemetry",
            ME + "attributes\n",
            "$share/g/v2/a",
            "/provision/response",
            "",
            "downlink/#",
        ),
    ],
)
def test_not_subscribable(topic_filter: str) -> None:
    assert not topics.subscribable(topic_filter)


@given(st.text(max_size=30) | st.from_regex(r"v[12]/[a-z/+#0-9]{0,40}"))
def test_any_text(text: str) -> None:
    assert topics.feature(text) in {None, *Feature} - {Feature.DATASTREAM}
    topics.subscribable(text)

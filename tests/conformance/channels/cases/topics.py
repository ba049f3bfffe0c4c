"""Claims, MQTT's short and unknown topics, and paths that lead nowhere (spec §7.3, §7.4)."""

from tests.conformance.channels.model import (
    HTTP,
    MQTT,
    PLAIN,
    Bystander,
    Case,
    Change,
    Channel,
    Claimable,
    Coap,
    Device,
    Http,
    Kept,
    Message,
    Open,
    Publish,
    Send,
    Subscribe,
    Verdict,
)

DAY = 86_400
V5 = (Channel.MQTT5, Channel.MQTTS)


def _claim(payload: str, expect: Verdict = Verdict.DONE, says: str = "") -> Send:
    return Send(feature="claim", payload=payload, expect=expect, says=says)


_CLAIMS = (
    Case(
        id="claim/secret-and-duration",
        says="A secret, and for how long.",
        cites="7.4/claim 7.4/members",
        steps=(_claim('{"secretKey":"s-«tag»","durationMs":600000}'), Claimable("s-«tag»", 600)),
    ),
    Case(
        id="claim/empty",
        says="Without a body: no secret, for a day.",
        cites="7.4/empty 7.4/defaults",
        steps=(_claim(""), Claimable("", DAY)),
    ),
    Case(
        id="claim/empty-object",
        says="An empty object: the same.",
        cites="7.4/defaults",
        steps=(_claim("{}"), Claimable("", DAY)),
        channels=PLAIN,
    ),
    Case(
        id="claim/numeric-text",
        says="A duration may be a numeric text.",
        cites="7.4/numeric",
        steps=(_claim('{"secretKey":"s","durationMs":"600000"}'), Claimable("s", 600)),
        channels=PLAIN,
    ),
    Case(
        id="claim/no-duration",
        says="A duration of 0 or less is the default.",
        cites="7.4/defaults",
        steps=(_claim('{"secretKey":"s","durationMs":-1}'), Claimable("s", DAY)),
        channels=PLAIN,
    ),
    Case(
        id="claim/second",
        says="A second message does not replace a first one that is live.",
        cites="7.4/first-counts",
        steps=(
            _claim('{"secretKey":"first","durationMs":600000}'),
            _claim('{"secretKey":"second","durationMs":60000}'),
            Claimable("first", 600),
        ),
    ),
    Case(
        id="claim/wrong",
        says="What is no claim is refused, and changes nothing.",
        cites="7.4/refused",
        steps=(
            _claim('{"secretKey":"s"}'),
            _claim("[1]", Verdict.INVALID, "A claim must be a JSON object!"),
            _claim('{"durationMs":"soon"}', Verdict.INVALID, "durationMs must be a number"),
            _claim('{"secretKey":{}}', Verdict.INVALID, "secretKey must be a text!"),
            Claimable("s", DAY),
        ),
        channels=PLAIN,
    ),
)

_SHORT = (
    Case(
        id="topics/short-telemetry",
        says="`v2/t` and `v2/t/j` are telemetry in JSON.",
        cites="7.3/short",
        steps=(
            Send(feature="v2/t", payload='{"t":1}'),
            Send(feature="v2/t/j", payload='{"u":2}'),
            Kept(telemetry={"t": 1, "u": 2}),
        ),
        channels=MQTT,
    ),
    Case(
        id="topics/short-attributes",
        says="`v2/a`, published to and subscribed to; `v2/a/req/1`, answered on `v2/a/res/1`.",
        cites="7.3/short",
        steps=(
            Open(),
            Subscribe(filter="v2/a"),
            Subscribe(filter="v2/a/res/+"),
            Publish(topic="v2/a", payload='{"firmware":"1.0"}'),
            Change(shared={"interval": "30"}),
            Message(topic="v2/a", payload={"interval": 30}),
            Publish(topic="v2/a/req/1", payload='{"clientKeys":"firmware","sharedKeys":"interval"}'),
            Message(topic="v2/a/res/1", payload={"client": {"firmware": "1.0"}, "shared": {"interval": 30}}),
            Kept(client={"firmware": "1.0"}),
        ),
        channels=MQTT,
    ),
    Case(
        id="topics/short-protobuf",
        says="The short topics' protobuf form is refused, and said to be so.",
        cites="7.3/short-protobuf",
        steps=(Open(), Publish(topic="v2/t/p", payload=b"\x0a\x00", expect=Verdict.INVALID)),
        channels=MQTT,
    ),
    Case(
        id="topics/request-numbers",
        says="Each request is answered under its own number, subscribed to or not.",
        cites="7.3/attributes-request",
        steps=(
            Open(),
            Subscribe(filter="v1/devices/me/attributes/response/+", qos=1),
            Publish(topic="v1/devices/me/attributes", payload='{"a":1}'),
            Publish(topic="v1/devices/me/attributes/request/1", payload='{"clientKeys":"a"}'),
            Message(topic="v1/devices/me/attributes/response/1", payload={"client": {"a": 1}}),
            Publish(topic="v1/devices/me/attributes/request/4294967295", payload='{"clientKeys":"b"}'),
            Message(topic="v1/devices/me/attributes/response/4294967295", payload={}),
            Publish(topic="v2/a/req/3"),
            Message(topic="v2/a/res/3", payload={"client": {"a": 1}}),
        ),
        channels=MQTT,
    ),
    Case(
        id="topics/request-wrong",
        says="A request that is none.",
        cites="7.3/attributes-request",
        steps=(
            Open(),
            Publish(topic="v1/devices/me/attributes/request/1", payload='{"clientKeys":["a"]}', expect=Verdict.INVALID),
        ),
        channels=MQTT,
    ),
)

_ELSEWHERE = (
    Case(
        id="topics/unknown",
        says="A topic that means nothing is acknowledged, in MQTT 5 with 0x90, and the session stays.",
        cites="7.3/unknown-topic",
        steps=(
            Open(),
            Publish(topic="v1/devices/me/nonsense", payload="{}", expect=Verdict.NO_TOPIC),
            Publish(topic="/provision/request", payload="{}", expect=Verdict.NO_TOPIC),
            Publish(topic="v1/devices/me/telemetry/", payload='{"t":2}', expect=Verdict.NO_TOPIC),
            Publish(topic="v1/devices/me/telemetry", payload='{"t":1}'),
            Kept(telemetry={"t": 1}),
        ),
        channels=MQTT,
    ),
    Case(
        id="topics/mosquitto-unknown",
        says="The same as mosquitto_pub sees it.",
        cites="7.3/unknown-topic",
        steps=(Send(feature="v1/devices/me/nonsense", payload="{}", expect=Verdict.NO_TOPIC),),
        channels=MQTT,
    ),
    Case(
        id="topics/subscriptions",
        says="Its own topics may be subscribed to, those of others and wildcards may not.",
        cites="7.3/subscriptions C.2/subscribe",
        steps=(
            Open(),
            Subscribe(filter="v1/devices/me/attributes"),
            Subscribe(filter="v1/devices/me/attributes/response/+", qos=0, granted=0),
            Subscribe(filter="v1/devices/me/rpc/request/+", qos=1),
            Subscribe(filter="v1/devices/me/attributes", qos=2, granted=1),
            Subscribe(filter="#", granted=None),
            Subscribe(filter="v1/devices/+/attributes", granted=None),
            Subscribe(filter="v1/devices/me/#", granted=None),
            Subscribe(filter="/provision/response", granted=None),
            Publish(topic="v1/devices/me/telemetry", payload='{"t":1}'),
        ),
        channels=MQTT,
    ),
    Case(
        id="topics/session-limits",
        says="ThingsBoard's SDK asks for its limits behind every CONNECT; other calls are unknown.",
        cites="7.3/rpc",
        steps=(
            Open(),
            Subscribe(filter="v1/devices/me/rpc/response/+"),
            Publish(topic="v1/devices/me/rpc/request/1", payload='{"method":"getSessionLimits","params":{}}'),
            Message(topic="v1/devices/me/rpc/response/1"),
            Publish(topic="v1/devices/me/rpc/request/2", payload='{"method":"x"}', expect=Verdict.NO_TOPIC),
        ),
        channels=MQTT,
    ),
    Case(
        id="paths/http",
        says="Procedure calls, firmware and unknown paths, as ThingsBoard has them where there is nothing.",
        cites="7.3/rpc 7.3/firmware 7.3/unknown-path",
        steps=(
            Http(path="/api/v1/«token»/rpc?timeout=1", expect=408),
            Http(method="POST", path="/api/v1/«token»/rpc", payload='{"method":"x"}', expect=501),
            Http(method="POST", path="/api/v1/«token»/rpc/1", payload="{}", expect=200),
            Http(path="/api/v1/«token»/firmware?title=x&version=1", expect=404),
            Http(path="/api/v1/«token»/software?title=x&version=1", expect=404),
            Http(path="/api/v1/«token»/nonsense", expect=404),
            Http(path="/api/v1/«token»/telemetry", expect=405),
            Http(method="DELETE", path="/api/v1/«token»/attributes", expect=405),
            Bystander(),
        ),
        channels=HTTP,
    ),
    Case(
        id="paths/http-wrong-token",
        says="A wrong token gets 401 and no body on every path, whatever it sends.",
        cites="7.3/http-401 7.2/wrong",
        steps=(
            Http(method="POST", path="/api/v1/wrong-«tag»/telemetry", payload="{}", expect=401, body=""),
            Http(method="POST", path="/api/v1/wrong-«tag»/telemetry", payload="no JSON", expect=401, body=""),
            Http(method="POST", path="/api/v1/wrong-«tag»/attributes", payload="{}", expect=401, body=""),
            Http(path="/api/v1/wrong-«tag»/attributes", expect=401, body=""),
            Http(path="/api/v1/wrong-«tag»/attributes/updates?timeout=1", expect=401, body=""),
            Http(method="POST", path="/api/v1/wrong-«tag»/claim", payload="{}", expect=401, body=""),
            Http(path="/api/v1/wrong-«tag»/rpc?timeout=1", expect=401, body=""),
            Http(path="/api/v1/attributes", expect=401, body=""),
        ),
        channels=HTTP,
    ),
    Case(
        id="paths/http-slash",
        says="A token with a slash is one segment when it is escaped.",
        cites="7.3/http 5.7/lengths",
        steps=(Http(method="POST", path="/api/v1/a%2Fb-«tag»/telemetry", payload="{}", expect=200),),
        channels=HTTP,
        device=Device(token="a/b-«tag»"),
    ),
    Case(
        id="paths/coap",
        says="Methods and features that there are not.",
        cites="7.3/unknown-path 7.3/coap 7.3/rpc",
        steps=(
            Coap(path="api/v1/«token»/nonsense", expect="4.00"),
            Coap(path="api/v1/«token»/telemetry", method="get", expect="4.00"),
            Coap(path="api/v1/«token»/telemetry", method="put", payload="{}", expect="4.05"),
            Coap(path="api/v1/«token»/rpc", method="get", expect="5.01"),
            Coap(path="api/v1/wrong-«tag»/attributes", method="get", expect="4.01", body=""),
            Coap(path="api/v1/wrong-«tag»/claim", payload="{}", expect="4.01", body=""),
            Coap(path="api/v1/attributes", method="get", expect="4.01", body=""),
            Coap(path="API/v1/«token»/telemetry", payload="{}", expect="4.04"),
            Coap(path="api/v1/«token»/TELEMETRY", payload='{"t":1}', expect="2.01"),
            Kept(telemetry={"t": 1}),
        ),
        channels=(Channel.COAP,),
    ),
)

CASES = (*_CLAIMS, *_SHORT, *_ELSEWHERE)

"""Attributes: client, shared and server ones, who sees which, requests for them, and word of their changes."""

from tests.conformance.channels.cases.short import each
from tests.conformance.channels.model import (
    ALL,
    CERTIFICATE,
    COAP,
    HTTP,
    MQTT,
    PLAIN,
    Ask,
    Bystander,
    Case,
    Change,
    Channel,
    Device,
    Hear,
    Http,
    Kept,
    Listen,
    Message,
    Open,
    Publish,
    Send,
    Subscribe,
    Verdict,
)

ATTRIBUTES = "v1/devices/me/attributes"
REQUEST, RESPONSE = f"{ATTRIBUTES}/request/7", f"{ATTRIBUTES}/response/7"


def _publish(payload: str, expect: Verdict = Verdict.DONE, says: str = "") -> Send:
    return Send(feature="attributes", payload=payload, expect=expect, says=says)


def _refused(name: str, says: str, payload: str, reason: str, channels: tuple[Channel, ...] = PLAIN) -> Case:
    return Case(
        id=f"attributes/{name}",
        says=says,
        cites="7.3/attributes-refused",
        steps=(_publish(payload, Verdict.INVALID, reason), Kept(client={}), _publish('{"a":1}'), Kept(client={"a": 1})),
        channels=channels,
    )


_CLIENT = (
    Case(
        id="attributes/client",
        says="What a device publishes becomes client attributes; null says nothing, a later value replaces.",
        cites="7.3/attributes 7.3/attributes-client",
        steps=(
            _publish('{"firmware":"1.0","count":3,"ok":true,"nil":null,"json":{"a":[1]}}'),
            _publish('{"count":4}'),
            Kept(client={"firmware": "1.0", "count": 4, "ok": True, "json": {"a": [1]}}, shared={}),
        ),
    ),
    Case(
        id="attributes/client-writes-no-shared",
        says="A device cannot write a shared attribute: its own of that name is another.",
        cites="7.3/attributes-client",
        steps=(
            Change(shared={"interval": "30"}),
            _publish('{"interval":1}'),
            Kept(client={"interval": 1}, shared={"interval": 30}),
            Ask(client="interval", shared="interval", gets={"client": {"interval": 1}, "shared": {"interval": 30}}),
        ),
    ),
    Case(
        id="attributes/client-writes-no-state",
        says="Nor a server attribute: provisionState is not for devices to write.",
        cites="7.3/attributes-client",
        steps=(_publish('{"provisionState":"x"}'), Kept(client={"provisionState": "x"}, state=None)),
        channels=PLAIN,
    ),
    _refused("array", "An array.", '[{"a":1}]', "Attributes must be a JSON object!", ALL),
    _refused("text", "A text.", '"a"', "Attributes must be a JSON object!"),
    _refused("not-json", "No JSON.", '{"a":1', "The message is not JSON!"),
    _refused("key-wrong", "A blank key spoils the message.", '{"b":1," ":1}', "A key must have 1 to 255 characters"),
)

_VISIBLE = (
    Case(
        id="attributes/all",
        says="Asked for nothing in particular: all client and shared ones. Server ones are never seen.",
        cites="7.3/attributes-request 7.3/attributes-all 7.3/attributes-server",
        steps=(
            _publish('{"firmware":"1.0"}'),
            Change(shared={"interval": "30"}, server={"secret": "of the operator"}),
            Ask(gets={"client": {"firmware": "1.0"}, "shared": {"interval": 30}}),
        ),
    ),
    Case(
        id="attributes/by-keys",
        says="By keys: members for what was asked and exists.",
        cites="7.3/attributes-request",
        steps=(
            _publish('{"a":1,"b":2,"c":3}'),
            Change(shared={"x": '"1"', "y": "[1,2]"}),
            Ask(client="a,c", gets={"client": {"a": 1, "c": 3}}),
            Ask(shared="y,z", gets={"shared": {"y": [1, 2]}}),
            Ask(client="b", shared="x", gets={"client": {"b": 2}, "shared": {"x": "1"}}),
        ),
    ),
    Case(
        id="attributes/none",
        says="None of what was asked for: empty, over CoAP 4.04.",
        cites="7.3/attributes-none",
        steps=(Ask(gets={}), _publish('{"a":1}'), Ask(client="b", shared="a", gets={})),
    ),
    Case(
        id="attributes/server-by-key",
        says="A server attribute is not to be had by its name, in neither scope.",
        cites="7.3/attributes-server",
        steps=(
            Change(server={"secret": "of the operator"}),
            Ask(client="secret,provisionState", shared="secret,provisionState", gets={}),
        ),
    ),
    Case(
        id="attributes/by-certificate",
        says="By a client certificate, without a token in the path.",
        cites="7.3/http-certificate 7.3/coap-certificate channels/certificate",
        steps=(
            _publish('{"a":1}'),
            Ask(client="a", gets={"client": {"a": 1}}),
            Listen(),
            Change(shared={"x": "1"}),
            Hear({"x": 1}),
        ),
        channels=CERTIFICATE,
        device=Device(certificate="device"),
    ),
)

_UPDATES = (
    Case(
        id="updates/told",
        says="Who listens is told of shared attributes that are written, changed and removed.",
        cites="7.3/updates 7.3/updates-mqtt 7.3/updates-http 7.3/updates-coap 7.3/updates-deleted",
        steps=(
            Listen(),
            Change(shared={"interval": "30"}),
            Hear({"interval": 30}),
            Change(shared={"interval": "60", "mode": "eco"}),
            Hear({"interval": 60, "mode": "eco"}),
            Change(delete_shared=("mode",)),
            Hear({"deleted": ["mode"]}),
        ),
    ),
    Case(
        id="updates/shared-only",
        says="Not of server attributes, nor of its own.",
        cites="7.3/updates-shared-only",
        steps=(
            Listen(),
            Change(server={"secret": "1"}),
            _publish('{"firmware":"1.0"}'),
            Change(shared={"interval": "30"}),
            Hear({"interval": 30}),
        ),
        channels=tuple(channel for channel in ALL if channel not in MQTT),
    ),
    Case(
        id="updates/shared-only-mqtt",
        says="The same in one session: what it publishes on the topic it has subscribed to does not come back.",
        cites="7.3/updates-shared-only 7.3/updates-mqtt",
        steps=(
            Open(),
            Subscribe(filter=ATTRIBUTES),
            Change(server={"secret": "1"}),
            Publish(topic=ATTRIBUTES, payload='{"firmware":"1.0"}'),
            Change(shared={"interval": "30"}),
            Message(topic=ATTRIBUTES, payload={"interval": 30}),
        ),
        channels=MQTT,
    ),
    Case(
        id="updates/unsubscribed",
        says="Who has not subscribed is not told.",
        cites="7.3/updates-mqtt",
        steps=(
            Open(),
            Change(shared={"interval": "30"}),
            Publish(topic=REQUEST, payload='{"sharedKeys":"interval"}'),
            Message(topic=RESPONSE, payload={"shared": {"interval": 30}}),
        ),
        channels=MQTT,
    ),
    Case(
        id="updates/poll-ends",
        says="A long poll without changes ends with 408; what changes between two polls is told by the next.",
        cites="7.3/updates-http 7.3/http-408",
        steps=(
            Http(path="/api/v1/«token»/attributes/updates?timeout=1", expect=408, body=""),
            Change(shared={"interval": "30"}),
            Http(path="/api/v1/«token»/attributes/updates?timeout=20000", expect=200, body={"interval": 30}),
            Http(path="/api/v1/«token»/attributes/updates?timeout=1", expect=408, body=""),
        ),
        channels=HTTP,
    ),
    Case(
        id="updates/poll-wrong",
        says="A timeout that is no number.",
        cites="7.3/updates-http",
        steps=(Http(path="/api/v1/«token»/attributes/updates?timeout=soon", expect=400),),
        channels=HTTP,
    ),
    Case(
        id="updates/others",
        says="Nobody hears of another device's attributes.",
        cites="7.3/updates",
        steps=each((*MQTT, *COAP), Listen(), Bystander(), Change(shared={"a": "1"}), Hear({"a": 1})),
    ),
)

CASES = (*_CLIENT, *_VISIBLE, *_UPDATES)

"""Blynk's clients: the calls of `/external/api/`, the MQTT topics, and the Particle webhook of seed 002."""

import json
from typing import Any

from tests.conformance.channels.cases.short import each
from tests.conformance.channels.model import (
    HTTP,
    MQTT,
    Case,
    Channel,
    Ended,
    Http,
    Kept,
    Login,
    Message,
    Open,
    Profile,
    Publish,
    Step,
    Subscribe,
    Verdict,
)

STREAMS = (
    "Power:V0:int:0:1",
    "Set Temperature:V1:int:10:30",
    "Current Temperature:V2:double:0:50",
    "Status:V3:enum",
    "Terminal:V4:string",
    "Where:V5:location",
    "Published at:V6:string",
    "Millis:V14:int",
    "Voltage:V15:double",
    "LED:V16:int:0:1",
    "Button:V17:int:0:1",
)
"""Of Blynk's paho sample, and of the Particle firmware of seed 002."""

TEMPLATE = Profile(datastreams=STREAMS, metadata=("Serial Number",))
BLYNK = Login(username="device", password="«token»")
V5 = (Channel.MQTT5, Channel.MQTTS)
WEBHOOK = "V6=2026-11-22T05%3A01%3A07.250Z&V14=123456789&V15=3.700000&V16=1&V17=0"

INVALID_TOKEN = "Invalid token."
WRONG_PIN = "Wrong pin format."
MISMATCH = "Value doesn't match the Datastream data type."
NO_DATASTREAM = "No datastream setup for that pin."


def _call(call: str, body: Any = "", *, expect: int = 200, payload: str | None = None, **how: Any) -> Http:
    """A call with the device's token."""
    name, _, query = call.partition("?")
    path = f"/external/api/{name}?token=«token»" + (f"&{query}" if query else "")
    return Http(path=path, expect=expect, body=body, payload=payload, method="POST" if payload else "GET", **how)


def _refused(call: str, message: str, **how: Any) -> Http:
    """A call that is refused, in Blynk's words."""
    return _call(call, {"error": {"message": message}}, expect=400, **how)


def _http(id_: str, says: str, cites: str, *steps: Step, channels: tuple[Channel, ...] = HTTP) -> Case:
    return Case(id=f"blynk/{id_}", says=says, cites=cites, steps=steps, channels=channels, profile=TEMPLATE)


def _fine(id_: str, says: str, cites: str, *steps: Step) -> Case:
    """What is the same over TLS, or it would not get so far."""
    return _http(id_, says, cites, *steps, channels=(Channel.HTTP,))


def _mqtt(id_: str, says: str, cites: str, *steps: Step) -> Case:
    """A session of Blynk's user."""
    return Case(
        id=f"blynk/{id_}", says=says, cites=cites, steps=(Open(login=BLYNK), *steps), channels=MQTT, profile=TEMPLATE
    )


_CALLS = (
    _http(
        "update",
        "`update`: by pin in either case, by `pin` and `value`, by `dataStreamId`; a location has two values.",
        "C.1/update C.1/pins C.1/location",
        _call("update?v1=25"),
        _call("update?V4=hello"),
        _call("update?pin=v2&value=21.5"),
        _call("update?dataStreamId=0&value=1"),
        _call("update?pin=V5&value=-73.9&value=40.7"),
        Kept(
            telemetry={
                "Set Temperature": 25,
                "Terminal": "hello",
                "Current Temperature": 21.5,
                "Power": 1,
                "Where": [-73.9, 40.7],
            }
        ),
    ),
    _fine(
        "update-refused",
        "`update`, refused: nothing is kept.",
        "C.1/update C.1/messages",
        _refused("update?x1=25", WRONG_PIN),
        _refused("update", WRONG_PIN),
        _refused("update?v99=1", NO_DATASTREAM),
        _refused("update?v1=warm", MISMATCH),
        _refused("update?dataStreamId=x&value=1", "Wrong dataStreamId format."),
        Kept(telemetry={}),
    ),
    _fine(
        "clamped",
        "Values are held within the datastream's range.",
        "C.1/clamp",
        _call("update?v1=99"),
        _call("update?v2=-5"),
        _call("get?v1", "30"),
        Kept(telemetry={"Set Temperature": 30, "Current Temperature": 0.0}),
    ),
    _http(
        "batch",
        "`batch/update`: several pins at once, all or none.",
        "C.1/batch",
        _call("batch/update?V0=1&V1=20&V5=1.5&V5=2.5"),
        Kept(telemetry={"Power": 1, "Set Temperature": 20, "Where": [1.5, 2.5]}),
        _refused("batch/update?V0=0&V1=warm", MISMATCH.rstrip(".")),
        _refused("batch/update?V0=0&nonsense=1", WRONG_PIN),
        Kept(telemetry={"Power": 1, "Set Temperature": 20, "Where": [1.5, 2.5]}),
    ),
    _fine(
        "upload",
        "`batch/update` by POST: timestamped values of one pin; a Content-Type is a must.",
        "C.1/upload",
        _refused("batch/update?pin=v2", "Unknown content type.", payload="[[1,2]]"),
        _refused(
            "batch/update?pin=v2",
            "Timestamps must be in milliseconds, a month old at most, and not in the future.",
            payload="[[1,2]]",
            headers=("Content-Type: application/json",),
        ),
        _refused(
            "batch/update?pin=v2",
            "Too much data in batch. Maximum batch size is 10000 points.",
            payload=json.dumps([[1, 2]] * 10_001),
            headers=("Content-Type: application/json",),
        ),
        _call("batch/update?pin=v2", "OK", payload="[]", headers=("Content-Type: application/json",)),
    ),
    _http(
        "get",
        "`get`: one value bare, several as JSON, by pin or `dataStreamId`; `getAll`: all that have one.",
        "C.1/get C.1/get-all",
        _call("batch/update?V0=1&V4=hello&V5=1.5&V5=2.5"),
        _call("get?v0", "1"),
        _call("get?V4", "hello"),
        _call("get?v5", [1.5, 2.5]),
        _call("get?dataStreamId=0", "1"),
        _call("get?v0&v4", {"v0": 1, "v4": "hello"}),
        _call("getAll", {"v0": 1, "v4": "hello", "v5": [1.5, 2.5]}),
        _refused("get?x", WRONG_PIN),
        _call("get?v99", ..., expect=400),
    ),
    _http(
        "is-hardware-connected",
        "`isHardwareConnected`: false until it sends something, true for a while afterwards.",
        "C.1/connected access/online",
        _call("isHardwareConnected", "false"),
        _call("update?v0=1"),
        _call("isHardwareConnected", "true"),
        Kept(online=True),
    ),
    _fine(
        "meta",
        "`device/meta` by id or name, `device/meta/update`; what there is not.",
        "C.1/meta",
        _call("device/meta/update?metaFieldName=Serial%20Number&value=SN-1"),
        _call("device/meta?metaFieldId=3", {"id": 3, "name": "Serial Number", "type": "text", "value": "SN-1"}),
        _call("device/meta?Serial%20Number", ...),
        _call("device/meta?metaFieldId=1", ...),
        _refused("device/meta?metaFieldId=99", "MetaField doesn't exist."),
        _refused("device/meta?metaFieldName=Colour", "MetaField doesn't exist."),
        _refused("device/meta", "Wrong metaField format."),
        _refused("device/meta/update?metaFieldName=Device%20Name&value=x", "Wrong value"),
    ),
    _fine(
        "provision",
        "`provision` at the end of WiFi provisioning: of its own template only.",
        "C.1/provision",
        _call("provision?templateId=«template»&build=1&ver=2"),
        _refused("provision?templateId=TMPLother", "The device is of another template."),
    ),
    _fine(
        "property",
        "`update/property` of a datastream's widget.",
        "C.1/property",
        _call("update/property?pin=v0&color=%23D3435C&isDisabled=true"),
        _refused("update/property?pin=x&color=red", WRONG_PIN),
        _refused("update/property?pin=v99&color=red", NO_DATASTREAM),
    ),
    _fine(
        "events",
        "`logEvent`: a profile has no events.",
        "C.1/events",
        _refused("logEvent", "Event code is not provided."),
        _refused("logEvent?code=hot", "Can't find Event with this code in Product template"),
    ),
    _http(
        "invalid-token",
        "A token that nobody has, an empty one, or none: Blynk's words on every call.",
        "C.1/invalid-token",
        *(
            Http(path=f"/external/api/{call}", expect=400, body={"error": {"message": INVALID_TOKEN}})
            for call in (
                "update?token=wrong-«tag»&v0=1",
                "update?token=&v0=1",
                "update?v0=1",
                "batch/update?token=wrong-«tag»&V0=1",
                "get?token=wrong-«tag»&v0",
                "getAll?token=wrong-«tag»",
                "isHardwareConnected?token=wrong-«tag»",
                "device/meta?token=wrong-«tag»&metaFieldId=1",
                "provision?token=wrong-«tag»&templateId=«template»",
            )
        ),
    ),
    _fine(
        "case-sensitive",
        "Paths and names are case-sensitive.",
        "C.1/case",
        Http(path="/external/api/Update?token=«token»&v0=1", expect=404),
        Http(path="/external/api/update?TOKEN=«token»&v0=1", expect=400),
        Kept(telemetry={}),
    ),
)

_PARTICLE = (
    _http(
        "particle-webhook",
        "The webhook of seed 002 for a provisioned device: taken at once with an empty 200, and it is online.",
        "C.4/webhook C.4/values C.4/online",
        Kept(online=False),
        _call(f"batch/update?{WEBHOOK}", headers=("User-Agent: ParticleBot/1.1 (https://docs.particle.io/webhooks)",)),
        Kept(
            online=True,
            telemetry={
                "Published at": "2026-11-22T05:01:07.250Z",
                "Millis": 123456789,
                "Voltage": 3.7,
                "LED": 1,
                "Button": 0,
            },
        ),
        _call("isHardwareConnected", "true"),
        _call("get?V6", "2026-11-22T05:01:07.250Z"),
    ),
    _http(
        "particle-unsynced",
        "Until the ledger has synced the token is empty: 400, in words that say so.",
        "C.4/no-token",
        Http(
            path=f"/external/api/batch/update?token=&{WEBHOOK}",
            expect=400,
            body={"error": {"message": INVALID_TOKEN}},
        ),
        Kept(online=False, telemetry={}),
    ),
    _fine(
        "particle-empty-values",
        "Values that are not there come as empty texts: those pins are left as they are.",
        "C.4/empty",
        _call("batch/update?V14=5&V16=1"),
        _call("batch/update?V6=2026-11-22T05%3A01%3A07.250Z&V14=&V15=&V16=&V17="),
        Kept(telemetry={"Published at": "2026-11-22T05:01:07.250Z", "Millis": 5, "LED": 1}),
    ),
    _http(
        "particle-defaults",
        "Without `noDefaults` Particle adds members of its own: they are ignored.",
        "C.4/defaults",
        _call(f"batch/update?{WEBHOOK}&event=blynk_https_get&data=%7B%7D&coreid=e00fce68&published_at=2026-11-22"),
        Kept(online=True),
    ),
)

_TOPICS = (
    _mqtt(
        "topics-datastreams",
        "`ds/<name>` and `batch_ds`, by the datastream's name; what HTTP reads by pin.",
        "C.2/uplink C.2/names",
        Publish(topic="ds/Set Temperature", payload="25"),
        Publish(topic="ds/Where", payload="-73.9\0" + "40.7"),
        Publish(topic="batch_ds", payload='{"Power":1,"Terminal":"hello"}'),
        Kept(telemetry={"Set Temperature": 25, "Where": [-73.9, 40.7], "Power": 1, "Terminal": "hello"}),
    ),
    _mqtt(
        "topics-get",
        "`get/ds`, `get/ds/all`, `get/meta`, `get/utc/all/json`: answered below `downlink/`, at QoS 0 if need be.",
        "C.2/get C.2/downlink",
        Publish(topic="ds/Power", payload="1"),
        Publish(topic="meta/Serial Number", payload="SN-1"),
        Subscribe(filter="downlink/#", qos=0, granted=0),
        Publish(topic="get/ds", payload="Power"),
        Message(topic="downlink/ds/Power", payload="1"),
        Publish(topic="get/ds/all", payload=""),
        Message(topic="downlink/ds/Power", payload="1"),
        Publish(topic="get/meta", payload="Serial Number"),
        Message(topic="downlink/meta/Serial Number", payload="SN-1"),
        Publish(topic="get/utc/all/json", payload=""),
        Message(topic="downlink/utc/all/json"),
    ),
    _mqtt(
        "topics-info",
        "`info/mcu`, retained at QoS 1 as blynk-provisioning sends it.",
        "C.2/info",
        Publish(topic="info/mcu", payload='{"tmpl":"«template»","ver":"1","rxbuff":1024}', retain=True),
        Kept(client={"mcu.tmpl": "«template»", "mcu.ver": "1", "mcu.rxbuff": 1024}),
    ),
    _mqtt(
        "topics-property-erase",
        "A datastream's properties, and its erasure.",
        "C.2/property",
        Publish(topic="ds/Power", payload="1"),
        Publish(topic="ds/Power/prop/color", payload="F7EAE4"),
        Kept(client={"property.Power.color": "F7EAE4"}, telemetry={"Power": 1}),
        Publish(topic="ds/Power/prop/color/erase", payload=""),
        Publish(topic="ds/Power/erase", payload=""),
        Kept(client={}, telemetry={}),
    ),
    Case(
        id="blynk/topics-wrong",
        says="What is wrong with a message is told on `downlink/diag`, subscribed to or not; the session stays.",
        cites="C.2/diag",
        steps=each(
            V5,
            Open(login=BLYNK),
            Publish(topic="ds/Set Temperature", payload="warm", expect=Verdict.INVALID),
            Message(topic="downlink/diag", payload=MISMATCH),
            Publish(topic="ds/Nonsense", payload="1", expect=Verdict.INVALID),
            Message(topic="downlink/diag"),
            Publish(topic="ds/Terminal", payload="x" * 1100, expect=Verdict.INVALID),
            Message(topic="downlink/diag"),
            Publish(topic="ds/Power", payload="1"),
            Kept(telemetry={"Power": 1}),
        )
        | each(
            (Channel.MQTT3,),
            Open(login=BLYNK),
            Publish(topic="ds/Set Temperature", payload="warm"),
            Message(topic="downlink/diag", payload=MISMATCH),
            Publish(topic="ds/Nonsense", payload="1"),
            Message(topic="downlink/diag"),
            Publish(topic="ds/Power", payload="1"),
            Kept(telemetry={"Power": 1}),
        ),
        profile=TEMPLATE,
    ),
    _mqtt(
        "topics-subscribe",
        "Subscriptions: below `downlink/` only, `#` at the end, no `+`, no bare `#`.",
        "C.2/subscribe",
        Subscribe(filter="downlink/#", qos=0, granted=0),
        Subscribe(filter="downlink/ds/#", qos=1),
        Subscribe(filter="downlink/ds/Power", qos=1),
        Subscribe(filter="#", granted=None),
        Subscribe(filter="downlink/+/Power", granted=None),
        Subscribe(filter="ds/#", granted=None),
    ),
    _mqtt(
        "topics-both",
        "The same session may speak ThingsBoard's topics, and each sees what came by the other.",
        "C.2/both",
        Publish(topic="v1/devices/me/telemetry", payload='{"Power":1}'),
        Publish(topic="get/ds", payload="Power"),
        Message(topic="downlink/ds/Power", payload="1"),
        Publish(topic="v2/t", payload='{"other":2}'),
        Kept(telemetry={"Power": 1, "other": 2}),
    ),
    _mqtt(
        "one-session",
        "One connection for a token: a second one ends the first.",
        "C.2/one-connection",
        Open(session="newer", login=BLYNK),
        Ended(expect=Verdict.TAKEN_OVER),
        Publish(session="newer", topic="ds/Power", payload="1"),
    ),
    _mqtt(
        "connected",
        "While it is connected `isHardwareConnected` is true.",
        "C.1/connected C.2/login",
        Http(path="/external/api/isHardwareConnected?token=«token»", expect=200, body="true"),
    ),
)

CASES = (*_CALLS, *_PARTICLE, *_TOPICS)

"""Telemetry: each form that is accepted, and each refusal."""

import json

from tests.conformance.channels.cases.short import each
from tests.conformance.channels.model import (
    ALL,
    COAP,
    HTTP,
    MQTT,
    PLAIN,
    Bystander,
    Case,
    Channel,
    Http,
    Kept,
    Open,
    Publish,
    Send,
    Verdict,
)

TELEMETRY = "v1/devices/me/telemetry"
MILLENNIUM = 946_684_800_000


def _taken(
    name: str,
    says: str,
    payload: str,
    kept: dict[str, object],
    cites: str = "7.3/telemetry-forms",
    channels: tuple[Channel, ...] = PLAIN,
) -> Case:
    return Case(
        id=f"telemetry/{name}",
        says=says,
        cites=f"7.3/telemetry {cites}",
        steps=(Send(payload=payload), Kept(telemetry=kept)),
        channels=channels,
    )


def _refused(name: str, says: str, payload: str, reason: str, channels: tuple[Channel, ...] = PLAIN) -> Case:
    """Refused as a whole, and of what was right in it nothing is kept; a good message goes through afterwards."""
    return Case(
        id=f"telemetry/{name}",
        says=says,
        cites="7.3/telemetry-refused",
        steps=(
            Send(payload=payload, expect=Verdict.INVALID, says=reason),
            Kept(telemetry={}),
            Send(payload='{"t":1}'),
            Kept(telemetry={"t": 1}),
        ),
        channels=channels,
    )


def _texts(count: int) -> str:
    """So many texts of 600 characters."""
    return json.dumps({f"k{number}": "x" * 600 for number in range(count)})


def _long(length: int) -> str:
    return '{"' + "k" * length + '":1}'


CASES = (
    _taken("object", "Keys and values.", '{"t":21.5,"h":40}', {"t": 21.5, "h": 40}, channels=ALL),
    _taken(
        "values",
        "Booleans, numbers, texts and JSON stay what they are; null says nothing.",
        '{"yes":true,"no":false,"int":9007199254740993,"double":-1.5e-7,"text":"21","json":{"a":[1,null]},"nil":null}',
        {
            "yes": True,
            "no": False,
            "int": 9007199254740993,
            "double": -1.5e-7,
            "text": "21",
            "json": {"a": [1, None]},
        },
        "7.3/telemetry-values",
    ),
    _taken("ts-values", "With a time of its own.", f'{{"ts":{MILLENNIUM},"values":{{"t":1}}}}', {"t": 1}, channels=ALL),
    _taken("ts-text", "A time may be a numeric text.", f'{{"ts":"{MILLENNIUM}","values":{{"t":1}}}}', {"t": 1}),
    _taken("array", "An array of objects.", '[{"a":1},{"b":2}]', {"a": 1, "b": 2}, channels=ALL),
    _taken(
        "array-of-times",
        "Of several samples of a key the newest is the latest, whatever their order.",
        f'[{{"ts":{MILLENNIUM + 2},"values":{{"t":2}}}},{{"ts":{MILLENNIUM + 1},"values":{{"t":1}}}}]',
        {"t": 2},
        "7.3/telemetry-latest",
    ),
    _taken("ts-alone", "`ts` without `values` is a key as any other.", '{"ts":5}', {"ts": 5}),
    _taken("empty", "No key: nothing to keep.", "{}", {}),
    _taken("lenient", "As leniently as ThingsBoard reads JSON.", "{t:1,'u':'x'}", {"t": 1, "u": "x"}),
    _taken("unicode", "Keys and texts of any script.", '{"Temperatur °C":"größer 😀"}', {"Temperatur °C": "größer 😀"}),
    _refused("not-json", "No JSON.", '{"t":', "The message is not JSON!", ALL),
    _refused("number", "A number.", "21", "Telemetry must be a JSON object or an array of objects!"),
    _refused("array-of-numbers", "An array of numbers.", "[21]", "Telemetry must be a JSON object"),
    _refused(
        "one-wrong", "One wrong element of an array.", '[{"a":1},2]', "Telemetry must be a JSON object or an array"
    ),
    _refused("ts-wrong", "A time that is none.", '{"ts":"noon","values":{"t":1}}', "ts must be a number"),
    _refused("ts-negative", "A time before 1970.", '{"ts":-1,"values":{"t":1}}', "ts must be in milliseconds"),
    _refused(
        "ts-ahead",
        "A time in microseconds would hide all that comes later.",
        '{"ts":1764000000000000,"values":{"t":1}}',
        "no more than a day ahead",
    ),
    _refused("values-wrong", "`values` that are no object.", f'{{"ts":{MILLENNIUM},"values":1}}', "values must be a"),
    _refused("key-empty", "An empty key.", '{"":1,"b":2}', "A key must have 1 to 255 characters"),
    _refused("key-long", "A key of 256 characters.", _long(256), "A key must have 1 to 255 characters"),
    _refused("number-huge", "A number past every double.", '{"t":1e999}', "A number is too large!"),
    _refused("text-nul", "A text with a NUL.", '{"t":"a\\u0000b"}', "A text must not have a NUL character"),
    _refused("value-large", "A value of 17 KB.", '{"t":"' + "x" * 17_000 + '"}', "A value may have 16384 bytes!"),
    _refused("deep", "A value nested a hundred deep.", '{"t":' + "[" * 100 + "]" * 100 + "}", ""),
    Case(
        id="telemetry/key-255",
        says="A key of 255 characters.",
        cites="7.3/telemetry-forms",
        steps=(Send(payload=_long(255)), Kept(telemetry={"k" * 255: 1})),
        channels=PLAIN,
    ),
    Case(
        id="telemetry/large",
        says="A message of 60 KB is taken.",
        cites="7.3/too-large",
        steps=(Send(payload=_texts(95)), Bystander()),
    ),
    Case(
        id="telemetry/too-large",
        says="One of 70 KB is not, and costs nobody else anything.",
        cites="7.3/too-large",
        steps=each((*HTTP, *COAP), Send(payload=_texts(115), expect=Verdict.TOO_LARGE), Kept(telemetry={}), Bystander())
        | each(MQTT, Open(), Publish(topic=TELEMETRY, payload=_texts(115), expect=Verdict.TOO_LARGE), Bystander()),
    ),
    Case(
        id="telemetry/online",
        says="A device that has sent something counts as online.",
        cites="access/online",
        steps=each((*HTTP, *COAP), Kept(online=False), Send(payload='{"t":1}'), Kept(online=True))
        | each(MQTT, Kept(online=False), Open(), Kept(online=True)),
    ),
    Case(
        id="telemetry/qos-0",
        says="At QoS 0 without an acknowledgement, in order.",
        cites="7.3/telemetry",
        steps=(
            Open(),
            Publish(topic=TELEMETRY, payload='{"t":1}', qos=0),
            Publish(topic=TELEMETRY, payload='{"t":2}', qos=0),
            Publish(topic=TELEMETRY, payload='{"u":1}'),
            Kept(telemetry={"t": 2, "u": 1}),
        ),
        channels=MQTT,
    ),
    Case(
        id="telemetry/session-stays",
        says="In MQTT 5 a refused message ends nothing; before, there is no other way to say so than the end.",
        cites="7.3/telemetry-refused",
        steps=each(
            (Channel.MQTT5, Channel.MQTTS),
            Open(),
            Publish(topic=TELEMETRY, payload="[1]", expect=Verdict.INVALID),
            Publish(topic=TELEMETRY, payload='{"t":1}'),
        )
        | each((Channel.MQTT3,), Open(), Publish(topic=TELEMETRY, payload="[1]", expect=Verdict.INVALID)),
    ),
    Case(
        id="telemetry/retained",
        says="A retained message is taken as any other, and retained for nobody.",
        cites="7.3/telemetry",
        steps=(Open(), Publish(topic=TELEMETRY, payload='{"t":1}', retain=True), Kept(telemetry={"t": 1})),
        channels=MQTT,
    ),
    Case(
        id="telemetry/content-types",
        says="Over HTTP with JSON's Content-Type, or none.",
        cites="7.3/http",
        steps=(
            Http(
                method="POST",
                path="/api/v1/«token»/telemetry",
                payload='{"t":1}',
                expect=200,
                body="",
                headers=("Content-Type: application/json",),
            ),
            Http(
                method="POST",
                path="/api/v1/«token»/telemetry",
                payload='{"u":1}',
                expect=200,
                body="",
                headers=("Content-Type:",),
            ),
            Kept(telemetry={"t": 1, "u": 1}),
        ),
        channels=HTTP,
    ),
)

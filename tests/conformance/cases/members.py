"""What a request may hold, and how leniently it is read."""

from dataclasses import replace

from tests.conformance.model import (
    NOT_FOUND,
    TOO_LARGE,
    UNDECODABLE,
    Ask,
    Attempted,
    Case,
    Devices,
    Granted,
    Stored,
    Transport,
    invalid,
)
from tests.conformance.requests import ask, raw, request

GRANTED = Granted()

_PRESENCE = (
    Case(
        id="members/minimal",
        says="Key and secret are enough: a name and a token are made up, and told.",
        cites="4.1/key 4.1/secret 4.1/deviceName 4.1/credentialsType 4.2/none 4.3/token 4.3/extra 5.3/name-generated"
        " 5.3/name-told 5.7/generated 2/success 2/compact 3/success 3/path 3/udp 2/endpoint",
        steps=(ask(Granted(name=None), deviceName=...), Devices(1)),
    ),
    Case(
        id="members/key-missing",
        says="Without a key: FAILURE that names the member and quotes nothing.",
        cites="4.1/key 1.4/missing 2/invalid 2/no-echo 3/invalid 4.4/missing 4.3/silence",
        steps=(ask(invalid("provisionDeviceKey"), provisionDeviceKey=...), Devices(0)),
    ),
    Case(
        id="members/secret-missing",
        says="Without a secret: the same.",
        cites="4.1/secret 1.4/missing 2/invalid 3/invalid 4.4/missing",
        steps=(ask(invalid("provisionDeviceSecret"), provisionDeviceSecret=...), Devices(0)),
    ),
    Case(
        id="members/key-empty",
        says="An empty key or secret is there, but finds nothing.",
        cites="4.1/key 4.1/secret 5.1/2",
        steps=(ask(NOT_FOUND, provisionDeviceKey=""), ask(NOT_FOUND, provisionDeviceSecret="")),
    ),
    Case(
        id="members/null-key",
        says="A key that is null is missing.",
        cites="1.4/null 2/invalid",
        steps=(ask(invalid("provisionDeviceKey"), provisionDeviceKey=None),),
    ),
    Case(
        id="members/null-absent",
        says="Every optional member may be null.",
        cites="1.4/null",
        steps=(
            ask(
                Granted(name=None),
                deviceName=None,
                credentialsType=None,
                token=None,
                username=None,
                password=None,
                clientId=None,
                hash=None,
                gateway=None,
                requestNonce=None,
            ),
        ),
    ),
    Case(
        id="members/unknown",
        says="Unknown members, nested ones too, are ignored; the key alone decides the profile.",
        cites="4.1/unknown 4.1/profile",
        steps=(
            ask(
                GRANTED,
                deviceType="thermostat",
                deviceProfile="other",
                label={"deep": [1, {"er": None}]},
                x509CertPubKey="x",
            ),
        ),
    ),
    Case(
        id="members/name-empty",
        says="An empty name is no name: one is made up.",
        cites="4.1/deviceName 5.3/name-generated",
        steps=(ask(Granted(name=None), deviceName=""),),
    ),
    Case(
        id="members/twice",
        says="Of a member that comes twice the last one counts.",
        cites="1.3/1-lenient",
        steps=(Ask(raw('{"deviceName":"first",~,"deviceName":"«tag»"}'), GRANTED),),
    ),
)

_TYPES = (
    Case(
        id="members/numbers",
        says="A number is its text, digit for digit.",
        cites="4.1/scalar",
        steps=(
            Ask(
                raw('{~,"deviceName":«number».50,"token":1e3«number»}'),
                Granted(name="«number».50", value="1e3«number»"),
            ),
        ),
    ),
    Case(
        id="members/booleans",
        says="A boolean is its text.",
        cites="4.1/scalar",
        steps=(ask(Granted(name="true"), deviceName=True),),
    ),
    Case(
        id="members/number-key",
        says="A key of digits may come as a number.",
        cites="4.1/scalar 4.1/key",
        key="8150042",
        steps=(Ask('{"provisionDeviceKey":8150042,"provisionDeviceSecret":"«secret»"}', Granted(name=None)),),
    ),
    Case(
        id="members/array-of-one",
        says="An array of one is its element.",
        cites="4.1/scalar",
        steps=(
            ask(GRANTED, provisionDeviceKey=["«key»"], deviceName=["«tag»"], gateway=[True]),
            Stored(gateway=True),
        ),
    ),
    Case(
        id="members/array",
        says="A longer array, or an empty one, is answered.",
        cites="1.4/object 2/invalid 3/invalid",
        steps=(
            ask(invalid("deviceName"), deviceName=["a", "b"]),
            ask(invalid("token"), token=[]),
            Devices(0),
        ),
    ),
    Case(
        id="members/object",
        says="An object is answered.",
        cites="1.4/object 2/invalid 3/invalid",
        steps=(
            ask(invalid("provisionDeviceKey"), provisionDeviceKey={"key": "«key»"}),
            ask(invalid("hash"), hash={}),
            Devices(0),
        ),
    ),
    Case(
        id="members/type-unknown",
        says="A type that is none of the four names, or not in their very letters, is answered.",
        cites="4.1/credentialsType 1.4/credentials-type 2/invalid 3/invalid",
        steps=(
            ask(invalid("credentialsType"), credentialsType="PASSWORD"),
            ask(invalid("credentialsType"), credentialsType="access_token"),
            ask(invalid("credentialsType"), credentialsType=""),
            Devices(0),
        ),
    ),
    Case(
        id="members/gateway",
        says="`gateway` true, or the text in any case, makes a gateway.",
        cites="4.1/gateway 5.3/device",
        steps=(
            ask(Granted(name="«tag»a"), deviceName="«tag»a", gateway=True),
            Stored("«tag»a", gateway=True),
            ask(Granted(name="«tag»b"), deviceName="«tag»b", gateway="tRuE"),
            Stored("«tag»b", gateway=True),
        ),
    ),
    Case(
        id="members/no-gateway",
        says="Every other `gateway` makes none: false, a number, another text, absent.",
        cites="4.1/gateway 5.3/device",
        steps=(
            ask(Granted(name="«tag»a"), deviceName="«tag»a", gateway=False),
            Stored("«tag»a", gateway=False),
            ask(Granted(name="«tag»b"), deviceName="«tag»b", gateway=1),
            Stored("«tag»b", gateway=False),
            ask(Granted(name="«tag»c"), deviceName="«tag»c", gateway="yes"),
            Stored("«tag»c", gateway=False),
            ask(GRANTED),
            Stored(gateway=False),
        ),
    ),
    Case(
        id="members/unicode",
        says="Names and tokens are Unicode, escaped or not.",
        cites="4.1/deviceName 4.1/token",
        steps=(
            Ask(
                raw('{~,"deviceName":"Kühlhaus № «number» \\ud83d\\ude00","token":"日本-«tag»"}'),
                Granted(name="Kühlhaus № «number» \N{GRINNING FACE}", value="日本-«tag»"),
            ),
        ),
    ),
    Case(
        id="members/lone-surrogate",
        says="Half a character is answered.",
        cites="1.4/object 4.3/silence",
        steps=(Ask(raw('{~,"token":"\\ud83d"}'), invalid("token")), Devices(0)),
    ),
)


def _reads(slug: str, says: str, text: str, cites: str = "") -> Case:
    return Case(
        id=f"json/{slug}",
        says=says,
        cites=f"1.3/1-lenient 2/lenient {cites}",
        steps=(Ask(raw(text), GRANTED),),
    )


def _refuses(slug: str, says: str, payload: str | bytes, cites: str = "") -> Case:
    return Case(
        id=f"json/{slug}",
        says=says,
        cites=f"1.4/undecodable-v3 1.4/undecodable-v5 2/malformed 3/undecodable 4.4/unparsable {cites}",
        steps=(Ask(raw(payload) if isinstance(payload, str) else payload, UNDECODABLE), Devices(0)),
    )


_LENIENT = (
    _reads(
        "bare-names",
        "Names and values need no quotes.",
        "{provisionDeviceKey:«key»,provisionDeviceSecret:«secret»,deviceName:«tag»}",
    ),
    _reads("single-quotes", "Single quotes will do.", "{~,'deviceName':'«tag»'}"),
    _reads(
        "comments",
        "Comments of all three kinds are skipped.",
        '# a\n{~,// b\n/* c\n */ "deviceName":"«tag»"} // d',
    ),
    _reads("separators", "`=`, `=>` and `;` separate too.", '{~;"deviceName"=>"«tag»";"gateway"=false}'),
    _reads("byte-order-mark", "A byte order mark is skipped.", '\ufeff{~,"deviceName":"«tag»"}'),
    _reads("blanks", "Blanks and line ends around everything.", '\r\n\t {~ ,\n"deviceName" : "«tag»" }\n '),
    _reads("escapes", "Escapes in names of members.", '{~,"\\u0064eviceName":"«tag»"}'),
    Case(
        id="json/null-keyword",
        says="NULL in capitals is null.",
        cites="1.3/1-lenient 1.4/null 2/lenient",
        steps=(Ask(raw('{~,"deviceName":NULL,"gateway":TRUE}'), Granted(name=None)),),
    ),
    _refuses("trailing", "Data behind the object.", '{~,"deviceName":"«tag»"} {}', "1.3/1-trailing"),
    _refuses("trailing-comma", "A comma before the end.", '{~,"deviceName":"«tag»",}'),
    _refuses("unfinished", "An object without its end.", '{~,"deviceName":"«tag»"'),
    _refuses("array", "An array.", "[{~}]", "1.3/2-not-object"),
    _refuses("string", "A text.", '"provisionDeviceKey"', "1.3/2-not-object"),
    _refuses("number", "A number.", "42", "1.3/2-not-object"),
    _refuses("true", "A boolean.", "true", "1.3/2-not-object"),
    _refuses("words", "Words.", "give me a token, please", "1.3/2-protobuf"),
    _refuses("not-utf-8", "Bytes that are neither text nor protobuf.", b'{"provisionDeviceKey":"\xff\xfe"}'),
    _refuses("deep", "Ten thousand brackets.", '{"a":' * 10_000),
    Case(
        id="json/null",
        says="The JSON value null: bytes that protobuf cannot read either.",
        cites="1.3/2-not-object 2/malformed",
        steps=(Ask("null", UNDECODABLE), Attempted("UNDECODABLE")),
    ),
    Case(
        id="json/empty",
        says="An empty payload is an empty protobuf message; over HTTP it is refused.",
        cites="1.3/2-empty 3/empty 2/empty 4.5/missing 4.5/refusal 4.5/statuses",
        steps=(Ask(b"", replace(NOT_FOUND, protobuf=True), on={Transport.HTTP: UNDECODABLE}),),
    ),
)

_SIZES = (
    Case(
        id="members/large",
        says="A request of 60 KB is taken, whatever fills it.",
        cites="2/too-large 1.4/too-large 3/body-limit 3/blockwise",
        steps=(ask(GRANTED, filler="x" * 60_000),),
    ),
    Case(
        id="members/too-large",
        says="A request of 66 KB is not.",
        cites="2/too-large 1.4/too-large 1.4/close 3/body-limit",
        steps=(Ask(request(filler="x" * 66_000), TOO_LARGE), Devices(0)),
    ),
)

CASES = (*_PRESENCE, *_TYPES, *_SIZES, *_LENIENT)

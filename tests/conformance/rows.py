"""What ThingsBoard's device provisioning does, row by row, as we do it; sections as in docs/conformance.md.

A row that no case cites fails the run, unless it is for later or held by tests elsewhere.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Row:
    """One rule.

    amended: we differ from ThingsBoard, on purpose. later: what must exist before the row can hold.
    elsewhere: the test that holds it, as the server of the cases would need minutes or a fault to show it.
    """

    id: str
    text: str
    amended: bool = False
    later: str = ""
    elsewhere: str = ""

    @property
    def required(self) -> bool:
        """Whether a case must cite it."""
        return not self.later and not self.elsewhere


SECTIONS = {
    "1.1": "MQTT: CONNECT",
    "1.2": "MQTT: packets of a provision session",
    "1.3": "MQTT: how a request is handled",
    "1.4": "MQTT: what goes wrong",
    "1.5": "Device SDKs",
    "2": "HTTP",
    "3": "CoAP",
    "4.1": "Request members",
    "4.2": "Which credentials a request makes",
    "4.3": "Replies",
    "4.4": "Error texts",
    "4.5": "Protobuf",
    "5.1": "Order of decisions",
    "5.2": "Profiles",
    "5.3": "New devices",
    "5.4": "Pre-provisioned devices",
    "5.5": "Concurrency",
    "5.6": "Events and records",
    "5.7": "Credentials",
    "5.8": "Limits",
    "ours": "Beyond ThingsBoard",
}
"""The part of a row's id before its slash."""

_AWAY = "tests/conformance/test_unavailable.py::test_without_postgres"
_FULL = "tests/services/test_grouping.py::test_items_past_max_waiting_are_refused_at_once"
_CONNECT_TIMEOUT = "tests/transports/mqtt/test_session.py::test_connect_timeout"
_VERDICT = "tests/transports/mqtt/test_session.py::test_a_session_ends_after_its_last_verdict"


def _row(id_: str, text: str, *, later: str = "", elsewhere: str = "") -> Row:
    return Row(id_, text, False, later, elsewhere)


def _amended(id_: str, text: str, *, later: str = "", elsewhere: str = "") -> Row:
    return Row(id_, text, True, later, elsewhere)


_CONNECT = (
    _row("1.1/trigger", "A user name or a client id of exactly `provision` opens a provision session; one is enough."),
    _row("1.1/trigger-exact", "Any other spelling of it (case, blanks) is an ordinary device that must authenticate."),
    _row("1.1/password", "The password of a provision session is not looked at: none, empty or any."),
    _row("1.1/client-id", "Sessions may share a client id: nobody is thrown out, whatever the others are called."),
    _amended(
        "1.1/client-id-length", "An empty id is fine in 3.1.1 and 5 and refused in 3.1; a long one is fine in all."
    ),
    _amended("1.1/clean-session", "Clean Session is ignored, and Session Present is 0, as nothing is kept."),
    _row("1.1/connack", "CONNACK with code 0 comes at once; before MQTT 5 it has exactly four bytes."),
    _amended("1.1/connack-properties", "In MQTT 5 it states our limits, and the id of a client that brought none."),
    _row(
        "1.1/keep-alive", "Pings are answered; who is silent is kept a minute at least, however short its keep-alive."
    ),
    _row("1.1/will", "A Will and the properties of CONNECT change nothing."),
    _row("1.1/tls", "The same over TLS, with a client certificate or without."),
    _amended("1.1/second-connect", "A second CONNECT ends the connection."),
    _amended(
        "1.1/waits",
        "Who never sends CONNECT, or idles before the first verdict, is closed.",
        elsewhere=_CONNECT_TIMEOUT,
    ),
)

_PACKETS = (
    _row("1.2/requests", "`/provision/request` takes any number of requests in one session."),
    _row("1.2/other-topic-v5", "A PUBLISH elsewhere at QoS 1: PUBACK 0x90, DISCONNECT 0x90, end."),
    _row("1.2/other-topic-v3", "The same before MQTT 5: PUBACK, end."),
    _row("1.2/other-topic-qos0", "The same at QoS 0: no PUBACK; MQTT 5 gets the DISCONNECT."),
    _row("1.2/subscribe", "`/provision/response` is granted at the QoS asked for, 1 at most."),
    _row("1.2/subscribe-other", "Every other filter, wildcards too, is refused (0x80, 0x8F); the session stays."),
    _row("1.2/subscribe-many", "A SUBSCRIBE of several filters gets one code for each, in order."),
    _row("1.2/suback", "A SUBSCRIBE is always answered."),
    _row("1.2/unsubscribe", "So is an UNSUBSCRIBE: 0x00, 0x11 or 0x8F in MQTT 5; the session stays."),
    _row("1.2/pingreq", "PINGREQ is answered."),
    _row("1.2/disconnect", "DISCONNECT ends the connection."),
    _amended("1.2/acknowledgements", "Acknowledgements that nobody waits for are ignored; PUBREL is completed in 3.x."),
    _row("1.2/unsubscribed", "The reply comes without any subscription."),
)

_HANDLING = (
    _row("1.3/topics", "These two topics with their leading slash, and no variants of them."),
    _row("1.3/1-lenient", "JSON is read leniently: bare names, single quotes, comments, `=` and `;`."),
    _row("1.3/1-trailing", "Anything behind the JSON value makes it no JSON."),
    _row("1.3/2-protobuf", "What is no JSON is read as protobuf, and answered in it."),
    _row("1.3/2-not-object", "JSON that is not an object counts as no JSON."),
    _amended("1.3/2-per-request", "Each reply has the format of its own request, whatever the session sent before."),
    _row("1.3/2-empty", "An empty payload is an empty protobuf message: NOT_FOUND, the bytes 08 02."),
    _row("1.3/3-puback", "At QoS 1 the PUBACK comes first, once the request is decided, then the reply."),
    _row("1.3/3-reply", "Replies: not retained, no duplicate, QoS as granted (1 unsubscribed), packet ids from 1."),
    _row("1.3/3-unacknowledged", "Nobody waits for the client's PUBACK, and no reply is repeated."),
    _row("1.3/3-end", "A minute after its last verdict a session is closed.", elsewhere=_VERDICT),
    _amended("1.3/4-qos2", "QoS 2 is beyond our maximum: MQTT 5 gets DISCONNECT 0x9B; 3.x is served by its rules."),
)

_ERRORS = (
    _row("1.4/not-found", "Unknown key, wrong secret, disabled profile: PUBACK at QoS 1, and the reply NOT_FOUND."),
    _row("1.4/failure", "Refused for another reason: PUBACK at QoS 1, and the reply FAILURE."),
    _row("1.4/undecodable-v3", "Neither JSON nor protobuf, before MQTT 5: the connection ends without a word."),
    _row("1.4/undecodable-v5", "In MQTT 5: PUBACK 0x99 at QoS 1 and the session stays, DISCONNECT 0x99 at QoS 0."),
    _amended("1.4/missing", "A missing key or secret is answered, FAILURE with an `errorMsg` that names it."),
    _amended("1.4/null", "A member that is null is absent, as SDKs send it."),
    _amended("1.4/object", "A member that is an object or a longer array is answered, FAILURE naming it."),
    _amended("1.4/credentials-type", "An unknown `credentialsType` is answered, FAILURE naming it."),
    _amended(
        "1.4/fault", "With Postgres away the reply is FAILURE with `retryAfter`; the session stays.", elsewhere=_AWAY
    ),
    _amended("1.4/too-large", "A packet over the limit ends the connection, in MQTT 5 with DISCONNECT 0x95."),
    _row("1.4/malformed", "A malformed packet ends the connection, in MQTT 5 with DISCONNECT 0x81."),
    _row("1.4/close", "After its DISCONNECT the server closes."),
)

_SDKS = (
    _row(
        "1.5/python-mqtt",
        "Python SDK, MQTT: subscribes and publishes in one go at QoS 0, sends nulls, needs `errorMsg`.",
    ),
    _row("1.5/python-http", "Python SDK, HTTP: a refusal must be 200 too; reads `status`, type and value."),
    _row("1.5/cpp", "C++ SDK: user name and client id both `provision`; unsubscribes after the reply."),
    _row("1.5/micropython", "MicroPython SDK: client id alone; the one packet it reads after publishing is the reply."),
    _row("1.5/gateway", "Gateway: the Python SDK with credentials and a name of its own making."),
    _row("1.5/scripts", "Sample scripts: compare the certificate in the reply with their PEM, stripped."),
)

_HTTP = (
    _row("2/endpoint", "`POST /api/v1/provision`, without authentication."),
    _row("2/cors", "Browsers of any origin may ask."),
    _row("2/content-type", "The request's Content-Type does not matter, nor does its absence."),
    _row("2/form", "A body that claims to be a form is read as it is."),
    _row("2/lenient", "The same lenient JSON as on MQTT."),
    _row("2/no-protobuf", "No protobuf over HTTP."),
    _row("2/success", "SUCCESS is 200."),
    _row("2/not-found", "NOT_FOUND is 200."),
    _row("2/failure", "FAILURE is 200."),
    _amended("2/malformed", "A body that is no JSON object is 400."),
    _amended("2/invalid", "A missing or mistyped member is 400, with an `errorMsg` that names it."),
    _amended("2/no-echo", "No answer quotes the request: no secret comes back."),
    _row("2/empty", "No body, or an empty one, is 400."),
    _row("2/method", "Another method is 405."),
    _amended("2/fault", "With Postgres away: 503 and Retry-After.", elsewhere=_AWAY),
    _amended("2/too-large", "A body over 64 KiB (as configured) is 413."),
    _row("2/compact", "JSON without blanks; value, type and status come first, in this order."),
    _amended("2/json", "Every answer is `application/json`, whatever Accept says."),
)

_COAP = (
    _row("3/udp", "CoAP on UDP; no CoAP over TCP."),
    _row("3/dtls", "DTLS on a port of its own."),
    _row("3/path", "POST to `/api/v1/provision`."),
    _row("3/path-token", "`/api/v1/{anything}/provision` is the same."),
    _row("3/path-number", "`/api/v1/provision/{digits}` is the same."),
    _row("3/path-case", "The word `provision` is matched in any case, `api` and `v1` are not."),
    _amended("3/path-root", "A path outside `/api/v1` is 4.04."),
    _row("3/path-one-option", "The whole path may come in a single Uri-Path option, with or without leading slash."),
    _row("3/format-ignored", "The request's Content-Format does not matter, nor does its absence."),
    _row("3/protobuf", "JSON first, then protobuf; decided for each request."),
    _row("3/success", "SUCCESS is 2.01."),
    _row("3/refused", "NOT_FOUND and FAILURE are 4.00, with the reply as payload."),
    _row("3/undecodable", "What cannot be decoded is 4.00 without payload."),
    _amended("3/invalid", "A missing or mistyped member is 4.00 with the reply that names it."),
    _row("3/empty", "An empty payload is 4.00 with the bytes 08 02."),
    _amended("3/fault", "With Postgres away: 5.03 and Max-Age.", elsewhere=_AWAY),
    _row("3/path-unknown", "Another or no word behind `/api/v1` is 4.00."),
    _row("3/method", "GET is 4.00, the other methods are 4.05."),
    _amended("3/format", "Replies say what they are: JSON (50), text (0) if the request was or asked so, octets (42)."),
    _row("3/piggyback", "The response rides on the ACK; an empty ACK goes ahead only when it takes long."),
    _row("3/blockwise", "Bodies in blocks both ways, of 1024 bytes or what the client prefers."),
    _amended("3/body-limit", "A body over 64 KiB (as configured) is 4.13; one with a gap is 4.08."),
    _row("3/retransmission", "A request that is sent again is answered again, and done once."),
    _amended("3/chain", "X.509 chains provision over CoAP too."),
)

_MEMBERS = (
    _row("4.1/key", "`provisionDeviceKey` must be there; empty it is NOT_FOUND."),
    _row("4.1/secret", "`provisionDeviceSecret` must be there; empty it is NOT_FOUND."),
    _row("4.1/scalar", "Numbers and booleans count as their text, an array of one as its element."),
    _row("4.1/deviceName", "`deviceName` is trimmed; without it a name is made up."),
    _row("4.1/credentialsType", "`credentialsType` is one of four names, exactly; ACCESS_TOKEN if absent."),
    _row("4.1/token", "`token` counts for ACCESS_TOKEN only."),
    _row("4.1/basic", "`username`, `password`, `clientId` count for MQTT_BASIC only; the reply says `userName`."),
    _row("4.1/hash", "`hash` counts for X509_CERTIFICATE only and is the certificate: PEM, or its base64 body."),
    _row("4.1/gateway", "`gateway`: true, or the text `true` in any case; everything else is false."),
    _row("4.1/unknown", "Other members are ignored."),
    _row("4.1/profile", "The key alone decides the profile."),
)

_COMBINATIONS = (
    _row("4.2/none", "No credential member: a token is generated, whatever type is named."),
    _row("4.2/token", "ACCESS_TOKEN or no type, with a token: that token."),
    _row("4.2/token-missing", "ACCESS_TOKEN or no type, with other members only: FAILURE, nothing made."),
    _row("4.2/x509", "X509_CERTIFICATE with a hash: that text, certificate or not."),
    _amended("4.2/x509-no-hash", "X509_CERTIFICATE with other members only: FAILURE, the first time too."),
    _row("4.2/basic", "MQTT_BASIC by client id, by both, by user name; a password where there is a user name."),
    _row("4.2/basic-nothing", "MQTT_BASIC with a password alone or members of other types alone: FAILURE."),
    _row("4.2/basic-password", "MQTT_BASIC with client id and password, without user name: FAILURE."),
    _row("4.2/lwm2m", "LWM2M_CREDENTIALS with any member: FAILURE."),
    _row("4.2/extra", "Members of another type are ignored."),
)

_REPLIES = (
    _row("4.3/token", "ACCESS_TOKEN: the value is the token."),
    _row("4.3/x509", "X509_CERTIFICATE: the value is the stripped text."),
    _row(
        "4.3/basic", "MQTT_BASIC: the value is an object of `clientId`, `userName`, `password`; absent ones are empty."
    ),
    _row("4.3/lwm2m", "LWM2M_CREDENTIALS of a pre-provisioned device.", later="LwM2M"),
    _row("4.3/refusal", "A refusal has `errorMsg` and `status`, NOT_FOUND or FAILURE; never UNKNOWN."),
    _amended(
        "4.3/extra", "A success also has `deviceId`, `deviceName`, `provisionDeviceStatus`, for tokens `accessToken`."
    ),
    _amended("4.3/correlation", "In MQTT 5 a reply carries the Correlation Data of its request."),
    _amended("4.3/silence", "Every request that can be read gets a status, never a time-out."),
)

_TEXTS = (
    _row("4.4/replies", "`Provision data was not found!` and `Failed to provision device!`."),
    _amended("4.4/missing", "A missing member is named, without the request around it."),
    _amended("4.4/unparsable", "What cannot be parsed is not quoted."),
    _amended("4.4/reasons", "Why a request was refused is for the operator: it stands in the attempt."),
)

_PROTOBUF = (
    _row("4.5/request", "ProvisionDeviceRequestMsg: name 1, type 2, key and secret 3, credentials 4, gateway 5."),
    _row("4.5/keys", "ProvisionDeviceCredentialsMsg: key 1, secret 2."),
    _row("4.5/credentials", "CredentialsDataProto: token in 1, hash in 2, client id, user name, password in 3."),
    _row("4.5/response", "ProvisionDeviceResponseMsg: status 1, type 2, value 3; what is 0 or empty is left out."),
    _row("4.5/types", "CredentialsType 0-3: token, certificate, basic, LwM2M."),
    _row("4.5/statuses", "ResponseStatus: SUCCESS 1, NOT_FOUND 2, FAILURE 3."),
    _row("4.5/refusal", "A refusal is the status alone."),
    _row("4.5/basic", "The value of MQTT_BASIC is JSON text in the string."),
    _row("4.5/missing", "A missing key or secret is NOT_FOUND."),
    _amended("4.5/unknown-type", "An unknown number of a type is answered, FAILURE."),
    _row("4.5/proto3", "Unknown fields are skipped, repeated messages merged, of repeated scalars the last counts."),
)

_DECISIONS = (
    _row("5.1/1", "A name of blanks is FAILURE, before the key is looked at."),
    _row("5.1/2", "An empty key or secret is NOT_FOUND."),
    _row("5.1/3", "A key that no profile has is NOT_FOUND."),
    _amended(
        "5.1/4", "Devices are looked up only once key and secret are right: a taken name tells a stranger nothing."
    ),
    _row("5.1/5-disabled", "DISABLED: NOT_FOUND, with the right secret too."),
    _row("5.1/5-secret", "Wrong secret, under either strategy: NOT_FOUND."),
    _row("5.1/5-create", "ALLOW_CREATE_NEW_DEVICES: the device is made."),
    _row("5.1/5-create-exists", "A device of that name, of whatever profile: FAILURE."),
    _row("5.1/5-check", "CHECK_PRE_PROVISIONED_DEVICES: a device of this profile is provisioned."),
    _row("5.1/5-check-unknown", "No such device, no name, or one of another profile: FAILURE."),
    _amended("5.1/5-chain", "X509_CERTIFICATE_CHAIN, asked with key and secret: NOT_FOUND, at once."),
    _row("5.1/6", "Keys and secrets are compared exactly; NOT_FOUND does not say which was wrong."),
)

_PROFILES = (
    _row("5.2/key-unique", "A provision key belongs to one profile."),
    _amended("5.2/keys", "A profile may have several keys, so that one can be replaced while both work."),
    _amended("5.2/generated", "Keys and secrets that are not given come from the system's randomness."),
    _row("5.2/default", "A profile without a strategy is DISABLED."),
    _row("5.2/chain", "A chain profile holds its CA's certificate."),
)

_CREATION = (
    _row("5.3/device", "A new device: its name, its profile, the gateway flag if asked for."),
    _row("5.3/rollback", "Whatever fails leaves nothing behind: the name stays free."),
    _amended("5.3/atomic", "Device, credentials, `provisionState`, attempt and event are written together."),
    _row("5.3/name-length", "A name has 255 characters at most."),
    _row("5.3/name-characters", "A name has no control characters and no markup, `{{` included."),
    _row("5.3/name-generated", "A made-up name has 20 letters and digits."),
    _amended("5.3/name-told", "The reply says the name."),
)

_PRE_PROVISIONED = (
    _row("5.4/first", "The first request gets the stored credentials and marks the device `provisioned`."),
    _amended("5.4/supplied", "What a device brings replaces a generated token; what an operator imported stays."),
    _amended("5.4/gateway", "A pre-provisioned device may declare itself a gateway."),
    _row("5.4/repeat", "A second request is FAILURE."),
    _row("5.4/other-state", "With any other `provisionState` it is FAILURE."),
    _amended("5.4/return-same", "Giving the same answer again, as older versions did, is a policy of the profile."),
    _amended("5.4/atomic", "Of simultaneous requests for one device exactly one succeeds."),
    _row("5.4/rearm", "Removing `provisionState` lets the device provision itself again."),
    _row("5.4/switch", "Devices that were created by provisioning stay provisioned when the strategy changes."),
    _row("5.4/chain", "Chains write the attribute when they provision a device."),
)

_CONCURRENCY = (
    _row("5.5/one-winner", "Of simultaneous requests for one new name exactly one succeeds, the rest is FAILURE."),
    _row("5.5/parallel", "Requests for different names do not disturb one another."),
)

_EVENTS = (
    _row(
        "5.6/events", "A device made or provisioned, and a refusal, are told to who listens.", later="events' delivery"
    ),
    _amended("5.6/redacted", "What is recorded of a request holds no secret of it."),
    _amended("5.6/attempts", "Every attempt is recorded, NOT_FOUND included."),
)

_CREDENTIALS = (
    _row("5.7/token", "A token's id is the token."),
    _row("5.7/x509", "A certificate's id is the SHA3-256 of its stripped text, in lower-case hex."),
    _row("5.7/basic-user-name", "The id by user name alone is the user name."),
    _row("5.7/basic-client-id", "The id by client id alone is its SHA3-256."),
    _row("5.7/basic-both", "The id by both is the SHA3-256 of `clientId|userName`."),
    _row("5.7/normalise", "From a PEM go header, footer and line ends; blanks and tabs stay."),
    _row("5.7/vector-basic", "The id of test_clientId and test_username is b9f1b0bf…."),
    _row("5.7/vector-hash", "The id of the certificate text testHash is 57f66004…."),
    _amended(
        "5.7/vector-sha3-empty", "The id of an empty text, a7ffc6f8…, is nobody's: such a certificate is refused."
    ),
    _row("5.7/vector-chain", "The ids of ThingsBoard's own test chain.", later="that chain's certificates"),
    _row("5.7/unique", "An id exists once, across profiles and types; a second one is FAILURE."),
    _row("5.7/one-each", "A device has one set of credentials."),
    _row("5.7/characters", "No control characters in a token, client id, user name or password."),
    _amended("5.7/lengths", "512 characters for each of these, 32 Ki for a certificate; a slash is fine."),
    _amended("5.7/generated", "A generated token has 32 letters and digits."),
)

_LIMITS = (
    _row("5.8/devices", "At most so many devices.", later="quotas"),
    _amended("5.8/rates", "Requests and wrong secrets are limited by address.", later="rate limits"),
    _amended("5.8/queue", "Past its queue the server refuses at once and asks to try again.", elsewhere=_FULL),
    _row("5.8/gateways", "Devices that gateways make are limited apart.", later="gateways"),
)

_OURS = (
    _amended("ours/reserved", "`provision`, `device` and `mgmt_device` are no device's token, user name or client id."),
    _amended("ours/nonce", "The same request with the same `requestNonce` gets the same answer, until its first use."),
    _amended("ours/nonce-other", "Another request with that nonce is FAILURE."),
    _amended("ours/nonce-form", "A nonce that is not 32-128 characters of hex or base64url is answered, naming it."),
    _amended("ours/nonce-scope", "A nonce counts within its profile."),
    _amended("ours/rearm", "After `device rearm` a device provisions itself once more, and its old credentials die."),
    _amended("ours/until-first-use", "Policy until_first_use: the same answer again until the credentials were used."),
    _amended(
        "ours/rotate", "Policy rotate: a repeat gets new credentials; the old ones die when those are first used."
    ),
    _amended(
        "ours/approval",
        "With `approval` who asks anew hears FAILURE, PENDING and when to ask again, until an operator accepts.",
    ),
    _amended("ours/approval-rejected", "Who was rejected hears FAILURE."),
    _amended("ours/approval-unnamed", "With `approval` a request without name and nonce is answered, naming them."),
    _amended("ours/quarantine", "A device in quarantine gets nothing until it is released."),
    _amended("ours/private", "A reply goes to the connection that asked and to no other."),
    _amended("ours/policy-other", "Under a policy that repeats, other credentials than the stored ones are FAILURE."),
)

ROWS: dict[str, Row] = {
    row.id: row
    for rows in (
        *(_CONNECT, _PACKETS, _HANDLING, _ERRORS, _SDKS, _HTTP, _COAP),
        *(_MEMBERS, _COMBINATIONS, _REPLIES, _TEXTS, _PROTOBUF),
        *(_DECISIONS, _PROFILES, _CREATION, _PRE_PROVISIONED, _CONCURRENCY, _EVENTS, _CREDENTIALS, _LIMITS),
        _OURS,
    )
    for row in rows
}

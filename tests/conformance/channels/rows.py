"""What devices that come back rely on, row by row: spec thingsboard §6 and §7, spec blynk-device-api C, and our own.

As in `tests/conformance/rows.py`, a row that no case cites fails the run.
"""

from tests.conformance.rows import Row

SECTIONS = {
    "channels": "Secure channels",
    "access": "First use, revocation, live sessions",
    "6.1": "Chains: the handshake",
    "6.2": "Chains: who a device is",
    "6.3": "Chains: at CONNECT, and at a request",
    "6.4": "Chains: the profile's CA",
    "chain": "Bad certificates",
    "7.1": "MQTT: who is let in",
    "7.2": "Who is not let in",
    "7.3": "Topics, paths, data",
    "7.4": "Claiming, the device's side",
    "C.1": "Blynk: calls over HTTP",
    "C.2": "Blynk: MQTT",
    "C.3": "Blynk: binary protocol",
    "C.4": "Blynk: the Particle webhook of seed 002",
}
"""The part of a row's id before its slash."""

_AWAY = "tests/conformance/test_channels_away.py::test_away_is_not_wrong"
_ACCESS = "tests/services/test_access.py"
_SESSIONS = "tests/services/test_sessions.py"
_ENROLLMENT = "tests/services/test_enrollment.py"
_TLS = "tests/transports/test_tls.py"
_DTLS = "tests/transports/test_dtls.py"
_OSCORE = "tests/transports/test_oscore.py"
_DEVICE = "tests/transports/mqtt/test_device.py"


def _row(id_: str, text: str, *, later: str = "", elsewhere: str = "") -> Row:
    return Row(id_, text, False, later, elsewhere)


def _amended(id_: str, text: str, *, later: str = "", elsewhere: str = "") -> Row:
    return Row(id_, text, True, later, elsewhere)


_CHANNELS = (
    _amended("channels/https", "HTTPS carries what HTTP does."),
    _row("channels/mqtts", "MQTTS carries what MQTT does."),
    _row("channels/coaps", "CoAPS carries what CoAP does, for clients on OpenSSL and on GnuTLS."),
    _amended(
        "channels/provision", "On every channel a device can be provisioned, and come back with what it was given."
    ),
    _amended(
        "channels/certificate",
        "A device with an X.509 certificate shows it on HTTPS, MQTTS or CoAPS, and needs no token.",
    ),
    _amended(
        "channels/self-signed", "A self-signed certificate that the device brought, or an operator imported, will do."
    ),
    _amended("channels/token-first", "A token in the path names the device, whatever certificate the channel has."),
    _amended("channels/psk", "With a token: its device id is a PSK identity, the token the key: CoAPS, MQTTS, HTTPS."),
    _amended(
        "channels/psk-provision",
        "A provision key is a PSK identity, and its secret the key; the request repeats neither.",
    ),
    _amended("channels/oscore", "With a token: an OSCORE context derived from it, named by the device id."),
    _amended("channels/oscore-provision", "The same of a provision key and its secret."),
    _amended("channels/wrong-key", "A wrong key: no handshake, over DTLS no answer, under OSCORE 4.00."),
    _amended("channels/unknown-identity", "An unknown identity cannot be told from a wrong key."),
    _row(
        "channels/resumption",
        "A resumed session shows its certificates again.",
        elsewhere=f"{_TLS}::test_a_resumed_session_still_shows_the_certificates",
    ),
    _row(
        "channels/reload",
        "Changed certificate files are taken up without a restart.",
        elsewhere=f"{_TLS}::test_changed_files_are_for_the_next_handshakes",
    ),
    _row("channels/renegotiation", "No renegotiation.", elsewhere=f"{_TLS}::test_renegotiation_is_refused"),
    _row(
        "channels/cookie",
        "DTLS: a spoofed source without a cookie costs nothing.",
        elsewhere=f"{_DTLS}::test_a_hello_without_a_cookie_leaves_nothing_behind",
    ),
    _row(
        "channels/garbage",
        "DTLS: garbage is not answered and harms no peer.",
        elsewhere=f"{_DTLS}::test_garbage_from_a_peers_address_harms_nothing",
    ),
    _row(
        "channels/fragments",
        "DTLS: fragments come in any order.",
        elsewhere=f"{_DTLS}::test_fragments_come_in_any_order",
    ),
    _row(
        "channels/bounded",
        "DTLS: half-open handshakes and peers are bounded.",
        elsewhere=f"{_DTLS}::test_half_open_handshakes_are_bounded",
    ),
)

_LIFECYCLE = (
    _amended("access/first-use", "The first successful authentication is recorded."),
    _amended("access/first-use-ends", "It ends `until_first_use`; a refused one, of whatever kind, does not."),
    _amended("access/rotation", "Under `rotate` it completes the rotation: the older credentials are good no more."),
    _row(
        "access/self-rotation",
        "A device asks over its own session for credentials that are to follow its present ones; asking again before"
        " they are used gives the same.",
    ),
    _row(
        "access/one-session",
        "A device has one live MQTT session: the newer wins, and who is refused takes nothing over.",
    ),
    _row("access/one-session-a-device", "Devices with one client id do not disturb one another."),
    _row(
        "access/one-session-everywhere",
        "Whatever process holds the older session.",
        elsewhere=f"{_SESSIONS}::test_the_newer_session_wins_across_processes",
    ),
    _row("access/cut-revoked", "`device revoke` ends the live session, and all that the credentials open."),
    _row("access/cut-deleted", "So does `device delete`."),
    _row("access/cut-deleted-row", "So does a row of credentials that is deleted in SQL."),
    _row("access/cut-rotated", "So does a rotation for the old credentials, and provisioning after `device rearm`."),
    _row("access/cut-listener", "Who listens over HTTP or CoAP is not told any more."),
    _row(
        "access/cut-everywhere", "In every process.", elsewhere=f"{_SESSIONS}::test_a_revoked_device_is_cut_everywhere"
    ),
    _row("access/online", "A device is online while it has a session, and for a while after a message."),
    _row("access/away", "While Postgres is away nobody is told that credentials are bad.", elsewhere=_AWAY),
)

_HANDSHAKE = (
    _row("6.1/wanted", "A client certificate is asked for and never needed."),
    _amended(
        "6.1/verified",
        "Signatures, validity, CA bit, path length, key usage, name constraints and trust are all checked.",
    ),
    _amended("6.1/leaf-as-issuer", "A device's certificate vouches for nobody."),
    _amended("6.1/single", "A chain of one is checked as any other: by the CA that issued it."),
    _amended("6.1/order", "Issuers may come in any order, and superfluous ones among them."),
    _row("6.1/late", "The handshake accepts what it is shown; the refusal comes at CONNECT, or as 401 and 4.01."),
)

_CHAINS = (
    _row("6.2/a-known", "A certificate that a device has is that device, with its issuers or without."),
    _amended("6.2/a-leaf-only", "Only the first certificate makes a device known, none behind it."),
    _row("6.2/b-profile", "The CA, wherever it stands above the device, decides the profile."),
    _row("6.2/b-root", "It may be the root, presented or not."),
    _row("6.2/b-intermediate", "It may be an intermediate, and the root be absent."),
    _amended(
        "6.2/b-nearest",
        "Of several profiles the one whose CA is nearest to the device.",
        elsewhere=f"{_ENROLLMENT}::test_the_nearest_ca_decides",
    ),
    _amended("6.2/b-other-type", "A profile with another strategy: refused, and the attempt says so."),
    _amended("6.2/not-found", "Asked with key and secret, a chain profile answers NOT_FOUND."),
    _row("6.2/1-cn", "The name is the first CN of the certificate's subject."),
    _amended("6.2/1-san", "Or a DNS name, URI or email address, if the profile says so."),
    _row("6.2/1-nameless", "Without such a name: refused."),
    _row("6.2/2-find", "The profile's pattern may match anywhere; its first group is the name."),
    _amended("6.2/2-whole", "Without a group: the whole match."),
    _row("6.2/2-mismatch", "No match: refused."),
    _amended("6.2/2-linear", "No pattern takes more than linear time."),
    _amended("6.2/2-wrong", "A pattern that is none is refused when it is saved."),
    _row("6.2/3-create", "An unknown name: the device is made, with the certificate, provisioned."),
    _amended("6.2/3-events", "The attempt and the event are recorded, as of any provisioning."),
    _row("6.2/3-no-create", "Unless the profile makes none: refused."),
    _row(
        "6.2/3-elsewhere",
        "A device of that name in another profile: refused.",
        elsewhere=f"{_ENROLLMENT}::test_a_device_of_another_profile_is_left_alone",
    ),
    _amended("6.2/3-rotate", "A device of the profile with another certificate gets the new one beside it."),
    _amended("6.2/3-old-dies", "Both are good until the new one is first used, which is when it comes back with it."),
    _amended("6.2/3-superseded", "An older certificate than the device has does not take over again."),
    _row("6.2/3-other-type", "A device with credentials of another type, imported or used, keeps them: refused."),
    _amended("6.2/3-pre-provisioned", "A generated token that was never used gives way to the certificate."),
    _row("6.2/4-removed", "A CA that is trusted no more keeps no known device out."),
    _amended("6.2/4-crl", "The profile's revocation lists do, whether it is known or not."),
    _amended(
        "6.2/4-stale",
        "A list past its nextUpdate lets nobody in.",
        elsewhere=f"{_ENROLLMENT}::test_a_stale_list_lets_nobody_in",
    ),
)

_CONNECT = (
    _row("6.3/dates", "A known certificate that has expired: refused, each time it is looked at."),
    _row("6.3/ignored", "User name, password and client id are not looked at."),
    _row("6.3/unknown", "Unknown: CONNACK 5, 0x87; on HTTPS 401, on CoAPS 4.01."),
    _row("6.3/no-fallback", "No user name makes up for a certificate that is refused."),
    _row("6.3/one-connection", "From unknown to provisioned in one connection; what is sent on it is taken."),
    _row("6.3/provision", "A client with a certificate may still ask to be provisioned with key and secret."),
    _row("6.3/no-response", "No `/provision/response` is involved."),
)

_AUTHORITIES = (
    _amended(
        "6.4/one-each",
        "A file holds one CA; a profile may trust several, to renew them.",
        elsewhere=f"{_ENROLLMENT}::test_a_profile_may_trust_the_old_ca_and_the_new",
    ),
    _row("6.4/unique", "A CA belongs to one profile."),
    _amended("6.4/unsupported", "A CA that could vouch for nobody is refused when it is saved."),
    _row("6.4/public", "A CA that the whole world trusts is refused.", later="a list of public CAs"),
    _amended("6.4/coap", "Chains provision over CoAPS too."),
    _amended("6.4/http", "And over HTTPS."),
)

_BAD = (
    _amended(
        "chain/refused", "Each bad certificate is refused in the protocol's own way, with its reason in the attempt."
    ),
    _amended(
        "chain/neighbours", "None costs another device anything: neighbours are served, and the next is provisioned."
    ),
    _amended("chain/expired", "Expired."),
    _amended("chain/not-yet-valid", "Not yet valid."),
    _amended("chain/wrong-ca", "Of a CA that no profile trusts."),
    _amended("chain/leaf-as-ca", "Issued by a device's certificate."),
    _amended("chain/missing-intermediate", "Without the intermediate between."),
    _amended("chain/self-signed", "Self-signed, and no device's."),
    _amended("chain/rsa-512", "RSA of 512 or 1024 bits."),
    _amended("chain/curve", "A curve of 224 bits: OpenSSL refuses it in the handshake, so there is no attempt."),
    _amended("chain/md5", "Signed with MD5 or SHA-1."),
    _amended("chain/cn-nul", "A CN with a NUL."),
    _amended("chain/cn-64-kb", "A CN of 64 KB: past the bound of a handshake; over TLS the attempt says so."),
    _amended("chain/no-match", "A name that the profile's pattern does not match."),
    _amended("chain/fifty", "Fifty certificates."),
    _amended("chain/revoked", "On the profile's revocation list."),
)

_MQTT = (
    _row("7.1/client-id", "Without a user name: MQTT basic credentials by client id."),
    _row("7.1/both", "With one: MQTT basic credentials by client id and user name first."),
    _row("7.1/fall-through", "Then what has the user name for its id."),
    _row("7.1/token", "An access token is let in whatever password and client id are."),
    _row("7.1/user-name", "MQTT basic credentials by user name alone: any client id."),
    _row("7.1/parts", "Client id and user name that are stored must be as presented."),
    _row("7.1/password", "A password that is stored must be given, and be right."),
    _row("7.1/no-password", "One that is not stored may be any."),
    _amended("7.1/types", "The id of credentials of one type is none of another."),
    _amended("7.1/blynk", "The user name `device` only ever means: the password is the token."),
    _amended("7.1/reserved", "`provision`, `device` and `mgmt_device` are nobody's credentials."),
)

_REFUSED = (
    _row("7.2/wrong", "User name, or all three, wrong: 5, 0x86; HTTP 401, CoAP 4.01."),
    _row(
        "7.2/password-alone",
        "A password alone: the same.",
        elsewhere="tests/core/test_authentication.py::test_who_is_not_found_is_not_let_in",
    ),
    _row("7.2/client-id", "A client id alone, unknown: 2, 0x85."),
    _row("7.2/nothing", "Nothing: 5, 0x87; 401, 4.01."),
    _row("7.2/certificate", "A certificate that is bad or expired: 5, 0x87; 401, 4.01."),
    _row("7.2/unavailable", "Postgres is away: 3, 0x88; 503, 5.03.", elsewhere=_AWAY),
    _row("7.2/closed", "Then the connection is closed."),
    _row("7.2/never-4", "Return code 4 is never sent before MQTT 5."),
    _row("7.2/taken-over", "A second session of the device: 0x8E."),
    _row("7.2/revoked", "Credentials that changed: 0x98."),
    _amended(
        "7.2/early",
        "What comes behind a CONNECT waits for its answer, and nothing is lost.",
        elsewhere="tests/transports/mqtt/test_listener.py::test_back_pressure",
    ),
    _row("7.2/limits", "Past a rate limit: 3, 0x9F.", later="rate limits"),
    _row("7.2/transport-type", "A profile for another transport: 3, 0x88.", later="transport types of profiles"),
)

_DATA = (
    _row("7.3/http", "`/api/v1/{token}/…` over HTTP: 200 and no body for what is taken."),
    _row("7.3/http-401", "A bad token: 401 without a body."),
    _amended("7.3/http-certificate", "`/api/v1/…` without a token, by a client certificate."),
    _row("7.3/http-408", "A long poll that hears nothing ends with 408."),
    _row("7.3/coap", "`/api/v1/{token}/…` over CoAP: 2.01 for what is taken, 2.05 for what is read."),
    _row("7.3/coap-401", "A bad token: 4.01."),
    _row("7.3/coap-certificate", "`/api/v1/…` without a token, by a client certificate of DTLS."),
    _row("7.3/telemetry", "Telemetry, by topic and by path."),
    _row("7.3/telemetry-forms", "An object, one with `ts` and `values`, an array of these, leniently read."),
    _row("7.3/telemetry-values", "Booleans, numbers, texts, JSON; null is skipped."),
    _row("7.3/telemetry-latest", "The newest sample of a key is the latest, whatever the order."),
    _amended(
        "7.3/telemetry-refused",
        "What is no telemetry is refused as a whole, and named: 400, 4.00, PUBACK 0x99; before MQTT 5 the end.",
    ),
    _amended("7.3/too-large", "Over 64 KiB (as configured): 413, 4.13, DISCONNECT 0x95."),
    _row("7.3/attributes", "Attributes, by topic and by path."),
    _row("7.3/attributes-client", "A device writes client attributes, and no others."),
    _amended("7.3/attributes-refused", "What is no object of attributes is refused."),
    _row("7.3/attributes-request", "Requests by keys: client and shared ones, members for what there is."),
    _row("7.3/attributes-all", "Without keys: all client and shared ones."),
    _row("7.3/attributes-none", "None: an empty object, over CoAP 4.04."),
    _row("7.3/attributes-server", "Server attributes are never seen by the device."),
    _row("7.3/updates", "A device that listens is told of shared attributes that change."),
    _row("7.3/updates-mqtt", "By a subscription to `v1/devices/me/attributes`."),
    _row("7.3/updates-http", "By a long poll of `attributes/updates`."),
    _row("7.3/updates-coap", "By Observe on `attributes`."),
    _row("7.3/updates-deleted", "And of those that are removed: `deleted`."),
    _row("7.3/updates-shared-only", "Of server ones and of its own it is not told."),
    _row("7.3/rpc", "Procedure calls: none come; `getSessionLimits` is answered."),
    _row("7.3/firmware", "Firmware and software: 404, as nothing is assigned."),
    _row("7.3/ota-mqtt", "`v2/fw/request/…`.", later="firmware updates"),
    _row("7.3/gateway", "`v1/gateway/…`.", later="gateways"),
    _row("7.3/short", "The short topics `v2/t` and `v2/a`, with `/j`."),
    _amended("7.3/short-protobuf", "Their protobuf forms, `/p`, are refused."),
    _row("7.3/unknown-topic", "A topic that means nothing: PUBACK, in MQTT 5 with 0x90; the session stays."),
    _row("7.3/unknown-path", "A path that means nothing: 404, 4.00; a wrong method: 405, 4.05."),
    _amended("7.3/subscriptions", "Subscriptions to a device's own topics; every other filter is refused."),
    _amended("7.3/qos-2", "QoS 2 before MQTT 5 is served by its rules.", elsewhere=f"{_DEVICE}::test_qos_2_before_5"),
)

_CLAIMS = (
    _row("7.4/claim", "A claim, by topic and by path."),
    _row("7.4/members", "`secretKey` and `durationMs`."),
    _row("7.4/empty", "Without a body."),
    _row("7.4/defaults", "No secret; a day, also for a duration of 0 or less."),
    _row("7.4/numeric", "A duration may be a numeric text."),
    _row("7.4/first-counts", "While a claim is live a second one changes nothing."),
    _amended("7.4/refused", "What is no claim is refused, and named."),
    _row("7.4/user", "The user's side.", later="claiming"),
    _row("7.4/gateway", "`v1/gateway/claim`.", later="gateways"),
)

_CALLS = (
    _row("C.1/update", "`update`, by pin or by `dataStreamId`."),
    _row("C.1/batch", "`batch/update`: all or none."),
    _row("C.1/upload", "`batch/update` by POST: timestamped values."),
    _row("C.1/get", "`get`: one value bare, several as JSON."),
    _row("C.1/get-all", "`getAll`."),
    _row("C.1/connected", "`isHardwareConnected`."),
    _row("C.1/property", "`update/property`."),
    _amended("C.1/events", "`logEvent`: profiles have no events, so there is none of that code."),
    _row("C.1/meta", "`device/meta`, `device/meta/update`."),
    _row("C.1/provision", "`provision`, of the device's own template."),
    _row("C.1/messages", "Refusals are 400, in Blynk's words."),
    _row("C.1/invalid-token", "`Invalid token.` on every call."),
    _row("C.1/case", "Paths and names are case-sensitive."),
    _row("C.1/pins", "Pins are not."),
    _row("C.1/location", "A location is longitude and latitude."),
    _row("C.1/clamp", "Values are held within the datastream's range."),
    _row("C.1/files", "`data/get`, `upload`.", later="files of devices"),
    _row("C.1/redirect", "308 to another region.", later="several regions"),
)

_SESSIONS_OF_BLYNK = (
    _amended("C.2/login", "User `device`, password = token; refusals have the codes of §7.2, not 4."),
    _row("C.2/one-connection", "One connection for a token: the newer wins."),
    _row("C.2/subscribe", "Subscriptions below `downlink/` alone, `#` at the end, no `+`."),
    _row("C.2/uplink", "`ds/<name>` and `batch_ds`."),
    _row("C.2/names", "By the datastream's name; HTTP knows the same one by its pin."),
    _row("C.2/property", "`ds/<name>/prop/<p>`, and `/erase`."),
    _row("C.2/info", "`info/mcu`, retained at QoS 1."),
    _row("C.2/get", "`get/ds`, `get/ds/all`, `get/meta`, `get/utc/all/json`."),
    _row("C.2/downlink", "Answers come below `downlink/`, subscribed to or not."),
    _row("C.2/diag", "What is wrong with a message is told on `downlink/diag`."),
    _amended("C.2/both", "ThingsBoard's topics and Blynk's work in one session."),
    _row("C.2/gateway", "`mgmt_device` and `dev/{token}/…`.", later="gateways"),
    _row("C.2/websocket", "MQTT over WebSocket.", later="WebSocket"),
    _row(
        "C.2/commands", "`downlink/ota/json`, `reboot`, `reconfigure`, `redirect`, `ping`.", later="commands to devices"
    ),
)

_BINARY = (_row("C.3/login", "The binary protocol of Edgent firmware.", later="Blynk's binary protocol"),)

_PARTICLE = (
    _row("C.4/webhook", "The webhook's call is taken for a provisioned device: 200, empty."),
    _row("C.4/values", "Its values arrive in their datastreams."),
    _row("C.4/online", "It marks the device online."),
    _row("C.4/no-token", "An empty token: 400, `Invalid token.`"),
    _amended("C.4/empty", "Values that are empty leave their pins as they are."),
    _amended("C.4/defaults", "What Particle adds without `noDefaults` is ignored."),
)

ROWS: dict[str, Row] = {
    row.id: row
    for rows in (
        *(_CHANNELS, _LIFECYCLE),
        *(_HANDSHAKE, _CHAINS, _CONNECT, _AUTHORITIES, _BAD),
        *(_MQTT, _REFUSED, _DATA, _CLAIMS),
        *(_CALLS, _SESSIONS_OF_BLYNK, _BINARY, _PARTICLE),
    )
    for row in rows
}

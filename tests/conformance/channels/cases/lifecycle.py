"""First use, rotation, revocation, and the one live session of a device."""

from tests.conformance.channels.cases.short import CREDENTIALS, comes, each, of, refused
from tests.conformance.channels.model import (
    ALL,
    CERTIFICATE,
    HTTP,
    KEYED,
    MQTT,
    TOKEN_IN_PATH,
    Act,
    Bystander,
    Case,
    Change,
    Channel,
    Coap,
    Come,
    Device,
    Do,
    Ended,
    Hear,
    Http,
    Kept,
    Listen,
    Login,
    Message,
    Open,
    Pki,
    Profile,
    Provision,
    Publish,
    Step,
    Subscribe,
    Verdict,
)
from tests.pki import days, self_signed

TELEMETRY = "v1/devices/me/telemetry"
ATTRIBUTES = "v1/devices/me/attributes"
ROTATE = Profile(policy="rotate")
UNTIL_FIRST_USE = Profile(policy="until_first_use")
OLD = {"credentialsType": "X509_CERTIFICATE", "hash": "«old.pem»"}
NEW = {"credentialsType": "X509_CERTIFICATE", "hash": "«new.pem»"}


def _two(tag: str) -> Pki:
    return Pki(devices={"old": self_signed(tag), "new": self_signed(tag)})


def _expired(tag: str) -> Pki:
    expired = self_signed(tag, not_before=days(-9), not_after=days(-1))
    return Pki(devices={"old": self_signed(tag), "new": expired})


_FIRST_USE = (
    Case(
        id="first-use/ends-until-first-use",
        says="Until it has come back it may ask again and gets the same answer; from then on it may not.",
        cites="access/first-use-ends ours/until-first-use",
        steps=(
            Provision(name="first"),
            Provision(name="second"),
            comes(of("first")),
            Provision(status="FAILURE"),
            comes(of("second")),
        ),
        profile=UNTIL_FIRST_USE,
        device=None,
    ),
    Case(
        id="first-use/refused-use-is-none",
        says="Who is refused has not used anything.",
        cites="access/first-use-ends",
        steps=each(
            (*HTTP, Channel.COAP, *MQTT),
            Provision(name="first"),
            refused(Login(token="wrong-«tag»")),
            Provision(name="second"),
        ),
        profile=UNTIL_FIRST_USE,
        device=None,
    ),
    Case(
        id="first-use/refused-certificate-is-none",
        says="Nor who is refused for a new certificate that has expired: the old one stays good.",
        cites="access/first-use-ends access/rotation",
        steps=(
            Provision(name="old", members=OLD),
            comes(Login(certificate="old")),
            Provision(name="new", members=NEW),
            Come(login=Login(certificate="new"), expect=Verdict.CERTIFICATE),
            comes(Login(certificate="old")),
        ),
        channels=CERTIFICATE,
        profile=ROTATE,
        device=None,
        pki=_expired,
    ),
    Case(
        id="first-use/completes-rotation",
        says="Under `rotate` the old token works until the new one is used, and never again.",
        cites="access/rotation ours/rotate",
        steps=(
            Provision(name="old"),
            comes(of("old")),
            Provision(name="new"),
            Kept(credentials=("ACCESS_TOKEN", "ACCESS_TOKEN")),
            comes(of("old")),
            comes(of("new")),
            refused(of("old")),
            comes(of("new")),
            Kept(credentials=("ACCESS_TOKEN",)),
        ),
        channels=tuple(channel for channel in ALL if channel not in KEYED),
        profile=ROTATE,
        device=None,
    ),
    Case(
        id="first-use/completes-rotation-of-keys",
        says="The same where the token is the channel's key: old and new take turns, and a client tries again.",
        cites="access/rotation channels/psk channels/oscore",
        steps=(
            Provision(name="old"),
            comes(of("old")),
            Provision(name="new"),
            Come(login=of("new"), tries=3),
            refused(of("old"), Verdict.KEY),
            comes(of("new")),
            Kept(credentials=("ACCESS_TOKEN",)),
        ),
        channels=KEYED,
        profile=ROTATE,
        device=None,
    ),
    Case(
        id="first-use/completes-rotation-of-certificates",
        says="The same with certificates that the device brings.",
        cites="access/rotation channels/certificate",
        steps=(
            Provision(name="old", members=OLD),
            comes(Login(certificate="old")),
            Provision(name="new", members=NEW),
            comes(Login(certificate="old")),
            comes(Login(certificate="new")),
            Come(login=Login(certificate="old"), expect=Verdict.CERTIFICATE),
        ),
        channels=CERTIFICATE,
        profile=ROTATE,
        device=None,
        pki=_two,
    ),
)

_SESSIONS = (
    Case(
        id="session/newer-wins",
        says="A second session of the device ends the first, which is told so in MQTT 5.",
        cites="access/one-session 7.2/taken-over C.2/one-connection",
        steps=(
            Open(session="older"),
            Open(session="newer"),
            Ended(session="older", expect=Verdict.TAKEN_OVER),
            Publish(session="newer", topic=TELEMETRY, payload='{"t":1}'),
            Kept(online=True, telemetry={"t": 1}),
        ),
        channels=MQTT,
    ),
    Case(
        id="session/newer-wins-by-certificate",
        says="The same device by certificate.",
        cites="access/one-session",
        steps=(
            Open(session="older"),
            Open(session="newer"),
            Ended(session="older", expect=Verdict.TAKEN_OVER),
            Publish(session="newer", topic=TELEMETRY, payload='{"t":1}'),
        ),
        channels=(Channel.MQTTS,),
        device=Device(certificate="device"),
    ),
    Case(
        id="session/others-stay",
        says="Two devices with one client id leave each other alone: sessions are of devices.",
        cites="access/one-session-a-device",
        steps=(
            Open(session="a", login=Login(client_id="same", username="«token»")),
            Bystander(),
            Publish(session="a", topic=TELEMETRY, payload='{"t":1}'),
        ),
        channels=MQTT,
    ),
    Case(
        id="session/refused-takes-nothing-over",
        says="Who is refused ends nobody's session.",
        cites="access/one-session",
        steps=(
            Open(session="a", login=Login(client_id="same-«tag»", username="user-«tag»", password="pass-«tag»")),
            Open(
                session="b",
                login=Login(client_id="same-«tag»", username="user-«tag»", password="wrong"),
                expect=CREDENTIALS,
            ),
            Publish(session="a", topic=TELEMETRY, payload='{"t":1}'),
        ),
        channels=MQTT,
        device=Device(username="user-«tag»", password="pass-«tag»"),
    ),
)


def _cut(name: str, says: str, act: Act) -> tuple[Case, ...]:
    """The operator's act ends a live session, and whatever the credentials opened."""
    return (
        Case(
            id=f"cut/{name}",
            says=f"{says} ends the live session at once, and the credentials open nothing any more.",
            cites=f"access/cut-{name} 7.2/revoked",
            steps=each(
                MQTT,
                Open(),
                Do(act),
                Ended(expect=Verdict.REVOKED),
                Open(session="again", expect=CREDENTIALS),
            )
            | each(
                tuple(channel for channel in ALL if channel not in MQTT),
                comes(),
                Do(act),
                refused(expect=Verdict.GONE),
                Bystander(),
            ),
            device=Device(token="token-«tag»"),
        ),
        Case(
            id=f"cut/{name}-certificate",
            says="The same with a certificate.",
            cites=f"access/cut-{name}",
            steps=each(
                (Channel.MQTTS,),
                Open(),
                Do(act),
                Ended(expect=Verdict.REVOKED),
                Open(session="again", expect=Verdict.CERTIFICATE),
            )
            | each((Channel.HTTPS, Channel.X509), comes(), Do(act), Come(expect=Verdict.CERTIFICATE), Bystander()),
            device=Device(certificate="device"),
        ),
    )


_CUTS = (
    *_cut("revoked", "`device revoke`", Act.REVOKE),
    *_cut("deleted", "`device delete`", Act.DELETE),
    *_cut("deleted-row", "A row of credentials that an operator deletes in SQL", Act.DELETE_ROW),
    Case(
        id="cut/rotated",
        says="A rotation that is completed elsewhere ends the session on the old credentials.",
        cites="access/cut-rotated 7.2/revoked",
        steps=(
            Provision(name="old"),
            Open(login=of("old")),
            Provision(name="new"),
            Publish(topic=TELEMETRY, payload='{"t":1}'),
            Open(session="new", login=of("new")),
            Ended(expect=Verdict.REVOKED, or_=Verdict.TAKEN_OVER),
            Open(session="old", login=of("old"), expect=CREDENTIALS),
            Publish(session="new", topic=TELEMETRY, payload='{"t":2}'),
        ),
        channels=MQTT,
        profile=ROTATE,
        device=None,
    ),
    Case(
        id="cut/rotated-over-http",
        says="The new token is first used over HTTP: the session on the old one is cut.",
        cites="access/cut-rotated",
        steps=(
            Provision(name="old"),
            Open(login=of("old")),
            Provision(name="new"),
            Http(method="POST", path="/api/v1/«new.token»/telemetry", payload="{}", expect=200),
            Ended(expect=Verdict.REVOKED),
        ),
        channels=MQTT,
        profile=ROTATE,
        device=None,
    ),
    Case(
        id="cut/rearmed",
        says="A device that was re-armed and provisions itself again loses its older session and credentials.",
        cites="access/cut-rotated ours/rearm",
        steps=(
            Provision(name="old"),
            Open(login=of("old")),
            Do(Act.REARM),
            Provision(name="new"),
            Ended(expect=Verdict.REVOKED),
            Open(session="old", login=of("old"), expect=CREDENTIALS),
            Open(session="new", login=of("new")),
        ),
        channels=MQTT,
        device=None,
    ),
    Case(
        id="cut/listener",
        says="Who listens for changes by long poll or Observe is not told any more once it is revoked.",
        cites="access/cut-listener",
        steps=each(
            TOKEN_IN_PATH[:3],
            Listen(),
            Change(shared={"a": "1"}),
            Hear({"a": 1}),
            Do(Act.REVOKE),
            refused(expect=Verdict.GONE),
        ),
    ),
)

_NEXT = "v1/devices/me/credentials"
_TWO_TOKENS = Kept(credentials=("ACCESS_TOKEN", "ACCESS_TOKEN"))


def _over_http() -> tuple[Step, ...]:
    path = "/api/v1/«own.token»/credentials"
    good = Http(path=path, method="POST", payload="{}", expect=200)
    bad = Http(path=path, method="POST", payload="[]", expect=400)
    return Provision(name="own"), bad, good, good, _TWO_TOKENS


def _over_coap() -> tuple[Step, ...]:
    path = "api/v1/«own.token»/credentials"
    good = Coap(path=path, payload="{}", expect="2.01")
    return Provision(name="own"), Coap(path=path, payload="[]", expect="4.00"), good, good, _TWO_TOKENS


def _over_mqtt() -> tuple[Step, ...]:
    asked = (
        (Publish(topic=f"{_NEXT}/request/{n}", payload="{}"), Message(topic=f"{_NEXT}/response/{n}")) for n in (7, 8)
    )
    bad = Publish(topic=f"{_NEXT}/request/9", payload="[]"), Message(topic=f"{_NEXT}/response/9")
    return (
        Provision(name="own"),
        Open(login=of("own")),
        Subscribe(filter=f"{_NEXT}/response/+"),
        *bad,
        *(step for pair in asked for step in pair),
        _TWO_TOKENS,
    )


_ROTATIONS = (
    Case(
        id="rotation/asked-for",
        says="A device gets its next token over its own session, the same however often it asks; nothing changes yet.",
        cites="access/self-rotation",
        steps={
            **dict.fromkeys(HTTP, _over_http()),
            **dict.fromkeys(MQTT, _over_mqtt()),
            Channel.COAP: _over_coap(),
        },
        device=None,
    ),
)

CASES = (*_FIRST_USE, *_SESSIONS, *_CUTS, *_ROTATIONS)

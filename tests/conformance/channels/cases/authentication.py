"""Coming back: every kind of credentials on every channel where it exists, and every refusal of spec §7.1 and §7.2."""

from tests.conformance.channels.cases.short import (
    CLIENT_ID,
    CREDENTIALS,
    KEY,
    NOTHING,
    comes,
    connect,
    each,
    of,
    refused,
)
from tests.conformance.channels.model import (
    CERTIFICATE,
    HTTP,
    MQTT,
    TOKEN_IN_PATH,
    Bystander,
    Case,
    Channel,
    Device,
    Http,
    Kept,
    Login,
    Open,
    Pki,
    Provision,
    Publish,
    Send,
    Verdict,
)
from tests.pki import days, self_signed

UNKNOWN = "00000000-0000-7000-8000-000000000000"
TOKEN = Device(token="token-«tag»")
BY_TOKEN = Login(token="«token»")
OWN = {"credentialsType": "X509_CERTIFICATE", "hash": "«own.pem»"}


def _own(tag: str) -> Pki:
    return Pki(devices={"own": self_signed(tag), "other": self_signed(f"{tag}-other")})


def _expired(tag: str) -> Pki:
    return Pki(devices={"device": self_signed(tag, not_before=days(-9), not_after=days(-1))})


_TYPES = (
    Case(
        id="auth/access-token",
        says="With its access token: in the path, as user name, or as the key of the channel.",
        cites="7.1/token 7.3/http 7.3/coap channels/https channels/mqtts channels/coaps channels/psk channels/oscore",
        steps=(comes(BY_TOKEN), Send(payload='{"t":1}', login=BY_TOKEN), Kept(telemetry={"t": 1}), Bystander()),
        device=TOKEN,
    ),
    Case(
        id="auth/provisioned-on-the-channel",
        says="Provisioned on this channel, and back on it with what it was given.",
        cites="channels/provision channels/psk-provision channels/oscore-provision 1.1/tls 3/dtls access/first-use",
        steps=(Provision(name="first"), comes(of("first")), Kept(credentials=("ACCESS_TOKEN",), state="provisioned")),
        device=None,
    ),
    Case(
        id="auth/certificate-of-its-own",
        says="It brings a self-signed certificate when it is provisioned, and comes back with it alone.",
        cites="channels/certificate channels/self-signed 7.3/coap-certificate 7.3/http-certificate",
        steps=(
            Provision(name="first", members=OWN),
            comes(Login(certificate="own")),
            refused(Login(certificate="other"), Verdict.CERTIFICATE),
            Kept(credentials=("X509_CERTIFICATE",)),
        ),
        channels=CERTIFICATE,
        device=None,
        pki=_own,
    ),
    Case(
        id="auth/certificate-imported",
        says="With a certificate that an operator imported.",
        cites="channels/certificate",
        steps=(comes(), Send(payload='{"t":1}'), Kept(telemetry={"t": 1})),
        channels=CERTIFICATE,
        device=Device(certificate="device"),
    ),
    Case(
        id="auth/certificate-gnutls",
        says="The same, by a client on GnuTLS.",
        cites="channels/certificate channels/coaps",
        steps=(comes(Login(certificate="device", gnutls=True)),),
        channels=(Channel.X509,),
        device=Device(certificate="device"),
    ),
    Case(
        id="auth/psk-gnutls",
        says="Provisioned and back by pre-shared keys, by a client on GnuTLS.",
        cites="channels/psk channels/psk-provision",
        steps=(Provision(name="first", login=Login(gnutls=True)), comes(of("first", gnutls=True))),
        channels=(Channel.PSK,),
        device=None,
    ),
    Case(
        id="auth/psk-mqtts",
        says="Its id and token as a pre-shared key of TLS.",
        cites="channels/psk",
        steps=(comes(Login(identity="«id»", key="«token»")), refused(Login(identity="«id»", key="wrong"), KEY)),
        channels=(Channel.MQTTS,),
        device=TOKEN,
    ),
    Case(
        id="auth/psk-https",
        says="The same over HTTPS, by openssl s_client: curl has no pre-shared keys.",
        cites="channels/psk",
        steps=(comes(Login(identity="«id»", key="«token»")), refused(Login(identity="«id»", key="wrong"), KEY)),
        channels=(Channel.HTTPS,),
        device=TOKEN,
    ),
    Case(
        id="auth/token-under-dtls",
        says="A channel without a client certificate, and the token in the path.",
        cites="7.3/coap channels/coaps 6.1/wanted",
        steps=(comes(BY_TOKEN), refused(Login(token="wrong-«tag»"))),
        channels=(Channel.X509,),
        device=TOKEN,
    ),
    Case(
        id="auth/token-and-certificate",
        says="With the token in the path the channel's certificate does not count: a request names one device.",
        cites="channels/token-first",
        steps=(Http(path="/api/v1/«token»/attributes", expect=200, certificate="own"),),
        channels=(Channel.HTTPS,),
        device=TOKEN,
        pki=_own,
    ),
)

_MQTT = (
    Case(
        id="auth/token-any-password",
        says="A token as user name is let in whatever password and client id say.",
        cites="7.1/token",
        steps=(
            comes(connect(username="«token»")),
            comes(connect(username="«token»", password="any")),
            comes(connect("any-«tag»", "«token»", "any")),
            Open(login=connect("any-«tag»", "«token»", "any")),
        ),
        channels=MQTT,
        device=TOKEN,
    ),
    Case(
        id="auth/basic-user-name",
        says="MQTT basic by user name: its password must be right, its client id may be any.",
        cites="7.1/user-name 7.1/password 7.2/wrong",
        steps=(
            comes(connect("any-«tag»", "user-«tag»", "pass-«tag»")),
            comes(connect("", "user-«tag»", "pass-«tag»")),
            refused(connect("", "user-«tag»", "wrong")),
            refused(connect("", "user-«tag»")),
            refused(connect("", "other-«tag»", "pass-«tag»")),
        ),
        channels=MQTT,
        device=Device(username="user-«tag»", password="pass-«tag»"),
    ),
    Case(
        id="auth/basic-client-id",
        says="MQTT basic by client id, without a user name; a password that is not stored may be any.",
        cites="7.1/client-id 7.1/no-password 7.2/client-id",
        steps=(
            comes(connect("client-«tag»")),
            Open(login=connect("client-«tag»")),
            refused(connect("other-«tag»"), CLIENT_ID),
            Open(session="b", login=connect("other-«tag»"), expect=CLIENT_ID),
        ),
        channels=MQTT,
        device=Device(client_id="client-«tag»"),
    ),
    Case(
        id="auth/basic-all",
        says="MQTT basic by client id, user name and password: each must be as stored.",
        cites="7.1/both 7.1/parts 7.2/wrong",
        steps=(
            comes(connect("client-«tag»", "user-«tag»", "pass-«tag»")),
            refused(connect("client-«tag»", "user-«tag»", "wrong")),
            refused(connect("client-«tag»", "user-«tag»")),
            refused(connect("other-«tag»", "user-«tag»", "pass-«tag»")),
            refused(connect("client-«tag»", "other-«tag»", "pass-«tag»")),
            refused(connect("client-«tag»"), CLIENT_ID),
            Open(login=connect("client-«tag»", "user-«tag»", "wrong"), expect=CREDENTIALS),
        ),
        channels=MQTT,
        device=Device(client_id="client-«tag»", username="user-«tag»", password="pass-«tag»"),
    ),
    Case(
        id="auth/basic-no-password",
        says="MQTT basic by client id and user name without a password: any password passes.",
        cites="7.1/both 7.1/no-password",
        steps=(
            comes(connect("client-«tag»", "user-«tag»")),
            comes(connect("client-«tag»", "user-«tag»", "any")),
        ),
        channels=MQTT,
        device=Device(client_id="client-«tag»", username="user-«tag»"),
    ),
    Case(
        id="auth/fall-through",
        says="A user name that is not one of client id and user name together is looked up alone: as a token.",
        cites="7.1/fall-through",
        steps=(comes(connect("client-«tag»", "«token»", "any")),),
        channels=MQTT,
        device=TOKEN,
    ),
    Case(
        id="auth/blynk",
        says="Blynk's user `device`: the password is the token, and nothing else counts.",
        cites="C.2/login 7.1/blynk",
        steps=(
            comes(connect("", "device", "«token»")),
            comes(connect("any-«tag»", "device", "«token»")),
            refused(connect("", "device", "wrong")),
            refused(connect("«token»", "device")),
            Open(login=connect("", "device", "wrong"), expect=CREDENTIALS),
        ),
        channels=MQTT,
        device=TOKEN,
    ),
    Case(
        id="auth/blynk-basic",
        says="Blynk's user `device` opens no MQTT basic credentials: a user name alone as password is none.",
        cites="7.1/blynk",
        steps=(refused(connect("", "device", "user-«tag»")), refused(connect("", "device", "pass-«tag»"))),
        channels=MQTT,
        device=Device(username="user-«tag»", password="pass-«tag»"),
    ),
)

_REFUSALS = (
    Case(
        id="refused/wrong-token",
        says="A token that nobody has.",
        cites="7.2/wrong 7.2/never-4 7.2/closed 7.3/http-401 7.3/coap-401",
        steps=each(TOKEN_IN_PATH, refused(Login(token="wrong-«tag»")), Bystander())
        | each(MQTT, refused(Login(token="wrong-«tag»")), Open(login=Login(token="wrong-«tag»"), expect=CREDENTIALS)),
    ),
    Case(
        id="refused/wrong-password-alone",
        says="A user name that nobody has, with a password, without and with a client id.",
        cites="7.2/wrong",
        steps=(
            refused(connect("", "wrong-«tag»", "any")),
            refused(connect("wrong-«tag»", "wrong-«tag»", "any")),
            Open(login=connect("wrong-«tag»", "wrong-«tag»", "any"), expect=CREDENTIALS),
            Bystander(),
        ),
        channels=MQTT,
    ),
    Case(
        id="refused/unknown-client-id",
        says="Only a client id, that nobody has.",
        cites="7.2/client-id",
        steps=(refused(connect("nobody-«tag»"), CLIENT_ID), Open(login=connect("nobody-«tag»"), expect=CLIENT_ID)),
        channels=MQTT,
    ),
    Case(
        id="refused/nothing",
        says="Nothing at all.",
        cites="7.2/nothing 7.3/http-401 7.3/coap-401",
        steps=each((*HTTP, Channel.COAP, Channel.X509), refused(Login(username="none"), NOTHING))
        | each(MQTT, Open(login=Login(), expect=NOTHING)),
        device=TOKEN,
    ),
    Case(
        id="refused/unknown-certificate",
        says="A certificate that no device has and no CA vouches for, whatever else is presented: no token helps.",
        cites="7.2/certificate 6.3/unknown 6.3/no-fallback",
        steps=each(
            (Channel.HTTPS, Channel.X509),
            refused(Login(certificate="own"), Verdict.CERTIFICATE),
            Bystander(),
        )
        | each(
            (Channel.MQTTS,),
            refused(Login(certificate="own"), Verdict.CERTIFICATE),
            refused(Login(certificate="own", token="«token»"), Verdict.CERTIFICATE),
            Open(login=Login(certificate="own", token="«token»"), expect=Verdict.CERTIFICATE),
            Bystander(),
        ),
        device=TOKEN,
        pki=_own,
    ),
    Case(
        id="refused/expired-certificate",
        says="A certificate that the device has, but has expired.",
        cites="7.2/certificate 6.3/dates",
        steps=(refused(expect=Verdict.CERTIFICATE), Bystander()),
        channels=CERTIFICATE,
        device=Device(certificate="device"),
        pki=_expired,
    ),
    Case(
        id="refused/wrong-key",
        says="The device's id with another key: no channel comes about, and nothing is said of it.",
        cites="channels/wrong-key",
        steps=each((Channel.PSK, Channel.OSCORE), refused(Login(identity="«id»", key="wrong"), KEY), Bystander())
        | each((Channel.MQTTS,), refused(Login(identity="«id»", key="wrong"), KEY), Bystander()),
        device=TOKEN,
    ),
    Case(
        id="refused/unknown-identity",
        says="An identity that nobody has: as with a wrong key.",
        cites="channels/unknown-identity",
        steps=(refused(Login(identity=UNKNOWN, key="any"), KEY),),
        channels=(Channel.PSK, Channel.MQTTS, Channel.OSCORE),
    ),
    Case(
        id="refused/wrong-key-gnutls",
        says="A wrong key, by a client on GnuTLS.",
        cites="channels/wrong-key",
        steps=(refused(Login(identity="«id»", key="wrong", gnutls=True), KEY),),
        channels=(Channel.PSK,),
        device=TOKEN,
    ),
    Case(
        id="refused/other-types-id",
        says="What is the id of credentials of one type is none of another: a user name is no token.",
        cites="7.1/types",
        steps=(refused(Login(token="user-«tag»")),),
        channels=TOKEN_IN_PATH,
        device=Device(username="user-«tag»", password="pass-«tag»"),
    ),
)

_RESERVED = tuple(
    Case(
        id=f"reserved/{name.replace('_', '-')}",
        says=f"`{name}` is nobody's token and user name.",
        cites="7.1/reserved ours/reserved",
        steps=each(
            (*HTTP, Channel.COAP, Channel.X509),
            refused(Login(token=name)),
        )
        | (
            each(MQTT, refused(connect("", name, "any")))
            if name != "provision"
            else each(
                MQTT,
                Open(login=connect("", name, "any")),
                Publish(topic="v1/devices/me/telemetry", payload="{}", expect=Verdict.NO_TOPIC),
            )
        ),
    )
    for name in ("provision", "device", "mgmt_device")
)

CASES = (*_TYPES, *_MQTT, *_REFUSALS, *_RESERVED)

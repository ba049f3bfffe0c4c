"""Which credentials a request makes, under which id, and which it cannot have."""

import hashlib

from tests.conformance.model import ALLOW_CREATE, FAILURE, Attempted, Case, Device, Devices, Granted, Stored
from tests.conformance.requests import ask

X509, BASIC, LWM2M = "X509_CERTIFICATE", "MQTT_BASIC", "LWM2M_CREDENTIALS"


def basic(client_id: str = "", user_name: str = "", password: str = "") -> Granted:
    """MQTT basic credentials as they come back."""
    return Granted(type=BASIC, value={"clientId": client_id, "userName": user_name, "password": password})


def x509(value: str) -> Granted:
    """A certificate as it comes back."""
    return Granted(type=X509, value=value)


def _sha3(text: str) -> str:
    return hashlib.sha3_256(text.encode()).hexdigest()


_TABLE = (
    Case(
        id="credentials/none",
        says="No credential member: a token, whatever type is named; empty members count as none.",
        cites="4.2/none 5.7/generated 4.1/credentialsType",
        steps=(
            ask(Granted(name="«tag»a"), deviceName="«tag»a", credentialsType=X509),
            ask(Granted(name="«tag»b"), deviceName="«tag»b", credentialsType=BASIC, username="", clientId=""),
            ask(Granted(name="«tag»c"), deviceName="«tag»c", credentialsType=LWM2M, hash=""),
            ask(Granted(name="«tag»d"), deviceName="«tag»d", credentialsType="ACCESS_TOKEN", token=""),
        ),
    ),
    Case(
        id="credentials/token",
        says="ACCESS_TOKEN with a token: that token.",
        cites="4.2/token 4.1/token 4.3/token 5.7/token 5.7/one-each",
        steps=(
            ask(Granted(value="tok-«tag»"), credentialsType="ACCESS_TOKEN", token="tok-«tag»"),
            Stored(credentials_id="tok-«tag»"),
        ),
    ),
    Case(
        id="credentials/token-untyped",
        says="A token without a type: that token.",
        cites="4.2/token 4.1/credentialsType",
        steps=(ask(Granted(value="tok-«tag»"), token="tok-«tag»"),),
    ),
    Case(
        id="credentials/token-missing",
        says="ACCESS_TOKEN or no type with members of other types only: FAILURE, and nothing is made.",
        cites="4.2/token-missing 5.3/rollback 4.4/reasons",
        steps=(
            ask(FAILURE, hash="«short.pem»"),
            ask(FAILURE, username="u-«tag»", password="p"),
            ask(FAILURE, clientId="c-«tag»", credentialsType="ACCESS_TOKEN"),
            Attempted("CREDENTIALS_INVALID"),
            Devices(0),
            ask(Granted()),
        ),
    ),
    Case(
        id="credentials/x509-pem",
        says="X509_CERTIFICATE with a PEM of 4 KB: it comes back without header, footer and line ends.",
        cites="4.2/x509 4.1/hash 4.3/x509 5.7/x509 5.7/normalise 5.7/one-each 3/blockwise 2/success 3/success",
        steps=(ask(x509("«body»"), credentialsType=X509, hash="«pem»"),),
    ),
    Case(
        id="credentials/x509-body",
        says="The base64 body alone is the same certificate: its PEM is in use then.",
        cites="4.2/x509 4.1/hash 4.3/x509 5.7/normalise 5.7/unique",
        steps=(
            ask(x509("«short.body»"), credentialsType=X509, hash="«short.body»"),
            ask(FAILURE, deviceName="«tag»b", credentialsType=X509, hash="«short.pem»"),
            Attempted("CREDENTIALS_TAKEN"),
        ),
    ),
    Case(
        id="credentials/x509-blanks",
        says="Blanks and tabs in the text stay; CR goes as LF does.",
        cites="5.7/normalise 4.3/x509",
        steps=(
            ask(
                x509(" «tag»\tAB  C "),
                credentialsType=X509,
                hash="-----BEGIN CERTIFICATE-----\r\n «tag»\tAB\r\n  C \n-----END CERTIFICATE-----\r\n",
            ),
            Stored(credentials=1),
        ),
    ),
    Case(
        id="credentials/x509-any-text",
        says="The text need not be a certificate; testHash has the known id.",
        cites="4.2/x509 5.7/vector-hash 5.7/x509",
        steps=(
            ask(x509("testHash"), credentialsType=X509, hash="testHash"),
            Stored(credentials_id="57f6600424d6553263f1f32e0117012894a36fbf07e3e9c3c556272f86b7d985"),
        ),
    ),
    Case(
        id="credentials/x509-no-hash",
        says="X509_CERTIFICATE with members of other types only: FAILURE, each time.",
        cites="4.2/x509-no-hash 5.7/vector-sha3-empty",
        steps=(
            ask(FAILURE, credentialsType=X509, token="tok-«tag»"),
            ask(FAILURE, credentialsType=X509, token="tok-«tag»"),
            ask(FAILURE, credentialsType=X509, clientId="c-«tag»", username="u-«tag»"),
            Devices(0),
        ),
    ),
    Case(
        id="credentials/x509-empty",
        says="A PEM that is empty once stripped: FAILURE.",
        cites="5.7/vector-sha3-empty 4.2/x509-no-hash 5.7/normalise",
        steps=(
            ask(FAILURE, credentialsType=X509, hash="-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n"),
            Attempted("CREDENTIALS_INVALID"),
            Devices(0),
        ),
    ),
    Case(
        id="credentials/basic-client-id",
        says="MQTT_BASIC by client id.",
        cites="4.2/basic 4.1/basic 4.3/basic 5.7/basic-client-id",
        steps=(
            ask(basic("thermostat"), credentialsType=BASIC, clientId="thermostat"),
            Stored(credentials_id=_sha3("thermostat")),
        ),
    ),
    Case(
        id="credentials/basic-user-name",
        says="MQTT_BASIC by user name.",
        cites="4.2/basic 4.1/basic 4.3/basic 5.7/basic-user-name",
        steps=(
            ask(basic("", "u-«tag»"), credentialsType=BASIC, username="u-«tag»"),
            Stored(credentials_id="u-«tag»"),
        ),
    ),
    Case(
        id="credentials/basic-password",
        says="MQTT_BASIC by user name and password; the password is no part of the id.",
        cites="4.2/basic 4.1/basic 4.3/basic 5.7/basic-user-name",
        steps=(
            ask(basic("", "u-«tag»", "pass «tag»"), credentialsType=BASIC, username="u-«tag»", password="pass «tag»"),
            Stored(credentials_id="u-«tag»"),
        ),
    ),
    Case(
        id="credentials/basic-both",
        says="MQTT_BASIC by client id and user name, whose id is known.",
        cites="4.2/basic 4.3/basic 5.7/basic-both 5.7/vector-basic",
        steps=(
            ask(
                basic("test_clientId", "test_username"),
                credentialsType=BASIC,
                clientId="test_clientId",
                username="test_username",
            ),
            Stored(credentials_id="b9f1b0bf238dddae689babba0a210fe42bc97ddb07620b5a07d7208dd5528db2"),
        ),
    ),
    Case(
        id="credentials/basic-all",
        says="MQTT_BASIC by all three.",
        cites="4.2/basic 4.3/basic 5.7/basic-both",
        steps=(
            ask(
                basic("test_clientId", "test_username", "test_password"),
                credentialsType=BASIC,
                clientId="test_clientId",
                username="test_username",
                password="test_password",
            ),
            Stored(credentials_id="b9f1b0bf238dddae689babba0a210fe42bc97ddb07620b5a07d7208dd5528db2"),
        ),
    ),
    Case(
        id="credentials/basic-nothing",
        says="MQTT_BASIC with a password alone, or members of other types alone: FAILURE.",
        cites="4.2/basic-nothing 5.3/rollback",
        steps=(
            ask(FAILURE, credentialsType=BASIC, password="p"),
            ask(FAILURE, credentialsType=BASIC, token="tok-«tag»"),
            ask(FAILURE, credentialsType=BASIC, hash="«short.pem»"),
            Devices(0),
        ),
    ),
    Case(
        id="credentials/basic-client-id-password",
        says="MQTT_BASIC with a client id and a password but no user name: FAILURE.",
        cites="4.2/basic-password",
        steps=(ask(FAILURE, credentialsType=BASIC, clientId="c-«tag»", password="p"), Devices(0)),
    ),
    Case(
        id="credentials/lwm2m",
        says="LWM2M_CREDENTIALS with any member: FAILURE.",
        cites="4.2/lwm2m",
        steps=(
            ask(FAILURE, credentialsType=LWM2M, token="tok-«tag»"),
            ask(FAILURE, credentialsType=LWM2M, hash="«short.pem»"),
            ask(FAILURE, credentialsType=LWM2M, username="u-«tag»"),
            Devices(0),
        ),
    ),
    Case(
        id="credentials/extra",
        says="Members of another type are ignored, in the reply and in what is stored.",
        cites="4.2/extra 4.1/token 4.1/basic 4.1/hash 5.7/one-each",
        steps=(
            ask(
                Granted(name="«tag»a", value="tok-«tag»"),
                deviceName="«tag»a",
                token="tok-«tag»",
                hash="«short.pem»",
                username="u-«tag»",
                password="p",
                clientId="c-«tag»",
            ),
            Stored("«tag»a", credentials_id="tok-«tag»"),
            ask(
                Granted(name="«tag»b", type=X509, value="«short.body»"),
                deviceName="«tag»b",
                credentialsType=X509,
                token="tok-«tag»",
                hash="«short.pem»",
                username="u-«tag»",
            ),
            ask(
                Granted(name="«tag»c", type=BASIC, value={"clientId": "", "userName": "u-«tag»", "password": ""}),
                deviceName="«tag»c",
                credentialsType=BASIC,
                token="tok-«tag»",
                hash="«short.pem»",
                username="u-«tag»",
            ),
        ),
    ),
)

_UNIQUE = (
    Case(
        id="credentials/taken-token",
        says="A token that another device has: FAILURE, nothing made, and the name stays free.",
        cites="5.7/unique 5.3/rollback 4.4/reasons",
        steps=(
            ask(Granted(name="«tag»a", value="tok-«tag»"), deviceName="«tag»a", token="tok-«tag»"),
            ask(FAILURE, deviceName="«tag»b", token="tok-«tag»"),
            Attempted("CREDENTIALS_TAKEN"),
            Devices(1),
            ask(Granted(name="«tag»b", value="new-«tag»"), deviceName="«tag»b", token="new-«tag»"),
        ),
    ),
    Case(
        id="credentials/taken-elsewhere",
        says="A token that a device of another profile has: FAILURE.",
        cites="5.7/unique",
        other=ALLOW_CREATE,
        devices=(Device(name="«tag»a", token="tok-«tag»", other=True),),
        steps=(ask(FAILURE, token="tok-«tag»"), Devices(0)),
    ),
    Case(
        id="credentials/token-is-user-name",
        says="A token equal to the user name of another device's MQTT_BASIC: FAILURE, and the other way round.",
        cites="5.7/unique 5.7/basic-user-name 5.7/token",
        steps=(
            ask(
                Granted(name="«tag»a", type=BASIC, value={"clientId": "", "userName": "u-«tag»", "password": "p"}),
                deviceName="«tag»a",
                credentialsType=BASIC,
                username="u-«tag»",
                password="p",
            ),
            ask(FAILURE, deviceName="«tag»b", token="u-«tag»"),
            ask(Granted(name="«tag»c", value="tok-«tag»"), deviceName="«tag»c", token="tok-«tag»"),
            ask(FAILURE, deviceName="«tag»d", credentialsType=BASIC, username="tok-«tag»"),
            Devices(2),
        ),
    ),
    Case(
        id="credentials/token-is-fingerprint",
        says="A token equal to the id of another device's certificate or client id: FAILURE.",
        cites="5.7/unique 5.7/x509 5.7/basic-client-id",
        steps=(
            ask(
                Granted(name="«tag»a", type=X509, value="a certificate"),
                deviceName="«tag»a",
                credentialsType=X509,
                hash="a certificate",
            ),
            ask(FAILURE, deviceName="«tag»b", token=_sha3("a certificate")),
            ask(
                Granted(name="«tag»c", type=BASIC, value={"clientId": "boiler", "userName": "", "password": ""}),
                deviceName="«tag»c",
                credentialsType=BASIC,
                clientId="boiler",
            ),
            ask(FAILURE, deviceName="«tag»d", token=_sha3("boiler")),
        ),
    ),
    Case(
        id="credentials/client-id-shared",
        says="One client id with different user names makes different ids.",
        cites="5.7/basic-both 5.7/unique",
        steps=(
            ask(
                Granted(name="«tag»a", type=BASIC, value={"clientId": "c-«tag»", "userName": "a", "password": ""}),
                deviceName="«tag»a",
                credentialsType=BASIC,
                clientId="c-«tag»",
                username="a",
            ),
            ask(
                Granted(name="«tag»b", type=BASIC, value={"clientId": "c-«tag»", "userName": "b", "password": ""}),
                deviceName="«tag»b",
                credentialsType=BASIC,
                clientId="c-«tag»",
                username="b",
            ),
            ask(FAILURE, deviceName="«tag»c", credentialsType=BASIC, clientId="c-«tag»", username="a", password="p"),
        ),
    ),
)

_CHARACTERS = (
    Case(
        id="credentials/reserved",
        says="A reserved id is no token, user name or client id; as a password it is nothing special.",
        cites="ours/reserved",
        steps=(
            ask(FAILURE, token="provision"),
            ask(FAILURE, token="device"),
            ask(FAILURE, token="mgmt_device"),
            ask(FAILURE, credentialsType=BASIC, username="provision"),
            ask(FAILURE, credentialsType=BASIC, clientId="provision"),
            ask(FAILURE, credentialsType=BASIC, clientId="device", username="u-«tag»"),
            ask(FAILURE, credentialsType=BASIC, clientId="c-«tag»", username="mgmt_device"),
            Devices(0),
            ask(basic("", "u-«tag»", "provision"), credentialsType=BASIC, username="u-«tag»", password="provision"),
        ),
    ),
    Case(
        id="credentials/control-characters",
        says="Control characters in any part: FAILURE.",
        cites="5.7/characters",
        steps=(
            ask(FAILURE, token="tok\u0000"),
            ask(FAILURE, token="tok\n"),
            ask(FAILURE, token="\u007ftok"),
            ask(FAILURE, credentialsType=BASIC, clientId="c\u001f"),
            ask(FAILURE, credentialsType=BASIC, username="u\t"),
            ask(FAILURE, credentialsType=BASIC, username="u", password="p\u0001"),
            Attempted("CREDENTIALS_INVALID"),
            Devices(0),
        ),
    ),
    Case(
        id="credentials/odd-characters",
        says="Slashes, blanks and signs are fine.",
        cites="5.7/lengths 5.7/characters",
        steps=(ask(Granted(value=' a/b?c#d+e"f\\g «tag»'), token=' a/b?c#d+e"f\\g «tag»'),),
    ),
    Case(
        id="credentials/lengths",
        says="A token has 512 characters at most, a certificate 32 Ki.",
        cites="5.7/lengths",
        steps=(
            ask(Granted(name="«tag»a", value="a" * 512), deviceName="«tag»a", token="a" * 512),
            ask(FAILURE, deviceName="«tag»b", token="a" * 513),
            ask(
                Granted(name="«tag»c", type=X509, value="c" * 32_768),
                deviceName="«tag»c",
                credentialsType=X509,
                hash="c" * 32_768,
            ),
            ask(FAILURE, deviceName="«tag»d", credentialsType=X509, hash="d" * 32_769),
            Devices(2),
        ),
    ),
)

CASES = (*_TABLE, *_UNIQUE, *_CHARACTERS)

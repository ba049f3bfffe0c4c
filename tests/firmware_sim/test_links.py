"""What a device shows, with which credentials, on which way."""

import pytest

from firmware_sim.address import Address
from firmware_sim.credentials import strip_pem
from firmware_sim.errors import WrongUsage
from firmware_sim.flash import Credentials, VolatileFlash
from firmware_sim.links import Line, Login
from firmware_sim.tls import ClientCertificate
from firmware_sim.transports import TransportName

SERVER = Address("127.0.0.1", 1)
DEVICE_ID = "01a20143-c9e8-78ff-bcb8-47a0e6b10c00"
TOKEN = Credentials("ACCESS_TOKEN", "a/token?", "sensor-1", DEVICE_ID)
BASIC = Credentials("MQTT_BASIC", {"clientId": "c", "userName": "u", "password": "p"}, "sensor-1", DEVICE_ID)


def line(name: TransportName, *, by_key: bool = True) -> Line:
    return Line(name, SERVER, by_key=by_key)


@pytest.mark.parametrize("name", [TransportName.HTTP, TransportName.HTTPS, TransportName.COAP, TransportName.MQTT])
def test_a_token_is_shown_as_such(name: TransportName) -> None:
    login = line(name).login(TOKEN, None)
    assert login == Login(token="a/token?")
    assert login.path == "/api/v1/a%2Ftoken%3F"


def test_over_dtls_or_oscore_a_token_is_a_key() -> None:
    for name in (TransportName.COAPS, TransportName.OSCORE):
        login = line(name).login(TOKEN, None)
        assert login.key
        assert (login.key.identity, login.key.key, login.path) == (DEVICE_ID, b"a/token?", "/api/v1")
    assert line(TransportName.COAPS, by_key=False).login(TOKEN, None) == Login(token="a/token?")


def test_a_key_needs_the_device_id() -> None:
    with pytest.raises(WrongUsage, match="device id"):
        line(TransportName.COAPS).login(Credentials("ACCESS_TOKEN", "token", "sensor-1"), None)


def test_oscore_needs_it_to_be_a_uuid() -> None:
    name = TransportName.OSCORE
    login = line(name).login(Credentials("ACCESS_TOKEN", "token", "sensor-1", "seventh"), None)
    with pytest.raises(WrongUsage, match="no UUID"):
        line(name).open(login, VolatileFlash())


@pytest.mark.parametrize("name", TransportName)
def test_user_name_and_password_are_for_mqtt(name: TransportName) -> None:
    if name in (TransportName.MQTT, TransportName.MQTTS):
        assert line(name).login(BASIC, None).basic == BASIC.credentials_value
    else:
        with pytest.raises(WrongUsage, match="mqtt or mqtts"):
            line(name).login(BASIC, None)


@pytest.mark.parametrize("name", TransportName)
def test_a_certificate_is_for_tls(name: TransportName, certificate: ClientCertificate) -> None:
    leaf = certificate.chain.decode().partition("-----END")[0]
    granted = Credentials("X509_CERTIFICATE", strip_pem(leaf), "sensor-1", DEVICE_ID)
    if name.by_certificate:
        shown = line(name).login(granted, certificate.private_key.decode()).certificate
        assert shown
        assert shown.private_key == certificate.private_key
        assert certificate.chain.startswith(shown.chain)
    else:
        with pytest.raises(WrongUsage, match="mqtts, https or coaps"):
            line(name).login(granted, certificate.private_key.decode())


def test_secrets_are_not_in_the_repr() -> None:
    for name in (TransportName.HTTP, TransportName.COAPS):
        assert "token" not in repr(line(name).login(TOKEN, None)).replace("token=", "")
    assert "'p'" not in repr(line(TransportName.MQTT).login(BASIC, None))

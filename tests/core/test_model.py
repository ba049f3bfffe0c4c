from datetime import UTC, datetime
from uuid import UUID

import msgspec
import pytest

from provserver.core.model import (
    PROVISION_STATE,
    PROVISIONED,
    RESERVED_IDS,
    VACANT,
    Credentials,
    CredentialsType,
    DeviceProfile,
    KnownDevice,
    MetadataField,
    MqttBasic,
    Origin,
    ProvisionKey,
    ProvisionStrategy,
    ReprovisionPolicy,
    StoredCredentials,
    Transport,
)

SECRET = "Tr0ub4dor"
PROFILE = DeviceProfile(
    UUID(int=1),
    UUID(int=2),
    "sensors",
    "TMPL123456789",
    ProvisionStrategy.ALLOW_CREATE_NEW_DEVICES,
    ReprovisionPolicy.DENY,
    1,
    datetime(2026, 1, 1, tzinfo=UTC),
)


def held(token: str, *, pending: bool = False) -> StoredCredentials:
    credentials = Credentials(CredentialsType.ACCESS_TOKEN, token, token)
    return StoredCredentials(credentials, Origin.GENERATED, pending, used=False)


def device(*credentials: StoredCredentials) -> KnownDevice:
    return KnownDevice(UUID(int=3), PROFILE.id, "d", 1, PROVISIONED, False, None, credentials)


def test_a_metadata_field_of_an_older_release_is_read() -> None:
    stored = [{"name": "serial", "type": "text"}, {"name": "rack"}]
    assert msgspec.convert(stored, tuple[MetadataField, ...]) == (MetadataField("serial"), MetadataField("rack"))
    full = MetadataField("Model", "list", unique=True, options=("a", "b"), default="a")
    assert msgspec.convert(msgspec.to_builtins(full), MetadataField) == full


def test_what_devices_and_sql_spell_out() -> None:
    assert {"provision", "device", "mgmt_device"} == RESERVED_IDS
    assert (PROVISION_STATE, PROVISIONED) == ("provisionState", "provisioned")
    assert set(Transport) == {"HTTP", "MQTT", "COAP", "BLYNK"}
    assert set(CredentialsType) == {"ACCESS_TOKEN", "X509_CERTIFICATE", "MQTT_BASIC"}
    assert set(Origin) == {"generated", "supplied", "imported"}
    assert set(ReprovisionPolicy) == {"deny", "until_first_use", "return_same", "rotate"}
    assert set(ProvisionStrategy) == {
        "ALLOW_CREATE_NEW_DEVICES",
        "CHECK_PRE_PROVISIONED_DEVICES",
        "X509_CERTIFICATE_CHAIN",
        "DISABLED",
    }


@pytest.mark.parametrize(
    ("credentials", "newest"),
    [
        ((), None),
        ((held("a"),), "a"),
        ((held("b"), held("a")), "b"),
        ((held("p", pending=True), held("a")), "p"),
        ((held("a"), held("p", pending=True)), "p"),
        ((held("q", pending=True), held("p", pending=True), held("a")), "q"),
    ],
)
def test_newest_are_the_credentials_told_last(credentials: tuple[StoredCredentials, ...], newest: str | None) -> None:
    found = device(*credentials).newest
    assert (found.credentials.id if found else None) == newest


def test_vacant_has_nothing() -> None:
    assert (VACANT.named, VACANT.nonce_holder, VACANT.credentials_holder) == (None, None, None)


@pytest.mark.parametrize(
    "thing",
    [
        MqttBasic("client", "user", SECRET),
        MqttBasic(SECRET, "user", ""),
        Credentials(CredentialsType.ACCESS_TOKEN, SECRET, SECRET),
        Credentials(CredentialsType.MQTT_BASIC, "user", MqttBasic("", "user", SECRET)),
        held(SECRET),
        device(held(SECRET)),
        ProvisionKey(SECRET, b"digest", PROFILE),
    ],
    ids=lambda thing: type(thing).__name__,
)
def test_reprs_show_no_secret(thing: object) -> None:
    assert SECRET not in repr(thing)
    assert type(thing).__name__ in repr(thing)

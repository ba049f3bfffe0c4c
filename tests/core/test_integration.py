import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from provserver.core import integration
from provserver.core.integration import (
    ChirpStackSettings,
    NetworkKind,
    Settings,
    SettingsChange,
    ThingsStackSettings,
)
from provserver.core.lorawan import VALID_PAIRS, LorawanVersion, PhyVersion
from provserver.errors import Invalid

STACK, CHIRP = NetworkKind.THINGS_STACK, NetworkKind.CHIRPSTACK
UUID = "c2b71b1f-8a4b-4f4e-9b43-6b6d0c2b1f11"
PLAN = "EU_863_870_TTN"


def things_stack(**members: object) -> Settings:
    given_ = {"lorawan_version": LorawanVersion.V1_0_3, "frequency_plan": PLAN, "address": "stack.example"} | members
    return integration.changed(STACK, None, SettingsChange(**given_))  # type: ignore[arg-type]


def wrong(network: NetworkKind, before: Settings | None = None, **members: object) -> dict[str, str]:
    """What is said to be wrong, by member."""
    with pytest.raises(Invalid) as refused:
        integration.changed(network, before, SettingsChange(**members))  # type: ignore[arg-type]
    for error in refused.value.errors:
        assert f"{error['field']} {error['reason']}" in str(refused.value)
    return {str(error["field"]): str(error["reason"]) for error in refused.value.errors}


def test_one_address_is_for_all_components() -> None:
    assert things_stack() == ThingsStackSettings(
        LorawanVersion.V1_0_3,
        PhyVersion.V1_0_3_REV_A,
        PLAN,
        "stack.example",
        "stack.example",
        "stack.example",
        "stack.example",
    )
    settings = things_stack(join_server="join.example:8443", class_c=True)
    assert isinstance(settings, ThingsStackSettings)
    assert (settings.network_server, settings.join_server, settings.class_c) == (
        "stack.example",
        "join.example:8443",
        True,
    )


def test_the_sandbox_has_one_identity_server() -> None:
    settings = things_stack(address="https://NAM1.cloud.thethings.network/")
    assert isinstance(settings, ThingsStackSettings)
    assert settings.identity_server == "eu1.cloud.thethings.network"
    assert {settings.network_server, settings.join_server, settings.application_server} == {
        "nam1.cloud.thethings.network"
    }
    assert [*integration.hints(STACK, settings)] == []
    settings = integration.changed(STACK, settings, SettingsChange(identity_server="nam1.cloud.thethings.network"))
    (hint,) = integration.hints(STACK, settings)
    assert "eu1.cloud.thethings.network" in hint


@pytest.mark.parametrize("version", LorawanVersion)
def test_only_pairs_that_exist_are_taken(version: LorawanVersion) -> None:
    for phy in PhyVersion:
        if phy in VALID_PAIRS[version]:
            settings = things_stack(lorawan_version=version, regional_parameters=phy)
            assert isinstance(settings, ThingsStackSettings)
            assert (settings.lorawan_version, settings.regional_parameters) == (version, phy)
        else:
            told = wrong(STACK, things_stack(), lorawan_version=version, regional_parameters=phy)
            assert set(told) == {"regionalParameters"}
            assert all(each in told["regionalParameters"] for each in VALID_PAIRS[version])


def test_a_version_that_leaves_a_choice_needs_one() -> None:
    told = wrong(STACK, lorawan_version=LorawanVersion.V1_0_4, frequency_plan=PLAN, address="stack.example")
    assert set(told) == {"regionalParameters"}
    # And what went with the version before is no choice for this one.
    assert set(wrong(STACK, things_stack(), lorawan_version=LorawanVersion.V1_0_2)) == {"regionalParameters"}


def test_all_that_is_wrong_is_said_at_once() -> None:
    assert set(wrong(STACK)) == {
        "lorawanVersion",
        "regionalParameters",
        "frequencyPlan",
        "identityServer",
        "networkServer",
        "joinServer",
        "applicationServer",
    }
    assert set(wrong(CHIRP, frequency_plan=PLAN, address="a/b")) == {
        "frequencyPlan",
        "lorawanVersion",
        "address",
        "deviceProfileId",
    }


def test_a_region_is_no_frequency_plan() -> None:
    told = wrong(STACK, things_stack(), frequency_plan="eu868")
    assert PLAN in told["frequencyPlan"]
    assert set(wrong(STACK, things_stack(), frequency_plan="EU 863")) == {"frequencyPlan"}


@pytest.mark.parametrize(
    ("given_", "kept"),
    [
        ("eu1.example", "eu1.example"),
        (" https://EU1.example/ ", "eu1.example"),
        ("eu1.example:443", "eu1.example"),
        ("eu1.example:8443", "eu1.example:8443"),
        ("http://10.0.0.1:1885", "http://10.0.0.1:1885"),
        ("http://10.0.0.1:80", "http://10.0.0.1"),
        ("[2001:DB8::1]:8443", "[2001:db8::1]:8443"),
    ],
)
def test_addresses_have_one_form(given_: str, kept: str) -> None:
    settings = things_stack(address=given_)
    assert isinstance(settings, ThingsStackSettings)
    assert settings.network_server == kept
    assert integration.api_host(settings) == kept.removeprefix("http://")
    assert things_stack(address=kept) == settings


@pytest.mark.parametrize(
    "address",
    [
        *("", "a b", "user:pass@host", "host/path", "host?x", "host#x", "ftp://host", "host:", "host:99999", "host:0"),
        *("-host", "ho_st", "[::1", "::1", "http://", "x" * 254, "host:port", "mqtt://host"),
    ],
)
def test_what_is_no_address(address: str) -> None:
    assert "must be host" in wrong(STACK, things_stack(), join_server=address)["joinServer"]


@given(st.text(max_size=40))
def test_any_text_is_an_address_of_one_form_or_refused(text: str) -> None:
    try:
        settings = things_stack(address=text)
    except Invalid:
        return
    assert isinstance(settings, ThingsStackSettings)
    assert things_stack(address=settings.network_server) == settings
    host, port, tls = integration.endpoint(settings.network_server)
    assert host
    assert 0 < port < 65_536
    assert integration.url(settings.network_server).startswith("https://" if tls else "http://")


@pytest.mark.parametrize(
    ("address", "mqtt", "user"),
    [
        ("eu1.cloud.thethings.network", ("eu1.cloud.thethings.network", 8883, True), "my-app@ttn"),
        ("acme.eu1.cloud.thethings.industries", ("acme.eu1.cloud.thethings.industries", 8883, True), "my-app@acme"),
        ("stack.example:8443", ("stack.example", 8883, True), "my-app"),
        ("http://10.0.0.1:1885", ("10.0.0.1", 1883, False), "my-app"),
        ("[2001:db8::1]", ("2001:db8::1", 8883, True), "my-app"),
    ],
)
def test_mqtt_is_where_it_usually_is(address: str, mqtt: tuple[str, int, bool], user: str) -> None:
    settings = things_stack(address=address)
    assert isinstance(settings, ThingsStackSettings)
    assert (integration.broker_endpoint(settings.broker), settings.user("my-app")) == (mqtt, user)


def test_mqtt_is_where_it_is_said_to_be() -> None:
    settings = things_stack(mqtt_address="mqtt://broker.example:443", mqtt_user="my-app@acme")
    assert isinstance(settings, ThingsStackSettings)
    assert integration.broker_endpoint(settings.broker) == ("broker.example", 443, False)
    assert settings.user("other") == "my-app@acme"
    settings = things_stack(mqtt_address="mqtts://broker.example:8883")
    assert isinstance(settings, ThingsStackSettings)
    assert (settings.mqtt_address, integration.broker_endpoint(settings.broker)) == (
        "broker.example",
        ("broker.example", 8883, True),
    )
    assert set(wrong(STACK, settings, mqtt_address="http://broker.example")) == {"mqttAddress"}
    assert set(wrong(STACK, settings, mqtt_user="my app")) == {"mqttUser"}


def test_chirpstack_has_settings_of_its_own() -> None:
    change = SettingsChange(
        lorawan_version=LorawanVersion.V1_1, address="http://127.0.0.1:8090", device_profile_id=UUID.upper()
    )
    settings = integration.changed(CHIRP, None, change)
    assert settings == ChirpStackSettings(LorawanVersion.V1_1, "http://127.0.0.1:8090", UUID)
    (hint,) = integration.hints(CHIRP, settings)
    assert "in clear" in hint
    assert set(wrong(CHIRP, settings, device_profile_id="1")) == {"deviceProfileId"}


@pytest.mark.parametrize("settings", [things_stack(class_b=True), things_stack(mqtt_user="my-app@ttn")])
def test_settings_are_kept_as_json(settings: Settings) -> None:
    kept = msgspec.json.decode(msgspec.json.encode(settings))
    assert msgspec.convert(kept, ThingsStackSettings) == settings
    assert "lorawanVersion" in kept


@pytest.mark.parametrize("text", ["my-app", "abc", "a1-b2", "x" * 36])
def test_what_an_application_is_called(text: str) -> None:
    assert integration.checked_application_id(STACK, f" {text} ") == text


@pytest.mark.parametrize("text", ["", "My-App", "ab", "a--b", "-ab", "ab-", "my app", "my_app", "x" * 37])
def test_what_no_application_is_called(text: str) -> None:
    for network in NetworkKind:
        with pytest.raises(Invalid) as refused:
            integration.checked_application_id(network, text)
        assert refused.value.errors[0]["field"] == "applicationId"


def test_applications_of_chirpstack_have_uuids() -> None:
    assert integration.checked_application_id(CHIRP, UUID.upper()) == UUID


def test_a_profile_id_has_eight_digits() -> None:
    assert integration.checked_profile_id("000af8be") == "000AF8BE"
    with pytest.raises(Invalid, match="7"):
        integration.checked_profile_id("000AFBE")


def test_a_key_is_not_quoted() -> None:
    assert integration.checked_api_key(STACK, " NNSXS.PL4NTED\n") == "NNSXS.PL4NTED"
    for text in ("pl4nted", "NNSXS.pl4 nted", "NNSXS.pl4nted\x00", "", "NNSXS.pl4nted" * 100):
        with pytest.raises(Invalid) as refused:
            integration.checked_api_key(STACK, text)
        assert "pl4" not in str(refused.value).replace("NNSXS.", "")


def test_a_wrong_cluster_is_told_of_the_cluster_alone() -> None:
    def said(**members: object) -> set[str]:
        return set(wrong(STACK, None, lorawan_version=LorawanVersion.V1_0_3, frequency_plan=PLAN, **members))

    assert said(address="stack.example/console") == {"address"}
    assert said(address="stack.example/console", join_server="a b") == {"address", "joinServer"}

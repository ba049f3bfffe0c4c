from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from provserver.core import credentials as building
from provserver.core.credentials import MAX_CERTIFICATE_LENGTH, MAX_LENGTH, InvalidCredentials
from provserver.core.model import RESERVED_IDS, Credentials, CredentialsType, MqttBasic

SHA3_BOTH = "b9f1b0bf238dddae689babba0a210fe42bc97ddb07620b5a07d7208dd5528db2"
SHA3_TEST_HASH = "57f6600424d6553263f1f32e0117012894a36fbf07e3e9c3c556272f86b7d985"
LONGEST = "x" * MAX_LENGTH

CONTROL_CHARACTERS = [*map(chr, range(0x20)), "\x7f"]
HALF_PAIRS = ["\ud800", "\udbff", "\udc00", "\udfff"]
HARMLESS = [" ", "~", "\x80", "\x9f", "\xa0", "\xad", "\u200b", "\u2028", "\ufeff", "\U0001f600", "/", "|", "é"]


def test_an_access_token_is_its_own_id() -> None:
    assert building.access_token("t") == Credentials(CredentialsType.ACCESS_TOKEN, "t", "t")


@pytest.mark.parametrize(
    ("client_id", "user_name", "password", "id_"),
    [
        ("", "test_username", "", "test_username"),
        ("", "test_username", "secret", "test_username"),
        ("testHash", "", "", SHA3_TEST_HASH),
        ("test_clientId", "test_username", "", SHA3_BOTH),
        ("test_clientId", "test_username", "secret", SHA3_BOTH),
    ],
)
def test_mqtt_basic_ids(client_id: str, user_name: str, password: str, id_: str) -> None:
    made = building.mqtt_basic(client_id, user_name, password)
    assert made == Credentials(CredentialsType.MQTT_BASIC, id_, MqttBasic(client_id, user_name, password))


@pytest.mark.parametrize(
    ("client_id", "user_name", "password", "message"),
    [
        ("", "", "", "both MQTT client id and user name are empty"),
        ("", "", "secret", "both MQTT client id and user name are empty"),
        ("c", "", "secret", "a password cannot go with a client id alone"),
    ],
)
def test_mqtt_basic_needs_a_user_name_or_a_client_id_without_password(
    client_id: str, user_name: str, password: str, message: str
) -> None:
    with pytest.raises(InvalidCredentials, match=message):
        building.mqtt_basic(client_id, user_name, password)


@pytest.mark.parametrize("text", ["testHash", "-----BEGIN CERTIFICATE-----\ntest\r\nHash\n-----END CERTIFICATE-----\n"])
def test_a_certificates_id_is_the_fingerprint_of_its_normalised_text(text: str) -> None:
    assert building.certificate(text) == Credentials(CredentialsType.X509_CERTIFICATE, SHA3_TEST_HASH, "testHash")


@pytest.mark.parametrize("text", ["", "\r\n", "-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n"])
def test_an_empty_certificate_is_none(text: str) -> None:
    with pytest.raises(InvalidCredentials, match="the certificate is empty"):
        building.certificate(text)


def test_a_certificates_limit_counts_its_normalised_text() -> None:
    body = "x" * MAX_CERTIFICATE_LENGTH
    assert building.certificate(f"-----BEGIN CERTIFICATE-----\n{body}\n").value == body
    with pytest.raises(InvalidCredentials, match=f"the certificate is longer than {MAX_CERTIFICATE_LENGTH} characters"):
        building.certificate(body + "x")


def test_an_empty_token_is_none() -> None:
    with pytest.raises(InvalidCredentials, match="the token is empty"):
        building.access_token("")


def token(value: str) -> Credentials:
    return building.access_token(value)


def client_id(value: str) -> Credentials:
    return building.mqtt_basic(value, "u", "p")


def lone_client_id(value: str) -> Credentials:
    return building.mqtt_basic(value)


def user_name(value: str) -> Credentials:
    return building.mqtt_basic("c", value)


def lone_user_name(value: str) -> Credentials:
    return building.mqtt_basic("", value)


def password(value: str) -> Credentials:
    return building.mqtt_basic("", "u", value)


IDS = (token, client_id, lone_client_id, user_name, lone_user_name)
each_part = pytest.mark.parametrize("part", [*IDS, password], ids=lambda part: part.__name__)
Part = Callable[[str], Credentials]


@each_part
def test_the_limit_of_each_part(part: Part) -> None:
    part(LONGEST)
    with pytest.raises(InvalidCredentials, match=f"longer than {MAX_LENGTH} characters"):
        part(LONGEST + "x")


@each_part
def test_control_characters_and_half_pairs_are_refused(part: Part) -> None:
    for character in (*CONTROL_CHARACTERS, *HALF_PAIRS):
        for value in (character, f"{character}x", f"x{character}", f"x{character}x"):
            with pytest.raises(InvalidCredentials, match="contains control characters"):
                part(value)


@each_part
def test_other_characters_are_taken(part: Part) -> None:
    for character in HARMLESS:
        part(f"x{character}x")


@pytest.mark.parametrize("part", IDS, ids=lambda part: part.__name__)
@pytest.mark.parametrize("reserved", sorted(RESERVED_IDS))
def test_reserved_ids_are_refused_exactly(part: Part, reserved: str) -> None:
    with pytest.raises(InvalidCredentials, match="is a reserved id"):
        part(reserved)
    for near in (reserved.upper(), f"{reserved}s", f" {reserved}"):
        part(near)


@pytest.mark.parametrize("reserved", sorted(RESERVED_IDS))
def test_a_password_may_be_any_word(reserved: str) -> None:
    assert password(reserved).value == MqttBasic("", "u", reserved)


def attempt(make: Callable[..., Credentials], *texts: str) -> Credentials | InvalidCredentials:
    try:
        return make(*texts)
    except InvalidCredentials as fault:
        return fault


@settings(deadline=None)
@given(*3 * [st.just("") | st.text().map("Tr0ub4dor".__add__)])
def test_any_parts_make_credentials_or_an_error_that_quotes_none(client: str, user: str, secret: str) -> None:
    for made in (
        attempt(building.mqtt_basic, client, user, secret),
        attempt(building.access_token, secret),
        attempt(building.certificate, secret),
    ):
        if isinstance(made, Credentials):
            assert made.id
            assert not building.has_control_characters(made.id)
        assert "Tr0ub4dor" not in (str(made) if isinstance(made, InvalidCredentials) else repr(made))


def test_control_characters() -> None:
    for character in (*CONTROL_CHARACTERS, *HALF_PAIRS):
        assert building.has_control_characters(f"é{character}")


@settings(deadline=None)
@given(st.text(st.characters(exclude_categories=["Cc", "Cs"])))
def test_no_other_character_is_one(text: str) -> None:
    assert not building.has_control_characters(text)


@pytest.mark.parametrize(
    ("make", "part"),
    [
        (lambda: token("\0"), "token"),
        (lambda: client_id("\0"), "client id"),
        (lambda: user_name("provision"), "user name"),
        (lambda: password(LONGEST + "x"), "password"),
        (lambda: building.mqtt_basic(), ""),
    ],
)
def test_an_error_says_which_part_is_wrong(make: Callable[[], Credentials], part: str) -> None:
    with pytest.raises(InvalidCredentials) as caught:
        make()
    assert caught.value.part == part

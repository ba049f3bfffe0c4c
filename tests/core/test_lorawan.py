import pytest

from provserver.core import lorawan
from provserver.core.lorawan import VALID_PAIRS, InvalidIdentifier, LorawanVersion, PhyVersion


@pytest.mark.parametrize(
    "text", ["0018b20000000101", " 00-18-B2-00-00-00-01-01 ", "0018:B200:0000:0101", "0x0018B20000000101"]
)
def test_an_eui_has_one_form(text: str) -> None:
    assert lorawan.eui(text) == "0018B20000000101"


@pytest.mark.parametrize(
    "text", ["", "0018B2000000010", "0018B200000001011", "0018B2000000010G", "0x18B2", "０018B20000000101"]
)
def test_what_is_no_eui_is_refused_without_being_quoted(text: str) -> None:
    with pytest.raises(InvalidIdentifier) as refused:
        lorawan.eui(text)
    assert not text or text not in str(refused.value)


def test_keys_and_profile_ids_have_one_form() -> None:
    assert lorawan.key("2b7e1516 28aed2a6 abf71588 09cf4f3c".replace(" ", "")) == "2B7E151628AED2A6ABF7158809CF4F3C"
    assert lorawan.profile_id("000af8be") == "000AF8BE"
    with pytest.raises(InvalidIdentifier):
        lorawan.profile_id("000AFBE")  # a digit is missing


def test_a_device_is_named_by_its_eui() -> None:
    assert lorawan.device_id_of("0018B20000000101") == "eui-0018b20000000101"
    assert lorawan.is_device_id("eui-0018b20000000101")


@pytest.mark.parametrize(
    ("text", "valid"),
    [
        ("abc", True),
        ("a-b-c", True),
        ("ab", False),
        ("-abc", False),
        ("abc-", False),
        ("a--bc", False),
        ("Abc", False),
        ("a" * 36, True),
        ("a" * 37, False),
        ("abc\n", False),
        ("", False),
    ],
)
def test_ids_are_those_of_the_things_stack(text: str, valid: bool) -> None:
    assert lorawan.is_device_id(text) is valid


def test_every_version_goes_with_some_regional_parameters() -> None:
    assert set(VALID_PAIRS) == set(LorawanVersion)
    assert set().union(*VALID_PAIRS.values()) == set(PhyVersion)
    assert VALID_PAIRS[LorawanVersion.V1_0_3] == {"PHY_V1_0_3_REV_A"}
    assert "PHY_V1_1_REV_B" not in VALID_PAIRS[LorawanVersion.V1_0_4]


def test_a_file_of_the_things_stack_is_known_by_its_columns() -> None:
    fields = {"Device EUI", "Join EUI", "Application Key"}
    assert lorawan.assignment(["id", "dev_eui", "app_eui", "app_key", "nwk_key", "rx1_delay"], fields) == {
        "id": None,
        "dev_eui": "Device EUI",
        "app_eui": "Join EUI",
        "app_key": "Application Key",
        "nwk_key": None,
        "rx1_delay": None,
    }
    assert lorawan.assignment(["dev_eui", "app_eui", "join_eui"], fields)["app_eui"] is None
    assert lorawan.assignment(["Device EUI", "Join EUI", "Application Key"], fields) == {}
    assert lorawan.assignment(["dev_eui"], {"Serial Number"}) == {}

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provserver.core import tr005
from provserver.core.tr005 import DeviceCode, InvalidCode, WrongChecksum

SEED = "LW:D0:70B3D57ED0000010:0018B20000000101:000AF8BE"
FULL = "LW:D0:1122334455667788:AABBCCDDEEFF0011:AABB1122:OAABBCCDDEEFF:SYYWWNNNNNN:PFOOBAR"
DEVICE = DeviceCode("1122334455667788", "AABBCCDDEEFF0011", "AABB1122", "AABBCCDDEEFF", "YYWWNNNNNN", "FOOBAR")

EUIS = st.text("0123456789ABCDEF", min_size=16, max_size=16)
VALUES = st.text("0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ$%*+-./", max_size=40)
CODES = st.builds(DeviceCode, EUIS, EUIS, st.text("0123456789ABCDEF", min_size=8, max_size=8), VALUES, VALUES, VALUES)


@pytest.mark.parametrize(
    ("text", "checksum"),
    [
        (FULL, "AF2C"),
        (SEED, "8525"),
        ("LW:D0:70B3D57ED0000011:0018B20000000102:000AF8BE", "082B"),
        ("LW:D0:70B3D57ED0000012:0018B20000000103:000AF8BE", "0A7B"),
        ("123456789", "4B37"),
    ],
)
def test_checksums_are_those_of_the_recommendation(text: str, checksum: str) -> None:
    assert tr005.checksum(text) == checksum


def test_a_code_is_written_with_its_checksum_last() -> None:
    assert tr005.encode(DEVICE) == f"{FULL}:CAF2C"
    assert tr005.encode(DEVICE, checksum=False) == FULL
    assert tr005.encode(DeviceCode("70b3d57ed0000010", "0018b20000000101", "000af8be")) == f"{SEED}:C8525"


@pytest.mark.parametrize(
    "text",
    [
        FULL,
        f"{FULL}:CAF2C",
        f"  {FULL}:CAF2C\n",
        f"{FULL}:CAF2C".lower(),
        f"{FULL}:",
        f"{FULL}:CAF2C:",
        "LW:D0:1122334455667788:AABBCCDDEEFF0011:AABB1122:PFOOBAR:SYYWWNNNNNN:OAABBCCDDEEFF",
        "LW:D0:1122334455667788:AABBCCDDEEFF0011:AABB1122:CAF2C:OAABBCCDDEEFF:SYYWWNNNNNN:PFOOBAR",
        "LW:D0:1122334455667788:AABBCCDDEEFF0011:AABB1122:O:XANY:X:OAABBCCDDEEFF:SYYWWNNNNNN:PFOOBAR",
        "URN:DEV:LW:1122334455667788_AABBCCDDEEFF0011_AABB1122_VAABBCCDDEEFF_SYYWWNNNNNN_PFOOBAR",
        "URN:LW:DP:1122334455667788:AABBCCDDEEFF0011:AABB1122:%VAABBCCDDEEFF%SYYWWNNNNNN%PFOOBAR",
        "urn:lw:dp:1122334455667788:aabbccddeeff0011:aabb1122:%25Vaabbccddeeff%25Syywwnnnnnn%25Pfoobar",
    ],
)
def test_a_code_is_read_in_every_form_it_comes_in(text: str) -> None:
    assert tr005.parse(text) == DEVICE


def test_the_identity_alone_is_a_code() -> None:
    assert tr005.parse(SEED) == DeviceCode("70B3D57ED0000010", "0018B20000000101", "000AF8BE")
    assert tr005.parse("00-18-b2-00-00-00-01-01") == DeviceCode("", "0018B20000000101", "")


@pytest.mark.parametrize("checksum", ["C8526", "CFFFF", "C852", "C85250", "CHECKSUM"])
@pytest.mark.parametrize("place", ["{0}:{1}", "LW:D0:70B3D57ED0000010:0018B20000000101:000AF8BE:{1}:SABC"])
def test_a_code_that_was_misread_is_refused(checksum: str, place: str) -> None:
    with pytest.raises(WrongChecksum):
        tr005.parse(place.format(SEED, checksum))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "LW:D0",
        "LW:D0:70B3D57ED0000010:0018B20000000101",
        "LW:D0:70B3D57ED0000010:0018B20000000101:000AFBE",
        "LW:D0:70B3D57ED000001:0018B20000000101:000AF8BE",
        "LW:D0:70B3D57ED0000010:0018B20000000101G:000AF8BE",
        "LW:D0:70B3D57ED0000010::000AF8BE",
        "LW:D1:70B3D57ED0000010:0018B20000000101:000AF8BE",
        "URN:LW:DP:70B3D57ED0000010:0018B20000000101",
        "URN:LWDP:70B3D57ED0000010:0018B20000000101:000AF8BE",
        "URN:DEV:LW:70B3D57ED0000010_0018B20000000101",
        f"{SEED}:SONE:STWO",
        f"{SEED}:C8525:C8525",
        f"{SEED}:Sé",
        f"{SEED}:S" + "A" * 500,
        "https://example.com/?d=0018B20000000101",
        "sqr_gCCsLSydh3d0ArmZj50l9zr79JXVooBR+1",
    ],
)
def test_what_is_no_code_is_refused_without_being_quoted(text: str) -> None:
    with pytest.raises(InvalidCode) as refused:
        tr005.parse(text)
    assert len(text) < 8 or text not in str(refused.value)


def test_an_owner_token_is_not_shown_by_accident() -> None:
    assert 'AABBCCDDEEFF"' not in repr(DEVICE).replace("'", '"')
    assert "owner_token" not in repr(DEVICE)


@pytest.mark.parametrize(
    "code",
    [
        DeviceCode("70B3", "0018B20000000101", "000AF8BE"),
        DeviceCode("70B3D57ED0000010", "0018B20000000101", ""),
        DeviceCode("70B3D57ED0000010", "0018B20000000101", "000AF8BE", owner_token="A:B"),
        DeviceCode("70B3D57ED0000010", "0018B20000000101", "000AF8BE", serial_number="abc"),
        DeviceCode("70B3D57ED0000010", "0018B20000000101", "000AF8BE", proprietary="A" * 500),
    ],
)
def test_what_cannot_be_said_is_not_written(code: DeviceCode) -> None:
    with pytest.raises(InvalidCode):
        tr005.encode(code)


@given(CODES, st.booleans())
def test_what_is_written_is_read(code: DeviceCode, checksum: bool) -> None:
    assert tr005.parse(tr005.encode(code, checksum=checksum)) == code


@given(CODES, st.permutations(["O", "S", "P", "C"]))
def test_the_order_of_extensions_does_not_matter(code: DeviceCode, order: list[str]) -> None:
    identity = ["LW", "D0", code.join_eui, code.dev_eui, code.profile_id]
    given_ = {"O": code.owner_token, "S": code.serial_number, "P": code.proprietary}
    rest = [*identity, *(tag + given_[tag] for tag in order if tag != "C")]
    given_["C"] = tr005.checksum(":".join(rest))
    assert tr005.parse(":".join([*identity, *(tag + given_[tag] for tag in order)])) == code


@given(
    st.text(max_size=120)
    | CODES.map(tr005.encode).flatmap(lambda text: st.sampled_from(text).map(text.split).map(":".join))
)
def test_whatever_is_scanned_is_a_code_or_refused(text: str) -> None:
    try:
        code = tr005.parse(text)
    except InvalidCode:
        return
    assert len(code.dev_eui) == 16


@given(CODES, st.data())
def test_one_wrong_character_is_noticed(code: DeviceCode, data: st.DataObject) -> None:
    text = tr005.encode(code)
    place = data.draw(st.integers(len("LW:D0:"), len(text) - 1).filter(lambda place: text[place] != ":"))
    other = data.draw(st.sampled_from("0123456789ABCDEF").filter(lambda sign: sign != text[place]))
    if text[place - 1] == ":" and place > len("LW:D0:") + 40:  # a tag: another field is another code
        return
    with pytest.raises(InvalidCode):
        tr005.parse(text[:place] + other + text[place + 1 :])

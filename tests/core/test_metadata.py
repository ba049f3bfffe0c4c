import contextlib
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provserver.core.metadata import MAX_DIGITS, TYPES, InvalidValue, check, check_field, default
from provserver.core.model import MetadataField

LIST = MetadataField("colour", "list", options=("Red", "Blue"))


def luhn(digits: str) -> str:
    """The digits with their check digit, found by trying."""
    for last in string.digits:
        total = 0
        for place, digit in enumerate(reversed(digits + last)):
            number = int(digit) * (1 + place % 2)
            total += number - 9 if number > 9 else number
        if total % 10 == 0:
            return digits + last
    raise AssertionError


def checked(type_: str, text: str) -> str:
    return check(LIST if type_ == "list" else MetadataField("field", type_), text)


@pytest.mark.parametrize(
    ("type_", "given", "normal"),
    [
        ("text", "  SN000001 ", "SN000001"),
        ("text", "Köln, 2. Stock", "Köln, 2. Stock"),
        ("text", "x" * 255, "x" * 255),
        ("unknown", "as text", "as text"),
        ("number", "12", "12"),
        ("number", "-0012.50", "-12.5"),
        ("number", "+.5", "0.5"),
        ("number", "7.", "7"),
        ("number", "-0.0", "0"),
        ("number", "00000000000000000123", "123"),
        ("number", "123456789012345", "123456789012345"),
        ("number", "0.000000000000001", "0.000000000000001"),
        ("integer", "+042", "42"),
        ("integer", "-7", "-7"),
        ("boolean", "TRUE", "true"),
        ("boolean", "no", "false"),
        ("boolean", "1", "true"),
        ("mac", "2c:54:91:88:c9:e3", "2C:54:91:88:C9:E3"),
        ("mac", "2C-54-91-88-C9-E3", "2C:54:91:88:C9:E3"),
        ("mac", "2c54.9188.c9e3", "2C:54:91:88:C9:E3"),
        ("mac", "2C549188C9E3", "2C:54:91:88:C9:E3"),
        ("imei", "490154203237518", "490154203237518"),
        ("imei", "49-015420-323751-8", "490154203237518"),
        ("iccid", "8944500102198304826", "8944500102198304826"),
        ("iccid", "8944500102198304826F", "8944500102198304826"),
        ("iccid", "89 4902 0000 0123 4567 87", "89490200000123456787"),
        ("eui64", "70b3d57ed005a1b2", "70B3D57ED005A1B2"),
        ("eui64", "70-B3-D5-7E-D0-05-A1-B2", "70B3D57ED005A1B2"),
        ("key128", "00112233445566778899aabbccddeeff", "00112233445566778899AABBCCDDEEFF"),
        ("list", "Red", "Red"),
        ("email", "Jo.Doe+x@Example.COM", "Jo.Doe+x@example.com"),
        ("phone", "+49 (30) 1234-5678", "+493012345678"),
        ("url", "HTTPS://Example.com:8443/Path?q=1#F", "https://example.com:8443/Path?q=1#F"),
        ("url", "http://[2001:DB8::1]/", "http://[2001:db8::1]/"),
        ("timezone", "Europe/Berlin", "Europe/Berlin"),
        ("timezone", "UTC", "UTC"),
        ("blues-device", "dev:864475046552567", "dev:864475046552567"),
        ("device-reference", " gateway-1 ", "gateway-1"),
    ],
)
def test_a_value_has_one_normal_form(type_: str, given: str, normal: str) -> None:
    assert checked(type_, given) == normal
    assert checked(type_, normal) == normal


@pytest.mark.parametrize(
    ("type_", "given", "reason"),
    [
        ("text", "", "empty"),
        ("text", " \u3000", "empty"),
        ("text", "a\0b", "contains control characters"),
        ("text", "a\nb", "contains control characters"),
        ("text", "x" * 256, "longer than 255 characters"),
        ("number", "1,5", "not a number: write a decimal point, no comma"),
        ("number", "1e5", "not a number"),
        ("number", ".", "not a number"),
        ("number", "-", "not a number"),
        ("number", "nan", "not a number"),
        ("number", "١٢", "not a number"),
        ("number", "1234567890123456", "has more than 15 digits"),
        ("number", "12345678.90123456", "has more than 15 digits"),
        ("number", "0.0000000000000001", "has more than 15 digits"),
        ("integer", "1.0", "not a whole number"),
        ("integer", "1234567890123456", "has more than 15 digits"),
        ("integer", "4.9E+14", "not a whole number. A spreadsheet has rounded it: format the column as text"),
        ("boolean", "maybe", "must be true or false"),
        ("mac", "4A:33:54:68:K9:F1", "not a MAC address: character 13 is not a hexadecimal digit"),
        ("mac", "2C:54:91:88:C9", "not a MAC address: 10 hexadecimal digits where it has 12"),
        ("mac", "2C:54:91:88:C9:E3:00", "not a MAC address: 14 hexadecimal digits where it has 12"),
        ("mac", "2C5:491:88C:9E3", "not a MAC address: its digits are not in equal groups"),
        ("mac", "2C:54-91:88-C9:E3", "not a MAC address: character 6 is not a hexadecimal digit"),
        ("imei", "490154203237519", "not an IMEI: its check digit does not fit, so a digit is wrong"),
        ("imei", "49015420323751", "not an IMEI: 14 digits where it has 15"),
        ("imei", "4901542032375180", "not an IMEI: 16 digits are an IMEISV, which ends in a software version"),
        ("imei", "4.90154E+14", "not an IMEI: it has digits only. A spreadsheet has rounded it: format the column"),
        ("imei", "٤90154203237518", "not an IMEI: it has digits only"),
        ("iccid", "8944500102198304827", "not an ICCID: its check digit does not fit, so a digit is wrong"),
        ("iccid", "894450010219830482", "not an ICCID: 18 digits where it has 19 or 20"),
        ("iccid", "4944500102198304826", "not an ICCID: it begins with 89"),
        ("eui64", "70B3D57ED005A1B", "not an EUI-64: 15 hexadecimal digits where it has 16"),
        (
            "key128",
            "00112233445566778899aabbccddeefg",
            "not a key of 128 bits: character 32 is not a hexadecimal digit",
        ),
        ("list", "red", "not one of the options: it differs by case from 'Red'"),
        ("list", "green", "not one of the options: 'Red', 'Blue'"),
        ("email", "nobody", "not an e-mail address"),
        ("email", "a@b", "not an e-mail address"),
        ("email", "a..b@example.com", "not an e-mail address"),
        ("email", "a b@example.com", "not an e-mail address"),
        ("email", f"{'x' * 65}@example.com", "not an e-mail address"),
        ("phone", "030 1234567", "not a telephone number: it begins with + and the country code"),
        ("phone", "+0301234567", "not a telephone number: after the + come 7 to 15 digits"),
        ("phone", "+49 30", "not a telephone number: after the + come 7 to 15 digits"),
        ("phone", "4.93E+11", "not a telephone number: it begins with + and the country code. A spreadsheet has"),
        ("url", "example.com", "not a URL: it begins with http:// or https:// and has a host and no blanks"),
        ("url", "ftp://example.com", "not a URL: it begins"),
        ("url", "http:///path", "not a URL: it begins"),
        ("url", "http://a b/", "not a URL: it begins"),
        ("url", "http://[::1", "not a URL"),
        ("url", "http://a:port/", "not a URL"),
        ("url", "https://user:word@example.com/", "a URL with a user name or password in it"),
        ("url", f"http://example.com/{'x' * 1000}", "longer than 1000 characters"),
        ("timezone", "europe/berlin", "not a time zone's name, such as Europe/Berlin"),
        ("timezone", "Europe", "not a time zone's name"),
        ("timezone", "../../etc/passwd", "not a time zone's name"),
        ("timezone", "/etc/passwd", "not a time zone's name"),
        ("blues-device", "864475046552567", "not a device of Notehub: it begins with dev:"),
        ("blues-device", "dev:", "not a device of Notehub"),
        ("device-reference", "<b>", "not a device's name: the device name has control characters or markup"),
    ],
)
def test_a_value_of_another_type_is_told_why(type_: str, given: str, reason: str) -> None:
    with pytest.raises(InvalidValue) as caught:
        checked(type_, given)
    assert str(caught.value).startswith(reason)


def test_many_options_are_not_all_named() -> None:
    field = MetadataField("number", "list", options=tuple(map(str, range(50))))
    with pytest.raises(InvalidValue, match=r"'8', '9', …$"):
        check(field, "x")


@given(st.sampled_from(sorted(TYPES)), st.text())
def test_any_text_is_normal_or_invalid(type_: str, text: str) -> None:
    with contextlib.suppress(InvalidValue):
        normal = checked(type_, text)
        assert checked(type_, normal) == normal
        assert 0 < len(normal.encode()) <= 1024
        assert normal.strip() == normal


@given(st.text(string.digits, min_size=14, max_size=14))
def test_every_imei_has_one_check_digit(digits: str) -> None:
    imei = luhn(digits)
    assert checked("imei", imei) == imei
    for last in set(string.digits) - {imei[-1]}:
        with pytest.raises(InvalidValue, match="check digit"):
            checked("imei", digits + last)


@given(st.text(string.digits, min_size=16, max_size=17), st.integers(0, 18), st.integers(1, 9))
def test_no_wrong_digit_of_an_iccid_passes(digits: str, place: int, more: int) -> None:
    iccid = luhn("89" + digits)
    assert checked("iccid", iccid) == iccid
    wrong = str((int(iccid[place]) + more) % 10)
    with pytest.raises(InvalidValue):
        checked("iccid", iccid[:place] + wrong + iccid[place + 1 :])


@given(st.binary(min_size=6, max_size=6), st.sampled_from([":", "-", " ", ""]), st.booleans())
def test_a_mac_is_one_however_it_is_written(octets: bytes, separator: str, upper: bool) -> None:
    text = separator.join(f"{octet:02x}" for octet in octets)
    assert checked("mac", text.upper() if upper else text) == octets.hex(":").upper()


@given(st.decimals(allow_nan=False, allow_infinity=False, places=3, min_value=-(10**11), max_value=10**11))
def test_a_number_keeps_its_value(number: object) -> None:
    text = f"{number:f}"
    assert float(checked("number", text)) == float(text)
    assert len(checked("number", text).strip("-").replace(".", "")) <= MAX_DIGITS


@given(st.text(string.hexdigits, min_size=25, max_size=31))
def test_no_reason_quotes_a_key(text: str) -> None:
    with pytest.raises(InvalidValue) as caught:
        checked("key128", text)
    assert text not in str(caught.value)


# Definitions


@pytest.mark.parametrize(
    "field",
    [
        *(MetadataField("f", type_) for type_ in TYPES if type_ != "list"),
        LIST,
        MetadataField("f", "mac", unique=True),
        MetadataField("f", "list", options=("a", "b"), default="a"),
        MetadataField("Time Zone", "timezone", default="Europe/Berlin"),
    ],
)
def test_fields_that_a_profile_may_have(field: MetadataField) -> None:
    check_field(field)


@pytest.mark.parametrize(
    ("field", "reason"),
    [
        (MetadataField("Device Name"), "'Device Name' is there without being named"),
        (MetadataField("Device Owner"), "'Device Owner' is there without being named"),
        (MetadataField("f", "Mac"), "there is no type 'Mac'. Did you mean 'mac'? Types are text, number"),
        (MetadataField("f", "colour"), "there is no type 'colour'. Types are text, number"),
        (MetadataField("f", "list"), "a list needs options, and nothing else has them"),
        (MetadataField("f", "text", options=("a",)), "a list needs options, and nothing else has them"),
        (MetadataField("f", "list", options=("a", "")), "an option must be 1-255 printable characters"),
        (MetadataField("f", "list", options=("a", " b")), "an option must be 1-255 printable characters"),
        (MetadataField("f", "list", options=("a", "a")), "an option is there twice"),
        (MetadataField("f", "mac", default="x"), "its default is no mac: not a MAC address"),
        (MetadataField("f", "list", options=("a",), default="b"), "its default is no list: not one of the options"),
        (MetadataField("f", unique=True, default="x"), "what is unique cannot have a default"),
    ],
)
def test_fields_that_no_profile_may_have(field: MetadataField, reason: str) -> None:
    with pytest.raises(InvalidValue) as caught:
        check_field(field)
    assert str(caught.value).startswith(reason)


def test_a_default_is_in_its_normal_form() -> None:
    assert default(MetadataField("f", "mac", default="2c549188c9e3")) == "2C:54:91:88:C9:E3"
    assert default(MetadataField("f")) == ""


def test_a_default_that_cannot_be_is_none() -> None:
    assert default(MetadataField("f", "mac", default="x")) == ""
    assert default(MetadataField("f", unique=True, default="x")) == ""

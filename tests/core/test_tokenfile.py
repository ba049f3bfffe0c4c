import csv
import io
import itertools
from collections.abc import Iterator, Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provserver.core import tokenfile
from provserver.core.csvrows import MAX_BLANK_ROWS, MAX_CHARACTERS
from provserver.core.model import MetadataField
from provserver.core.tokenfile import Column, ErrorKind, FileError, TokenFile, TokenRow

SERIAL = MetadataField("Serial Number")
MAC = MetadataField("MAC address", "mac")
FIELDS = (SERIAL, MAC, MetadataField("IMEI", "imei", unique=True), MetadataField("Rack, row", "integer"))

SEED = """Serial Number,MAC address,Device Name
SN000001,2C:54:91:88:C9:E3,Temperature Sense Node AGHJ
SN000002,5C:62:91:82:C9:E8,Temperature Sense Node KJGF
SN000003,4A:33:54:68:K9:F1,Temperature Sense Node CVBN
"""


def opened(text: str | bytes, mapping: Mapping[str, str | None] | None = None, *fields: MetadataField) -> TokenFile:
    data = text.encode() if isinstance(text, str) else text
    return TokenFile(tokenfile.text(io.BytesIO(data)), fields or FIELDS, mapping)


def read(
    text: str | bytes, mapping: Mapping[str, str | None] | None = None, *fields: MetadataField
) -> list[TokenRow | FileError]:
    return list(opened(text, mapping, *fields))


def kinds(text: str | bytes, mapping: Mapping[str, str | None] | None = None) -> list[tuple[object, ...]]:
    """Of errors: kind, row, line, column, header."""
    return [tuple(each[:5]) for each in read(text, mapping) if isinstance(each, FileError)]


def reason(text: str | bytes, mapping: Mapping[str, str | None] | None = None) -> str:
    """Of the only error."""
    (error,) = (each for each in read(text, mapping) if isinstance(each, FileError))
    return error.reason


# The document's table


def test_the_document_s_file_makes_three_tokens_when_its_addresses_are_text() -> None:
    assert read(SEED, None, SERIAL, MetadataField("MAC address")) == [
        TokenRow(
            1, 2, "Temperature Sense Node AGHJ", {"Serial Number": "SN000001", "MAC address": "2C:54:91:88:C9:E3"}
        ),
        TokenRow(
            2, 3, "Temperature Sense Node KJGF", {"Serial Number": "SN000002", "MAC address": "5C:62:91:82:C9:E8"}
        ),
        TokenRow(
            3, 4, "Temperature Sense Node CVBN", {"Serial Number": "SN000003", "MAC address": "4A:33:54:68:K9:F1"}
        ),
    ]


def test_its_third_address_is_none() -> None:
    first, second, error = read(SEED, None, SERIAL, MAC)
    assert isinstance(first, TokenRow)
    assert isinstance(second, TokenRow)
    assert error == FileError(
        ErrorKind.INVALID_VALUE,
        3,
        4,
        2,
        "MAC address",
        "not a MAC address: character 13 is not a hexadecimal digit",
    )
    assert str(error) == (
        "row 3 (line 4), column 2 (MAC address): not a MAC address: character 13 is not a hexadecimal digit"
    )


# Rows


@pytest.mark.parametrize(
    "text",
    [
        b"Serial Number,MAC address\na,2c549188c9e3\nb,\n",
        b"Serial Number,MAC address\r\na,2c549188c9e3\r\nb,\r\n",
        b"Serial Number,MAC address\ra,2c549188c9e3\rb,\r",
        b"Serial Number,MAC address\na,2c549188c9e3\nb,",
        b"\xef\xbb\xbfSerial Number,MAC address\na,2c549188c9e3\nb,\n",
        b'\xef\xbb\xbf"Serial Number","MAC address"\n"a","2c549188c9e3"\n"b",""\n',
        b"Serial Number;MAC address\na;2c549188c9e3\nb;\n",
        b"Serial Number\tMAC address\na\t2c549188c9e3\nb\t\n",
        b" Serial Number , MAC address \n a , 2c549188c9e3 \n b , \n",
        b'Serial Number, "MAC address"\na, "2c549188c9e3"\nb,\n',
        b"MAC address,Serial Number\n2c549188c9e3,a\n,b\n",
    ],
)
def test_files_that_say_the_same(text: bytes) -> None:
    rows = [(2, "a", {"MAC address": "2C:54:91:88:C9:E3"}), (3, "b", {})]
    assert read(text) == [
        TokenRow(row, line, None, {"Serial Number": serial, **more}) for row, (line, serial, more) in enumerate(rows, 1)
    ]


def test_rows_and_lines_are_counted_apart() -> None:
    text = '\n \nSerial Number,Device Name\n\na,"x"\n,\n  , \nb,\n'
    assert read(text) == [
        TokenRow(1, 5, "x", {"Serial Number": "a"}),
        TokenRow(2, 8, None, {"Serial Number": "b"}),
    ]
    error, last = read('Serial Number,Device Name\n"a\nb",x\nc,d\n')
    assert isinstance(error, FileError)
    assert isinstance(last, TokenRow)
    assert (error.row, error.line, last.row, last.line) == (1, 2, 2, 4)


def test_the_delimiter_that_the_fields_tell_goes_first() -> None:
    file = opened("Serial Number;Rack, row\na;7\n")
    assert file.delimiter == ";"
    assert list(file) == [TokenRow(1, 2, None, {"Serial Number": "a", "Rack, row": "7"})]
    assert opened('"Rack, row"\n7\n').columns == [Column(1, "Rack, row", "Rack, row")]
    assert opened("a;b\tc\tx\n1;2\t3\t4\n").delimiter == "\t"


def test_a_column_goes_where_it_is_mapped_to() -> None:
    file = opened(
        "serial,Notes,IMEI\nSN1,x,490154203237518\n", {"serial": "Serial Number", "Notes": None, "IMEI": "Device Name"}
    )
    assert file.columns == [
        Column(1, "serial", "Serial Number"),
        Column(2, "Notes", None),
        Column(3, "IMEI", "Device Name"),
    ]
    assert list(file) == [TokenRow(1, 2, "490154203237518", {"Serial Number": "SN1"})]


def test_blanks_around_a_header_are_none_of_it() -> None:
    assert read(" serial ,x\na,b\n", {"serial": "Serial Number", " x ": None}) == [
        TokenRow(1, 2, None, {"Serial Number": "a"})
    ]


def test_what_is_left_out_is_not_looked_at() -> None:
    assert read(b"Serial Number,x\na,\xff\n", {"x": None}) == [TokenRow(1, 2, None, {"Serial Number": "a"})]


def test_an_error_of_one_row_stops_no_other() -> None:
    found = read("IMEI,MAC address\nx,y\n490154203237518,\n")
    assert [each.column for each in found if isinstance(each, FileError)] == [1, 2]
    assert found[-1] == TokenRow(2, 3, None, {"IMEI": "490154203237518"})


# What is wrong


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("", (ErrorKind.EMPTY_FILE, None, None, None, None)),
        ("\ufeff", (ErrorKind.EMPTY_FILE, None, None, None, None)),
        ("\n \r\n\n", (ErrorKind.EMPTY_FILE, None, None, None, None)),
        ("Serial Number\n", (ErrorKind.NO_ROWS, None, None, None, None)),
        ("Serial Number,IMEI\n\n,\n", (ErrorKind.NO_ROWS, None, None, None, None)),
        (b"Serial Number\nM\xfcnchen\n", (ErrorKind.NOT_UTF8, 1, 2, 1, "Serial Number")),
        (b"Stra\xdfe\na\n", (ErrorKind.NOT_UTF8, None, 1, None, None)),
        ("Serial Number\na\n".encode("utf-16"), (ErrorKind.NOT_UTF8, None, 1, None, None)),
        ("Serial Number|IMEI\na|b\n", (ErrorKind.WRONG_DELIMITER, None, 1, None, None)),
        ("Serial Number,Device Name\na;b\n", (ErrorKind.WRONG_DELIMITER, 1, 2, None, None)),
        ("Serial Number;Device Name\na,b\n", (ErrorKind.WRONG_DELIMITER, 1, 2, None, None)),
        ("Serial Number,Serial Number\na,b\n", (ErrorKind.DUPLICATE_HEADER, None, 1, 2, "Serial Number")),
        ("Serial Number,\na,b\n", (ErrorKind.EMPTY_HEADER, None, 1, 2, None)),
        ("Serial Number,serial number\na,b\n", (ErrorKind.UNKNOWN_HEADER, None, 1, 2, "serial number")),
        ("Serial Number\na,b\n", (ErrorKind.RAGGED_ROW, 1, 2, None, None)),
        ("Serial Number,IMEI\na\n", (ErrorKind.RAGGED_ROW, 1, 2, None, None)),
        ('Serial Number\na\n\n"b\nc\n', (ErrorKind.BAD_QUOTE, 2, 4, None, None)),
        ('Serial Number\n"a"b\n', (ErrorKind.BAD_QUOTE, 1, 2, None, None)),
        (f'Serial Number\n"{"x" * 200_000}\n', (ErrorKind.BAD_QUOTE, 1, 2, None, None)),
        ('"Serial Number\na\n', (ErrorKind.BAD_QUOTE, None, 1, None, None)),
        ('\n\n"Serial" Number\na\n', (ErrorKind.BAD_QUOTE, None, 3, None, None)),
        ("IMEI\n490154203237519\n", (ErrorKind.INVALID_VALUE, 1, 2, 1, "IMEI")),
        ("Device Name\n<b>\n", (ErrorKind.INVALID_VALUE, 1, 2, 1, "Device Name")),
        ("IMEI\n490154203237518\n49 015420 323751 8\n", (ErrorKind.DUPLICATE_VALUE, 2, 3, 1, "IMEI")),
        ("Device Name\na\nb\n a\n", (ErrorKind.DUPLICATE_VALUE, 3, 4, 1, "Device Name")),
    ],
    ids=lambda value: ascii(value)[:40],
)
def test_what_is_wrong_is_told_with_its_place(text: str | bytes, error: tuple[object, ...]) -> None:
    assert kinds(text) == [error]


@pytest.mark.parametrize(
    ("text", "mapping", "error"),
    [
        ("a,b\n1,2\n", {"a": "IMEI", "b": "IMEI"}, (ErrorKind.FIELD_TWICE, None, 1, 2, "b")),
        ("IMEI,b\n1,2\n", {"b": "IMEI"}, (ErrorKind.FIELD_TWICE, None, 1, 2, "b")),
        ("IMEI\n1\n", {"IMEI": "imei"}, (ErrorKind.UNKNOWN_FIELD, None, 1, 1, "IMEI")),
        ("Serial Number\n1\n", {"Serial": None}, (ErrorKind.UNKNOWN_COLUMN, None, 1, None, None)),
    ],
)
def test_mappings_that_cannot_be(text: str, mapping: dict[str, str | None], error: tuple[object, ...]) -> None:
    assert kinds(text, mapping) == [error]


def test_a_table_that_is_too_wide() -> None:
    header = ",".join(f"c{n}" for n in range(tokenfile.MAX_COLUMNS + 1))
    assert kinds(f"{header}\n") == [(ErrorKind.TOO_MANY_COLUMNS, None, 1, None, None)]


def test_a_row_that_is_too_wide() -> None:
    row = ",".join("x" * (tokenfile.MAX_COLUMNS + 1))
    assert kinds(f"Serial Number\n{row}\na\n") == [(ErrorKind.TOO_MANY_COLUMNS, 1, 2, None, None)]


def test_a_header_of_long_columns() -> None:
    """That is likened to the fields, each to each, which may take for ever."""
    fields = [MetadataField(f"{'ab' * 100}{number}") for number in range(100)]
    headers = [f"{'ba' * 100}{number:050}" for number in range(99)]
    found = list(TokenFile(io.StringIO(",".join([*headers, "x" * 256]) + "\na\n"), fields))
    assert [each.column for each in found if isinstance(each, FileError)] == list(range(1, 101))
    assert str(found[-1]) == f"header, column 100 ({'x' * 255}): longer than 255 characters"


@pytest.mark.parametrize("blank", ["\n", "\t\n", '" "\n'])
def test_a_file_of_blank_lines(blank: str) -> None:
    row = [*TokenFile(itertools.chain(["Serial Number\n", "a\n"], itertools.repeat(blank)), FIELDS)][-1]
    assert isinstance(row, FileError)
    assert (row.kind, row.row, row.line) == (ErrorKind.TOO_MANY_ROWS, 2, MAX_BLANK_ROWS + 3)
    assert row.reason == "more than 5,000 rows are blank: delete them"


def test_a_file_that_begins_with_blank_lines() -> None:
    assert read("\n" * 100 + "Serial Number\na\n") == [TokenRow(1, 102, None, {"Serial Number": "a"})]
    assert TokenFile(itertools.repeat("\n"), FIELDS).errors


def test_a_row_without_an_end() -> None:
    for first in ("", "Serial Number\n"):
        (error,) = kinds(first + "x," * (MAX_CHARACTERS // 2 + 1))
        assert error[0] is ErrorKind.BAD_QUOTE


def test_a_file_that_is_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokenfile, "MAX_ROWS", 3)
    assert kinds("Serial Number\n" + "a\n" * 10) == [(ErrorKind.TOO_MANY_ROWS, 4, 5, None, None)]


def test_all_that_is_wrong_with_a_header_is_told_at_once() -> None:
    assert kinds("serial number,,IMEI,IMEI,Colour\na,b,c,d,e\n", {"x": None}) == [
        (ErrorKind.UNKNOWN_HEADER, None, 1, 1, "serial number"),
        (ErrorKind.EMPTY_HEADER, None, 1, 2, None),
        (ErrorKind.DUPLICATE_HEADER, None, 1, 4, "IMEI"),
        (ErrorKind.UNKNOWN_HEADER, None, 1, 5, "Colour"),
        (ErrorKind.UNKNOWN_COLUMN, None, 1, None, None),
    ]


def test_the_columns_are_known_whatever_is_wrong() -> None:
    assert opened("mac address,IMEI,\n").columns == [
        Column(1, "mac address", None),
        Column(2, "IMEI", "IMEI"),
        Column(3, "", None),
    ]


@pytest.mark.parametrize(
    ("text", "mapping", "words"),
    [
        ("mac address\nx\n", None, "it differs by case from 'MAC address'. Map it to that, or write it so"),
        ("device name\nx\n", None, "it differs by case from 'Device Name'"),
        ("Serial No\nx\n", None, "Did you mean 'Serial Number'? Else map it to a field, or leave it out"),
        ("Colour\nx\n", None, "Fields are 'Device Name', 'Serial Number', 'MAC address', 'IMEI', 'Rack, row'"),
        ("x\n1\n", {"x": "imei"}, "it is mapped to 'imei', which is no metadata field of the profile: it differs by"),
        ("Serial Number|IMEI\n", None, "with '|' in it: separate cells with commas, semicolons or tabs"),
        ("Serial Number,IMEI\na;b\n", None, "separated by semicolons where the header has commas"),
        ("Serial Number;IMEI\na\tb\n", None, "separated by tabs where the header has semicolons"),
        ("Serial Number,IMEI\na\n", None, "1 cell where the header has 2"),
        ("Serial Number,IMEI\na,b,c\n", None, "3 cells where the header has 2"),
        ("IMEI\n490154203237518\n\n490154203237518\n", None, "row 1 has the same value"),
        ('Serial Number\n"a\n', None, "a quotation mark that is opened here is never closed"),
        (f'Serial Number\n"{"x" * 200_000}\n', None, "a cell is longer than can be: a quotation mark may be missing"),
        ('Serial Number\n"a"b\n', None, "its quotation marks are wrong: "),
        ("Serial Number\na\n".encode("utf-16"), None, "the file is UTF-16: save it as CSV in UTF-8"),
        (b"Stra\xdfe\na\n", None, "the file is not UTF-8: save it as CSV in UTF-8"),
    ],
    ids=lambda value: ascii(value)[:40],
)
def test_reasons_name_the_fix(text: str | bytes, mapping: dict[str, str | None] | None, words: str) -> None:
    assert words in reason(text, mapping)


def test_a_field_that_a_profile_should_not_have_is_the_built_in_one() -> None:
    assert read("Device Name\na\n", None, MetadataField("Device Name", "mac")) == [TokenRow(1, 2, "a", {})]


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (FileError(ErrorKind.EMPTY_FILE, None, None, None, None, "why"), "why"),
        (FileError(ErrorKind.EMPTY_HEADER, None, 1, 2, None, "why"), "header, column 2: why"),
        (FileError(ErrorKind.RAGGED_ROW, 7, 9, None, None, "why"), "row 7 (line 9): why"),
        (FileError(ErrorKind.TAKEN, 7, 9, 2, "IMEI", "why"), "row 7 (line 9), column 2 (IMEI): why"),
    ],
)
def test_an_error_in_words(error: FileError, words: str) -> None:
    assert str(error) == words


# As a stream


def test_rows_come_as_lines_do() -> None:
    taken = 0

    def endless() -> Iterator[str]:
        nonlocal taken
        for taken in itertools.count(1):
            yield "Serial Number\n" if taken == 1 else f"SN{taken}\n"

    rows = iter(TokenFile(endless(), FIELDS))
    for line in range(2, 100):
        assert next(rows) == TokenRow(line - 1, line, None, {"Serial Number": f"SN{line}"})
        assert taken == line


# Any file

cell = st.sampled_from(["", "a\nb", "a\r\nb", '"', ";", "490154203237518", "2c549188c9e3"]) | st.text(max_size=6)
headers = st.lists(
    st.sampled_from(["Serial Number", "MAC address", "IMEI", "Rack, row", "Device Name"]), unique=True, min_size=1
)


@given(headers, st.lists(st.tuples(*5 * [cell]), max_size=4), st.sampled_from([",", ";", "\t"]))
def test_any_table_makes_rows_or_errors_in_its_order(
    header: list[str], table: list[tuple[str, ...]], delimiter: str
) -> None:
    written = io.StringIO(newline="")
    writer = csv.writer(written, delimiter=delimiter)
    writer.writerow(header)
    for row in table:
        writer.writerow(row[: len(header)])
    found = read(written.getvalue().encode("utf-8", "surrogatepass"))
    numbers = [each.row or 0 for each in found]
    assert numbers == sorted(numbers)
    assert len({each.row for each in found if isinstance(each, TokenRow)} | {0}) <= len(table) + 1
    for each in found:
        assert isinstance(each, TokenRow) or each.header is None or each.header in header


@given(
    st.lists(st.tuples(st.sampled_from(["SN1", "SN2", 'a"b', "x;y", "p,q"]), st.sampled_from(["n 1", "n 2", ""]))),
    st.sampled_from([",", ";", "\t"]),
    st.sampled_from(["\n", "\r\n"]),
    st.booleans(),
    st.booleans(),
)
def test_what_is_written_is_read(
    table: list[tuple[str, str]], delimiter: str, end: str, marked: bool, quoted: bool
) -> None:
    written = io.StringIO(newline="")
    writer = csv.writer(
        written, delimiter=delimiter, lineterminator=end, quoting=csv.QUOTE_ALL if quoted else csv.QUOTE_MINIMAL
    )
    writer.writerow(["Serial Number", "Rack"])
    writer.writerows(table)
    fields = (SERIAL, MetadataField("Rack"))
    rows = read(("\ufeff" if marked else "") + written.getvalue(), None, *fields)
    values = [{"Serial Number": serial} | ({"Rack": rack} if rack else {}) for serial, rack in table]
    if table:
        assert [each.values for each in rows if isinstance(each, TokenRow)] == values


@given(st.lists(st.sampled_from(["IMEI", ",", ";", "\t", '"', "\n", "\r\n", "\0", "x", "\ufeff", "|", "é", " "])))
def test_no_text_raises(pieces: list[str]) -> None:
    for each in read("".join(pieces)):
        assert isinstance(each, TokenRow | FileError)


@given(st.binary(max_size=60))
def test_no_bytes_raise(data: bytes) -> None:
    for each in read(data):
        assert isinstance(each, TokenRow | FileError)


def test_no_reason_quotes_a_value() -> None:
    (error,) = read("Key\n00112233445566778899aabbccddeefx\n", None, MetadataField("Key", "key128"))
    assert "0011223344" not in str(error)


# Files of LoRaWAN devices

LORAWAN = (
    MetadataField("Device EUI", "eui64", unique=True),
    MetadataField("Join EUI", "eui64"),
    MetadataField("Application Key", "key128"),
    MetadataField("TheThingsNetwork Device ID", unique=True),
)

LORAWAN_SEED = """Device EUI,Join EUI,Application Key
0018B20000000101,70B3D57ED0000010,2B7E151628AED2A6ABF7158809CF4F3C
0018B20000000102,70B3D57ED0000011,3B7E151628AED2A6ABF7158809CF4F3D
0018B20000000103,70B3D57ED0000012,4B7E151628AED2A6ABF7158809CF4F3E
"""

THINGS_STACK = """\ufeffid;dev_eui;join_eui;name;frequency_plan_id;lorawan_version;app_key;supports_class_c;quirk
meter-1;00-18-b2-00-00-00-01-01;70B3D57ED0000010;Meter 1;EU_863_870_TTN;1.0.3;2b7e151628aed2a6abf7158809cf4f3c;false;1
;0018B20000000102;70B3D57ED0000011;;EU_863_870_TTN;1.0.3;0x3B7E151628AED2A6ABF7158809CF4F3D;true;
"""


def test_the_document_s_file_of_lorawan_devices() -> None:
    first, *others = read(LORAWAN_SEED, None, *LORAWAN)
    assert len(others) == 2
    assert first == TokenRow(
        1,
        2,
        None,
        {
            "Device EUI": "0018B20000000101",
            "Join EUI": "70B3D57ED0000010",
            "Application Key": "2B7E151628AED2A6ABF7158809CF4F3C",
        },
    )


@pytest.mark.parametrize("delimiter", [";", ","])
def test_the_file_of_the_things_stack(delimiter: str) -> None:
    file = opened(THINGS_STACK.replace(";", delimiter), None, *LORAWAN)
    assert list(file) == [
        TokenRow(
            1,
            2,
            "Meter 1",
            {
                "TheThingsNetwork Device ID": "meter-1",
                "Device EUI": "0018B20000000101",
                "Join EUI": "70B3D57ED0000010",
                "Application Key": "2B7E151628AED2A6ABF7158809CF4F3C",
            },
        ),
        TokenRow(
            2,
            3,
            None,
            {
                "Device EUI": "0018B20000000102",
                "Join EUI": "70B3D57ED0000011",
                "Application Key": "3B7E151628AED2A6ABF7158809CF4F3D",
            },
        ),
    ]
    assert [column.field for column in file.columns][4:6] == [None, None]


def test_what_is_mapped_by_hand_wins() -> None:
    fields = (*LORAWAN, SERIAL)
    first, _ = read(THINGS_STACK, {"name": "Serial Number", "quirk": "Device Name"}, *fields)
    assert isinstance(first, TokenRow)
    assert (first.name, first.values["Serial Number"]) == ("1", "Meter 1")
    first, _ = read(THINGS_STACK, {"id": None}, *fields)
    assert isinstance(first, TokenRow)
    assert "TheThingsNetwork Device ID" not in first.values


def test_a_wrong_value_of_the_things_stack_is_said_by_its_column() -> None:
    (error,) = (
        each for each in read(THINGS_STACK.replace("-01-01", "-01"), None, *LORAWAN) if isinstance(each, FileError)
    )
    assert (error.kind, error.row, error.header) == (ErrorKind.INVALID_VALUE, 1, "dev_eui")


def test_a_profile_without_the_fields_gets_no_file_of_the_things_stack() -> None:
    assert {each.kind for each in read(THINGS_STACK) if isinstance(each, FileError)} == {ErrorKind.UNKNOWN_HEADER}


# Rows as they are


def kept(text: str | bytes, keep: int, *fields: MetadataField) -> list[tuple[object, ...]]:
    data = text.encode() if isinstance(text, str) else text
    file = TokenFile(tokenfile.text(io.BytesIO(data)), fields or FIELDS, keep=keep)
    list(file)
    return [tuple(file.kept[row]) for row in sorted(file.kept)]


def test_the_first_rows_are_kept_and_those_with_errors() -> None:
    rows = "".join(f"{number}\n" for number in (1, 2, 3, "x", 5, "y", "z"))
    numbered = MetadataField("Number", "integer")
    assert kept("Number\n" + rows, 2, numbered) == [(1, 2, ("1",)), (2, 3, ("2",)), (4, 5, ("x",)), (6, 7, ("y",))]
    assert kept("Number\n" + rows, 0, numbered) == []


def test_of_a_header_that_is_wrong_the_first_rows_are_kept_all_the_same() -> None:
    assert kept("what;other\n1;2\n3;4\n5;6\n", 2) == [(1, 2, ("1", "2")), (2, 3, ("3", "4"))]
    assert kept('what,other\n1,2\n"3', 5) == [(1, 2, ("1", "2"))]
    assert kept("", 5) == []


def test_a_kept_cell_is_bounded_and_can_be_shown() -> None:
    assert kept(b"Serial Number\n\xff\xfe" + b"x" * 300 + b"\n", 1) == [(1, 2, ("��" + "x" * 198,))]

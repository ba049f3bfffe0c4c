import contextlib
import csv
import io
import itertools
from collections.abc import Iterable, Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from provserver.core import credentials as building
from provserver.core.csvfile import COLUMNS, DeviceRow, HeaderFault, RowError, device_row, read_devices
from provserver.core.csvrows import MAX_BLANK_ROWS
from provserver.core.model import Credentials

PEM = "-----BEGIN CERTIFICATE-----\nMIIB\nCgKC\n-----END CERTIFICATE-----\n"


def read(text: str) -> list[DeviceRow | RowError]:
    return list(read_devices(io.StringIO(text, newline="")))


def row(line: int, name: str, credentials: Credentials | None = None, **more: object) -> DeviceRow:
    return DeviceRow(line, name, credentials, **{"gateway": False, **more})  # type: ignore[arg-type]


# Rows


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("name\n", []),
        ("name", []),
        ("name\na\nb\n", [row(2, "a"), row(3, "b")]),
        ("name\r\na\r\nb", [row(2, "a"), row(3, "b")]),
        ("name\ra\rb\r", [row(2, "a"), row(3, "b")]),
        ("\ufeffname\na\n", [row(2, "a")]),
        ('\ufeff"name","token"\na,t\n', [row(2, "a", building.access_token("t"))]),
        (" name , token \na,t\n", [row(2, "a", building.access_token("t"))]),
        ("name\n a \n", [row(2, "a")]),
        ("name\na\n\n\nb\n\n", [row(2, "a"), row(5, "b")]),
        ("name,token\na,\n,\nb,\n", [row(2, "a"), row(4, "b")]),
        ("token,name\nt,a\n", [row(2, "a", building.access_token("t"))]),
        ("name,token\na, t \n", [row(2, "a", building.access_token(" t "))]),
        ("name,clientId\na,c\n", [row(2, "a", building.mqtt_basic("c"))]),
        ("name,username\na,u\n", [row(2, "a", building.mqtt_basic("", "u"))]),
        ("name,password,username,clientId\na,p,u,c\n", [row(2, "a", building.mqtt_basic("c", "u", "p"))]),
        ("name,certificate\na,MIIBCgKC\n", [row(2, "a", building.certificate("MIIBCgKC"))]),
        (
            "name,token,clientId,username,password,certificate\na,t,,,,\nb,,c,u,p,\nc,,,,,h\nd,,,,,\n",
            [
                row(2, "a", building.access_token("t")),
                row(3, "b", building.mqtt_basic("c", "u", "p")),
                row(4, "c", building.certificate("h")),
                row(5, "d"),
            ],
        ),
        (
            "name,gateway\na,true\nb,false\nc,\nd, TRUE \ne,False\n",
            [
                row(2, "a", gateway=True),
                row(3, "b"),
                row(4, "c"),
                row(5, "d", gateway=True),
                row(6, "e"),
            ],
        ),
        # quoting
        ('name,token\n"a","t"\n', [row(2, "a", building.access_token("t"))]),
        ('name,token\n"a,b","say ""x"""\n', [row(2, "a,b", building.access_token('say "x"'))]),
        ('name\na"b\n', [row(2, 'a"b')]),
        # a row is where it begins, however many lines it has
        (f'name,certificate\na,"{PEM}"\nb,\n', [row(2, "a", building.certificate("MIIBCgKC")), row(7, "b")]),
        (f'certificate,name\r\n"{PEM}",a\r\n,b\r\n', [row(2, "a", building.certificate("MIIBCgKC")), row(7, "b")]),
        ('name,"attribute:k"\n\na,1\n', [row(3, "a", attributes={("SERVER", "k"): 1})]),
    ],
    ids=lambda v: ascii(v)[:40] if isinstance(v, str) else "",
)
def test_rows(text: str, rows: list[DeviceRow]) -> None:
    assert read(text) == rows


@pytest.mark.parametrize(
    ("text", "errors"),
    [
        ("name,token\n,t\n", [RowError(2, "name", "the device name is empty")]),
        ("name\n \n", [RowError(2, "name", "the device name is blank")]),
        (f"name\n{'x' * 256}\n", [RowError(2, "name", "the device name is longer than 255 characters")]),
        ("name\n<b>\n", [RowError(2, "name", "the device name has control characters or markup")]),
        ('name\n"a\nb"\n', [RowError(2, "name", "the device name has control characters or markup")]),
        ("name,gateway\na,yes\n", [RowError(2, "gateway", "must be true or false")]),
        ("name,gateway\na,1\n", [RowError(2, "gateway", "must be true or false")]),
        ("name,token\na,provision\n", [RowError(2, "token", "the token is a reserved id")]),
        (f"name,token\na,{'x' * 513}\n", [RowError(2, "token", "the token is longer than 512 characters")]),
        ("name,token\na,\t\n", [RowError(2, "token", "the token contains control characters")]),
        ("name,clientId\na,device\n", [RowError(2, "clientId", "the client id is a reserved id")]),
        ("name,clientId,username\na,c,device\n", [RowError(2, "username", "the user name is a reserved id")]),
        (
            "name,clientId,username,password\na,c,u,\x7f\n",
            [RowError(2, "password", "the password contains control characters")],
        ),
        ("name,password\na,p\n", [RowError(2, "password", "both MQTT client id and user name are empty")]),
        (
            "name,clientId,password\na,c,p\n",
            [RowError(2, "clientId", "a password cannot go with a client id alone")],
        ),
        ("name,certificate\na,-----BEGIN CERTIFICATE-----\n", [RowError(2, "certificate", "the certificate is empty")]),
        (
            "name,certificate,token\na,h,t\n",
            [RowError(2, "token", "a device has one kind of credentials, not token and certificate")],
        ),
        (
            "name,token,username\na,t,u\n",
            [RowError(2, "token", "a device has one kind of credentials, not token and username")],
        ),
        ("name,attribute:k\na,x\0y\n", [RowError(2, "attribute:k", "contains a NUL character")]),
        ('name,shared:k\na,"""\\u0000"""\n', [RowError(2, "shared:k", "contains a NUL character")]),
        ("name\n\udcff\n", [RowError(2, "name", "not UTF-8")]),
        ('name,shared:k\na,"x\n\udce9"\n', [RowError(2, "shared:k", "not UTF-8")]),
        ("name\na,b\n", [RowError(2, None, "2 cells where the header has 1")]),
        ("name,token\na\n", [RowError(2, None, "1 cells where the header has 2")]),
        ("name,token\na,t,\n", [RowError(2, None, "3 cells where the header has 2")]),
        (f'name,certificate\na,"{PEM}",x\n', [RowError(2, None, "3 cells where the header has 2")]),
    ],
    ids=lambda v: ascii(v)[:60] if isinstance(v, str) else "",
)
def test_errors(text: str, errors: list[RowError]) -> None:
    assert read(text) == errors
    header, _, rest = text.partition("\n")
    more = "," * header.count(",")
    first, *_, last = read(f"{header}\nfirst{more}\n{rest}last{more}\n")  # a bad row stops no other
    assert isinstance(first, DeviceRow)
    assert isinstance(last, DeviceRow)
    assert (first.name, last.name) == ("first", "last")


def test_every_row_that_is_wrong_is_told_by_its_first_line() -> None:
    text = f'name,certificate,gateway\na,"{PEM}",no\nb,,\n,h,\n"c\nd",,\n\ne,"{PEM}"\nf,,\n'
    assert [(each.line, each.column if isinstance(each, RowError) else each.name) for each in read(text)] == [
        (2, "gateway"),
        (7, "b"),
        (8, "name"),
        (9, "name"),
        (12, None),
        (17, "f"),
    ]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ('name\na\n"b\nc\nd\n', 3),  # a quote that is never closed
        ('name\na\n"b"c\nd\n', 3),
        (f'name\na\n"b\n{"x" * 200_000}"\n', 3),  # longer than the csv module takes
    ],
)
def test_what_is_not_csv_ends_the_file_where_its_row_begins(text: str, line: int) -> None:
    first, fault = read(text)
    assert first == row(2, "a")
    assert isinstance(fault, RowError)
    assert (fault.line, fault.column) == (line, None)
    assert fault.reason.startswith("not CSV: ")
    assert len(fault.reason) < 100


# The header


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "The file is empty; its first row must name the columns."),
        ("\n", "The column 'name' is missing."),
        ("token\n", "The column 'name' is missing."),
        ("name,token,name\n", "The column 'name' is there twice."),
        ("name,attribute:k,attribute:k \n", "The column 'attribute:k' is there twice."),
        ("Name\n", "Unknown column 'Name'. Did you mean 'name'? Columns are"),
        ("name,ClientID\n", "Unknown column 'ClientID'. Did you mean 'clientId'?"),
        ("name,client_id\n", "Unknown column 'client_id'. Did you mean 'clientId'?"),
        ("name,USERNAME\n", "Unknown column 'USERNAME'. Did you mean 'username'?"),
        ("name,userName\n", "Unknown column 'userName'. Did you mean 'username'?"),
        ("name,pasword\n", "Unknown column 'pasword'. Did you mean 'password'?"),
        ("name,color\n", "Unknown column 'color'. Columns are name, token, clientId, username, password, certificate,"),
        ("name,\n", "Unknown column ''. Columns are"),
        ("name;token\n", "Unknown column 'name;token'."),
        ("name,attribute:\n", "Unknown column 'attribute:'."),
        ("name,attribute\n", "Unknown column 'attribute'."),
        ("name,Attribute:k\n", "Unknown column 'Attribute:k'."),
        ("name,client:k\n", "Unknown column 'client:k'."),
        ('name,"attribute:a\0b"\n', "Unknown column 'attribute:a\\x00b'."),
        ('name,"attribute:a\nb"\n', "Unknown column 'attribute:a\\nb'."),
        ("name,attribute:\udcff\n", "The header row is not UTF-8. Save the file as CSV in UTF-8."),
        ('"name\n', "The header row is not CSV: unexpected end of data."),
        ('"name"x\n', "The header row is not CSV: "),
        (f"name,{'x' * 256}\n", "A column of the header is longer than 255 characters."),
        (",".join(["name"] * 251) + "\n", "The header row is not CSV: 251 columns where 250 are allowed."),
    ],
    ids=lambda v: ascii(v)[:40],
)
def test_headers_that_cannot_be_used(text: str, message: str) -> None:
    with pytest.raises(HeaderFault) as caught:
        read(text)
    assert str(caught.value).startswith(message)


def test_the_header_may_name_every_column() -> None:
    assert read(",".join((*COLUMNS, "attribute:a", "attribute:b:c", "shared:a")) + "\n") == []


# Attributes


@pytest.mark.parametrize(
    ("cell", "value"),
    [
        ("1", 1),
        ("-1.50", -1.5),
        ("1e3", 1000.0),
        ("89014103211118510720", 89014103211118510720),  # an ICCID, past 64 bits
        ("true", True),
        ("false", False),
        ("null", None),
        ('"text"', "text"),
        ('{"a":[1,{}]}', {"a": [1, {}]}),
        ('["\\ud83d\\ude00"]', ["\U0001f600"]),
        (" 1 ", 1),
        # what is not JSON is text
        ("text", "text"),
        (" text ", " text "),
        ("True", "True"),
        ("007", "007"),
        ("+1", "+1"),
        ("1.2.3", "1.2.3"),
        ("{", "{"),
        ("'a'", "'a'"),
        ("2026-01-01", "2026-01-01"),
        ("é\U0001f600", "é\U0001f600"),
        # and so is what no JSON value can hold or Postgres store
        ("NaN", "NaN"),
        ("-Infinity", "-Infinity"),
        ("[NaN]", ["NaN"]),
        ("1e999", "1e999"),
        ("[-1e999]", "[-1e999]"),
        ('"\\ud800"', '"\\ud800"'),
        ('{"\\udfff":1}', '{"\\udfff":1}'),
        ("9" * 5000, "9" * 5000),
        ("[" * 100_000, "[" * 100_000),
    ],
    ids=lambda v: ascii(v)[:30],
)
def test_attributes_are_json_or_else_text(cell: str, value: object) -> None:
    made = device_row(2, {"name": "a", "attribute:k": cell})
    assert isinstance(made, DeviceRow)
    found = made.attributes["SERVER", "k"]
    assert (type(found), found) == (type(value), value)


def test_attributes_by_scope_and_key() -> None:
    text = "name,attribute:a,shared:a,attribute:b:c,shared: d\na,1,2,3,4\nb,,5,,\n"
    first, second = read(text)
    assert isinstance(first, DeviceRow)
    assert isinstance(second, DeviceRow)
    assert first.attributes == {("SERVER", "a"): 1, ("SHARED", "a"): 2, ("SERVER", "b:c"): 3, ("SHARED", " d"): 4}
    assert second.attributes == {("SHARED", "a"): 5}  # an empty cell is no attribute


# As a stream


def test_rows_come_as_lines_do() -> None:
    taken = 0

    def endless() -> Iterator[str]:
        nonlocal taken
        for taken in itertools.count(1):
            yield "name\n" if taken == 1 else f"device {taken}\n"

    rows = read_devices(endless())
    assert taken == 0
    for line in range(2, 100):
        assert next(rows) == row(line, f"device {line}")
        assert taken == line


def test_errors_come_as_lines_do() -> None:
    rows = read_devices(itertools.chain(["name\n"], itertools.repeat("<b>\n")))
    assert [each.line for each in itertools.islice(rows, 3)] == [2, 3, 4]


def test_a_file_of_blank_lines_has_an_end() -> None:
    blank = MAX_BLANK_ROWS + 1
    (fault,) = read_devices(itertools.chain(["name\n"], itertools.repeat("\n")))
    assert fault == RowError(blank + 1, None, "more than 5,000 rows are blank: delete them")


def test_nothing_is_read_past_what_is_not_csv() -> None:
    def lines() -> Iterator[str]:
        yield from ("name\n", '"a"b\n')
        raise AssertionError

    assert [each.line for each in read_devices(lines())] == [2]


cells = st.sampled_from(["", "true", "a\nb", "a\r\nb", '"', "1e999", "[1]"]) | st.text(
    st.characters(codec="ascii"), max_size=6
)
headers = st.permutations([*COLUMNS, "attribute:a", "shared:b"]).flatmap(
    lambda columns: st.integers(1, len(columns)).map(lambda n: columns[:n])
)


@settings(deadline=None)
@given(headers, st.lists(st.tuples(*10 * [cells]), max_size=3))
def test_any_cells_make_a_row_or_an_error(header: list[str], table: list[tuple[str, ...]]) -> None:
    written = io.StringIO(newline="")
    writer = csv.writer(written)
    writer.writerow(header)
    beginnings = set()
    for line in table:
        beginnings.add(len(list(io.StringIO(written.getvalue(), newline=""))) + 1)
        writer.writerow(line[: len(header)])
    with contextlib.suppress(HeaderFault):
        for each in read(written.getvalue()):
            assert each.line in beginnings
            assert not isinstance(each, RowError) or each.column is None or each.column in header


@settings(deadline=None)
@given(st.lists(st.sampled_from(["name", ",", '"', "\n", "\r\n", "\0", "token", "\ufeff", "x", "attribute:k"])))
def test_no_text_raises_anything_else(pieces: list[str]) -> None:
    with contextlib.suppress(HeaderFault):
        read("".join(pieces))


def test_lines_may_be_any_iterable() -> None:
    lines: Iterable[str] = ["name", "a"]
    assert list(read_devices(lines)) == [row(2, "a")]


def test_reprs_show_no_secret() -> None:
    (made,) = read("name,clientId,username,password\na,c,u,Tr0ub4dor\n")
    assert "Tr0ub4dor" not in repr(made)
    (error,) = read(f"name,token\na,{'Tr0ub4dor' * 100}\n")
    assert "Tr0ub4dor" not in repr(error)

import contextlib
import json
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from provserver.core import lenientjson
from provserver.core.lenientjson import MAX_DEPTH, Number, SyntaxFault, Value
from tests.core.work import calls

LARGE = 1 << 16
"""Characters. What takes time in the square of it does not end."""


def exact(value: object) -> object:
    """With types, since a Number equals its text."""
    if isinstance(value, list):
        return [exact(each) for each in value]
    if isinstance(value, dict):
        return {name: exact(each) for name, each in value.items()}
    return type(value), value


N = Number

ACCEPTED: list[tuple[str, Value]] = [
    # nothing at all
    ("", None),
    (" \t\r\n", None),
    ("// nothing", None),
    ("/* nothing */ # at all", None),
    ("\ufeff", None),
    # keywords
    ("null", None),
    ("NULL", None),
    ("nUlL", None),
    ("true", True),
    ("TRUE", True),
    ("false", False),
    ("False", False),
    ("nulls", "nulls"),
    # strings
    ('"a"', "a"),
    ("'a'", "a"),
    ("a", "a"),
    ('""', ""),
    ("''", ""),
    ('"it\'s"', "it's"),
    ("'say \"x\"'", 'say "x"'),
    ("a'b\"c", "a'b\"c"),
    ("a-b.c_d+e<f>g(h)i!@$%^&*?|~`", "a-b.c_d+e<f>g(h)i!@$%^&*?|~`"),
    ("é\U0001f600\0\x7f\u2028", "é\U0001f600\0\x7f\u2028"),
    ('"null"', "null"),
    ('"1"', "1"),
    ('"a\nb\tc\0d\x1fe"', "a\nb\tc\0d\x1fe"),
    ('"// # /* */"', "// # /* */"),
    # escapes
    (r'"\b\f\n\r\t\"\'\\\/"', "\b\f\n\r\t\"'\\/"),
    (r"'\b\f\n\r\t\"\'\\\/'", "\b\f\n\r\t\"'\\/"),
    ('"a\\\nb"', "a\nb"),
    (r'"\u0041\u00e9\u00E9\u0000\uffff"', "Aéé\0\uffff"),
    (r'"\ud83d\ude00"', "\U0001f600"),
    (r"'x\uD83D\uDE00y\ud83d\ude01'", "x\U0001f600y\U0001f601"),
    (r'"\ud83d"', "\ud83d"),
    (r'"\ude00\ud83d"', "\ude00\ud83d"),
    (r'"\ud83d\ud83d\ude00"', "\ud83d\U0001f600"),
    (r'"\ud83d \ude00"', "\ud83d \ude00"),
    (r'"\\ud83d"', r"\ud83d"),
    (r'"é\u00e9"', "éé"),
    # numbers keep their text
    ("0", N("0")),
    ("-0", N("-0")),
    ("1.50", N("1.50")),
    ("1e5", N("1e5")),
    ("-12.50E+03", N("-12.50E+03")),
    ("1e-999999", N("1e-999999")),
    ("9" * 5000, N("9" * 5000)),
    # what only looks like one
    ("01", "01"),
    ("+1", "+1"),
    (".5", ".5"),
    ("1.", "1."),
    ("-", "-"),
    ("1e", "1e"),
    ("0x10", "0x10"),
    ("NaN", "NaN"),
    ("-Infinity", "-Infinity"),
    ("\u0661", "\u0661"),
    # arrays
    ("[]", []),
    ("[ ]", []),
    ("[1,'a';b]", [N("1"), "a", "b"]),
    ("[[],[[]]]", [[], [[]]]),
    ("[1,]", [N("1"), None]),
    ("[,]", [None, None]),
    ("[1,,2]", [N("1"), None, N("2")]),
    # objects
    ("{}", {}),
    ("{ }", {}),
    ('{"a":1}', {"a": N("1")}),
    ("{a:b}", {"a": "b"}),
    ("{'a'='b'}", {"a": "b"}),
    ("{a=>b}", {"a": "b"}),
    ("{a= >b}", {"a": ">b"}),
    ("{a=1;b:2,c=>3}", {"a": N("1"), "b": N("2"), "c": N("3")}),
    ("{null:null}", {"null": None}),
    ("{1:2}", {"1": N("2")}),
    ("{a:1,a:2}", {"a": N("2")}),
    ('{"":""}', {"": ""}),
    (r'{"\u0061":{"\n":[{}]}}', {"a": {"\n": [{}]}}),
    # blanks and comments go anywhere
    ("\ufeff {}", {}),
    ("/*a*/{/*b*/a/*c*/:/*d*/1/*e*/,//f\n#g\rb\t=\n[/*h*/]}#i", {"a": N("1"), "b": []}),
    ("/***/1", N("1")),
    ("/* ** / * */1", N("1")),
    ("/*/*/1", N("1")),
    ("//*/\n1", N("1")),
    ("# // /*\n1//", N("1")),
]


@pytest.mark.parametrize(("text", "value"), ACCEPTED, ids=lambda v: ascii(v)[:40])
def test_accepted(text: str, value: Value) -> None:
    assert exact(lenientjson.parse(text)) == exact(value)


@pytest.mark.parametrize(
    "text",
    [
        *("{", "[", "}", "]", ":", ",", ";", "=", "/", "\\", "\f1"),
        *("{a", "{a:", "{a:1", "{a:1,", "{a:1,}", "{a:1;}", "{,}", "{:1}", "{a:}", "{a 1}", "{a:1 b:2}", "{a,b}"),
        *("{a:1]", "{[]:1}", "{{}:1}", "{a->1}", "{a::1}"),
        *("[1", "[1,", "[1 2]", "[1}", "[:]"),
        *("1 2", "{}{}", "{} x", "[],", "'a'b", '"a" \ufeff', "null null"),
        *('"', "'", '"a', "'a", "\"a'", '"a\\"', '"\\"', '"a\\'),
        *(r'"\x41"', r'"\u12"', r'"\u12g4"', r'"\uu0041"', r'"\U0041"', r'"\0"', r'"\v"', r'"\u 041"', r'"\u+041"'),
        *("/*", "/* *", "/*/", "1 /*", "{/*}", "{a:1/*}", "/ /", "{a:/}"),
    ],
    ids=ascii,
)
def test_refused(text: str) -> None:
    with pytest.raises(SyntaxFault):
        lenientjson.parse(text)


@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ("{a:", "}"), ('{"a":[', "]}")])
def test_nesting_has_a_limit(opening: str, closing: str) -> None:
    levels = MAX_DEPTH // (len(closing))
    lenientjson.parse(opening * levels + "1" + closing * levels)
    for many in (levels + 1, 1000, 100_000):
        with pytest.raises(SyntaxFault, match="deep"):
            lenientjson.parse(opening * many + "1" + closing * many)
        with pytest.raises(SyntaxFault, match="deep"):
            lenientjson.parse(opening * many)


scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
values = st.recursive(scalars, lambda v: st.lists(v, max_size=4) | st.dictionaries(st.text(), v, max_size=4))


@settings(deadline=None)
@given(values, st.booleans(), st.sampled_from([None, 0, 1, "\t"]), st.sampled_from(["", " ", "\r\n"]))
def test_strict_json_reads_as_the_standard_library_reads_it(
    value: object, ensure_ascii: bool, indent: int | str | None, around: str
) -> None:
    text = around + json.dumps(value, ensure_ascii=ensure_ascii, indent=indent) + around
    assert exact(lenientjson.parse(text)) == exact(json.loads(text, parse_int=Number, parse_float=Number))


pieces = st.sampled_from([*"{}[]:;,=>/\\*#'\" \n\r\tau01-+.eE\0\f\ufeff", "//", "/*", "*/", "\\u", "\\ud83d", "null"])


@settings(deadline=None, max_examples=200)
@given(st.lists(pieces | st.characters(exclude_categories=[]), max_size=40).map("".join))
def test_no_text_raises_anything_else(text: str) -> None:
    with contextlib.suppress(SyntaxFault):
        lenientjson.parse(text)


@settings(deadline=None)
@given(st.lists(pieces, max_size=12).map("".join))
def test_a_value_that_was_read_reads_again_as_itself(text: str) -> None:
    with contextlib.suppress(SyntaxFault):
        value = lenientjson.parse(text)
        again = lenientjson.parse(json.dumps(value, default=str))
        assert again == value


ADVERSARIAL: list[Callable[[int], str]] = [
    lambda n: "[" + "," * n,
    lambda n: "[" + "/**/," * (n // 5) + "]",
    lambda n: "{" + "a:1," * (n // 4) + "b:2}",
    lambda n: "{" + "a:1," * (n // 4),
    lambda n: "[" + '"\\\\",' * (n // 5),
    lambda n: "/**/" * (n // 4) + "x",
    lambda n: "/*" * (n // 2),
    lambda n: "/*/" * (n // 3),
    lambda n: "/*" + "*" * n,
    lambda n: "#" * n + "\n" + " " * n,
    lambda n: "#\n" * (n // 2) + "/",
    lambda n: " " * n + "/" + " " * n,
    lambda n: '"' + "a" * n,
    lambda n: '"' + '\\"' * (n // 2),
    lambda n: '"' + "\\" * n,
    lambda n: "'" + "\\u0041" * (n // 6) + "'",
    lambda n: "'" + "\\ud83d" * (n // 6) + "'",
    lambda n: "'" + "\\ud83d\\ude00" * (n // 12) + "'",
    lambda n: "{'" + "a" * n + "'" + " " * n,
    lambda n: "1" * n + "x",
    lambda n: "0." + "1" * n + "e" + "1" * n + "e",
    lambda n: "-" * n,
    lambda n: "n" * n,
    lambda n: "\ufeff" * n,
]


@pytest.mark.parametrize("make", ADVERSARIAL, ids=lambda make: ascii(make(16)))
def test_work_is_linear(make: Callable[[int], str]) -> None:
    def read(size: int) -> None:
        with contextlib.suppress(SyntaxFault):
            lenientjson.parse(make(size))

    read(LARGE)
    small, large = calls(lambda: read(1 << 10)), calls(lambda: read(1 << 13))
    assert large <= 8 * small + 100

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provserver.core import telemetry
from provserver.core.lenientjson import MAX_DEPTH
from provserver.core.telemetry import (
    MAX_AHEAD,
    MAX_KEY_LENGTH,
    MAX_SAMPLES,
    MAX_VALUE_SIZE,
    InvalidData,
    Sample,
    decode,
)

NOW = 1_800_000_000_000


def exact(samples: list[Sample]) -> list[tuple[str, str, object, int | None]]:
    """With types, since True equals 1 and 1.0."""
    return [(key, type(value).__name__, value, ts) for key, value, ts in samples]


@pytest.mark.parametrize(
    ("payload", "expected"),
    [
        (b"{}", []),
        (b"[]", []),
        (b'{"a":1}', [Sample("a", 1)]),
        (b'{"a":true,"b":-2,"c":1.5,"d":"x","e":{"f":[1,null]},"g":[]}',
         [Sample("a", True), Sample("b", -2), Sample("c", 1.5), Sample("d", "x"), Sample("e", {"f": [1, None]}),
          Sample("g", [])]),
        (b'{"a":null,"b":1}', [Sample("b", 1)]),
        (b'[{"a":1},{"a":2}]', [Sample("a", 1), Sample("a", 2)]),
        (b'{"ts":1700000000000,"values":{"a":1}}', [Sample("a", 1, 1_700_000_000_000)]),
        (b'{"ts":"1700000000000","values":{"a":1}}', [Sample("a", 1, 1_700_000_000_000)]),
        (b'{"ts":1.7e12,"values":{"a":1}}', [Sample("a", 1, 1_700_000_000_000)]),
        (b'{"ts":0,"values":{}}', []),
        (b'[{"ts":2,"values":{"a":1,"b":2}},{"c":3}]', [Sample("a", 1, 2), Sample("b", 2, 2), Sample("c", 3)]),
        (b'{"ts":1}', [Sample("ts", 1)]),  # without values it is a key like another
        (b'{"values":{"a":1}}', [Sample("values", {"a": 1})]),
        # leniently, as ThingsBoard's parser
        (b"{a:1}", [Sample("a", 1)]),
        (b"{a=>1.50;'b':x}", [Sample("a", 1.5), Sample("b", "x")]),
        (b"\xef\xbb\xbf{a:{b:[1,TRUE]}}", [Sample("a", {"b": [1, True]})]),
        (b"{ts:17,values:{a:'1'}}", [Sample("a", "1", 17)]),
        (b"{ts:1.7E12,values:{a:1}}", [Sample("a", 1, 1_700_000_000_000)]),
        # numbers
        (b'{"a":9223372036854775807}', [Sample("a", 2**63 - 1)]),
        (b'{"a":9223372036854775808}', [Sample("a", float(2**63))]),
        (b"{a:-9223372036854775809}", [Sample("a", -float(2**63))]),
        (b'{"a":-0}', [Sample("a", 0)]),
        (b'{"a":1.0}', [Sample("a", 1.0)]),
        (b'{"a":"1.50"}', [Sample("a", "1.50")]),
    ],
)  # fmt: skip
def test_samples_are_read(payload: bytes, expected: list[Sample]) -> None:
    assert exact(decode(payload, NOW)) == exact(expected)


def nested(levels: int) -> bytes:
    return b'{"a":' + b"[" * levels + b"]" * levels + b"}"


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b" ",
        b"null",
        b"1",
        b'"a"',
        b"{",
        b'{"a":1}x',
        b"\xff",
        b"[1]",
        b'[{"a":1},2]',
        b"[[{}]]",
        b'{"ts":"soon","values":{"a":1}}',
        b'{"ts":null,"values":{"a":1}}',
        b'{"ts":true,"values":{"a":1}}',
        b'{"ts":-1,"values":{"a":1}}',
        b'{"ts":1e400,"values":{"a":1}}',
        b'{"ts":%d,"values":{"a":1}}' % (NOW + MAX_AHEAD + 1),
        b'{"ts":' + b"9" * 400 + b',"values":{"a":1}}',
        b'{"ts":' + b"9" * 5000 + b',"values":{"a":1}}',
        b'{"ts":1,"values":[1]}',
        b'{"ts":1,"values":null}',
        b'{"":1}',
        b'{" ":1}',
        b'{"a\\u0000":1}',
        b'{"a\\n":1}',
        b'{"\\ud800":1}',
        b'{"' + b"k" * (MAX_KEY_LENGTH + 1) + b'":1}',
        b'{"a":"\\u0000"}',
        b'{"a":"\\ud800"}',
        b'{"a":["\\u0000"]}',
        b'{"a":{"\\u0000":1}}',
        b'{"a":1e400}',
        b"{a:1e400}",
        b'{"a":' + b"9" * 400 + b"}",
        b'{"a":' + b"9" * 5000 + b"}",
        b'{"a":"' + b"x" * MAX_VALUE_SIZE + b'"}',
        b'{"a":[' + b"1," * MAX_VALUE_SIZE + b"1]}",
        nested(MAX_DEPTH + 2),
        nested(5_000),
        b"[" + b'{"a":1},' * MAX_SAMPLES + b'{"a":1}]',
    ],
    ids=lambda payload: f"{payload[:24]!r}-{len(payload)}",
)
def test_what_cannot_be_kept_is_refused(payload: bytes) -> None:
    with pytest.raises(InvalidData) as refusal:
        decode(payload, NOW)
    assert str(refusal.value).endswith("!")


@pytest.mark.parametrize(
    "payload",
    [
        b'{"' + b"k" * MAX_KEY_LENGTH + b'":1}',
        b'{"a":"' + b"x" * (MAX_VALUE_SIZE - 2) + b'"}',
        nested(MAX_DEPTH),
        b'{"ts":%d,"values":{"a":1}}' % (NOW + MAX_AHEAD),
    ],
    ids=lambda payload: f"{payload[:12]!r}-{len(payload)}",
)
def test_what_is_just_within_the_bounds_is_taken(payload: bytes) -> None:
    assert len(decode(payload, NOW)) == 1


def test_a_refusal_quotes_nothing() -> None:
    for payload in (b'{"pl4nted\\u0000":1}', b'{"a":"pl4nted\\u0000"}', b'{"ts":"pl4nted","values":{}}', b"pl4nted"):
        with pytest.raises(InvalidData) as refusal:
            decode(payload, NOW)
        assert "pl4nted" not in str(refusal.value)


texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
keys = st.text(st.characters(exclude_categories=["Cc", "Cs", "Z"]), min_size=1, max_size=20)
scalars = st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False) | texts
values = st.recursive(scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3))


@given(st.dictionaries(keys, values, max_size=5), st.integers(0, NOW + MAX_AHEAD), st.booleans())
def test_what_is_sent_is_what_is_read(members: dict[str, telemetry.Value], ts: int, ascii_only: bool) -> None:
    message = json.dumps({"ts": ts, "values": members}, ensure_ascii=ascii_only).encode()

    assert exact(decode(message, NOW)) == exact([Sample(key, value, ts) for key, value in members.items()])


@given(st.binary(max_size=60) | st.text(alphabet='{}[]:,"\\ats1u0d8.e- =', max_size=40).map(str.encode))
def test_any_bytes_are_read_or_refused(payload: bytes) -> None:
    try:
        samples = decode(payload, NOW)
    except InvalidData:
        return
    for sample in samples:
        json.dumps(sample.value, ensure_ascii=False, allow_nan=False).encode()
        assert not isinstance(sample.value, float) or math.isfinite(sample.value)


@pytest.mark.parametrize(
    ("value", "number"),
    [(1, 1), (1.9, 1), ("1", 1), ("-1", -1), ("1.9", 1), ("", None), ("x", None), (True, None), (None, None),
     ([1], None), (math.inf, None), (math.nan, None), ("1e3", None)],
)  # fmt: skip
def test_whole_numbers(value: object, number: int | None) -> None:
    assert telemetry.whole_number(value) == number

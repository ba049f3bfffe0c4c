import pytest

from provserver.core import attributes
from provserver.core.telemetry import MAX_KEYS, InvalidData


def test_client_attributes_are_an_object() -> None:
    assert attributes.decode(b'{"a":1,"b":null,"c":{"d":[true]}}') == {"a": 1, "c": {"d": [True]}}
    assert attributes.decode(b"{a:x}") == {"a": "x"}
    many = b"{" + b",".join(b'"%d":1' % n for n in range(MAX_KEYS)) + b"}"
    assert len(attributes.decode(many)) == MAX_KEYS


@pytest.mark.parametrize(
    "payload",
    [b"", b"[]", b'[{"a":1}]', b"1", b"{", b'{"":1}', b"{" + b",".join(b'"%d":1' % n for n in range(1001)) + b"}"],
    ids=lambda payload: f"{payload[:12]!r}",
)
def test_what_is_none_is_refused(payload: bytes) -> None:
    with pytest.raises(InvalidData):
        attributes.decode(payload)


@pytest.mark.parametrize(
    ("payload", "client", "shared"),
    [
        (b"", None, None),
        (b"{}", None, None),
        (b'{"clientKeys":"a,b"}', ["a", "b"], None),
        (b'{"sharedKeys":" a , b,,a"}', None, ["a", "b"]),
        (b'{"clientKeys":"a","sharedKeys":""}', ["a"], None),
        (b'{"clientKeys":null,"sharedKeys":" "}', None, None),
        (b"{clientKeys:a}", ["a"], None),
    ],
)
def test_a_request_names_keys(payload: bytes, client: list[str] | None, shared: list[str] | None) -> None:
    assert attributes.decode_request(payload) == (client, shared)


@pytest.mark.parametrize("payload", [b"[]", b"1", b"{", b'{"clientKeys":["a"]}', b'{"sharedKeys":true}'])
def test_a_request_that_names_none_is_refused(payload: bytes) -> None:
    with pytest.raises(InvalidData):
        attributes.decode_request(payload)


def test_a_reply_has_what_there_is() -> None:
    whole = {"client": {"a": 1}, "shared": {"b": False}, "deleted": ["c"]}
    assert attributes.reply({"a": 1}, {"b": False}, ["c"]) == whole
    assert attributes.reply({}, None) == {}


@pytest.mark.parametrize(
    ("text", "value"),
    [("1", 1), ("1.5", 1.5), ("true", True), ('{"a":[1]}', {"a": [1]}), ("on", "on"), ("", ""), ("1e999", "1e999"),
     ("NaN", "NaN"), ('"x"', "x"), ('"\\ud800"', '"\\ud800"'), ("[" * 5000, "[" * 5000), ("9" * 5000, "9" * 5000)],
    ids=lambda value: repr(value)[:12],
)  # fmt: skip
def test_what_a_person_writes_is_json_or_else_text(text: str, value: object) -> None:
    assert attributes.from_text(text) == value


@pytest.mark.parametrize(
    ("text", "keys"),
    [(None, None), ("", None), (" ", None), (",,", None), ("a", ["a"]), ("a,b,,a", ["a", "b"]), (" a , b", ["a", "b"])],
)
def test_keys_between_commas(text: str | None, keys: list[str] | None) -> None:
    assert attributes.split_keys(text) == keys

import contextlib
import json
from collections.abc import Callable
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from provserver.core import wire
from provserver.core.credentials import access_token, certificate, mqtt_basic
from provserver.core.lenientjson import MAX_DEPTH
from provserver.core.model import Credentials
from provserver.core.wire import Granted, InvalidRequest, ProvisionRequest, Undecodable, decode
from provserver.errors import RENDERINGS, Outcome
from tests.core.wireformat import FIXED32, FIXED64, field, group, tag
from tests.core.work import calls

KEY, SECRET = "key", "Tr0ub4dor"
BOTH = '"provisionDeviceKey":"key","provisionDeviceSecret":"Tr0ub4dor"'
PLAIN = ProvisionRequest(KEY, SECRET)
NONCE = "0123456789abcdef0123456789ABCDEF"
DEVICE_ID = UUID("01890a5d-ac96-774b-bcce-b302099a8057")


def read(text: str | bytes, *, accept_protobuf: bool = True) -> ProvisionRequest:
    return decode(text.encode() if isinstance(text, str) else text, accept_protobuf=accept_protobuf)


def with_(members: str) -> str:
    return f"{{{BOTH},{members}}}"


# JSON


@pytest.mark.parametrize(
    ("text", "request_"),
    [
        (f"{{{BOTH}}}", PLAIN),
        (f" \r\n\t{{ {BOTH} }}\n", PLAIN),
        (f"\ufeff{{{BOTH}}}", PLAIN),
        ("{provisionDeviceKey:key,provisionDeviceSecret:Tr0ub4dor}", PLAIN),
        ("{'provisionDeviceKey'=>'key';'provisionDeviceSecret'='Tr0ub4dor'} // done", PLAIN),
        ('{"provisionDeviceKey":"","provisionDeviceSecret":""}', ProvisionRequest("", "")),
        (with_('"deviceName":"d"'), PLAIN._replace(device_name="d")),
        (with_('"deviceName":" d\\n"'), PLAIN._replace(device_name=" d\n")),
        (with_('"deviceName":" "'), PLAIN._replace(device_name=" ")),
        (with_('"deviceName":""'), PLAIN),
        (with_('"credentialsType":"ACCESS_TOKEN"'), PLAIN._replace(credentials_type="ACCESS_TOKEN")),
        (with_('"credentialsType":"X509_CERTIFICATE"'), PLAIN._replace(credentials_type="X509_CERTIFICATE")),
        (with_('"credentialsType":"MQTT_BASIC"'), PLAIN._replace(credentials_type="MQTT_BASIC")),
        (with_('"credentialsType":"LWM2M_CREDENTIALS"'), PLAIN._replace(credentials_type="LWM2M_CREDENTIALS")),
        (
            with_('"token":"t","username":"u","password":"p","clientId":"c","hash":"h"'),
            PLAIN._replace(token="t", username="u", password="p", client_id="c", hash="h"),
        ),
        (with_('"token":"","username":"","password":"","clientId":"","hash":""'), PLAIN),
        (with_('"gateway":true'), PLAIN._replace(gateway=True)),
        (with_('"gateway":false'), PLAIN),
        (with_('"gateway":"true"'), PLAIN._replace(gateway=True)),
        (with_('"gateway":"TrUe"'), PLAIN._replace(gateway=True)),
        (with_('"gateway":TRUE'), PLAIN._replace(gateway=True)),
        (with_('"gateway":[true]'), PLAIN._replace(gateway=True)),
        (with_('"gateway":"yes"'), PLAIN),
        (with_('"gateway":" true"'), PLAIN),
        (with_('"gateway":1'), PLAIN),
        (with_('"gateway":{}'), PLAIN),
        (with_(f'"requestNonce":"{NONCE}"'), PLAIN._replace(request_nonce=NONCE)),
        (with_('"requestNonce":""'), PLAIN._replace(request_nonce="")),  # decided, not refused
        # null is absent
        (
            with_('"deviceName":null,"credentialsType":null,"token":null,"username":null,"password":null')[:-1]
            + ',"clientId":null,"hash":null,"gateway":null,"requestNonce":null}',
            PLAIN,
        ),
        (with_("token:NULL"), PLAIN),
        # scalars are text
        (with_('"deviceName":1.50'), PLAIN._replace(device_name="1.50")),
        (with_('"deviceName":1E400'), PLAIN._replace(device_name="1E400")),
        (with_('"deviceName":-0'), PLAIN._replace(device_name="-0")),
        (with_('"deviceName":007'), PLAIN._replace(device_name="007")),
        (with_('"deviceName":true,"token":FALSE'), PLAIN._replace(device_name="true", token="false")),
        (with_(f'"token":{"9" * 400}'), PLAIN._replace(token="9" * 400)),
        ('{"provisionDeviceKey":1,"provisionDeviceSecret":false}', ProvisionRequest("1", "false")),
        (with_('"deviceName":["d"]'), PLAIN._replace(device_name="d")),
        (with_('"deviceName":[null]'), PLAIN),
        # of members that come twice the last counts, whatever the others were
        (with_('"deviceName":"a","deviceName":"b"'), PLAIN._replace(device_name="b")),
        (with_('"deviceName":{},"deviceName":"b"'), PLAIN._replace(device_name="b")),
        (with_('"deviceName":"a","deviceName":null'), PLAIN),
        # names are exact
        (with_('"devicename":"a","DeviceName":"b","deviceName ":"c","device_name":"d"'), PLAIN),
        (with_('"device\\u004eame":"d"'), PLAIN._replace(device_name="d")),
        (with_("'device\\u004eame':'d'"), PLAIN._replace(device_name="d")),
        # others are passed over
        (with_('"deviceType":"x","label":null,"a":{"b":[1,{"c":1e999}]},"":[[]]'), PLAIN),
        (with_('"x":"\\ud800"'), PLAIN),
        (with_(f'"x":{"9" * 5000}'), PLAIN),
        # Unicode
        (with_('"deviceName":"\\ud83d\\ude00 é\\u00e9"'), PLAIN._replace(device_name="\U0001f600 éé")),
        (with_("'deviceName':'\\ud83d\\ude00 é\\u00e9'"), PLAIN._replace(device_name="\U0001f600 éé")),
        (with_('"token":"a\\u0000b"'), PLAIN._replace(token="a\0b")),
        (with_('"token":"a\0b\n"'), PLAIN._replace(token="a\0b\n")),
        (with_('"hash":"-----BEGIN\\nMI\\/=\\n"'), PLAIN._replace(hash="-----BEGIN\nMI/=\n")),
    ],
    ids=lambda v: ascii(v)[-50:] if isinstance(v, str) else "",
)
def test_json(text: str, request_: ProvisionRequest) -> None:
    for accept_protobuf in (True, False):
        assert read(text, accept_protobuf=accept_protobuf) == request_


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{}", "Failed to find the field provisionDeviceKey!"),
        ('{"a":1}', "Failed to find the field provisionDeviceKey!"),
        ('{"provisionDeviceSecret":"s"}', "Failed to find the field provisionDeviceKey!"),
        ('{"provisionDeviceKey":null,"provisionDeviceSecret":"s"}', "Failed to find the field provisionDeviceKey!"),
        ('{"provisionDeviceKey":"k"}', "Failed to find the field provisionDeviceSecret!"),
        ("{provisionDeviceKey:k,provisionDeviceSecret:null}", "Failed to find the field provisionDeviceSecret!"),
        ('{"provisionDeviceKey":{},"provisionDeviceSecret":"s"}', "provisionDeviceKey must be a string!"),
        ('{"provisionDeviceKey":[],"provisionDeviceSecret":"s"}', "provisionDeviceKey must be a string!"),
        *(
            (with_(f'"{name}":{value}'), f"{name} must be a string!")
            for name in ("deviceName", "token", "username", "password", "clientId", "hash", "requestNonce")
            for value in ("{}", "[]", '["Tr0ub4dor","b"]', '[["Tr0ub4dor"]]', '{"Tr0ub4dor":1}')
        ),
        *(
            (with_(f'"credentialsType":{value}'), "credentialsType must be one of")
            for value in ('""', '"access_token"', '"ACCESS_TOKEN "', '"Tr0ub4dor"', "0", "true")
        ),
        (with_('"credentialsType":{}'), "credentialsType must be a string!"),
        (with_('"token":"\\ud800"'), "token is not valid Unicode!"),
        (with_('"token":"Tr0ub4dor\\ude00\\ud83d"'), "token is not valid Unicode!"),
        (with_("deviceName:'\\udfff'"), "deviceName is not valid Unicode!"),
    ],
    ids=lambda v: ascii(v)[-50:],
)
def test_a_wrong_member_is_named_and_not_quoted(text: str, message: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        read(text)
    assert message in str(caught.value)
    assert SECRET not in str(caught.value)
    assert not caught.value.protobuf


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b" ",
        b"// nothing",
        b"null",
        b"true",
        b"1",
        b'"text"',
        b"[]",
        b'[{"provisionDeviceKey":"k","provisionDeviceSecret":"s"}]',
        b"{",
        b"{} {}",
        b"{}\0",
        b"key=k&secret=s",
        b"<xml/>",
        b'{"provisionDeviceKey":"k","provisionDeviceSecret":"s",}',
        b'{"provisionDeviceKey":"k","provisionDeviceSecret":"\xff"}',
        b'{"provisionDeviceKey":"k","provisionDeviceSecret":"\xed\xa0\x80"}',  # a surrogate, encoded
        b'{"provisionDeviceKey":"k","provisionDeviceSecret":"\xc0\xaf"}',  # an overlong /
        '{"provisionDeviceKey":"k","provisionDeviceSecret":"s"}'.encode("utf-16"),
        b"\x12",
        b"\x00",
        b"\x0a\x03",
    ],
    ids=ascii,
)
def test_undecodable(payload: bytes) -> None:
    with pytest.raises(Undecodable):
        read(payload, accept_protobuf=False)
    if payload.strip():
        with pytest.raises(Undecodable):
            read(payload)


@pytest.mark.parametrize("opening", ["[", '{"a":', "[{a:", '{"a":[{"b":'])
@pytest.mark.parametrize("levels", [1000, 20_000])
def test_no_depth_exhausts_the_stack(opening: str, levels: int) -> None:
    for members in (f'"x":{opening * levels}', f"x:{opening * levels}", f'"token":{opening * levels}1'):
        with pytest.raises(Undecodable):
            read(with_(members))


names = st.sampled_from([member for member in wire._Members.__struct_fields__ if not member.startswith("provision")])
texts = st.text(max_size=8)
scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts
values = st.recursive(scalars, lambda v: st.lists(v, max_size=3) | st.dictionaries(texts, v, max_size=3), max_leaves=8)
types = st.sampled_from(["ACCESS_TOKEN", "X509_CERTIFICATE", "MQTT_BASIC", "LWM2M_CREDENTIALS", "?"])
well_typed = st.fixed_dictionaries(
    {},
    optional={
        "provisionDeviceKey": st.none() | texts,
        "provisionDeviceSecret": st.none() | texts,
        "credentialsType": st.none() | types,
        "gateway": st.none() | st.booleans(),
        **{name: st.none() | texts for name in ("deviceName", "token", "username", "password", "clientId", "hash")},
        "requestNonce": st.none() | texts,
        "another": values,
    },
)
of_any_type = st.fixed_dictionaries(
    {"provisionDeviceKey": texts, "provisionDeviceSecret": texts},
    optional={"deviceName": values, "token": values, "gateway": values, "credentialsType": values | types},
)


def escaped(text: str, every: int) -> str:
    """A JSON string with every n-th character as an escape."""
    shown = [json.dumps(c, ensure_ascii=bool(every) and n % every == 0)[1:-1] for n, c in enumerate(text)]
    return '"' + "".join(shown) + '"'


def written(value: object, blank: str, every: int) -> str:
    """Strict JSON, in many spellings."""
    if isinstance(value, str):
        return escaped(value, every)
    if isinstance(value, dict):
        pairs = (f"{escaped(n, every)}{blank}:{blank}{written(v, blank, every)}" for n, v in value.items())
        return f"{{{blank}" + f"{blank},{blank}".join(pairs) + f"{blank}}}"
    if isinstance(value, list):
        return f"[{blank}" + f"{blank},{blank}".join(written(v, blank, every) for v in value) + f"{blank}]"
    return json.dumps(value)


def verdict(payload: bytes) -> object:
    try:
        return decode(payload, accept_protobuf=False)
    except InvalidRequest as fault:
        return str(fault)


@settings(deadline=None, max_examples=200)
@given(well_typed | of_any_type, st.sampled_from(["", " ", "\r\n", "\t"]), st.integers(0, 3))
def test_both_ways_of_reading_json_agree(members: dict[str, object], blank: str, every: int) -> None:
    payload = written(members, blank, every).encode()
    leniently = verdict(b"/**/" + payload)  # a comment is not strict
    assert verdict(payload) == leniently
    assert isinstance(leniently, ProvisionRequest | str)


@pytest.mark.parametrize(
    "members",
    ['"token":"\\ud83d\\ude00"', '"token":"\\u0000"', '"token":"a","token":"b"', '"\\u0074oken":"a"', '"x":1e999'],
)
def test_both_ways_agree_on_corners(members: str) -> None:
    assert read("/**/" + with_(members)) == read(with_(members))


def test_the_fast_way_is_taken() -> None:
    payload = with_('"deviceName":"d","token":"t","gateway":true,"x":{}').encode()
    assert calls(lambda: read(payload)) < calls(lambda: read(b"#\n" + payload)) / 4


pieces = st.sampled_from([*(b"%c" % c for c in b"{}[]:,\"'\\\0\xff"), b"\\ud800", b"\\ude00", b"null", b"1e9"])
member_names = names.map(lambda name: f'"{name}"'.encode())


@settings(deadline=None, max_examples=200)
@given(
    st.binary(max_size=64)
    | st.lists(pieces | member_names | st.binary(max_size=2), max_size=30).map(b"".join)
    | st.lists(pieces | member_names).map(lambda some: f"{{{BOTH},".encode() + b"".join(some) + b"}"),
    st.booleans(),
)
def test_no_bytes_raise_anything_else(payload: bytes, accept_protobuf: bool) -> None:
    with contextlib.suppress(Undecodable, InvalidRequest):
        decode(payload, accept_protobuf=accept_protobuf).canonical()


@pytest.mark.parametrize(
    "make",
    [
        lambda n: with_('"x":[' + "1," * (n // 2) + "1]"),
        lambda n: with_("x:[" + "1," * (n // 2) + "1]"),
        lambda n: with_("token:'" + "\\ud83d\\ude00" * (n // 12) + "'"),
        lambda n: with_("token:'" + "\\ud83d" * (n // 6) + "'"),
        lambda n: "{" + '"token":"a",' * (n // 12) + BOTH + "}",
        lambda n: "/*" * (n // 2),
        lambda n: field(3, "") * (n // 2),
        lambda n: field(3, b"\x0a\x00") * (n // 4),
        lambda n: b"\xff" * n,
        lambda n: "\x0b" * n,
    ],
    ids=lambda make: ascii(make(24))[-24:],
)
def test_work_is_linear(make: Callable[[int], str | bytes]) -> None:
    def attempt(size: int) -> None:
        with contextlib.suppress(Undecodable, InvalidRequest):
            read(make(size))

    attempt(1 << 16)
    small, large = calls(lambda: attempt(1 << 10)), calls(lambda: attempt(1 << 13))
    assert large <= 8 * small + 100


# Protobuf


def message(*, key: str = KEY, secret: str = SECRET, more: bytes = b"") -> bytes:
    return field(3, field(1, key) + field(2, secret)) + more


def basic(*parts: bytes) -> bytes:
    return field(4, field(3, b"".join(parts)))


IN_PROTOBUF = PLAIN._replace(credentials_type="ACCESS_TOKEN", protobuf=True)


@pytest.mark.parametrize(
    ("payload", "request_"),
    [
        (message(), IN_PROTOBUF),
        (message(more=field(1, "d")), IN_PROTOBUF._replace(device_name="d")),
        (field(1, "d") + message(), IN_PROTOBUF._replace(device_name="d")),
        (message(more=field(1, "")), IN_PROTOBUF),
        (message(more=field(1, " é")), IN_PROTOBUF._replace(device_name=" é")),
        (message(more=field(2, 0)), IN_PROTOBUF),
        (message(more=field(2, 1)), IN_PROTOBUF._replace(credentials_type="X509_CERTIFICATE")),
        (message(more=field(2, 2)), IN_PROTOBUF._replace(credentials_type="MQTT_BASIC")),
        (message(more=field(2, 3)), IN_PROTOBUF._replace(credentials_type="LWM2M_CREDENTIALS")),
        (message(more=field(4, field(1, field(1, "t")))), IN_PROTOBUF._replace(token="t")),
        (message(more=field(4, field(2, field(1, "h")))), IN_PROTOBUF._replace(hash="h")),
        (
            message(more=basic(field(1, "c"), field(2, "u"), field(3, "p"))),
            IN_PROTOBUF._replace(client_id="c", username="u", password="p"),
        ),
        (message(more=field(4, b"")), IN_PROTOBUF),
        (message(more=field(5, 1)), IN_PROTOBUF._replace(gateway=True)),
        (message(more=field(5, 0)), IN_PROTOBUF),
        (message(more=field(100, NONCE)), IN_PROTOBUF._replace(request_nonce=NONCE)),
        # absent is empty in proto3: decided, not refused
        (field(1, "d"), IN_PROTOBUF._replace(key="", secret="", device_name="d")),
        (field(3, field(1, "key")), IN_PROTOBUF._replace(secret="")),
        (field(3, field(2, "s")), IN_PROTOBUF._replace(key="", secret="s")),
        (field(3, b""), IN_PROTOBUF._replace(key="", secret="")),
        (b"", IN_PROTOBUF._replace(key="", secret="")),
        # the last of a scalar counts; messages merge
        (message(more=field(1, "a") + field(1, "b")), IN_PROTOBUF._replace(device_name="b")),
        (message(more=field(2, 1) + field(2, 2)), IN_PROTOBUF._replace(credentials_type="MQTT_BASIC")),
        (field(3, field(1, "x") + field(1, "key")) + field(3, field(2, SECRET)), IN_PROTOBUF),
        (message(key="x", secret="y") + message(), IN_PROTOBUF),
        (
            message(more=basic(field(3, "wrong"), field(1, "c"), field(3, "p"))),
            IN_PROTOBUF._replace(client_id="c", password="p"),
        ),
        (
            message(
                more=basic(field(1, "a"), field(2, "u")) + basic(field(3, "x")) + basic(field(1, "c"), field(3, "p"))
            ),
            IN_PROTOBUF._replace(client_id="c", username="u", password="p"),
        ),
        (
            message(more=field(4, field(1, field(1, "t")) + field(1, b"") + field(2, b"")) + field(4, field(1, b""))),
            IN_PROTOBUF._replace(token="t"),
        ),
        (
            message(more=field(4, field(2, field(1, "a")) + field(2, field(1, "h")))),
            IN_PROTOBUF._replace(hash="h"),
        ),
        # unknown fields are passed over, at every level
        (field(99, "x") + tag(50, FIXED64) + bytes(8) + tag(6, FIXED32) + bytes(4) + message(), IN_PROTOBUF),
        (group(7, field(1, "x") + group(3)) + message() + group(3, field(1, "x")), IN_PROTOBUF),
        (field(3, field(1, KEY) + field(9, "x") + group(1) + field(2, SECRET)), IN_PROTOBUF),
        (
            message(more=field(4, field(4, "x") + field(1, field(1, "t") + field(2, "x")))),
            IN_PROTOBUF._replace(token="t"),
        ),
        # text is UTF-8, NUL and all
        (message(more=field(4, field(1, field(1, "a\0é\U0001f600")))), IN_PROTOBUF._replace(token="a\0é\U0001f600")),
    ],
    ids=lambda v: v.hex()[:60] if isinstance(v, bytes) else "",
)
def test_protobuf(payload: bytes, request_: ProvisionRequest) -> None:
    assert read(payload) == request_
    with pytest.raises(Undecodable):
        read(payload, accept_protobuf=False)


@pytest.mark.parametrize("number", [4, 5, 100, -1, 2**63])
def test_an_unknown_type_number_is_invalid_and_answered_in_protobuf(number: int) -> None:
    with pytest.raises(InvalidRequest, match="credentialsType must be one of") as caught:
        read(message(more=field(2, number)))
    assert caught.value.protobuf


@pytest.mark.parametrize(
    "payload",
    [
        message(more=field(1, b"\xff")),
        message(more=field(1, b"\xed\xa0\x80")),
        message(more=field(4, field(1, field(1, b"\xc0\xaf")))),
        message(more=field(100, b"\xff")),
        message(more=field(1, 1)),
        message(more=field(4, 1)),
        message(more=field(4, field(1, 1))),
        message(more=field(4, field(1, field(1, 1)))),
        field(3, 1),
        field(3, field(1, 1)),
        field(3, b"\x0a"),
        message(more=field(4, b"\xff")),
        message(more=field(4, field(3, b"\x0f"))),
        message()[:-1],
        message() + b"\x0f",
    ],
    ids=bytes.hex,
)
def test_a_message_of_other_types_is_undecodable(payload: bytes) -> None:
    with pytest.raises(Undecodable):
        read(payload)


def test_no_protobuf_depth_exhausts_the_stack() -> None:
    with pytest.raises(Undecodable):
        read(b"\x3b" * 60_000)


# One request, two formats

clean = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
requests = st.builds(
    ProvisionRequest,
    key=clean,
    secret=clean,
    device_name=st.none() | clean.filter(bool),
    credentials_type=types.filter("?".__ne__),
    token=st.none() | clean.filter(bool),
    username=st.none() | clean.filter(bool),
    password=st.none() | clean.filter(bool),
    client_id=st.none() | clean.filter(bool),
    hash=st.none() | clean.filter(bool),
    gateway=st.booleans(),
    request_nonce=st.none() | st.just(NONCE) | clean.filter(bool),
    protobuf=st.just(False),
    csr=st.none() | clean.filter(bool),
    answer_key=st.none(),
)
IN_BOTH = [name for name in ProvisionRequest._fields if name not in ("protobuf", "answer_key")]
JSON_NAMES = dict(zip(IN_BOTH, wire._Members.__struct_fields__, strict=False))


def as_json(request: ProvisionRequest) -> bytes:
    return json.dumps({name: getattr(request, f) for f, name in JSON_NAMES.items()}).encode()


def as_protobuf(request: ProvisionRequest) -> bytes:
    def some(number: int, value: str | bytes | int | None) -> bytes:
        return field(number, value) if value else b""

    data = some(1, some(1, request.token)) + some(2, some(1, request.hash))
    data += some(3, some(1, request.client_id) + some(2, request.username) + some(3, request.password))
    type_ = ("ACCESS_TOKEN", "X509_CERTIFICATE", "MQTT_BASIC", "LWM2M_CREDENTIALS").index(request.credentials_type)
    parts = some(1, request.device_name) + some(2, type_) + some(4, data) + some(5, request.gateway)
    return message(
        key=request.key, secret=request.secret, more=parts + some(100, request.request_nonce) + some(101, request.csr)
    )


@settings(deadline=None)
@given(requests)
def test_a_request_reads_the_same_in_both_formats(request_: ProvisionRequest) -> None:
    in_json, in_protobuf = read(as_json(request_)), read(as_protobuf(request_))
    assert in_json == request_
    assert in_protobuf == request_._replace(protobuf=True)
    assert in_json.canonical() == in_protobuf.canonical()


@settings(deadline=None, max_examples=200)
@given(st.sampled_from(list(JSON_NAMES)), requests, requests)
def test_canonical_differs_when_any_member_does(member: str, first: ProvisionRequest, second: ProvisionRequest) -> None:
    changed = first._replace(**{member: getattr(second, member)})
    assert (first.canonical() == changed.canonical()) is (first == changed)
    assert (first.canonical() == second.canonical()) is (first == second)


tricky = st.text(st.sampled_from('",[]\\null \0'), max_size=6)


@settings(deadline=None)
@given(*4 * [tricky])
def test_canonical_has_no_boundary_to_shift(a: str, b: str, c: str, d: str) -> None:
    one, other = ProvisionRequest(a, b), ProvisionRequest(c, d)
    assert (one.canonical() == other.canonical()) is ((a, b) == (c, d))


def test_absent_and_empty_and_null_are_told_apart_in_canonical() -> None:
    three = [PLAIN._replace(request_nonce=nonce) for nonce in (None, "", "null")]
    assert len({each.canonical() for each in three}) == 3


def test_the_default_type_is_the_same_request_as_the_named_one() -> None:
    absent, named = read(f"{{{BOTH}}}"), read(with_('"credentialsType":"ACCESS_TOKEN"'))
    assert absent.canonical() == named.canonical() == read(message()).canonical()


# Replies


def granted(credentials: Credentials) -> Granted:
    return Granted(DEVICE_ID, "d", credentials)


TAIL = (
    ',"status":"SUCCESS","provisionDeviceStatus":"SUCCESS"'
    ',"deviceId":"01890a5d-ac96-774b-bcce-b302099a8057","deviceName":"d"'
)


@pytest.mark.parametrize(
    ("credentials", "reply"),
    [
        (
            access_token("t"),
            '{"credentialsValue":"t","credentialsType":"ACCESS_TOKEN"' + TAIL + ',"accessToken":"t"}',
        ),
        (certificate("MI/B+=="), '{"credentialsValue":"MI/B+==","credentialsType":"X509_CERTIFICATE"' + TAIL + "}"),
        (
            mqtt_basic("c", "u", "p"),
            '{"credentialsValue":{"clientId":"c","userName":"u","password":"p"}'
            ',"credentialsType":"MQTT_BASIC"' + TAIL + "}",
        ),
        (
            mqtt_basic(user_name="u"),
            '{"credentialsValue":{"clientId":"","userName":"u","password":""}'
            ',"credentialsType":"MQTT_BASIC"' + TAIL + "}",
        ),
    ],
    ids=["token", "certificate", "basic", "user name"],
)
def test_granted_in_json(credentials: Credentials, reply: str) -> None:
    assert wire.encode_granted(granted(credentials), protobuf=False).decode() == reply


BASIC_TEXT = b'{"clientId":"c","userName":"u","password":"p"}'


@pytest.mark.parametrize(
    ("credentials", "reply"),
    [
        (access_token("t"), b"\x08\x01\x1a\x01t"),
        (certificate("MIIB"), b"\x08\x01\x10\x01\x1a\x04MIIB"),
        (mqtt_basic("c", "u", "p"), b"\x08\x01\x10\x02\x1a\x2e" + BASIC_TEXT),
    ],
    ids=["token", "certificate", "basic"],
)
def test_granted_in_protobuf(credentials: Credentials, reply: bytes) -> None:
    assert wire.encode_granted(granted(credentials), protobuf=True) == reply


def test_a_long_value_in_protobuf() -> None:
    reply = wire.encode_granted(granted(certificate("x" * 300)), protobuf=True)
    assert reply == b"\x08\x01\x10\x01\x1a\xac\x02" + b"x" * 300


@pytest.mark.parametrize(
    ("outcome", "reply", "in_protobuf"),
    [
        (
            Outcome.NOT_FOUND,
            '{"errorMsg":"Provision data was not found!","status":"NOT_FOUND","provisionDeviceStatus":"NOT_FOUND"}',
            "08 02",
        ),
        (
            Outcome.FAILURE,
            '{"errorMsg":"Failed to provision device!","status":"FAILURE","provisionDeviceStatus":"FAILURE"}',
            "08 03",
        ),
        (
            Outcome.INVALID,
            '{"errorMsg":"The request is not valid!","status":"FAILURE","provisionDeviceStatus":"FAILURE"}',
            "08 03",
        ),
        (
            Outcome.UNAVAILABLE,
            (
                '{"errorMsg":"Temporarily unavailable, try again later!"'
                ',"status":"FAILURE","provisionDeviceStatus":"FAILURE"}'
            ),
            "08 03",
        ),
        (
            Outcome.LIMITED,
            ('{"errorMsg":"Too many requests, try again later!","status":"FAILURE","provisionDeviceStatus":"FAILURE"}'),
            "08 03",
        ),
        (
            Outcome.PENDING,
            (
                '{"errorMsg":"Waiting for an operator\'s approval, try again later!"'
                ',"status":"FAILURE","provisionDeviceStatus":"PENDING"}'
            ),
            "08 03",
        ),
        (Outcome.UNDECODABLE, "", ""),
        (Outcome.TOO_LARGE, "", ""),
    ],
)
def test_refusals(outcome: Outcome, reply: str, in_protobuf: str) -> None:
    assert wire.encode_refusal(outcome, protobuf=False).decode() == reply
    assert wire.encode_refusal(outcome, protobuf=True) == bytes.fromhex(in_protobuf)


def test_a_refusal_may_say_when_to_ask_again() -> None:
    body = wire.encode_refusal(Outcome.UNAVAILABLE, protobuf=False, retry_after=7)

    assert json.loads(body)["retryAfter"] == 7
    assert wire.encode_refusal(Outcome.UNAVAILABLE, protobuf=True, retry_after=7) == bytes.fromhex("08 03")


def test_every_refusal_with_a_body_has_an_error_message() -> None:
    for outcome in set(Outcome) - {Outcome.SUCCESS}:
        body = wire.encode_refusal(outcome, protobuf=False)
        assert bool(body) is (RENDERINGS[outcome].status is not None)
        assert not body or json.loads(body)["errorMsg"]


def test_a_message_replaces_the_outcomes_own() -> None:
    reply = json.loads(wire.encode_refusal(Outcome.INVALID, protobuf=False, message='say "x"!'))
    assert reply == {"errorMsg": 'say "x"!', "status": "FAILURE", "provisionDeviceStatus": "FAILURE"}
    assert wire.encode_refusal(Outcome.INVALID, protobuf=True, message="x") == b"\x08\x03"


@settings(deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1))
def test_any_name_and_value_make_json(text: str) -> None:
    reply = json.loads(wire.encode_granted(Granted(DEVICE_ID, text, certificate(f"x{text}")), protobuf=False))
    assert reply["deviceName"] == text
    assert reply["credentialsType"] == granted(certificate("x")).type


@pytest.mark.parametrize(
    "thing",
    [
        ProvisionRequest(
            SECRET, SECRET, SECRET, "MQTT_BASIC", SECRET, SECRET, SECRET, SECRET, SECRET, request_nonce=SECRET
        ),
        granted(access_token(SECRET)),
        granted(mqtt_basic("c", "u", SECRET)),
        granted(certificate(SECRET)),
        wire._strict.decode(with_(f'"requestNonce":"{SECRET}"')),
    ],
    ids=lambda thing: type(thing).__name__,
)
def test_reprs_show_no_secret(thing: object) -> None:
    assert SECRET not in repr(thing)


def test_depth_within_the_limit_is_read_both_ways() -> None:
    nested = "[" * MAX_DEPTH + "]" * MAX_DEPTH
    assert read(with_(f'"x":{nested}')) == read(with_(f"x:{nested}")) == PLAIN


# What the channel has proved


@pytest.mark.parametrize(
    ("payload", "request_"),
    [
        (b"{}", PLAIN),
        (b'{"deviceName":"d"}', PLAIN._replace(device_name="d")),
        (b"{deviceName:d}", PLAIN._replace(device_name="d")),
        (b'{"provisionDeviceKey":"","provisionDeviceSecret":null}', PLAIN),
        (b'{"provisionDeviceKey":"other","provisionDeviceSecret":"word"}', ProvisionRequest("other", "word")),
        (b'{"provisionDeviceKey":"key","provisionDeviceSecret":""}', ProvisionRequest("key", "")),
        (b"", PLAIN._replace(protobuf=True)),
        (field(1, b"d"), PLAIN._replace(device_name="d", protobuf=True)),
    ],
)
def test_a_channel_speaks_for_a_request_that_names_neither_key_nor_secret(
    payload: bytes, request_: ProvisionRequest
) -> None:
    assert decode(payload, accept_protobuf=True, proved=(KEY, SECRET)) == request_


def test_a_channel_does_not_add_a_secret_to_another_key() -> None:
    with pytest.raises(InvalidRequest):
        decode(b'{"provisionDeviceKey":"other"}', accept_protobuf=True, proved=(KEY, SECRET))


def test_canonical_tells_a_key_for_the_answer_from_a_certificate_request() -> None:
    request = ProvisionRequest("k", "s", request_nonce=NONCE)
    forms = [
        request,
        request._replace(csr="a"),
        request._replace(answer_key=b"a"),
        request._replace(csr="a", answer_key=b"a"),
    ]
    assert len({form.canonical() for form in forms}) == 4

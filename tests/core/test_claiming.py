import pytest

from provserver.core import claiming
from provserver.core.claiming import DEFAULT_DURATION, MAX_DURATION, MAX_SECRET_LENGTH, ClaimingData, ClaimMessage
from provserver.core.telemetry import InvalidData


@pytest.mark.parametrize(
    ("payload", "secret", "duration"),
    [
        (b"", "", DEFAULT_DURATION),
        (b" ", "", DEFAULT_DURATION),
        (b"null", "", DEFAULT_DURATION),
        (b"{}", "", DEFAULT_DURATION),
        (b'{"secretKey":"s","durationMs":60000}', "s", 60_000),
        (b'{"secretKey":"s","durationMs":"60000"}', "s", 60_000),
        (b'{"secretKey":null,"durationMs":null}', "", DEFAULT_DURATION),
        (b'{"durationMs":0}', "", DEFAULT_DURATION),
        (b'{"durationMs":-5}', "", DEFAULT_DURATION),
        (b'{"durationMs":""}', "", DEFAULT_DURATION),
        (b'{"durationMs":1e18}', "", MAX_DURATION),
        (b"{secretKey:1234}", "1234", DEFAULT_DURATION),
        (b'{"secretKey":1234}', "1234", DEFAULT_DURATION),
        (b'{"secretKey":true}', "true", DEFAULT_DURATION),
        (b'{"other":[]}', "", DEFAULT_DURATION),
    ],
)
def test_a_claim_is_read(payload: bytes, secret: str, duration: int) -> None:
    assert claiming.decode(payload) == ClaimMessage(secret, duration)


@pytest.mark.parametrize(
    "payload",
    [
        b"[]",
        b"1",
        b"{",
        b'{"secretKey":[]}',
        b'{"secretKey":"\\ud800"}',
        b'{"secretKey":"' + b"x" * (MAX_SECRET_LENGTH + 1) + b'"}',
        b'{"durationMs":"soon"}',
        b'{"durationMs":true}',
    ],
    ids=lambda payload: f"{payload[:24]!r}",
)
def test_what_is_none_is_refused(payload: bytes) -> None:
    with pytest.raises(InvalidData):
        claiming.decode(payload)


def test_the_secret_is_not_shown() -> None:
    assert "pl4nted" not in repr(claiming.decode(b'{"secretKey":"pl4nted"}'))


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"secretKey": "s", "expirationTime": 7}, ClaimingData("s", 7)),
        ('{"secretKey": "s", "expirationTime": "7"}', ClaimingData("s", 7)),
        ({"secretKey": None, "expirationTime": 7.0}, ClaimingData("", 7)),
        ({"expirationTime": 7, "more": []}, ClaimingData("", 7)),
        ({"secretKey": 1234, "expirationTime": 7}, ClaimingData("1234", 7)),
        ({"secretKey": "s"}, None),
        ({"secretKey": "s", "expirationTime": "soon"}, None),
        ({"secretKey": "s", "expirationTime": True}, None),
        ({"secretKey": [], "expirationTime": 7}, None),
        ("nonsense", None),
        ("[" * 10_000, None),
        ([], None),
        (7, None),
        (None, None),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_what_an_operator_says_is_read(value: object, expected: ClaimingData | None) -> None:
    assert claiming.read_claiming_data(value) == expected
    assert "'s'" not in repr(expected)

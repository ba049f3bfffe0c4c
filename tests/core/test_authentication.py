import hypothesis.strategies as st
import pytest
from hypothesis import given

from provserver.core import authentication
from provserver.core.authentication import Denial, Held

texts = st.one_of(st.none(), st.text(max_size=20), st.sampled_from(["device", "provision", "mgmt_device", ""]))


def test_every_denial_has_codes_of_its_protocol() -> None:
    assert (Denial.LIMITED.return_code, Denial.LIMITED.reason_code) == (3, 0x9F)  # the one that says nothing of them
    for denial in set(Denial) - {Denial.LIMITED}:
        assert denial.return_code in (2, 4, 5)  # 3.1.1 §3.2.2.3, and never "unavailable": that is no denial
        assert denial.reason_code in (0x85, 0x86, 0x87)  # MQTT 5 §3.2.2.2
        assert denial.text


@given(client_id=st.text(max_size=20), username=texts, password=st.one_of(st.none(), st.binary(max_size=20)))
def test_who_is_not_found_is_not_let_in(client_id: str, username: str | None, password: bytes | None) -> None:
    claim = authentication.with_mqtt(client_id, username, password)

    assert isinstance(claim.judge({}), Denial)
    assert "" not in claim.ids
    assert len(claim.ids) <= 2


@given(client_id=st.text(max_size=20), username=texts, password=st.one_of(st.none(), st.binary(max_size=20)))
def test_a_token_in_its_usual_form_is_what_would_be_judged(
    client_id: str, username: str | None, password: bytes | None
) -> None:
    found = authentication.token_in(client_id, username, password)

    ids = authentication.with_mqtt(client_id, username, password).ids
    if found is not None:
        token, before = found
        assert list(ids) == ([token] if before is None else [before, token])
    else:
        assert password or not username or username == authentication.BLYNK_USER


@pytest.mark.parametrize(
    ("username", "password", "token"),
    [
        ("a-token", None, "a-token"),
        ("a-token", b"", "a-token"),
        ("device", b"a-token", "a-token"),
        ("device", b"\xff", None),
        ("device", None, None),
        ("device", b"device", None),
        ("user", b"password", None),
        (None, None, None),
        ("", b"", None),
    ],
)
def test_the_token_in_a_connect(username: str | None, password: bytes | None, token: str | None) -> None:
    found = authentication.token_in("client", username, password)

    assert (found and found[0]) == token


def test_a_claim_shows_nothing_of_what_was_presented() -> None:
    claim = authentication.with_mqtt("client-7", "user-7", b"password-7")

    assert "-7" not in repr(claim)
    assert "-7" not in repr(authentication.with_token("token-7"))
    assert "password" not in repr(Held.__dataclass_fields__["basic"].repr)

import base64
import os
import re
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provserver.core import webhook
from provserver.errors import Invalid


def test_requests_are_signed_as_the_standard_has_it() -> None:
    """The example of the Standard Webhooks' reference implementations."""
    secret = base64.b64decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    id_: Any = "msg_p5jXN8AQM9LWM0D4loKWxJek"
    headers = webhook.headers(secret, id_, 1614265330, b'{"test": 2432232314}')
    assert headers["webhook-signature"] == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
    assert (headers["webhook-id"], headers["webhook-timestamp"]) == (id_, "1614265330")
    assert webhook.shown(secret) == "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


@pytest.mark.parametrize(
    "url",
    [
        "https://example.com/",
        "http://example.com:8080/a?token=b",
        "https://[2001:db8::1]/x",
        "https://EXAMPLE.com",
        "https://0x7f.example",
        "https://dead.beef",
    ],
)
def test_what_can_be_told(url: str) -> None:
    assert webhook.checked_url(url) == url
    assert webhook.host(url) in url.lower()


@pytest.mark.parametrize(
    "url",
    [
        "",
        "example.com",
        "ftp://example.com/",
        "https:///path",
        "https://user:pl4nted@example.com/",
        "https://user@example.com/",
        "https://example.com/#part",
        "https://example.com:0/",
        "https://example.com:99999/",
        "https://example.com/a b",
        "https://example.com/\r\nX: y",
        "https://exämple.com/",
        "https://[::1/",
        "http://2130706433/",
        "http://0177.0.0.1/",
        "http://0x7f.1/",
        "http://0x7f000001/",
        "http://0X7F000001./",
        "http://127.0.0.0x1/",
        "http://0x/",
        "http://127.1/",
        "http://192.0.2.256/",
        "https://example.com/" + "x" * webhook.MAX_URL,
    ],
)
def test_what_cannot_be_told(url: str) -> None:
    with pytest.raises(Invalid) as caught:
        webhook.checked_url(url)
    assert "pl4nted" not in str(caught.value)


@given(st.text() | st.text("htps:/@[].#?x0", max_size=20).map(lambda text: "http://" + text))
def test_any_text_is_taken_or_refused(url: str) -> None:
    with suppress(Invalid):
        assert webhook.host(webhook.checked_url(url))


@given(st.binary(min_size=32, max_size=32), st.uuids(), st.integers(0, 2**40), st.binary())
def test_nothing_that_is_signed_can_be_another(secret: bytes, id_: UUID, now: int, body: bytes) -> None:
    signature = webhook.headers(secret, id_, now, body)["webhook-signature"]
    assert webhook.headers(secret, id_, now + 1, body)["webhook-signature"] != signature
    assert webhook.headers(secret, id_, now, body + b"x")["webhook-signature"] != signature


def blocks(language: str) -> list[str]:
    page = Path(__file__).parents[2] / "docs" / "events.md"
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(), re.DOTALL)


def test_the_page_verifies_a_signature_in_python() -> None:
    (program,) = blocks("python")
    names: dict[str, Any] = {}
    exec(program, names)
    secret = b"s" * webhook.SECRET_LENGTH
    headers = dict(webhook.headers(secret, UUID(int=1), int(time.time()), b"{}"))
    verify = names["verify"]
    assert verify(webhook.shown(secret), headers, b"{}")
    assert not verify(webhook.shown(secret), headers, b"{ }")
    assert not verify(webhook.shown(b"t" * 32), headers, b"{}")
    old = dict(webhook.headers(secret, UUID(int=1), int(time.time()) - 1000, b"{}"))
    assert not verify(webhook.shown(secret), old, b"{}")


def test_the_page_verifies_a_signature_with_openssl(tool: Callable[[str], str], tmp_path: Path) -> None:
    tool("openssl")
    secret, body = bytes(range(32)), b'{"n": 1}\n'
    headers = webhook.headers(secret, UUID(int=1), 1_800_000_000, body)
    (tmp_path / "body.json").write_bytes(body)
    given_ = {"secret": webhook.shown(secret), "id": headers["webhook-id"], "timestamp": headers["webhook-timestamp"]}
    done = subprocess.run(
        ["sh", "-c", blocks("sh")[1]], cwd=tmp_path, env=os.environ | given_, capture_output=True, text=True, check=True
    )
    assert "v1," + done.stdout.strip() == headers["webhook-signature"]

"""As much of MicroPython's `requests` as the program uses, on Python's own HTTP client."""

import json
import urllib.error
import urllib.request
from typing import Any


class Response:
    """An answer."""

    def __init__(self, status_code: int, content: bytes) -> None:
        self.status_code = status_code
        self.content = content

    def json(self) -> Any:
        """What it says."""
        return json.loads(self.content)

    def close(self) -> None:
        """Let the connection go."""


def post(url: str, data: str, headers: dict[str, str]) -> Response:
    """Send, and read the answer. Raises OSError when there is none."""
    request = urllib.request.Request(url, data.encode(), headers)
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return Response(answer.status, answer.read())
    except urllib.error.HTTPError as answer:
        return Response(answer.code, answer.read())

"""What schemathesis has to be told: how CSV is sent."""

from typing import Any

import schemathesis


@schemathesis.serializer("text/csv")
def csv(_context: Any, value: Any) -> bytes:
    return str(value).encode("utf-8", "surrogatepass")

"""What schemathesis has to be told: how CSV is sent, and to seek its garbage seldom, as it keeps all that it asked."""

import gc
from typing import Any

import schemathesis

gc.freeze()
gc.set_threshold(100_000, 50, 100)


@schemathesis.serializer("text/csv")
def csv(_context: Any, value: Any) -> bytes:
    return str(value).encode("utf-8", "surrogatepass")

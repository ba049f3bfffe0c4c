"""What devices are made of: curl, mosquitto's and libcoap's clients, paho and aiocoap, unmodified."""

import pytest

pytest.register_assert_rewrite(
    *(f"{__name__}.{module}" for module in ("base", "curl", "libcoap", "mosquitto", "oscore", "paho"))
)

"""The second matrix: devices that come back, on nine channels, by the programs that devices use."""

import pytest

pytest.register_assert_rewrite(
    "tests.conformance.channels.play", "tests.conformance.channels.stage", "tests.conformance.channels.programs"
)

"""The conformance matrix: cases as data, on every transport, against a real server process."""

import pytest

pytest.register_assert_rewrite(
    "tests.conformance.bench", "tests.conformance.play", "tests.conformance.replies", "tests.conformance.clients"
)

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provserver.core.lorawan import APPLICATION_KEY, DEVICE_EUI, JOIN_EUI, NETWORK_DEVICE_ID, NETWORK_KEY, is_device_id
from provserver.core.onboarding import Identity, free_id, shown

VALUES = {DEVICE_EUI: "0018b20000000101", JOIN_EUI: "70-B3-D5-7E-D0-00-00-10", APPLICATION_KEY: "ab" * 16}


def test_metadata_are_read_in_any_form() -> None:
    identity = Identity.of(VALUES | {NETWORK_KEY: "cd" * 16, NETWORK_DEVICE_ID: "my-sensor"})
    assert identity == Identity("0018B20000000101", "70B3D57ED0000010", "AB" * 16, "CD" * 16, "my-sensor")
    assert "AB" * 16 not in repr(identity)
    assert "CD" * 16 not in repr(identity)


def test_an_id_that_cannot_be_one_is_none() -> None:
    identity = Identity.of(VALUES | {NETWORK_DEVICE_ID: "Not An Id"})
    assert identity is not None
    assert (identity.network_device_id, identity.nwk_key) == (None, None)


@pytest.mark.parametrize("name", VALUES)
def test_nothing_may_be_missing_or_wrong(name: str) -> None:
    assert Identity.of({other: value for other, value in VALUES.items() if other != name}) is None
    assert Identity.of(VALUES | {name: "12"}) is None


@given(st.integers(0, 2**64 - 1), st.integers(0, 12))
def test_each_forerunner_s_id_has_a_successor(number: int, times: int) -> None:
    eui, seen = f"{number:016X}", set[str]()
    taken: str | None = None
    for _ in range(times):
        taken = free_id(eui, taken)
        assert is_device_id(taken)
        assert taken not in seen
        seen.add(taken)
    assert free_id(eui, "my-sensor") == f"eui-{eui.lower()}"


@pytest.mark.parametrize("text", ["", None, 3, "a b", "x" * 65, "<b>", "a\nb"])
def test_what_a_network_says_is_shown_if_it_is_a_name(text: object) -> None:
    assert shown(text) == "unknown"
    assert shown("end_device_euis_taken") == "end_device_euis_taken"

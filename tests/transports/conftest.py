import pytest


@pytest.fixture(scope="module", params=[True, False], ids=["front", "aiocoap"])
def front(request: pytest.FixtureRequest) -> bool:
    """Who answers plain CoAP requests over UDP: what holds for one way must hold for the other."""
    return bool(request.param)

import pytest


@pytest.fixture(scope="module", params=[True, False], ids=["front", "behind"])
def front(request: pytest.FixtureRequest) -> bool:
    """Who answers plain requests over HTTP and UDP: what holds for one way must hold for the other."""
    return bool(request.param)

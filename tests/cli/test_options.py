"""Options that several commands share."""

import pytest
import typer

from provserver.cli import options
from provserver.core.model import ProvisionStrategy


@pytest.mark.parametrize(("name", "strategy"), options.STRATEGIES.items())
def test_a_strategy_has_a_short_and_a_thingsboard_name(name: str, strategy: ProvisionStrategy) -> None:
    assert options.strategy(name) is strategy
    assert options.strategy(strategy.value) is strategy


def test_every_strategy_has_a_short_name() -> None:
    assert set(options.STRATEGIES.values()) == set(ProvisionStrategy)


def test_an_unknown_strategy_is_answered_with_the_known_ones() -> None:
    with pytest.raises(typer.BadParameter, match="allow-create, check-pre-provisioned, x509-chain, disabled"):
        options.strategy("allow")

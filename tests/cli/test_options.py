"""Options that several commands share."""

from datetime import UTC, datetime
from ipaddress import ip_network

import pytest
import typer

from provserver.cli import options
from provserver.core.model import MetadataField, ProvisionStrategy


@pytest.mark.parametrize(("name", "strategy"), options.STRATEGIES.items())
def test_a_strategy_has_a_short_and_a_thingsboard_name(name: str, strategy: ProvisionStrategy) -> None:
    assert options.strategy(name) is strategy
    assert options.strategy(strategy.value) is strategy


def test_every_strategy_has_a_short_name() -> None:
    assert set(options.STRATEGIES.values()) == set(ProvisionStrategy)


def test_an_unknown_strategy_is_answered_with_the_known_ones() -> None:
    with pytest.raises(typer.BadParameter, match="allow-create, check-pre-provisioned, x509-chain, disabled"):
        options.strategy("allow")


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("Serial", MetadataField("Serial")),
        ("Serial:number", MetadataField("Serial", "number")),
        ("Serial:unique", MetadataField("Serial", unique=True)),
        ("Serial:IMEI:unique", MetadataField("Serial", "imei", unique=True)),
        ("Serial=a:b=c", MetadataField("Serial", default="a:b=c")),
        ("Serial:=x", MetadataField("Serial", default="x")),
        ("unique", MetadataField("unique")),
        ("Model:list:A, B", MetadataField("Model", "list", options=("A", "B"))),
        ("Model:list:A,B:unique", MetadataField("Model", "list", unique=True, options=("A", "B"))),
        ("Model:list:A,B=A", MetadataField("Model", "list", options=("A", "B"), default="A")),
    ],
)
def test_a_metadata_field_is_written_as_it_is_read(text: str, field: MetadataField) -> None:
    assert options.metadata_field(text) == field


@pytest.mark.parametrize("text", ["", ":", "=a", "a:b:c:d", "a:nmuber", "a\nb", "a=\0"])
def test_what_is_no_metadata_field_is_told_with_its_form(text: str) -> None:
    with pytest.raises(typer.BadParameter, match=r"NAME\[:TYPE\]|is no type: text, number"):
        options.metadata_field(text)


def test_a_moment_is_a_day_or_has_a_time_zone() -> None:
    assert options.moment("2027-01-31") == datetime(2027, 1, 31, tzinfo=UTC)
    assert options.moment("2027-01-31T12:00:00Z") == datetime(2027, 1, 31, 12, tzinfo=UTC)
    assert options.moment("2027-01-31 12:00+09:00") == datetime(2027, 1, 31, 3, tzinfo=UTC)
    for text in ("", "2027-02-30", "2027-01-31T12:00:00", "tomorrow", "2027-01-31T"):
        with pytest.raises(typer.BadParameter, match="2027-01-31"):
            options.moment(text)


def test_a_network_has_no_bits_after_its_prefix() -> None:
    assert options.network("192.0.2.0/24") == ip_network("192.0.2.0/24")
    assert options.network("2001:db8::1") == ip_network("2001:db8::1/128")
    for text in ("", "192.0.2.7/24", "192.0.2.0/33", "example.com"):
        with pytest.raises(typer.BadParameter, match=r"192\.0\.2\.0/24"):
            options.network(text)

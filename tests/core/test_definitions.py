"""What a profile may define."""

import pytest

from provserver.core import definitions, metadata
from provserver.core.datastreams import TYPES
from provserver.core.definitions import MAX_NAME_LENGTH, InvalidDefinition, check_datastreams, metadata_fields
from provserver.core.model import Datastream, MetadataField

SAMPLES = {"list": MetadataField("x", "list", options=("a", "b"))}


@pytest.mark.parametrize("type_", metadata.TYPES)
@pytest.mark.parametrize("unique", [False, True])
def test_a_field_may_have_every_type(type_: str, unique: bool) -> None:
    field = MetadataField("x", type_, unique, SAMPLES.get(type_, MetadataField("x")).options)

    assert metadata_fields([field]) == (field,)


def test_fields_are_kept_in_normal_form_and_order() -> None:
    given = [
        MetadataField("MAC", "MAC", default="2c-54-91-88-c9-e3"),
        MetadataField("Rack", "Number", default="007.50"),
        MetadataField("Model", "list", options=("B", "A"), default=" A "),
        MetadataField("On", "boolean", default="YES"),
    ]

    assert metadata_fields(given) == (
        MetadataField("MAC", "mac", default="2C:54:91:88:C9:E3"),
        MetadataField("Rack", "number", default="7.5"),
        MetadataField("Model", "list", options=("B", "A"), default="A"),
        MetadataField("On", "boolean", default="true"),
    )
    assert metadata_fields([]) == ()


@pytest.mark.parametrize(
    ("field", "said"),
    [
        (MetadataField(""), f"1-{MAX_NAME_LENGTH} printable"),
        (MetadataField(" x"), "blanks around"),
        (MetadataField("a\nb"), "printable"),
        (MetadataField("x" * (MAX_NAME_LENGTH + 1)), "printable"),
        (MetadataField("x", ""), "The metadata field 'x': there is no type ''"),
        (MetadataField("x", "nmuber"), "Did you mean 'number'"),
        (MetadataField("Device Name"), "The metadata field 'Device Name': .*without being named"),
        (MetadataField("x", "list"), "a list needs options"),
        (MetadataField("x", "text", options=("a",)), "nothing else has them"),
        (MetadataField("x", "list", options=("a", "a")), "twice"),
        (MetadataField("x", "list", options=("a", "")), "an option must be"),
        (MetadataField("x", "list", options=("a",), default="b"), "its default is no list"),
        (MetadataField("x", "mac", default="nonsense"), "its default is no mac"),
        (MetadataField("x", "text", unique=True, default="a"), "unique cannot have a default"),
        (MetadataField("x", "key128", default="0" * 32), "a key is one device's own"),
    ],
    ids=range(15),
)
def test_a_field_that_cannot_be_is_refused(field: MetadataField, said: str) -> None:
    with pytest.raises(InvalidDefinition, match=said):
        metadata_fields([MetadataField("before"), field])


def test_a_default_that_is_refused_is_not_quoted() -> None:
    with pytest.raises(InvalidDefinition) as raised:
        metadata_fields([MetadataField("x", "imei", default="pl4nted")])
    assert "pl4nted" not in str(raised.value)


@pytest.mark.parametrize("type_", [*sorted(TYPES), "Double"])
def test_a_datastream_may_have_every_type(type_: str) -> None:
    check_datastreams([Datastream("a", "V0", type_), Datastream("b", "v255", type_, 1, 1), Datastream("#/", "V0")])


@pytest.mark.parametrize(
    ("stream", "said"),
    [
        (Datastream("", "V1"), "A datastream's name must be"),
        (Datastream("a\0", "V1"), "A datastream's name must be"),
        (Datastream("a", "1"), "The datastream 'a': '1' is no pin: V0 to V255"),
        (Datastream("a", "V256"), "no pin"),
        (Datastream("a", "V1", "dobule"), "'dobule' is no type: .*double"),
        (Datastream("a", "V1", "int", float("nan")), "finite"),
        (Datastream("a", "V1", "int", None, float("inf")), "finite"),
        (Datastream("a", "V1", "int", 2, 1), "minimum is above"),
    ],
    ids=range(8),
)
def test_a_datastream_that_cannot_be_is_refused(stream: Datastream, said: str) -> None:
    with pytest.raises(InvalidDefinition, match=said):
        check_datastreams([Datastream("before", "V1"), stream])


def test_names_are_there_once() -> None:
    with pytest.raises(InvalidDefinition, match="The metadata field 'a' is there twice"):
        definitions.metadata_fields([MetadataField("a"), MetadataField("A"), MetadataField("a", "number")])
    with pytest.raises(InvalidDefinition, match="The datastream 'a' is there twice"):
        check_datastreams([Datastream("a", "V1"), Datastream("a", "V2")])

"""Profiles as TOML files: what is written is read again, and nothing of one server's is in it."""

import tomllib
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provserver.core import definitions
from provserver.core.credentials import has_control_characters
from provserver.core.model import (
    ChainRules,
    Datastream,
    DeviceProfile,
    MetadataField,
    NameSource,
    ProvisionStrategy,
    ReprovisionPolicy,
)
from provserver.core.profilefile import MAX_SIZE, STRATEGIES, InvalidProfileFile, ProfileTemplate, read, write

CHAIN = ProvisionStrategy.X509_CERTIFICATE_CHAIN
ALLOW = ProvisionStrategy.ALLOW_CREATE_NEW_DEVICES
EXAMPLES = sorted((Path(__file__).parents[2] / "config/profiles").glob("*.toml"))

texts = st.text(max_size=12) | st.sampled_from(['"', "\\", "'''", '"""', "\x7f", "\x00\x1f", "é\u2028😀", "#", "[a]"])
bounds = st.none() | st.floats(allow_nan=False, allow_infinity=False)
templates = st.builds(
    ProfileTemplate,
    name=texts.filter(bool),
    strategy=st.sampled_from(ProvisionStrategy),
    reprovision_policy=st.sampled_from(ReprovisionPolicy),
    two_sided_claim=st.booleans(),
    metadata_fields=st.lists(
        st.builds(MetadataField, texts, texts, st.booleans(), st.lists(texts, max_size=3).map(tuple), texts), max_size=3
    ).map(tuple),
    datastreams=st.lists(st.builds(Datastream, texts, texts, texts, bounds, bounds), max_size=3).map(tuple),
    chain=st.builds(ChainRules, st.sampled_from(NameSource), texts, st.booleans()),
)


@given(templates)
def test_what_is_written_is_read_again(template: ProfileTemplate) -> None:
    assert read(write(template).encode()) == template


@given(templates)
def test_lines_hold_no_control_characters(template: ProfileTemplate) -> None:
    assert not any(map(has_control_characters, write(template).split("\n")))


@given(st.binary(max_size=60) | texts.map(str.encode) | texts.map(lambda text: f'name = "{text}"'.encode()))
def test_whatever_else_is_refused(content: bytes) -> None:
    with pytest.raises(InvalidProfileFile):
        read(content)


PROFILE = DeviceProfile(
    UUID(int=1),
    UUID(int=2),
    "sensors",
    "TMPL123456789",
    ALLOW,
    ReprovisionPolicy.ROTATE,
    7,
    datetime(2026, 1, 1, tzinfo=UTC),
    (MetadataField("Model", "list", options=("A", 'B"'), default="A"), MetadataField("Serial", unique=True)),
    (Datastream("t", "V1", "double", -40, 1e16), Datastream("x", "V2", "string")),
    ChainRules(NameSource.SAN_DNS, r"^([^.]+)\.", allow_create=False),
    two_sided_claim=True,
)

WRITTEN = r"""name = "sensors"
strategy = "allow-create"
reprovision_policy = "rotate"
two_sided_claim = true

[[metadata_field]]
name = "Model"
type = "list"
options = ["A", "B\""]
default = "A"

[[metadata_field]]
name = "Serial"
type = "text"
unique = true

[[datastream]]
name = "t"
pin = "V1"
type = "double"
minimum = -40.0
maximum = 1e+16

[[datastream]]
name = "x"
pin = "V2"
type = "string"
"""


def test_a_file_is_for_people_and_has_nothing_of_this_server() -> None:
    assert write(ProfileTemplate.of(PROFILE)) == WRITTEN


@pytest.mark.parametrize("strategy", ProvisionStrategy)
def test_rules_for_chains_are_written_where_they_are_of_use(strategy: ProvisionStrategy) -> None:
    template = ProfileTemplate.of(
        DeviceProfile(
            PROFILE.id,
            PROFILE.organization_id,
            "p",
            "TMPL",
            strategy,
            ReprovisionPolicy.DENY,
            1,
            PROFILE.created_at,
            chain=PROFILE.chain,
        )
    )

    kept = strategy in (CHAIN, ProvisionStrategy.DISABLED)
    assert template.chain == (PROFILE.chain if kept else ChainRules())
    assert ("certificate_chain" in tomllib.loads(write(template))) is kept


def test_a_short_file_is_enough() -> None:
    assert read(b'name = "a"\nstrategy = "x509-chain"') == ProfileTemplate("a", CHAIN)
    assert read(b'\xef\xbb\xbfname = "a"\r\nstrategy = "x509-chain"\r\n') == ProfileTemplate("a", CHAIN)
    assert read(b'name="a"\nstrategy="disabled"\n[[datastream]]\nname="d"\npin="V1"\nminimum=1').datastreams == (
        Datastream("d", "V1", "double", 1.0, None),
    )


@pytest.mark.parametrize("strategy", ProvisionStrategy)
def test_a_strategy_has_two_names(strategy: ProvisionStrategy) -> None:
    short = next(name for name, each in STRATEGIES.items() if each is strategy)
    for name in (short, strategy.value):
        assert read(f'name = "a"\nstrategy = "{name}"'.encode()).strategy is strategy


HEAD = 'name = "a"\nstrategy = "disabled"\n'


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "missing required field `name`"),
        ('name = "a"', "missing required field `strategy`"),
        ('name = ""\nstrategy = "disabled"', "name: expected `str` of length >= 1"),
        ("name = 1\nstrategy = 1", "name: expected `str`, got `int`"),
        ('name = "a"\nstrategy = "allow"', "strategy: 'allow' is none of allow-create"),
        (HEAD + 'reprovision_policy = "never"', "reprovision_policy: invalid enum value 'never'"),
        (HEAD + 'key = "k"', "unknown field `key`"),
        (HEAD + '[[metadata_field]]\nname = "x"\nuniqe = true', r"metadata_field\[0\]: .*unknown field `uniqe`"),
        (HEAD + '[[metadata_field]]\nname = "x"\noptions = "a"', r"metadata_field\[0\].options: expected `array`"),
        (HEAD + '[[datastream]]\nname = "x"', r"datastream\[0\]: .*missing required field `pin`"),
        (HEAD + '[[datastream]]\nname = "x"\npin = "V1"\nminimum = "1"', r"datastream\[0\].minimum: expected"),
        (HEAD + '[certificate_chain]\nname_from = "dn"', "certificate_chain.name_from: invalid enum value 'dn'"),
        (HEAD + "[certificate_chain]\nca = 1", "certificate_chain: .*unknown field `ca`"),
        (HEAD + HEAD, "not valid TOML: Cannot overwrite a value .*line"),
        (HEAD + "x = " + "[" * 100_000, "nested too deeply"),
        (HEAD + "x = " + "1" * 5000, "not valid TOML"),
        (HEAD + "x = 1979-05-27T07:32:00Z", "unknown field `x`"),
        ("\udcff", "not UTF-8"),
        ("#" * (MAX_SIZE + 1), "larger than 1 MiB"),
    ],
    ids=range(19),
)
def test_what_is_wrong_is_told_with_its_place(content: str, said: str) -> None:
    with pytest.raises(InvalidProfileFile, match=said):
        read(content.encode(errors="surrogateescape"))


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: file.stem)
def test_the_examples_are_written_as_we_write(file: Path) -> None:
    template = read(file.read_bytes())

    definitions.check_datastreams(template.datastreams)
    assert definitions.metadata_fields(template.metadata_fields) == template.metadata_fields
    kept = [line for line in file.read_text().splitlines() if not line.startswith("#")]
    assert "\n".join(kept).strip() in write(template).strip()
    assert tomllib.loads(write(template)).keys() <= tomllib.loads(file.read_text()).keys()


def test_there_are_examples() -> None:
    assert {file.stem for file in EXAMPLES} == {"wifi-sensor", "cellular-tracker", "lorawan-meter", "x509-gateway"}

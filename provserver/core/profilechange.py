"""What a profile becomes by a change: what is left out stays, and what does not fit together is refused."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta

from provserver.core import chain, definitions
from provserver.core.chain import InvalidPattern
from provserver.core.credentials import has_control_characters
from provserver.core.definitions import InvalidDefinition
from provserver.core.model import (
    ChainRules,
    ClonePolicy,
    Datastream,
    DeviceProfile,
    MetadataField,
    NameSource,
    ProvisionStrategy,
    ReprovisionPolicy,
)
from provserver.errors import Invalid

MAX_NAME_LENGTH = 255
SHORTEST_LIFETIME, LONGEST_LIFETIME = timedelta(minutes=1), timedelta(days=36_525)

UNPROVEN = (
    "Whoever holds the fleet key and knows a device's name can take its credentials: "
    "firmware should send a requestNonce instead, with policy deny."
)
"""What `profile show` warns of under every policy but `deny`."""


@dataclass(frozen=True, slots=True)
class ProfileChange:
    """What to change; None leaves it as it is.

    authorities: contents of files, a CA's certificate in each, PEM or DER; they replace those that were trusted.
    crls: contents of files with their revocation lists. A CA that stays keeps the list it has, unless forget_crls.
    credentials_lifetime: zero for credentials without an end.
    """

    name: str | None = None
    strategy: ProvisionStrategy | None = None
    reprovision_policy: ReprovisionPolicy | None = None
    metadata_fields: Sequence[MetadataField] | None = None
    datastreams: Sequence[Datastream] | None = None
    accept_unproven_repeats: bool = False
    authorities: Sequence[bytes] | None = None
    crls: Sequence[bytes] | None = None
    forget_crls: bool = False
    name_from: NameSource | None = None
    name_pattern: str | None = None
    allow_create: bool | None = None
    two_sided_claim: bool | None = None
    clone_policy: ClonePolicy | None = None
    approval: bool | None = None
    credentials_lifetime: timedelta | None = None

    @property
    def of_chains(self) -> bool:
        """Whether there is something in it that only chains are concerned with."""
        settings = (self.name_from, self.name_pattern, self.allow_create)
        return self.of_trust or any(setting is not None for setting in settings)

    @property
    def of_trust(self) -> bool:
        """Whether it changes whom the profile trusts."""
        return self.authorities is not None or self.crls is not None or self.forget_crls


def changed(profile: DeviceProfile, change: ProfileChange) -> DeviceProfile:
    """A profile with a change; its CAs are not looked at. Raises Invalid."""
    name = checked_name(profile.name if change.name is None else change.name)
    policy = change.reprovision_policy or profile.reprovision_policy
    is_other = change.reprovision_policy not in (None, profile.reprovision_policy)
    if is_other and policy is not ReprovisionPolicy.DENY and not change.accept_unproven_repeats:
        raise Invalid(f"{UNPROVEN} To have it all the same, add --accept-unproven-repeats.")
    metadata, streams = profile.metadata_fields, profile.datastreams
    try:
        if change.metadata_fields is not None:
            metadata = definitions.metadata_fields(change.metadata_fields)
        if change.datastreams is not None:
            definitions.check_datastreams(change.datastreams)
            streams = tuple(change.datastreams)
    except InvalidDefinition as fault:
        raise Invalid(str(fault)) from None
    strategy = change.strategy or profile.strategy
    if change.of_chains and strategy not in (ProvisionStrategy.X509_CERTIFICATE_CHAIN, ProvisionStrategy.DISABLED):
        raise Invalid("CAs, revocation lists and names from certificates go with --strategy x509-chain.")
    return replace(
        profile,
        name=name,
        strategy=strategy,
        reprovision_policy=policy,
        metadata_fields=metadata,
        datastreams=streams,
        chain=_rules(profile.chain, change),
        two_sided_claim=profile.two_sided_claim if change.two_sided_claim is None else change.two_sided_claim,
        clone_policy=change.clone_policy or profile.clone_policy,
        approval=profile.approval if change.approval is None else change.approval,
        credentials_lifetime=_lifetime(profile, change),
    )


def checked_name(given: str) -> str:
    """A profile's name, without space around. Raises Invalid."""
    name = given.strip()
    if not name or len(name) > MAX_NAME_LENGTH or has_control_characters(name):
        raise Invalid(f"A profile's name must be 1-{MAX_NAME_LENGTH} printable characters.")
    return name


def _lifetime(profile: DeviceProfile, change: ProfileChange) -> timedelta | None:
    wanted = change.credentials_lifetime
    if wanted is None:
        return profile.credentials_lifetime
    if wanted and not SHORTEST_LIFETIME <= wanted <= LONGEST_LIFETIME:
        raise Invalid("Credentials must be good for a minute at least and 100 years at most; 0: they do not end.")
    return wanted or None


def _rules(rules: ChainRules, change: ProfileChange) -> ChainRules:
    if change.name_pattern is not None:
        try:
            chain.compile_pattern(change.name_pattern)
        except InvalidPattern as fault:
            raise Invalid(
                f"The name pattern is not valid: {fault}. It is an RE2 expression: "
                "https://github.com/google/re2/wiki/Syntax (no look-around, no back-references)."
            ) from None
    return ChainRules(
        change.name_from or rules.name_from,
        rules.name_pattern if change.name_pattern is None else change.name_pattern,
        rules.allow_create if change.allow_create is None else change.allow_create,
    )

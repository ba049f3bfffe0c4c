"""All cases, in the order of the matrix."""

from tests.conformance.channels.cases import (
    attributes,
    authentication,
    blynk,
    chains,
    enrollment,
    lifecycle,
    telemetry,
    topics,
)
from tests.conformance.channels.model import Case

CASES: tuple[Case, ...] = (
    *authentication.CASES,
    *lifecycle.CASES,
    *enrollment.CASES,
    *chains.CASES,
    *telemetry.CASES,
    *attributes.CASES,
    *topics.CASES,
    *blynk.CASES,
)

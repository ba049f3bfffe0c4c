"""All cases, in the order of the matrix."""

from tests.conformance.cases import (
    coap,
    credentials,
    decisions,
    http,
    members,
    mqtt,
    operators,
    protobuf,
    repeats,
    sdks,
)
from tests.conformance.model import Case

CASES: tuple[Case, ...] = (
    *members.CASES,
    *credentials.CASES,
    *decisions.CASES,
    *repeats.CASES,
    *operators.CASES,
    *protobuf.CASES,
    *mqtt.CASES,
    *coap.CASES,
    *http.CASES,
    *sdks.CASES,
)

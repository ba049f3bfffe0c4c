"""Devices that an operator has a say in: approval, and quarantine."""

from tests.conformance.cases.repeats import NONCE
from tests.conformance.model import (
    CHECK_PRE,
    FAILURE,
    Approve,
    Attempted,
    Case,
    Device,
    Devices,
    Granted,
    Quarantine,
    Refused,
    invalid,
)
from tests.conformance.requests import ask

PENDING = Refused(
    status="FAILURE",
    error="Waiting for an operator's approval, try again later!",
    retry_after=5,
    stage="PENDING",
)

CASES = (
    Case(
        id="operator/accepted",
        says="With approval a new device waits, and is told when to ask again, until an operator accepts it.",
        cites="ours/approval",
        approval=True,
        steps=(
            ask(PENDING, requestNonce=NONCE),
            ask(PENDING, requestNonce=NONCE),
            Devices(0),
            Attempted("APPROVAL_PENDING"),
            Approve(),
            ask(Granted(), requestNonce=NONCE),
            ask(Granted(same_as=2), requestNonce=NONCE),
            Devices(1),
        ),
    ),
    Case(
        id="operator/pre-provisioned",
        says="So does one that was pre-provisioned.",
        cites="ours/approval",
        approval=True,
        strategy=CHECK_PRE,
        devices=(Device(token="tok-«tag»"),),
        steps=(ask(PENDING), Approve(), ask(Granted(value="tok-«tag»")), ask(FAILURE)),
    ),
    Case(
        id="operator/rejected",
        says="One that an operator has rejected hears FAILURE.",
        cites="ours/approval-rejected",
        approval=True,
        steps=(ask(PENDING), Approve(accept=False), ask(FAILURE), Devices(0), Attempted("APPROVAL_REJECTED")),
    ),
    Case(
        id="operator/unnamed",
        says="Who can be known by neither name nor nonce is told so.",
        cites="ours/approval-unnamed",
        approval=True,
        steps=(ask(invalid("deviceName or requestNonce"), deviceName=None), Devices(0)),
    ),
    Case(
        id="operator/quarantine",
        says="A device in quarantine gets nothing, not even its own answer again, until it is released.",
        cites="ours/quarantine",
        steps=(
            ask(Granted(), requestNonce=NONCE),
            Quarantine(),
            ask(FAILURE, requestNonce=NONCE),
            Attempted("QUARANTINED"),
            Quarantine(over=True),
            ask(Granted(same_as=0), requestNonce=NONCE),
            Devices(1),
        ),
    ),
)

import re
from http import HTTPStatus

import pytest
from aiocoap.numbers.codes import Code

from provserver import errors
from provserver.core import wire
from provserver.core.decision import Reason
from provserver.errors import RENDERINGS, Misconfigured, Outcome, ProvserverError, Refused, Unavailable

PUBACK_REASON_CODES = {0x00, 0x10, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99}
"""MQTT 5, table 3-4."""

DISCONNECT_REASON_CODES = {0x81, 0x82, 0x89, 0x8B, 0x93, 0x94, 0x95, 0x96, 0x97, 0x98, 0x99, 0x9B}
"""Of those in MQTT 5, table 3-10, that a server may send for what was in a packet."""


def test_every_outcome_has_a_rendering() -> None:
    assert list(RENDERINGS) == list(Outcome)


@pytest.mark.parametrize(
    ("outcome", "status", "http", "coap", "mqtt"),
    [
        (Outcome.SUCCESS, "SUCCESS", 200, "2.01", 0x00),
        (Outcome.NOT_FOUND, "NOT_FOUND", 200, "4.00", 0x00),
        (Outcome.FAILURE, "FAILURE", 200, "4.00", 0x00),
        (Outcome.INVALID, "FAILURE", 400, "4.00", 0x00),
        (Outcome.UNDECODABLE, None, 400, "4.00", 0x99),
        (Outcome.TOO_LARGE, None, 413, "4.13", 0x95),
        (Outcome.UNAVAILABLE, "FAILURE", 503, "5.03", 0x00),
        (Outcome.LIMITED, "FAILURE", 429, "4.29", 0x97),
        (Outcome.PENDING, "FAILURE", 200, "4.00", 0x00),
    ],
)
def test_how_each_protocol_says_it(outcome: Outcome, status: str | None, http: int, coap: str, mqtt: int) -> None:
    rendering = RENDERINGS[outcome]
    assert (rendering.status, rendering.http, rendering.mqtt) == (status, http, mqtt)
    assert f"{rendering.coap >> 5}.{rendering.coap & 0x1F:02}" == coap


@pytest.mark.parametrize("outcome", Outcome)
def test_the_codes_exist(outcome: Outcome) -> None:
    rendering = RENDERINGS[outcome]
    assert HTTPStatus(rendering.http)
    assert Code(rendering.coap).is_response()
    assert rendering.mqtt in PUBACK_REASON_CODES | DISCONNECT_REASON_CODES
    assert rendering.status is not None or rendering.mqtt  # who gets no reply is told by the code


@pytest.mark.parametrize("outcome", Outcome)
def test_the_protocols_agree(outcome: Outcome) -> None:
    rendering = RENDERINGS[outcome]
    success = outcome is Outcome.SUCCESS
    assert (rendering.status == "SUCCESS") is success
    assert (rendering.coap >> 5 == 2) is success
    assert (rendering.error is None) is success  # every refusal has an errorMsg: devices read it without asking
    if rendering.http == 503:
        assert rendering.coap >> 5 == 5
    if rendering.http in (429, 503):
        assert rendering.retried
    assert rendering.http != 200 or rendering.status is not None


def test_devices_are_told_no_more_than_thingsboard_tells_them() -> None:
    assert RENDERINGS[Outcome.NOT_FOUND].error == "Provision data was not found!"
    assert RENDERINGS[Outcome.FAILURE].error == "Failed to provision device!"


@pytest.mark.parametrize("reason", Reason, ids=lambda reason: reason.name)
def test_every_reason_has_a_rendering_with_a_reply(reason: Reason) -> None:
    rendering = RENDERINGS[reason.outcome]
    assert rendering.status in ("NOT_FOUND", "FAILURE")
    assert rendering.error


def test_the_wait_that_is_asked_for() -> None:
    assert 0 < errors.RETRY_AFTER_SECONDS <= 60


@pytest.mark.parametrize("error", [Misconfigured, Refused, Unavailable])
def test_errors_for_people_have_one_root(error: type[ProvserverError]) -> None:
    assert issubclass(error, ProvserverError)
    assert str(error("Choose another.")) == "Choose another."


def test_a_fault_is_described_by_kind_and_place_without_its_words() -> None:
    try:
        wire.decode(b"{", accept_protobuf=False)
    except wire.Undecodable as fault:
        ours = errors.described(fault)
    try:
        raise KeyError("pl4nted")
    except KeyError as fault:
        others = errors.described(fault)

    assert re.fullmatch(r"Undecodable at .*/provserver/core/wire\.py:[0-9]+", ours)
    assert re.fullmatch(r"KeyError at .*test_errors\.py:[0-9]+", others)
    assert errors.described(ValueError("pl4nted")) == "ValueError"

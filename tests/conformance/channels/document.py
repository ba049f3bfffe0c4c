"""The part of docs/conformance.md that is about devices that come back."""

from collections.abc import Iterable, Iterator
from itertools import groupby

from tests.conformance.channels import model
from tests.conformance.channels.cases import CASES
from tests.conformance.channels.model import COAP, HTTP, MQTT, Case, Channel, Step, Verdict
from tests.conformance.channels.rendering import code


def cases() -> Iterator[str]:
    """A table for each area."""
    for area, those in groupby(CASES, lambda case: case.id.partition("/")[0]):
        yield f"## `{area}`\n"
        yield "| case | | " + " | ".join(Channel) + " | the operator reads | rows |"
        yield "|---|---" + "|---" * (len(Channel) + 1) + "|---|"
        for case in those:
            cells = [_outcome(case, channel) for channel in Channel]
            reasons = ", ".join(f"`{reason}`" for reason in _reasons(case))
            says = case.says.replace("|", "\\|")
            yield f"| `{case.id}` | {says} | {' | '.join(cells)} | {reasons} | {' '.join(case.rows)} |"
        yield ""


def _outcome(case: Case, channel: Channel) -> str:
    if channel not in case.columns:
        return "–"
    told = (text for step in case.on(channel) for text in _told(step, channel))
    return ", ".join(_counted(told)) or "nothing"


def _told(step: Step, channel: Channel) -> Iterator[str]:
    match step:
        case model.Come(expect=expect) | model.Send(expect=expect) | model.Ended(expect=expect):
            yield code(expect, channel)
        case model.Open(expect=expect) if expect is not Verdict.LET_IN:
            yield code(expect, channel)
        case model.Publish(expect=expect, qos=1):
            yield code(expect, channel)
        case model.Ask(gets=gets) if channel in COAP:
            yield "2.05" if gets else "4.04"
        case model.Ask():
            yield "200" if channel in HTTP else "response"
        case model.Provision(status=status):
            yield status
        case model.Hear():
            yield "PUBLISH" if channel in MQTT else "200" if channel in HTTP else "2.05"
        case model.Subscribe(granted=None):
            yield f"SUBACK {'80' if channel is Channel.MQTT3 else '8F'}"
        case model.Subscribe(granted=granted):
            yield f"SUBACK {granted:02}"
        case model.Message():
            yield "PUBLISH"
        case model.Http(expect=status):
            yield str(status)
        case model.Coap(expect=coap):
            yield coap


def _reasons(case: Case) -> Iterator[str]:
    steps = (step for channel in case.columns for step in case.on(channel))
    yield from dict.fromkeys(step.reason for step in steps if isinstance(step, model.Attempted) and step.reason)


def _counted(told: Iterable[str]) -> Iterator[str]:
    for text, same in groupby(told):
        count = len(list(same))
        yield text if count == 1 else f"{count} × {text}"

"""Writes docs/conformance.md from the cases and rows: `python -m tests.conformance.document`."""

from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby
from pathlib import Path

from tests.conformance import model
from tests.conformance.cases import CASES
from tests.conformance.channels.cases import CASES as CHANNEL_CASES
from tests.conformance.channels.document import cases as channel_cases
from tests.conformance.channels.model import Case as ChannelCase
from tests.conformance.channels.rows import ROWS as CHANNEL_ROWS
from tests.conformance.channels.rows import SECTIONS as CHANNEL_SECTIONS
from tests.conformance.clients import mqtt
from tests.conformance.model import Case, Step, Transport
from tests.conformance.rendering import short
from tests.conformance.rows import ROWS, SECTIONS, Row

PAGE = Path(__file__).parents[2] / "docs" / "conformance.md"

_INTRODUCTION = """\
# Conformance

What devices, and the SDKs in them, rely on at ThingsBoard and Blynk, and where provserver does better. `make test`
runs every case below against a real server process, and prints two matrices: [provisioning](#provisioning) on four
transports, and [devices that come back](#devices-that-come-back) on nine channels. This page is written from the same
data: `python -m tests.conformance.document`.

# Provisioning

The four columns say what the device gets, request by request; over MQTT a bare status is a reply on
`/provision/response`, after the PUBACK if QoS 1 was used. *–*: the case does not concern the transport.
"""

_CHANNELS = """\
# Devices that come back

Authentication, certificate chains and data, by the programs that devices use, unmodified: curl (HTTP, HTTPS),
mosquitto's clients and paho (MQTT), libcoap's clients on OpenSSL and GnuTLS (CoAP, CoAPS), aiocoap (OSCORE). MQTTS is
MQTT 5. The columns say what the device gets, step by step; *–*: the case does not concern the channel. Last, what the
operator reads in the attempt.
"""

_ROWS = """\
## Rows

What the cases show, rule by rule. A row that no case cites fails the run. **Amended**: ThingsBoard (or Blynk) does
otherwise, and we differ on purpose.
"""

_CHANNEL_ROWS = """\
## Rows of devices that come back

From the specifications of ThingsBoard (6, 7) and Blynk (C), and our own.
"""


def document() -> str:
    """The whole page."""
    provisioning = (_INTRODUCTION, *_cases(), _ROWS, *_rows(CASES, ROWS, SECTIONS))
    returning = (*channel_cases(), _CHANNEL_ROWS, *_rows(CHANNEL_CASES, CHANNEL_ROWS, CHANNEL_SECTIONS))
    return "\n".join((*provisioning, _CHANNELS, *returning))


def _cases() -> Iterator[str]:
    for area, cases in groupby(CASES, lambda case: case.id.partition("/")[0]):
        yield f"## `{area}`\n"
        yield "| case | | " + " | ".join(Transport) + " | rows |"
        yield "|---|---" + "|---" * len(Transport) + "|---|"
        for case in cases:
            cells = [_outcome(case, transport) for transport in Transport]
            yield f"| `{case.id}` | {_cell(case.says)} | {' | '.join(cells)} | {' '.join(case.rows)} |"
        yield ""


def _outcome(case: Case, transport: Transport) -> str:
    if transport not in case.transports:
        return "–"
    told = [text for step in case.on(transport) for text in _told(step, transport)]
    return ", ".join(_counted(told)) or "nothing"


def _told(step: Step, transport: Transport) -> Iterator[str]:
    match step:
        case model.Ask():
            yield short(step.expected(transport), transport)
        case model.Rush(_, count, granted):
            yield f"{granted} × SUCCESS" + (f", {count - granted} × FAILURE" if granted < count else "")
        case model.Get():
            for packet in step.packets:
                yield from _packet(packet, transport)
        case model.Http(expect=expect, status=status):
            yield str(status) if expect is None else short(expect, transport)
        case model.Coap(expect=expect, code=code):
            yield str(code) if expect is None else short(expect, transport)


def _packet(packet: mqtt.ServerPacket | model.Reply, transport: Transport) -> Iterator[str]:
    match packet:
        case mqtt.Connack(code=0) | mqtt.Pingresp() | mqtt.Ack(kind="PUBACK", code=0):
            return
        case mqtt.Connack(code=code):
            yield "CONNACK refused" if code is None else f"CONNACK {code}"
        case mqtt.Suback(codes):
            yield "SUBACK " + " ".join(f"{code:02X}" for code in codes)
        case mqtt.Unsuback(codes):
            yield "UNSUBACK" + ("".join(f" {code:02X}" for code in codes) if transport is Transport.MQTT5 else "")
        case mqtt.Ack(kind=kind, code=code):
            yield f"{kind} {code:02X}" if code else kind
        case mqtt.Disconnected(code):
            yield f"DISCONNECT {code:02X}"
        case mqtt.Closed():
            yield "closed"
        case model.Reply(expect):
            yield short(expect, transport)


def _counted(told: Iterable[str]) -> Iterator[str]:
    for text, same in groupby(told):
        count = len(list(same))
        yield text if count == 1 else f"{count} × {text}"


def _rows(cases: Iterable[Case | ChannelCase], rows: Mapping[str, Row], sections: Mapping[str, str]) -> Iterator[str]:
    citing: dict[str, list[str]] = {}
    for case in (*cases, *(CHANNEL_CASES if rows is ROWS else ())):
        for cited in case.rows:
            citing.setdefault(cited, []).append(case.id)
    for section, title in sections.items():
        number = f"{section} " if "." in section or section.isdigit() else ""
        yield f"### {number}{title}\n"
        yield "| row | what we do | shown by |"
        yield "|---|---|---|"
        for row in rows.values():
            if row.id.partition("/")[0] == section:
                amended = "**Amended.** " if row.amended and number else ""
                yield f"| `{row.id}` | {amended}{_cell(row.text)} | {_shown(row, citing.get(row.id, []))} |"
        yield ""


def _shown(row: Row, citing: list[str]) -> str:
    if row.later:
        return f"later: {row.later}"
    cases = ", ".join(f"`{case}`" for case in citing[:4]) + (f" and {len(citing) - 4} more" if citing[4:] else "")
    return ", ".join(part for part in (f"`{row.elsewhere}`" if row.elsewhere else "", cases) if part)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    PAGE.write_text(document())

"""CoAP: paths, methods, formats, blocks, retransmissions."""

from collections.abc import Mapping
from dataclasses import replace

from tests.conformance.model import (
    FAILURE,
    NOT_FOUND,
    UNDECODABLE,
    Case,
    Coap,
    Devices,
    Granted,
    Step,
    Transport,
    invalid,
)
from tests.conformance.requests import Steps, proto, raw, request

TEXT, LINK, OCTETS, JSON, CBOR = 0, 40, 42, 50, 60
GRANTED = Granted()


def _coap(*steps: Step) -> Mapping[Transport, Steps]:
    return {Transport.COAP: steps}


def _at(*path: str, suffix: str = "") -> Coap:
    return Coap(payload=request(deviceName=f"«tag»{suffix}"), path=path, expect=Granted(name=f"«tag»{suffix}"))


def _refused(code: str, *path: str) -> Coap:
    return Coap(payload=request(), path=path, code=code)


CASES = (
    Case(
        id="coap/token-path",
        says="A segment before the last word is ignored, a token or anything.",
        cites="3/path-token",
        steps=_coap(
            _at("api", "v1", "A1B2C3", "provision", suffix="a"),
            _at("api", "v1", "provision", "provision", suffix="b"),
        ),
    ),
    Case(
        id="coap/number-path",
        says="So are digits behind it.",
        cites="3/path-number",
        steps=_coap(_at("api", "v1", "provision", "42")),
    ),
    Case(
        id="coap/case-path",
        says="The word is matched in any case, the root is not.",
        cites="3/path-case 3/path-root",
        steps=_coap(
            _at("api", "v1", "PROVISION", suffix="a"),
            _at("api", "v1", "token", "Provision", suffix="b"),
            _refused("4.04", "API", "v1", "provision"),
        ),
    ),
    Case(
        id="coap/one-option",
        says="The whole path in one option.",
        cites="3/path-one-option",
        steps=_coap(_at("api/v1/provision", suffix="a"), _at("/api/v1/provision", suffix="b")),
    ),
    Case(
        id="coap/unknown-path",
        says="Other words, or none, behind the root: 4.00; other roots: 4.04; nothing is made.",
        cites="3/path-unknown 3/path-root",
        steps=_coap(
            _refused("4.00", "api", "v1"),
            _refused("4.00", "api", "v1", "nonsense"),
            _refused("4.00", "api", "v1", "token", "nonsense"),
            _refused("4.00", "api", "v1", "provision", "now"),
            _refused("4.04", "provision"),
            _refused("4.04", "api", "v2", "provision"),
            _refused("4.04"),
            Devices(0),
        ),
    ),
    Case(
        id="coap/methods",
        says="GET is 4.00; PUT, DELETE and the later ones are 4.05; nothing is made.",
        cites="3/method 3/piggyback",
        steps=_coap(
            Coap(method="GET", code="4.00", piggybacked=True),
            *(
                Coap(method=method, payload=request(), code="4.05", piggybacked=True)
                for method in ("PUT", "DELETE", "FETCH", "PATCH", "IPATCH")
            ),
            Devices(0),
        ),
    ),
    Case(
        id="coap/content-formats",
        says="The request's Content-Format does not matter: JSON, text, octets, CBOR, none.",
        cites="3/format-ignored 3/format",
        steps=_coap(
            *(
                Coap(
                    payload=request(deviceName=f"«tag»{asked}"),
                    content_format=asked,
                    expect=Granted(name=f"«tag»{asked}"),
                    format=answered,
                )
                for asked, answered in ((JSON, JSON), (TEXT, TEXT), (OCTETS, JSON), (CBOR, JSON), (None, JSON))
            ),
        ),
    ),
    Case(
        id="coap/accept",
        says="Accept says in which of two ways JSON is announced; one that cannot be met is not held against anyone.",
        cites="3/format",
        steps=_coap(
            *(
                Coap(
                    payload=request(deviceName=f"«tag»{accept}"),
                    content_format=TEXT,
                    accept=accept,
                    expect=Granted(name=f"«tag»{accept}"),
                    format=answered,
                )
                for accept, answered in ((JSON, JSON), (TEXT, TEXT), (LINK, JSON))
            ),
        ),
    ),
    Case(
        id="coap/formats-mixed",
        says="JSON and protobuf in turn from one client, each answered in its own; octets are announced.",
        cites="3/protobuf 3/format",
        steps=_coap(
            Coap(payload=proto(name="«tag»a"), expect=Granted(name="«tag»a", protobuf=True), format=OCTETS),
            Coap(payload=request(deviceName="«tag»b"), expect=Granted(name="«tag»b"), format=JSON),
            Coap(payload=proto(name="«tag»a"), expect=replace(FAILURE, protobuf=True), format=OCTETS),
            Coap(payload=b"", expect=replace(NOT_FOUND, protobuf=True), format=OCTETS, content_format=JSON),
        ),
    ),
    Case(
        id="coap/codes",
        says="SUCCESS is 2.01; FAILURE, NOT_FOUND and an invalid request are 4.00 with the reply.",
        cites="3/success 3/refused 3/invalid",
        steps=_coap(
            Coap(payload=request(), expect=GRANTED, code="2.01"),
            Coap(payload=request(), expect=FAILURE, code="4.00"),
            Coap(payload=request(provisionDeviceSecret="wrong"), expect=NOT_FOUND, code="4.00"),
            Coap(payload="{}", expect=invalid("provisionDeviceKey"), code="4.00"),
        ),
    ),
    Case(
        id="coap/undecodable",
        says="What cannot be decoded is 4.00 without payload, on the ACK.",
        cites="3/undecodable 3/piggyback",
        steps=_coap(
            Coap(payload="hello", expect=UNDECODABLE, piggybacked=True),
            Coap(payload=raw("{~"), expect=UNDECODABLE, piggybacked=True),
        ),
    ),
    Case(
        id="coap/non-confirmable",
        says="A request that wants no ACK is answered too.",
        cites="3/udp 3/success",
        steps=_coap(Coap(payload=request(), expect=GRANTED, confirmable=False)),
    ),
    Case(
        id="coap/retransmitted",
        says="The same datagram again gets the same bytes again, and one device is made.",
        cites="3/retransmission",
        steps=_coap(Coap(payload=request(deviceName=...), expect=Granted(name=None), times=4), Devices(1)),
    ),
    Case(
        id="coap/impatient",
        says="Also when the repetitions come before the answer.",
        cites="3/retransmission",
        steps=_coap(Coap(payload=request(deviceName=...), expect=Granted(name=None), times=6, burst=5), Devices(1)),
    ),
    Case(
        id="coap/retransmitted-non",
        says="Also for a request that wants no ACK.",
        cites="3/retransmission",
        steps=_coap(
            Coap(payload=request(deviceName=...), expect=Granted(name=None), confirmable=False, burst=3, times=3),
            Devices(1),
        ),
    ),
    Case(
        id="coap/small-blocks",
        says="Both bodies in blocks of the client's size.",
        cites="3/blockwise",
        steps=_coap(
            Coap(payload=request(), part=slice(0, 64), block1=(0, True, 2), code="2.31"),
            Coap(payload=request(), part=slice(64, 128), block1=(1, True, 2), code="2.31"),
            Coap(
                payload=request(),
                part=slice(128, None),
                block1=(2, False, 2),
                block2=(0, False, 4),
                code="2.01",
                format=JSON,
                gets_block2=(0, True, 4),
            ),
            Coap(block2=(1, False, 4), gets_block2=(1, False, 4), code="2.01", expect=GRANTED),
            Devices(1),
        ),
    ),
    Case(
        id="coap/block-twice",
        says="A block that comes twice, as a new message, changes nothing.",
        cites="3/blockwise",
        steps=_coap(
            Coap(payload=request(), part=slice(0, 64), block1=(0, True, 2), code="2.31"),
            Coap(payload=request(), part=slice(64, 128), block1=(1, True, 2), code="2.31"),
            Coap(payload=request(), part=slice(64, 128), block1=(1, True, 2), code="2.31"),
            Coap(payload=request(), part=slice(128, None), block1=(2, False, 2), expect=GRANTED),
        ),
    ),
    Case(
        id="coap/block-gap",
        says="A body with a gap is 4.08, and nothing is made.",
        cites="3/body-limit",
        steps=_coap(
            Coap(payload=request(), part=slice(0, 64), block1=(0, True, 2), code="2.31"),
            Coap(payload=request(), part=slice(128, None), block1=(2, False, 2), code="4.08"),
            Coap(payload=request(), part=slice(64, 128), block1=(5, True, 2), code="4.08"),
            Devices(0),
        ),
    ),
    Case(
        id="coap/block-far",
        says="A block past the limit is 4.13 at once.",
        cites="3/body-limit",
        steps=_coap(Coap(payload=b"x" * 1024, block1=(64, True, 6), code="4.13")),
    ),
    Case(
        id="coap/empty-reply",
        says="An empty payload is 4.00 with the bytes 08 02.",
        cites="3/empty",
        steps=_coap(Coap(expect=replace(NOT_FOUND, protobuf=True), code="4.00", format=OCTETS)),
    ),
)

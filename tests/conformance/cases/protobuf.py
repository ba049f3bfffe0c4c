"""Requests and replies in protobuf; over HTTP each of them is refused."""

from tests.conformance.cases.credentials import BASIC, X509
from tests.conformance.clients.protobuf import Proto
from tests.conformance.model import (
    CHECK_PRE,
    FAILURE,
    NOT_FOUND,
    UNDECODABLE,
    X509_CHAIN,
    Ask,
    Attempted,
    Case,
    Device,
    Devices,
    Granted,
    Step,
    Stored,
    Transport,
    invalid,
)
from tests.conformance.requests import Steps, ask, ask_proto, basic_proto, hash_proto, proto, token_proto

_FALLBACK = "1.3/2-protobuf 3/protobuf"
_TYPE_X509, _TYPE_BASIC, _TYPE_LWM2M = 1, 2, 3
_NONCE = "0123456789abcdef0123456789abcde«number»"


def _served(*steps: Step) -> dict[Transport, Steps]:
    """Steps for where protobuf is taken."""
    return {transport: steps for transport in Transport if transport is not Transport.HTTP}


_FORMAT = (
    Case(
        id="protobuf/bytes",
        says="A request of known bytes, with a key that nobody has: the reply is 08 02; over HTTP it is no request.",
        cites=f"{_FALLBACK} 2/no-protobuf 4.5/request 4.5/keys 4.5/refusal 4.5/statuses 1.4/not-found 3/format",
        steps=(ask_proto(bytes.fromhex("0a03636174 1a0b 0a026e6f 12056e6f6e6f6e".replace(" ", "")), NOT_FOUND),),
    ),
    Case(
        id="protobuf/minimal",
        says="Key and secret alone: the reply is status and token.",
        cites=f"{_FALLBACK} 4.5/request 4.5/keys 4.5/response 4.5/types 4.5/statuses",
        steps=_served(ask_proto(proto(name=""), Granted(name=None)), Devices(1)),
    ),
    Case(
        id="protobuf/not-over-http",
        says="Over HTTP a protobuf request makes nothing.",
        cites="2/no-protobuf 2/malformed",
        steps={Transport.HTTP: (Ask(proto(), UNDECODABLE), Devices(0))},
    ),
    Case(
        id="protobuf/token",
        says="A token of the device's own.",
        cites="4.5/credentials 4.5/response 4.2/token",
        steps=_served(
            ask_proto(proto(credentials=token_proto("tok-«tag»")), Granted(value="tok-«tag»")),
            Stored(credentials_id="tok-«tag»"),
        ),
    ),
    Case(
        id="protobuf/certificate",
        says="A certificate of 4 KB: type 1, and the stripped text.",
        cites="4.5/credentials 4.5/types 4.5/response 4.2/x509 3/blockwise",
        steps=_served(
            ask_proto(proto(type_=_TYPE_X509, credentials=hash_proto("«pem»")), Granted(type=X509, value="«body»")),
        ),
    ),
    Case(
        id="protobuf/basic",
        says="MQTT basic credentials: type 2, and JSON text as the value.",
        cites="4.5/credentials 4.5/types 4.5/basic 4.2/basic",
        steps=_served(
            ask_proto(
                proto(type_=_TYPE_BASIC, credentials=basic_proto("c-«tag»", "u-«tag»", "p")),
                Granted(type=BASIC, value={"clientId": "c-«tag»", "userName": "u-«tag»", "password": "p"}),
            ),
            ask_proto(
                proto(name="«tag»b", type_=_TYPE_BASIC, credentials=basic_proto(user_name="v-«tag»")),
                Granted(name="«tag»b", type=BASIC, value={"clientId": "", "userName": "v-«tag»", "password": ""}),
            ),
        ),
    ),
    Case(
        id="protobuf/gateway",
        says="Field 5 makes a gateway.",
        cites="4.5/request 4.1/gateway",
        steps=_served(ask_proto(proto(gateway=True), Granted()), Stored(gateway=True)),
    ),
    Case(
        id="protobuf/type-without-members",
        says="A type without members: a token, whose type 0 is left out of the reply.",
        cites="4.2/none 4.5/response",
        steps=_served(ask_proto(proto(type_=_TYPE_X509), Granted())),
    ),
)

_DECIDED = (
    Case(
        id="protobuf/missing",
        says="Without key, secret or both: NOT_FOUND.",
        cites="4.5/missing 4.5/refusal",
        steps=_served(
            ask_proto(proto(key=""), NOT_FOUND),
            ask_proto(proto(secret=""), NOT_FOUND),
            ask_proto(Proto(((1, "«tag»"),)), NOT_FOUND),
            Devices(0),
        ),
    ),
    Case(
        id="protobuf/wrong-secret",
        says="A wrong secret: 08 02.",
        cites="4.5/statuses 4.5/refusal 5.1/5-secret 1.4/not-found",
        steps=_served(ask_proto(proto(secret="wrong"), NOT_FOUND), Devices(0)),
    ),
    Case(
        id="protobuf/failure",
        says="A name that is taken: 08 03.",
        cites="4.5/statuses 4.5/refusal 1.4/failure",
        steps=_served(ask_proto(proto(), Granted()), ask_proto(proto(), FAILURE), Devices(1)),
    ),
    Case(
        id="protobuf/blank-name",
        says="A blank name: 08 03, before the key.",
        cites="5.1/1 4.5/refusal",
        steps=_served(ask_proto(proto(name="  ", key="nobody's"), FAILURE)),
    ),
    Case(
        id="protobuf/token-missing",
        says="The wrong kind of credentials: 08 03.",
        cites="4.2/token-missing 4.2/x509-no-hash 4.2/lwm2m 4.5/refusal",
        steps=_served(
            ask_proto(proto(credentials=hash_proto("x")), FAILURE),
            ask_proto(proto(type_=_TYPE_X509, credentials=token_proto("x")), FAILURE),
            ask_proto(proto(type_=_TYPE_LWM2M, credentials=token_proto("x")), FAILURE),
            Devices(0),
        ),
    ),
    Case(
        id="protobuf/chain",
        says="A chain profile: 08 02, not silence.",
        cites="5.1/5-chain 4.3/silence",
        strategy=X509_CHAIN,
        steps=_served(ask_proto(proto(), NOT_FOUND)),
    ),
    Case(
        id="protobuf/check",
        says="A pre-provisioned device gets its token.",
        cites="5.1/5-check 4.5/response",
        strategy=CHECK_PRE,
        devices=(Device(token="tok-«tag»"),),
        steps=_served(ask_proto(proto(), Granted(value="tok-«tag»")), ask_proto(proto(), FAILURE)),
    ),
    Case(
        id="protobuf/unknown-type",
        says="A number that no type has: 08 03.",
        cites="4.5/unknown-type 4.3/silence",
        steps=_served(ask_proto(proto(type_=4), invalid("")), ask_proto(proto(type_=300), invalid("")), Devices(0)),
    ),
    Case(
        id="protobuf/nonce",
        says="Field 100 is `requestNonce`; a repeat in JSON is the same request.",
        cites="ours/nonce ours/nonce-form",
        steps=_served(
            ask_proto(proto((100, _NONCE)), Granted()),
            ask_proto(proto((100, _NONCE)), Granted(same_as=0)),
            ask(Granted(same_as=0), requestNonce=_NONCE, credentialsType="ACCESS_TOKEN"),
            ask_proto(proto((100, "short"), name="«tag»b"), invalid("")),
            Devices(1),
        ),
    ),
)

_PROTO3 = (
    Case(
        id="protobuf/unknown-fields",
        says="Unknown fields of every wire type are skipped, wherever they are.",
        cites="4.5/proto3",
        steps=_served(
            ask_proto(
                Proto(
                    (
                        (9, 7),
                        (1, "«tag»"),
                        (19, b"\xff\xfe"),
                        (3, Proto(((1, "«key»"), (7, "more"), (2, "«secret»"), (8, 1)))),
                        (4, Proto(((9, b""), (1, Proto(((2, "more"), (1, "tok-«tag»"))))))),
                    )
                ),
                Granted(value="tok-«tag»"),
            ),
        ),
    ),
    Case(
        id="protobuf/merged",
        says="A message that comes in parts is one.",
        cites="4.5/proto3",
        steps=_served(
            ask_proto(
                Proto(
                    (
                        (3, Proto(((1, "«key»"),))),
                        (2, _TYPE_BASIC),
                        (4, basic_proto(client_id="c-«tag»")),
                        (3, Proto(((2, "«secret»"),))),
                        (4, basic_proto(user_name="u-«tag»")),
                        (1, "«tag»"),
                    )
                ),
                Granted(type=BASIC, value={"clientId": "c-«tag»", "userName": "u-«tag»", "password": ""}),
            ),
        ),
    ),
    Case(
        id="protobuf/merged-inside",
        says="Also one inside another: an empty second part of it takes nothing away.",
        cites="4.5/proto3",
        steps=_served(
            ask_proto(
                proto(credentials=Proto(((1, Proto(((1, "tok-«tag»"),))), (1, Proto(()))))),
                Granted(value="tok-«tag»"),
            ),
        ),
    ),
    Case(
        id="protobuf/last-counts",
        says="Of a name, a token, a password that comes twice the last one counts.",
        cites="4.5/proto3",
        steps=_served(
            ask_proto(
                Proto(((1, "first"), *proto(credentials=token_proto("first")).fields, (4, token_proto("tok-«tag»")))),
                Granted(value="tok-«tag»"),
            ),
            ask_proto(
                proto(
                    name="«tag»b",
                    type_=_TYPE_BASIC,
                    credentials=Proto(((3, Proto(((2, "u-«tag»"), (3, "first"), (3, "last")))),)),
                ),
                Granted(name="«tag»b", type=BASIC, value={"clientId": "", "userName": "u-«tag»", "password": "last"}),
            ),
        ),
    ),
    Case(
        id="protobuf/order",
        says="Fields may come in any order.",
        cites="4.5/proto3",
        steps=_served(ask_proto(Proto(tuple(reversed(proto(gateway=True).fields))), Granted()), Stored(gateway=True)),
    ),
    Case(
        id="protobuf/truncated",
        says="A message that ends too early is none.",
        cites="1.4/undecodable-v3 1.4/undecodable-v5 3/undecodable",
        steps=_served(Ask(b"\x0a\x05cat", UNDECODABLE), Attempted("UNDECODABLE")),
    ),
    Case(
        id="protobuf/not-utf-8",
        says="A string that is not UTF-8 makes it none.",
        cites="1.4/undecodable-v3 1.4/undecodable-v5 3/undecodable",
        steps=_served(Ask(b"\x0a\x02\xff\xfe", UNDECODABLE)),
    ),
)

CASES = (*_FORMAT, *_DECIDED, *_PROTO3)

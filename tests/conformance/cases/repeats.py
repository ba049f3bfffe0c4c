"""What a device gets that asks again: by policy, by nonce, after `device rearm`."""

from tests.conformance.cases.credentials import X509
from tests.conformance.model import (
    ALLOW_CREATE,
    CHECK_PRE,
    FAILURE,
    NOT_FOUND,
    Attempted,
    Case,
    Delete,
    Device,
    Devices,
    Granted,
    Rearm,
    Stored,
    Strategy,
    Use,
    invalid,
)
from tests.conformance.requests import Steps, ask

NONCE = "0123456789abcdef0123456789abcde«number»"
OTHER_NONCE = "fedcba9876543210-fedcba9876543210_«number»"
AGAIN = Granted(same_as=0)

_POLICIES = (
    Case(
        id="repeat/deny",
        says="Policy deny: a repeat is FAILURE, however often, and used or not.",
        cites="5.4/repeat 5.1/5-create-exists",
        steps=(ask(Granted()), ask(FAILURE), Use(0), ask(FAILURE), Devices(1)),
    ),
    Case(
        id="repeat/return-same",
        says="Policy return_same: the same answer, before and after the first use.",
        cites="5.4/return-same",
        policy="return_same",
        steps=(ask(Granted()), ask(AGAIN), Use(0), ask(AGAIN), Devices(1), Stored()),
    ),
    Case(
        id="repeat/return-same-check",
        says="Policy return_same for a pre-provisioned device.",
        cites="5.4/return-same",
        strategy=CHECK_PRE,
        policy="return_same",
        devices=(Device(token="tok-«tag»"),),
        steps=(ask(Granted(value="tok-«tag»")), ask(Granted(value="tok-«tag»", same_as=0))),
    ),
    Case(
        id="repeat/until-first-use",
        says="Policy until_first_use: the same answer until the credentials were used, then FAILURE.",
        cites="ours/until-first-use",
        policy="until_first_use",
        steps=(ask(Granted()), ask(AGAIN), ask(AGAIN), Use(0), ask(FAILURE), Attempted("ALREADY_USED"), Devices(1)),
    ),
    Case(
        id="repeat/rotate",
        says="Policy rotate: other credentials each time, which wait beside the old ones until they are used.",
        cites="ours/rotate",
        policy="rotate",
        steps=(
            ask(Granted()),
            Use(0),
            ask(Granted(other_than=0)),
            Stored(credentials=2),
            ask(Granted(other_than=1)),
            Stored(credentials=2),
            Use(2),
            Stored(credentials=1),
            ask(Granted(other_than=2)),
            Stored(credentials=2),
        ),
    ),
    Case(
        id="repeat/rotate-imported",
        says="Imported credentials do not rotate.",
        cites="ours/rotate 5.4/supplied",
        strategy=CHECK_PRE,
        policy="rotate",
        devices=(Device(token="tok-«tag»"),),
        steps=(
            ask(Granted(value="tok-«tag»")),
            ask(Granted(value="tok-«tag»"), token="mine-«tag»"),
            Stored(credentials=1),
        ),
    ),
    Case(
        id="repeat/other-credentials",
        says="A repeat with a token that is not the stored one: FAILURE; with the stored one the same answer.",
        cites="ours/policy-other",
        policy="return_same",
        steps=(
            ask(Granted(value="tok-«tag»"), token="tok-«tag»"),
            ask(FAILURE, token="new-«tag»"),
            Attempted("OTHER_CREDENTIALS"),
            ask(Granted(value="tok-«tag»", same_as=0), token="tok-«tag»"),
            Stored(credentials_id="tok-«tag»"),
        ),
    ),
    Case(
        id="repeat/elsewhere",
        says="No policy gives the credentials of another profile's device.",
        cites="5.4/return-same 5.1/5-create-exists",
        policy="return_same",
        other=ALLOW_CREATE,
        devices=(Device(other=True),),
        steps=(ask(FAILURE), Attempted("NAME_ELSEWHERE")),
    ),
    Case(
        id="repeat/deleted",
        says="The name of a deleted device is free.",
        cites="5.1/5-create",
        steps=(ask(Granted()), Delete(), ask(Granted(other_than=0)), Devices(1)),
    ),
)


def _malformed(nonce: str) -> Steps:
    return (ask(invalid("requestNonce"), requestNonce=nonce),)


_NONCES = (
    Case(
        id="nonce/again",
        says="The same request with the same nonce gets the same answer again.",
        cites="ours/nonce",
        steps=(
            ask(Granted(), requestNonce=NONCE),
            ask(AGAIN, requestNonce=NONCE),
            ask(AGAIN, requestNonce=NONCE),
            Devices(1),
            Stored(),
        ),
    ),
    Case(
        id="nonce/unnamed",
        says="Also when the name was made up: no second device.",
        cites="ours/nonce 5.3/name-told",
        steps=(
            ask(Granted(name=None), deviceName=..., requestNonce=NONCE),
            ask(Granted(name=None, same_as=0), deviceName=..., requestNonce=NONCE),
            Devices(1),
        ),
    ),
    Case(
        id="nonce/check",
        says="Also for a pre-provisioned device.",
        cites="ours/nonce",
        strategy=CHECK_PRE,
        devices=(Device(),),
        steps=(ask(Granted(), requestNonce=NONCE), ask(AGAIN, requestNonce=NONCE), ask(FAILURE)),
    ),
    Case(
        id="nonce/certificate",
        says="Also with a certificate of the device's own.",
        cites="ours/nonce",
        steps=(
            ask(Granted(type=X509, value="«body»"), credentialsType=X509, hash="«pem»", requestNonce=NONCE),
            ask(Granted(type=X509, value="«body»", same_as=0), credentialsType=X509, hash="«pem»", requestNonce=NONCE),
            ask(FAILURE, credentialsType=X509, hash="«short.pem»", requestNonce=NONCE),
        ),
    ),
    Case(
        id="nonce/used",
        says="Until the credentials were used: then FAILURE.",
        cites="ours/nonce",
        steps=(ask(Granted(), requestNonce=NONCE), Use(0), ask(FAILURE, requestNonce=NONCE), Devices(1)),
    ),
    Case(
        id="nonce/other-name",
        says="Another request with that nonce: FAILURE, and no device is made.",
        cites="ours/nonce-other",
        steps=(
            ask(Granted(), requestNonce=NONCE),
            ask(FAILURE, deviceName="«tag»b", requestNonce=NONCE),
            Attempted("NONCE_REUSED"),
            ask(FAILURE, gateway=True, requestNonce=NONCE),
            ask(FAILURE, token="tok-«tag»", requestNonce=NONCE),
            Devices(1),
        ),
    ),
    Case(
        id="nonce/other-nonce",
        says="The same request with another nonce is a repeat without proof: FAILURE, as without any.",
        cites="ours/nonce 5.4/repeat",
        steps=(
            ask(Granted(), requestNonce=NONCE),
            ask(FAILURE, requestNonce=OTHER_NONCE),
            ask(FAILURE),
            ask(AGAIN, requestNonce=NONCE),
        ),
    ),
    Case(
        id="nonce/wrong-secret",
        says="A nonce is no substitute for the secret.",
        cites="ours/nonce 5.1/5-secret",
        steps=(
            ask(Granted(), requestNonce=NONCE),
            ask(NOT_FOUND, requestNonce=NONCE, provisionDeviceSecret="wrong"),
        ),
    ),
    Case(
        id="nonce/other-profile",
        says="A nonce counts within its profile: the same one may be used in another.",
        cites="ours/nonce-scope",
        strategy=CHECK_PRE,
        other=CHECK_PRE,
        devices=(Device(), Device(name="«tag»b", other=True)),
        steps=(
            ask(Granted(), requestNonce=NONCE),
            ask(
                Granted(name="«tag»b", other=True),
                deviceName="«tag»b",
                requestNonce=NONCE,
                provisionDeviceKey="«other.key»",
                provisionDeviceSecret="«other.secret»",
            ),
            ask(AGAIN, requestNonce=NONCE),
        ),
    ),
    Case(
        id="nonce/malformed",
        says="Too short, too long, or other characters: FAILURE that names the member; nothing is made.",
        cites="ours/nonce-form",
        steps=(
            *_malformed("0" * 31),
            *_malformed("0" * 129),
            *_malformed("0" * 31 + "="),
            *_malformed("0" * 31 + "+"),
            *_malformed("0" * 32 + "\n"),
            *_malformed(""),
            Devices(0),
        ),
    ),
    Case(
        id="nonce/lengths",
        says="32 and 128 characters of base64url are fine.",
        cites="ours/nonce-form",
        steps=(
            ask(Granted(name="«tag»a"), deviceName="«tag»a", requestNonce="aZ09-_" + "0" * 26),
            ask(Granted(name="«tag»b"), deviceName="«tag»b", requestNonce="-" * 128),
        ),
    ),
    Case(
        id="nonce/switched",
        says="A repeat by nonce outlives a change of strategy.",
        cites="ours/nonce",
        steps=(ask(Granted(), requestNonce=NONCE), Strategy(CHECK_PRE), ask(AGAIN, requestNonce=NONCE)),
    ),
)

_REARM = (
    Case(
        id="rearm/once",
        says="After `device rearm` the device provisions itself once more; its old credentials are gone.",
        cites="ours/rearm",
        steps=(
            ask(Granted()),
            ask(FAILURE),
            Rearm(),
            ask(Granted(other_than=0)),
            Stored(),
            ask(FAILURE),
        ),
    ),
    Case(
        id="rearm/check",
        says="The same for a pre-provisioned device with a generated token.",
        cites="ours/rearm",
        strategy=CHECK_PRE,
        devices=(Device(),),
        steps=(ask(Granted()), Rearm(), ask(Granted(other_than=0)), Stored(), ask(FAILURE)),
    ),
    Case(
        id="rearm/wrong-secret",
        says="A stranger does not use it up.",
        cites="ours/rearm 5.1/5-secret",
        steps=(
            ask(Granted()),
            Rearm(),
            ask(NOT_FOUND, provisionDeviceSecret="wrong"),
            ask(Granted(other_than=0)),
        ),
    ),
    Case(
        id="rearm/nonce",
        says="The old nonce is spent: the request is granted anew, once, and then repeats.",
        cites="ours/rearm ours/nonce",
        steps=(
            ask(Granted(), requestNonce=NONCE),
            Rearm(),
            ask(Granted(other_than=0), requestNonce=NONCE),
            ask(Granted(same_as=1), requestNonce=NONCE),
            Devices(1),
            Stored(),
        ),
    ),
    Case(
        id="rearm/supplied",
        says="The device may bring a new token.",
        cites="ours/rearm",
        steps=(
            ask(Granted(value="old-«tag»"), token="old-«tag»"),
            Rearm(),
            ask(Granted(value="new-«tag»"), token="new-«tag»"),
            Stored(credentials_id="new-«tag»"),
        ),
    ),
)

CASES = (*_POLICIES, *_NONCES, *_REARM)

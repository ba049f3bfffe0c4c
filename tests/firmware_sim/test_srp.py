import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from firmware_sim.srp import LENGTH, Exchange, N, Refused, Verifier
from provserver.core.srp6a import ESP, Client

VERIFIER = Verifier.of("wifiprov", "abcd1234", bytes(range(1, 17)))
texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=24)
secrets = st.integers(1 << 200, (1 << 256) - 1)


@given(texts, texts, st.binary(min_size=1, max_size=32), secrets, secrets)
@settings(max_examples=10)
def test_both_sides_agree(username: str, proof: str, salt: bytes, ours: int, theirs: int) -> None:
    client = Client(ESP, username.encode(), proof.encode(), ours)
    exchange = Exchange(Verifier.of(username, proof, salt), client.public, theirs)
    agreement = client.agree(salt, exchange.public)
    assert agreement.key == exchange.key
    assert exchange.answer(username.encode(), agreement.proof) == agreement.answer


@pytest.mark.parametrize(("username", "proof"), [("wifiprov", "abcd1235"), ("wifiprow", "abcd1234"), ("", "")])
def test_who_does_not_know_it(username: str, proof: str) -> None:
    client = Client(ESP, username.encode(), proof.encode(), 1 << 255)
    exchange = Exchange(VERIFIER, client.public, 1 << 254)
    agreement = client.agree(VERIFIER.salt, exchange.public)
    assert agreement.key != exchange.key
    assert exchange.answer(username.encode(), agreement.proof) is None


def test_the_right_proof_under_another_name() -> None:
    client = Client(ESP, b"wifiprov", b"abcd1234", 1 << 255)
    exchange = Exchange(VERIFIER, client.public, 1 << 254)
    proof = client.agree(VERIFIER.salt, exchange.public).proof
    assert exchange.answer(b"somebody", proof) is None
    assert exchange.answer(b"wifiprov", proof) is not None


@pytest.mark.parametrize("multiple", [0, 1, 2])
def test_a_key_that_everybody_knows(multiple: int) -> None:
    with pytest.raises(Refused):
        Exchange(VERIFIER, (multiple * N).to_bytes(LENGTH + 1), 1 << 255)

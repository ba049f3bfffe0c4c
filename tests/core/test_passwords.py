import subprocess
import sys

import argon2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from provserver.core import passwords
from provserver.errors import Invalid

EMAIL = "ann.miller@example.com"
SALT = bytes(range(16))


@pytest.mark.parametrize(
    "password", ["plum pudding 7", "x8#k" * 256, "ünïcödé ✓ sälz", "aaaaaaaabcd", "correct horse battery staple"]
)
def test_good_passwords_are_taken(password: str) -> None:
    passwords.check(password, EMAIL)


@pytest.mark.parametrize(
    ("password", "reason"),
    [
        ("short 123", "too short"),
        ("", "too short"),
        ("x8#k" * 256 + "!", "too long"),
        (EMAIL, "e-mail address"),
        (f" {EMAIL.upper()}", "e-mail address"),
        ("ann.miller", "e-mail address"),
        ("1234567890", "among the first"),
        ("Password123", "among the first"),
        ("QWERTYUIOP", "among the first"),
        ("aaaaaaaaaaaa", "among the first"),
        ("ababababab", "among the first"),
    ],
)
def test_others_are_refused_and_never_named(password: str, reason: str) -> None:
    with pytest.raises(Invalid, match=reason) as refused:
        passwords.check(password, EMAIL)
    assert not password or password not in str(refused.value)


def test_every_common_password_is_long_enough_to_be_on_the_list() -> None:
    assert all(len(each) >= passwords.MIN_LENGTH for each in passwords._COMMON)
    assert all(each == each.casefold() for each in passwords._COMMON)


def test_the_hash_is_argon2id_with_the_parameters_that_owasp_names() -> None:
    hash_ = passwords.hashed("plum pudding 7", SALT)

    parameters = argon2.extract_parameters(hash_)
    assert hash_.startswith("$argon2id$v=19$m=19456,t=2,p=1$")
    assert (parameters.salt_len, parameters.hash_len) == (16, 32)
    assert passwords.hashed("plum pudding 7", SALT) == hash_
    assert passwords.hashed("plum pudding 7", bytes(16)) != hash_
    assert not passwords.outdated(hash_)
    assert passwords.outdated(argon2.PasswordHasher(time_cost=1, memory_cost=64, parallelism=1).hash("x"))


def test_the_library_is_loaded_by_who_hashes_only() -> None:
    """Every command would pay for it."""
    modules = "provserver.services.sign_in, provserver.services.users, provserver.services.api_keys"
    program = f"import sys, {modules}; sys.exit('argon2' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_nobodys_hash_costs_what_a_users_does() -> None:
    assert argon2.extract_parameters(passwords.NOBODYS) == argon2.extract_parameters(passwords.hashed("x", SALT))
    assert not passwords.outdated(passwords.NOBODYS)


@settings(max_examples=10)
@given(st.text(max_size=40), st.text(max_size=40))
def test_a_hash_is_of_one_password(right: str, other: str) -> None:
    hash_ = passwords.hashed(right, SALT)

    assert passwords.verify(hash_, right)
    same = passwords._prepared(right) == passwords._prepared(other)
    assert passwords.verify(hash_, other) == same


def test_a_character_is_the_same_however_it_was_typed() -> None:
    assert passwords.verify(passwords.hashed("cafe\u0301 noir!", SALT), "café noir!")


@pytest.mark.parametrize("hash_", [None, passwords.NOBODYS, "", "garbage", "$argon2id$v=19$m=19456,t=2,p=1$?$?"])
@pytest.mark.parametrize("password", ["", "plum pudding 7", "x" * 2000, "\ud800"])
def test_nobody_has_a_password(hash_: str | None, password: str) -> None:
    assert not passwords.verify(hash_, password)


def test_a_password_that_is_too_long_is_never_right() -> None:
    assert not passwords.verify(passwords.hashed("", SALT), "x" * 1025)
    assert not passwords.verify(passwords.hashed("x" * 1025, SALT), "x" * 1025)

"""People's passwords: which are taken, and their argon2id hashes; salts are passed in.

The hashing library is loaded at the first hash: commands that need none start without it.
"""

import unicodedata
from functools import cache
from typing import TYPE_CHECKING

from provserver.errors import Invalid

if TYPE_CHECKING:
    from argon2 import PasswordHasher

MIN_LENGTH = 10
MAX_LENGTH = 1024

SALT_LENGTH = 16
_HASH_LENGTH = 32
_TIME_COST = 2
_MEMORY = 19 * 1024  # KiB
_PARALLELISM = 1

NOBODYS = f"$argon2id$v=19$m={_MEMORY},t={_TIME_COST},p={_PARALLELISM}${'A' * 22}${'A' * 43}"
"""A hash that no password has: who does not exist is checked against it, and takes as long as who does."""

_LIST = """
0123456789 01234567890 0987654321 1029384756 111222333444 11223344556677 1122334455 1123581321 12121212121
123123123123 1231231231 123321123321 1234512345 12345123456 123456123456 1234561234 1234567891 12345678910
1234567899 1234567890 12345678901 123456789012 1234567890123 123456789a 1234567890a 123456789abc 123456789q
123456789qwerty 1234554321 12345qwert 12345qwerty 123qwe123qwe 123qweasdzxc 1357924680 1q2w3e4r5t 1q2w3e4r5t6y
1q2w3e4r5t6y7u 1q2w3e4r5t6y7u8i9o0p 1qaz2wsx3edc 1qaz2wsx3edc4rfv 1qazxsw23edc 2468101214 3141592653
31415926535 5432112345 6543210123 7894561230 789456123a 9876543210 987654321a 9638527410 abc1234567
abc123456789 abcd123456 abcd12345678 abcde12345 abcdef1234 abcdefghij abcdefghijk administrator administrator1
admin12345 admin123456 admin1234567 adminadmin adminadmin1 asdf123456 asdfasdfasdf asdfghjkl1 asdfghjkl123
asdfghjkl; asdfghjklqwertyuiop baseball123 basketball bismillah1 changeme12 changeme123 changemenow changemeplease
cheesecake1 chocolate1 chocolate123 computer123 correcthorsebatterystaple default123 defaultpassword
documentation dragon12345 football12 football123 helloworld helloworld1 helloworld123 hello12345 iloveyou12
iloveyou123 iloveyou1234 internet123 letmein123 letmein1234 letmeinnow liverpool1 liverpool123
manchester manchester1 master12345 michael123 mypassword mypassword1 mypassword123 newpassword newpassword1
p@ssw0rd12 p@ssw0rd123 p@ssword12 p@ssword123 passw0rd12 passw0rd123 passw0rd1234 password00 password01
password10 password11 password12 password12! password123 password123! password1234 password12345 password123456
password1! password1@ password123456789 password21 password99 passwordpassword pokemon123 princess12 princess123
q1w2e3r4t5 q1w2e3r4t5y6 qazwsx1234 qazwsx12345 qazwsxedc1 qazwsxedc123 qazwsxedcrfv qwe123qwe123 qwer123456
qwer12345678 qwerasdfzxcv qwert12345 qwert123456 qwertqwert qwerty1234 qwerty12345 qwerty123456 qwerty1234567
qwerty12345678 qwerty123456789 qwertyqwerty qwertyuiop qwertyuiop1 qwertyuiop12 qwertyuiop123 qwertyuiop[]
secret1234 secret12345 shadow1234 starwars123 sunshine12 sunshine123 superman12 superman123 supersecret
temppassword test123456 test1234567 test12345678 testpassword testtest12 testtest123 testtesttest trustno1234
unbelievable user123456 username12 username123 welcome123 welcome1234 welcome12345 welcome2020 welcome2021
welcome2022 welcome2023 welcome2024 welcome2025 welcome2026 whatever12 whatever123 zaq12wsxcde3 zaq1zaq1zaq1
zxcvbnm123 zxcvbnm1234 zxcvbnm12345 zxcvbnmasdfghjkl provserver provserver1 provserver123
"""

_COMMON = frozenset(_LIST.split())
"""What attackers try first, of those that are long enough."""

_MIN_VARIETY = 4


def check(password: str, email: str) -> None:
    """Whether a password may be chosen by who has this e-mail address. Raises Invalid, without the password."""
    if len(password) < MIN_LENGTH:
        raise Invalid(f"The password is too short. Choose one of {MIN_LENGTH} characters or more.")
    if len(password) > MAX_LENGTH:
        raise Invalid(f"The password is too long. Choose one of at most {MAX_LENGTH} characters.")
    check_apart(password, email)
    folded = password.strip().casefold()
    if folded in _COMMON or len(set(folded)) < _MIN_VARIETY:
        raise Invalid("This password is among the first that are tried by who guesses. Choose another.")


def check_apart(password: str, email: str) -> None:
    """Whether a password is another word than this e-mail address. Raises Invalid, without the password."""
    if password.strip().casefold() in {email.casefold(), email.partition("@")[0].casefold()}:
        raise Invalid("The password must not be your e-mail address. Choose another.")


def hashed(password: str, salt: bytes) -> str:
    """The argon2id hash of a password, in its usual text form; slow. salt: SALT_LENGTH random bytes."""
    return _hasher().hash(_prepared(password), salt=salt)


def verify(hash_: str | None, password: str) -> bool:
    """Whether it is the password of this hash; for nobody's (None) it is not, after as long; slow."""
    from argon2.exceptions import InvalidHashError, VerificationError

    fits = len(password) <= MAX_LENGTH
    try:
        right = _hasher().verify(NOBODYS if hash_ is None else hash_, _prepared(password if fits else ""))
    except (VerificationError, InvalidHashError):
        return False
    return right and fits and hash_ is not None


def outdated(hash_: str) -> bool:
    """Whether a hash was made with other parameters than today's."""
    return _hasher().check_needs_rehash(hash_)


@cache
def _hasher() -> "PasswordHasher":
    from argon2 import PasswordHasher, Type

    return PasswordHasher(
        time_cost=_TIME_COST,
        memory_cost=_MEMORY,
        parallelism=_PARALLELISM,
        hash_len=_HASH_LENGTH,
        salt_len=SALT_LENGTH,
        type=Type.ID,
    )


def _prepared(password: str) -> bytes:
    """Keyboards write one character in several ways (RFC 8265 §4.2.2)."""
    return unicodedata.normalize("NFC", password).encode("utf-8", "surrogatepass")

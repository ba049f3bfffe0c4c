"""What the admin API says of a value that it cannot read, for people who fill in forms."""

import re

_WORDS = (
    (r"Expected `str` of length >= 1\b", "it must not be empty"),
    (r"Expected `str` of length >= ([0-9]+)", "it must have {} characters at least"),
    (r"Expected `str` of length <= ([0-9]+)", "it may have {} characters at most"),
    (r"Expected `array` of length >= ([0-9]+)", "choose {} at least"),
    (r"Expected `array` of length <= ([0-9]+)", "there may be {} at most"),
    (r"Expected `(?:int|float)` >= (-?[0-9.]+)", "it must be {} or more"),
    (r"Expected `(?:int|float)` > (-?[0-9.]+)", "it must be more than {}"),
    (r"Expected `(?:int|float)` <= (-?[0-9.]+)", "it may be {} at most"),
    (r"Expected `int(?: \| null)?`, got", "it must be a whole number"),
    (r"Expected `str` matching regex", "it has characters that are not taken here"),
    (r"Invalid RFC3339 encoded datetime", "it must be a date and a time of day"),
    (r"Invalid UUID", "it must be an id, as the address of its page has it"),
    (r"Invalid enum value", "it must be one of those that there are to choose from"),
    (r"Object missing required field `([^`]+)`", "{} is missing"),
)
"""What a reason begins with, and how it is said; `{}` is what was found in it."""


def said(reason: str) -> str:
    """A reason in plain words; one that is in words already stays as it is."""
    for pattern, words in _WORDS:
        if (found := re.match(pattern, reason)) is not None:
            return words.format(*found.groups())
    return reason

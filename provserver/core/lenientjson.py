"""The JSON that ThingsBoard's parser takes (Gson, lenient): a superset of RFC 8259.

Also accepted: unquoted and single-quoted names and strings, `//`, `#` and `/* */` comments, `=` and `=>`
for `:`, `;` for `,`, raw control characters in strings, keywords in any case, omitted array elements (null),
a byte order mark. Refused as there: trailing data, a comma before `}`, unknown escapes. Numbers keep their text.
"""

import re

MAX_DEPTH = 64
"""Levels of nesting; deeper text is refused, so that none can exhaust the stack."""

# Nothing possessive: Python 3.11.2, which is Debian 12's, gets that wrong. As it is, none of these backtracks far.
_BLANK = re.compile(r"(?:[ \t\r\n]+|//[^\r\n]*|\#[^\r\n]*|/\*.*?\*/)*", re.DOTALL)
_LITERAL = re.compile(r"[^/\\;#={}\[\]:, \t\f\r\n]+")
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
_STRINGS = {
    '"': re.compile(r'"([^"\\]*(?:\\.[^"\\]*)*)"', re.DOTALL),
    "'": re.compile(r"'([^'\\]*(?:\\.[^'\\]*)*)'", re.DOTALL),
}
_ESCAPE = re.compile(
    r"\\(u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|.)",  # a surrogate pair is one
    re.DOTALL,
)
_ESCAPED = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}
_KEYWORDS: dict[str, bool | None] = {"null": None, "true": True, "false": False}


class Number(str):
    """A number as its text was, since a device's `1.50` must stay `1.50`."""

    __slots__ = ()


Value = None | bool | str | Number | list["Value"] | dict[str, "Value"]


class SyntaxFault(ValueError):  # noqa: N818
    """The text is not JSON, not even leniently."""


def parse(text: str) -> Value:
    """Read one value that spans the whole text; blank text reads as null. Raises SyntaxFault."""
    reader = _Reader(text.removeprefix("\ufeff"))
    reader.skip_blank()
    if reader.at == len(reader.text):
        return None
    value = reader.value(0)
    reader.skip_blank()
    if reader.at != len(reader.text):
        raise SyntaxFault("data after the end of the value")
    return value


class _Reader:
    __slots__ = ("at", "text")

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0

    def skip_blank(self) -> None:
        match = _BLANK.match(self.text, self.at)
        if match is not None:
            self.at = match.end()

    def peek(self) -> str:
        self.skip_blank()
        return self.text[self.at : self.at + 1]

    def value(self, depth: int) -> Value:
        if depth > MAX_DEPTH:
            raise SyntaxFault("nested too deeply")
        head = self.peek()
        if head == "{":
            return self.object(depth)
        if head == "[":
            return self.array(depth)
        if head in _STRINGS:
            return self.string(head)
        literal = self.literal()
        keyword = literal.lower()
        if keyword in _KEYWORDS:
            return _KEYWORDS[keyword]
        return Number(literal) if _NUMBER.fullmatch(literal) else literal

    def object(self, depth: int) -> dict[str, Value]:
        members: dict[str, Value] = {}
        self.at += 1
        if self.peek() == "}":
            self.at += 1
            return members
        while True:
            head = self.peek()
            name = self.string(head) if head in _STRINGS else self.literal()
            separator = self.peek()
            if separator not in (":", "="):
                raise SyntaxFault("a name without a value")
            self.at += 1
            if separator == "=" and self.text[self.at : self.at + 1] == ">":
                self.at += 1
            members[name] = self.value(depth + 1)
            closing = self.peek()
            self.at += 1
            if closing == "}":
                return members
            if closing not in (",", ";"):
                raise SyntaxFault("an object without its end")

    def array(self, depth: int) -> list[Value]:
        elements: list[Value] = []
        self.at += 1
        if self.peek() == "]":
            self.at += 1
            return elements
        while True:
            elements.append(None if self.peek() in (",", ";", "]") else self.value(depth + 1))
            closing = self.peek()
            self.at += 1
            if closing == "]":
                return elements
            if closing not in (",", ";"):
                raise SyntaxFault("an array without its end")

    def string(self, quote: str) -> str:
        match = _STRINGS[quote].match(self.text, self.at)
        if match is None:
            raise SyntaxFault("a string without its end")
        self.at = match.end()
        body = match[1]
        return _ESCAPE.sub(_unescape, body) if "\\" in body else body

    def literal(self) -> str:
        match = _LITERAL.match(self.text, self.at)
        if match is None:
            raise SyntaxFault("a value is missing")
        self.at = match.end()
        return match[0]


def _unescape(match: re.Match[str]) -> str:
    escape = match[1]
    if len(escape) > 1:
        return bytes.fromhex(escape.replace("u", "").replace("\\", "")).decode("utf-16-be", "surrogatepass")
    if escape in "\"'\\/\n":
        return escape
    try:
        return _ESCAPED[escape]
    except KeyError:
        raise SyntaxFault("an unknown escape") from None

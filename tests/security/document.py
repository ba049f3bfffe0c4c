"""Writes docs/security.md from the clauses: `python -m tests.security.document`."""

from itertools import groupby
from pathlib import Path

from tests.security.clauses import CLAUSES, Clause

PAGE = Path(__file__).parents[2] / "docs" / "security.md"

_INTRODUCTION = """\
# Security

Clause by clause: what is asked, what we do, where, and which test proves it. Modules are below `provserver/`, tests
below `tests/`. This page is written from `tests/security/clauses.py` (`python -m tests.security.document`), and a test
fails when a module or a test that it names is not there.

What an attacker is told: a peer without a right key and secret hears the same of every name, token and claim. A right
key and secret that have leaked provision new devices until the key is removed or its budget is used up; they read
nothing, change no device that is there (unless a profile accepts unproven repeats), and lock nobody out. See
[limits](limits.md), [clones](clones.md), [keys](keys.md), [audit](audit.md), [explain](explain.md).
"""


def document() -> str:
    """The whole page."""
    parts = [_INTRODUCTION]
    for source, clauses in groupby(CLAUSES, key=lambda clause: clause.source):
        rows = "\n".join(map(_row, clauses))
        parts.append(f"## {source}\n\n| clause | asked | done | modules | tests |\n|---|---|---|---|---|\n{rows}\n")
    return "\n".join(parts)


def _row(clause: Clause) -> str:
    modules = "<br>".join(f"`{module}`" for module in clause.modules)
    tests = "<br>".join(f"`{test}`" for test in clause.tests)
    return f"| {clause.clause or '–'} | {clause.asked} | {clause.done} | {modules} | {tests} |"


if __name__ == "__main__":
    PAGE.write_text(document())

"""The command line: `provserver serve`, and `db`, `profile`, `device` on the same database, served or not.

Exit codes: 0 done; 1 refused, nothing was changed; 2 the command line is wrong; 3 the configuration or the machine
is not as it must be; 4 Postgres does not answer now.
"""

from provserver.cli.app import main

__all__ = ["main"]

"""The command line: `serve`, `db`, and what operators do: on the same database, served or not, or on a server.

Exit codes: 0 done; 1 refused, nothing was changed; 2 the command line is wrong; 3 the configuration or the machine
is not as it must be; 4 Postgres, or the server of --server, does not answer now.
"""

import gc

gc.disable()  # all that modules make stays: looking through it again and again takes a tenth of the start

from provserver.cli.app import main  # noqa: E402

gc.freeze()  # nor is it looked through later
gc.enable()

__all__ = ["main"]

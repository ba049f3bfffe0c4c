"""`python -m provserver`."""

from provserver.cli import main

main()

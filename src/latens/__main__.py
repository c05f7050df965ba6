"""`python -m latens`."""

from latens.cli import main

main()

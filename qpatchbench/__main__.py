"""`python -m qpatchbench` is the console script `qpatchbench`."""

from qpatchbench.cli import main

main()

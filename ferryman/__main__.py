"""`python -m ferryman`: the command where it is not installed."""

from ferryman.cli import main

main(prog_name="python -m ferryman")

"""The parts of tools/bench.py."""

SEED = 1234  # of all inputs

"""Whole numbers that users give, in options and in environment variables, and their limits."""

import re

from pivotnet.errors import PivotNetError

COUNT = 10**9  # steps, epochs, samples
BATCH_SIZE = 4096
WORKERS = 1024  # processes
SEED = 2**32 - 1  # numpy's own limit


def whole_number(name: str, text: str, least: int = 1, most: int = COUNT) -> int:
    """The number that the user has given under this name; PivotNetError names the limits."""
    if not (text.isascii() and text.isdigit() and len(text) < 20 and least <= int(text) <= most):
        raise PivotNetError(f"{name} is {text}: give a whole number from {least} to {most}")
    return int(text)


# Releases of CANN whose headers have no random operators for graphs and name no bfloat16 for Cast, Add, Mul, Sub,
# Sigmoid, Convolution, Copy, Zero, ConstantPadNd and MaxPool (8.1.RC1's were read; its kernels for bfloat16 are there).
OLD_CANN = re.compile(r"[5-7]\.|8\.[01]\.")

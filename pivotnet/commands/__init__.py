"""One file a command: each parses options, calls the package and prints. Nothing else knows argparse."""

import argparse
import math
from collections.abc import Callable
from typing import NoReturn

from pivotnet import limits
from pivotnet.errors import PivotNetError

HIGHEST_RATE = 1e6  # of learning


class OptionParser(argparse.ArgumentParser):
    """Its errors are one line."""

    def error(self, message: str) -> NoReturn:
        raise PivotNetError(f"{message}; see {self.prog} --help")


def whole(least: int = 1, most: int = limits.COUNT) -> Callable[[str], int]:
    """The type of an option that is a whole number within these limits."""

    def parse(text: str) -> int:
        try:
            return limits.whole_number("the value", text, least, most)
        except PivotNetError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return parse


positive = whole()
batch_size = whole(1, limits.BATCH_SIZE)
workers = whole(0, limits.WORKERS)  # 0: in this process
processes = whole(1, limits.WORKERS)
seed = whole(0, limits.SEED)


def rate(text: str) -> float:
    """The type of a learning rate."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 <= number <= HIGHEST_RATE:  # NaN is not, either
        raise argparse.ArgumentTypeError(f"the value is {text}: give a number from 0 to {HIGHEST_RATE:g}")
    return number

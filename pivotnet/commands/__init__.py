"""One file a command: each parses options, calls the package and prints. Nothing else knows argparse."""

import argparse


def positive(text: str) -> int:
    """The type of an option that counts something."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is less than 1")
    return number

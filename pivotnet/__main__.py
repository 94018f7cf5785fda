"""``python -m pivotnet`` is ``pivotnet``."""

import sys

from pivotnet.cli import main

if __name__ == "__main__":  # processes that are started by spawn import this file
    sys.exit(main())

"""Adapters with upstream's names and signatures: the only thing that pivotnet.patch imports."""

import sys

from pivotnet.errors import PivotNetError
from pivotnet.launch import require_patched_modules


def require_packages() -> None:
    """Exit with status 2 and one line unless this Python has what the tree imports."""
    try:
        require_patched_modules("requirement.txt")
    except PivotNetError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)

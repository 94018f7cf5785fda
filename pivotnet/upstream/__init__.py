"""Adapters with upstream's names and signatures: the only thing that pivotnet.patch imports."""

from pivotnet.errors import exit_on_error
from pivotnet.launch import require_patched_modules


@exit_on_error()
def require_packages() -> None:
    """Exit with status 2 and one line unless this Python has what the tree imports."""
    require_patched_modules("requirement.txt")

"""Training runs as the run scripts start them: choices, data, folders, ranks, and no process left behind."""

import importlib.util
import sys

from pivotnet.errors import PivotNetError

# imported in the patched tree, whose requirement.txt brings them
PATCHED_MODULES = "torch numpy scipy shapely cv2 PIL rich tensorboard matplotlib loguru tabulate tqdm".split()


def say(text: str) -> None:
    print(f"[pivotnet] {text}", flush=True)


def require_patched_modules(requirements: object) -> None:
    """Raise PivotNetError unless this Python has what the patched tree imports; ``requirements``: its file."""
    missing = [name for name in PATCHED_MODULES if importlib.util.find_spec(name) is None]
    if missing:
        remedy = f"{sys.executable} -m pip install -r {requirements}"
        raise PivotNetError(f"the patched checkout needs {', '.join(missing)}, not installed here: {remedy}")

"""Read the summary.json of a training run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pivotnet.errors import PivotNetError

SUMMARY = "summary.json"
REQUIRED = ("preset", "ranks", "batch_size", "global_batch", "step_seconds", "wall_seconds", "finished")


def read_summary(folder: Path) -> dict[str, Any]:
    """The summary of the run in ``folder`` (its schema stands in training/timing.py).

    Raises:
        PivotNetError: there is none, because the run did not end, or it is damaged.
    """
    path = folder / SUMMARY
    try:
        summary = json.loads(path.read_text())
        missing = [key for key in REQUIRED if key not in summary]
    except FileNotFoundError:
        raise PivotNetError(f"{folder} has no {SUMMARY}: the run did not end; go on with --resume") from None
    except (OSError, ValueError) as error:
        raise PivotNetError(f"{path} cannot be read ({error}); run the training again") from None
    if missing:
        raise PivotNetError(f"{path} lacks {missing[0]!r}: it was not written by pivotnet train of this version")
    return summary

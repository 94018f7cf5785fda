"""``python3 -m pivotnet.upstream.ranks TORCHRUN-OPTIONS SCRIPT OPTIONS``: torchrun that tells an error in one line.

A rank hands an error that the user can mend to torchrun, in the file that torchrun reads (``hand_over`` is its
sys.excepthook). It is told once, however many ranks have met it, as the last line. Other errors show their traceback.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Optional

from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.run import parse_args, run

from pivotnet.errors import PivotNetError

ERROR_FILE = "TORCHELASTIC_ERROR_FILE"  # torchrun names it to each rank
NO_FILE = "<N/A>"  # what torchrun says where a rank has written none
ENDED_BY_TORCHRUN = -15  # the exit status of ranks that lost another one


def hand_over(kind: type[BaseException], error: BaseException, trace: Optional[TracebackType]) -> None:
    """Report an uncaught exception of a rank."""
    if not isinstance(error, PivotNetError):
        sys.__excepthook__(kind, error, trace)
        return
    # a worker of a data loader wraps the message in its traceback, of which it is the last line
    message = str(error).strip().splitlines()[-1]
    message = message[message.startswith("pivotnet.") and message.find(": ") + 2 :]
    path = os.environ.get(ERROR_FILE)
    if path:
        Path(path).write_text(json.dumps({"message": message, "timestamp": int(time.time())}))
    else:
        print(f"error: {message}", file=sys.stderr)


def explain(failures: Mapping[int, Any]) -> tuple[list[str], int]:
    """Lines about ranks that failed (torchrun's ProcessFailure by rank), each once, and the exit status."""
    lines: dict[str, None] = {}  # in order
    status = 2
    for rank, failure in sorted(failures.items()):
        if failure.error_file != NO_FILE:
            lines[f"error: {failure.message}"] = None
        elif failure.exitcode != ENDED_BY_TORCHRUN:
            status = 1
            how = f"signal {failure.signal_name()}" if failure.exitcode < 0 else f"exit status {failure.exitcode}"
            lines[f"error: rank {rank} was ended by {how}: see what it wrote above"] = None
    return list(lines), status


def main() -> None:
    """Run torchrun with the arguments of the command line."""
    try:
        run(parse_args(sys.argv[1:]))
    except ChildFailedError as error:
        lines, status = explain(error.failures)
        print("\n".join(lines or ["error: all ranks were ended"]), file=sys.stderr)
        sys.exit(status)


if __name__ == "__main__":
    main()

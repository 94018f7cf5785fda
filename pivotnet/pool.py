"""Many small jobs in a pool of processes that stops cleanly, on Ctrl-C and when a process is killed."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from pivotnet import heartbeat
from pivotnet.errors import PivotNetError


def available_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run_in_pool(
    job: Callable[[Any], Any], items: Sequence[Any], workers: int, method: str, chunk: int = 1
) -> Iterator[Any]:
    """``job(item)`` of all items, in their order; in this process if one worker is enough. ``method`` starts the
    workers: "fork" shares this process's memory with them, "spawn" pickles job and items for each. A worker takes
    ``chunk`` items at once. Raises PivotNetError: a worker was killed."""
    workers = min(workers, -(-len(items) // chunk))
    if workers <= 1:
        for item in items:
            heartbeat.alive()
            yield job(item)
        return
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context(method), _start_worker, (job, items))
    try:
        # numbers only: Python 3.9 and 3.10 hang where a worker dies while a pipe to the others is full
        for result in pool.map(_work, range(len(items)), chunksize=chunk):
            heartbeat.alive()
            yield result
    except BrokenProcessPool as error:
        what = f"one of {workers} processes was killed (out of memory?)"
        raise PivotNetError(f"{what}: run again with fewer --workers") from error
    finally:
        pool.shutdown(cancel_futures=True)


# of this worker process
_job: Callable[[Any], Any]
_items: Sequence[Any]


def _start_worker(job: Callable[[Any], Any], items: Sequence[Any]) -> None:
    global _job, _items
    _job, _items = job, items
    # Ctrl-C goes to the whole process group: the parent alone handles it, after the items in progress are done.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    end_with_parent()


def end_with_parent() -> None:
    """End this worker when its parent is gone: the queue of a killed parent never ends."""
    parent: Any = multiprocessing.parent_process()
    threading.Thread(target=lambda: parent.join() or os._exit(1), daemon=True).start()


def _work(number: int) -> Any:
    return _job(_items[number])

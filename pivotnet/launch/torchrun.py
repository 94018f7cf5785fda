"""``python -m pivotnet.launch.torchrun OPTIONS``: torchrun, which says in a few lines which ranks failed and why.
Built-in training, and upstream's through pivotnet.upstream.launch, start their ranks with it. A rank whose
sys.excepthook is ``hand_over`` gives its exception to this process, which prints it once, however many ranks met it."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from pivotnet import heartbeat
from pivotnet.errors import PivotNetError, run_command
from pivotnet.launch.supervise import MARK, end_with_parent, private_folder
from pivotnet.limits import WORKERS, whole_number
from pivotnet.pool import available_cores

ERROR_FILE = "TORCHELASTIC_ERROR_FILE"  # torchrun names it to each rank
LAST_LINES = 15
HIGHEST_PORT = 65535
ENDED_BY_TORCHRUN = (-15, 143)  # exit statuses of ranks that lost another one
LOST = "lost the connection to another rank"  # in the message of LostRankError
# Advised where the host is the bottleneck; test/env_npu.sh gives reasons. Other devices do not read them.
ENVIRONMENT = {"TASK_QUEUE_ENABLE": "2", "CPU_AFFINITY_CONF": "1"}


@dataclass(frozen=True)
class Nodes:
    """The machines of a run."""

    count: int = 1
    rank: int = 0  # of this machine
    address: str = ""  # of node 0
    port: int = 29500

    @classmethod
    def from_environment(cls) -> Nodes:
        """NNODES, NODE_RANK, MASTER_ADDR and MASTER_PORT; PivotNetError where they do not fit together."""
        get = os.environ.get
        count = whole_number("NNODES", get("NNODES") or "1", most=WORKERS)
        rank = whole_number("NODE_RANK", get("NODE_RANK") or "0", least=0)
        if rank >= count:
            raise PivotNetError(f"NODE_RANK is {rank}: give 0 to {count - 1} (NNODES - 1), another one on each machine")
        if count > 1 and not get("MASTER_ADDR"):
            raise PivotNetError(f"NNODES is {count}: set MASTER_ADDR to the address of node 0")
        port = whole_number("MASTER_PORT", get("MASTER_PORT") or "29500", most=HIGHEST_PORT)
        return cls(count, rank, get("MASTER_ADDR", ""), port)


def command(cards: int, nodes: Nodes, words: list[str], logs: Path | None = None) -> list[str]:
    """The command that starts ``words``, a script or ``-m MODULE``, as one rank a card. With ``logs`` only rank 0's
    stdout goes to the console. What else the ranks write goes into files there."""
    options = [f"--nproc-per-node={cards}", "--monitor-interval=0.5"]
    if nodes.count == 1:
        options += ["--standalone"]
    else:
        options += [f"--nnodes={nodes.count}", f"--node-rank={nodes.rank}"]
        options += [f"--master-addr={nodes.address}", f"--master-port={nodes.port}"]
    if logs:
        redirects = ",".join(f"{rank}:{3 if rank else 2}" for rank in range(cards))
        options += [f"--log-dir={logs}", f"--redirects={redirects}"]
    return [sys.executable, "-m", "pivotnet.launch.torchrun", *options, *words]


def environment(cards: int) -> dict[str, str]:
    """This process's environment, and what ranks need that the user has not set."""
    # threads of a CPU operator: more than a rank's share of the cores makes all ranks slower
    return {"OMP_NUM_THREADS": str(max(1, available_cores() // cards)), **ENVIRONMENT, **os.environ}


def hand_over(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Report an uncaught exception of a rank; only one that the user cannot repair shows its traceback."""
    expected = isinstance(error, PivotNetError)
    if not expected:
        sys.__excepthook__(kind, error, trace)
    # a worker of a data loader wraps the message in its traceback, of which it is the last line
    message = ((Exception.__str__(error) if expected else str(error)).strip().splitlines() or [""])[-1]
    message = message[message.startswith("pivotnet.") and message.find(": ") + 2 :]
    if ERROR_FILE in os.environ:
        content = {"message": message if expected else f"{kind.__name__}: {message}", "timestamp": int(time.time())}
        Path(os.environ[ERROR_FILE]).write_text(json.dumps({**content, "status": 2 if expected else 1}))
    elif expected:
        print(f"error: {message}", file=sys.stderr)


def last_lines(path: Path) -> list[str]:
    """The end of what a process has written; where that is an error of ours, this line alone."""
    lines = path.read_text(errors="replace").splitlines()
    return lines[-1:] if lines and lines[-1].startswith("error: ") else lines[-LAST_LINES:]


def explain(failures: Mapping[int, Any], logs: Path) -> tuple[list[str], int]:
    """Lines about ranks that failed (torchrun's ProcessFailure by rank), each once, and the exit status. Ranks that
    only lost another one are left out."""
    lines: dict[str, None] = {}  # in order
    known = {f"error: {failure.message}" for failure in failures.values() if "status" in failure.error_file_data}
    status = 2
    for rank, failure in sorted(failures.items()):
        code, handed = failure.exitcode, failure.error_file_data
        stderr = max(logs.glob(f"*/attempt_*/{failure.local_rank}/stderr.log"), default=None)
        written = last_lines(stderr) if stderr else []
        if "status" in handed:
            lines[f"error: {failure.message}"] = None
            status = min(status, handed["status"])
        elif written and written[0].startswith("error: "):
            if LOST not in written[0] and written[0] not in known:
                lines[written[0].replace("error: ", f"error: rank {rank}: ", 1)] = None
        # an error that all ranks find at the same time is printed by rank 0 alone
        elif code not in ENDED_BY_TORCHRUN and not (code == 2 and rank and stderr and not written):
            how = f"failed with exit status {code}"
            if code < 0:
                how = f"was ended by signal {-code} ({failure.signal_name().replace('SIG', '')})"
            memory = ": did the machine run out of memory?" if code == -signal.SIGKILL else ""
            shown = [f"--- last lines of rank {rank}", *written] if written else []
            lines.update(dict.fromkeys([*shown, f"error: rank {rank} {how}{memory}"]))
            status = 1
    first = min(rank - failure.local_rank for rank, failure in failures.items())  # of this machine
    for stderr in [] if lines else sorted(logs.glob("*/attempt_*/*/stderr.log")):
        # torchrun ends the others at the first failure it sees; the rank that caused it may not have ended by then
        written = last_lines(stderr)
        if written and written[0].startswith("error: ") and LOST not in written[0]:
            lines[written[0].replace("error: ", f"error: rank {first + int(stderr.parent.name)}: ", 1)] = None
    return list(lines) or ["error: all ranks were ended"], status


def watch(folder: Path) -> None:
    """Report ranks of this machine that are silent, from now on; then the first signal ends all ranks at once. torchrun
    would wait for a rank that does not answer, and nothing can be saved without it."""
    limit = whole_number(heartbeat.SILENCE, os.environ.get(heartbeat.SILENCE) or "600")
    receiver, sender = socket.socketpair()
    receiver.settimeout(heartbeat.INTERVAL)
    sender.setblocking(False)
    signal.set_wakeup_fd(sender.detach(), warn_on_full_buffer=False)
    threading.Thread(target=_watch, args=(folder, limit, receiver), daemon=True).start()


def _watch(folder: Path, limit: int, receiver: socket.socket) -> None:
    reported: dict[int, float] = {}
    while True:
        signals = b""
        with contextlib.suppress(socket.timeout):
            signals = receiver.recv(64)
        beats = heartbeat.read(folder)
        silent = heartbeat.silent(beats, limit, time.time())
        for rank, since in silent.items():
            if rank not in reported:
                clock = time.strftime("%H:%M:%S", time.localtime(since))
                remedy = "look at its process and its storage; Ctrl-C ends the run"
                print(f"[pivotnet] rank {rank} has been silent since {clock}: {remedy}", file=sys.stderr, flush=True)
        reported = silent
        if silent and {signal.SIGINT, signal.SIGTERM, signal.SIGHUP} & {*signals}:
            for beat in beats:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(beat.process, signal.SIGKILL)


def main() -> int:
    end_with_parent()
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import parse_args, run

    logging.disable()  # torchrun's own report of a failure is long
    arguments = parse_args(sys.argv[1:])
    with contextlib.ExitStack() as stack:
        if MARK not in os.environ:  # else supervise has made a folder, and removes it whatever happens to this process
            os.environ["TMPDIR"] = private_folder()  # what ranks leave there that are killed goes with it
            stack.callback(shutil.rmtree, os.environ["TMPDIR"], ignore_errors=True)
        arguments.log_dir = arguments.log_dir or os.environ["TMPDIR"]
        os.environ[heartbeat.FOLDER] = tempfile.mkdtemp(dir=os.environ["TMPDIR"])
        watch(Path(os.environ[heartbeat.FOLDER]))
        try:
            run(arguments)
            return 0
        except ChildFailedError as error:
            lines, status = explain(error.failures, Path(arguments.log_dir))
            print("\n".join(lines), file=sys.stderr)
            return status
        except SignalException as error:
            return 128 + error.sigval


if __name__ == "__main__":
    sys.exit(run_command(main))

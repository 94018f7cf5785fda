"""A copy of the run scripts in a checkout of its own, so that outputs, data and .venv of tests stay out of this one."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]
PERFORMANCE, FULL = "train_8p_performance.sh", "train_full_8p.sh"
TITLE = "------------------ Final result ------------------"
# variables that a developer may have set, and that the scripts read
CLEARED = (
    *("PRESET", "NETWORK", "DEVICE", "CARDS", "BATCH_SIZE", "STEPS", "EPOCHS", "DATA_ROOT", "OUTPUT", "WEIGHTS"),
    *("NNODES", "NODE_RANK", "MASTER_ADDR", "MASTER_PORT", "SYNTH_SEED", "PIVOTNET_DIR", "WHEELHOUSE"),
)

# stands in for the run.sh of a patched checkout of upstream
RUN_SH = """
# python3 -m pivotnet.upstream.launch
steps="$PIVOTNET_PERFORMANCE_FLAG|$PIVOTNET_PERFORMANCE_STEPS"
echo "$PWD|$*|$CARDS|$steps|$DATA_ROOT|${MASTER_PORT-unset}" >"$FAKE_CALL"
case "$FAKE_MODE" in
  fail) echo "step 7"; echo "ValueError: rank 3 broke" >&2; exit 3 ;;
  hang) sleep 600 & trap '' TERM; echo started >"$FAKE_CALL.hangs"; sleep 600; sleep 600 ;;
  silent) exit 0 ;;
esac
cp "$FAKE_RUN"/steps.rank*.jsonl "$FAKE_RUN/summary.json" "$PIVOTNET_OUTPUT"
"""


@dataclass
class Checkout:
    """The copy, and the environment of what runs in it."""

    root: Path
    environment: dict[str, str] = field(default_factory=dict)

    def command(self, script: str, *arguments: object) -> list[str]:
        """The command line of a script."""
        return ["bash", str(self.root / "test" / script), *map(str, arguments)]

    def run(self, script: str, *arguments: object, timeout: float = 600, **environment: str):
        """Run a script to its end, from another directory."""
        return subprocess.run(
            self.command(script, *arguments),
            capture_output=True,
            text=True,
            timeout=timeout,
            cwd="/",
            env={**self.environment, **environment},
        )

    def start(self, script: str, *arguments: object, **environment: str) -> subprocess.Popen[str]:
        """Start a script and return at once; it leads a process group of its own, as in a terminal."""
        return subprocess.Popen(
            self.command(script, *arguments),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd="/",
            env={**self.environment, **environment},
            start_new_session=True,
        )

    def outputs(self) -> list[Path]:
        """Folders of runs under test/output."""
        return sorted(path for path in (self.root / "test" / "output").glob("*") if path.is_dir())


def make_checkout(root: Path) -> Checkout:
    """Copy the scripts, link the package."""
    (root / "test").mkdir(parents=True)
    for path in (ROOT / "test").glob("*.sh"):
        shutil.copy(path, root / "test")
    for name in ("requirements.txt", "requirements-test.txt", "requirements-npu.txt", "pyproject.toml"):
        shutil.copy(ROOT / name, root)
    (root / "pivotnet").symlink_to(ROOT / "pivotnet")
    environment = {key: value for key, value in os.environ.items() if key not in CLEARED}
    return Checkout(root, {**environment, "OMP_NUM_THREADS": "1", "PYTHON": sys.executable, "DEVICE": "cpu"})


def final_result(text: str) -> dict[str, str]:
    """{key: value} of the Final result in a script's output."""
    lines = text.split(TITLE, 1)[1].strip().splitlines()
    return dict(line.split(": ", 1) for line in lines)


def processes_with(text: str) -> list[str]:
    """Command lines that contain ``text``, of processes that still run."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if text in line and int(path.parent.name) != os.getpid():
            found.append(line)
    return found


def processes_of_run(environment: str) -> list[int]:
    """Processes that have this entry in their environment."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if environment.encode() in path.read_bytes().split(b"\0"):
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


def interrupt(process: subprocess.Popen[str], number: int = signal.SIGINT) -> tuple[str, str]:
    """Ctrl-C as a terminal sends it, to the whole group (other signals: to the script alone); returns what was said."""
    if number == signal.SIGINT:
        os.killpg(process.pid, number)
    else:
        process.send_signal(number)
    return process.communicate(timeout=90)


def wait_until(condition, process: subprocess.Popen[str], timeout: float = 180) -> None:
    """Return when ``condition`` holds; fail if the process ends before."""
    end = time.monotonic() + timeout
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.05)

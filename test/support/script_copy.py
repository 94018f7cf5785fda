"""A copy of the run scripts in a checkout of its own, so that outputs, data and .venv of tests stay out of this one."""

import contextlib
import os
import shutil
import signal
import sys
from pathlib import Path
from subprocess import PIPE, Popen

from pivotnet.launch.choices import OPTIONS, SCRIPTS
from pivotnet.training.records import read_records, records_path
from pivotnet.training.summary import TITLE
from support.commands import ROOT

PERFORMANCE, FULL = SCRIPTS.values()
# variables that a developer may have set, and that the scripts read
CLEARED = {*map(str.upper, OPTIONS), "NNODES", "NODE_RANK", "MASTER_ADDR", "MASTER_PORT", "PIVOTNET_DIR"}
CLEARED |= {"SYNTH_SEED", "WHEELHOUSE"}


class ScriptCopy:
    """A copy of the scripts with the package, and the environment of what runs in it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "test").mkdir(parents=True)
        for path in (ROOT / "test").glob("*.sh"):
            shutil.copy(path, root / "test")
        for name in ("requirements.txt", "requirements-test.txt", "requirements-npu.txt", "pyproject.toml"):
            shutil.copy(ROOT / name, root)
        (root / "pivotnet").symlink_to(ROOT / "pivotnet")
        self.environment = {key: value for key, value in os.environ.items() if key not in CLEARED}
        self.environment.update(OMP_NUM_THREADS="1", PYTHON=sys.executable, DEVICE="cpu", CDPATH=str(root))

    def start(self, script: str, *arguments: object, **environment: str) -> Popen[str]:
        """Start a script and return at once; it leads a process group of its own, as in a terminal."""
        command = ["bash", self.root / "test" / script, *arguments]
        variables, pipes = {**self.environment, **environment}, {"stdout": PIPE, "stderr": PIPE, "text": True}
        return Popen([*map(str, command)], cwd="/", env=variables, start_new_session=True, **pipes)

    def run(self, script: str, *arguments: object, **environment: str) -> tuple[int, str, str]:
        """Run a script to its end, from another directory; returns its exit status, stdout and stderr."""
        process = self.start(script, *arguments, **environment)
        out, err = process.communicate(timeout=600)
        return process.returncode, out, err

    def outputs(self) -> list[Path]:
        return sorted(path for path in (self.root / "test" / "output").glob("*") if path.is_dir())


def final_result(text: str) -> dict[str, str]:
    """{key: value} of the Final result in a script's output."""
    return dict(line.split(": ", 1) for line in text.split(TITLE, 1)[1].strip().splitlines())


def losses(output: Path, rank: int = 0) -> list[tuple[int, float, dict[str, float]]]:
    """Step, loss and terms of every step so far."""
    path = records_path(output, rank)
    return [(one["step"], one["loss"], one["terms"]) for one in read_records(path)] if path.exists() else []


def processes(file: str, content: str) -> set[int]:
    """Numbers of other processes whose /proc/.../FILE (cmdline, environ) contains ``content``."""
    found = set()
    for path in Path("/proc").glob(f"[0-9]*/{file}"):
        with contextlib.suppress(OSError):
            if content in path.read_bytes().replace(b"\0", b" ").decode(errors="replace"):
                found.add(int(path.parent.name))
    return found - {os.getpid()}


def rank_in(output: Path, rank: int) -> int:
    """Process number of a rank of the training that writes into ``output``."""
    return min(processes("environ", f" RANK={rank} ") & processes("cmdline", str(output)))


def interrupt(process: Popen[str], number: int = signal.SIGINT) -> tuple[str, str]:
    """Ctrl-C as a terminal sends it, to the whole group (other signals: to the script alone); returns what was said."""
    if number == signal.SIGINT:
        os.killpg(process.pid, number)
    else:
        process.send_signal(number)
    return process.communicate(timeout=90)

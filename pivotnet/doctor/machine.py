"""What a check sees (a machine: files, commands, environment, packages) and what it says (findings)."""

from __future__ import annotations

import functools
import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pivotnet.pool import available_cores

OK, NOTE, WARNING, ERROR = "ok", "note", "warning", "error"
TIMEOUT = 60.0  # seconds for one command: a broken driver lets npu-smi hang


@dataclass(frozen=True)
class Finding:
    """One line of the doctor's report.

    ``status``: ok; note (good to know); warning (training starts, but slower or not as wanted); error (training on this
    machine could not start, or would end soon).
    """

    status: str
    topic: str
    text: str
    remedy: str = ""


ok, note, warning, error = (functools.partial(Finding, status) for status in (OK, NOTE, WARNING, ERROR))


@dataclass(frozen=True)
class Output:
    """A command's exit status, and its standard output and error."""

    status: int
    text: str


class Machine:
    """This machine. Paths are absolute, without a leading slash they count from ``root``."""

    def __init__(self, root: Path = Path("/"), environ: Mapping[str, str] | None = None) -> None:
        self.root = root
        self.environ: Mapping[str, str] = os.environ if environ is None else environ
        self.architecture = platform.machine()
        self.python = sys.version_info[:2]
        self.python_build = str(sysconfig.get_config_var("CONFIG_ARGS") or "")  # the options of its configuration
        self.cores, self.usable_cores = os.cpu_count() or 1, available_cores()

    def path(self, name: str) -> Path:
        """Where the file of that absolute name lies."""
        return self.root / name.lstrip("/")

    def read(self, name: str) -> str | None:
        """A file's text; None when it cannot be read."""
        try:
            return self.path(name).read_text(errors="replace")
        except OSError:
            return None

    def usable(self, path: Path) -> bool:
        return os.access(path, os.R_OK | os.W_OK)

    def run(self, *command: str) -> Output | None:
        """Run a command; None when there is none of that name, status 124 when it does not end."""
        if shutil.which(command[0]) is None:
            return None
        try:
            done = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                timeout=TIMEOUT,
                env={**self.environ, "LC_ALL": "C"},
            )
        except subprocess.TimeoutExpired:
            return Output(124, f"no answer within {TIMEOUT:.0f} s")
        except OSError as error:
            return Output(126, str(error))
        return Output(done.returncode, done.stdout.decode(errors="replace"))

    def package(self, name: str) -> str | None:
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            return None

    def import_error(self, *modules: str) -> str | None:
        """The last line of what importing the modules in a new process says; None when it works."""
        done = self.run(sys.executable, "-c", "; ".join(f"import {module}" for module in modules))
        if done is None or done.status == 0:
            return None
        return (done.text.strip().splitlines() or [f"exit status {done.status}"])[-1]

    def free_space(self, path: Path) -> tuple[int, int] | None:
        """Bytes of the file system of ``path``, or of its nearest parent that exists: total, and free for this user."""
        for folder in (path, *path.parents):
            try:
                usage = shutil.disk_usage(folder)
            except OSError:
                continue
            return usage.total, usage.free
        return None

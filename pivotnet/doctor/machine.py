"""What a check sees (a machine: files, commands, environment, packages) and what it says (findings)."""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import os
import platform
import shutil
import sys
import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from subprocess import DEVNULL, PIPE, STDOUT, TimeoutExpired, run

from pivotnet.pool import available_cores

OK, NOTE, WARNING, ERROR = "ok", "note", "warning", "error"
TIMEOUT = 60.0  # seconds for one command: a broken driver lets npu-smi hang


@dataclass(frozen=True)
class Finding:
    """One line of the doctor's report. ``status``: ok; note (good to know); warning (training starts, but slower or not
    as wanted); error (training on this machine could not start, or would end soon)."""

    status: str
    topic: str
    text: str
    remedy: str = ""


ok, note, warning, error = (functools.partial(Finding, status) for status in (OK, NOTE, WARNING, ERROR))


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

    def read(self, name: str) -> str:
        """A file's text; empty when it cannot be read."""
        with contextlib.suppress(OSError):
            return self.path(name).read_text(errors="replace")
        return ""

    def usable(self, path: Path) -> bool:
        return os.access(path, os.R_OK | os.W_OK)

    def run(self, *command: str) -> tuple[int, str] | None:
        """A command's exit status, 124 when it does not end, and what it prints; None when it is not installed."""
        environment = {**self.environ, "LC_ALL": "C"}
        try:
            done = run(command, stdin=DEVNULL, stdout=PIPE, stderr=STDOUT, timeout=TIMEOUT, env=environment)
        except FileNotFoundError:
            return None
        except TimeoutExpired:
            return 124, f"no answer within {TIMEOUT:.0f} s"
        except OSError as error:
            return 126, str(error)
        return done.returncode, done.stdout.decode(errors="replace")

    def package(self, name: str) -> str | None:
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            return None

    def import_error(self, *modules: str) -> str | None:
        """The last line of what importing the modules in a new process says; None when it works."""
        status, text = self.run(sys.executable, "-c", "; ".join(f"import {name}" for name in modules)) or (0, "")
        return (text.strip().splitlines() or [f"exit status {status}"])[-1] if status else None

    def free_space(self, path: Path) -> tuple[int, int] | None:
        """Bytes of the file system of ``path``, or of its nearest parent that exists: total, and free for this user."""
        for folder in (path, *path.parents):
            with contextlib.suppress(OSError):
                usage = shutil.disk_usage(folder)
                return usage.total, usage.free
        return None

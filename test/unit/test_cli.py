"""The command itself: what it lists, how it ends, what it does not need."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import pivotnet
from pivotnet import cli
from pivotnet.errors import PivotNetError

ROOT = Path(cli.__file__).parents[1]


def test_help_needs_no_torch():
    code = "import sys; sys.modules['torch'] = None; from pivotnet.cli import main; main(['--help'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0 and "train" in done.stdout


def test_a_missing_package_is_one_line():
    code = "import sys; sys.modules['scipy'] = None; from pivotnet.cli import main; sys.exit(main(['train']))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 2
    assert done.stderr.strip() == "error: scipy is not installed: pip install -r requirements.txt"


@pytest.mark.parametrize("arguments", [["fly"], [], ["train"], ["render", "--limit", "0"]])
def test_bad_usage_leaves_with_two(arguments, capsys):
    with pytest.raises(SystemExit) as left:
        cli.main(arguments)
    assert left.value.code == 2
    assert "usage: pivotnet" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (PivotNetError("the disk is on fire: fetch water"), 2, "error: the disk is on fire: fetch water\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
    ],
)
def test_errors_are_one_line(monkeypatch, capsys, error, status, said):
    def run(args):
        raise error

    monkeypatch.setattr(importlib.import_module("pivotnet.commands.synth"), "run", run)
    assert cli.main(["synth", "somewhere"]) == status
    assert capsys.readouterr().err == said


def test_the_version_is_the_change_log_s():
    newest = next(line for line in (ROOT / "CHANGELOG.md").read_text().splitlines() if line.startswith("## "))
    assert newest.split()[1] == pivotnet.__version__
    assert f'version = "{pivotnet.__version__}"' in (ROOT / "pyproject.toml").read_text()

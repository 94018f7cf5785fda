"""The command itself: what it lists, how it ends, what it does not need."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

import pivotnet
from pivotnet import cli
from pivotnet.errors import PivotNetError

ROOT = Path(cli.__file__).parents[1]


@pytest.mark.parametrize("name", sorted(cli.COMMANDS))
def test_every_command_has_help(name, capsys):
    with pytest.raises(SystemExit) as left:
        cli.main([name, "--help"])
    assert left.value.code == 0
    assert f"pivotnet {name}" in capsys.readouterr().out


def test_help_needs_no_torch():
    code = "import sys; sys.modules['torch'] = None; from pivotnet.cli import main; main(['--help'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0 and "train" in done.stdout


def test_a_missing_package_is_one_line():
    code = "import sys; sys.modules['scipy'] = None; from pivotnet.cli import main; sys.exit(main(['train']))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 2
    assert done.stderr.strip() == "error: scipy is not installed: pip install -r requirements.txt"


@pytest.mark.parametrize("arguments", [["fly"], [], ["train"], ["train", "--preset", "smoke", "--steps", "0"]])
def test_bad_usage_leaves_with_two(arguments, capsys):
    with pytest.raises(SystemExit) as left:
        cli.main(arguments)
    assert left.value.code == 2
    assert "usage: pivotnet" in capsys.readouterr().err


def test_errors_are_one_line_and_two(monkeypatch, capsys):
    def run(args):
        raise PivotNetError("the disk is on fire: fetch water")

    monkeypatch.setattr(importlib.import_module("pivotnet.commands.synth"), "run", run)
    assert cli.main(["synth", "somewhere"]) == 2
    assert capsys.readouterr().err == "error: the disk is on fire: fetch water\n"


def test_an_interrupt_is_130(monkeypatch, capsys):
    def run(args):
        raise KeyboardInterrupt

    monkeypatch.setattr(importlib.import_module("pivotnet.commands.synth"), "run", run)
    assert cli.main(["synth", "somewhere"]) == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_python_dash_m_is_the_command():
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-m", "pivotnet", "--version"], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0 and done.stdout.startswith("pivotnet ")


def test_the_version_is_the_change_log_s():
    newest = next(line for line in (ROOT / "CHANGELOG.md").read_text().splitlines() if line.startswith("## "))
    assert newest.split()[1] == pivotnet.__version__
    assert f'version = "{pivotnet.__version__}"' in (ROOT / "pyproject.toml").read_text()

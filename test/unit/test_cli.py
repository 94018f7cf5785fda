"""The command itself: what it lists, how it ends, what it does not need."""

import contextlib
import subprocess
import sys
from unittest.mock import Mock

import pytest
from support.commands import ENVIRONMENT, ROOT, fails

import pivotnet
from pivotnet import cli
from pivotnet.commands import synth
from pivotnet.errors import PivotNetError

INTERRUPTED_NUMPY = ValueError("'O' is not a valid PEP 3118 buffer format string")
INTERRUPTED_NUMPY.__context__ = KeyboardInterrupt()
MEMORY = "end other programs, raise the limit (ulimit -v), or give a smaller --batch-size and fewer --workers\n"


def test_a_missing_package_is_one_line():
    code = "import sys; sys.modules['scipy'] = None; from pivotnet.cli import main; sys.exit(main(['train']))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 2
    assert done.stderr.strip() == "error: scipy is not installed: pip install -r requirements.txt"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("fly", "invalid choice: 'fly'"),
        ("", "the following arguments are required: COMMAND"),
        ("train --split train", "the following arguments are required: --preset"),
        ("render --limit 0", "--limit: the value is 0: give a whole number from 1 to 1000000000"),
        ("train --preset smoke --lr nan", "--lr: the value is nan: give a number from 0 to 1e+06"),
        (f"train --preset smoke --seed {2**70}", "give a whole number from 0 to 4294967295"),
        ("train --preset smoke --batch-size 1000000000", "give a whole number from 1 to 4096"),
        ("train --preset smoke --batch-size ²", "the value is ²"),
        ("train --preset smoke --split a\0b", "an option has a NUL character"),
        ("evaluate --workers -1", "give a whole number from 0 to 1024"),
        ("synth x --workers 0", "give a whole number from 1 to 1024"),
        ("annotate -d x --workers ²", "the value is ²"),
        ("audit --image-size 64x9999999999", "give a whole number from 32 to 8192"),
        ("audit --image-size 64x65", "64x65 is no HxW in multiples of 32"),
    ],
)
def test_bad_options_are_one_line(arguments, message, capsys):
    assert message in fails(capsys, *filter(None, arguments.split(" ")))


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (PivotNetError("the disk is on fire: fetch water"), 2, "error: the disk is on fire: fetch water\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
        (INTERRUPTED_NUMPY, 130, "interrupted\n"),
        (BrokenPipeError(), 1, ""),
        (MemoryError(), 2, f"error: out of memory (MemoryError): {MEMORY}"),
        (RuntimeError("NPU out of memory. Tried\n to"), 2, "error: out of memory (NPU out of memory. Tried): end"),
        (IsADirectoryError(21, "Is a directory", "a.txt"), 2, "error: cannot use a.txt: Is a directory; correct the"),
        (RuntimeError("Caught RuntimeError in DataLoader worker process 0"), None, ""),  # a fault of the program
    ],
)
def test_an_end_is_one_line(monkeypatch, capsys, error, status, said):
    monkeypatch.setattr(synth, "run", Mock(side_effect=error))
    with contextlib.nullcontext() if status else pytest.raises(type(error)):
        assert cli.main(["synth", "somewhere"]) == status
    err = capsys.readouterr().err
    assert err.startswith(said) and err.count("\n") == bool(said)


@pytest.mark.skipif(sys.platform != "linux", reason="needs /dev/full and limits of the address space")
@pytest.mark.parametrize(
    ("shell", "status", "said"),
    [
        ("pivotnet doctor --json >/dev/full", 2, "error: the disk that is written to, or to which stdout goes, is f"),
        ("pivotnet doctor --json | true", 1, ""),  # which has ended before the first line
        ("pivotnet synth x\xff --scenes 1 --samples-per-scene 1 --no-images", 0, ""),
        ("pivotnet synth y --scenes 1 --samples-per-scene 1 --no-images >&-", 0, ""),
        ("ulimit -v 400000; pivotnet train --preset smoke", 2, "error: out of memory ("),
        ("ln -s loop loop; pivotnet synth loop --no-images", 2, "error: cannot write"),
        ("pivotnet synth /proc/x", 2, "error: cannot write /proc/x"),
    ],
)
def test_the_shell_s_limits_are_one_line(tmp_path, shell, status, said):
    own = f'set -o pipefail; pivotnet() {{ {sys.executable} -m pivotnet "$@"; }}; '
    done = subprocess.run(["bash", "-c", own + shell], capture_output=True, env=ENVIRONMENT, cwd=tmp_path)
    printed = done.stderr.decode()
    assert done.returncode == status and printed.startswith(said) and printed.count("\n") == bool(said), printed


def test_the_version_is_the_change_log_s():
    newest = next(line for line in (ROOT / "CHANGELOG.md").read_text().splitlines() if line.startswith("## "))
    assert newest.split()[1] == pivotnet.__version__
    assert f'version = "{pivotnet.__version__}"' in (ROOT / "pyproject.toml").read_text()

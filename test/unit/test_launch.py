"""The command: what it does not need, how it ends; choices of a run, ranks under torchrun, and supervision."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
from support.commands import ENVIRONMENT, ROOT, fails
from support.script_copy import CLEARED, processes

import pivotnet
from pivotnet import cli, heartbeat
from pivotnet.commands import synth
from pivotnet.errors import PivotNetError
from pivotnet.launch import choices, supervise, torchrun, training_run

INTERRUPTED_NUMPY = ValueError("'O' is not a valid PEP 3118 buffer format string")
INTERRUPTED_NUMPY.__context__ = KeyboardInterrupt()
NEW_TORCH = int(version("torch").split(".")[1]) > 8
torch_raises = pytest.mark.skipif(NEW_TORCH, reason="this torch aborts where it gets no memory")
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
        ("render --limit 0", "--limit: the value is 0: give a whole number from 1 to 1000000000"),
        ("train --preset smoke --lr nan", "--lr: the value is nan: give a number from 0 to 1e+06"),
        (f"train --preset smoke --seed {2**70}", "give a whole number from 0 to 4294967295"),
        ("train --preset smoke --split a\0b", "an option has a NUL character"),
        ("audit --image-size 64x65", "64x65 is no HxW in multiples of 32"),
    ],
)
def test_bad_options_are_one_line(arguments, message, capsys):
    assert message in fails(capsys, *filter(None, arguments.split(" ")))


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (PivotNetError("the disk is on fire: fetch water"), 2, "error: the disk is on fire: fetch water\n"),
        (PivotNetError("a\nb \x1b[2Jc: \u4e2d"), 2, "error: a\\nb \\x1b[2Jc: \u4e2d\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
        (INTERRUPTED_NUMPY, 130, "interrupted\n"),
        (BrokenPipeError(), 1, ""),
        (MemoryError(), 2, f"error: out of memory (MemoryError): {MEMORY}"),
        (RuntimeError("NPU out of memory. Tried\n to"), 2, "error: out of memory (NPU out of memory. Tried): end"),
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
        pytest.param(
            "ulimit -v 400000; pivotnet train --preset smoke", 2, "error: out of memory (", marks=torch_raises
        ),
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


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch) -> Path:
    """A folder in the place of the checkout, and no variables."""
    for name in (*CLEARED, supervise.GRACE):
        monkeypatch.delenv(name, raising=False)
    for module in (choices, training_run):
        monkeypatch.setattr(module, "ROOT", tmp_path)
        monkeypatch.setattr(module, "OUTPUTS", tmp_path / "output")
    return tmp_path


@pytest.mark.parametrize(
    ("options", "variables", "message"),
    [
        ("--stepz 3", {}, "unrecognized arguments: --stepz 3"),
        ("--data-root /no_where", {}, "data root /no_where does not exist"),
        ("", {"NNODES": "2"}, "set MASTER_ADDR"),
        ("", {"NNODES": "2", "NODE_RANK": "2", "MASTER_ADDR": "a"}, "NODE_RANK is 2: give 0 to 1"),
        ("--resume", {}, "nothing to resume: no interrupted run here has no checkpoints"),
        ("--resume", {"NNODES": "2", "MASTER_ADDR": "a"}, "--resume on several machines needs the run's folder"),
        ("--network mine", {}, "choose one of builtin, patched, bemapnet"),
    ],
)
def test_bad_choices_of_a_run_are_one_line(options, variables, message, monkeypatch, capsys, place):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert message in fails(capsys, "run", "full", *options.split())
    assert list(place.iterdir()) == []


def test_options_rule_over_variables_and_these_over_the_resumed_run(monkeypatch, place):
    root = place / 'a "root"\nof two lines'
    (root / "samples").mkdir(parents=True)
    given = {"steps": "7", "preset": "effb0", "data_root": str(root), "output": str(place / "output" / "full_1")}
    first = choices.read_choices("full", given, ["--amp", "bf 16"])
    (place / "output" / "full_1" / "checkpoints").mkdir(parents=True)
    first.save()
    monkeypatch.setenv("STEPS", "9")
    monkeypatch.setenv("BATCH_SIZE", "2")
    again = choices.read_choices("full", {"resume": "", "batch_size": "3"}, [])
    assert (again.steps, again.batch_size, again.preset) == (9, 3, "effb0")
    assert (again.data_root, again.extra, again.output) == (root, ["--amp", "bf 16"], first.output)
    (place / "output" / "full_1" / "summary.json").write_text('{"finished": true}')
    with pytest.raises(PivotNetError, match="no interrupted run here"):
        choices.read_choices("full", {"resume": ""}, [])


def test_a_full_run_on_nuscenes_wants_a_backbone(monkeypatch, tmp_path):
    monkeypatch.delenv(choices.WITHOUT_WEIGHTS, raising=False)
    monkeypatch.setattr(training_run, "ROOT", tmp_path)
    chosen = choices.Choices("full", preset="swint", data_root=tmp_path)
    with pytest.raises(
        PivotNetError, match=f"download.py swint gets it; {choices.WITHOUT_WEIGHTS}=none starts without"
    ):
        training_run.find_weights(chosen)
    (tmp_path / "synthetic.json").touch()
    assert training_run.find_weights(chosen) is None
    (tmp_path / "synthetic.json").unlink()
    monkeypatch.setenv(choices.WITHOUT_WEIGHTS, "none")
    assert training_run.find_weights(chosen) is None


def test_the_patched_checkout_is_taken_where_it_has_the_preset(monkeypatch, place):
    def chosen(preset: str, **wanted: Any) -> Path | None:
        return training_run.choose_network(choices.Choices("full", preset=preset, **wanted))

    assert chosen("smoke") is None
    monkeypatch.setenv("PIVOTNET_DIR", "/usr")
    with pytest.raises(PivotNetError, match="no checkout of upstream in /usr: .* PIVOTNET_DIR"):
        chosen("smoke")
    tree = place / "tree"
    (tree / "configs").mkdir(parents=True)
    (tree / "run.sh").write_text("python3 -m pivotnet.upstream.launch\n")
    (tree / "configs" / "pivotnet_nuscenes_swint.py").touch()
    monkeypatch.setenv("PIVOTNET_DIR", str(tree))
    assert chosen("swint") == tree
    assert chosen("smoke") is chosen("swint", network="builtin") is None
    for wanted, message in (
        ({"preset": "smoke", "network": "patched"}, "has no configuration for preset smoke"),
        ({"preset": "swint", "network": "bemapnet"}, "the bemapnet network cannot be trained"),
        ({"preset": "swint", "extra": ["--amp", "bf16"]}, "--amp: the patched checkout takes --exp_options, "),
        ({"preset": "swint", "steps": 3}, "whole epochs"),
    ):
        with pytest.raises(PivotNetError, match=message):
            chosen(**wanted)
    (tree / "run.sh").write_text("python3 configs/$2.py -d 0-7\n")
    with pytest.raises(PivotNetError, match="is not patched: apply pivotnet.patch"):
        chosen("swint")


RANK = """
import os, signal, sys
from pivotnet.errors import PivotNetError
from pivotnet.launch.torchrun import hand_over

sys.excepthook = hand_over
if sys.argv[1] == "expected":
    cause = PivotNetError("no such file: make it")
    raise PivotNetError("Caught PivotNetError in DataLoader worker process 0.\\nOriginal ...\\n  ...\\n"
                        f"pivotnet.errors.PivotNetError: {cause}\\n")
if sys.argv[1] == "unexpected":
    raise ValueError("a fault of ours")
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_errors_of_ranks_are_the_last_line(tmp_path):
    (tmp_path / "rank.py").write_text(RANK)
    for how, status, end in (
        ("expected", 2, "error: no such file: make it"),
        ("unexpected", 1, "error: ValueError: a fault of ours"),
        ("killed", 1, "error: rank 0 was ended by signal 9 (KILL): did the machine run out of memory?"),
    ):
        command = torchrun.command(1, torchrun.Nodes(), [str(tmp_path / "rank.py"), how])
        done = subprocess.run(command, capture_output=True, text=True, env={**ENVIRONMENT, "TMPDIR": str(tmp_path)})
        assert (done.returncode, done.stderr.splitlines()[-1]) == (status, end), done.stderr
        assert ("Traceback" in done.stderr) == (how == "unexpected")
    assert [path.name for path in tmp_path.iterdir()] == ["rank.py"], "no folder is left behind"


def test_a_rank_is_silent_when_it_stops_or_others_wait_for_it():
    for ranks, expected in (
        ([], {}),
        ([(7, 95, 99), (7, 80, 99)], {1: 80}),
        ([(8, 80, 99), (7, 80, 99)], {1: 80}),  # the other one waits for it
        ([(8, 80, 99), (7, 95, 99)], {}),  # it works on its own
        ([(7, 80, 99), (7, 80, 85)], {1: 85}),  # its process has stopped
        ([(7, 80, 99), (7, 81, 99)], {0: 80, 1: 81}),
    ):
        beats = [heartbeat.Heartbeat(rank, 1, *progress) for rank, progress in enumerate(ranks)]
        assert heartbeat.silent(beats, 10, now=100) == expected, ranks


STOPPED_RANK = """
import os, signal, time
from pivotnet import heartbeat

heartbeat.start(int(os.environ["RANK"]))
time.sleep(0.5)
while True:
    heartbeat.arrive()
    os.kill(os.getpid(), signal.SIGSTOP if os.environ["RANK"] == "1" else 0)
    time.sleep(0.1)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux's /proc")
def test_a_stopped_rank_is_named_and_the_first_signal_ends_the_run(tmp_path):
    (tmp_path / "rank.py").write_text(STOPPED_RANK)
    command = torchrun.command(2, torchrun.Nodes(), [str(tmp_path / "rank.py")])
    environment = {**ENVIRONMENT, heartbeat.SILENCE: "2"}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
    assert "rank 1 has been silent since" in process.stderr.readline()
    process.terminate()
    asked = time.monotonic()
    process.communicate(timeout=60)
    assert time.monotonic() - asked < 15 and process.returncode == 128 + signal.SIGTERM
    assert not processes("cmdline", str(tmp_path / "rank.py"))


def failure(rank: int, code: int, **handed: Any) -> SimpleNamespace:
    """As torchrun's ProcessFailure."""
    own = {"local_rank": rank, "exitcode": code, "signal_name": lambda: "SIGSEGV"}
    return SimpleNamespace(**own, error_file_data=handed, message=handed.get("message"))


def test_failures_are_explained_by_those_who_caused_them(tmp_path):
    def explained(*failures: SimpleNamespace) -> tuple[list[str], int]:
        return torchrun.explain({one.local_rank: one for one in failures}, tmp_path)

    def writes(rank: int, text: str) -> None:
        path = tmp_path / "none_x" / "attempt_0" / str(rank) / "stderr.log"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    same = [failure(rank, 1, message="no data", status=2) for rank in range(8)]
    assert explained(*same) == (["error: no data"], 2)
    assert explained(same[0], failure(1, -15)) == (["error: no data"], 2)
    assert explained(failure(1, 143)) == (["error: all ranks were ended"], 2)
    for rank in range(3):
        writes(rank, "")
    writes(0, "a warning\nerror: no data\n")
    assert explained(failure(0, 2), failure(1, 2)) == (["error: rank 0: no data"], 2)
    assert explained(failure(0, 2), same[1]) == explained(failure(0, -15), same[1]) == (["error: no data"], 2)
    writes(0, "error: rank 0 lost the connection to another rank (broken pipe): ...\n")
    writes(1, "error: a data loading worker was killed\n")
    assert explained(failure(0, 2)) == (["error: rank 1: a data loading worker was killed"], 2), "not ended yet"
    writes(1, "".join(f"line {number}\n" for number in range(40)))
    lines, status = explained(failure(0, 2), failure(1, -11), failure(2, -15))
    assert status == 1 and lines[:2] == ["--- last lines of rank 1", "line 25"]
    assert lines[-1] == "error: rank 1 was ended by signal 11 (SEGV)"


def test_supervision_leaves_nothing_behind(tmp_path, monkeypatch):
    hang = f"sleep 321.5 & echo $! >{tmp_path}/child; exit 3"
    assert supervise.supervise(["bash", "-c", hang]) == 3
    child = Path(f"/proc/{(tmp_path / 'child').read_text().strip()}")
    assert not child.exists() or "Z" in (child / "stat").read_text()
    monkeypatch.setenv(supervise.GRACE, "a minute")
    with pytest.raises(PivotNetError, match="PIVOTNET_GRACE is a minute: give a whole number"):
        supervise.supervise(["true"])


def test_a_signal_interrupts_unless_it_is_ignored():
    hang_up = ["bash", "-c", "kill -HUP $PPID; sleep 0.5"]
    previous = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    status = supervise.supervise(hang_up)
    signal.signal(signal.SIGHUP, previous)
    assert status == 0
    with pytest.raises(supervise.Interrupted) as interrupted:
        supervise.supervise(hang_up)
    assert interrupted.value.args == (143,)


def test_help_and_check_need_no_package(tmp_path):
    for name in ("torch", "numpy", "rich"):
        (tmp_path / f"{name}.py").write_text("raise ImportError")
    environment = {**ENVIRONMENT, "PYTHONPATH": f"{tmp_path}:{ROOT}"}
    for words in (["--help"], ["run", "performance", "--help"], ["run", "performance", "--check"]):
        done = subprocess.run([sys.executable, "-m", "pivotnet", *words], env=environment, capture_output=True)
        assert done.returncode == 0, done

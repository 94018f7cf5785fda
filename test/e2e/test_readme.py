"""Every command of the documents: run on synthetic data where possible, else parsed by the program's own parser."""

from __future__ import annotations

import functools
import re
import shlex
import subprocess
import sys

import pytest
from support.commands import ENVIRONMENT, ROOT, succeed

from pivotnet import cli

DOCUMENTS = [path for name in ("README*.md", "CONTRIBUTING.md", "docs/*.md") for path in sorted(ROOT.glob(name))]
# Commands of other programs; what they name of this repository must exist.
FOREIGN = re.compile(
    r"(git|cp|cd|mkdir|wget|tar|make|(bash )?\./configure|export|echo|source|\.|apt-get|python3 -m venv|python -V$|pip|"
    r"python -m pytest|tools/upstream\.sh (fetch|apply|pack|check)|pre-commit|bash run\.sh|"
    r"python3 tools/anno_converter/nuscenes/convert\.py)(?= |$)"
)
RUNS = ("synth", "annotate", "evaluate", "predict", "render", "report", "doctor")  # of pivotnet, on a CPU in seconds
STARTS = ("pivotnet ", "torchrun ", "bash ", "python ", "tools/")


def shown(text: str) -> set[str]:
    """Commands in fenced and indented blocks, and in code within a line where one starts like a command."""
    blocks = re.findall(r"^ *```\w*\n(.*?)^ *```", text, re.MULTILINE | re.DOTALL)
    blocks += re.findall(r"^\n((?:    \S.*\n)+)", text, re.MULTILINE)
    lines = [line for block in blocks for line in block.splitlines()]
    lines += [code for code in re.findall(r"(?<!`)`([^`\n]+)`(?!`)", text) if code.startswith(STARTS) and " " in code]
    lines = [re.sub(r"\s+#.*", "", line).strip() for line in lines]
    return {part for line in lines for part in re.split(r" && ", line) if part and not part.startswith("#")}


TEXT = "\n".join(path.read_text() for path in DOCUMENTS)


def commands() -> list[str]:
    found = shown(TEXT)
    # no commands: variables of the reference implementation, folders and keys
    return sorted(
        command for command in found if re.match(r"[\w./]+ \S", command) and not re.match(r"(url|commit)", command)
    )


def ours(command: str) -> list[str] | None:
    """The arguments of ``pivotnet`` in a command; None for another program."""
    words = shlex.split(command.removeprefix("tools/cannsim/run "))
    if "-m" in words and words[words.index("-m") + 1] == "pivotnet":
        return words[words.index("-m") + 2 :]
    return words[1:] if words[0] == "pivotnet" else None


@functools.cache
def help_of(*words: str) -> str:
    done = subprocess.run([*words, "--help"], capture_output=True, text=True, env=ENVIRONMENT, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("command", commands())
def test_a_shown_command_is_understood(command, capsys):
    arguments = ours(command)
    if arguments is not None:
        parser, run = cli.build_parser(arguments)
        assert run is not None, f"there is no such command: {command}"
        if "`" + command + "`" not in TEXT:  # whole, not mentioned in a sentence
            parser.parse_args(arguments)
        with pytest.raises(SystemExit):
            parser.parse_args([arguments[0], "--help"])
        known, own = capsys.readouterr().out, arguments[1:]
    elif FOREIGN.match(command):
        return
    else:
        words = shlex.split(command)
        script = next((word for word in words if (ROOT / word).is_file() and word.endswith((".py", ".sh"))), None)
        assert script is not None, f"neither a program of this repository nor a known one: {command}"
        own = words[words.index(script) + 1 :]
        tool = [sys.executable if script.endswith(".py") else "bash", str(ROOT / script)]
        known = help_of(
            *tool, *(own[:1] if script.endswith(".py") and re.fullmatch("[a-z]+", (own or ["-"])[0]) else [])
        )
    own = own[: own.index("--")] if "--" in own else own
    assert [option for option in own if option.startswith("--") and option not in known] == []


def test_the_commands_that_need_no_hardware_run(tmp_path):
    """In the order of README.md, in a folder with an annotated data set and two short runs of training."""
    nuscenes = tmp_path / "data" / "nuscenes"
    succeed("synth", nuscenes, "--scenes", 4, "--samples-per-scene", 2)
    succeed("annotate", "-d", nuscenes)
    smoke = ("--preset", "smoke", "--data-root", nuscenes, "--device", "cpu", "--steps", 3)
    for name in ("RUN1", "RUN2"):
        output = tmp_path / "test" / "output" / name
        succeed("train", *smoke, "--output", output)
    checkpoint = output / "checkpoints" / "step_00000003.pth"
    text = (ROOT / "README.md").read_text()
    lines = [re.sub(r"\s+#.*", "", line).strip() for line in text.splitlines() if line.startswith("pivotnet ")]
    chosen = [line for line in lines if line.split()[1] in RUNS]
    assert {line.split()[1] for line in chosen} >= set(RUNS) - {"doctor"}
    printed = [succeed(*shlex.split(line.replace("CKPT", str(checkpoint)))[1:], folder=tmp_path) for line in chosen]
    assert any("mAP@EASY" in text for text in printed)
    tokens = (nuscenes / "customer" / "pivot-bezier" / "splits" / "val.txt").read_text().split()
    assert {path.stem for path in (tmp_path / "vector_maps").glob("*.json")} >= set(tokens)
    assert min(path.stat().st_size for path in (tmp_path / "renders").glob("*.png")) > 10_000

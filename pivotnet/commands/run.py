"""``pivotnet run performance|full``: a training run on all cards of this machine, up to its Final result.
test/train_8p_performance.sh and test/train_full_8p.sh set the environment up and call it."""

import argparse
import shlex
import sys

from pivotnet.commands import OptionParser
from pivotnet.launch.choices import OPTIONS, ROOT, SCRIPTS, read_choices
from pivotnet.launch.supervise import Interrupted
from pivotnet.launch.training_run import FailedRun, train

EPILOG = """\
What stands in brackets: the environment variable, then the default. Several machines: run the same command on each
with NNODES, NODE_RANK (0, 1, ...) and MASTER_ADDR (of node 0) set; MASTER_PORT is 29500 unless set. Evaluation and
--resume then need an --output on a disk that all machines share.
A rank that makes no progress for PIVOTNET_SILENCE seconds (600) is named; Ctrl-C then ends the run at once. Else ranks
have PIVOTNET_GRACE seconds (60) to save and end.
Synthetic data is made from SYNTH_SEED (default 0). The run scripts use PYTHON, else the active environment; without
one that has the packages they make .venv, from WHEELHOUSE (see tools/wheelhouse.py) where that is set.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """What to run; its options have a parser of their own, for ``--`` and for errors of one line."""
    text = "steps to be timed, or the whole schedule and its accuracy; options: see pivotnet run performance --help"
    # the only kind of argument that keeps a -- right after its first word
    parser.add_argument("words", nargs=argparse.PARSER, choices=list(SCRIPTS), help=text)


def _option_parser(kind: str) -> argparse.ArgumentParser:
    layout = argparse.RawDescriptionHelpFormatter
    program = f"bash test/{SCRIPTS[kind]}"
    parser = OptionParser(program, "%(prog)s [options]", epilog=EPILOG, formatter_class=layout, allow_abbrev=False)
    for name, (metavar, meaning, default) in OPTIONS.items():
        text = f"{meaning} [{name.upper()}; {default}]"
        parser.add_argument(f"--{name.replace('_', '-')}", metavar=metavar, help=text)
    text = "go on with the interrupted run in DIR (the newest one of this script), with its options"
    parser.add_argument("--resume", nargs="?", const="", metavar="DIR", help=text)
    parser.add_argument("--check", action="store_true", help="check the options, then end")
    parser.add_argument_group("-- OPTIONS", "handed to 'pivotnet train' as they are: -- --amp bf16 --profile 5")
    return parser


def run(args: argparse.Namespace) -> int:
    """Train; returns 1 when training failed, 130 or 143 when it was interrupted."""
    kind, *words = args.words
    end = words.index("--") if "--" in words else len(words)
    given = vars(_option_parser(kind).parse_args(words[:end]))
    choices = read_choices(kind, given, words[end + 1 :])
    if given["check"]:
        return 0
    try:
        train(choices)
    except FailedRun as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except Interrupted as error:
        words = ["bash", str(ROOT / "test" / SCRIPTS[kind]), "--resume", str(choices.output)]
        saved = choices.output and (choices.output / "checkpoints").is_dir()
        print(f"interrupted; go on with: {shlex.join(words)}" if saved else "interrupted", file=sys.stderr)
        return int(error.args[0])
    return 0

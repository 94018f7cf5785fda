"""``python3 -m pivotnet.upstream.launch configs/X.py OPTIONS``: one process a card. Cards: CARDS, else those of ``-d
0-3``, else all; one process without an accelerator. Several machines: NNODES, NODE_RANK, MASTER_ADDR and MASTER_PORT.
OPTIONS go to the config's command line."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

from pivotnet import device as devices
from pivotnet.errors import PivotNetError, exit_on_error
from pivotnet.launch import torchrun
from pivotnet.launch.choices import WITHOUT_WEIGHTS
from pivotnet.limits import WORKERS, whole_number

DEVICE = "PIVOTNET_DEVICE"  # npu, cuda or cpu; the first of them that works where it is not set
LOGS = "PIVOTNET_LOGS"  # folder for what ranks write; where it is set, only rank 0's stdout goes to the console


def parse_cards(text: str | None) -> list[int]:
    """ "0-3" -> [0, 1, 2, 3]; "0,2" -> [0, 2]; nothing -> []. Raises PivotNetError for another form."""
    cards: list[int] = []
    for part in text.split(",") if text else []:
        first, _, last = part.partition("-")
        low, high = (whole_number(f"a card of -d {text}", one, 0, WORKERS) for one in (first, last or first))
        cards.extend(range(low, high + 1))
    return cards


def count_cards(listed: list[int]) -> int:
    """Processes to start on this machine: CARDS, else those of the listed cards that exist, else all. Raises
    PivotNetError: none of the listed cards exists, or CARDS is no number."""
    chosen = os.environ.get("CARDS")
    if chosen:
        return whole_number("CARDS", chosen, most=WORKERS)
    kind = devices.select_device(os.environ.get(DEVICE)).type
    existing = 1 if kind == "cpu" else devices.device_count(kind)
    count = len([card for card in listed if card < existing]) if listed else existing
    if count == 0:
        raise PivotNetError(f"none of the cards {listed} exists: {existing} of type {kind} are visible; correct -d")
    return count


@exit_on_error()
def start(words: list[str]) -> None:
    """Replace this process by torchrun, which starts a config with its options: ``words``. torchrun holds no device,
    which this process may by now."""
    listed = re.search(r"(?:^|\0)(?:-d|--devices)[=\0]?([^\0]*)", "\0".join(words))
    if not Path(words[0]).is_file():
        known = ", ".join(sorted(path.stem for path in Path(words[0]).parent.glob("*.py")))
        raise PivotNetError(f"there is no configuration {words[0]}: choose one of {known}")
    cards = count_cards(parse_cards(listed and listed[1]))
    logs = os.environ.get(LOGS)
    command = torchrun.command(cards, torchrun.Nodes.from_environment(), words, Path(logs) if logs else None)
    environment = torchrun.environment(cards)
    if any(re.match("--ckpt(=|$)", word) for word in words):
        environment.setdefault(WITHOUT_WEIGHTS, "none")  # the checkpoint has the backbone
    os.execve(command[0], command, environment)


if __name__ == "__main__":
    start(sys.argv[1:])

"""``python3 -m pivotnet.upstream.launch configs/X.py OPTIONS``: one process a card, through torchrun.

Cards: CARDS, else those of ``-d 0-3``, else all; one process without an accelerator. Several machines: NNODES,
NODE_RANK, MASTER_ADDR and MASTER_PORT as for torchrun. OPTIONS go to the config's command line.
"""

from __future__ import annotations

import argparse
import os
import sys

from pivotnet.errors import PivotNetError
from pivotnet.upstream.environ import count_cards, parse_cards

# Advised for training that the host holds up; see test/env_npu.sh. Other devices do not read them.
ENVIRONMENT = {"TASK_QUEUE_ENABLE": "2", "CPU_AFFINITY_CONF": "1"}


def command(arguments: list[str]) -> list[str]:
    """The torchrun command of a config and its options.

    Raises:
        PivotNetError: no such cards, or several machines without MASTER_ADDR.
    """
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("-d", "--devices")
    known, _ = parser.parse_known_args(arguments)
    cards = count_cards(parse_cards(known.devices))
    nodes = os.environ.get("NNODES", "1")
    meeting = ["--standalone"]
    if nodes != "1":
        address = os.environ.get("MASTER_ADDR")
        if not address:
            raise PivotNetError(f"NNODES is {nodes}: set MASTER_ADDR to the address of node 0")
        rank, port = os.environ.get("NODE_RANK", "0"), os.environ.get("MASTER_PORT", "29500")
        meeting = ["--nnodes", nodes, "--node-rank", rank, "--master-addr", address, "--master-port", port]
    launcher = [sys.executable, "-m", "pivotnet.upstream.ranks", *meeting, "--nproc-per-node", str(cards)]
    return [*launcher, *arguments]


def main() -> None:
    """Replace this process by torchrun: it holds no device, which this one may by now."""
    try:
        words = command(sys.argv[1:])
    except PivotNetError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    os.execv(words[0], words)


if __name__ == "__main__":
    main()

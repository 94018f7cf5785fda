"""``python3 -m pivotnet.upstream.launch configs/X.py OPTIONS``: one process a card.

Cards: CARDS, else those of ``-d 0-3``, else all; one process without an accelerator. Several machines: NNODES,
NODE_RANK, MASTER_ADDR and MASTER_PORT. OPTIONS go to the config's command line.
"""

from __future__ import annotations

import os
import re
import sys

from pivotnet.errors import PivotNetError
from pivotnet.launch import torchrun
from pivotnet.upstream.environ import count_cards, parse_cards


def main() -> None:
    """Replace this process by torchrun: it holds no device, which this one may by now."""
    words = sys.argv[1:]
    try:
        listed = re.search(r"(?:^|\0)(?:-d|--devices)[=\0]?([^\0]*)", "\0".join(words))
        cards = count_cards(parse_cards(listed and listed[1]))
        command = torchrun.command(cards, torchrun.Nodes.from_environment(), words)
    except PivotNetError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    os.execve(command[0], command, torchrun.environment(cards))


if __name__ == "__main__":
    main()

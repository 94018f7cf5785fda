"""Names, order and shapes of the tensors of all six networks of a tree of upstream, patched or not, as JSON.

python names.py TREE OUT [--unpatched]
"""

from __future__ import annotations

import argparse
import copy
import importlib
import json
import os
import sys
from pathlib import Path
from typing import Any

from probe import prepare_unpatched
from recordings import shim


def describe(network: Any) -> dict[str, Any]:
    """Trained parameters in the optimiser's order, and the shape of every tensor of a checkpoint."""
    return {
        "trained": [name for name, parameter in network.named_parameters() if parameter.requires_grad],
        "state": {name: list(tensor.shape) for name, tensor in network.state_dict().items()},
    }


def main() -> None:
    """Write the JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("tree", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--unpatched", action="store_true")
    arguments = parser.parse_args()
    tree = arguments.tree.resolve()
    os.environ["PIVOTNET_BACKBONE_WEIGHTS"] = "none"
    if arguments.unpatched:
        prepare_unpatched(tree)
    else:
        sys.path[:0] = [str(tree), str(tree / "configs")]
    found = {}
    for family in ("pivotnet", "bemapnet"):
        for preset in shim.PRESETS:
            if arguments.unpatched:
                network = shim.build(preset, family)
            else:
                for name in [name for name in sys.modules if "net_nuscenes_" in name]:
                    del sys.modules[name]  # some config files edit the dictionaries of others in place
                setup = importlib.import_module(f"{family}_nuscenes_{preset}").EXPConfig.model_setup
                network = importlib.import_module("mapmaster.models.network").MapMaster(copy.deepcopy(setup))
            found[f"{family}_{preset}"] = describe(network)
    arguments.out.write_text(json.dumps(found))


if __name__ == "__main__":
    main()

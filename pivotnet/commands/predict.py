"""``pivotnet predict``: vector maps as JSON, one file a sample; ``vector_map`` documents the schema."""

from __future__ import annotations

import argparse
from pathlib import Path

from pivotnet.commands.options import add_network_arguments, add_sample_arguments, build_sample_loader, load_network
from pivotnet.data.tokens import chosen_tokens
from pivotnet.device import keep_freed_memory, select_device
from pivotnet.distributed import ranks_from_environment
from pivotnet.errors import PivotNetError
from pivotnet.evaluation import vector_map
from pivotnet.evaluation.inference import predict


def configure(parser: argparse.ArgumentParser) -> None:
    """Options of ``pivotnet predict``."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description = (
        "Write the vector map of each sample, OUT/<token>.json. Under torchrun every rank writes its share.\n\n"
        + (vector_map.__doc__ or "")
    )
    add_network_arguments(parser, required=True)
    add_sample_arguments(parser)
    parser.add_argument("--output", default="vector_maps", metavar="OUT", help="folder (default: %(default)s)")


def run(args: argparse.Namespace) -> int:
    """Predict and write."""
    tokens = chosen_tokens(args.data_root, args.split, args.tokens)
    ranks = ranks_from_environment()
    device = select_device(args.device, ranks.local_rank)
    keep_freed_memory(device)
    model, config = load_network(args, device)
    folder = Path(args.output)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise PivotNetError(f"cannot make {folder}: {error.strerror or error}; choose another --output") from error
    loader = build_sample_loader(args, config, tokens, ranks, device)
    written = 0
    # The ranks need no process group: none waits for another.
    for token, instances in predict(model, loader, config.map, device, quiet=not ranks.main):
        lines = vector_map.predicted_lines(instances, config.map)
        vector_map.save_vector_map(folder / f"{token}.json", token, lines, str(args.ckpt), config.map)
        written += 1
    print(f"{written} vector maps -> {folder}")
    return 0

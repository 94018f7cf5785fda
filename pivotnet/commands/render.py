"""``pivotnet render``: one PNG a sample, with ground truth and, if there is one, the prediction."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Optional

from pivotnet.annotation.format import FOLDER, load_annotation
from pivotnet.commands.options import add_sample_arguments
from pivotnet.config import MapConfig
from pivotnet.data.tokens import chosen_tokens
from pivotnet.errors import PivotNetError
from pivotnet.evaluation.progress import progress
from pivotnet.evaluation.results import load_result, result_path
from pivotnet.evaluation.score import require_annotations
from pivotnet.evaluation.vector_map import MapLine, load_vector_map, predicted_lines


def configure(parser: argparse.ArgumentParser) -> None:
    """Options of ``pivotnet render``."""
    parser.description = (
        "Draw ground truth and prediction into the six images and from above, OUT/<token>.png. "
        "Without --results the ground truth alone."
    )
    add_sample_arguments(parser)
    parser.add_argument(
        "--results", metavar="DIR", help="folder of pivotnet evaluate (result files) or pivotnet predict (JSON)"
    )
    parser.add_argument("--output", default="renders", metavar="OUT", help="folder (default: %(default)s)")
    parser.add_argument(
        "--limit", type=int, default=20, metavar="N", help="at most N samples, evenly over the split (default: 20)"
    )


def run(args: argparse.Namespace) -> int:
    """Draw and write."""
    from pivotnet.evaluation.drawing import render_sample  # matplotlib is slow to import; errors come first

    tokens = chosen_tokens(args.data_root, args.split, args.tokens)
    if args.limit < 1:
        raise PivotNetError(f"--limit is {args.limit}: give 1 or more")
    if args.tokens is None:
        tokens = tokens[:: -(-len(tokens) // args.limit)]
    require_annotations(args.data_root, tokens)
    folder = Path(args.output)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise PivotNetError(f"cannot make {folder}: {error.strerror or error}; choose another --output") from error
    map_config = MapConfig()
    for token in progress(tokens, "render", len(tokens)):
        annotation = load_annotation(Path(args.data_root) / FOLDER / f"{token}.npz")
        predicted = _predicted(args.results, token, map_config)
        render_sample(folder / f"{token}.png", token, annotation, args.data_root, map_config, predicted)
    print(f"{len(tokens)} pictures -> {folder}")
    return 0


def _predicted(results: Optional[str], token: str, map_config: MapConfig) -> Optional[list[MapLine]]:
    """The prediction in the folder ``results``, whichever kind of file it has.

    Raises:
        PivotNetError: the sample has none, or it is damaged.
    """
    if results is None:
        return None
    stored, vectors = result_path(results, token), Path(results) / f"{token}.json"
    if stored.is_file():
        return predicted_lines(load_result(stored).instances, map_config)
    if vectors.is_file():
        return load_vector_map(vectors)
    raise PivotNetError(
        f"there is no prediction of sample {token} in {results}: make it with pivotnet evaluate or pivotnet predict, "
        "or leave --results out to draw the ground truth"
    )

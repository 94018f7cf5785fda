"""``pivotnet render``: one PNG a sample, with ground truth and, if there is one, the prediction."""

import argparse
from collections.abc import Iterable

from pivotnet.annotation.folder import chosen_tokens, require_files, sample_path
from pivotnet.annotation.format import load_annotation
from pivotnet.commands import positive
from pivotnet.commands.options import add_prediction_arguments, load_predictor
from pivotnet.config import MapConfig
from pivotnet.console import progress
from pivotnet.errors import PivotNetError
from pivotnet.evaluation.results import MapInstances, load_result, result_path
from pivotnet.evaluation.vector_map import predicted_lines
from pivotnet.files import make_folder


def configure(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Draw ground truth and prediction into the six images and from above, OUT/<token>.png. The prediction is made "
        "by the network in --ckpt, or read from --results; without either the ground truth is drawn alone."
    )
    add_prediction_arguments(parser)
    add = parser.add_argument
    add("--results", metavar="DIR", help="folder of result files, made by pivotnet evaluate")
    add("--output", default="renders", metavar="OUT", help="folder (default: %(default)s)")
    add("--limit", type=positive, default=20, metavar="N", help="at most N samples, evenly over the split (20)")


def run(args: argparse.Namespace) -> int:
    from pivotnet.evaluation.drawing import render_sample  # matplotlib is slow to import; errors come first

    if args.ckpt and args.results:
        raise PivotNetError("--ckpt and --results both name a prediction to draw: give one of them")
    tokens = chosen_tokens(args.data_root, args.split, args.tokens)
    if args.tokens is None:
        tokens = tokens[:: -(-len(tokens) // args.limit)]
    if args.results:
        remedy = "make them with pivotnet evaluate, or leave --results out to draw the ground truth"
        require_files(args.results, tokens, "result file", remedy)
    folder = make_folder(args.output, "--output")
    map_config = MapConfig()
    shown = progress(tokens, "render", len(tokens))
    samples: Iterable[tuple[str, MapInstances | None]]
    if args.ckpt:
        predictor = load_predictor(args)
        map_config = predictor.config.map
        samples = predictor.predict(tokens)
    elif args.results:
        samples = ((token, load_result(result_path(args.results, token))[1]) for token in shown)
    else:
        samples = ((token, None) for token in shown)
    drawn = 0
    for token, instances in samples:
        annotation = load_annotation(sample_path(args.data_root, token))
        predicted = None if instances is None else predicted_lines(instances, map_config)
        render_sample(folder / f"{token}.png", token, annotation, args.data_root, map_config, predicted)
        drawn += 1
    print(f"{drawn} pictures -> {folder}")
    return 0

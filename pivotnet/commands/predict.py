"""``pivotnet predict``: vector maps as JSON, one file a sample; ``vector_map`` documents the schema."""

import argparse

from pivotnet.annotation.folder import chosen_tokens
from pivotnet.commands.options import add_prediction_arguments, load_predictor
from pivotnet.evaluation import vector_map
from pivotnet.files import make_folder


def configure(parser: argparse.ArgumentParser) -> None:
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description = (
        "Write the vector map of each sample, OUT/<token>.json. Under torchrun every rank writes its share.\n\n"
        + (vector_map.__doc__ or "")
    )
    add_prediction_arguments(parser, required=True)
    parser.add_argument("--output", default="vector_maps", metavar="OUT", help="folder (default: %(default)s)")


def run(args: argparse.Namespace) -> int:
    tokens = chosen_tokens(args.data_root, args.split, args.tokens)
    predictor = load_predictor(args)  # without a process group: no rank waits for another
    folder = make_folder(args.output, "--output")
    written = 0
    for token, instances in predictor.predict(tokens):
        lines = vector_map.predicted_lines(instances, predictor.config.map)
        vector_map.save_vector_map(folder / f"{token}.json", token, lines, args.ckpt, predictor.config.map)
        written += 1
    print(f"{written} vector maps -> {folder}")
    return 0

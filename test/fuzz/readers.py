"""The kinds of files that the package reads: a folder with good ones, and what reads them as its commands do."""

import contextlib
import dataclasses
import hashlib
import io
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from rich.console import Console
from support.fake_run import make_run
from support.samples import one_divider, unpack, write_dividers, write_images, write_results
from torch.utils._pytree import tree_flatten

from pivotnet import checkpoint as checkpoints
from pivotnet import cli, comparison
from pivotnet.annotation.folder import chosen_tokens, open_folder
from pivotnet.annotation.format import FOLDER, check_thin_mask, load_annotation, save_annotation, to_arrays, to_upstream
from pivotnet.config import MapConfig, preset
from pivotnet.data.dataset import camera_matrices
from pivotnet.data.images import read_image
from pivotnet.data.projection import project_bev_grid
from pivotnet.data.targets import build_targets
from pivotnet.device import rng_state
from pivotnet.distributed import Ranks
from pivotnet.doctor.trees import check_data
from pivotnet.errors import PivotNetError
from pivotnet.evaluation import results
from pivotnet.evaluation.ap import sample_ap
from pivotnet.evaluation.drawing import project_ground_line
from pivotnet.evaluation.inference import draw_mask
from pivotnet.evaluation.vector_map import annotated_lines, annotated_pivots, predicted_lines, save_vector_map
from pivotnet.launch.choices import read_choices
from pivotnet.schema import check
from pivotnet.training.optim import FlatAdamW
from pivotnet.training.records import StepRecords, records_path
from pivotnet.training.summary import earlier_seconds, final_lines, read_summary

CONFIG = preset("smoke")
MAP = MapConfig()
TOKENS = {"a1": 40, "b-2": 90, "c_3": 150}  # and the column of each one's divider
IMAGE = "samples/CAM_BACK/a.jpg"
CPU = torch.device("cpu")


def digest(*values: Any) -> str:
    """Of everything that was read, to tell the same from another."""
    leaves, containers = tree_flatten(values)
    found = hashlib.sha256(repr(containers).encode())
    for leaf in leaves:
        if isinstance(leaf, torch.Tensor):
            leaf = leaf.numpy() if leaf.dtype != torch.bfloat16 else leaf.float().numpy()
        if isinstance(leaf, np.ndarray):
            found.update(f"{leaf.dtype}{leaf.shape}".encode())
        plain = isinstance(leaf, np.ndarray) and leaf.dtype != object
        found.update(leaf.tobytes() if plain else repr(leaf).encode())
    return found.hexdigest()


def command(*arguments: object) -> str:
    """A command in this process: what it prints; an error that it prints in one line is raised again."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = cli.main([str(argument) for argument in arguments])
    message = err.getvalue()
    if status:
        assert status in (1, 2) and message.startswith("error: ") and message.count("\n") == 1, (status, message)
        raise PivotNetError(message[7:-1])
    return out.getvalue()


def make_annotation(folder: Path) -> None:
    unpack(folder, "small_npz")
    sample = min(path for path in (folder / "npz").glob("*.npz") if path.stat().st_size > 6000)
    save_annotation(folder / "a.npz", load_annotation(sample))


def make_upstreams_annotation(folder: Path) -> None:
    make_annotation(folder)
    np.savez_compressed(folder / "a.npz", **to_upstream(load_annotation(folder / "a.npz")))


def read_annotation(folder: Path) -> str:
    """As training, rendering and the patched tree use it."""
    annotation = load_annotation(folder / "a.npz")
    extrinsic, intrinsic = camera_matrices(annotation)
    project_bev_grid(extrinsic, intrinsic, CONFIG.model.bev_size, MAP)
    build_targets([(annotation.instance_mask8, annotation.pivot_points, annotation.pivot_lengths)], CONFIG)
    lines = [*annotated_lines(annotation), *annotated_pivots(annotation, MAP)]
    for line in lines:
        project_ground_line(line.points, annotation.rots[0], annotation.trans[0], annotation.intrins[0])
    to_upstream(annotation)
    scores = np.zeros(255, np.float32)
    check(lambda mask: check_thin_mask("instance_mask", mask), annotation.instance_mask, "a.npz", "make it again")
    sample_ap(annotation.instance_mask, scores, annotation.instance_mask, MAP.resolution)
    return digest(to_arrays(annotation), annotation.pivot_points, annotation.pivot_lengths)


def make_result(folder: Path) -> None:
    write_results(folder / "results", {"a": 40})
    (folder / "results" / "a.npz").rename(folder / "a.npz")


def make_upstreams_result(folder: Path) -> None:
    unpack(folder, "eval")
    shutil.copy(min((folder / "eval" / "pred").iterdir()), folder / "a.npz")


def read_result(folder: Path) -> str:
    mask, instances = results.load_result(folder / "a.npz")
    sample_ap(mask, instances.scores, mask, MAP.resolution)
    save_vector_map(folder / "a.json", "a", predicted_lines(instances, MAP), "x", MAP)
    draw_mask(instances, MAP)
    return digest(mask, instances.points, instances.scores, instances.labels)


def read_tables(folder: Path) -> str:
    command("annotate", "-d", folder / "nuscenes", "--workers", "1")
    return digest([(path.name, path.read_bytes()) for path in sorted((folder / "nuscenes" / FOLDER).glob("*.npz"))])


def make_lists(folder: Path) -> None:
    write_dividers(folder / "data", TOKENS)
    shutil.rmtree(folder / "data" / "samples")
    (folder / "data" / "samples").mkdir()
    write_results(folder / "results", dict(TOKENS))
    (folder / "results" / "run.json").write_text('{"checkpoint": "x.pth", "fingerprint": "0", "preset": "smoke"}')
    (folder / "tokens.txt").write_text("a1.npz\nc_3\n")
    (folder / "x.pth").write_text("weights")
    (folder / "out").mkdir()
    open_folder(folder / "other", False, MAP, {"boston-seaport": "0"})


def read_lists(folder: Path) -> str:
    """Scores the results of a split and of a list, writes what is named, and looks at it with the doctor."""
    root, results_folder = folder / "data", folder / "results"
    evaluate = ("evaluate", "--data-root", root, "--results", results_folder)
    said = [command(*evaluate, "--workers", "1"), command(*evaluate, "--tokens", folder / "tokens.txt")]
    for token in [*chosen_tokens(root, "val"), *chosen_tokens(root, "val", [str(folder / "tokens.txt")])]:
        save_vector_map(folder / "out" / f"{token}.json", token, [], "x", MAP)
    with contextlib.suppress(PivotNetError):  # of another checkpoint
        results.open_folder(results_folder, folder / "x.pth", "smoke")
    list(check_data(root, root))
    open_folder(folder / "other", False, MAP, {"boston-seaport": "0"})
    return digest(said)


def _small() -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(5, 3), torch.nn.BatchNorm1d(3))
    optimizer = FlatAdamW([{"params": list(part.parameters())} for part in model], Ranks(), lr=1e-3)
    _step(model, optimizer)
    return model, optimizer


def _step(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()


def make_checkpoint(folder: Path) -> None:
    state = checkpoints.upstream_state(*_small(), 0, 7)
    run = {"config": CONFIG.to_dict(), "step": 7, "world_size": 1, "batch_size": 1, "seed": 0, "elapsed": 1.5}
    checkpoints.save_checkpoint(folder / "a.pth", {**state, "pivotnet": {**run, "rng": [rng_state(CPU)]}})


def make_upstreams_checkpoint(folder: Path) -> None:
    torch.save(checkpoints.upstream_state(*_small(), 0, 7), folder / "a.pth")


def read_checkpoint(folder: Path) -> str:
    state = checkpoints.read_checkpoint(folder / "a.pth")
    if "pivotnet" in state:
        checkpoints.config_from_dict(state["pivotnet"]["config"])
    model, optimizer = _small()
    checkpoints.load_weights(model, state, folder / "a.pth", CONFIG)
    if "optimizer_state" in state:
        checkpoints.load_optimizer_state(optimizer, state["optimizer_state"])
        _step(model, optimizer)
    return digest(state["model_state"], state.get("optimizer_state"), state.get("pivotnet"))


def read_run(folder: Path) -> str:
    """As the report, the Final result and a resumed run read it."""
    run = folder / "run"
    data = comparison.read_run(run)
    Console(file=io.StringIO(), markup=False).print(comparison.comparison_table([data]))
    comparison.run_column(dataclasses.replace(data, summary=None))
    summary = read_summary(run)
    lines = final_lines(summary, "full", earlier_seconds(summary, run))
    read_choices("full", {"resume": str(run)}, [])
    StepRecords(run, 0, 5, 12).close()
    return digest(lines, comparison.run_column(data), records_path(run, 0).read_bytes(), summary)


def make_run_folder(folder: Path) -> None:
    make_run(folder / "run", start_step=5)
    (folder / "run" / "checkpoints").mkdir()
    (folder / "run" / "launch.json").write_text('{"steps": "12", "batch_size": "1", "extra": ["--seed", "3"]}')


def read_camera(folder: Path) -> str:
    return digest(read_image(folder / IMAGE))


class Kind(NamedTuple):
    """A kind of file: how good ones are made, which of them are changed, and what reads them."""

    make: Callable[[Path], None]
    changed: str  # pattern of the files
    read: Callable[[Path], str]


KINDS = {
    "annotation": Kind(make_annotation, "a.npz", read_annotation),
    "annotation, upstream's": Kind(make_upstreams_annotation, "a.npz", read_annotation),
    "result": Kind(make_result, "a.npz", read_result),
    "result, upstream's": Kind(make_upstreams_result, "a.npz", read_result),
    "tables": Kind(lambda folder: unpack(folder, "small_nuscenes"), "nuscenes/v1.0-trainval/*.json", read_tables),
    "map expansion": Kind(
        lambda folder: unpack(folder, "small_nuscenes"), "nuscenes/maps/expansion/*.json", read_tables
    ),
    "token lists": Kind(make_lists, "**/*.txt", read_lists),
    "folders' JSON": Kind(make_lists, "**/*.json", read_lists),
    "checkpoint": Kind(make_checkpoint, "a.pth", read_checkpoint),
    "checkpoint, upstream's": Kind(make_upstreams_checkpoint, "a.pth", read_checkpoint),
    "summary, records": Kind(make_run_folder, "run/*.json*", read_run),
    "image": Kind(lambda folder: write_images(folder, one_divider("a", 40)), IMAGE, read_camera),
}


def choose(rng: random.Random, folder: Path, kind: Kind) -> Path:
    found = sorted(folder.glob(kind.changed))
    return found[rng.randrange(len(found))]

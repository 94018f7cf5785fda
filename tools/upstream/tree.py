"""What a tree of upstream computes, patched or not, written to a file of arrays that can be compared.

    python tree.py [--unpatched] TREE names OUT                                 tensors of all six networks
    python tree.py [--unpatched] TREE losses FAMILY PRESET NUSC_ROOT TOKEN OUT  loss and gradients of a sample
    python tree.py [--unpatched] TREE write FAMILY PRESET CHECKPOINT            a checkpoint after some steps
    python tree.py [--unpatched] TREE read FAMILY PRESET CHECKPOINT OUT         the step after loading it
    tools/cannsim/run python tree.py [--unpatched] TREE count PRESET JSON       what a step asks of a simulated NPU

Weights follow the rule of the recordings, dropout and stochastic depth are off, batch norms are those of one process.
``count`` takes weights and randomness as the tree ships them; another port of upstream counts as unpatched."""

import argparse
import importlib
import os
import sys
import tempfile
import types
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from torch import nn
from torch.utils.data import DataLoader, default_collate

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2])]

from benchmarks.train_tasks import UPSTREAM_PHASES, drawn_batch, move_inputs  # noqa: E402
from recordings import inputs, shim  # noqa: E402
from recordings.golden_criterion import as_targets  # noqa: E402
from recordings.golden_network import network_inputs  # noqa: E402

from pivotnet import config as configs  # noqa: E402
from pivotnet.annotation.format import FOLDER, load_annotation, to_upstream  # noqa: E402
from pivotnet.audit.counts import Audit  # noqa: E402
from pivotnet.audit.recorder import Recorder  # noqa: E402
from pivotnet.audit.step import announce_phases  # noqa: E402
from pivotnet.commands.audit import WIDTH, table  # noqa: E402
from pivotnet.device import select_device  # noqa: E402
from pivotnet.errors import run_command  # noqa: E402
from pivotnet.files import write_json  # noqa: E402
from pivotnet.model.layers import StochasticDepth  # noqa: E402

SEED = 0
EPOCH, STEPS = 3, 2  # of a written checkpoint


class Tree:
    """A checkout of upstream, ready to be imported from; ``unpatched``, with stand-ins for CUDA and for packages."""

    def __init__(self, folder: Path, unpatched: bool) -> None:
        self.folder = folder = folder.resolve()
        self.unpatched = unpatched
        os.environ["PIVOTNET_BACKBONE_WEIGHTS"] = "none"
        if unpatched:
            shim.import_upstream(folder)
            network = importlib.import_module("mapmaster.models.network")
            engine = importlib.import_module("mapmaster.engine.core")
            # names that one of the BeMapNet configs misses
            network.BeMapNet, engine.BeMapNetCli = network.MapMaster, engine.MapMasterCli
        else:
            sys.path[:0] = [str(folder), str(folder / "configs")]

    def network(self, family: str, preset: str) -> Any:
        """The network of a config."""
        if self.unpatched:
            return shim.build(preset, family, deterministic=False)
        return importlib.import_module("mapmaster.models.network").MapMaster(shim.model_setup(preset, family))

    def experiment(self, family: str, preset: str, data: dict[str, Any]) -> Any:
        """The experiment of a config, its paths of data replaced by ``data``."""
        network = self.network(family, preset) if self.unpatched else None
        module = importlib.import_module(f"{family}_nuscenes_{preset}")
        module.EXPConfig.map_conf.update(data)
        experiment = getattr(module, "ExpDev", module.Exp)(batch_size_per_device=1, total_devices=1, max_epoch=30)
        if network is not None:
            experiment.model = network
        return experiment


def names(tree: Tree) -> dict[str, np.ndarray]:
    """By network: trained parameters in the optimiser's order, and names and shapes of a checkpoint's tensors."""
    found = {}
    for family in ("pivotnet", "bemapnet"):
        for preset in shim.PRESETS:
            network = tree.network(family, preset)
            trained = [name for name, parameter in network.named_parameters() if parameter.requires_grad]
            state = [f"{name} {tuple(tensor.shape)}" for name, tensor in network.state_dict().items()]
            found[f"{family}_{preset}/trained"] = np.array(trained)
            found[f"{family}_{preset}/state"] = np.array(sorted(state))
    return found


def _right_batch_norm_gradients(network: nn.Module) -> None:
    """Keep upstream's batch norms from the fault of torch's CPU kernel that recordings.golden_training describes. The
    same numbers in the other order do not meet it."""

    def in_order(module: nn.Module, inputs: object, output: torch.Tensor) -> None:
        if output.requires_grad and output.is_contiguous():
            output.register_hook(lambda gradient: gradient.contiguous())

    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.register_forward_hook(in_order)


def losses(tree: Tree, family: str, preset: str, root: str, token: str) -> dict[str, np.ndarray]:
    """Terms, total, and every gradient of one annotated sample that goes through the tree's own data set, transforms,
    network and criterion."""
    with tempfile.TemporaryDirectory() as folder:
        content = to_upstream(load_annotation(Path(root) / FOLDER / f"{token}.npz"))
        objects = {key: np.array(content[key], dtype=object) for key in ("ego_vectors", "map_vectors", "ctr_points")}
        np.savez_compressed(Path(folder) / f"{token}.npz", **{**content, **objects})
        for split in ("train", "val"):
            (Path(folder) / f"{split}.txt").write_text(token + "\n")
        data = {"nusc_root": os.path.abspath(root), "anno_root": folder, "split_dir": folder}
        experiment = tree.experiment(family, preset, data)
        model = experiment.model
        if tree.unpatched:
            _right_batch_norm_gradients(model)
        shim.switch_randomness_off(model)
        for module in model.modules():
            if isinstance(module, StochasticDepth):
                module.rates = (0.0,) * len(module.rates)
                module.keep = module.keep[:0]
        inputs.fill(model.state_dict())
        experiment.data_loader_workers = 0
        # one process: nothing but DDP's attribute is needed of it
        model.module = types.SimpleNamespace(post_processor=model.post_processor)
        model.train()
        np.random.seed(SEED)
        batch = next(iter(experiment.train_dataloader))
        if tree.unpatched:
            read = batch["images"].float()
        else:
            read = importlib.import_module("pivotnet.upstream.transform").load_images(batch, model)
        # Noise instead of the picture: batch norm divides by the deviation of a channel, which flat colours make tiny,
        # so that rounding would grow to percents.
        batch["images"] = inputs.images(SEED, tuple(read.shape))
        torch.manual_seed(SEED)
        total, terms = experiment.training_step(batch)
        total.backward()
    gradients = {f"gradient/{name}": p.grad for name, p in model.named_parameters() if p.grad is not None}
    named = {f"term/{name}": torch.as_tensor(value) for name, value in terms.items()}
    found = {"images": read[..., ::8, ::8], "total": total, **named, **gradients}
    return {name: tensor.detach().cpu().numpy() for name, tensor in found.items()}


def _trainer(tree: Tree, family: str, preset: str) -> tuple[Any, Any]:
    """What the callbacks use of upstream's trainer, around the experiment of the config; and their module."""
    exp = tree.experiment(family, preset, {})
    callbacks = importlib.import_module("mapmaster.engine.core")  # imports those that the tree uses
    made = types.SimpleNamespace(exp=exp, model=exp.model, optimizer=exp.optimizer, callbacks=[], train=None)
    return made, callbacks


def _step(made: Any, number: int) -> None:
    """One step of the optimiser; the gradients depend on the parameters' order and ``number`` only."""
    generator = torch.Generator().manual_seed(number)
    for parameter in made.model.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.randn(parameter.shape, generator=generator) * 1e-3
    made.optimizer.step()


def write(tree: Tree, family: str, preset: str, checkpoint: str) -> None:
    """Save after ``STEPS`` steps, through upstream's own callback."""
    made, callbacks = _trainer(tree, family, preset)
    inputs.fill(made.model.state_dict())
    for number in range(STEPS):
        _step(made, number)
    made.epoch, made.global_step = EPOCH, STEPS
    path = Path(checkpoint)
    callbacks.CheckPointSaver(path.parent, filename=path.name).after_epoch(made, EPOCH)


def read(tree: Tree, family: str, preset: str, checkpoint: str) -> dict[str, np.ndarray]:
    """Load through upstream's own callback and make one step more: counters, weights and the optimiser's means."""
    made, callbacks = _trainer(tree, family, preset)
    callbacks.CheckPointLoader(Path(checkpoint)).load_checkpoint(made)
    _step(made, STEPS)
    found = {f"weight/{name}": tensor.numpy() for name, tensor in made.model.state_dict().items()}
    groups = [group for group in made.optimizer.param_groups if group["params"]]
    members = getattr(made.optimizer, "members", [group["params"] for group in groups])  # in FlatAdamW, or in torch's
    names = {parameter: name for name, parameter in made.model.named_parameters()}
    ordered = [names[parameter] for group in members for parameter in group]
    for index, entry in made.optimizer.state_dict()["state"].items():
        found.update({f"{key}/{ordered[index]}": torch.as_tensor(value).numpy() for key, value in entry.items()})
    rates = np.array([[group["lr"], group["weight_decay"]] for group in groups])
    return {**found, "epoch": np.array(made.epoch), "rates": rates}


def _drawn_batch(tree: Tree, preset: str, experiment: Any) -> dict[str, Any]:
    """Random images and a drawn target of batch 1, as the tree's own loader gives them."""
    batch = network_inputs(SEED, *inputs.cameras(SEED))
    if tree.unpatched:
        return {**batch, "targets": as_targets(inputs.target(SEED, "typical"))}
    ours = drawn_batch(configs.preset(preset), "typical", 1)
    normalize = importlib.import_module("pivotnet.upstream.transform").Normalize
    noted = normalize(**experiment.exp_config.dataset_setup["img_norm_cfg"])({"extra_infos": {}})["extra_infos"]
    grid = {name: getattr(ours, name) for name in ("reference_points", "reference_valid")}
    return {
        "images": ours.images,
        "targets": ours.targets,
        "extra_infos": {**batch["extra_infos"], **default_collate([noted]), **grid},
        **{name: batch[name].float() for name in ("extrinsic", "intrinsic")},
    }


def count(tree: Tree, preset: str, report: str) -> None:
    """Count what the second training step of PivotNet asks of an NPU, and how often it calls each function of CANN. The
    step is that of upstream's trainer, float32 and batch 1, without the buckets of DistributedDataParallel."""
    from cannsim.counters import contract

    experiment = tree.experiment("pivotnet", preset, {})
    model = experiment.model.cuda().train()
    if tree.unpatched:
        model.register_forward_pre_hook(move_inputs)
    model.module = types.SimpleNamespace(post_processor=model.post_processor)
    optimizer = experiment.optimizer
    recorder = Recorder(torch.device("npu", 0))
    announce_phases(model, model.post_processor, optimizer, recorder.enter, UPSTREAM_PHASES)
    for _ in range(2):
        (batch,) = DataLoader([_drawn_batch(tree, preset, experiment)], batch_size=None, pin_memory=True)
        recorder.enter("input")
        recorder.audit = Audit()
        contract("report")
        with recorder.recording():
            optimizer.zero_grad()
            total, _ = experiment.training_step(batch)
            total.backward()
            optimizer.step()
            recorder.end_phase()
    audit, functions = recorder.audit, contract()["8.5.0"]
    Console(width=WIDTH).print(table(audit, f"One training step of {preset} in {tree.folder}"))
    write_json(Path(report), {**audit.to_dict(), "functions": functions})


def _run() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--unpatched", action="store_true")
    parser.add_argument("tree", type=Path)
    commands = parser.add_subparsers(required=True)
    for command, words in (
        (names, "out"),
        (losses, "family preset root token out"),
        (write, "family preset checkpoint"),
        (read, "family preset checkpoint out"),
        (count, "preset report"),
    ):
        sub = commands.add_parser(command.__name__)
        sub.set_defaults(command=command)
        for word in words.split():
            sub.add_argument(word)
    arguments = vars(parser.parse_args())
    if arguments["command"] is count:
        select_device("npu")
        importlib.import_module("mx_driving")  # imports transfer_to_npu: CUDA means the NPU
    tree = Tree(arguments.pop("tree"), arguments.pop("unpatched"))
    command, out = arguments.pop("command"), arguments.pop("out", None)
    found = command(tree, **arguments)
    if out:
        np.savez(out, **found)
    return 0


if __name__ == "__main__":
    sys.exit(run_command(_run))

"""The choices of a run: options, environment variables, and the choices of the run that it resumes."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pivotnet.config import preset
from pivotnet.errors import PivotNetError
from pivotnet.files import read_json, write_json
from pivotnet.launch.torchrun import Nodes
from pivotnet.limits import BATCH_SIZE, COUNT, WORKERS, whole_number
from pivotnet.schema import fields, items, text

_CHECKOUT = Path(__file__).absolute().parents[2]
ROOT = _CHECKOUT if (_CHECKOUT / "test" / "env_npu.sh").is_file() else Path.cwd()  # installed without its checkout
OUTPUTS = ROOT / "test" / "output"
WITHOUT_WEIGHTS = "PIVOTNET_BACKBONE_WEIGHTS"  # "none": start from random backbones where no weight file is
SAVED = "launch.json"  # in the output folder: the choices, for --resume
SCRIPTS = {"performance": "train_8p_performance.sh", "full": "train_full_8p.sh"}
NETWORKS = ("builtin", "patched", "bemapnet")
PATCHED = "builtin; patched or bemapnet: the checkout of upstream in PIVOTNET_DIR (PivotNet/), through its run.sh"
DATA = "data/nuscenes, here or in PivotNet/, else synthetic data"
MOST = {"cards": WORKERS, "batch_size": BATCH_SIZE, "steps": COUNT, "epochs": COUNT}


def _option(metavar: str, meaning: str, default: str) -> Any:
    return field(default=None, metadata={"option": (metavar, meaning, default)})


@dataclass
class Choices:
    """None where the default holds, which is filled in before training."""

    kind: str  # of SCRIPTS
    preset: str | None = _option("NAME", "network: swint, res50, effb0 or smoke", "swint, smoke without an accelerator")
    network: str | None = _option("NAME", PATCHED, "patched where there is one")
    device: str | None = _option("NAME", "npu, cuda or cpu", "the first of them that works")
    cards: int | None = _option("N", "processes on this machine", "all accelerators, 2 without one")
    batch_size: int | None = _option("N", "samples per card and step", "the preset's: 1")
    steps: int | None = _option("N", "end after N steps", "performance: 1500, without accelerator 150")
    epochs: int | None = _option("N", "epochs of the schedule", "the preset's: 30")
    data_root: Path | None = _option("DIR", "nuScenes tree", DATA)
    weights: Path | None = _option("DIR", "pretrained backbone files", "assets/weights, see tools/download.py")
    output: Path | None = _option("DIR", "folder of this run", "a new one under test/output")
    extra: list[str] = field(default_factory=list)  # options of pivotnet train
    resume: bool = False
    nodes: Nodes = field(default_factory=Nodes)

    def save(self) -> None:
        assert self.output
        names = [name for name in OPTIONS if name not in ("weights", "output") and getattr(self, name) is not None]
        write_json(self.output / SAVED, {**{name: str(getattr(self, name)) for name in names}, "extra": self.extra})


# name: (metavar, meaning, default); the environment variable is the name in capitals
OPTIONS = {one.name: one.metadata["option"] for one in dataclasses.fields(Choices) if one.metadata}


def read_choices(kind: str, given: Mapping[str, str | None], extra: list[str]) -> Choices:
    """Options, where they are not given environment variables, and where these are not set those of the resumed run.
    ``given``: values by name of OPTIONS; ``resume`` is None without --resume, and "" without its folder."""
    values: dict[str, Any] = {name: given.get(name) or os.environ.get(name.upper()) or None for name in OPTIONS}
    nodes, resume = Nodes.from_environment(), given.get("resume") is not None
    if resume:
        folder = given["resume"] or values["output"]
        if nodes.count > 1 and not folder:
            raise PivotNetError("--resume on several machines needs the run's folder: give --resume DIR")
        values["output"] = folder = folder or _newest_unfinished(kind)
        if not (folder and (Path(folder) / "checkpoints").is_dir()):
            raise PivotNetError(f"nothing to resume: {folder or 'no interrupted run here'} has no checkpoints")
        if (Path(folder) / SAVED).is_file():
            rule = fields({}, {**dict.fromkeys(OPTIONS, text), "extra": items(text)})
            saved = read_json(Path(folder) / SAVED, "give the options of the run again, and remove this file", rule)
            values = {name: value or saved.get(name) for name, value in values.items()}
            extra = extra or saved.get("extra", [])
    for name, (metavar, *_) in OPTIONS.items():
        if metavar == "N" and values[name]:
            values[name] = whole_number(f"--{name.replace('_', '-')} ({name.upper()})", values[name], most=MOST[name])
    if values["preset"]:
        preset(values["preset"])
    if values["network"] not in (None, *NETWORKS):
        raise PivotNetError(f"--network (NETWORK) is {values['network']}: choose one of {', '.join(NETWORKS)}")
    root = values["data_root"] = values["data_root"] or default_data()
    if root and (problem := data_problem(Path(root))):
        raise PivotNetError(f"data root {problem}: give the folder of a nuScenes tree")
    for name in ("data_root", "weights", "output"):
        values[name] = values[name] and Path(values[name]).absolute()
    return Choices(kind, **values, extra=extra, resume=resume, nodes=nodes)


def checkout_folder() -> Path:
    """Where the checkout of upstream lies, if there is one."""
    return Path(os.environ.get("PIVOTNET_DIR") or ROOT / "PivotNet").absolute()


def data_problem(root: Path) -> str | None:
    """Why this is no nuScenes tree; None where it looks like one."""
    if not root.is_dir():
        return f"{root} does not exist"
    return None if (root / "samples").is_dir() else f"{root} is no nuScenes tree: it has no folder samples"


def default_data() -> Path | None:
    """The nuScenes tree that lies here or, as the published README has it, in the checkout of upstream."""
    folders = (folder / "data" / "nuscenes" for folder in (ROOT, checkout_folder()))
    return next((folder for folder in folders if folder.exists()), None)


def _newest_unfinished(kind: str) -> Path | None:
    def finished(summary: Path) -> bool:
        return summary.is_file() and b'"finished": true' in summary.read_bytes()

    found = [path for path in OUTPUTS.glob(f"{kind}_*/checkpoints") if not finished(path.parent / "summary.json")]
    return max(found, key=lambda path: path.stat().st_mtime).parent if found else None

"""Starting weights of the backbones, read from the public files that upstream starts from."""

from pathlib import Path
from typing import Any

from torch import Tensor, nn

from pivotnet.checkpoint import read_tensors, weight
from pivotnet.config import BACKBONES
from pivotnet.errors import PivotNetError
from pivotnet.files import PathLike
from pivotnet.schema import check, mapping


def load_pretrained(backbone: nn.Module, name: str, path: PathLike) -> None:
    """Load the weight file of a backbone (swint, res50 or effb0): all of its weights, or none. ``path`` is the file, or
    the folder in which it lies under its published name. Raises PivotNetError: the file is missing or unreadable, or
    its tensors are not those of this backbone."""
    info = BACKBONES[name]
    source = Path(path)
    if source.is_dir():
        source = source / info.weight_file
    own = backbone.get_submodule("bkb").state_dict()
    weights = {
        key[len(info.prefix) :]: value
        for key, value in _read(source, info.url).items()
        if isinstance(value, Tensor) and str(key).startswith(info.prefix)
    }
    weights = {key: value for key, value in weights.items() if key in own or not key.startswith(info.dropped)}
    # files older than the counters of batch norm come without them
    weights = {**{key: value for key, value in own.items() if key.endswith("num_batches_tracked")}, **weights}
    problems = {
        "missing": own.keys() - weights.keys(),
        "unexpected": weights.keys() - own.keys(),
        "of another shape": {key for key in own.keys() & weights.keys() if weights[key].shape != own[key].shape},
    }
    wrong = [f"{len(keys)} {what} (such as {min(keys)})" for what, keys in problems.items() if keys]
    if wrong:
        raise PivotNetError(
            f"{source} does not hold the weights of {name}: of {len(own)} tensors {', '.join(wrong)}; "
            f"expected {info.weight_file} from {info.url}"
        )
    check(mapping(weight), weights, source, f"download it again from {info.url}")
    backbone.get_submodule("bkb").load_state_dict(weights)


def _read(source: Path, url: str) -> dict[str, Any]:
    """The state dict of a file, which may be wrapped in a dict of other information."""
    try:
        content = read_tensors(source)
    except FileNotFoundError:
        raise PivotNetError(
            f"{source} is missing: download it from {url}, "
            "or give no weight file to start with a random backbone (it then learns slower and less)"
        ) from None
    except PivotNetError as error:
        raise PivotNetError(f"{error}: download it again from {url}") from error
    state = content.get("state_dict", content) if isinstance(content, dict) else None
    if not isinstance(state, dict):
        raise PivotNetError(f"{source} holds no dict of tensors: download it again from {url}")
    return state

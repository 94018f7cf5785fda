"""Hostile versions of files: each function changes one file in place, by a random generator, and says how."""

import io
import json
import os
import random
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.lib import format as npy
from PIL import Image

from pivotnet.checkpoint import save_checkpoint

NUMBERS = (
    *(0, 1, -1, 2, 3, 255, 256, 65_536, 2**31 - 1, 2**31, -(2**31), 2**32, 2**53, 2**63 - 1, 2**64, 10**30),
    *(0.5, -0.5, 1e-300, 1e9, -1e9, 1e38, 1e308, -1e308, float("nan"), float("inf"), float("-inf")),
)
ESCAPED = "escaped"  # part of every name by which a mutation tries to leave its folder
NAMES = (
    *("", ".", "..", "a/b", "/", "\0", "a\nb", "é", "x" * 300, "-", "--help", "*", "a b", "a;b", "$(x)", "CON"),
    *("\ud800", f"../{ESCAPED}", f"../../../{ESCAPED}", f"../../../../../{ESCAPED}"),
    f"samples/CAM_FRONT/../../../../{ESCAPED}.jpg",
)
DTYPES = ("f2", "f4", "f8", ">f8", "i1", "i8", ">i4", "u1", "u2", "u4", "u8", "b1", "c16", "S3", "U3", "M8[s]", "O")


def scalar(rng: random.Random) -> Any:
    """A value that some reader does not expect."""
    kind = rng.randrange(8)
    if kind < 3:
        return rng.choice(NUMBERS)
    if kind < 5:
        return rng.choice(NAMES) if rng.random() < 0.8 else f"{os.environ['FUZZ_BASE']}/{ESCAPED}"
    depth = rng.choice((4, 21, 201))
    nested = json.loads("[" * depth + "]" * depth)
    return rng.choice((None, True, False, [], {}, [[]], [None], {"a": 1}, "1", "nan", [1, 2, 3], [1e308] * 4, nested))


def flip(content: bytearray, rng: random.Random) -> bytearray:
    for _ in range(rng.choice((1, 1, 1, 2, 8, 64))):
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    return content


def change_bytes(path: Path, rng: random.Random) -> str:
    """Bits, sizes and blocks of a file of any kind."""
    how = rng.choice(("flip", "flip", "flip", "truncate", "extend", "overwrite", "overwrite", "move"))
    content = bytearray(path.read_bytes())
    if how == "flip":
        flip(content, rng)
    elif how == "truncate":
        del content[rng.randrange(len(content)) :]
    elif how == "extend":
        content += rng.choice((bytes(1000), rng.randbytes(1000), bytes(content), b"\n", b"\0"))
    elif how == "overwrite":
        start, size = rng.randrange(len(content)), rng.choice((1, 2, 4, 8, 100, 1000))
        content[start : start + size] = rng.choice((b"\xff" * size, bytes(size), rng.randbytes(size), b"\x7f" * size))
    else:
        start, end, to = (rng.randrange(len(content)) for _ in range(3))
        content[to:to] = content[min(start, end) : max(start, end)]
    path.write_bytes(content)
    return how


def change_file(path: Path, rng: random.Random) -> str:
    what = rng.choice(("empty", "folder", "fifo", "zero device", "loop", "dangling", "huge", "text", "missing"))
    size = path.stat().st_size
    path.unlink()
    if what == "folder":
        path.mkdir()
    elif what == "fifo":
        os.mkfifo(path)
    elif what == "zero device":
        path.symlink_to("/dev/zero")
    elif what == "loop":
        path.symlink_to(path)
    elif what == "dangling":
        path.symlink_to(path.parent / "none")
    elif what != "missing":
        path.write_text("<html>no such file</html>" if what == "text" else "")
        if what == "huge":
            os.truncate(path, 5 * 2**30 + size)  # sparse
    return what


def places(value: Any, found: list, depth: int = 0) -> list:
    """(container, key) of everything in a tree."""
    keys: Any = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in keys:
        found.append((value, key))
        if depth < 8:
            places(value[key], found, depth + 1)
    return found


def change_tree(tree: Any, rng: random.Random) -> str:
    """Change one or a few places of a tree in place."""
    said = []
    for _ in range(rng.choice((1, 1, 1, 1, 2, 5))):
        found = places(tree, [])
        if not found:
            break
        container, key = rng.choice(found)
        value = container[key]
        action = rng.randrange(10)
        if isinstance(value, torch.Tensor) and action < 8:
            container[key] = change_tensor(value, rng)
        elif isinstance(value, np.ndarray) and action < 8:
            container[key] = change_array(value, rng)
        elif action < 6:
            container[key] = scalar(rng)
        elif isinstance(container, list) and action < 9:
            container.insert(key, value if action < 8 else scalar(rng))
        elif isinstance(container, list) or action < 8:
            del container[key]
        elif action < 9:
            container[rng.choice(NAMES[:-1])] = container.pop(key)
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            container[key] = value * rng.choice((-1, 2, 1000, 0.001, 1.5)) + rng.choice((0, 1, -1))
        else:
            container[key] = [value] if rng.random() < 0.5 else str(value)[:100]
        said.append(f"{str(key)[:40]!r}")
    return f"tree at {', '.join(said)}"


def change_array(array: np.ndarray, rng: random.Random) -> np.ndarray:
    """Another type, shape or values."""
    action = rng.randrange(4)
    if action == 0 and array.dtype != object:
        with np.errstate(all="ignore"):
            try:
                return array.astype(rng.choice(DTYPES))
            except (TypeError, ValueError):
                return np.zeros(array.shape, "c8")
    if action == 1:
        axes = np.atleast_1d(array)
        shapes = (axes[:0], array[None], array.reshape(-1), array.T, np.concatenate([axes, axes]), axes[..., :1])
        return rng.choice((*shapes, axes[1:], np.zeros((0, 2**40, 0)), np.resize(array, (70_000, 2))))
    if not array.size or array.dtype.kind not in "iufU":
        return np.array(rng.choice(([], 0, [[1, 2]], ["a"])))
    changed = array.copy()
    if array.dtype.kind == "U":
        changed = array.astype(object)
        changed.flat[rng.randrange(array.size)] = rng.choice(NAMES[:-1]).replace("\0", "_") or "x"
        return changed.astype(str)
    if rng.random() < 0.2:
        noise = np.random.default_rng(rng.randrange(2**32))
        return noise.integers(0, rng.choice((2, 5, 60, 120)), array.shape).astype(array.dtype)
    with np.errstate(all="ignore"):
        value = rng.choice(NUMBERS)
        if array.dtype.kind in "iu":
            limits = np.iinfo(array.dtype)
            value = int(np.clip(value if value == value else 0, limits.min, limits.max - 1024))
        if action == 2:
            changed.flat[rng.randrange(array.size)] = value
        else:
            changed[...] = value if rng.random() < 0.5 else changed.reshape(-1)[::-1].reshape(changed.shape)
    return changed


def change_tensor(tensor: torch.Tensor, rng: random.Random) -> Any:
    """As an array, or what no array is."""
    foreign = (torch.ones(1).expand(2**20, 2**20), torch.ones(1).expand(3), torch.eye(3).to_sparse())
    foreign += (torch.empty(2, device="meta"), tensor.to(torch.bfloat16), tensor.tolist())
    if rng.random() < 0.4:
        return rng.choice(foreign)
    try:
        return torch.from_numpy(change_array(tensor.numpy(), rng))
    except (TypeError, ValueError):  # no type of torch
        return tensor[..., :0] if tensor.ndim else tensor[None]


def change_json(path: Path, rng: random.Random) -> str:
    """Values, keys and depth of the file, or of one line of it."""
    lines = path.read_text().splitlines(keepends=True) if path.suffix == ".jsonl" else [path.read_text()]
    index = rng.randrange(len(lines)) if path.suffix == ".jsonl" else 0
    tree = [json.loads(lines[index])]
    if path.suffix == ".json" and rng.random() < 0.05:
        depth = rng.choice((900, 100_000))
        path.write_text("[" * depth + "]" * depth)
        return f"nested {depth} deep"
    how = change_tree(tree, rng)
    lines[index] = f"{json.dumps(tree[0] if tree else None)}\n"
    path.write_text("".join(lines))
    return f"line {index}, {how}"


def change_text(path: Path, rng: random.Random) -> str:
    lines = path.read_text().split("\n")
    name = f"{os.environ['FUZZ_BASE']}/{ESCAPED}" if rng.random() < 0.2 else rng.choice(NAMES)
    lines.insert(rng.randrange(len(lines) + 1), name)
    path.write_bytes("\n".join(lines).encode(errors="surrogatepass"))
    return f"line {name[:40]!r}"


def change_npz(path: Path, rng: random.Random) -> str:
    """Types, shapes, values and names of the arrays, and what the archive claims of them."""
    with np.load(path, allow_pickle=True) as archive:
        arrays: dict[str, Any] = {key: archive[key] for key in archive.files}
    for key, value in arrays.items():
        if value.dtype == object:  # upstream's lists and dicts, whose content can be changed then
            arrays[key] = value.tolist()
    how = change_tree(arrays, rng) if rng.random() < 0.8 else ""
    members = {}
    for key, value in arrays.items():
        stream = io.BytesIO()
        if not isinstance(value, np.ndarray):  # as numpy's savez makes of them
            value = np.fromiter(value, object) if isinstance(value, list) else np.array(value, object)
        npy.write_array(stream, value, allow_pickle=True)
        members[str(key)[:200].replace("\0", "_").replace("\ud800", "_")] = stream.getvalue()
    if not how:
        key = rng.choice(list(members))
        how = f"{rng.choice(('claim', 'header', 'bomb', 'shape'))} of {key}"
        if how.startswith("header"):
            members[key] = members[key][:8] + bytes(flip(bytearray(members[key][8:]), rng))
        elif how.startswith("shape"):
            header = io.BytesIO()
            shape = rng.choice(((2**40,), (-1,), (2**32, 2**32), (1,) * 40, (10**9, 3)))
            npy.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": shape})
            members[key] = header.getvalue() + members[key][128:]
        elif how.startswith("bomb"):
            members[key] += bytes(2**27)
    packing = rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_DEFLATED))
    with zipfile.ZipFile(path, "w", packing) as archive:
        for key, content in members.items():
            archive.writestr(f"{key}.npy", content)
        if how.startswith(("claim", "bomb")):
            info = rng.choice(archive.infolist())
            info.file_size = rng.choice((0, 100, info.file_size // 2, 2**31, 2**32 - 2))
    return how


def change_checkpoint(path: Path, rng: random.Random) -> str:
    """Tensors and values, with the right checksum, the old one or none."""
    state = torch.load(path, weights_only=True)
    old = state.pop("checksum", "")
    how = change_tree(state, rng)
    summed = rng.choice(("none", "none", "old", "right"))
    try:
        if summed == "right":
            save_checkpoint(path, state)
    except Exception:  # what is hostile may have no checksum
        summed = "none"
    if summed != "right":
        torch.save({**state, "checksum": old} if summed == "old" else state, path)
    return f"{how}, checksum {summed}"


def change_image(path: Path, rng: random.Random) -> str:
    with Image.open(path) as image:
        image.load()
        if rng.random() < 0.5:
            size = rng.choice(((1, 1), (900, 1600), (1600, 901), (3000, 2000)))
            image.resize(size).save(path, "JPEG")
            return f"size {size}"
        kind = rng.choice(("PNG", "EPS", "BMP", "TIFF", "GIF", "PPM"))
        image.resize((160, 90)).save(path, kind)
        return kind


FORMATS: dict[str, Callable[[Path, random.Random], str]] = {
    **{".npz": change_npz, ".json": change_json, ".jsonl": change_json},
    **{".txt": change_text, ".pth": change_checkpoint, ".jpg": change_image},
}


def mutate(path: Path, rng: random.Random) -> str:
    """Change a file in place; returns what was done to it."""
    share = rng.random()
    how = change_file if share < 0.08 else change_bytes if share < 0.4 else FORMATS[path.suffix]
    return f"{path.name}: {how(path, rng)}"

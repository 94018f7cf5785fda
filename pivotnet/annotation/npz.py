"""Reads .npz files without pickle, and upstream's old ones, which hold pickled objects, without trusting them."""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
import zlib
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.lib import format as npy

from pivotnet.errors import PivotNetError
from pivotnet.files import PathLike

_BROKEN = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    pickle.UnpicklingError,
    EOFError,
    ValueError,
    KeyError,
    IndexError,
    TypeError,
    AttributeError,
    NotImplementedError,
    RuntimeError,
    OverflowError,
    MemoryError,
)

# numpy 2 moved numpy.core to numpy._core; a file may come from either side.
_MULTIARRAY = ("numpy.core.multiarray", "numpy._core.multiarray")
_EMPTY = np.empty(0)
_RECONSTRUCT = _EMPTY.__reduce__()[0]
_SCALAR = np.float64(0).__reduce__()[0]


class _ArrayUnpickler(pickle.Unpickler):
    """Builds Python's plain containers, numbers and strings, and numpy's arrays, scalars and dtypes; nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        if module == "numpy" and name in ("ndarray", "dtype"):
            return getattr(np, name)
        if module in _MULTIARRAY and name == "_reconstruct":
            return _RECONSTRUCT
        if module in _MULTIARRAY and name == "scalar":
            return _SCALAR
        raise pickle.UnpicklingError(f"it names {module}.{name}, which is no array")


def _read_array(member: bytes) -> np.ndarray:
    """One .npy file held in memory."""
    stream = io.BytesIO(member)
    version = npy.read_magic(stream)
    read_header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, _, dtype = read_header(stream)
    if dtype.hasobject:
        array = _ArrayUnpickler(stream).load()
        if not isinstance(array, np.ndarray) or array.shape != shape:
            raise ValueError("a pickled array does not have the shape of its header")
        return array
    stream.seek(0)
    return npy.read_array(stream, allow_pickle=False)


def read_npz(path: PathLike, keys: Iterable[str] | None = None) -> dict[str, Any]:
    """The arrays of an .npz file by name.

    Object arrays (upstream's converter pickles dicts and lists) come back as object arrays of plain containers, numbers
    and numeric arrays: use ``.item()`` where upstream does. A pickle that names anything else is refused.

    Args:
        path: the file.
        keys: names to read; the rest is not decompressed. All of them if None.

    Raises:
        PivotNetError: the file is missing, truncated, no .npz, lacks one of ``keys``, or holds foreign objects.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = {name[:-4] if name.endswith(".npy") else name: name for name in archive.namelist()}
            wanted = list(members) if keys is None else list(keys)
            missing = [key for key in wanted if key not in members]
            if missing:
                raise PivotNetError(f"{path} lacks {', '.join(missing)}: it is of another kind; make the file again")
            # Reading a member to its end also checks its checksum.
            return {key: _read_array(archive.read(members[key])) for key in wanted}
    except FileNotFoundError as error:
        raise PivotNetError(f"{path} does not exist: make it first, or check the path") from error
    except OSError as error:
        raise PivotNetError(f"cannot read {path}: {error.strerror or error}; check the path and its rights") from error
    except _BROKEN as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise PivotNetError(f"{path} is damaged or no .npz file ({reason}): delete it and make it again") from error

"""Reads and writes .npz files without pickle; reads upstream's old ones, which hold pickled objects, without trusting
them."""

from __future__ import annotations

import functools
import io
import struct
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy

from pivotnet.annotation.pickled import read_objects
from pivotnet.errors import PivotNetError
from pivotnet.files import PathLike

_DAMAGE = (
    *(zipfile.BadZipFile, zlib.error, struct.error, EOFError, ValueError, TypeError, LookupError, AttributeError),
    *(ArithmeticError, RuntimeError, MemoryError),
)
_LARGEST = 64 * 2**20  # bytes of all arrays that are read from a file; a sample has 1 MB
_LARGEST_HEADER = 10_000  # bytes
# The masks are mostly zeros. Up to level 3, zlib writes such a run as copies from many bytes back, which inflate ten
# times as fast as the copies from the byte before that higher levels write; a file grows by a few kilobytes.
_LEVEL = 3


@functools.lru_cache(maxsize=1024)
def _read_header(header: bytes) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape, Fortran order and type in a .npy file's first bytes. Parsing them takes longer than reading a small array,
    and all files of a data set have the same ones."""
    stream = io.BytesIO(header)
    version = npy.read_magic(stream)
    return (npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0)(stream)


def _read_array(member: bytes) -> np.ndarray:
    """One .npy file held in memory: magic string, version, length of the rest of the header, the rest, data."""
    size = struct.Struct("<H" if member[6:7] == b"\x01" else "<I")
    start = 8 + size.size + size.unpack_from(member, 8)[0]
    if start > _LARGEST_HEADER:
        raise ValueError(f"an array has a header of {start} bytes, more than {_LARGEST_HEADER}")
    shape, fortran_order, dtype = _read_header(member[:start])
    if dtype.kind == "O":
        return read_objects(member[start:], shape)
    if dtype.kind not in "biufcSU":
        raise ValueError(f"an array has the type {dtype}, neither numbers nor text")
    return np.ndarray(shape, dtype, member, start, order="F" if fortran_order else "C")


def _check_sizes(infos: Iterable[zipfile.ZipInfo]) -> None:
    """Raise ValueError before anything is inflated that could take more memory than it claims, or too much."""
    size = 0
    for info in infos:
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ValueError(f"{info.filename} is compressed in an uncommon way")
        size += info.file_size
    if size > _LARGEST:
        raise ValueError(f"its arrays have {size} bytes, more than {_LARGEST}")


def read_npz(path: PathLike, keys: Iterable[str] | None = None) -> dict[str, Any]:
    """The arrays of an .npz file by name, read-only.

    Object arrays (upstream's converter pickles dicts and lists) come back as object arrays of plain containers, numbers
    and numeric arrays: use ``.item()`` where upstream does. A pickle that names anything else is refused.

    Args:
        path: the file.
        keys: names to read, all of them if None; the rest is not decompressed.

    Raises:
        PivotNetError: the file is missing, truncated, no .npz, too large, lacks one of ``keys``, or holds foreign
            objects.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
            wanted = list(members if keys is None else keys)
            missing = [key for key in wanted if key not in members]
            if missing:
                raise PivotNetError(f"{path} lacks {', '.join(missing)}: it is of another kind; make the file again")
            _check_sizes([members[key] for key in wanted])
            return {key: _read_array(archive.read(members[key])) for key in wanted}
    except FileNotFoundError as error:
        raise PivotNetError(f"{path} does not exist: make it first, or check the path") from error
    except OSError as error:
        raise PivotNetError(f"cannot read {path}: {error.strerror or error}; check the path and its rights") from error
    except _DAMAGE as error:
        reason = " ".join(str(error)[:200].split()) or type(error).__name__
        raise PivotNetError(f"{path} is damaged or no .npz file ({reason}): delete it and make it again") from error


def write_npz(stream: IO[bytes], arrays: Mapping[str, np.ndarray]) -> None:
    """Write arrays of numbers or text as an .npz file to an open file; equal content gives equal bytes.

    Raises:
        ValueError: an array holds objects, which would have to be pickled.
    """
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for key, array in arrays.items():
            member = io.BytesIO()
            npy.write_array(member, np.asarray(array, order="C"), allow_pickle=False)
            # Only masks are worth the time: coordinates lose 6 percent at most.
            method = zipfile.ZIP_DEFLATED if array.dtype == np.uint8 else zipfile.ZIP_STORED
            archive.writestr(zipfile.ZipInfo(f"{key}.npy"), member.getvalue(), method, _LEVEL)  # dated 1980
    stream.write(content.getbuffer())

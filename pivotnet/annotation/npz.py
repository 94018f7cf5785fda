"""Reads and writes .npz files without pickle; reads upstream's old ones, which hold pickled objects, without trusting
them."""

from __future__ import annotations

import io
import re
import struct
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy

from pivotnet.annotation.pickled import read_objects
from pivotnet.errors import PivotNetError
from pivotnet.files import PathLike, open_file
from pivotnet.schema import LARGEST_HEADER, Array, Misfit, check_arrays

_DAMAGE = (
    *(zipfile.BadZipFile, zlib.error, struct.error, EOFError, ValueError, TypeError, LookupError, AttributeError),
    *(ArithmeticError, RuntimeError, MemoryError),
)
# As numpy writes it. numpy's own reader evaluates it as Python, and takes longer for that than for a small array.
_HEADER = re.compile(
    rb"\{'descr': '([<>|=][biufcSUO]\d*)', 'fortran_order': (True|False), 'shape': \(([\d, ]*)\), \}\s*"
)
# The masks are mostly zeros. Up to level 3, zlib writes such a run as copies from many bytes back, which inflate ten
# times as fast as the copies from the byte before that higher levels write; a file grows by a few kilobytes.
_LEVEL = 3


def _read_array(member: bytes) -> np.ndarray:
    """One .npy file held in memory: magic string, version, length of the rest of the header, the rest, data."""
    size = struct.Struct("<H" if member[6:7] == b"\x01" else "<I")
    start = 8 + size.size + size.unpack_from(member, 8)[0]
    if start > LARGEST_HEADER:
        raise ValueError(f"an array has a header of {start} bytes, more than {LARGEST_HEADER}")
    header = _HEADER.fullmatch(member[8 + size.size : start])
    if not member.startswith(b"\x93NUMPY") or header is None:
        raise ValueError("an array has a header that is not numpy's, or is of neither numbers nor text")
    dtype, shape = np.dtype(header[1].decode()), tuple(map(int, re.findall(rb"\d+", header[3])))
    if dtype.kind == "O":
        return read_objects(member[start:], shape)
    return np.ndarray(shape, dtype, member, start, order="F" if header[2] == b"True" else "C")


def _inflate(archive: zipfile.ZipFile, info: zipfile.ZipInfo, largest: int) -> bytes:
    """A member's bytes; neither what it claims nor what it inflates to takes more memory than ``largest``."""
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(f"{info.filename} is compressed in an uncommon way")
    if info.file_size > largest:
        raise ValueError(f"{info.filename} has {info.file_size} bytes, more than {largest}")
    with archive.open(info) as member:
        return member.read(info.file_size)  # without a number, all that there is would be inflated first


def read_npz(path: PathLike, *forms: Mapping[str, Array]) -> dict[str, Any]:
    """The arrays of an .npz file by name, read-only. Raises PivotNetError: the file is missing, truncated, no .npz, of
    none of the forms, or holds foreign objects.

    The first of ``forms`` (rules of arrays by name) is taken whose arrays are all there; others are not decompressed.
    Object arrays (upstream's converter pickles dicts and lists) come back as object arrays of plain containers, numbers
    and numeric arrays: use ``.item()`` where upstream does. A pickle that names anything else is refused.
    """
    try:
        with open_file(path) as stream, zipfile.ZipFile(stream) as archive:
            members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
            missing = [[key for key in form if key not in members] for form in forms]
            if all(missing):
                raise Misfit(f"lacks {', '.join(missing[0])}")
            rules = forms[missing.index([])]
            arrays = {key: _read_array(_inflate(archive, members[key], rule.largest)) for key, rule in rules.items()}
        check_arrays(arrays, rules)
        return arrays
    except FileNotFoundError as error:
        raise PivotNetError(f"{path} does not exist: make it first, or check the path") from error
    except OSError as error:
        raise PivotNetError(f"cannot read {path}: {error.strerror or error}; check the path and its rights") from error
    except Misfit as error:
        raise PivotNetError(f"{path} is of another kind or damaged ({error}): delete it and make it again") from error
    except _DAMAGE as error:
        reason = " ".join(str(error)[:200].split()) or type(error).__name__
        raise PivotNetError(f"{path} is damaged or no .npz file ({reason}): delete it and make it again") from error


def is_whole(path: Path) -> bool:
    """Whether there is a file that nothing has cut short: an .npz file ends with its table of contents."""
    return path.is_file() and zipfile.is_zipfile(path)


def write_npz(stream: IO[bytes], arrays: Mapping[str, np.ndarray]) -> None:
    """Write arrays of numbers or text as an .npz file to an open file; equal content gives equal bytes. Raises
    ValueError: an array holds objects, which would have to be pickled."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for key, array in arrays.items():
            member = io.BytesIO()
            npy.write_array(member, np.asarray(array, order="C"), allow_pickle=False)
            # Only masks are worth the time: coordinates lose 6 percent at most.
            method = zipfile.ZIP_DEFLATED if array.dtype == np.uint8 else zipfile.ZIP_STORED
            archive.writestr(zipfile.ZipInfo(f"{key}.npy"), member.getvalue(), method, _LEVEL)  # dated 1980
    stream.write(content.getbuffer())

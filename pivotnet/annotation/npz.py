"""Reads and writes .npz files without pickle; reads upstream's old ones, which hold pickled objects, without trusting
them."""

from __future__ import annotations

import functools
import io
import math
import pickle
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterable, Mapping
from typing import IO, Any

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

_EPOCH = 1 << 5 | 1  # the first day of 1980, always: the same content gives the same bytes
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_ENCRYPTED = 1  # bit of a member's flags
_UTF8_NAME = 1 << 11  # bit of a member's flags
_LOCAL_HEADER = 30  # bytes before a member's name
_LARGEST_FILE = 2**32 - 2**20  # bytes; leaves room for the directory
_VERSION = 20  # of the format: 2.0, with deflate
_MADE_BY = struct.pack("<BB", _VERSION, 3)  # 3: file rights are Unix's
_READ_WRITE = 0o600 << 16  # rights of a member
_COMMON = struct.Struct("<HHHHHLLLHH")  # of a local header and a directory entry: version to length of the extra field
_ENTRY_TAIL = struct.Struct("<HHHLL")  # of a directory entry: comment's length, disk, attributes twice, offset
_END = struct.Struct("<4sHHHHLLH")
_MOST_INFLATED = 1032  # bytes that deflate makes of one, at the most
# The masks are mostly zeros. Up to level 3, zlib writes such a run as copies from many bytes back, which inflate ten
# times as fast as the copies from the byte before that higher levels write; a file grows by a few kilobytes.
_LEVEL = 3
_HASH_MEMORY = 5  # zlib's memLevel: its hash table is moved every 32 KiB, which takes longer than matching zeros
_WORTH_DEFLATING = 1024  # bytes; a compressor takes longer to set up than to deflate this

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


@functools.lru_cache(maxsize=1024)
def _header(shape: tuple[int, ...], fortran_order: bool, kind: np.dtype) -> bytes:
    """The first bytes of a .npy file; all samples' masks and cameras have the same."""
    stream = io.BytesIO()
    npy.write_array_header_1_0(
        stream, {"descr": npy.dtype_to_descr(kind), "fortran_order": fortran_order, "shape": shape}
    )
    return stream.getvalue()


@functools.lru_cache(maxsize=1024)
def _read_header(header: bytes) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape, Fortran order and type that a .npy file's first bytes tell. Parsing them takes longer than reading a small
    array, and all files of a data set have the same ones."""
    stream = io.BytesIO(header)
    version = npy.read_magic(stream)
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    return read(stream)


def _header_size(member: bytes) -> int:
    """Bytes of a .npy file before its data: magic string, version, length of the rest, the rest."""
    size = "<H" if member[6:7] == b"\x01" else "<I"
    return 8 + struct.calcsize(size) + struct.unpack_from(size, member, 8)[0]


def _read_array(member: bytes) -> np.ndarray:
    """One .npy file held in memory."""
    start = _header_size(member)
    shape, fortran_order, dtype = _read_header(member[:start])
    if dtype.hasobject:
        array = _ArrayUnpickler(io.BytesIO(member[start:])).load()
        if not isinstance(array, np.ndarray) or array.shape != shape:
            raise ValueError("a pickled array does not have the shape of its header")
        return array
    count = math.prod(shape)
    if min(shape, default=0) < 0 or len(member) - start < count * dtype.itemsize:
        raise ValueError(f"an array of shape {shape} has {len(member) - start} bytes")
    if not count * dtype.itemsize:
        return np.zeros(shape, dtype)
    return np.frombuffer(member, dtype, count, start).reshape(shape, order="F" if fortran_order else "C")


def _read_member(content: bytes, info: zipfile.ZipInfo) -> bytes:
    """Bytes of one member of an archive, checked against its checksum.

    What zipfile does in pieces of unknown number, at once: its copies cost more than inflating a mask.
    """
    start = info.header_offset
    magic, flags, name_length, extra_length = struct.unpack_from("<4s2xH18xHH", content, start)
    if magic != b"PK\x03\x04" or flags & _ENCRYPTED or info.compress_type not in _METHODS:
        raise zipfile.BadZipFile(
            f"{info.filename} is encrypted, compressed in an uncommon way, or not where it should be"
        )
    start += _LOCAL_HEADER + name_length + extra_length
    member = content[start : start + info.compress_size]
    if info.compress_type == zipfile.ZIP_DEFLATED:
        member = zlib.decompress(member, -zlib.MAX_WBITS, min(info.file_size, _MOST_INFLATED * len(member)) + 1)
    if len(member) != info.file_size or zlib.crc32(member) != info.CRC:
        raise zipfile.BadZipFile(f"the checksum of {info.filename} is wrong")
    return member


def read_npz(path: PathLike, keys: Iterable[str] | Callable[[str], bool] | None = None) -> dict[str, Any]:
    """The arrays of an .npz file by name.

    Object arrays (upstream's converter pickles dicts and lists) come back as object arrays of plain containers, numbers
    and numeric arrays: use ``.item()`` where upstream does. A pickle that names anything else is refused. Other arrays
    are read-only: they lie where they were decompressed.

    Args:
        path: the file.
        keys: names to read, or a function that says of a name that is there whether to read it; the rest is not
            decompressed. All of them if None.

    Raises:
        PivotNetError: the file is missing, truncated, no .npz, lacks one of ``keys``, or holds foreign objects.
    """
    try:
        with open(path, "rb") as stream:
            content = stream.read()
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            infos = archive.infolist()
        members = {info.filename[:-4] if info.filename.endswith(".npy") else info.filename: info for info in infos}
        if keys is None or callable(keys):
            wanted = [key for key in members if keys is None or keys(key)]
        else:
            wanted = list(keys)
        missing = [key for key in wanted if key not in members]
        if missing:
            raise PivotNetError(f"{path} lacks {', '.join(missing)}: it is of another kind; make the file again")
        return {key: _read_array(_read_member(content, members[key])) for key in wanted}
    except FileNotFoundError as error:
        raise PivotNetError(f"{path} does not exist: make it first, or check the path") from error
    except OSError as error:
        raise PivotNetError(f"cannot read {path}: {error.strerror or error}; check the path and its rights") from error
    except _BROKEN as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise PivotNetError(f"{path} is damaged or no .npz file ({reason}): delete it and make it again") from error


def _deflate(header: bytes, data: bytes | memoryview) -> bytes:
    """A member in a raw deflate stream."""
    compressor = zlib.compressobj(_LEVEL, zlib.DEFLATED, -zlib.MAX_WBITS, _HASH_MEMORY)
    return compressor.compress(header) + compressor.compress(data) + compressor.flush()


def _worth_deflating(array: np.ndarray) -> bool:
    """Whether an array shrinks by more than a compressor's setting up is worth; coordinates lose 6 percent at most."""
    return array.nbytes >= _WORTH_DEFLATING and array.dtype.kind != "f"


def _data(array: np.ndarray, fortran_order: bool) -> bytes | memoryview:
    """The bytes of an array, where they lie if they can be read there."""
    if array.nbytes and array.flags.c_contiguous:
        return array.reshape(-1).view(np.uint8).data
    return array.tobytes("F" if fortran_order else "C")


def write_npz(stream: IO[bytes], arrays: Mapping[str, np.ndarray]) -> None:
    """Write arrays (of numbers or strings) as an .npz file to an open file; equal content gives equal bytes.

    The file is put together in memory, header by header as zipfile does (PKWARE's APPNOTE.TXT, 4.3.7, 4.3.12 and
    4.3.16), whose own bookkeeping would take as long as compressing the masks.

    Raises:
        ValueError: an array holds objects, or the file would have 4 GiB or more.
    """
    pieces, directory = [], []
    start = 0
    for key, array in arrays.items():
        if array.dtype.hasobject:
            raise ValueError(f"{key} is an array of objects, which would have to be pickled")
        fortran_order = array.flags.f_contiguous and not array.flags.c_contiguous
        header, data = _header(array.shape, fortran_order, array.dtype), _data(array, fortran_order)
        name = f"{key}.npy".encode()
        size = len(header) + len(data)
        method = zipfile.ZIP_DEFLATED if _worth_deflating(array) else zipfile.ZIP_STORED
        packed = _deflate(header, data) if method == zipfile.ZIP_DEFLATED else header + bytes(data)
        if max(size, start + len(packed)) > _LARGEST_FILE:
            raise ValueError(f"{key} makes the file larger than an .npz file without ZIP64 may be")
        flags = 0 if name.isascii() else _UTF8_NAME
        sizes = (zlib.crc32(data, zlib.crc32(header)), len(packed), size, len(name), 0)  # no extra field
        common = _COMMON.pack(_VERSION, flags, method, 0, _EPOCH, *sizes)
        pieces += [b"PK\x03\x04", common, name, packed]
        directory += [b"PK\x01\x02", _MADE_BY, common, _ENTRY_TAIL.pack(0, 0, 0, _READ_WRITE, start), name]
        start += _LOCAL_HEADER + len(name) + len(packed)
    entries = b"".join(directory)
    end = _END.pack(b"PK\x05\x06", 0, 0, len(arrays), len(arrays), len(entries), start, 0)
    stream.write(b"".join([*pieces, entries, end]))

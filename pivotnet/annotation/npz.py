"""Reads and writes .npz files without pickle; reads upstream's old ones, which hold pickled objects, without trusting
them. A pickle is a program that may call anything. Here its opcodes are read one by one, what it names and calls
becomes an inert record, and arrays are made of their bytes once their type has been checked."""

import io
import math
import pickletools
import re
import struct
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy

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
_MOST_OPCODES = 1_000_000  # a sample has some thousands
_DEEPEST = 8  # containers in containers; upstream's go to 3
_VALUES = re.compile("BININT[12]?|LONG1|BINFLOAT|(SHORT_)?BIN(UNICODE|BYTES)")
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_TO_MARK = ("TUPLE", "APPENDS", "SETITEMS")  # these take what lies above the last mark
_TAKEN = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3, "APPEND": 1, "SETITEM": 2, "STACK_GLOBAL": 2, "REDUCE": 2, "BUILD": 2}
_NAMES = re.compile(r"numpy\.(ndarray|dtype)|numpy\._?core\.multiarray\.(_reconstruct|scalar)")  # numpy 2 has _core
_PLAIN_TYPE = re.compile(r"[biuf][1248]")


@dataclass(eq=False)
class _Record:
    """What a pickle names, or makes by a call."""

    name: str
    arguments: Any = None
    value: Any = None  # what it became when its state was set


def _array(shape: Any, dtype: Any, data: Any, fortran_order: Any = False) -> np.ndarray:
    """A read-only array of numbers on ``data``."""
    if not isinstance(dtype, np.dtype) or dtype.hasobject or not isinstance(data, bytes):
        raise ValueError("an array is not made of a type and bytes")
    return np.ndarray(shape, dtype, data, order="F" if fortran_order else "C")


def _built(record: Any, state: Any) -> Any:
    """A dtype, or an array; an array of objects stays a record of its shape and items."""
    if record.name == "dtype":
        name, order = record.arguments[0], state[1]
        if name == "O8":
            return np.dtype(object)
        if not _PLAIN_TYPE.fullmatch(name) or order not in ("<", ">", "|", "=") or state[2:5] != (None, None, None):
            raise ValueError(f"it has an array of type {name}, which is no plain number")
        return np.dtype(order + name)
    _, shape, dtype, fortran_order, data = state
    if isinstance(dtype, np.dtype) and dtype.hasobject:
        return _Record("objects", (shape, data))
    return _array(shape, dtype, data, fortran_order)


def _children(value: Any) -> Iterable[Any]:
    if isinstance(value, (_Record, np.dtype)):
        raise ValueError(f"it holds {getattr(value, 'name', value)}, which is no value")
    if isinstance(value, dict):
        return [*value.keys(), *value.values()]
    return value if isinstance(value, (list, tuple)) else ()


def _interpret(content: bytes) -> Any:
    """What a pickle leaves: containers, values, arrays and records."""
    stack: list[Any] = []
    marks: list[int] = []
    memo: dict[int, Any] = {}
    argument: Any
    for number, (opcode, argument, _) in enumerate(pickletools.genops(content)):
        if number >= _MOST_OPCODES:
            raise ValueError(f"it has more than {_MOST_OPCODES} opcodes")
        code = opcode.name
        start = marks.pop() if code in _TO_MARK else len(stack) - _TAKEN.get(code, 0)
        if start < 0:
            raise ValueError("it takes more than it has")
        taken = stack[start:]
        del stack[start:]
        if _VALUES.fullmatch(code):
            stack.append(argument)
        elif code in _CONSTANTS:
            stack.append(_CONSTANTS[code])
        elif code in ("EMPTY_LIST", "EMPTY_DICT"):
            stack.append([] if code == "EMPTY_LIST" else {})
        elif code == "MARK":
            marks.append(len(stack))
        elif code.startswith("TUPLE"):
            stack.append(tuple(taken))
        elif code.startswith("APPEND"):
            stack[-1].extend(taken)
        elif code.startswith("SETITEM"):
            stack[-1].update(zip(taken[::2], taken[1::2]))
        elif code in ("BINPUT", "LONG_BINPUT", "MEMOIZE"):
            memo[len(memo) if argument is None else argument] = stack[-1]
        elif code in ("BINGET", "LONG_BINGET"):
            value = memo[argument]
            if isinstance(value, (list, tuple, dict)):  # shared containers may hold themselves, or double at each level
                raise ValueError("it uses a container twice")
            stack.append(value.value if isinstance(value, _Record) and value.value is not None else value)
        elif code in ("GLOBAL", "STACK_GLOBAL"):
            name = ".".join(taken or argument.split(" ", 1))
            if not _NAMES.fullmatch(name):
                raise ValueError(f"it names {name}, which is no array")
            stack.append(_Record(name.rpartition(".")[2]))
        elif code == "REDUCE":
            function, arguments = taken
            is_scalar = function.name == "scalar"
            stack.append(_array((), *arguments)[()] if is_scalar else _Record(function.name, arguments))
        elif code == "BUILD":
            record, state = taken
            record.value = _built(record, state)
            stack.append(record.value)
        elif code not in ("PROTO", "FRAME", "STOP"):
            raise ValueError(f"it has an opcode {code}, which no array needs")
    return stack.pop()


def _read_objects(content: bytes, shape: tuple[int, ...]) -> np.ndarray:
    """The object array of that shape that numpy has pickled into ``content``. Raises one of _DAMAGE: it is damaged, too
    large, or holds anything but containers of numbers, strings and numeric arrays."""
    result = _interpret(content)
    if not isinstance(result, _Record) or result.name != "objects" or result.arguments[0] != shape:
        raise ValueError(f"it is no array of objects of shape {shape}")
    items = result.arguments[1]
    if not isinstance(items, list) or len(items) != math.prod(shape):
        raise ValueError(f"an array of objects of shape {shape} has other items than that")
    level: Iterable[Any] = items
    for _ in range(_DEEPEST):
        level = [child for value in level for child in _children(value)]
    if level:
        raise ValueError(f"its containers are nested more than {_DEEPEST} deep")
    return np.fromiter(items, object, len(items)).reshape(shape)


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
        return _read_objects(member[start:], shape)
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
    none of the forms, or holds foreign objects. The first of ``forms`` (rules of arrays by name) is taken whose arrays
    are all there; others are not decompressed. Object arrays (upstream's converter pickles dicts and lists) come back
    as object arrays of plain containers, numbers and numeric arrays: use ``.item()`` where upstream does. A pickle that
    names anything else is refused."""
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

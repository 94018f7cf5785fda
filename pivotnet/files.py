"""Files and folders: a file appears whole or not at all, and an error is one line."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Union

from pivotnet.errors import PivotNetError
from pivotnet.schema import Misfit, Rule, an_object, check, file_token, items

PathLike = Union[str, "os.PathLike[str]"]
LARGEST = 64 * 2**20  # bytes of a file that is read as a whole, where its reader knows no other limit
_locks: set[int] = set()  # file descriptors


def _drop_locks() -> None:
    for descriptor in _locks:
        os.close(descriptor)
    _locks.clear()


os.register_at_fork(after_in_child=_drop_locks)  # a loader worker may outlive its rank, whose run is then resumed


@contextlib.contextmanager
def atomic_write(path: PathLike, mode: str = "wb", durable: bool = True) -> Iterator[IO[Any]]:
    """Open a temporary neighbour of ``path`` for writing; rename it to ``path`` when the block ends without an error.
    On any error (a full disk, an interrupt) the temporary file is removed and an older ``path`` stays as it was.
    ``durable`` waits until the content is on the disk, so that this holds for a power failure too; many small files
    that can be made again do without. Raises PivotNetError: the folder is missing, not writable, or its disk is
    full."""
    target = Path(path)
    temporary = os.path.join(target.parent, f".{target.name}.{secrets.token_hex(8)}.tmp")
    try:
        with open(temporary, mode.replace("w", "x"), encoding=None if "b" in mode else "utf-8") as stream:
            yield stream
            if durable:
                stream.flush()
                os.fsync(stream.fileno())
        os.replace(temporary, target)
    except OSError as error:
        raise PivotNetError(
            f"cannot write {target}: {error.strerror or error}; free some space or choose another folder"
        ) from error
    finally:
        with contextlib.suppress(OSError):  # it has been renamed, or could not be made
            os.unlink(temporary)


def make_folder(path: PathLike, option: str | None = None) -> Path:
    """Make a folder, and those above it, if it is not there; PivotNetError where that fails. ``option`` is the command
    line option by which the user chose it, for the message; None if it could not be chosen."""
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        remedy = f"choose another {option}" if option else "make its parent writable or link it to another disk"
        raise PivotNetError(f"cannot make {path}: {error.strerror or error}; {remedy}") from error
    return Path(path)


def open_file(path: PathLike) -> IO[bytes]:
    """Open a file for reading; OSError for other than regular ones, which might have no end or let the program wait."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    kind = os.fstat(descriptor).st_mode
    if stat.S_ISREG(kind):
        return os.fdopen(descriptor, "rb")
    os.close(descriptor)
    raise OSError(errno.EINVAL, "it is a folder" if stat.S_ISDIR(kind) else "it is no regular file", str(path))


def read_file(path: PathLike, largest: int = LARGEST) -> bytes:
    """A regular file's content; OSError where it cannot be read, or has more than ``largest`` bytes."""
    with open_file(path) as stream:
        size = os.fstat(stream.fileno()).st_size
        if size > largest:
            raise OSError(errno.EFBIG, f"it has {size} bytes, more than {largest}", str(path))
        return stream.read()


def read_or_fail(path: PathLike, remedy: str, largest: int = LARGEST) -> bytes:
    """As ``read_file``, but PivotNetError, which ends with ``remedy``."""
    try:
        return read_file(path, largest)
    except OSError as error:
        raise PivotNetError(f"cannot read {path}: {error.strerror or error}; {remedy}") from error


def lock_output(folder: PathLike) -> contextlib.AbstractContextManager[None]:
    """``locked`` for the output folder of a run; PivotNetError where another run has locked it."""
    return locked(folder, busy=f"another run is writing into {folder}: wait for it, or choose another --output")


@contextlib.contextmanager
def locked(folder: PathLike, busy: str | None = None) -> Iterator[None]:
    """Lock a folder, where the file system supports locks. Wait for other processes, or raise ``busy``."""
    descriptor = os.open(folder, os.O_RDONLY)
    _locks.add(descriptor)
    try:
        with contextlib.suppress(OSError):
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if busy:
                    raise PivotNetError(busy) from None
                print(f"[pivotnet] waiting for another run that works in {folder}", flush=True)
                fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        _locks.discard(descriptor)
        os.close(descriptor)


def read_json(
    path: PathLike, remedy: str, rule: Rule = an_object, object_hook: Any = None, largest: int = LARGEST
) -> Any:
    """A JSON file's content, of up to ``largest`` bytes, which fits the ``rule`` (see schema). ``object_hook`` replaces
    each object while it is parsed, as for json.loads. Raises PivotNetError, which ends with ``remedy``: the file is
    missing, unreadable, truncated, no JSON or against the rule."""
    try:
        content = json.loads(read_or_fail(path, remedy, largest), object_hook=object_hook)
    except Misfit as error:  # of the hook
        raise PivotNetError(f"{path}: {error}; {remedy}") from error
    except (ValueError, RecursionError) as error:
        raise PivotNetError(f"{path} is truncated or no JSON ({error}); {remedy}") from error
    check(rule, content, path, remedy)
    return content


def read_tokens(path: PathLike) -> list[str]:
    """Sample tokens of a list, one a line; they may end in ``.npz``, as upstream's do. FileNotFoundError where it is
    missing, PivotNetError where it cannot be read or lists something else."""
    remedy = "give a list of sample tokens, one per line"
    try:
        tokens = [line.removesuffix(".npz") for line in read_file(path).decode().split()]
    except FileNotFoundError:
        raise
    except (OSError, UnicodeDecodeError) as error:
        raise PivotNetError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}; {remedy}") from error
    check(items(file_token), tokens, path, remedy)
    return tokens


def write_json(path: PathLike, content: Any, indent: int | None = 1) -> None:
    with atomic_write(path, "w") as stream:
        json.dump(content, stream, indent=indent)
        stream.write("\n")

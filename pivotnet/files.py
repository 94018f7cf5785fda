"""Files and folders: a file appears whole or not at all, and an error is one line."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, Union

from pivotnet.errors import PivotNetError

PathLike = Union[str, "os.PathLike[str]"]


@contextlib.contextmanager
def atomic_write(path: PathLike, mode: str = "wb", durable: bool = True) -> Iterator[IO[Any]]:
    """Open a temporary neighbour of ``path`` for writing; rename it to ``path`` when the block ends without an error.

    On any error (a full disk, an interrupt) the temporary file is removed and an older ``path`` stays as it was.
    ``durable`` waits until the content is on the disk, so that this holds for a power failure too; many small files
    that can be made again do without.

    Raises:
        PivotNetError: the folder is missing, not writable, or its disk is full.
    """
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
    """Make a folder, and those above it, if it is not there.

    ``option`` is the command line option by which the user chose it, for the message; None if it could not be chosen.

    Raises:
        PivotNetError: it cannot be made.
    """
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        remedy = f"choose another {option}" if option else "make its parent writable or link it to another disk"
        raise PivotNetError(f"cannot make {folder}: {error.strerror or error}; {remedy}") from error
    return folder


def read_json(path: PathLike, remedy: str, kind: type = dict, object_hook: Callable[[dict], Any] | None = None) -> Any:
    """A JSON file's content.

    Args:
        remedy: what the user can do about a missing or damaged file: the end of the message.
        kind: what the content must be, dict or list.
        object_hook: replaces each object while it is parsed, as for json.loads.

    Raises:
        PivotNetError: the file is missing, unreadable, truncated, no JSON or of another kind.
    """
    try:
        content = json.loads(Path(path).read_bytes(), object_hook=object_hook)
    except OSError as error:
        raise PivotNetError(f"cannot read {path}: {error.strerror or error}; {remedy}") from error
    except (ValueError, RecursionError) as error:
        raise PivotNetError(f"{path} is truncated or no JSON ({error}); {remedy}") from error
    if not isinstance(content, kind):
        raise PivotNetError(f"{path} holds no JSON {'object' if kind is dict else 'list'}; {remedy}")
    return content


def write_json(path: PathLike, content: Any, indent: int | None = 1) -> None:
    """Write ``content`` as JSON, by ``atomic_write``."""
    with atomic_write(path, "w") as stream:
        json.dump(content, stream, indent=indent)
        stream.write("\n")

"""Atomic writes: a file appears whole or not at all."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
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
        with open(temporary, mode.replace("w", "x")) as stream:
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

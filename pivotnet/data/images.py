"""JPEG -> uint8 pixels of the network's input size, equal to upstream's, which PIL decodes and cv2 resizes bilinearly.
cv2 decodes colour JPEGs to the same pixels as PIL (both by libjpeg-turbo, with its defaults) in less than half of the
time, part of which PIL spends on copies. PIL's draft mode would be faster still, but gives other pixels."""

from __future__ import annotations

import io
import warnings

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

from pivotnet.config import CAMERA_IMAGE_SIZE
from pivotnet.errors import PivotNetError
from pivotnet.files import PathLike, read_file

_LARGEST = 32 * 2**20  # bytes of a file; a camera's have 200 kB
_MOST_SCANS = 100  # of a progressive JPEG, each of which takes time; encoders write ten
warnings.filterwarnings("error", category=Image.DecompressionBombWarning)
_AS_STORED = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION  # PIL does not turn images either


def read_image(path: PathLike) -> np.ndarray:
    """As ``read_bgr``, but RGB."""
    return cv2.cvtColor(read_bgr(path), cv2.COLOR_BGR2RGB)


def read_bgr(path: PathLike) -> np.ndarray:
    """Decode a camera's JPEG file to uint8 [900, 1600, 3] BGR. Raises PivotNetError: the file is missing, truncated, no
    JPEG or of another size."""
    try:
        content = read_file(path, _LARGEST)
        with Image.open(io.BytesIO(content), formats=["JPEG"]) as image:  # reads the header only
            height, width = CAMERA_IMAGE_SIZE
            if image.size != (width, height):
                raise ValueError(f"it has {image.size[0]} x {image.size[1]} pixels, not {width} x {height}")
            if content.count(b"\xff\xda") > _MOST_SCANS:
                raise ValueError(f"it has more than {_MOST_SCANS} scans")
            if image.mode == "RGB":
                decoded = cv2.imdecode(np.frombuffer(content, np.uint8), _AS_STORED)
                if decoded is not None and decoded.shape == (height, width, 3):
                    return decoded
            # Grey ones; and broken ones, for which PIL says what is wrong.
            return cv2.cvtColor(np.array(image.convert("RGB")), cv2.COLOR_RGB2BGR)
    except FileNotFoundError as error:
        raise PivotNetError(f"camera image {path} is missing: complete the data set, or annotate it again") from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        reason = getattr(error, "strerror", None) or error
        if isinstance(error, UnidentifiedImageError):  # PIL's message would have the address of the bytes in memory
            reason = "it is no JPEG"
        raise PivotNetError(f"camera image {path} cannot be decoded ({reason}): copy it anew") from error


def resize(image: np.ndarray, size: tuple[int, int], out: np.ndarray | None = None) -> np.ndarray:
    """uint8 [h, w, 3] -> uint8 [height, width, 3] for size = (height, width), bilinear; into ``out`` if given."""
    return cv2.resize(image, size[::-1], dst=out, interpolation=cv2.INTER_LINEAR)

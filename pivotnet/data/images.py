"""JPEG -> uint8 pixels of the network's input size, equal to upstream's: PIL decodes, cv2 resizes bilinearly.

PIL's draft mode would decode a quarter of the pixels in less time, but other ones; it is not used.
"""

from __future__ import annotations

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

from pivotnet.errors import PivotNetError
from pivotnet.files import PathLike


def read_image(path: PathLike) -> np.ndarray:
    """Decode an image file to uint8 [height, width, 3] RGB.

    Raises:
        PivotNetError: the file is missing, truncated or no image.
    """
    try:
        with Image.open(path) as image:
            return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))
    except FileNotFoundError as error:
        raise PivotNetError(f"camera image {path} is missing: complete the data set, or annotate it again") from error
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise PivotNetError(f"camera image {path} cannot be decoded ({error}): copy it anew") from error


def resize(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """uint8 [h, w, 3] -> uint8 [height, width, 3] for size = (height, width), bilinear."""
    height, width = size
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)

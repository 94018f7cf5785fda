"""Compares two annotation folders, whoever made them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from pivotnet.annotation.format import Annotation, load_annotation, to_arrays
from pivotnet.errors import PivotNetError
from pivotnet.files import PathLike


@dataclass
class Difference:
    """How one sample differs in two folders."""

    token: str
    structure: list[str] = field(default_factory=list)  # what differs in number, order, class or shape
    largest: float = 0.0  # largest difference of a coordinate or camera number, NaN if one is none
    pixels: dict[str, int] = field(default_factory=dict)  # differing pixels by mask, where there are any


@dataclass
class Report:
    """How two folders differ."""

    alone: list[str]  # a line for each sample that only one of them has
    differences: list[Difference]  # of every sample in both, in the order of tokens

    @property
    def samples(self) -> int:
        """How many are in both."""
        return len(self.differences)

    def failures(self, points: float = 1e-9, pixels: int = 16) -> list[str]:
        """One line for everything that is beyond the tolerances: of coordinates, and of pixels of a mask."""
        lines = list(self.alone)
        for difference in self.differences:
            lines += [f"{difference.token}: {what}" for what in difference.structure]
            if not difference.largest <= points:  # also catches NaN
                lines.append(f"{difference.token}: numbers differ by {difference.largest:.3g}, more than {points:g}")
            if max(difference.pixels.values(), default=0) > pixels:
                lines.append(f"{difference.token}: pixels differ {difference.pixels}, more than {pixels}")
        return lines


def compare_samples(token: str, first: Annotation, second: Annotation) -> Difference:
    """How two annotations of a sample differ."""
    result = Difference(token)
    ours, theirs = to_arrays(first), to_arrays(second)
    for key, a in ours.items():
        b = theirs[key]
        if a.shape != b.shape or a.dtype.kind != b.dtype.kind:
            result.structure.append(f"{key} is {a.dtype}{list(a.shape)} and {b.dtype}{list(b.shape)}")
        elif a.dtype.kind == "f":
            result.largest = float(np.maximum(result.largest, np.abs(a - b).max(initial=0.0)))  # keeps NaN
        elif (a != b).any() and key.endswith(("_mask", "_mask8")):
            result.pixels[key] = int((a != b).sum())
        elif (a != b).any():
            result.structure.append(f"{key} differs in {(a != b).sum()} of {a.size} elements")
    return result


def compare_annotations(first: PathLike, second: PathLike) -> Report:
    """Compare the sample files of two folders; each may be ours or upstream's.

    Raises:
        PivotNetError: a folder has no sample files, or one of them is damaged.
    """
    ours, theirs = ({path.stem: path for path in Path(folder).glob("*.npz")} for folder in (first, second))
    for folder, files in ((first, ours), (second, theirs)):
        if not files:
            raise PivotNetError(f"{folder} holds no annotated samples: give a folder of <token>.npz files")
    alone = [f"{token}: only in the first folder" for token in sorted(ours.keys() - theirs)]
    alone += [f"{token}: only in the second folder" for token in sorted(theirs.keys() - ours)]
    differences = [
        compare_samples(token, load_annotation(ours[token]), load_annotation(theirs[token]))
        for token in sorted(ours.keys() & theirs)
    ]
    return Report(alone, differences)

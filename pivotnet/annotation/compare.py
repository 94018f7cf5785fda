"""Compares two annotation folders, whoever made them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from pivotnet.annotation.format import LINE_KEYS, Annotation, Line, load_annotation, pivot_lines_of
from pivotnet.errors import PivotNetError
from pivotnet.files import PathLike

_MASKS = ("semantic_mask", "instance_mask", "instance_mask8")
_CAMERAS = ("trans", "rots", "intrins")


@dataclass
class Difference:
    """How one sample differs in two folders."""

    token: str
    structure: list[str] = field(default_factory=list)  # what differs in number, order, class or shape
    largest: float = 0.0  # largest difference of a coordinate or camera number
    pixels: dict[str, int] = field(default_factory=dict)  # differing pixels by mask, where there are any


@dataclass
class Report:
    """How two folders differ."""

    samples: int  # in both
    only_first: list[str]
    only_second: list[str]
    differences: list[Difference]  # of every sample in both, in the order of tokens

    def failures(self, points: float = 1e-9, pixels: int = 16) -> list[str]:
        """One line for everything that is beyond the tolerances: of coordinates, and of pixels of a mask."""
        lines = [f"{token}: only in the first folder" for token in self.only_first]
        lines += [f"{token}: only in the second folder" for token in self.only_second]
        for difference in self.differences:
            lines += [f"{difference.token}: {what}" for what in difference.structure]
            if not difference.largest <= points:  # also catches NaN
                lines.append(f"{difference.token}: numbers differ by {difference.largest:.3g}, more than {points:g}")
            if max(difference.pixels.values(), default=0) > pixels:
                lines.append(f"{difference.token}: pixels differ {difference.pixels}, more than {pixels}")
        return lines

    def summary(self) -> str:
        """One line."""
        exact = sum(not (d.structure or d.largest or d.pixels) for d in self.differences)
        same_pixels = sum(not d.pixels for d in self.differences)
        largest = max((d.largest for d in self.differences), default=0.0)
        most = max((count for d in self.differences for count in d.pixels.values()), default=0)
        return (
            f"{self.samples} samples in both, {exact} equal in every bit, {same_pixels} in every pixel; "
            f"largest difference of a number {largest:.3g}, most differing pixels of a mask {most}"
        )


def _lines(annotation: Annotation, key: str) -> Sequence[Line]:
    return pivot_lines_of(annotation) if key == "pivot_pts" else getattr(annotation, key)


def _describe(line: Line) -> str:
    return f"class {line.kind} with {len(line.points)} points"


def compare_samples(token: str, first: Annotation, second: Annotation) -> Difference:
    """How two annotations of a sample differ."""
    result = Difference(token)
    if first.image_paths != second.image_paths:
        result.structure.append("image_paths differ")
    pairs = [(getattr(first, key), getattr(second, key)) for key in _CAMERAS]
    for key in LINE_KEYS:
        ours, theirs = _lines(first, key), _lines(second, key)
        if len(ours) != len(theirs):
            result.structure.append(f"{key} has {len(ours)} and {len(theirs)} lines")
        for number, (a, b) in enumerate(zip(ours, theirs)):
            if a.kind != b.kind or a.points.shape != b.points.shape:
                result.structure.append(f"{key}[{number}] is of {_describe(a)} and of {_describe(b)}")
                break
            pairs.append((a.points, b.points))
    for a, b in pairs:
        if a.shape != b.shape:
            result.structure.append(f"camera arrays have shapes {a.shape} and {b.shape}")
        elif a.size:
            result.largest = max(result.largest, float(np.abs(a - b).max()), key=lambda value: (value != value, value))
    for key in _MASKS:
        a, b = getattr(first, key), getattr(second, key)
        if a.shape != b.shape or a.dtype != b.dtype:
            result.structure.append(f"{key} is {a.dtype}{a.shape} and {b.dtype}{b.shape}")
        elif (a != b).any():
            result.pixels[key] = int((a != b).sum())
    return result


def compare_annotations(first: PathLike, second: PathLike) -> Report:
    """Compare the sample files of two folders; each may be ours or upstream's.

    Raises:
        PivotNetError: a folder has no sample files, or one of them is damaged.
    """
    names = []
    for folder in (Path(first), Path(second)):
        names.append({path.stem for path in folder.glob("*.npz")})
        if not names[-1]:
            raise PivotNetError(f"{folder} holds no annotated samples: give a folder of <token>.npz files")
    both = sorted(names[0] & names[1])
    differences = [
        compare_samples(
            token, load_annotation(Path(first) / f"{token}.npz"), load_annotation(Path(second) / f"{token}.npz")
        )
        for token in both
    ]
    return Report(len(both), sorted(names[0] - names[1]), sorted(names[1] - names[0]), differences)
